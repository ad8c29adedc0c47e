//! Final FATs and moves in the table.

use std::cmp::Reverse;

use crate::fat::{Fate, FinalFat, Follows, Lineage, Tag, Use};
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::limits::VERSIONS_MAX;
use crate::moves::Move;
use crate::mutations::{Line, without};
use crate::sign::Signed;
use crate::wire::{Refusal, RefusalKind};

use super::{Key, Merged, MoveKey, Table, Verified, stale};

/// What the table remembers of a final FAT; its bytes are in the mirror's store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FatEntry {
    /// Sequence number, a [`Tag`].
    pub seq: u64,
    /// Oldest live tag.
    pub base: u64,
    /// The versions that it follows.
    pub follows: Follows,
    /// The record's identity.
    pub hash: Hash,
    /// Whether it releases the file.
    pub released: bool,
    /// What it uses.
    pub uses: Vec<Use>,
    /// Every vendor that must see it.
    pub vendors: Vec<NodeId>,
}

impl FatEntry {
    fn of(fat: &Signed<FinalFat>) -> Self {
        Self {
            seq: fat.seq,
            base: fat.base,
            follows: fat.follows.clone(),
            hash: fat.hash(),
            released: fat.is_release(),
            uses: fat.uses.to_vec(),
            vendors: fat.vendors(),
        }
    }

    /// What it says of the versions of its file.
    #[must_use]
    pub fn lineage(&self) -> Lineage<'_> {
        Lineage { base: Tag(self.base), seq: Tag(self.seq), follows: &self.follows }
    }

    /// Whether a version gives way to it.
    fn replaces(&self, version: &Self) -> bool {
        let (old, new) = (Tag(version.seq), Tag(self.seq));
        self.follows.has(old) || without(Line::Follows) && old.counter() < new.counter()
    }

    /// The order of the versions of a fork, the first one first: the highest counter, then the one that frees most, then by hash.
    fn rank(&self) -> (Reverse<u64>, Reverse<u64>, Hash) {
        (Reverse(Tag(self.seq).counter()), Reverse(self.base), self.hash)
    }
}

impl Table {
    /// Keeps the versions that none follows. Which ones these are does not depend on the order in which they come: of two tables,
    /// the highest version that only one of them keeps would be followed by, or ranked behind, one that both keep.
    pub(super) fn merge_fat(&mut self, fat: &Signed<FinalFat>) -> Result<Merged, Refusal> {
        let (owner, file, new) = (fat.owner, fat.file, FatEntry::of(fat));
        if self.versions(owner, file).any(|version| version.hash == new.hash) {
            return Ok(Merged::Known);
        }
        if self.versions(owner, file).any(|version| version.replaces(&new)) {
            return stale("final FAT of this file");
        }
        let others: Vec<&FatEntry> = self.versions(owner, file).filter(|version| !new.replaces(version)).collect();
        let last = others.iter().map(|version| version.rank()).max().filter(|_| others.len() >= VERSIONS_MAX);
        if last.is_some_and(|last| new.rank() > last) {
            return Err(Refusal::new(
                RefusalKind::Conflict,
                "this file has as many versions as are kept; choose one of them first",
            ));
        }
        let before = self.shares_of(owner, file);
        let merged = self.add_version(owner, file, new, last.map(|(_, _, last)| last));
        self.reclaim(owner, file, &before);
        Ok(merged)
    }

    /// Takes a version in place of those that it follows, and of the twin `last`, for which there is no place.
    fn add_version(&mut self, owner: OwnerId, file: FileId, new: FatEntry, last: Option<Hash>) -> Merged {
        let hash = new.hash;
        let goes = |twin: &&FatEntry| new.replaces(twin) || Some(twin.hash) == last;
        let gone: Vec<Hash> = self.twins_of(owner, file).filter(goes).map(|twin| twin.hash).collect();
        let mut drops: Vec<Key> = gone.iter().map(|hash| Key::Twin(owner, file, *hash)).collect();
        let gone = gone.into_iter().filter_map(|hash| self.twins.remove(&(owner, file, hash)));
        let mut tell: Vec<NodeId> = gone.flat_map(|twin| twin.vendors).chain(new.vendors.iter().copied()).collect();
        let first = self.fats.get(&(owner, file));
        // One that replaces the first has a higher counter than every other.
        let stays = first.is_some_and(|first| !new.replaces(first));
        let (key, demoted) = if first.is_some_and(|first| first.rank() < new.rank()) {
            self.twins.insert((owner, file, hash), new);
            (Key::Twin(owner, file, hash), None)
        } else {
            let mut demoted = None;
            match self.fats.insert((owner, file), new) {
                None => self.accounts.entry(owner).or_default().files += 1,
                Some(known) if stays => {
                    demoted = Some(Key::Twin(owner, file, known.hash));
                    self.twins.insert((owner, file, known.hash), known);
                }
                Some(known) => tell.extend(known.vendors),
            }
            (Key::Fat(owner, file), demoted)
        };
        self.drop_moves(owner, file, &mut drops, &mut tell);
        if self.twins_of(owner, file).next().is_some() {
            Merged::Twin { key, demoted, drops, tell }
        } else {
            Merged::New { drops, tell }
        }
    }

