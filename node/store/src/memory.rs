//! A device in the memory of this process, for tests and simulations.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fathom_protocol::ids::{DeviceId, Hash};

use crate::budget::Budget;
use crate::device::{Device, DeviceError, DeviceKind, DeviceReport, DeviceState, PartEntry, PartValidation};
use crate::meter::{Meter, now};
use crate::part::Part;

/// A device that forgets everything when it is dropped.
#[derive(Debug)]
pub struct MemoryDevice {
    id: DeviceId,
    budget: Budget,
    meter: Meter,
    parts: Mutex<HashMap<Hash, Vec<u8>>>,
}

impl MemoryDevice {
    /// An empty device that takes `quota` bytes.
    #[must_use]
    pub fn new(id: DeviceId, quota: u64) -> Self {
        Self { id, budget: Budget::new(quota), meter: Meter::default(), parts: Mutex::default() }
    }

    /// Flips bit `bit` (modulo the part's length) of `part` where it lies; false if the part is not there.
    pub fn flip_bit(&self, part: Hash, bit: usize) -> bool {
        match self.lock().get_mut(&part) {
            Some(bytes) if !bytes.is_empty() => {
                let bit = bit % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                true
            }
            _ => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Vec<u8>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for MemoryDevice {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn report(&self) -> DeviceReport {
        let counts = self.budget.counts();
        let (write_bytes_per_s, latency_ms) = self.meter.means();
        DeviceReport {
            id: self.id,
            kind: DeviceKind::Memory,
            path: PathBuf::new(),
            quota: self.budget.quota(),
            used: counts.used,
            temporary: counts.temporary,
            free: self.budget.free(u64::MAX),
            state: DeviceState::Healthy,
            write_bytes_per_s,
            latency_ms,
            parts: counts.parts,
        }
    }

    fn put(&self, part: &Part) -> Result<PartValidation, DeviceError> {
        let started = now();
        let (name, bytes) = (part.name(), part.bytes());
        let mut parts = self.lock();
        match parts.get(&name) {
            Some(there) if Hash::of(there) == name => {}
            Some(_) => {
                parts.insert(name, bytes.to_vec());
            }
            None => {
                let reservation = self.budget.reserve(bytes.len() as u64, u64::MAX)?;
                parts.insert(name, bytes.to_vec());
                reservation.commit();
            }
        }
        drop(parts);
        self.meter.wrote(bytes.len(), started.elapsed());
        Ok(PartValidation { device: self.id, part: name, length: u32::try_from(bytes.len()).unwrap_or(u32::MAX) })
    }

    fn get(&self, part: Hash) -> Result<Bytes, DeviceError> {
        let bytes = self.lock().get(&part).cloned().ok_or(DeviceError::NotFound { part })?;
        let found = Hash::of(&bytes);
        if found == part { Ok(bytes.into()) } else { Err(DeviceError::Corrupt { part, found }) }
    }

    fn remove(&self, part: Hash) -> Result<(), DeviceError> {
        let mut parts = self.lock();
        let bytes = parts.remove(&part).ok_or(DeviceError::NotFound { part })?;
        self.budget.removed(bytes.len() as u64);
        Ok(())
    }

    fn list(&self) -> Result<Vec<PartEntry>, DeviceError> {
        Ok(self.lock().iter().map(|(part, bytes)| PartEntry { part: *part, length: bytes.len() as u64 }).collect())
    }

    fn reopen(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
