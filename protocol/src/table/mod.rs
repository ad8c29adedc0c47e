//! The mirror's File Allocation Table: which records are kept, and which of two wins.
//!
//! A mirror authors nothing. [`verify`] turns a carried record into a verified one without looking at the table, so it can
//! run on any thread; [`Table::merge`] is cheap and decides by `(epoch, seq)`, never by time. Merging is the same whatever
//! the order of arrival: mirrors that saw the same records hold the same table. So it never judges one record by another
//! that may arrive later; what a mirror asks of a submission beyond that is [`Table::admit`]. Only where vendors take more memory
//! than they may does it take an exchange of what was put out until they agree (`room`).

mod claims;
mod fats;
pub mod index;
mod proofs;
mod room;
mod submit;

use std::collections::{BTreeMap, BTreeSet};

use crate::fat::FinalFat;
use crate::fork::VerifiedProof;
use crate::head::VerifiedVendor;
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::moves::{CarriedMove, Move};
use crate::mutations::{Line, without};
use crate::sign::{RecordError, Signed};
use claims::Claims;
pub use fats::FatEntry;
use index::Index;
pub use proofs::{DROPPED_GRACE_MS, ProofEntry, Suspicion, Suspicions};
use room::Room;
pub use room::weight;
use submit::Account;
pub use submit::{Strangers, Submission};

use crate::wire::{Refusal, RefusalKind, SyncRecord, TableDigest};

/// A record that was verified on its own.
#[derive(Clone, Debug)]
pub enum Verified {
    /// A vendor's head and leases.
    Vendor(VerifiedVendor),
    /// A final FAT.
    Fat(Signed<FinalFat>),
    /// A cosigned move.
    Move(Move, CarriedMove),
    /// A proof against a vendor.
    Proof(Box<VerifiedProof>),
}

/// Verifies a record on its own: bounds, signature, and for a vendor the root over its leases.
///
/// # Errors
/// [`RecordError`].
pub fn verify(record: SyncRecord) -> Result<Verified, RecordError> {
    Ok(match record {
        SyncRecord::Vendor(vendor) => Verified::Vendor(vendor.verify()?),
        SyncRecord::Fat(fat) => Verified::Fat(fat.verify()?),
        SyncRecord::Move(moved) => Verified::Move(moved.verify()?, moved),
        SyncRecord::Proof(proof) => Verified::Proof(Box::new(proof.verify()?)),
    })
}

impl Verified {
    /// The record as it is sent and stored.
    #[must_use]
    pub fn to_record(&self) -> SyncRecord {
        match self {
            Self::Vendor(vendor) => SyncRecord::Vendor(vendor.to_record()),
            Self::Fat(fat) => SyncRecord::Fat(fat.carried().clone()),
            Self::Move(_, carried) => SyncRecord::Move(carried.clone()),
            Self::Proof(proof) => SyncRecord::Proof(Box::new(proof.carried().clone())),
        }
    }

    /// The hash by which mirrors compare it.
    #[must_use]
    pub fn compared(&self) -> Hash {
        match self {
            Self::Vendor(vendor) => vendor.head.hash(),
            Self::Fat(fat) => fat.hash(),
            Self::Move(_, carried) => carried.hash(),
            Self::Proof(proof) => proof.hash(),
        }
    }

    /// What it is about. A final FAT may lie under [`Key::Twin`] instead: [`Table::place_of`] knows.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Vendor(vendor) => Key::Vendor(vendor.head.vendor),
            Self::Fat(fat) => Key::Fat(fat.owner, fat.file),
            Self::Move(moved, _) => Key::Move(MoveKey::of(moved)),
            Self::Proof(proof) => Key::Proof(proof.vendor()),
        }
    }
}

/// Which move: a chunk leaves a lease once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveKey {
    /// Whose chunk.
    pub owner: OwnerId,
    /// Of which file.
    pub file: FileId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The lease it left.
    pub from_lease: LeaseId,
}

impl MoveKey {
    fn of(moved: &Move) -> Self {
        Self { owner: moved.owner, file: moved.file, chunk: moved.chunk, from_lease: moved.from_lease }
    }
}

/// What a record is about: at most one record is kept for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A vendor's head and leases.
    Vendor(NodeId),
    /// A file's final FAT.
    Fat(OwnerId, FileId),
    /// A move.
    Move(MoveKey),
    /// The proof against a vendor.
    Proof(NodeId),
    /// A final FAT that was written at once with the one under [`Self::Fat`], by its hash.
    Twin(OwnerId, FileId, Hash),
}

