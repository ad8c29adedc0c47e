//! A device's quota. Bytes are reserved before they are written, so that what is used, what is being written and what
//! is free always add up, also with many writers; a reservation that is dropped gives its bytes back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::device::DeviceError;

#[derive(Debug)]
pub(crate) struct Budget {
    quota: u64,
    counts: Mutex<Counts>,
}

/// What a device holds, in bytes and parts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) used: u64,
    pub(crate) temporary: u64,
    pub(crate) parts: u64,
}

/// Bytes set aside for one write.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(quota: u64) -> Self {
        Self { quota, counts: Mutex::default() }
    }

    pub(crate) fn quota(&self) -> u64 {
        self.quota
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.lock()
    }

    /// What can still be reserved when the medium itself has room for `medium_free` more bytes.
    pub(crate) fn free(&self, medium_free: u64) -> u64 {
        Self::free_of(&self.lock(), self.quota, medium_free)
    }

    fn free_of(counts: &Counts, quota: u64, medium_free: u64) -> u64 {
        // Reserved bytes may not have reached the medium yet, so they are taken off both.
        let of_quota = quota.saturating_sub(counts.used).saturating_sub(counts.temporary);
        of_quota.min(medium_free.saturating_sub(counts.temporary))
    }

    pub(crate) fn reserve(&self, bytes: u64, medium_free: u64) -> Result<Reservation<'_>, DeviceError> {
        let mut counts = self.lock();
        let free = Self::free_of(&counts, self.quota, medium_free);
        if bytes > free {
            return Err(DeviceError::NoSpace { needed: bytes, free });
        }
        counts.temporary += bytes;
        Ok(Reservation { budget: self, bytes })
    }

    /// A part of `bytes` bytes is gone.
    pub(crate) fn removed(&self, bytes: u64) {
        let mut counts = self.lock();
        counts.used = counts.used.saturating_sub(bytes);
        counts.parts = counts.parts.saturating_sub(1);
    }

    /// A part of `bytes` bytes is there without a reservation.
    pub(crate) fn added(&self, bytes: u64) {
        let mut counts = self.lock();
        counts.used += bytes;
        counts.parts += 1;
    }

    /// A scan found `used` bytes in `parts` parts. Writes in progress keep their reservation.
    pub(crate) fn counted(&self, used: u64, parts: u64) {
        let mut counts = self.lock();
        counts.used = used;
        counts.parts = parts;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// The bytes became a part.
    pub(crate) fn commit(mut self) {
        let mut counts = self.budget.lock();
        counts.temporary = counts.temporary.saturating_sub(self.bytes);
        counts.used += self.bytes;
        counts.parts += 1;
        self.bytes = 0;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut counts = self.budget.lock();
            counts.temporary = counts.temporary.saturating_sub(self.bytes);
        }
    }
}
