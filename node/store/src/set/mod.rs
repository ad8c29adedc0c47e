//! The vendor's devices together: a chunk is split over them, read back from them, and none of them can block another.
//!
//! Each device has its own few threads behind a bounded queue (`worker`). A write goes out to all chosen devices at once;
//! a device that answers with an error gets the part once more, a device that stays silent past the deadline or has no
//! room is passed over for another one (`store`). A silent device counts as suspended until its oldest job returns.

mod place;
mod read;
mod store;
mod worker;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fathom_protocol::ids::{DeviceId, Hash};
use fathom_protocol::limits::DEVICES_MAX;
use serde::{Deserialize, Serialize};

use crate::device::{Device, DeviceError, DeviceReport};
use place::Slot;
use worker::{Lane, Ticket};

pub use read::BadPart;
pub use store::Whole;

/// How long [`DeviceSet::report`] waits for fresh figures before it takes the last known ones.
const REPORT_WAIT: Duration = Duration::from_millis(500);

/// How far a vendor splits a chunk over its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitPolicy {
    /// Largest payload of a part, in bytes; 0 means no limit.
    pub part_bytes_max: u32,
    /// Fewest parts; they go to different devices as far as there are any.
    pub parts_min: u8,
}

/// Deadlines and threads of a [`DeviceSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetConfig {
    /// How long a device may take to validate one part.
    pub validation_deadline: Duration,
    /// How long a device may take to return, check or remove one part.
    pub read_deadline: Duration,
    /// How long storing one chunk may take over all attempts.
    pub store_deadline: Duration,
    /// How long a device may take to list its parts or to be reopened.
    pub list_deadline: Duration,
    /// Threads of each device: how many operations it does at once.
    pub threads_per_device: usize,
}

impl Default for SetConfig {
    fn default() -> Self {
        Self {
            validation_deadline: Duration::from_secs(5),
            read_deadline: Duration::from_secs(5),
            store_deadline: Duration::from_secs(30),
            list_deadline: Duration::from_secs(120),
            threads_per_device: 4,
        }
    }
}

/// Where one part of a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoredPart {
    /// The device.
    pub device: DeviceId,
    /// The part's name on it.
    pub part: Hash,
    /// Where in the chunk its payload begins, in bytes.
    pub offset: u32,
    /// Length of its payload, in bytes; the part itself takes [`crate::PART_HEADER_BYTES`] more.
    pub length: u32,
}

/// Why the devices together did not do what was asked. Texts follow "the vendor failed to".
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No device, nor several, had room. Nothing was kept.
    #[error("find room for {needed} bytes on its devices: {free} bytes are free")]
    NoSpace {
        /// Bytes of the part or chunk that found no place.
        needed: u64,
        /// Bytes free on all healthy devices.
        free: u64,
    },
    /// There were devices with room, but none validated the part. Nothing was kept.
    #[error("store {needed} bytes: {}", describe(reasons))]
    Unavailable {
        /// Bytes of the part that found no place.
        needed: u64,
        /// What each device that was tried did.
        reasons: Vec<(DeviceId, String)>,
    },
    /// The chunk, range or split is not possible.
    #[error("take {length} bytes: {reason}")]
    Length {
        /// The length that was asked for, in bytes.
        length: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The device is not one of this vendor's.
    #[error("find device {device}: it is not configured; add its directory again")]
    UnknownDevice {
        /// The device.
        device: DeviceId,
    },
    /// The device did not answer in time.
    #[error("hear from device {device} in time")]
    Silent {
        /// The device.
        device: DeviceId,
    },
    /// A part could not be used.
    #[error("use part {part}: device {device} failed to {source}")]
    Part {
        /// The device.
        device: DeviceId,
        /// The part.
        part: Hash,
        /// What the device said.
        source: DeviceError,
    },
    /// A device could not be listed or reopened.
    #[error("use device {device}: it failed to {source}")]
    Device {
        /// The device.
        device: DeviceId,
        /// What it said.
        source: DeviceError,
    },
}

fn describe(reasons: &[(DeviceId, String)]) -> String {
    if reasons.is_empty() {
        return "no device is healthy".to_owned();
    }
    let each: Vec<String> =
        reasons.iter().map(|(device, reason)| format!("device {} failed to {reason}", device.short())).collect();
    each.join("; ")
}

/// The vendor's devices.
pub struct DeviceSet {
    config: SetConfig,
    slots: RwLock<Vec<Arc<Slot>>>,
}

impl DeviceSet {
    /// A set of `devices`.
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub fn new(devices: Vec<Arc<dyn Device>>, config: SetConfig) -> Result<Self, StoreError> {
        let set = Self { config, slots: RwLock::default() };
        for device in devices {
            set.add(device)?;
        }
        Ok(set)
    }

    /// Adds a device while others work.
    ///
    /// # Errors
    /// `Device` if the device is there already, if there are [`DEVICES_MAX`], or if no thread could be started for it.
    pub fn add(&self, device: Arc<dyn Device>) -> Result<(), StoreError> {
        let id = device.id();
        let refuse = |reason: &str| {
            let source = DeviceError::Refused { path: device.report().path, reason: reason.to_owned() };
            Err(StoreError::Device { device: id, source })
        };
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if slots.iter().any(|slot| slot.id == id) {
            return refuse("this device is configured twice; name each directory once");
        }
        if slots.len() >= DEVICES_MAX {
            return refuse("the vendor has as many devices as it may; join disks below the file system");
        }
        let pass = slots.iter().map(|slot| slot.pass()).fold(f64::INFINITY, f64::min);
        match Slot::start(
            Arc::clone(&device),
            self.config.threads_per_device,
            if pass.is_finite() { pass } else { 0.0 },
        ) {
            Ok(slot) => slots.push(Arc::new(slot)),
            Err(error) => return refuse(&format!("no thread could be started for it: {error}")),
        }
        Ok(())
    }

    /// Every device as it is now. One that does not answer at once is reported with its last figures, as suspended if it hangs.
    #[must_use]
    pub fn report(&self) -> Vec<DeviceReport> {
        let slots = self.slots();
        let (sender, receiver) = std::sync::mpsc::sync_channel(slots.len());
        let deadline = crate::meter::now() + REPORT_WAIT;
        let mut waiting = 0;
        for slot in &slots {
            let (sender, refresh) = (sender.clone(), slot.worker.refresher());
            let work = move |_: &dyn Device| {
                refresh();
                // The report may have waited no longer.
                let _ = sender.try_send(());
            };
            waiting +=
                usize::from(slot.worker.push(Lane::Read, Ticket::default(), Box::new(work), crate::meter::now()));
        }
        while waiting > 0 && receiver.recv_timeout(deadline.saturating_duration_since(crate::meter::now())).is_ok() {
            waiting -= 1;
        }
        slots.iter().map(|slot| slot.worker.report(self.config.validation_deadline)).collect()
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn slot(&self, device: DeviceId) -> Result<Arc<Slot>, StoreError> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().find(|slot| slot.id == device).cloned().ok_or(StoreError::UnknownDevice { device })
    }
}
