//! The mirror's File Allocation Table: which records are kept, and which of two wins.
//!
//! A mirror authors nothing. [`verify`] turns a carried record into a verified one without looking at the table, so it can
//! run on any thread; [`Table::merge`] is cheap and decides by `(epoch, seq)`, never by time. Merging is the same whatever
//! the order of arrival: mirrors that saw the same records hold the same table. So it never judges one record by another
//! that may arrive later; what a mirror asks of a submission beyond that is [`Table::check_uses`].

use std::collections::BTreeMap;

use crate::fat::{FinalFat, Use};
use crate::head::VerifiedVendor;
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::moves::{CarriedMove, Move};
use crate::sign::{RecordError, Signed};
use crate::wire::{PeerRecord, Refusal, RefusalKind, SyncRecord, TableDigest};

/// A record that was verified on its own.
#[derive(Clone, Debug)]
pub enum Verified {
    /// A vendor's head and leases.
    Vendor(VerifiedVendor),
    /// A final FAT.
    Fat(Signed<FinalFat>),
    /// A cosigned move.
    Move(Move, CarriedMove),
    /// A node's announcement.
    Peer(Signed<PeerRecord>),
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
        SyncRecord::Peer(peer) => Verified::Peer(peer.verify()?),
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
            Self::Peer(peer) => SyncRecord::Peer(peer.carried().clone()),
        }
    }

    /// What it is about.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Vendor(vendor) => Key::Vendor(vendor.head.vendor),
            Self::Fat(fat) => Key::Fat(fat.owner, fat.file),
            Self::Move(moved, _) => Key::Move(MoveKey::of(moved)),
            Self::Peer(peer) => Key::Peer(peer.node),
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
    /// A node's announcement.
    Peer(NodeId),
}

impl Key {
    /// The key as bytes for an ordered store: a tag and the identifiers, so that one owner's files lie together.
    ///
    /// ```text
    /// 1, vendor[32] | 2, owner[32], file[16] | 3, owner[32], file[16], chunk[32], lease[16] | 4, node[32]
    /// ```
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Vendor(node) => [&[1][..], &node.0].concat(),
            Self::Fat(owner, file) => [&[2][..], &owner.0, &file.0].concat(),
            Self::Move(key) => [&[3][..], &key.owner.0, &key.file.0, &key.chunk.0, &key.from_lease.0].concat(),
            Self::Peer(node) => [&[4][..], &node.0].concat(),
        }
    }
}

/// What the table remembers of a final FAT; its bytes are in the mirror's store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FatEntry {
    /// Sequence number.
    pub seq: u64,
    /// Oldest live tag.
    pub base: u64,
    /// The record's identity.
    pub hash: Hash,
    /// Whether it releases the file.
    pub released: bool,
    /// What it uses.
    pub uses: Vec<Use>,
    /// Every vendor that must see it.
    pub vendors: Vec<NodeId>,
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
    /// It was known.
    Known,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    vendors: BTreeMap<NodeId, VerifiedVendor>,
    fats: BTreeMap<(OwnerId, FileId), FatEntry>,
    moves: BTreeMap<MoveKey, (Hash, Move)>,
    peers: BTreeMap<NodeId, Signed<PeerRecord>>,
}

fn stale<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalKind::Stale, format!("a newer {what} is known")))
}

impl Table {
    /// Keeps `record` if it is newer than what is known.
    ///
    /// # Errors
    /// A [`Refusal`]: `Stale`, or `Conflict` if another record with this sequence number is known and wins.
    pub fn merge(&mut self, record: &Verified) -> Result<Merged, Refusal> {
        match record {
            Verified::Vendor(vendor) => self.merge_vendor(vendor),
            Verified::Fat(fat) => self.merge_fat(fat),
            Verified::Move(moved, carried) => self.merge_move(moved, carried.hash()),
            Verified::Peer(peer) => self.merge_peer(peer),
        }
    }

