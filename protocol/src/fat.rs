//! The final FAT of one file: a public part that mirrors and vendors act on, and a sealed manifest for its owner.
//!
//! Chunks are stored under a [`Tag`], which is the sequence number of the final FAT that they are for. A final FAT says which tags
//! live ([`Lineage::fate`]): a vendor that sees it commits those chunks and erases those that it replaces.
//! Removing a file is a final FAT without uses and with `base = seq`.
//!
//! Two final FATs of one file of which neither follows the other are a fork: two devices of one user wrote at once. All are kept,
//! and nothing that one of them names is freed, until a final FAT that follows them says which one stays.

mod pieces;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec::{Blob, Bounded, Text};
use crate::erasure::{Code, NoCode};
use crate::ids::{ChunkId, FileId, LeaseId, NodeId, OwnerId};
use crate::limits::{CHUNK_PLAIN_MAX, COPIES_MAX, FAT_BODY_BYTES_MAX, FAT_USES_MAX, NAME_BYTES_MAX};
pub use crate::lineage::{Fate, Follows, Lineage, Tag};
use crate::moves::Move;
use crate::sign::{RecordError, record};
use crate::tags;
use crate::time::UnixMs;
pub use pieces::{ParityRef, Piece};

/// What a file uses of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Where.
    pub vendor: NodeId,
    /// The lease.
    pub lease: LeaseId,
    /// Bytes of this file stored under it.
    pub bytes: u64,
    /// Room that was locked for this file and is given back, in bytes.
    pub unused: u64,
}

/// The final FAT of one file (figure 15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalFat {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who signs.
    pub owner: OwnerId,
    /// Which file.
    pub file: FileId,
    /// The [`Tag`] of this final FAT, as a number.
    pub seq: u64,
    /// The oldest [`Tag`] that still lives: `seq`, or one with a lower counter.
    pub base: u64,
    /// The versions that its author knew.
    pub follows: Follows,
    /// What is stored where. Empty for a released or an empty file.
    pub uses: Bounded<Use, FAT_USES_MAX>,
    /// Vendors that may still hold chunks with older tags, to be told.
    pub frees: Bounded<NodeId, FAT_USES_MAX>,
    /// When it was signed.
    pub issued: UnixMs,
    /// Until when vendors act on it as an order to erase.
    pub order_expires: UnixMs,
    /// The sealed [`Manifest`]; empty when the file is released.
    pub body: Blob<FAT_BODY_BYTES_MAX>,
}

impl FinalFat {
    /// [`Self::seq`] as a tag.
    #[must_use]
    pub fn tag(&self) -> Tag {
        Tag(self.seq)
    }

    /// What it says of the versions of its file.
    #[must_use]
    pub fn lineage(&self) -> Lineage<'_> {
        Lineage { base: Tag(self.base), seq: Tag(self.seq), follows: &self.follows }
    }

    /// Whether it releases the file. An empty file has no uses either, and a manifest.
    #[must_use]
    pub fn is_release(&self) -> bool {
        self.body.is_empty()
    }

    /// Every vendor that must see it, each once.
    #[must_use]
    pub fn vendors(&self) -> Vec<NodeId> {
        let mut vendors: Vec<NodeId> =
            self.uses.iter().map(|used| used.vendor).chain(self.frees.iter().copied()).collect();
        vendors.sort_unstable();
        vendors.dedup();
        vendors
    }
}

record!(
    FinalFat,
    tags::sign::FAT,
    FAT_BODY_BYTES_MAX + 1024 * 1024,
    owner,
    fn check(&self) -> Result<(), RecordError> {
        if self.base != self.seq && Tag(self.base).counter() >= Tag(self.seq).counter() {
            return Err(RecordError::Invalid("a final FAT's base is past its sequence number"));
        }
        if !self.follows.precede(Tag(self.seq)) {
            return Err(RecordError::Invalid("a final FAT follows what does not come before it"));
        }
        if self.body.is_empty() && (!self.uses.is_empty() || self.base != self.seq) {
            return Err(RecordError::Invalid("a final FAT without a manifest must release everything"));
        }
        Ok(())
    }
);

