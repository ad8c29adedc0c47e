//! Storing one chunk: all parts go out at once, each is validated by its device or placed anew.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use fathom_protocol::ids::{DeviceId, Hash};
use fathom_protocol::limits::{CHUNK_BYTES_MAX, DEVICES_MAX, PARTS_MAX};

use super::place::{Slot, part_bytes, split};
use super::worker::{Lane, Promise, Ticket};
use super::{DeviceSet, SplitPolicy, StoreError, StoredPart};
use crate::device::{Device, DeviceError, PartValidation};
use crate::meter::now;
use crate::part::{ChunkTag, PartHeader, SALT_BYTES};

/// Times that a device which answers with an error gets a part.
const TRIES_PER_DEVICE: u32 = 2;
/// Answers that may wait for the storing thread: every attempt of every part.
const ANSWERS_MAX: usize = PARTS_MAX * DEVICES_MAX * TRIES_PER_DEVICE as usize;

/// How long an answer may take from being given to lying in the channel.
const GRACE: Duration = Duration::from_millis(100);

struct Answer {
    index: usize,
    result: Result<PartValidation, DeviceError>,
}

/// A part on its way.
struct Flight {
    range: Range<u32>,
    slot: Arc<Slot>,
    ticket: Ticket,
    deadline: Instant,
    tries: u32,
    /// Devices that this part does not go to again, and why.
    refused: Vec<(DeviceId, String)>,
    /// Every refusal so far was for want of room.
    only_space: bool,
    stored: Option<StoredPart>,
    /// The latest attempt is over, one way or the other.
    over: bool,
}

/// One call of [`DeviceSet::store_chunk`].
struct Storing<'a> {
    set: &'a DeviceSet,
    tag: &'a ChunkTag,
    bytes: &'a [u8],
    sender: SyncSender<Answer>,
    receiver: Receiver<Answer>,
    until: Instant,
    flights: Vec<Flight>,
}

impl DeviceSet {
    /// Splits a chunk over the devices and returns where its parts are, in order, once every device has validated its own.
    ///
    /// A device that answers with an error gets the part once more; one that has no room or stays silent for the
    /// validation deadline is passed over for another, and only if there is no other does a silent one get it once more.
    ///
    /// # Errors
    /// `Length`; `NoSpace` if a part fits nowhere; `Unavailable` if devices with room did not validate it. After an error
    /// every part of this call is removed again; on a device that hangs, once it answers, or by
    /// [`crate::LocalFat::recover`].
    pub fn store_chunk(
        &self,
        tag: &ChunkTag,
        bytes: &[u8],
        policy: SplitPolicy,
    ) -> Result<Vec<StoredPart>, StoreError> {
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(StoreError::Length { length: bytes.len() as u64, reason: "a chunk has 1 byte to about 4 MiB" });
        }
        let ranges = split(bytes.len() as u32, policy)?;
        let (sender, receiver) = sync_channel(ANSWERS_MAX);
        let until = now() + self.config.store_deadline;
        let mut storing =
            Storing { set: self, tag, bytes, sender, receiver, until, flights: Vec::with_capacity(ranges.len()) };
        match storing.send_all(ranges, policy).and_then(|()| storing.collect()) {
            Ok(()) => Ok(storing.flights.iter().filter_map(|flight| flight.stored).collect()),
            Err(error) => {
                storing.undo();
                Err(error)
            }
        }
    }
}

