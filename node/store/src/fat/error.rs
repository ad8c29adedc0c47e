//! Why the local FAT did not do what was asked.

use std::path::PathBuf;

use fathom_protocol::ids::LeaseId;

use super::{ChunkKey, FORMAT};
use crate::device::DeviceError;

/// Why the local FAT did not do what was asked. Texts follow "the local FAT failed to".
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// The file is of another format.
    #[error("open {}: its format is {found}, this release knows {FORMAT}; run the release that wrote it, or a newer one", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u64,
    },
    /// The file is damaged.
    #[error(
        "read {}: {detail}; stop the vendor, move the file aside and start it again: it rebuilds the local FAT from a scan of its devices, and its mirrors return leases and final FATs",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Another process has it open.
    #[error("open {}: another process has it open; stop that one first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file system of the file is full. Nothing changed, and reads go on.
    #[error("write {}: its file system is full; free some space there", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// A write failed earlier, and what is on the disk is unknown. Reads go on.
    #[error("write {}: {reason}; check the disk, then restart the vendor", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// An operation of the file or the database failed.
    #[error("use {}: {detail}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What happened.
        detail: String,
    },
    /// The lease has no room for the chunk. Nothing changed.
    #[error("take {length} bytes under lease {lease}: {free} bytes are free there")]
    OverLease {
        /// The lease.
        lease: LeaseId,
        /// Bytes of the chunk.
        length: u32,
        /// Bytes free under the lease.
        free: u64,
    },
    /// There is no such lease.
    #[error("find lease {lease}")]
    NoLease {
        /// The lease.
        lease: LeaseId,
    },
    /// The lease still holds chunks.
    #[error("forget lease {lease}: it still holds {used} bytes")]
    LeaseInUse {
        /// The lease.
        lease: LeaseId,
        /// Bytes stored under it.
        used: u64,
    },
    /// There is no such chunk.
    #[error("find chunk {}", key.chunk)]
    NoChunk {
        /// The chunk.
        key: ChunkKey,
    },
    /// The caller's own check in a transaction failed. Nothing changed.
    #[error("{0}")]
    Refused(String),
}

/// Why a directory could not be opened as a device.
#[derive(Debug, thiserror::Error)]
pub enum OpenDeviceError {
    /// The device's own reason.
    #[error("the device failed to {0}")]
    Device(#[from] DeviceError),
    /// The local FAT could not be asked or told.
    #[error("the local FAT failed to {0}")]
    Fat(#[from] FatError),
}
