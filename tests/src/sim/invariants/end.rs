//! What must hold once everything is quiet: all mirrors equal, no acknowledged final FAT lost, nothing resurrected.

use fathom_protocol::fat::Tag;
use fathom_protocol::ids::{ChunkId, Hash};
use fathom_store::ChunkKey;

use super::Oracle;
use crate::sim::mirror::Mirror;
use crate::sim::node::Known;
use crate::sim::vendor::Vendor;

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
        self.unfinished(oracle).or_else(|| self.unproven(oracle))
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
                let fat = self.mirrors[0].1.table.fat(entry.owner, entry.file);
                if fat.is_some_and(|fat| fat.base > entry.seq) {
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

    /// Invariants 4 and 8: no acknowledged final FAT is lost, and no older one came back.
    fn acknowledged_finals_kept(&mut self, quiet: &Quiet<'_>) {
        let mut lost = Vec::new();
        for ((owner, file), acked) in &self.acked {
            for (node, mirror) in &quiet.mirrors {
                let entry = mirror.table.fat(*owner, *file);
                let kept = entry
                    .is_some_and(|entry| entry.seq > acked.seq || entry.seq == acked.seq && entry.hash == acked.hash);
                if !kept {
                    lost.push(format!(
                        "mirror {node} has not final FAT {} of {}, which counts as stored",
                        acked.seq,
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
        for ((owner, file), acked) in &self.acked {
            let newest = quiet.mirrors[0].1.table.fat(*owner, *file).is_some_and(|entry| entry.seq == acked.seq);
            // One that was abandoned before enough mirrors had it is the owner's word all the same, to a vendor that heard it.
            let mut finals = self.finals.get(&(*owner, *file)).into_iter().flatten();
            let freed = finals.any(|fat| Tag(acked.seq).is_past(Tag(fat.base)));
            for (chunk, _, places) in acked.stored.iter().flatten().filter(|_| newest && !freed) {
                for place in places {
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
                    if live && !good && !self.forgiven.contains(&(*node, key)) {
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
