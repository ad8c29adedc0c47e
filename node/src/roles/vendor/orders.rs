//! Final FATs as orders: commit what they name, erase what they release (figures 15 and 22).

use std::collections::BTreeSet;

use fathom_protocol::clocks::Dated;
use fathom_protocol::codec;
use fathom_protocol::fat::{Fate, FinalFat, Tag};
use fathom_protocol::ids::LeaseId;
use fathom_protocol::lease::{Lease, Named};
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::wire::{Refusal, RefusalKind};
use fathom_store::{ChunkEntry, ChunkKey, ChunkState, CommitFile, CommitOutcome, ErasedChunk, FinalEntry};

use super::accounts::in_transaction;
use super::{Vendor, fat_refusal, lock};

/// A final FAT as the local FAT keeps it.
pub(super) fn final_entry(fat: &FinalFat, record: Vec<u8>) -> FinalEntry {
    FinalEntry { seq: fat.seq, base: fat.base, follows: fat.follows.clone(), record }
}

/// A final FAT that changes something here.
struct Order {
    fat: Signed<FinalFat>,
    record: Vec<u8>,
    /// Whether it was acted on before; what it says of leases then counts no second time.
    repeated: bool,
}

impl Vendor {
    /// Acts on final FATs, from whomever they come: their owners' signatures are what counts. Showing one again changes nothing,
    /// nor does one that another follows. All of them are durable when this returns. Blocks.
    ///
    /// # Errors
    /// For each a [`Refusal`]: not signed by its owner, expired, or one of more versions than are kept.
    pub(super) fn order(&self, fats: Vec<Carried<FinalFat>>) -> Vec<Result<(), Refusal>> {
        // Whoever sends what does not verify keeps nobody waiting.
        let checked: Vec<_> = fats.into_iter().map(|fat| self.check(fat)).collect();
        // One at a time: the same order may be on its way twice, and what it gives back counts once.
        let turn = lock(&self.ordering);
        let mut answers: Vec<Result<(), Refusal>> = Vec::with_capacity(checked.len());
        let mut orders = Vec::new();
        for fat in checked {
            match fat.and_then(|fat| fat.map_or(Ok(None), |fat| self.consider(fat))) {
                Ok(order) => {
                    orders.extend(order.map(|order| (answers.len(), order)));
                    answers.push(Ok(()));
                }
                Err(refusal) => answers.push(Err(refusal)),
            }
        }
        if orders.is_empty() {
            return answers;
        }
        let (places, orders): (Vec<usize>, Vec<Order>) = orders.into_iter().unzip();
        let results = self.apply(&orders);
        drop(turn);
        self.touch();
        let erased = results.and_then(|results| {
            let mut erased = Vec::new();
            for (at, result) in places.iter().zip(results) {
                match result {
                    Ok(gone) => erased.extend(gone),
                    Err(refusal) => answers[*at] = Err(refusal),
                }
            }
            self.erased(&erased)
        });
        if let Err(refusal) = erased {
            places.iter().for_each(|at| answers[*at] = Err(refusal.clone()));
        }
        answers
    }

    /// Verifies a final FAT; none if it was carried out before.
    fn check(&self, fat: Carried<FinalFat>) -> Result<Option<Signed<FinalFat>>, Refusal> {
        // Each mirror shows it. What is known to the last byte was verified when it came.
        let said = fat.peek()?;
        let (known, record) = (self.versions_of(&said)?, codec::encode(&fat));
        if known.iter().any(|known| known.record == record) && self.is_carried_out(&said)? {
            return Ok(None);
        }
        let fat = fat.verify()?;
        // By two clocks: an order that a clock which is ahead refuses is not heard again, and its chunks would be swept.
        match self.has_passed(fat.order_expires) {
            Some(false) => {}
            Some(true) => {
                return Err(Refusal::new(
                    RefusalKind::LeaseExpired,
                    "this final FAT is too old to act on; submit a new one",
                ));
            }
            None => {
                return Err(Refusal::new(
                    RefusalKind::Internal,
                    "this vendor does not know what time it is yet; ask again",
                ));
            }
        }
        Ok(Some(fat))
    }

    fn versions_of(&self, fat: &FinalFat) -> Result<Vec<FinalEntry>, Refusal> {
        self.fat.versions_of(fat.owner, fat.file).map_err(|error| fat_refusal(&error))
    }

    /// What a verified final FAT is to what is known here; none if there is nothing to be done for it.
    fn consider(&self, fat: Signed<FinalFat>) -> Result<Option<Order>, Refusal> {
        let (known, record) = (self.versions_of(&fat)?, codec::encode(fat.carried()));
        if known.iter().any(|known| known.follows.has(fat.tag())) {
            return Ok(None);
        }
        let repeated = known.iter().any(|known| known.record == record);
        // Keeping it would let anybody fill this disk with final FATs of files that are not here.
        let wanted = !known.is_empty() || self.concerns(&fat)?;
        Ok(wanted.then_some(Order { fat, record, repeated }))
    }

    /// Whether all is as a final FAT that was acted on before wants it: a chunk may have come after it.
    fn is_carried_out(&self, fat: &FinalFat) -> Result<bool, Refusal> {
        let chunks = self.fat.chunks_of_file(fat.owner, fat.file).map_err(|error| fat_refusal(&error))?;
        let done = |chunk: &ChunkEntry| match fat.lineage().fate(Tag(chunk.seq)) {
            Fate::Live => chunk.state != ChunkState::Stored,
            Fate::Lost => chunk.state != ChunkState::Committed,
            Fate::Past => false,
            Fate::Other => true,
        };
        Ok(chunks.iter().all(done) && self.freed(fat)?.is_empty())
    }

