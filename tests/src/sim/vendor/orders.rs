//! Final FATs as orders, and what lapses.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::clocks::Dated;
use fathom_protocol::codec;
use fathom_protocol::fat::{Fate, FinalFat, Tag};
use fathom_protocol::ids::{LeaseId, NodeId};
use fathom_protocol::lease::{Lease, Named};
use fathom_protocol::ledger::{Lapse, Ledger};
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::wire::{Refusal, RefusalKind, Response};
use fathom_store::{ChunkEntry, ChunkKey, CommitFile, CommitOutcome, ErasedChunk, FatError, FinalEntry};

use super::{Vendor, refusal};
use crate::sim::mutation::Mutation;
use crate::sim::node::Cx;

fn store_refusal(error: &FatError) -> Refusal {
    refusal(RefusalKind::Internal, &error.to_string())
}

fn commit_leases(ledger: &mut Ledger, me: NodeId, fat: &Signed<FinalFat>, dated: Dated) -> Result<(), Refusal> {
    for used in fat.uses.iter().filter(|used| used.vendor == me) {
        let Some(lease) = ledger.lease(used.lease).filter(|lease| lease.owner == fat.owner) else { continue };
        let unused = if lease.authority == SignerId::from(fat.owner) { used.unused } else { 0 };
        ledger.commit(dated, used.lease, unused)?;
    }
    Ok(())
}

/// Notes the final FAT in the leases under which there is something of it.
fn note_leases(
    ledger: &mut Ledger,
    me: NodeId,
    fat: &Signed<FinalFat>,
    here: &BTreeSet<LeaseId>,
    repeated: bool,
) -> Result<(), Refusal> {
    for used in fat.uses.iter().filter(|used| used.vendor == me && used.bytes > 0 && here.contains(&used.lease)) {
        let open = |lease: &Signed<Lease>| lease.owner == fat.owner && !(repeated && lease.named.is_some());
        if ledger.lease(used.lease).is_some_and(open) {
            ledger.note(used.lease, Named { file: fat.file, fat: fat.hash() })?;
        }
    }
    Ok(())
}

impl Vendor {
    pub(super) fn order(&mut self, cx: &mut Cx<'_>, fat: Carried<FinalFat>) -> Result<Response, Refusal> {
        let fat = fat.verify()?;
        match self.has_passed(cx, fat.order_expires) {
            Some(false) => {}
            Some(true) => return Err(refusal(RefusalKind::LeaseExpired, "this final FAT is too old to act on")),
            None => return Err(refusal(RefusalKind::Internal, "this vendor does not know what time it is yet")),
        }
        let me = self.id();
        let Some(run) = &self.running else { return Err(refusal(RefusalKind::Internal, "not running")) };
        let known = run.fat.versions_of(fat.owner, fat.file).map_err(|error| store_refusal(&error))?;
        if known.iter().any(|known| known.follows.has(fat.tag())) {
            return Ok(Response::Done);
        }
        let chunks = run.fat.chunks_of_file(fat.owner, fat.file).map_err(|error| store_refusal(&error))?;
        let leased = fat.uses.iter().any(|used| {
            used.vendor == me && run.ledger.lease(used.lease).is_some_and(|lease| lease.owner == fat.owner)
        });
        if known.is_empty() && !leased && chunks.is_empty() {
            return Ok(Response::Done);
        }
        cx.oracle.vendor_acted(cx.me, &fat);
        let record = codec::encode(fat.carried());
        let repeated = known.iter().any(|known| known.record == record);
        let freed: Vec<ChunkKey> = if fat.frees.contains(&me) && !fat.uses.iter().any(|used| used.vendor == me) {
            let own = |id| run.ledger.lease(id).is_none_or(|lease| lease.authority == SignerId::from(fat.owner));
            let given = |chunk: &&ChunkEntry| {
                let fate = fat.lineage().fate(Tag(chunk.seq));
                let lost = fate == Fate::Lost && cx.known.broken(Mutation::LostAtOnce);
                (lost || matches!(fate, Fate::Past | Fate::Live)) && own(chunk.lease)
            };
            chunks.iter().filter(given).map(ChunkEntry::key).collect()
        } else {
            Vec::new()
        };
        let live = |chunk: &&ChunkEntry| fat.lineage().fate(Tag(chunk.seq)) == Fate::Live;
        let here: BTreeSet<LeaseId> = chunks.iter().filter(live).map(|chunk| chunk.lease).collect();
        let dated = self.dating_clock(cx);
        let entry = FinalEntry { seq: fat.seq, base: fat.base, follows: fat.follows.clone(), record };
        let commit = CommitFile { owner: fat.owner, file: fat.file, fat: entry, now: dated.at };
        let outcome = self.durable(|tx, ledger| {
            if !dated.sure {
                for chunk in &chunks {
                    ledger.doubt(chunk.lease);
                }
            }
            let mut outcome = tx.commit_and_erase(&commit)?;
            if let CommitOutcome::Applied { erased, .. } = &mut outcome {
                for key in &freed {
                    erased.extend(tx.erase_chunk(key)?);
                }
            }
            let held = matches!(outcome, CommitOutcome::Applied { .. } | CommitOutcome::Forked { .. });
            if held && !repeated {
                commit_leases(ledger, me, &fat, dated).map_err(|refusal| FatError::Refused(refusal.to_string()))?;
            }
            if held {
                note_leases(ledger, me, &fat, &here, repeated)
                    .map_err(|refusal| FatError::Refused(refusal.to_string()))?;
            }
            Ok(outcome)
        })?;
        if !repeated {
            for used in fat.uses.iter().filter(|used| used.vendor == me) {
                cx.oracle.renewed(cx.me, used.lease, cx.at);
            }
        }
        self.touch(cx);
        match outcome {
            CommitOutcome::Applied { erased, .. } | CommitOutcome::Forked { erased, .. } => {
                self.erased(cx, &erased).map(|()| Response::Done)
            }
            CommitOutcome::Stale { .. } => Ok(Response::Done),
            CommitOutcome::Full => Err(refusal(RefusalKind::Conflict, "this file has as many versions as are kept")),
        }
    }

