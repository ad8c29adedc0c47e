//! What must hold once everything is quiet: all mirrors equal, no acknowledged final FAT lost, nothing resurrected.

use fathom_protocol::fat::{Fate, Tag};
use fathom_protocol::ids::{ChunkId, Hash};
use fathom_protocol::lease::LeaseState;
use fathom_protocol::table::FatEntry;
use fathom_store::ChunkKey;

use super::Oracle;
use super::moves::led_to;
use crate::sim::mirror::Mirror;
use crate::sim::node::{EPOCH_MS, Known};
use crate::sim::vendor::Vendor;

/// A vendor notices within so many milliseconds that room has lapsed, by its own clock.
const LAPSE_MS: u64 = 10_000;

/// The world as it is looked at.
pub(in crate::sim) struct Quiet<'a> {
    pub(in crate::sim) mirrors: Vec<(usize, &'a Mirror)>,
    pub(in crate::sim) vendors: Vec<(usize, &'a Vendor)>,
    pub(in crate::sim) known: &'a Known,
    pub(in crate::sim) at: u64,
}

impl Quiet<'_> {
    /// What is not quiet yet, if anything.
    pub(in crate::sim) fn missing(&self, oracle: &Oracle) -> Option<String> {
        let digests: Vec<Hash> = self.mirrors.iter().map(|(_, mirror)| mirror.table.digest().digest).collect();
        if digests.windows(2).any(|pair| pair[0] != pair[1]) {
            return Some("mirrors differ".to_owned());
        }
        for (node, vendor) in &self.vendors {
            let Some(run) = &vendor.running else { return Some(format!("vendor {node} is down")) };
            let known = self.mirrors[0].1.table.vendor(vendor.id()).map(|known| (known.head.epoch, known.head.seq));
            if known != Some(run.life.head().height()) {
                return Some(format!("mirrors do not know the newest head of vendor {node}"));
            }
        }
        let unmoved = self.moving().or_else(|| self.stray(oracle));
        unmoved.or_else(|| self.unfinished(oracle)).or_else(|| self.unproven(oracle)).or_else(|| self.locked())
    }

    /// Room that nobody fills and that should have lapsed, whether its request failed, was withdrawn or was forgotten. Where nothing
    /// is lost and nobody crashes, none is left to lapse.
    fn locked(&self) -> Option<String> {
        let now = EPOCH_MS + self.at;
        self.vendors.iter().find_map(|(node, vendor)| {
            let over = vendor.running.iter().flat_map(|run| run.ledger.leases()).find(|lease| {
                let lapsed = self.known.fair || lease.room_expires.0 + LAPSE_MS < now;
                lease.room() > 0 && lease.state != LeaseState::Grace && lapsed
            });
            over.map(|lease| format!("vendor {node} keeps {} bytes of room locked past their time", lease.room()))
        })
    }

    /// A vendor that dropped a lease before an honest mirror's eyes, and against whom nothing is proven.
    pub(in crate::sim) fn unproven(&self, oracle: &Oracle) -> Option<String> {
        oracle.accusable.iter().find_map(|drop| drop.unproven(self))
    }

    /// Chunks that a released or overwritten file still has somewhere.
    fn unfinished(&self, oracle: &Oracle) -> Option<String> {
        for (node, vendor) in &self.vendors {
            let run = vendor.running.as_ref()?;
            for entry in run.fat.chunks_after(None, 4_096).unwrap_or_default() {
                if oracle.forkers.contains(&entry.owner) {
                    continue;
                }
                let versions: Vec<&FatEntry> = self.mirrors[0].1.table.versions(entry.owner, entry.file).collect();
                let fate = |fat: &FatEntry| fat.lineage().fate(Tag(entry.seq));
                // Until one of several versions is chosen, nothing that any of them lets live is freed.
                let freed = |fat: &&FatEntry| matches!(fate(fat), Fate::Past | Fate::Lost);
                // What a clock that was ahead dated as not named yet is kept until that date.
                let dated_ahead = entry.state.lapses() && entry.stored_at.0 > EPOCH_MS + self.at;
                if !versions.is_empty() && versions.iter().all(freed) && !dated_ahead {
                    let chunk = entry.chunk.short();
                    return Some(format!("vendor {node} still has chunk {chunk} of a version that was freed"));
                }
            }
        }
        None
    }
}

impl Oracle {
    /// Checks the quiet world.
    pub(in crate::sim) fn check_quiet(&mut self, quiet: &Quiet<'_>) {
        self.acknowledged_finals_kept(quiet);
        self.acknowledged_chunks_kept(quiet);
    }

    /// Invariants 4 and 8: no acknowledged final FAT is lost, and none gave way to one whose author had not seen it.
    fn acknowledged_finals_kept(&mut self, quiet: &Quiet<'_>) {
        let mut lost = Vec::new();
        for ((owner, file), acked) in self.acked.iter().flat_map(|(key, acked)| acked.iter().map(move |one| (key, one)))
        {
            for (node, mirror) in &quiet.mirrors {
                if !self.stands(mirror, (*owner, *file), acked.seq) {
                    lost.push(format!(
                        "mirror {node} has not final FAT {} of {}, which counts as stored",
                        acked.seq.0,
                        file.short()
                    ));
                }
            }
        }
        for what in lost {
            self.broken(8, what);
        }
    }

    /// Invariant 9: every honest vendor still has what it gave a receipt for and a stored final FAT names.
    fn acknowledged_chunks_kept(&mut self, quiet: &Quiet<'_>) {
        let mut lost = Vec::new();
        for ((owner, file), acked) in self.acked.iter().flat_map(|(key, acked)| acked.iter().map(move |one| (key, one)))
        {
            let mut versions = quiet.mirrors[0].1.table.versions(*owner, *file);
            let newest = versions.any(|version| version.hash == acked.hash);
            // One that was abandoned before enough mirrors had it is the owner's word all the same, to a vendor that heard it. What
            // another device chose at the same moment may be let go where that was heard a hold time earlier.
            let mut finals = self.finals.get(&(*owner, *file)).into_iter().flatten();
            let freed = finals.any(|fat| matches!(fat.lineage().fate(acked.base), Fate::Past | Fate::Lost));
            for (chunk, _, places) in acked.stored.iter().flatten().filter(|_| newest && !freed) {
                for named in places {
                    let table = &quiet.mirrors[0].1.table;
                    let place = led_to(table, (*owner, *file), *chunk, *named);
                    let Some((node, vendor)) = quiet.vendors.iter().find(|(_, vendor)| vendor.id() == place.vendor)
                    else {
                        continue;
                    };
                    if self.alone.contains(node) {
                        continue;
                    }
                    let terms = &quiet.known.terms;
                    let renewed = self.renewed.get(&(*node, place.lease)).copied().unwrap_or(0);
                    let live = quiet.at < renewed + terms.commit_ms + terms.grace_ms;
                    let key = ChunkKey { owner: *owner, chunk: *chunk };
                    let row = vendor.running.as_ref().and_then(|run| run.fat.chunk(*owner, *chunk).ok().flatten());
                    let part = vendor.data.get(&key).filter(|_| row.is_some());
                    let good = part.is_some_and(|part| ChunkId::of(&part.bytes) == *chunk);
                    if live && !good && !self.forgiven.contains(&(*node, key, place.lease)) {
                        lost.push(format!("vendor {node} has not chunk {} of a stored file", chunk.short()));
                    }
                }
            }
        }
        for what in lost {
            self.broken(9, what);
        }
    }
}
