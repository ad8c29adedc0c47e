//! Storing chunks: all parts go out at once, those for one device as one job, and each is validated by its device or placed anew.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use fathom_protocol::ids::DeviceId;
use fathom_protocol::limits::{CHUNK_BYTES_MAX, DEVICES_MAX};

use super::place::{Slot, part_bytes, split};
use super::worker::{Lane, Promise, Ticket};
use super::{DeviceSet, SplitPolicy, StoreError, StoredPart};
use crate::PACK_BYTES_MAX;
use crate::device::{Device, DeviceError, PartValidation};
use crate::meter::now;
use crate::part::{ChunkTag, Part, PartHeader, SALT_BYTES};

/// Times that a device which answers with an error gets a part.
const TRIES_PER_DEVICE: u32 = 2;
/// Answers about one part that may wait for the storing thread: every attempt.
const ANSWERS_PER_PART: usize = DEVICES_MAX * TRIES_PER_DEVICE as usize;

/// How long an answer may take from being given to lying in the channel.
const GRACE: Duration = Duration::from_millis(100);

struct Answer {
    index: usize,
    result: Result<PartValidation, DeviceError>,
}

/// A chunk that is to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'a> {
    /// What it is.
    pub tag: ChunkTag,
    /// Its bytes, at most [`CHUNK_BYTES_MAX`].
    pub bytes: &'a [u8],
    /// How far it is split.
    pub split: SplitPolicy,
}

/// Parts that go to one device together, with the room that each was promised.
type Job = Vec<(usize, Promise)>;

/// A part on its way.
struct Flight {
    /// Its chunk's place in the call.
    chunk: usize,
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

/// One call of [`DeviceSet::store_chunks`].
struct Storing<'a> {
    set: &'a DeviceSet,
    chunks: &'a [Whole<'a>],
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
        let stored = self.store_chunks(&[Whole { tag: *tag, bytes, split: policy }])?;
        Ok(stored.into_iter().flatten().collect())
    }

    /// As [`Self::store_chunk`] for several chunks at once: all are stored, or none.
    ///
    /// # Errors
    /// As there.
    pub fn store_chunks(&self, chunks: &[Whole<'_>]) -> Result<Vec<Vec<StoredPart>>, StoreError> {
        let mut ranges = Vec::new();
        for (chunk, Whole { bytes, split: policy, .. }) in chunks.iter().enumerate() {
            if bytes.len() > CHUNK_BYTES_MAX {
                let reason = "a chunk has 1 byte to about 4 MiB";
                return Err(StoreError::Length { length: bytes.len() as u64, reason });
            }
            ranges.extend(split(bytes.len() as u32, *policy)?.into_iter().map(|range| (chunk, range)));
        }
        let (sender, receiver) = sync_channel(ranges.len().max(1) * ANSWERS_PER_PART);
        let until = now() + self.config.store_deadline;
        let mut storing =
            Storing { set: self, chunks, sender, receiver, until, flights: Vec::with_capacity(ranges.len()) };
        match storing.send_all(ranges).and_then(|()| storing.collect()) {
            Ok(()) => {
                let mut stored = vec![Vec::new(); chunks.len()];
                for flight in storing.flights {
                    stored[flight.chunk].extend(flight.stored);
                }
                Ok(stored)
            }
            Err(error) => {
                storing.undo();
                Err(error)
            }
        }
    }
}