    /// After the local FAT has forgotten `erased`: removes the bytes, and only then gives the space back.
    pub(super) fn erased(&mut self, cx: &mut Cx<'_>, erased: &[ErasedChunk]) -> Result<(), Refusal> {
        let mut bytes: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for chunk in erased {
            self.data.remove(&chunk.key);
            *bytes.entry(chunk.lease).or_default() += u64::from(chunk.length);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.account(cx, |ledger| {
            for (lease, bytes) in bytes {
                ledger.erased(lease, bytes)?;
            }
            Ok(())
        })
    }

    /// Once the time is known, dates anew what was promised by a clock that may have been behind.
    pub(super) fn redate(&mut self, cx: &mut Cx<'_>) -> Result<(), Refusal> {
        let dated = self.dating_clock(cx);
        let doubtful = self.running.as_ref().map(|run| run.ledger.doubtful()).unwrap_or_default();
        if !dated.sure || doubtful.is_empty() {
            return Ok(());
        }
        self.durable(|tx, ledger| {
            for id in &doubtful {
                ledger.redate(dated.at, *id).map_err(|refusal| FatError::Refused(refusal.to_string()))?;
                for key in tx.keys_of_lease(*id)? {
                    let held = |entry: ChunkEntry| entry.state.lapses() && entry.stored_at < dated.at;
                    if tx.chunk(&key)?.is_some_and(held) {
                        tx.set_stored_at(&key, dated.at)?;
                    }
                }
            }
            Ok(())
        })?;
        self.touch(cx);
        Ok(())
    }

    /// Lets the ledger's time pass and erases what it reclaims.
    pub(super) fn lapse(&mut self, cx: &mut Cx<'_>) -> Result<(), Refusal> {
        let in_step = self.running.as_ref().is_some_and(|run| !run.out_of_step);
        let (now, agreed) = (cx.now, self.agreed_clock(cx).filter(|_| in_step));
        let lapses = self.account(cx, |ledger| ledger.tick(now, agreed))?;
        for lapse in lapses {
            let Lapse::Reclaim(id) = lapse else { continue };
            cx.oracle.lapsing = true;
            let Some(run) = &self.running else { return Ok(()) };
            let chunks = run.fat.chunks_of_lease(id).map_err(|error| store_refusal(&error))?;
            let keys: Vec<ChunkKey> = chunks.iter().map(ChunkEntry::key).collect();
            let erased = self.erase(&keys)?;
            self.erased(cx, &erased)?;
        }
        Ok(())
    }

    /// Erases chunks that no final FAT named within the time that a lease is locked, by the clocks here and at the mirrors.
    pub(super) fn sweep(&mut self, cx: &mut Cx<'_>) -> Result<(), Refusal> {
        let mirrors = cx.known.mirrors.len();
        let caught_up = self.running.as_ref().is_some_and(|run| run.caught_up.is_enough(mirrors, cx.at - run.started));
        let Some(agreed) = self.agreed_clock(cx).filter(|_| caught_up) else { return Ok(()) };
        if self.running.as_ref().is_some_and(|run| run.ledger.doubts()) {
            return Ok(());
        }
        let clock = cx.now.min(agreed);
        let limit = cx.known.terms.lock_ms;
        let any = cx.known.broken(Mutation::SweepCommitted);
        let Some(run) = &self.running else { return Ok(()) };
        let chunks = run.fat.chunks_after(None, 4_096).map_err(|error| store_refusal(&error))?;
        let mut old: Vec<ChunkKey> = chunks
            .iter()
            .filter(|entry| (any || entry.state.lapses()) && clock.since_ms(entry.stored_at) > limit)
            .map(ChunkEntry::key)
            .collect();
        old.retain(|key| any || !self.is_unconfirmed(cx.at, key));
        if old.is_empty() {
            return Ok(());
        }
        let erased = self.erase(&old)?;
        self.erased(cx, &erased)
    }

    fn erase(&mut self, keys: &[ChunkKey]) -> Result<Vec<ErasedChunk>, Refusal> {
        self.durable(|tx, _| {
            let mut erased = Vec::new();
            for key in keys {
                erased.extend(tx.erase_chunk(key)?);
            }
            Ok(erased)
        })
    }
}
