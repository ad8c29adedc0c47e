//! What the local FAT holds, and what becomes of it.

use fathom_protocol::fat::{Follows, Lineage, Tag};
use fathom_protocol::ids::{ChunkId, FileId, LeaseId, OwnerId};
use fathom_protocol::time::UnixMs;

use crate::part::ChunkTag;
use crate::set::StoredPart;

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
    /// What it says, which decides what becomes of each chunk of the file; kept and given back by
    /// [`LocalFat::versions_of`](super::LocalFat::versions_of).
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
        /// Chunks that were erased. Their parts await [`LocalFat::finish_erases`](super::LocalFat::finish_erases).
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
