//! Proofs against vendors in the table: who is quarantined, and what this mirror sees itself.
//!
//! One proof is kept for each vendor: twins before a dropped lease, then the smaller hash. A dropped lease is void, and no
//! proof any more, once the table knows a final FAT that follows the one in use, or a move of one of its live chunks out of that lease. Both
//! only ever come to be true, so mirrors that know the same final FATs and moves agree on what is void.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::fat::{FinalFat, Tag};
use crate::fork::{Dropped, ForkProof, Offence, VerifiedProof};
use crate::head::{LeaseEvidence, VerifiedVendor};
use crate::ids::{FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::limits::{SUSPICIONS_MAX, SUSPICIONS_PER_HEAD_MAX};
use crate::mutations::{Line, without};
use crate::sign::Carried;
use crate::time::UnixMs;
use crate::wire::{Refusal, RefusalKind};

use super::{Key, Merged, Table, Verified, stale};

/// How long a lease that vanished from a head is waited for a release to arrive, in milliseconds.
pub const DROPPED_GRACE_MS: u64 = 300_000;

/// What the table remembers of a proof; its bytes are in the mirror's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProofEntry {
    /// What is proven.
    pub offence: Offence,
    /// The proof's identity.
    pub hash: Hash,
}

impl ProofEntry {
    /// The smaller is kept.
    fn rank(&self) -> (bool, Hash) {
        (self.offence != Offence::Twins, self.hash)
    }
}

impl Table {
    pub(super) fn merge_proof(&mut self, proof: &VerifiedProof) -> Result<Merged, Refusal> {
        let entry = ProofEntry { offence: proof.offence(), hash: proof.hash() };
        if self.is_void(&entry.offence) {
            return stale("final FAT or move, which clears the vendor,");
        }
        if let Some(known) = self.proofs.get(&proof.vendor()) {
            if known.hash == entry.hash {
                return Ok(Merged::Known);
            }
            if known.rank() < entry.rank() {
                return Err(Refusal::new(RefusalKind::Conflict, "another proof against this vendor is known"));
            }
        }
        self.proofs.insert(proof.vendor(), entry);
        if let Offence::Dropped { owner, file, .. } = entry.offence {
            self.accused.insert((owner, file, proof.vendor()));
        }
        Ok(Merged::New { drops: Vec::new(), tell: Vec::new() })
    }

    fn is_void(&self, offence: &Offence) -> bool {
        let Offence::Dropped { owner, file, lease, seq, base } = *offence else { return false };
        let lives = |tag: u64| Tag(tag).counter() >= Tag(base).counter();
        self.versions(owner, file).any(|version| version.follows.has(Tag(seq)))
            || self.moves_of(owner, file).any(|(_, moved)| moved.from_lease == lease && lives(moved.seq))
    }

    /// Forgets proofs about a file that are void now. Returns their keys.
    pub(super) fn clear_proofs(&mut self, owner: OwnerId, file: FileId) -> Vec<Key> {
        let of_file = (owner, file, NodeId([0; NodeId::LEN]))..=(owner, file, NodeId([0xff; NodeId::LEN]));
        let accused: Vec<NodeId> = self.accused.range(of_file).map(|(_, _, vendor)| *vendor).collect();
        let mut cleared = Vec::new();
        for vendor in accused {
            let of = |entry: &ProofEntry| matches!(entry.offence, Offence::Dropped { owner: o, file: f, .. } if (o, f) == (owner, file));
            let known = self.proofs.get(&vendor).copied().filter(of);
            if known.is_none_or(|known| self.is_void(&known.offence)) {
                self.accused.remove(&(owner, file, vendor));
                if known.is_some() {
                    self.proofs.remove(&vendor);
                    cleared.push(Key::Proof(vendor));
                }
            }
        }
        cleared
    }

    /// The proof against a vendor, if there is one: it is given no new data, and asked last for what it has.
    #[must_use]
    pub fn quarantined(&self, vendor: NodeId) -> Option<&ProofEntry> {
        self.proofs.get(&vendor)
    }

    /// All proofs, by vendor.
    pub fn proofs(&self) -> impl Iterator<Item = (NodeId, &ProofEntry)> {
        self.proofs.iter().map(|(vendor, entry)| (*vendor, entry))
    }

    /// The proof that `record` makes together with what is known: a head that contradicts the one here.
    #[must_use]
    pub fn twins(&self, record: &Verified) -> Option<VerifiedProof> {
        if without(Line::Twins) {
            return None;
        }
        let Verified::Vendor(new) = record else { return None };
        let known = self.vendor(new.head.vendor)?;
        ForkProof::twins(&known.head, &new.head)?.verify().ok()
    }
}

