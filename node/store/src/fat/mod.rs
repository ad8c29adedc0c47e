//! The vendor's local FAT: which chunk of which user is where on its devices, under which lease, and the vendor's own records.
//!
//! It lies in one redb file. Every change is one durable transaction: after it returns, the change survives a
//! crash; if it fails, nothing changed, or (after an I/O error at the very end) the change is complete.
//!
//! When the file cannot be written, reads go on: the file is opened again behind an overlay in memory (`engine`),
//! and writes are refused with [`FatError::NoSpace`], until there is space, or [`FatError::Failed`], until
//! [`LocalFat::reopen`].

mod batch;
mod codec;
mod engine;
mod entry;
mod error;
mod inspect;
mod read;
mod recover;
mod tx;

use std::path::Path;
use std::sync::Arc;

use fathom_protocol::ids::{DeviceId, LeaseId, NodeId};

use crate::device::Device;
use crate::directory::{DirectoryConfig, DirectoryDevice};
use crate::storage::{FatStorage, FileStorage};
use batch::Batcher;
use engine::Engine;

pub use entry::{
    ChunkEntry, ChunkKey, ChunkState, CommitFile, CommitOutcome, ErasedChunk, FatTotals, FinalEntry, Inserted,
    LeaseEntry,
};
pub use error::{FatError, OpenDeviceError};
pub use inspect::{FatRow, Finding, Inspector, inspect, inspect_in};
pub use recover::{EraseReport, MissingPart, RebuildReport, RecoverReport};
pub use tx::FatTx;

/// Format of the file. A newer one is refused.
pub const FORMAT: u64 = 3;
/// The oldest one that is read, every row of which means the same now. It becomes [`FORMAT`] when it is opened.
const FORMAT_READ_MIN: u64 = 2;
/// Key in `kv` of the vendor's signed head.
pub const HEAD_KEY: &str = "head";
/// Rows of one page, at most.
pub const PAGE_ROWS_MAX: usize = 4_096;

/// Options of a local FAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatConfig {
    /// Memory for cached pages, in bytes.
    pub cache_bytes: usize,
    /// Below this many free bytes in the file's file system, writes are refused before they begin.
    pub headroom_bytes: u64,
    /// Read and check every page when the file is opened.
    pub check_on_open: bool,
}

impl Default for FatConfig {
    fn default() -> Self {
        Self { cache_bytes: 32 * 1024 * 1024, headroom_bytes: 16 * 1024 * 1024, check_on_open: true }
    }
}

/// Whether the local FAT can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatHealth {
    /// It can.
    ReadWrite,
    /// Its file system is full; it recovers by itself when there is space.
    NoSpace,
    /// A write or sync failed for another reason; [`LocalFat::reopen`] once the disk is well.
    Failed {
        /// What happened.
        reason: String,
    },
}

/// The vendor's local FAT. Methods block; each that changes something is one durable transaction.
#[derive(Debug)]
pub struct LocalFat {
    engine: Engine,
    batcher: Batcher,
}

impl LocalFat {
    /// Opens the local FAT in the file at `path`, which is created if missing.
    ///
    /// # Errors
    /// `Version`, `Corrupt`, `InUse`, `NoSpace`, `Database`.
    pub fn open(path: &Path, config: FatConfig) -> Result<Self, FatError> {
        Self::open_in(Arc::new(FileStorage::new(path)), config)
    }