    /// Whether a version that is known replaced the chunks with this tag.
    fn replaced(&self, owner: OwnerId, file: FileId, tag: Tag) -> bool {
        self.versions(owner, file).any(|version| version.lineage().fate(tag) == Fate::Past)
    }

    /// Forgets the moves that the file's final FATs make void, whose destinations must hear of it, and the proofs.
    fn drop_moves(&mut self, owner: OwnerId, file: FileId, drops: &mut Vec<Key>, tell: &mut Vec<NodeId>) {
        let void = self.moves_of(owner, file).filter(|(_, moved)| self.replaced(owner, file, Tag(moved.seq)));
        for key in void.map(|(key, _)| key).collect::<Vec<MoveKey>>() {
            if let Some((_, moved)) = self.moves.remove(&key) {
                tell.push(moved.to);
            }
            drops.push(Key::Move(key));
        }
        drops.extend(self.clear_proofs(owner, file));
        tell.sort_unstable();
        tell.dedup();
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
        if self.replaced(moved.owner, moved.file, Tag(moved.seq)) {
            return stale("final FAT, which frees this chunk,");
        }
        let before = self.moves.insert(key, (hash, moved.clone()));
        let before = before.map(|(_, before)| before);
        self.reclaim_move(&key, before.as_ref(), moved);
        // Who took the chunk by the move that went has it all the same, and no record names it any more.
        let tell = std::iter::once(moved.to).chain(before.map(|before| before.to)).collect();
        Ok(Merged::New { drops: self.clear_proofs(moved.owner, moved.file), tell })
    }

    /// Where a record that was kept is: a final FAT may be one of several versions.
    #[must_use]
    pub fn place_of(&self, record: &Verified) -> Key {
        match record {
            Verified::Fat(fat) if self.twins.contains_key(&(fat.owner, fat.file, fat.hash())) => {
                Key::Twin(fat.owner, fat.file, fat.hash())
            }
            record => record.key(),
        }
    }

    /// All versions of a file: the one under [`Key::Fat`], then those that it does not follow.
    pub fn versions(&self, owner: OwnerId, file: FileId) -> impl Iterator<Item = &FatEntry> {
        self.fats.get(&(owner, file)).into_iter().chain(self.twins_of(owner, file))
    }

    /// Keys of all versions of a file, in the same order.
    pub fn version_keys(&self, owner: OwnerId, file: FileId) -> impl Iterator<Item = Key> {
        let first = self.fats.contains_key(&(owner, file)).then_some(Key::Fat(owner, file));
        first.into_iter().chain(self.twins_of(owner, file).map(move |twin| Key::Twin(owner, file, twin.hash)))
    }

    fn twins_of(&self, owner: OwnerId, file: FileId) -> impl Iterator<Item = &FatEntry> {
        let key = |byte| (owner, file, Hash([byte; Hash::LEN]));
        self.twins.range(key(0)..=key(0xff)).map(|(_, twin)| twin)
    }

    /// A file's entry; of several versions the first.
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

    /// Keys of final FATs and moves of `owner`, or of `only` these of its files if there are any, that come after `after`, in the
    /// order of keys.
    pub fn keys_of(&self, owner: OwnerId, only: &[FileId], after: Option<Key>) -> impl Iterator<Item = Key> {
        let mut ranges: Vec<[FileId; 2]> = only.iter().map(|file| [*file; 2]).collect();
        ranges.sort_unstable();
        ranges.dedup();
        if ranges.is_empty() {
            ranges.push([0, 0xff].map(|byte| FileId([byte; FileId::LEN])));
        }
        let moves = ranges.clone().into_iter().flat_map(move |[first, last]| {
            let end = |file: FileId, byte: u8| MoveKey {
                owner,
                file,
                chunk: ChunkId([byte; ChunkId::LEN]),
                from_lease: LeaseId([byte; LeaseId::LEN]),
            };
            self.moves.range(end(first, 0)..=end(last, 0xff)).map(|(key, _)| Key::Move(*key))
        });
        let twins = ranges.clone().into_iter().flat_map(move |[first, last]| {
            let range = (owner, first, Hash([0; Hash::LEN]))..=(owner, last, Hash([0xff; Hash::LEN]));
            self.twins.range(range).map(|((owner, file, hash), _)| Key::Twin(*owner, *file, *hash))
        });
        let fats = ranges.into_iter().flat_map(move |[first, last]| {
            self.fats.range((owner, first)..=(owner, last)).map(|((owner, file), _)| Key::Fat(*owner, *file))
        });
        fats.chain(moves).chain(twins).skip_while(move |key| after.is_some_and(|after| *key <= after))
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
        let uses = self.versions(owner, file).flat_map(|entry| entry.uses.iter().map(|used| used.vendor));
        let mut holders: Vec<NodeId> = uses.chain(self.moves_of(owner, file).map(|(_, moved)| moved.to)).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }
}