impl Storing<'_> {
    fn send_all(&mut self, ranges: Vec<(usize, Range<u32>)>) -> Result<(), StoreError> {
        // All places are found before anything is written, so what cannot fit costs no I/O.
        let mut places: Vec<(Arc<Slot>, Promise, usize, Range<u32>)> = Vec::with_capacity(ranges.len());
        for (chunk, range) in ranges {
            let needed = part_bytes(&range);
            let mut avoid: Vec<DeviceId> =
                places.iter().filter(|place| place.2 == chunk).map(|place| place.0.id).collect();
            if avoid.len() >= usize::from(self.chunks[chunk].split.parts_min) {
                avoid.clear();
            }
            let (slot, promise) =
                self.set.choose(needed, &avoid, &[]).ok_or_else(|| self.set.unplaced(needed, Vec::new(), true))?;
            places.push((slot, promise, chunk, range));
        }
        // What goes to one device goes there as one job.
        let mut jobs: Vec<(Arc<Slot>, Job)> = Vec::new();
        for (slot, promise, chunk, range) in places {
            let index = self.flights.len();
            match jobs.iter_mut().find(|(to, _)| to.id == slot.id && !alone(&range)) {
                Some((_, parts)) => parts.push((index, promise)),
                None => jobs.push((Arc::clone(&slot), vec![(index, promise)])),
            }
            self.flights.push(Flight {
                chunk,
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
        }
        jobs.into_iter().try_for_each(|(_, parts)| self.send(parts))
    }

    /// Sends parts to the device that was chosen for all of them.
    fn send(&mut self, parts: Job) -> Result<(), StoreError> {
        let deadline = (now() + self.set.config.validation_deadline).min(self.until);
        let ticket = Ticket::default();
        let (mut framed, mut promises, mut slot) =
            (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()), None);
        for (index, promise) in parts {
            let flight = &mut self.flights[index];
            flight.tries += 1;
            flight.over = false;
            flight.ticket = ticket.clone();
            flight.deadline = deadline;
            let mut salt = [0; SALT_BYTES];
            if let Err(error) = getrandom::fill(&mut salt) {
                let reasons = vec![(flight.slot.id, format!("draw a random salt: {error}"))];
                return Err(StoreError::Unavailable { needed: part_bytes(&flight.range), reasons });
            }
            let Whole { tag, bytes, .. } = self.chunks[flight.chunk];
            let header = PartHeader { tag, chunk_length: bytes.len() as u32, offset: flight.range.start };
            let part = header.frame(salt, &bytes[flight.range.start as usize..flight.range.end as usize]);
            framed.push((index, part));
            promises.push(promise);
            slot = Some(Arc::clone(&flight.slot));
        }
        let Some(slot) = slot else { return Ok(()) };
        let (sender, theirs, refresh) = (self.sender.clone(), ticket.clone(), slot.worker.refresher());
        let indexes: Vec<usize> = framed.iter().map(|(index, _)| *index).collect();
        let work = move |device: &dyn Device| {
            let (indexes, parts): (Vec<usize>, Vec<Part>) =
                framed.into_iter().map(|(index, part)| (index, Part::of(part))).unzip();
            let results = device.put_all(&parts);
            refresh();
            drop(promises);
            if theirs.finish() {
                for (index, result) in indexes.into_iter().zip(results) {
                    // The channel has room for every attempt; if the receiver is gone, nobody waits.
                    let _ = sender.try_send(Answer { index, result });
                }
                return;
            }
            for (part, _) in parts.iter().map(Part::name).zip(results).filter(|(_, result)| result.is_ok()) {
                if let Err(error) = device.remove(part) {
                    tracing::warn!(device = %device.id(), %part, %error, "a part that came too late stays until the next start");
                }
            }
            refresh();
        };
        if !slot.worker.push(Lane::Write, ticket, Box::new(work), deadline) {
            for index in indexes {
                self.flights[index].deadline = now();
            }
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
                let chunk = self.chunks[flight.chunk].tag.chunk;
                tracing::warn!(device = %flight.slot.id, %chunk, %error, tries = flight.tries, "part not stored");
                if !lasting && flight.tries < TRIES_PER_DEVICE && now() < self.until {
                    let promise = flight.slot.worker.promise(part_bytes(&flight.range));
                    return self.send(vec![(answer.index, promise)]);
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
            let chunk = self.chunks[flight.chunk].tag.chunk;
            tracing::warn!(device = %flight.slot.id, %chunk, "device silent, its part goes elsewhere");
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
            let chunk = self.flights[index].chunk;
            let others = self.flights.iter().filter(|flight| flight.chunk == chunk);
            let avoid: Vec<DeviceId> = others.map(|flight| flight.slot.id).collect();
            if let Some((slot, promise)) = self.set.choose(needed, &avoid, &never) {
                let flight = &mut self.flights[index];
                flight.slot = slot;
                flight.tries = 0;
                return self.send(vec![(index, promise)]);
            }
            if silent && tries < TRIES_PER_DEVICE {
                let promise = from.worker.promise(needed);
                return self.send(vec![(index, promise)]);
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

/// Whether a part is long enough to be written on its own, beside others to the same device.
fn alone(range: &Range<u32>) -> bool {
    part_bytes(range) > PACK_BYTES_MAX
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