    /// Whether this vendor holds a chunk of the file, or room that the final FAT speaks of.
    fn concerns(&self, fat: &FinalFat) -> Result<bool, Refusal> {
        let leased = {
            let ledger = lock(&self.ledger);
            fat.uses.iter().any(|used| {
                used.vendor == self.me && ledger.lease(used.lease).is_some_and(|lease| lease.owner == fat.owner)
            })
        };
        let chunks = self.fat.chunks_of_file(fat.owner, fat.file).map_err(|error| fat_refusal(&error))?;
        Ok(leased || !chunks.is_empty())
    }

    /// Commits and forgets chunks, and commits their leases, in one durable transaction. What each order erased, or why it was
    /// refused; an error if the disk failed.
    fn apply(&self, orders: &[Order]) -> Result<Vec<Result<Vec<ErasedChunk>, Refusal>>, Refusal> {
        let dated = self.dating_clock();
        let mut freed = Vec::with_capacity(orders.len());
        for Order { fat, .. } in orders {
            let chunks = self.fat.chunks_of_file(fat.owner, fat.file).map_err(|error| fat_refusal(&error))?;
            let live = |chunk: &&ChunkEntry| fat.lineage().fate(Tag(chunk.seq)) == Fate::Live;
            let here: BTreeSet<LeaseId> = chunks.iter().filter(live).map(|chunk| chunk.lease).collect();
            freed.push((self.freed(fat)?, here));
            if !dated.sure {
                // What this final FAT lets go begins its time now, too.
                let mut ledger = lock(&self.ledger);
                for chunk in chunks {
                    ledger.doubt(chunk.lease);
                }
            }
        }
        let outcomes = self.durable(|tx| {
            let apply = |(order, (freed, here)): (&Order, &(Vec<ChunkKey>, BTreeSet<LeaseId>))| {
                let Order { fat, record, repeated } = order;
                let commit = CommitFile {
                    owner: fat.owner,
                    file: fat.file,
                    fat: final_entry(fat, record.clone()),
                    now: dated.at,
                };
                let mut outcome = tx.commit_and_erase(&commit)?;
                if let CommitOutcome::Applied { erased, .. } = &mut outcome {
                    for key in freed {
                        erased.extend(tx.erase_chunk(key)?);
                    }
                }
                let held = matches!(outcome, CommitOutcome::Applied { .. } | CommitOutcome::Forked { .. });
                if held && !repeated {
                    self.commit_leases(fat, dated).map_err(|refusal| in_transaction(&refusal))?;
                }
                if held {
                    self.note_leases(fat, here, *repeated).map_err(|refusal| in_transaction(&refusal))?;
                }
                Ok(outcome)
            };
            orders.iter().zip(&freed).map(apply).collect::<Result<Vec<_>, _>>()
        })?;
        let result = |outcome| match outcome {
            CommitOutcome::Applied { erased, .. } | CommitOutcome::Forked { erased, .. } => Ok(erased),
            CommitOutcome::Stale { .. } => Ok(Vec::new()),
            CommitOutcome::Full => Err(Refusal::new(
                RefusalKind::Conflict,
                "this file has as many versions as are kept; choose one of them first",
            )),
        };
        Ok(outcomes.into_iter().map(result).collect())
    }

    /// Chunks that this final FAT gives up although their tag is one that it commits: this vendor failed in the middle of
    /// the put, and what it had taken was stored elsewhere. What another vendor moved here is none of it.
    fn freed(&self, fat: &FinalFat) -> Result<Vec<ChunkKey>, Refusal> {
        if !fat.frees.contains(&self.me) || fat.uses.iter().any(|used| used.vendor == self.me) {
            return Ok(Vec::new());
        }
        let mut chunks = self.fat.chunks_of_file(fat.owner, fat.file).map_err(|error| fat_refusal(&error))?;
        let ledger = lock(&self.ledger);
        let own = |id| ledger.lease(id).is_none_or(|lease| lease.authority == SignerId::from(fat.owner));
        let fate = |chunk: &ChunkEntry| fat.lineage().fate(Tag(chunk.seq));
        chunks.retain(|chunk| matches!(fate(chunk), Fate::Past | Fate::Live) && own(chunk.lease));
        Ok(chunks.iter().map(ChunkEntry::key).collect())
    }

    fn commit_leases(&self, fat: &Signed<FinalFat>, dated: Dated) -> Result<(), Refusal> {
        let mut ledger = lock(&self.ledger);
        for used in fat.uses.iter().filter(|used| used.vendor == self.me) {
            let Some(lease) = ledger.lease(used.lease) else { continue };
            if lease.owner != fat.owner {
                continue;
            }
            // Room that another vendor locked for a move is not the owner's to give back.
            let unused = if lease.authority == SignerId::from(fat.owner) { used.unused } else { 0 };
            ledger.commit(dated, used.lease, unused)?;
        }
        Ok(())
    }

    /// Notes the final FAT in the leases under which there is something of it. Not where what it names was lost: when the rest
    /// is gone, too, the lease goes, and with that note it would look as if it had been dropped in use. One that is shown again
    /// replaces no other note.
    fn note_leases(&self, fat: &Signed<FinalFat>, here: &BTreeSet<LeaseId>, repeated: bool) -> Result<(), Refusal> {
        let mut ledger = lock(&self.ledger);
        for used in
            fat.uses.iter().filter(|used| used.vendor == self.me && used.bytes > 0 && here.contains(&used.lease))
        {
            let open = |lease: &Signed<Lease>| lease.owner == fat.owner && !(repeated && lease.named.is_some());
            if ledger.lease(used.lease).is_some_and(open) {
                ledger.note(used.lease, Named { file: fat.file, fat: fat.hash() })?;
            }
        }
        Ok(())
    }
}