impl Key {
    /// The key as bytes for an ordered store: a tag and the identifiers, so that one owner's files lie together.
    ///
    /// ```text
    /// 1, vendor[32] | 2, owner[32], file[16] | 3, owner[32], file[16], chunk[32], lease[16]
    /// 5, vendor[32] | 6, owner[32], file[16], hash[32]
    /// ```
    /// 4 was once the announcement of a node, and is not used again.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Vendor(node) => [&[1][..], &node.0].concat(),
            Self::Fat(owner, file) => [&[2][..], &owner.0, &file.0].concat(),
            Self::Move(key) => [&[3][..], &key.owner.0, &key.file.0, &key.chunk.0, &key.from_lease.0].concat(),
            Self::Proof(vendor) => [&[5][..], &vendor.0].concat(),
            Self::Twin(owner, file, hash) => [&[6][..], &owner.0, &file.0, &hash.0].concat(),
        }
    }

    /// The key of a final FAT or a move from its bytes; `None` for any other bytes.
    #[must_use]
    pub fn of_file(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let (owner, rest) = rest.split_at_checked(OwnerId::LEN)?;
        let (file, rest) = rest.split_at_checked(FileId::LEN)?;
        let (owner, file) = (OwnerId::from_slice(owner)?, FileId::from_slice(file)?);
        match tag {
            2 if rest.is_empty() => Some(Self::Fat(owner, file)),
            3 => {
                let (chunk, lease) = rest.split_at_checked(ChunkId::LEN)?;
                let (chunk, from_lease) = (ChunkId::from_slice(chunk)?, LeaseId::from_slice(lease)?);
                Some(Self::Move(MoveKey { owner, file, chunk, from_lease }))
            }
            6 => Some(Self::Twin(owner, file, Hash::from_slice(rest)?)),
            _ => None,
        }
    }

    /// Whose file it is about, if it is about one.
    #[must_use]
    pub fn file(&self) -> Option<(OwnerId, FileId)> {
        match self {
            Self::Fat(owner, file) | Self::Twin(owner, file, _) => Some((*owner, *file)),
            Self::Move(key) => Some((key.owner, key.file)),
            Self::Vendor(_) | Self::Proof(_) => None,
        }
    }
}

/// What merging a record did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is new here: store it under its key, delete the records of `drops`, and show the final FAT of `tell` to its vendors.
    New {
        /// Keys of records that it made void.
        drops: Vec<Key>,
        /// Vendors to be told of the file's final FAT.
        tell: Vec<NodeId>,
    },
    /// A final FAT of a file that has others, which neither follow it nor it them: all are kept. First delete the records of
    /// `drops`, then move the record that is under the file's [`Key::Fat`] to `demoted`, then store this one under `key`.
    Twin {
        /// Where this one belongs.
        key: Key,
        /// Where the one belongs that was under [`Key::Fat`], if this one takes its place.
        demoted: Option<Key>,
        /// Keys of records that it made void.
        drops: Vec<Key>,
        /// Vendors to be told of the file's final FATs.
        tell: Vec<NodeId>,
    },
    /// It was known.
    Known,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    vendors: BTreeMap<NodeId, VerifiedVendor>,
    fats: BTreeMap<(OwnerId, FileId), FatEntry>,
    twins: BTreeMap<(OwnerId, FileId, Hash), FatEntry>,
    moves: BTreeMap<MoveKey, (Hash, Move)>,
    index: Index,
    proofs: BTreeMap<NodeId, ProofEntry>,
    /// The files that proofs of dropped leases are about, with the vendor.
    accused: BTreeSet<(OwnerId, FileId, NodeId)>,
    /// What each owner has here, so that a submission costs no walk through all leases.
    accounts: BTreeMap<OwnerId, Account>,
    claims: Claims,
    room: Room,
}

fn stale<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalKind::Stale, format!("a newer {what} is known")))
}