    fn merge_vendor(&mut self, vendor: &VerifiedVendor) -> Result<Merged, Refusal> {
        if let Some(known) = self.vendors.get(&vendor.head.vendor) {
            let (new, old) = ((vendor.head.epoch, vendor.head.seq), (known.head.epoch, known.head.seq));
            if new < old {
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
        self.vendors.insert(vendor.head.vendor, vendor.clone());
        Ok(Merged::New { drops: Vec::new(), tell: Vec::new() })
    }

    fn merge_fat(&mut self, fat: &Signed<FinalFat>) -> Result<Merged, Refusal> {
        let key = (fat.owner, fat.file);
        let hash = fat.hash();
        let mut tell = fat.vendors();
        if let Some(known) = self.fats.get(&key) {
            if fat.seq < known.seq {
                return stale("final FAT of this file");
            }
            if fat.seq == known.seq {
                // Two devices of one user wrote at once. One wins everywhere, so that mirrors agree: the one that frees
                // more, since moves that it made void are gone where it came first; then the one with the smaller hash.
                if hash == known.hash {
                    return Ok(Merged::Known);
                }
                if (known.base, hash) > (fat.base, known.hash) {
                    return Err(Refusal::new(
                        RefusalKind::Conflict,
                        "another final FAT with this sequence number is known",
                    ));
                }
            }
            tell.extend(known.vendors.iter().copied());
        }
        let void: Vec<MoveKey> =
            self.moves_of(fat.owner, fat.file).filter(|(_, moved)| moved.seq < fat.base).map(|(key, _)| key).collect();
        for key in &void {
            if let Some((_, moved)) = self.moves.remove(key) {
                tell.push(moved.to);
            }
        }
        tell.sort_unstable();
        tell.dedup();
        let entry = FatEntry {
            seq: fat.seq,
            base: fat.base,
            hash,
            released: fat.is_release(),
            uses: fat.uses.to_vec(),
            vendors: fat.vendors(),
        };
        self.fats.insert(key, entry);
        Ok(Merged::New { drops: void.into_iter().map(Key::Move).collect(), tell })
    }

    /// Whether a submitted final FAT fits the leases as far as they are known here. A lease that this mirror has not heard of
    /// yet is left to its vendor, which checks again. For submissions only: records that another mirror took are merged
    /// without it, since the answer depends on which leases arrived before.
    ///
    /// # Errors
    /// A [`Refusal`] if it uses a lease of somebody else.
    pub fn check_uses(&self, fat: &FinalFat) -> Result<(), Refusal> {
        for used in &fat.uses {
            let Some(vendor) = self.vendors.get(&used.vendor) else { continue };
            let Ok(at) = vendor.leases.binary_search_by(|lease| lease.id.cmp(&used.lease)) else { continue };
            let lease = &vendor.leases[at];
            if lease.owner != fat.owner {
                return Err(Refusal::new(RefusalKind::NotAuthorised, "the final FAT uses a lease of somebody else"));
            }
        }
        Ok(())
    }

    fn merge_move(&mut self, moved: &Move, hash: Hash) -> Result<Merged, Refusal> {
        let key = MoveKey::of(moved);
        if let Some((known, before)) = self.moves.get(&key) {
            if *known == hash {
                return Ok(Merged::Known);
            }
            // The newer tag wins, since a final FAT may make the older one void; then the smaller hash.
            if (moved.seq, *known) < (before.seq, hash) {
                return Err(Refusal::new(RefusalKind::Conflict, "this chunk left this lease already"));
            }
        }
        if let Some(fat) = self.fats.get(&(moved.owner, moved.file))
            && moved.seq < fat.base
        {
            return stale("final FAT, which frees this chunk,");
        }
        self.moves.insert(key, (hash, moved.clone()));
        Ok(Merged::New { drops: Vec::new(), tell: vec![moved.to] })
    }

    fn merge_peer(&mut self, peer: &Signed<PeerRecord>) -> Result<Merged, Refusal> {
        match self.peers.get(&peer.node) {
            Some(known) if known.hash() == peer.hash() => return Ok(Merged::Known),
            Some(known) if (known.issued, known.hash()) > (peer.issued, peer.hash()) => {
                return stale("announcement of this node");
            }
            _ => {}
        }
        self.peers.insert(peer.node, peer.clone());
        Ok(Merged::New { drops: Vec::new(), tell: Vec::new() })
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

    /// A file's entry.
    #[must_use]
    pub fn fat(&self, owner: OwnerId, file: FileId) -> Option<&FatEntry> {
        self.fats.get(&(owner, file))
    }

    /// Files of `owner` after `after`, in order.
    pub fn fats_after(&self, owner: OwnerId, after: Option<FileId>) -> impl Iterator<Item = (FileId, &FatEntry)> {
        use std::ops::Bound::{Excluded, Included};
        let from = after.map_or(Included((owner, FileId([0; FileId::LEN]))), |file| Excluded((owner, file)));
        let to = Included((owner, FileId([0xff; FileId::LEN])));
        self.fats.range((from, to)).map(|((_, file), entry)| (*file, entry))
    }

    /// Moves of one file.
    pub fn moves_of(&self, owner: OwnerId, file: FileId) -> impl Iterator<Item = (MoveKey, &Move)> {
        let key = |chunk: u8, lease: u8| MoveKey {
            owner,
            file,
            chunk: ChunkId([chunk; ChunkId::LEN]),
            from_lease: LeaseId([lease; LeaseId::LEN]),
        };
        self.moves.range(key(0, 0)..=key(0xff, 0xff)).map(|(key, (_, moved))| (*key, moved))
    }

    /// Vendors that hold a file, moves followed: its uses and the destinations of its moves.
    #[must_use]
    pub fn holders(&self, owner: OwnerId, file: FileId) -> Vec<NodeId> {
        let uses = self.fat(owner, file).into_iter().flat_map(|entry| entry.uses.iter().map(|used| used.vendor));
        let mut holders: Vec<NodeId> = uses.chain(self.moves_of(owner, file).map(|(_, moved)| moved.to)).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Announcements, by node.
    pub fn peers(&self) -> impl Iterator<Item = &Signed<PeerRecord>> {
        self.peers.values()
    }

    /// Digest of heads, final FATs and moves: equal for two mirrors exactly if they hold the same. Announcements do not count.
    #[must_use]
    pub fn digest(&self) -> TableDigest {
        let mut hasher = blake3::Hasher::new();
        for vendor in self.vendors.values() {
            hasher.update(&[1]).update(&vendor.head.vendor.0).update(&vendor.head.hash().0);
        }
        for ((owner, file), entry) in &self.fats {
            hasher.update(&[2]).update(&owner.0).update(&file.0).update(&entry.hash.0);
        }
        for (key, (hash, _)) in &self.moves {
            hasher.update(&[3]).update(&key.owner.0).update(&key.file.0).update(&hash.0);
        }
        TableDigest {
            digest: Hash(*hasher.finalize().as_bytes()),
            heads: self.vendors.len() as u64,
            leases: self.vendors.values().map(|vendor| vendor.leases.len() as u64).sum(),
            files: self.fats.values().filter(|entry| !entry.released).count() as u64,
            moves: self.moves.len() as u64,
        }
    }
}
