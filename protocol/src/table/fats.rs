//! Final FATs and moves in the table.

use crate::fat::{FinalFat, Use};
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::moves::Move;
use crate::sign::Signed;
use crate::wire::{Refusal, RefusalKind};

use super::{Key, Merged, MoveKey, Table, stale};

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

impl Table {
    pub(super) fn merge_fat(&mut self, fat: &Signed<FinalFat>) -> Result<Merged, Refusal> {
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
        let mut drops: Vec<Key> = void.into_iter().map(Key::Move).collect();
        drops.extend(self.clear_proofs(fat.owner, fat.file));
        Ok(Merged::New { drops, tell })
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
            let Some(lease) = vendor.lease(used.lease) else { continue };
            if lease.owner != fat.owner {
                return Err(Refusal::new(RefusalKind::NotAuthorised, "the final FAT uses a lease of somebody else"));
            }
        }
        Ok(())
    }

    pub(super) fn merge_move(&mut self, moved: &Move, hash: Hash) -> Result<Merged, Refusal> {
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
        Ok(Merged::New { drops: self.clear_proofs(moved.owner, moved.file), tell: vec![moved.to] })
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
}