/// A place where chunks of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The vendor.
    pub vendor: NodeId,
    /// The lease there.
    pub lease: LeaseId,
}

/// One chunk of a file as its owner knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// BLAKE3 of the ciphertext.
    pub id: ChunkId,
    /// With the file key and the index it gives the chunk's key, see [`crate::seal::chunk_salt`].
    pub salt: [u8; SALT_LEN],
    /// Where its copies are: indices into [`Manifest::places`].
    pub copies: Vec<u16>,
}

/// Bytes of a chunk's salt.
pub const SALT_LEN: usize = 8;
const CHUNK_ENTRY: usize = ChunkId::LEN + SALT_LEN;
const NOWHERE: u16 = u16::MAX;

/// What only the owner can read: name, keys and where each chunk is.
///
/// Chunks are packed, so that a file costs 40 bytes a chunk and 2 a copy, and 34 a parity shard:
/// ```text
/// chunks: n x (id[32], salt[8])      copies: n x copies_per_chunk x index u16 le, 0xFFFF for none
/// parity: s x m x (id[32], index u16 le)        for s stripes of k chunks, see [`crate::erasure`]; copies_per_chunk is 1
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version, [`tags::VERSION`], or with parity [`tags::MANIFEST_CODED`].
    pub version: u16,
    /// Name under which the user stored it, with `/` between its parts.
    pub name: Text<NAME_BYTES_MAX>,
    /// Length of the plaintext, bytes.
    pub size: u64,
    /// Unix permission bits.
    pub mode: u32,
    /// When the source was last modified.
    pub modified: UnixMs,
    /// Plaintext bytes of each chunk but the last.
    pub chunk_plain: u32,
    /// Key of this file's chunks.
    pub file_key: [u8; 32],
    /// The places that `copies` refers to.
    pub places: Bounded<Place, FAT_USES_MAX>,
    /// Copies of each chunk, 1 to [`COPIES_MAX`].
    pub copies_per_chunk: u8,
    chunks: Blob<FAT_BODY_BYTES_MAX>,
    copies: Blob<FAT_BODY_BYTES_MAX>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parity: Option<Parity>,
}

/// The parity shards of a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Parity {
    code: Code,
    shards: Blob<FAT_BODY_BYTES_MAX>,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Manifest({:?}, {} bytes, {} chunks)", self.name, self.size, self.chunk_count())
    }
}

/// What describes a file apart from its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// Name under which the user stored it.
    pub name: Text<NAME_BYTES_MAX>,
    /// Length of the plaintext, bytes.
    pub size: u64,
    /// Unix permission bits.
    pub mode: u32,
    /// When the source was last modified.
    pub modified: UnixMs,
    /// Plaintext bytes of each chunk but the last.
    pub chunk_plain: u32,
}

