//! Chunks that change hands: where they are by the moves that mirrors have, and that a source lets go only of what is elsewhere.

use std::collections::BTreeSet;

use fathom_protocol::fat::{Fate, Place, Tag};
use fathom_protocol::ids::{ChunkId, Hash, NodeId};
use fathom_protocol::moves::Move;
use fathom_protocol::rehome::HeldChunk;
use fathom_protocol::table::{MoveKey, Table};
use fathom_store::{ChunkEntry, ChunkKey, ChunkState};

use super::{FileKey, Oracle, Quiet};
use crate::sim::node::Known;
use crate::sim::vendor::OnDisk;

/// Moves of one chunk that are followed, at most: liars may sign circles.
const STEPS_MAX: usize = 64;

/// Where a copy is that was at `place`, by `moves`, which hold one of a chunk out of each lease.
fn follow<'a>(mut place: Place, next: impl Fn(Place) -> Option<&'a Move>) -> Place {
    let mut left = BTreeSet::new();
    for _ in 0..STEPS_MAX {
        // Each counts once: a chunk may have come back to a lease that it left.
        match next(place).filter(|_| left.insert(place)) {
            Some(moved) => place = Place { vendor: moved.to, lease: moved.to_lease },
            None => break,
        }
    }
    place
}

/// Where a copy is by a mirror's table.
pub(super) fn led_to(table: &Table, (owner, file): FileKey, chunk: ChunkId, place: Place) -> Place {
    follow(place, |at| {
        let mut moves = table.moves_of(owner, file).map(|(_, moved)| moved);
        moves.find(|moved| moved.chunk == chunk && (moved.from, moved.from_lease) == (at.vendor, at.lease))
    })
}

impl Oracle {
    /// A mirror keeps a move. Of two of one chunk out of one lease, all mirrors come to keep the same.
    pub(in crate::sim) fn mirror_has_move(&mut self, moved: &Move, hash: Hash) {
        let key = MoveKey { owner: moved.owner, file: moved.file, chunk: moved.chunk, from_lease: moved.from_lease };
        let known = self.moves.entry(key).or_insert_with(|| (hash, moved.clone()));
        if (known.1.seq, hash) > (moved.seq, known.0) {
            return;
        }
        *known = (hash, moved.clone());
    }

    /// Where a copy is by all that mirrors ever kept.
    pub(super) fn place_now(&self, (owner, file): FileKey, chunk: ChunkId, place: Place) -> Place {
        follow(place, |at| {
            let key = MoveKey { owner, file, chunk, from_lease: at.lease };
            self.moves.get(&key).map(|(_, moved)| moved).filter(|moved| moved.from == at.vendor)
        })
    }

    /// A source takes its chunk for moved.
    pub(in crate::sim) fn leaves(&mut self, me: usize, key: ChunkKey, at: u64) {
        self.leaving.insert((me, key), at);
    }

    /// A source erases a chunk that it moved: only once a mirror has the move, for the hold time, and only what is elsewhere.
    pub(in crate::sim) fn lets_go(&mut self, (me, id): (usize, NodeId), chunk: &HeldChunk, at: u64, known: &Known) {
        let key = ChunkKey { owner: chunk.owner, chunk: chunk.chunk };
        self.left.insert((me, key));
        self.ever_left.insert((me, key));
        if known.byzantine[me] || self.forkers.contains(&chunk.owner) {
            return;
        }
        let (file, short) = ((chunk.owner, chunk.file), chunk.chunk.short());
        let held = self.leaving.remove(&(me, key)).map_or(u64::MAX, |since| at - since);
        if held < known.hold_ms {
            self.broken(9, format!("vendor {me} erased chunk {short} {held} ms after it was moved"));
        }
        let before = Place { vendor: id, lease: chunk.lease };
        let now = self.place_now(file, chunk.chunk, before);
        let key_of_move = MoveKey { owner: chunk.owner, file: chunk.file, chunk: chunk.chunk, from_lease: chunk.lease };
        if !self.moves.contains_key(&key_of_move) {
            return self.broken(9, format!("vendor {me} erased chunk {short}, and no mirror ever had its move"));
        }
        let Some(to) = known.index.get(&now.vendor).copied().filter(|_| now != before) else { return };
        let freed = self.is_let_go(file, Tag(chunk.seq));
        let honest = !known.byzantine[to] && !self.alone.contains(&to) && !self.behind.contains(&to);
        let renewed = self.renewed.get(&(to, now.lease)).copied().unwrap_or(0);
        let live = at < renewed + known.terms.commit_ms + known.terms.grace_ms;
        let there = self.views.get(&to).is_some_and(|view| view.chunks.contains_key(&key));
        if honest && live && !there && !freed && !self.forgiven.contains(&(to, key, now.lease)) {
            self.broken(9, format!("vendor {me} erased chunk {short}, and vendor {to}, where it went, has it not"));
        }
    }

