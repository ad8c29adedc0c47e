//! Reading, checking and removing what is stored.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use fathom_protocol::ids::{DeviceId, Hash};
use fathom_protocol::limits::CHUNK_BYTES_MAX;

use super::worker::{Lane, Ticket};
use super::{DeviceSet, StoreError, StoredPart};
use crate::device::{Device, DeviceError, DeviceState, PartEntry};
use crate::meter::now;
use crate::part::PartHeader;

/// A part that is not what it should be.
#[derive(Debug)]
pub struct BadPart {
    /// Which part.
    pub part: StoredPart,
    /// What is wrong with it. `Silent`, `UnknownDevice` and a device that is suspended say nothing about the bytes.
    pub error: StoreError,
}

impl BadPart {
    /// The bytes are known to be gone or wrong, rather than out of reach for now.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(
            self.error,
            StoreError::Part { source: DeviceError::NotFound { .. } | DeviceError::Corrupt { .. }, .. }
        )
    }
}

impl DeviceSet {
    /// The chunk that `parts` make, which must be in order and without gaps. Every part is verified by its hash.
    ///
    /// # Errors
    /// `Length` if the parts do not make a chunk; `Part`, `Silent` or `UnknownDevice` for the first part that cannot be read.
    pub fn read_chunk(&self, parts: &[StoredPart]) -> Result<Vec<u8>, StoreError> {
        let length = chunk_length(parts)?;
        self.read_range(parts, 0, length)
    }

    /// Bytes `offset..offset + length` of the chunk that `parts` make. Only the parts that overlap are read.
    ///
    /// # Errors
    /// As for [`Self::read_chunk`]; `Length` also if the range goes beyond the chunk.
    pub fn read_range(&self, parts: &[StoredPart], offset: u32, length: u32) -> Result<Vec<u8>, StoreError> {
        let total = chunk_length(parts)?;
        let Some(end) = offset.checked_add(length).filter(|end| *end <= total) else {
            let length = u64::from(offset) + u64::from(length);
            return Err(StoreError::Length { length, reason: "the range goes beyond the chunk" });
        };
        let overlapping: Vec<StoredPart> =
            parts.iter().filter(|part| part.offset < end && offset < part.offset + part.length).copied().collect();
        let mut out = vec![0; length as usize];
        let asked: Vec<(DeviceId, Hash)> = overlapping.iter().map(|part| (part.device, part.part)).collect();
        self.each(
            &asked,
            self.config.read_deadline,
            |device, part| device.get(part),
            |index, result| {
                let part = overlapping[index];
                let bytes = result?;
                let payload = payload(&part, &bytes)?;
                let from = part.offset.max(offset);
                let to = (part.offset + part.length).min(end);
                let source = &payload[(from - part.offset) as usize..(to - part.offset) as usize];
                out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
                Ok(())
            },
        )?;
        Ok(out)
    }

    /// Reads every part and compares it with its name; the ones that fail are returned.
    #[must_use]
    pub fn verify_parts(&self, parts: &[StoredPart]) -> Vec<BadPart> {
        self.failures(parts, |device, part| device.verify(part).map(|_| ()))
            .into_iter()
            .map(|(part, error)| BadPart { part, error })
            .collect()
    }