/// A lease that vanished, and may yet turn out to have been released. A mirror keeps it on its disk: the head that had the lease is
/// nowhere else by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// Whose lease it was.
    pub vendor: NodeId,
    /// The lease.
    pub lease: LeaseId,
    /// Whose file is under it.
    pub owner: OwnerId,
    /// Which file: its final FAT makes the proof.
    pub file: FileId,
    older: LeaseEvidence,
    newer: LeaseEvidence,
    /// When it makes a proof, if nothing clears the vendor until then.
    pub due: UnixMs,
}

impl Suspicion {
    /// The proof, with the final FAT of the file as this mirror has it; none if that is not the one the vendor noted.
    #[must_use]
    pub fn prove(&self, fat: Carried<FinalFat>) -> Option<VerifiedProof> {
        let (older, newer) = (self.older.clone(), self.newer.clone());
        ForkProof::Dropped(Box::new(Dropped { older, newer, fat })).verify().ok()
    }
}

/// Leases that vanished lately. Bounded: what finds no room is left to the other mirrors.
#[derive(Debug, Default)]
pub struct Suspicions {
    /// In the order in which they are due.
    waiting: VecDeque<Suspicion>,
}

impl Suspicions {
    /// Looks at a vendor's record that is about to replace the one in `table`, and returns what it noted. Hashes the leases of
    /// both if one vanished that a final FAT in the table still uses. `now`, here and in [`Self::due`], is of a clock that nobody
    /// sets while the mirror runs: a jump of the wall clock would end the wait for a release at once.
    pub fn notice(&mut self, table: &Table, new: &VerifiedVendor, now: UnixMs) -> Vec<Suspicion> {
        let mut found = Vec::new();
        let Some(old) = table.vendor(new.head.vendor) else { return found };
        if old.head.epoch != new.head.epoch || old.head.seq >= new.head.seq {
            return found;
        }
        let mut there = new.leases.iter().map(|lease| lease.id).peekable();
        for lease in &old.leases {
            while there.next_if(|id| *id < lease.id).is_some() {}
            if there.peek() == Some(&lease.id) || lease.used == 0 || lease.expires <= new.head.issued {
                continue;
            }
            let Some(named) = lease.named else { continue };
            if !table.versions(lease.owner, named.file).any(|fat| fat.hash == named.fat) {
                continue;
            }
            if found.len() == SUSPICIONS_PER_HEAD_MAX || self.waiting.len() >= SUSPICIONS_MAX {
                break;
            }
            let suspicion = Suspicion {
                vendor: new.head.vendor,
                lease: lease.id,
                owner: lease.owner,
                file: named.file,
                older: old.evidence(lease.id),
                newer: new.evidence(lease.id),
                due: now.plus_ms(DROPPED_GRACE_MS),
            };
            self.waiting.push_back(suspicion.clone());
            found.push(suspicion);
        }
        found
    }

    /// Takes back what was noted before a restart at `now`. Each has its whole time again: a release may have come to the others
    /// while this mirror was away, and the clock by which it was noted may have been wrong.
    pub fn restore(&mut self, noted: impl IntoIterator<Item = Suspicion>, now: UnixMs) {
        let due = now.plus_ms(DROPPED_GRACE_MS);
        self.waiting.extend(noted.into_iter().map(|suspicion| Suspicion { due, ..suspicion }));
        self.waiting.make_contiguous().sort_by_key(|suspicion| suspicion.due);
        self.waiting.truncate(SUSPICIONS_MAX);
    }

    /// When the first of them is due.
    #[must_use]
    pub fn first_due(&self) -> Option<UnixMs> {
        self.waiting.front().map(|suspicion| suspicion.due)
    }

    /// Suspicions whose time has come. Those that `table` clears are forgotten.
    pub fn due(&mut self, table: &Table, now: UnixMs) -> Vec<Suspicion> {
        let mut due = Vec::new();
        while let Some(first) = self.waiting.pop_front_if(|first| first.due <= now) {
            let named = first.older.lease.as_ref().and_then(|lease| lease.peek().ok()?.named);
            // Any version of a fork may be the one that the vendor noted.
            let mut versions = table.versions(first.owner, first.file);
            let fat = versions.find(|fat| named.is_some_and(|named| named.fat == fat.hash));
            let offence = |fat: &super::FatEntry| Offence::Dropped {
                owner: first.owner,
                file: first.file,
                lease: first.lease,
                seq: fat.seq,
                base: fat.base,
            };
            if fat.is_some_and(|fat| !table.is_void(&offence(fat))) && table.quarantined(first.vendor).is_none() {
                due.push(first);
            }
        }
        due
    }
}
