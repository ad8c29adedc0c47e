//! What a storage device is to its vendor: one trait, its report, its errors.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use fathom_protocol::ids::{DeviceId, Hash};

use crate::part::Part;

/// What kind of storage a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A directory of a mounted disk or share.
    Directory,
    /// The memory of this process, for tests.
    Memory,
}

impl DeviceKind {
    /// The word for people and for `--json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Memory => "memory",
        }
    }
}

/// Whether a device can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// Reads and writes work.
    Healthy,
    /// Out of reach for now (unplugged, not mounted, or silent). Its parts are not lost: nothing is repaired because of it.
    Suspended,
    /// A durable write failed. It still reads, and takes no more parts until [`Device::reopen`] succeeds.
    Failed,
}

impl DeviceState {
    /// The word for people and for `--json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
        }
    }
}

/// One device as its vendor sees it now. All sizes are bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceReport {
    /// The device.
    pub id: DeviceId,
    /// What it is.
    pub kind: DeviceKind,
    /// Where it is; empty for memory.
    pub path: PathBuf,
    /// The most that parts and temporary files may take together.
    pub quota: u64,
    /// What parts take, headers included.
    pub used: u64,
    /// What writes in progress have reserved.
    pub temporary: u64,
    /// What can still be stored: the quota's rest, or the file system's free space less the reserve if that is
    /// smaller; 0 unless the device is healthy.
    pub free: u64,
    /// Whether it can be used.
    pub state: DeviceState,
    /// Measured speed of durable writes, in bytes per second; 0 before the first one.
    pub write_bytes_per_s: u64,
    /// Measured time of one durable write of a part, in milliseconds; 0 before the first one.
    pub latency_ms: f64,
    /// How many parts it holds.
    pub parts: u64,
}

/// A device's word that a part is durable and reads back as what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartValidation {
    /// The device.
    pub device: DeviceId,
    /// The part.
    pub part: Hash,
    /// Length as read back, in bytes.
    pub length: u32,
}

/// A part in a device's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartEntry {
    /// Its name.
    pub part: Hash,
    /// Its length in bytes; for what is rotten on the device this may differ from what was stored.
    pub length: u64,
}

/// Why a device did not do what was asked. Texts follow "the device failed to".
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The quota or the file system has no room.
    #[error("find room for {needed} bytes: {free} bytes are free; raise the device's quota or free space on its disk")]
    NoSpace {
        /// Bytes asked for.
        needed: u64,
        /// Bytes that could have been stored.
        free: u64,
    },
    /// The device has no such part.
    #[error("find part {part}")]
    NotFound {
        /// The part.
        part: Hash,
    },
    /// The bytes on the device are not those that were stored.
    #[error("read part {part} intact: its bytes hash to {found}")]
    Corrupt {
        /// The part.
        part: Hash,
        /// The hash of what is there.
        found: Hash,
    },
    /// The operating system refused.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was being done, in the infinitive.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The device is out of reach, or takes no writes since one failed.
    #[error("work: {reason}")]
    Suspended {
        /// Why, and what brings it back.
        reason: String,
    },
    /// The directory belongs to another vendor or to a newer release, or its marker is unreadable.
    #[error("be opened at {}: {reason}", path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

/// One storage device of a vendor. Calls may come from several threads at once, and may block for as long as the
/// storage does: [`crate::DeviceSet`] puts the deadlines around them.
///
/// A part's name is the BLAKE3 hash of its bytes; every implementation verifies by it.
pub trait Device: Send + Sync {
    /// The device's identity, which it keeps over restarts and when its path changes.
    fn id(&self) -> DeviceId;

    /// The device's figures now. Never blocks on a part's I/O.
    fn report(&self) -> DeviceReport;

    /// Stores `part`, durably, and compares it with what reads back. A part that is already there and intact is left
    /// alone and counted once.
    ///
    /// # Errors
    /// `NoSpace`, `Corrupt` if something else reads back, `Io`, `Suspended`. After any error nothing is left behind and
    /// the used bytes are as before.
    fn put(&self, part: &Part) -> Result<PartValidation, DeviceError>;

    /// As [`Self::put`] for several parts, in their order: what can be done once for all is.
    fn put_all(&self, parts: &[Part]) -> Vec<Result<PartValidation, DeviceError>> {
        parts.iter().map(|part| self.put(part)).collect()
    }

    /// The bytes of `part`, verified.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Io`, `Suspended`.
    fn get(&self, part: Hash) -> Result<Bytes, DeviceError>;

    /// Removes `part`.
    ///
    /// # Errors
    /// `NotFound`, `Io`, `Suspended`.
    fn remove(&self, part: Hash) -> Result<(), DeviceError>;

    /// Reads `part` and compares it with its name.
    ///
    /// # Errors
    /// As for [`Device::get`].
    fn verify(&self, part: Hash) -> Result<PartValidation, DeviceError> {
        let bytes = self.get(part)?;
        Ok(PartValidation { device: self.id(), part, length: u32::try_from(bytes.len()).unwrap_or(u32::MAX) })
    }

    /// Every part that is there, in no particular order.
    ///
    /// # Errors
    /// `Io`, `Suspended`.
    fn list(&self) -> Result<Vec<PartEntry>, DeviceError>;

    /// Looks at the device anew: removes leftovers, counts again, and if all is well becomes healthy.
    ///
    /// # Errors
    /// `Io`, `Suspended`, `Refused`.
    fn reopen(&self) -> Result<(), DeviceError>;
}