    /// A source's power failed while it erased a chunk that it moved.
    pub(in crate::sim) fn may_have_let_go(&mut self, me: usize, key: ChunkKey) {
        self.left.insert((me, key));
    }

    /// Whether any final FAT that the owner signed frees chunks with this tag, or chose another version.
    fn is_let_go(&self, file: FileKey, tag: Tag) -> bool {
        let mut finals = self.finals.get(&file).into_iter().flatten();
        finals.any(|fat| matches!(fat.lineage().fate(tag), Fate::Past | Fate::Lost))
    }
}

impl Quiet<'_> {
    /// A move that did not come to its end.
    pub(super) fn moving(&self) -> Option<String> {
        self.vendors.iter().find_map(|(node, vendor)| {
            let found = OnDisk::read(vendor.id(), &vendor.running.as_ref()?.fat).unwrap_or_default();
            let open = found.open.iter().map(|(key, ..)| (key, "no mirror took"));
            let leaving = found.leaving.iter().map(|(key, _)| (key, "was not followed by its erase"));
            // Of a version that was not chosen, it is looked at when the chunk's time is over.
            let lives = |entry: &ChunkEntry| {
                let mut versions = self.mirrors[0].1.table.versions(entry.owner, entry.file);
                versions.any(|fat| fat.lineage().fate(Tag(entry.seq)) == Fate::Live)
            };
            let fat = &vendor.running.as_ref()?.fat;
            let named =
                |key: &&ChunkKey| fat.chunk(key.owner, key.chunk).ok().flatten().is_some_and(|entry| lives(&entry));
            let unconfirmed = found.unconfirmed.iter().filter(named);
            let unconfirmed = unconfirmed.map(|key| (key, "brought it here and is not confirmed"));
            let first = open.chain(leaving).chain(unconfirmed).next();
            first.map(|(key, what)| format!("vendor {node} has a move of chunk {} that {what}", key.chunk.short()))
        })
    }

    /// A chunk that came by a move which no mirror has, and that nobody will ever let go.
    pub(super) fn stray(&self, oracle: &Oracle) -> Option<String> {
        let table = &self.mirrors[0].1.table;
        for (node, vendor) in &self.vendors {
            let run = vendor.running.as_ref()?;
            let me = vendor.id();
            for entry in run.fat.chunks_after(None, 4_096).unwrap_or_default() {
                let file = (entry.owner, entry.file);
                let of_user = run.ledger.lease(entry.lease).is_none_or(|lease| lease.authority == entry.owner.into());
                let kept = entry.state == ChunkState::Committed;
                // A source that was put back may have forgotten a move, and sign another one: mirrors keep either.
                let forgetful = |node: &usize| oracle.was_behind.contains(node) || self.known.byzantine[*node];
                let source = run.ledger.lease(entry.lease).map(|lease| lease.authority);
                let from = (0..self.known.ids.len()).find(|node| source == Some(self.known.ids[*node].into()));
                let excused = forgetful(node) || from.is_some_and(|from| forgetful(&from));
                if of_user || !kept || oracle.forkers.contains(&entry.owner) || excused {
                    continue;
                }
                let mut moves = table.moves_of(file.0, file.1).map(|(_, moved)| moved);
                let named = moves.any(|moved| moved.chunk == entry.chunk && moved.to == me);
                // A final FAT that names the vendor for another chunk reaches it, and so will the one that frees this one.
                let told = table.versions(file.0, file.1).any(|fat| fat.vendors.contains(&me));
                if !named && !told && table.fat(file.0, file.1).is_some() {
                    let chunk = entry.chunk.short();
                    let fates = table.versions(file.0, file.1).map(|fat| fat.lineage().fate(Tag(entry.seq)));
                    let fates: Vec<Fate> = fates.collect();
                    let what = "which came by a move that no mirror has";
                    return Some(format!("vendor {node} keeps chunk {chunk} of {fates:?}, {what}"));
                }
            }
        }
        None
    }
}
