//! What must hold once everything is quiet: all mirrors equal, no acknowledged final FAT lost, nothing resurrected.

use fathom_protocol::fat::Tag;
use fathom_protocol::ids::Hash;
use fathom_protocol::lease::LeaseState;
use fathom_store::ChunkKey;

use super::Oracle;
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
            if known != Some((run.head.epoch, run.head.seq)) {
                return Some(format!("mirrors do not know the newest head of vendor {node}"));
            }
        }
        self.unfinished(oracle).or_else(|| self.locked())
    }

    /// Room that nobody fills and that should have lapsed, whether its request failed, was withdrawn or was forgotten.
    fn locked(&self) -> Option<String> {
        let now = EPOCH_MS + self.at;
        self.vendors.iter().find_map(|(node, vendor)| {
            let over = vendor.running.iter().flat_map(|run| run.ledger.leases()).find(|lease| {
                lease.room() > 0 && lease.state != LeaseState::Grace && lease.room_expires.0 + LAPSE_MS < now
            });
            over.map(|lease| format!("vendor {node} keeps {} bytes of room locked past their time", lease.room()))
        })
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
                    let terms = &quiet.known.terms;
                    let renewed = self.renewed.get(&(*node, place.lease)).copied().unwrap_or(0);
                    let live = quiet.at < renewed + terms.commit_ms + terms.grace_ms;
                    let key = ChunkKey { owner: *owner, chunk: *chunk };
                    let good =
                        vendor.data.get(&key).is_some_and(|bytes| fathom_protocol::ids::ChunkId::of(bytes) == *chunk);
                    if live && !good {
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