    /// Removes parts; one that is not there counts as removed. The ones that could not be removed are returned.
    #[must_use]
    pub fn remove_parts(&self, parts: &[StoredPart]) -> Vec<(StoredPart, StoreError)> {
        self.failures(parts, |device, part| match device.remove(part) {
            Ok(()) | Err(DeviceError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        })
    }

    /// Every part that `device` holds.
    ///
    /// # Errors
    /// `UnknownDevice`, `Silent`, `Device`.
    pub fn list_parts(&self, device: DeviceId) -> Result<Vec<PartEntry>, StoreError> {
        self.whole(device, |device| device.list())
    }

    /// Looks at `device` anew: it becomes healthy if all is well.
    ///
    /// # Errors
    /// `UnknownDevice`, `Silent`, `Device`.
    pub fn reopen(&self, device: DeviceId) -> Result<(), StoreError> {
        self.whole(device, |device| device.reopen())
    }

    /// Reopens every device that is suspended, and names those that are healthy now: to be called now and then, so that a disk
    /// that was plugged in again is used again.
    pub fn reopen_suspended(&self) -> Vec<DeviceId> {
        let away = self.report().into_iter().filter(|report| report.state == DeviceState::Suspended);
        away.map(|report| report.id).filter(|device| self.reopen(*device).is_ok()).collect()
    }

    /// The header of a part, and the length of its payload in bytes; the part is verified. `None` for a part of an unknown layout.
    ///
    /// # Errors
    /// As for [`Self::read_chunk`].
    pub(crate) fn headers(
        &self,
        device: DeviceId,
        parts: &[Hash],
        mut each: impl FnMut(Hash, Result<Option<(PartHeader, u32)>, StoreError>),
    ) {
        let asked: Vec<(DeviceId, Hash)> = parts.iter().map(|part| (device, *part)).collect();
        let get = |device: &dyn Device, part: Hash| {
            let bytes = device.get(part)?;
            Ok(PartHeader::parse(&bytes).map(|(header, payload)| (header, payload.len() as u32)))
        };
        // The closure below returns no error, so the walk goes over every part.
        let _ = self.each(&asked, self.config.read_deadline, get, |index, result| {
            each(parts[index], result);
            Ok(())
        });
    }

    fn failures(
        &self,
        parts: &[StoredPart],
        work: impl Fn(&dyn Device, Hash) -> Result<(), DeviceError> + Clone + Send + 'static,
    ) -> Vec<(StoredPart, StoreError)> {
        let mut failed = Vec::new();
        let asked: Vec<(DeviceId, Hash)> = parts.iter().map(|part| (part.device, part.part)).collect();
        let _ = self.each(&asked, self.config.read_deadline, work, |index, result| {
            if let Err(error) = result {
                failed.push((parts[index], error));
            }
            Ok(())
        });
        failed
    }

    /// Does `work` for each part on its device, all devices at once, and hands the results to `take` as they come, until
    /// that returns an error.
    fn each<T: Send + 'static>(
        &self,
        parts: &[(DeviceId, Hash)],
        deadline: Duration,
        work: impl Fn(&dyn Device, Hash) -> Result<T, DeviceError> + Clone + Send + 'static,
        mut take: impl FnMut(usize, Result<T, StoreError>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // Batches keep the memory of what was read, and the place in the queues, bounded.
        for (batch, parts) in parts.chunks(fathom_protocol::limits::PARTS_MAX).enumerate() {
            let base = batch * fathom_protocol::limits::PARTS_MAX;
            let until = now() + deadline;
            let (sender, receiver) = sync_channel(parts.len());
            let mut tickets: Vec<Option<Ticket>> = Vec::with_capacity(parts.len());
            for (index, (device, part)) in parts.iter().enumerate() {
                let slot = match self.slot(*device) {
                    Ok(slot) => slot,
                    Err(error) => {
                        tickets.push(None);
                        take(base + index, Err(error))?;
                        continue;
                    }
                };
                let (ticket, sender, work, part) = (Ticket::default(), sender.clone(), work.clone(), *part);
                let refresh = slot.worker.refresher();
                let answer = ticket.clone();
                let job = move |device: &dyn Device| {
                    let result = work(device, part);
                    refresh();
                    if answer.finish() {
                        // One place for each part: never full.
                        let _ = sender.try_send((index, result));
                    }
                };
                // Whoever is not heard of by the deadline is silent, for whatever reason.
                let wait = if slot.worker.stalled(deadline) { now() } else { until };
                slot.worker.push(Lane::Read, ticket.clone(), Box::new(job), wait);
                tickets.push(Some(ticket));
            }
            drop(sender);
            while tickets.iter().any(Option::is_some) {
                let Ok((index, result)) = receiver.recv_timeout(until.saturating_duration_since(now())) else {
                    break;
                };
                tickets[index] = None;
                let (device, part) = parts[index];
                let result = result.map_err(|source| StoreError::Part { device, part, source });
                if let Err(error) = take(base + index, result) {
                    tickets.iter().flatten().for_each(|ticket| {
                        ticket.abandon();
                    });
                    return Err(error);
                }
            }
            for (index, ticket) in tickets.iter().enumerate() {
                if let Some(ticket) = ticket {
                    ticket.abandon();
                    take(base + index, Err(StoreError::Silent { device: parts[index].0 }))?;
                }
            }
        }
        Ok(())
    }

    fn whole<T: Send + 'static>(
        &self,
        device: DeviceId,
        work: impl FnOnce(&dyn Device) -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slot = self.slot(device)?;
        let until = now() + self.config.list_deadline;
        let (sender, receiver) = sync_channel(1);
        let (ticket, refresh) = (Ticket::default(), slot.worker.refresher());
        let answer = ticket.clone();
        let job = move |device: &dyn Device| {
            let result = work(device);
            refresh();
            if answer.finish() {
                let _ = sender.try_send(result);
            }
        };
        slot.worker.push(Lane::Read, ticket.clone(), Box::new(job), until);
        match receiver.recv_timeout(until.saturating_duration_since(now())) {
            Ok(result) => result.map_err(|source| StoreError::Device { device, source }),
            Err(_) => {
                ticket.abandon();
                Err(StoreError::Silent { device })
            }
        }
    }
}

/// The payload of a part that was just read, and verified by its device.
fn payload<'a>(part: &StoredPart, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let fits = PartHeader::parse(bytes)
        .filter(|(header, payload)| header.offset == part.offset && payload.len() == part.length as usize);
    fits.map(|(_, payload)| payload).ok_or_else(|| StoreError::Part {
        device: part.device,
        part: part.part,
        source: DeviceError::Corrupt { part: part.part, found: Hash::of(bytes) },
    })
}

fn chunk_length(parts: &[StoredPart]) -> Result<u32, StoreError> {
    let mut end: u64 = 0;
    for part in parts {
        if u64::from(part.offset) != end || part.length == 0 {
            return Err(StoreError::Length { length: end, reason: "the parts leave a gap or overlap" });
        }
        end += u64::from(part.length);
        if end > CHUNK_BYTES_MAX as u64 {
            return Err(StoreError::Length { length: end, reason: "the parts make more than a chunk" });
        }
    }
    Ok(end as u32)
}
