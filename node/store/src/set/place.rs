//! Which device takes which part.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use fathom_protocol::ids::DeviceId;
use fathom_protocol::limits::{CHUNK_BYTES_MAX, PARTS_MAX};

use super::worker::Worker;
use super::{DeviceSet, SplitPolicy, StoreError};
use crate::device::{Device, DeviceState};
use crate::part::PART_HEADER_BYTES;

/// A device in the set.
pub(crate) struct Slot {
    pub(crate) id: DeviceId,
    pub(crate) worker: Worker,
    /// Stride scheduling: the device with the lowest pass is next, and a part raises it by its length over the
    /// device's free bytes, so that over many chunks devices fill in proportion to their room.
    pass: Mutex<f64>,
}

impl Slot {
    pub(crate) fn start(device: Arc<dyn Device>, threads: usize, pass: f64) -> std::io::Result<Self> {
        let id = device.id();
        Ok(Self { id, worker: Worker::start(device, threads)?, pass: Mutex::new(pass) })
    }

    pub(crate) fn pass(&self) -> f64 {
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn charge(&self, bytes: u64, free: u64) {
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) += bytes as f64 / free.max(1) as f64;
    }
}

/// The payload ranges that `policy` makes of a chunk: as few as allowed, of equal length up to a byte.
pub(crate) fn split(length: u32, policy: SplitPolicy) -> Result<Vec<Range<u32>>, StoreError> {
    if length == 0 || length as usize > CHUNK_BYTES_MAX {
        return Err(StoreError::Length { length: u64::from(length), reason: "a chunk has 1 byte to about 4 MiB" });
    }
    let by_size = if policy.part_bytes_max == 0 { 1 } else { length.div_ceil(policy.part_bytes_max) };
    // More parts than a receipt may name, or than there are bytes, is a policy that cannot be met: the nearest is.
    let parts = by_size.max(u32::from(policy.parts_min)).clamp(1, (PARTS_MAX as u32).min(length));
    let bound = |part: u32| (u64::from(length) * u64::from(part) / u64::from(parts)) as u32;
    Ok((0..parts).map(|part| bound(part)..bound(part + 1)).collect())
}

impl DeviceSet {
    /// Which healthy device would take which range of a chunk of `length` bytes now.
    ///
    /// # Errors
    /// `Length`, or `NoSpace` if it fits nowhere.
    pub fn plan(&self, length: u32, policy: SplitPolicy) -> Result<Vec<(DeviceId, Range<u32>)>, StoreError> {
        let ranges = split(length, policy)?;
        let mut promises = Vec::with_capacity(ranges.len());
        let mut plan: Vec<(DeviceId, Range<u32>)> = Vec::with_capacity(ranges.len());
        for range in ranges {
            let spread = if plan.len() < usize::from(policy.parts_min) { plan.as_slice() } else { &[] };
            let avoid: Vec<DeviceId> = spread.iter().map(|(device, _)| *device).collect();
            let needed = part_bytes(&range);
            let (slot, promise) = self.choose(needed, &avoid, &[]).ok_or_else(|| self.no_space(needed))?;
            promises.push(promise);
            plan.push((slot.id, range));
        }
        Ok(plan)
    }

    /// A healthy device with room for `needed` bytes that is not in `never`, and if possible not in `avoid`; its room is promised.
    pub(crate) fn choose(
        &self,
        needed: u64,
        avoid: &[DeviceId],
        never: &[DeviceId],
    ) -> Option<(Arc<Slot>, super::worker::Promise)> {
        let limit = self.config.validation_deadline;
        let mut best: Option<(bool, f64, u64, Arc<Slot>)> = None;
        for slot in self.slots() {
            if never.contains(&slot.id) {
                continue;
            }
            let report = slot.worker.report(limit);
            if report.state != DeviceState::Healthy || report.free < needed {
                continue;
            }
            let rank = (avoid.contains(&slot.id), slot.pass());
            if best.as_ref().is_none_or(|best| rank < (best.0, best.1)) {
                best = Some((rank.0, rank.1, report.free, slot));
            }
        }
        let (_, _, free, slot) = best?;
        slot.charge(needed, free);
        let promise = slot.worker.promise(needed);
        Some((slot, promise))
    }

    pub(crate) fn no_space(&self, needed: u64) -> StoreError {
        let free = self.slots().iter().map(|slot| slot.worker.report(self.config.validation_deadline).free).sum();
        StoreError::NoSpace { needed, free }
    }
}

/// What the part with this payload range takes on its device, in bytes.
pub(crate) fn part_bytes(range: &Range<u32>) -> u64 {
    u64::from(range.end - range.start) + u64::from(PART_HEADER_BYTES)
}