impl Storing<'_> {
    fn send_all(&mut self, ranges: Vec<Range<u32>>, policy: SplitPolicy) -> Result<(), StoreError> {
        // All places are found before anything is written, so a chunk that cannot fit costs no I/O.
        let mut places = Vec::with_capacity(ranges.len());
        for range in ranges {
            let needed = part_bytes(&range);
            let avoid: Vec<DeviceId> = if places.len() < usize::from(policy.parts_min) {
                places.iter().map(|(slot, _, _): &(Arc<Slot>, Promise, Range<u32>)| slot.id).collect()
            } else {
                Vec::new()
            };
            let (slot, promise) =
                self.set.choose(needed, &avoid, &[]).ok_or_else(|| self.set.unplaced(needed, Vec::new(), true))?;
            places.push((slot, promise, range));
        }
        for (slot, promise, range) in places {
            self.flights.push(Flight {
                range,
                slot,
                ticket: Ticket::default(),
                deadline: now(),
                tries: 0,
                refused: Vec::new(),
                only_space: true,
                stored: None,
                over: false,
            });
            self.send(self.flights.len() - 1, promise)?;
        }
        Ok(())
    }

    /// Sends part `index` to the device chosen for it.
    fn send(&mut self, index: usize, promise: Promise) -> Result<(), StoreError> {
        let flight = &mut self.flights[index];
        flight.tries += 1;
        flight.over = false;
        flight.ticket = Ticket::default();
        flight.deadline = (now() + self.set.config.validation_deadline).min(self.until);
        let mut salt = [0; SALT_BYTES];
        if let Err(error) = getrandom::fill(&mut salt) {
            let reasons = vec![(flight.slot.id, format!("draw a random salt: {error}"))];
            return Err(StoreError::Unavailable { needed: part_bytes(&flight.range), reasons });
        }
        let header = PartHeader { tag: *self.tag, chunk_length: self.bytes.len() as u32, offset: flight.range.start };
        let framed = header.frame(salt, &self.bytes[flight.range.start as usize..flight.range.end as usize]);
        let (sender, ticket, refresh) = (self.sender.clone(), flight.ticket.clone(), flight.slot.worker.refresher());
        let work = move |device: &dyn Device| {
            let part = Hash::of(&framed);
            let result = device.put(part, &framed);
            let written = result.is_ok();
            refresh();
            drop(promise);
            if ticket.finish() {
                // The channel has room for every attempt; if the receiver is gone, nobody waits.
                let _ = sender.try_send(Answer { index, result });
            } else if written {
                if let Err(error) = device.remove(part) {
                    tracing::warn!(device = %device.id(), %part, %error, "a part that came too late stays until the next start");
                }
                refresh();
            }
        };
        let queued = flight.slot.worker.push(Lane::Write, flight.ticket.clone(), Box::new(work), flight.deadline);
        if !queued {
            flight.deadline = now();
        }
        Ok(())
    }

    /// Waits until every part is stored.
    fn collect(&mut self) -> Result<(), StoreError> {
        while let Some(deadline) =
            self.flights.iter().filter(|flight| flight.stored.is_none()).map(|flight| flight.deadline).min()
        {
            match self.receiver.recv_timeout(deadline.saturating_duration_since(now())) {
                Ok(answer) => self.answered(answer)?,
                Err(RecvTimeoutError::Timeout) => self.silent()?,
                // Unreachable while `self.sender` lives.
                Err(RecvTimeoutError::Disconnected) => self.silent()?,
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> Result<(), StoreError> {
        let flight = &mut self.flights[answer.index];
        flight.over = true;
        match answer.result {
            Ok(validation) => {
                flight.keep(&validation);
                Ok(())
            }
            Err(error) => {
                let lasting = matches!(
                    error,
                    DeviceError::NoSpace { .. } | DeviceError::Suspended { .. } | DeviceError::Refused { .. }
                );
                flight.only_space &= matches!(error, DeviceError::NoSpace { .. });
                tracing::warn!(device = %flight.slot.id, chunk = %self.tag.chunk, %error, tries = flight.tries, "part not stored");
                if !lasting && flight.tries < TRIES_PER_DEVICE && now() < self.until {
                    let promise = flight.slot.worker.promise(part_bytes(&flight.range));
                    return self.send(answer.index, promise);
                }
                self.elsewhere(answer.index, error.to_string())
            }
        }
    }

    /// Deals with every part whose deadline has passed.
    fn silent(&mut self) -> Result<(), StoreError> {
        let now = now();
        for index in 0..self.flights.len() {
            let flight = &mut self.flights[index];
            if flight.stored.is_some() || flight.deadline > now {
                continue;
            }
            if !flight.ticket.abandon() {
                // The answer came in this very moment and is in the channel, or about to be.
                flight.deadline = now + GRACE;
                continue;
            }
            flight.over = true;
            flight.only_space = false;
            tracing::warn!(device = %flight.slot.id, chunk = %self.tag.chunk, "device silent, its part goes elsewhere");
            self.elsewhere(index, "answer in time".to_owned())?;
        }
        Ok(())
    }

    /// Sends part `index` to a device that has not refused it.
    fn elsewhere(&mut self, index: usize, reason: String) -> Result<(), StoreError> {
        let silent = reason == "answer in time";
        let flight = &mut self.flights[index];
        let needed = part_bytes(&flight.range);
        let from = Arc::clone(&flight.slot);
        flight.refused.push((from.id, reason));
        let (refused, tries) = (flight.refused.clone(), flight.tries);
        if now() < self.until {
            let never: Vec<DeviceId> = refused.iter().map(|(device, _)| *device).collect();
            let avoid: Vec<DeviceId> = self.flights.iter().map(|flight| flight.slot.id).collect();
            if let Some((slot, promise)) = self.set.choose(needed, &avoid, &never) {
                let flight = &mut self.flights[index];
                flight.slot = slot;
                flight.tries = 0;
                return self.send(index, promise);
            }
            if silent && tries < TRIES_PER_DEVICE {
                let promise = from.worker.promise(needed);
                return self.send(index, promise);
            }
        }
        let only_space = self.flights[index].only_space;
        Err(self.set.unplaced(needed, refused, only_space))
    }

    /// Nothing of this chunk stays.
    fn undo(&mut self) {
        // What has not begun never will. What is being written is waited for as long as it may take, so that the
        // counts are right when the caller gets its error; a silent device removes its part itself when it wakes up.
        let open = |flight: &Flight| !flight.over && !flight.ticket.cancel();
        let mut running: Vec<usize> = (0..self.flights.len()).filter(|index| open(&self.flights[*index])).collect();
        while let Some(deadline) = running.iter().map(|index| self.flights[*index].deadline).max() {
            let Ok(Answer { index, result }) = self.receiver.recv_timeout(deadline.saturating_duration_since(now()))
            else {
                break;
            };
            running.retain(|other| *other != index);
            if let Ok(validation) = result {
                self.flights[index].keep(&validation);
            }
        }
        // An answer that was given in the very moment of the deadline is on its way.
        running.retain(|index| !self.flights[*index].ticket.abandon());
        for _ in running {
            if let Ok(Answer { index, result: Ok(validation) }) = self.receiver.recv_timeout(GRACE) {
                self.flights[index].keep(&validation);
            }
        }
        let parts: Vec<StoredPart> = self.flights.iter().filter_map(|flight| flight.stored).collect();
        for (part, error) in self.set.remove_parts(&parts) {
            tracing::warn!(device = %part.device, part = %part.part, %error, "a part of a failed store stays until the next start");
        }
    }
}

impl Flight {
    fn keep(&mut self, validation: &PartValidation) {
        self.stored = Some(StoredPart {
            device: validation.device,
            part: validation.part,
            offset: self.range.start,
            length: self.range.end - self.range.start,
        });
    }
}

impl DeviceSet {
    fn unplaced(&self, needed: u64, reasons: Vec<(DeviceId, String)>, only_space: bool) -> StoreError {
        let healthy = self.slots().iter().any(|slot| {
            slot.worker.report(self.config.validation_deadline).state == crate::device::DeviceState::Healthy
        });
        if only_space && (healthy || !reasons.is_empty()) {
            self.no_space(needed)
        } else {
            StoreError::Unavailable { needed, reasons }
        }
    }
}