impl Table {
    /// Keeps `record` if it is newer than what is known.
    ///
    /// # Errors
    /// A [`Refusal`]: `Stale`, or `Conflict` if another record with this sequence number is known and wins, or `Busy` if it is a
    /// vendor's and there is no room for it.
    pub fn merge(&mut self, record: &Verified) -> Result<Merged, Refusal> {
        let merged = match record {
            Verified::Vendor(vendor) => self.merge_vendor(vendor),
            Verified::Fat(fat) => self.merge_fat(fat),
            Verified::Move(moved, carried) => self.merge_move(moved, carried.hash()),
            Verified::Proof(proof) => self.merge_proof(proof),
        }?;
        match &merged {
            Merged::New { drops, .. } => self.reindex(&record.key(), record, drops),
            Merged::Twin { key, demoted, drops, .. } => {
                self.reindex(key, record, drops);
                if let Some(demoted @ Key::Twin(_, _, hash)) = demoted {
                    self.index.put(demoted, *hash);
                }
            }
            Merged::Known => {}
        }
        Ok(merged)
    }

    fn reindex(&mut self, key: &Key, record: &Verified, drops: &[Key]) {
        for key in drops {
            self.index.remove(key);
        }
        self.index.put(key, record.compared());
    }

    fn merge_vendor(&mut self, vendor: &VerifiedVendor) -> Result<Merged, Refusal> {
        if let Some(known) = self.vendors.get(&vendor.head.vendor) {
            let (new, old) = ((vendor.head.epoch, vendor.head.seq), (known.head.epoch, known.head.seq));
            if without(Line::NoTime) && vendor.head.issued < known.head.issued {
                return stale("head of this vendor");
            }
            if new < old && !without(Line::HigherHead) {
                return stale("head of this vendor");
            }
            if new == old {
                // Two nodes run with one key. The smaller hash wins everywhere, so that mirrors agree.
                if vendor.head.hash() == known.head.hash() {
                    return Ok(Merged::Known);
                }
                if vendor.head.hash() > known.head.hash() {
                    return Err(Refusal::new(
                        RefusalKind::Conflict,
                        "this vendor signed two heads with one sequence number",
                    ));
                }
            }
        }
        Ok(Merged::New { drops: self.house(vendor)?, tell: Vec::new() })
    }

    /// All vendors, by identifier.
    pub fn vendors(&self) -> impl Iterator<Item = &VerifiedVendor> {
        self.vendors.values()
    }

    /// Vendors after `after`, by identifier.
    pub fn vendors_after(&self, after: Option<NodeId>) -> impl Iterator<Item = &VerifiedVendor> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.vendors.range((from, Unbounded)).map(|(_, vendor)| vendor)
    }

    /// One vendor.
    #[must_use]
    pub fn vendor(&self, vendor: NodeId) -> Option<&VerifiedVendor> {
        self.vendors.get(&vendor)
    }

    /// The vendor that has a lease called `lease` in its newest head. Identifiers are random, so there is one at most among
    /// honest vendors; of others, the first by identifier. Looks at each vendor.
    #[must_use]
    pub fn vendor_of(&self, lease: LeaseId) -> Option<&VerifiedVendor> {
        self.vendors.values().find(|vendor| vendor.lease(lease).is_some())
    }

    /// Digest of heads, final FATs, moves and proofs: equal for two mirrors exactly if they hold the same.
    #[must_use]
    pub fn digest(&self) -> TableDigest {
        let mut hasher = blake3::Hasher::new();
        for vendor in self.vendors.values() {
            hasher.update(&[1]).update(&vendor.head.vendor.0).update(&vendor.head.hash().0);
        }
        for ((owner, file), entry) in &self.fats {
            hasher.update(&[2]).update(&owner.0).update(&file.0).update(&entry.hash.0);
        }
        for (owner, file, hash) in self.twins.keys() {
            hasher.update(&[6]).update(&owner.0).update(&file.0).update(&hash.0);
        }
        for (key, (hash, _)) in &self.moves {
            hasher.update(&[3]).update(&key.owner.0).update(&key.file.0).update(&hash.0);
        }
        for (vendor, proof) in &self.proofs {
            hasher.update(&[5]).update(&vendor.0).update(&proof.hash.0);
        }
        TableDigest {
            digest: Hash(*hasher.finalize().as_bytes()),
            heads: self.vendors.len() as u64,
            leases: self.vendors.values().map(|vendor| vendor.leases.len() as u64).sum(),
            files: self.fats.values().filter(|entry| !entry.released).count() as u64,
            moves: self.moves.len() as u64,
            proofs: self.proofs.len() as u64,
        }
    }
}