    /// Opens the local FAT in `storage`.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_in(storage: Arc<dyn FatStorage>, config: FatConfig) -> Result<Self, FatError> {
        Ok(Self { engine: Engine::open(storage, config)?, batcher: Batcher::default() })
    }

    /// Whether it can be written.
    #[must_use]
    pub fn health(&self) -> FatHealth {
        self.engine.health()
    }

    /// After a failed write: writes the whole file anew, so that what was read is what is on the disk, and opens it.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn reopen(&self) -> Result<(), FatError> {
        self.engine.reopen()
    }

    /// Runs `change` in one durable transaction. If it returns an error, nothing changes.
    ///
    /// # Errors
    /// What `change` returns; `NoSpace`, `Failed`, `Database`.
    pub fn write<T>(&self, change: impl FnOnce(&mut FatTx<'_>) -> Result<T, FatError>) -> Result<T, FatError> {
        self.engine.write(change)
    }

    /// Stores `entry`, counts it under its lease, and if given replaces the signed lease and the signed head, all in one durable
    /// transaction, which inserts of other threads may share.
    ///
    /// A receipt may leave only after this has returned: also for a replay, ask here and not [`Self::chunk`], since
    /// this refuses when the file is not known to be durable.
    ///
    /// # Errors
    /// `NoLease`, `OverLease`, and as for [`Self::write`].
    pub fn insert_chunk(
        &self,
        entry: &ChunkEntry,
        lease_signed: Option<&[u8]>,
        head: Option<&[u8]>,
    ) -> Result<Inserted, FatError> {
        self.insert_batched(entry, lease_signed, head)
    }

    /// As [`Self::insert_chunk`] for several chunks in one transaction: what came of each, in their order. One that is refused does
    /// not touch the others.
    pub fn insert_chunks(&self, entries: Vec<ChunkEntry>) -> Vec<Result<Inserted, FatError>> {
        self.insert_all(entries.into_iter().map(|entry| (entry, None, None)))
    }

    /// Applies a final FAT record: see [`CommitFile`] and [`CommitOutcome`].
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn commit_and_erase(&self, commit: &CommitFile) -> Result<CommitOutcome, FatError> {
        self.write(|tx| tx.commit_and_erase(commit))
    }

    /// Forgets `keys`; unknown ones are passed over. Their parts await [`Self::finish_erases`].
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn erase_chunks(&self, keys: &[ChunkKey]) -> Result<Vec<ErasedChunk>, FatError> {
        self.write(|tx| {
            let mut erased = Vec::new();
            for key in keys {
                erased.extend(tx.erase_chunk(key)?);
            }
            Ok(erased)
        })
    }

    /// Stores a signed lease of `bytes` bytes, new or in a new version; what is used under it stays.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn put_lease(&self, lease: LeaseId, signed: &[u8], bytes: u64) -> Result<(), FatError> {
        self.write(|tx| tx.put_lease(lease, signed, bytes))
    }

    /// Forgets a lease without chunks; false if it is not there.
    ///
    /// # Errors
    /// `LeaseInUse`, and as for [`Self::write`].
    pub fn remove_lease(&self, lease: LeaseId) -> Result<bool, FatError> {
        self.write(|tx| tx.remove_lease(lease))
    }

    /// Forgets a lease and every chunk under it. The parts await [`Self::finish_erases`].
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn erase_lease(&self, lease: LeaseId) -> Result<Vec<ErasedChunk>, FatError> {
        self.write(|tx| {
            let mut erased = Vec::new();
            for key in tx.keys_of_lease(lease)? {
                erased.extend(tx.erase_chunk(&key)?);
            }
            tx.remove_lease(lease)?;
            Ok(erased)
        })
    }

    /// Stores several values at once: head, epoch, cursors, whatever the vendor keeps under a name.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn put_many(&self, pairs: &[(&str, &[u8])]) -> Result<(), FatError> {
        self.write(|tx| pairs.iter().try_for_each(|(key, value)| tx.put_kv(key, value)))
    }

    /// Opens a directory as a device of `vendor`, as the one that it was when this path was opened before: a path that is
    /// known and has no marker now is unplugged, and opens suspended.
    ///
    /// # Errors
    /// As for [`DirectoryDevice::open`] and [`Self::write`].
    pub fn open_device(&self, config: DirectoryConfig, vendor: NodeId) -> Result<DirectoryDevice, OpenDeviceError> {
        let path = config.path.clone();
        let known = self.device_at(&path)?;
        let device = DirectoryDevice::open(config, vendor, known)?;
        if known.is_none() {
            self.put_device(&path, device.id())?;
        }
        Ok(device)
    }

    /// Notes that the directory at `path` is `device`, so that it is known when it is unplugged.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn put_device(&self, path: &Path, device: DeviceId) -> Result<(), FatError> {
        self.write(|tx| tx.put_device(path, device))
    }
}