/// Why chunks do not make a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A version that this build does not know.
    #[error("the manifest has version {0}, which is not known here; update fathom")]
    Version(u16),
    /// Too many chunks or places.
    #[error("the file has more chunks or places than one final FAT holds")]
    TooLarge,
    /// The parts contradict each other.
    #[error("the manifest is not valid: {0}")]
    Invalid(&'static str),
    /// Not a code.
    #[error("{0}")]
    Code(#[from] NoCode),
}

impl Manifest {
    /// Packs a file's description and chunks.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn new(
        meta: FileMeta,
        file_key: [u8; 32],
        places: Vec<Place>,
        copies_per_chunk: u8,
        chunks: &[ChunkRef],
    ) -> Result<Self, ManifestError> {
        let mut packed = Vec::with_capacity(chunks.len() * CHUNK_ENTRY);
        let mut copies = Vec::with_capacity(chunks.len() * usize::from(copies_per_chunk) * 2);
        for chunk in chunks {
            packed.extend_from_slice(&chunk.id.0);
            packed.extend_from_slice(&chunk.salt);
            if chunk.copies.len() > usize::from(copies_per_chunk) {
                return Err(ManifestError::Invalid("a chunk has more copies than the file"));
            }
            for slot in 0..usize::from(copies_per_chunk) {
                copies.extend_from_slice(&chunk.copies.get(slot).copied().unwrap_or(NOWHERE).to_le_bytes());
            }
        }
        let manifest = Self {
            version: tags::VERSION,
            name: meta.name,
            size: meta.size,
            mode: meta.mode,
            modified: meta.modified,
            chunk_plain: meta.chunk_plain,
            file_key,
            places: Bounded::new(places).map_err(|_| ManifestError::TooLarge)?,
            copies_per_chunk,
            chunks: Blob::new(packed).map_err(|_| ManifestError::TooLarge)?,
            copies: Blob::new(copies).map_err(|_| ManifestError::TooLarge)?,
            parity: None,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Whether the packed parts agree with each other and with the size.
    ///
    /// # Errors
    /// [`ManifestError::Version`] or [`ManifestError::Invalid`].
    pub fn check(&self) -> Result<(), ManifestError> {
        match (self.version, &self.parity) {
            (tags::VERSION, None) | (tags::MANIFEST_CODED, Some(_)) => {}
            (tags::VERSION | tags::MANIFEST_CODED, _) => {
                return Err(ManifestError::Invalid("its version does not say whether it has parity"));
            }
            (other, _) => return Err(ManifestError::Version(other)),
        }
        let copies = usize::from(self.copies_per_chunk);
        if copies == 0 || copies > COPIES_MAX || self.chunk_plain == 0 || self.chunk_plain as usize > CHUNK_PLAIN_MAX {
            return Err(ManifestError::Invalid("copies or chunk size out of range"));
        }
        let count = self.size.div_ceil(u64::from(self.chunk_plain));
        if self.chunks.len() as u64 != count.saturating_mul(CHUNK_ENTRY as u64)
            || self.copies.len() != self.chunk_count() * copies * 2
        {
            return Err(ManifestError::Invalid("the chunks do not add up to the size"));
        }
        let places = self.places.len();
        let known = |pair: &[u8]| {
            let index = u16::from_le_bytes([pair[0], pair[1]]);
            index == NOWHERE || usize::from(index) < places
        };
        if !self.copies.chunks_exact(2).all(known) {
            return Err(ManifestError::Invalid("a copy refers to no place"));
        }
        self.check_parity(known)
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.chunks.len() / CHUNK_ENTRY
    }

    /// Chunk `index`, or `None` past the end.
    #[must_use]
    pub fn chunk(&self, index: usize) -> Option<ChunkRef> {
        let entry = self.chunks.chunks_exact(CHUNK_ENTRY).nth(index)?;
        let per = usize::from(self.copies_per_chunk) * 2;
        let copies = self.copies.chunks_exact(per).nth(index)?;
        Some(ChunkRef {
            id: ChunkId::from_slice(&entry[..ChunkId::LEN])?,
            salt: entry[ChunkId::LEN..].try_into().ok()?,
            copies: copies
                .chunks_exact(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .filter(|place| *place != NOWHERE)
                .collect(),
        })
    }

    /// All chunks in order.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        (0..self.chunk_count()).filter_map(|index| self.chunk(index))
    }

    /// Whether `other` is the same file with the same chunks, wherever their copies are.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        (&self.name, self.size, &self.file_key, &self.chunks)
            == (&other.name, other.size, &other.file_key, &other.chunks)
    }

    /// Where the copies of `chunk`, one of this manifest, are.
    pub fn places_of(&self, chunk: &ChunkRef) -> impl Iterator<Item = Place> + '_ {
        self.places_at(chunk.copies.clone())
    }

    fn places_at(&self, copies: Vec<u16>) -> impl Iterator<Item = Place> + '_ {
        copies.into_iter().filter_map(|place| self.places.get(usize::from(place)).copied())
    }

    /// The places where a copy of one of its pieces is.
    #[must_use]
    pub fn used_places(&self) -> BTreeSet<Place> {
        let used: BTreeSet<u16> = self.pieces().flat_map(|piece| piece.copies).collect();
        used.into_iter().filter_map(|place| self.places.get(usize::from(place)).copied()).collect()
    }

    /// Length of chunk `index` before sealing, bytes.
    #[must_use]
    pub fn plain_len(&self, index: usize) -> u32 {
        let start = index as u64 * u64::from(self.chunk_plain);
        u32::try_from(self.size.saturating_sub(start).min(u64::from(self.chunk_plain))).unwrap_or(self.chunk_plain)
    }

    /// This manifest with the moves of its file laid over it: each move takes one copy to its new place.
    /// Moves of one chunk that follow each other are followed, in whatever order they come; moves of unknown chunks change
    /// nothing. `moves` holds at most one move of a chunk out of each lease, as a mirror keeps them.
    ///
    /// # Errors
    /// [`ManifestError::TooLarge`] if the new places do not fit.
    pub fn with_moves(&self, moves: &[Move]) -> Result<Self, ManifestError> {
        let mut places = self.places.clone().into_vec();
        let mut pieces: Vec<Piece> = self.pieces().collect();
        // Shards of one stripe may be the same bytes.
        let mut index: BTreeMap<ChunkId, Vec<usize>> = BTreeMap::new();
        pieces.iter().enumerate().for_each(|(at, piece)| index.entry(piece.id).or_default().push(at));
        let mut pending: Vec<&Move> = moves.iter().collect();
        // Moves carry no order; one applies when its source holds the chunk, so repeat until none does.
        let mut progress = true;
        while progress {
            progress = false;
            pending.retain(|moved| {
                let at = index.get(&moved.chunk).map(Vec::as_slice).unwrap_or_default();
                let done = at.iter().any(|at| apply_move(&mut places, &mut pieces[*at].copies, moved));
                progress |= done;
                !done
            });
        }
        let copies: Vec<Vec<u16>> = pieces.into_iter().map(|piece| piece.copies).collect();
        self.placed(places, &copies)
    }

    /// The same file with its pieces at other `places`: `copies` are indices into these, for each piece in order.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn placed(&self, places: Vec<Place>, copies: &[Vec<u16>]) -> Result<Self, ManifestError> {
        let meta = FileMeta {
            name: self.name.clone(),
            size: self.size,
            mode: self.mode,
            modified: self.modified,
            chunk_plain: self.chunk_plain,
        };
        let (data, coded) = copies.split_at_checked(self.chunk_count()).ok_or(ManifestError::Invalid(PIECE_MISSING))?;
        let chunk = |(chunk, copies): (ChunkRef, &Vec<u16>)| ChunkRef { copies: copies.clone(), ..chunk };
        let chunks: Vec<ChunkRef> = self.chunks().zip(data).map(chunk).collect();
        match self.code() {
            None => Self::new(meta, self.file_key, places, self.copies_per_chunk, &chunks),
            Some(code) => {
                let shard =
                    |(shard, at): (ParityRef, &Vec<u16>)| ParityRef { id: shard.id, place: at.first().copied() };
                let parity: Vec<ParityRef> = self.parity().zip(coded).map(shard).collect();
                Self::coded(meta, self.file_key, places, code, (&chunks, &parity))
            }
        }
    }
}

/// What is wrong with a list of copies that is too short.
const PIECE_MISSING: &str = "a piece of the file has no entry";

/// Takes one of the `copies` of a chunk along, if one is where the move begins. One and not all: where a second copy went to the lease
/// that the first one left, the result must not depend on which move is laid over first.
fn apply_move(places: &mut Vec<Place>, copies: &mut [u16], moved: &Move) -> bool {
    let from = Place { vendor: moved.from, lease: moved.from_lease };
    let to = Place { vendor: moved.to, lease: moved.to_lease };
    let Some(from) = places.iter().position(|place| *place == from) else { return false };
    let Some(copy) = copies.iter_mut().find(|copy| usize::from(**copy) == from) else { return false };
    let target = places.iter().position(|place| *place == to).unwrap_or(places.len());
    let Ok(index) = u16::try_from(target) else { return false };
    if target == places.len() {
        places.push(to);
    }
    *copy = index;
    true
}
