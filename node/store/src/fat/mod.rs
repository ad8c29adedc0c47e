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
mod inspect;
mod read;
mod recover;
mod tx;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fathom_protocol::fat::{Follows, Lineage, Tag};
use fathom_protocol::ids::{ChunkId, DeviceId, FileId, LeaseId, NodeId, OwnerId};
use fathom_protocol::time::UnixMs;

use crate::device::{Device, DeviceError};
use crate::directory::{DirectoryConfig, DirectoryDevice};
use crate::part::ChunkTag;
use crate::set::StoredPart;
use crate::storage::{FatStorage, FileStorage};
use batch::Batcher;
use engine::Engine;

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

/// A chunk of a user. Stored at most once, whatever is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// The user.
    pub owner: OwnerId,
    /// The chunk.
    pub chunk: ChunkId,
}

/// Where a stored chunk is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkState {
    /// Received from its owner and acknowledged; no final FAT names it yet.
    Stored,
    /// Received from another vendor and acknowledged; whether a mirror has its move is not known yet. No final FAT commits it: one that
    /// names its version may mean the copy that stayed with the source.
    Sent,
    /// A final FAT names it.
    Committed,
    /// It was moved to another vendor; kept until the hold time is over.
    Leaving {
        /// The signed move.
        moved: Vec<u8>,
    },
}

impl ChunkState {
    /// That of a chunk that has just come, from its owner or from another vendor.
    #[must_use]
    pub fn arrived(from_owner: bool) -> Self {
        if from_owner { Self::Stored } else { Self::Sent }
    }

    /// Whether the chunk lapses if nothing is heard that keeps it.
    #[must_use]
    pub fn lapses(&self) -> bool {
        matches!(self, Self::Stored | Self::Sent)
    }
}

/// What the local FAT knows of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkEntry {
    /// The user.
    pub owner: OwnerId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The user's file.
    pub file: FileId,
    /// The file's sequence number that the put was for.
    pub seq: u64,
    /// The lease whose room it takes.
    pub lease: LeaseId,
    /// Length, in bytes.
    pub length: u32,
    /// Where its parts are, in order.
    pub parts: Vec<StoredPart>,
    /// Where it is in its life.
    pub state: ChunkState,
    /// The signed receipt; empty after a rebuild.
    pub receipt: Vec<u8>,
    /// When it was stored.
    pub stored_at: UnixMs,
}

impl ChunkEntry {
    /// The key that it is stored under.
    #[must_use]
    pub fn key(&self) -> ChunkKey {
        ChunkKey { owner: self.owner, chunk: self.chunk }
    }

    /// A new entry for a chunk that was stored with `tag`.
    #[must_use]
    pub fn stored(tag: &ChunkTag, length: u32, parts: Vec<StoredPart>, receipt: Vec<u8>, stored_at: UnixMs) -> Self {
        let ChunkTag { owner, chunk, file, seq, lease } = *tag;
        Self { owner, chunk, file, seq, lease, length, parts, state: ChunkState::Stored, receipt, stored_at }
    }
}

/// A lease that this vendor granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseEntry {
    /// The signed lease.
    pub signed: Vec<u8>,
    /// Its extent, in bytes.
    pub bytes: u64,
    /// Bytes of chunks stored under it; kept by the local FAT itself.
    pub used: u64,
}

/// A final FAT record of a file that this vendor was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalEntry {
    /// Its sequence number, a [`Tag`].
    pub seq: u64,
    /// The oldest tag that lives.
    pub base: u64,
    /// The versions that it follows.
    pub follows: Follows,
    /// The signed record.
    pub record: Vec<u8>,
}

impl FinalEntry {
    /// What it says of the versions of its file.
    #[must_use]
    pub fn lineage(&self) -> Lineage<'_> {
        Lineage { base: Tag(self.base), seq: Tag(self.seq), follows: &self.follows }
    }
}

/// Sums over all chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FatTotals {
    /// How many chunks are stored.
    pub chunks: u64,
    /// Their bytes, without part headers.
    pub bytes: u64,
}

/// What became of an insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// It is stored now.
    New,
    /// It was stored before: answer with this entry's receipt. Nothing was changed or counted.
    AlreadyThere(Box<ChunkEntry>),
}

/// A final FAT record as it concerns this vendor's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitFile {
    /// The user.
    pub owner: OwnerId,
    /// The file.
    pub file: FileId,
    /// What it says, which decides what becomes of each chunk of the file; kept and given back by [`LocalFat::versions_of`].
    pub fat: FinalEntry,
    /// The time from which chunks of a version that was not chosen are held on.
    pub now: UnixMs,
}

/// What became of a final FAT record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It holds now.
    Applied {
        /// Chunks that went from stored to committed.
        committed: u64,
        /// Chunks that were erased. Their parts await [`LocalFat::finish_erases`].
        erased: Vec<ErasedChunk>,
    },
    /// One that follows it holds; nothing changed.
    Stale {
        /// The newer one's sequence number.
        seq: u64,
    },
    /// There are others, none of which follows it or is followed by it. All are kept, what each names is committed, and nothing was
    /// erased but what none of them wants.
    Forked {
        /// Chunks that went from stored to committed.
        committed: u64,
        /// Chunks that were erased, as above.
        erased: Vec<ErasedChunk>,
    },
    /// As many were written at once as are kept; nothing changed.
    Full,
}

/// A chunk that the local FAT has forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedChunk {
    /// The chunk.
    pub key: ChunkKey,
    /// The lease whose room it took.
    pub lease: LeaseId,
    /// The bytes that the lease has free again.
    pub length: u32,
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
