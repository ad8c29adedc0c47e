//! Final FATs as orders: commit what they name, erase what they release (figures 15 and 22).

use fathom_protocol::clocks::Dated;
use fathom_protocol::codec;
use fathom_protocol::fat::{Fate, FinalFat, Tag};
use fathom_protocol::lease::Named;
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::wire::{Refusal, RefusalKind, Response};
use fathom_store::{ChunkEntry, ChunkKey, CommitFile, CommitOutcome, ErasedChunk};

use super::accounts::in_transaction;
use super::{Vendor, fat_refusal, lock};

impl Vendor {
    /// Acts on a final FAT, from whomever it comes: its owner's signature is what counts. Showing it again changes nothing,
    /// nor does one that is older than the newest known. Blocks.
    ///
    /// # Errors
    /// A [`Refusal`]: not signed by its owner, expired, or one of more versions than are kept.
    pub(super) fn order(&self, fat: Carried<FinalFat>) -> Result<Response, Refusal> {
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
        // One at a time: the same order may be on its way twice, and what it gives back counts once.
        let turn = lock(&self.ordering);
        let known = self.fat.versions_of(fat.owner, fat.file).map_err(|error| fat_refusal(&error))?;
        if known.first().is_some_and(|known| Tag(known.seq).counter() > fat.tag().counter()) {
            return Ok(Response::Done);
        }
        if known.is_empty() && !self.concerns(&fat)? {
            // Keeping it would let anybody fill this disk with final FATs of files that are not here.
            return Ok(Response::Done);
        }
        let record = codec::encode(fat.carried());
        let repeated = known.iter().any(|known| known.record == record);
        let erased = self.apply(&fat, record, repeated)?;
        drop(turn);
        self.touch();
        self.erased(&erased)?;
        Ok(Response::Done)
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

    /// Commits and forgets chunks, and commits their leases, in one durable transaction.
    fn apply(&self, fat: &Signed<FinalFat>, record: Vec<u8>, repeated: bool) -> Result<Vec<ErasedChunk>, Refusal> {
        let dated = self.dating_clock();
        let commit =
            CommitFile { owner: fat.owner, file: fat.file, base: fat.base, seq: fat.seq, record, now: dated.at };
        let freed = self.freed(fat)?;
        if !dated.sure {
            // What this final FAT lets go begins its time now, too.
            let chunks = self.fat.chunks_of_file(fat.owner, fat.file).map_err(|error| fat_refusal(&error))?;
            let mut ledger = lock(&self.ledger);
            for chunk in chunks {
                ledger.doubt(chunk.lease);
            }
        }
        let outcome = self.durable(|tx| {
            let mut outcome = tx.commit_and_erase(&commit)?;
            if let CommitOutcome::Applied { erased, .. } = &mut outcome {
                for key in &freed {
                    erased.extend(tx.erase_chunk(key)?);
                }
            }
            let held = matches!(outcome, CommitOutcome::Applied { .. } | CommitOutcome::Forked { .. });
            if held && !repeated {
                self.commit_leases(fat, dated).map_err(|refusal| in_transaction(&refusal))?;
            }
            Ok(outcome)
        })?;
        match outcome {
            CommitOutcome::Applied { erased, .. } => Ok(erased),
            CommitOutcome::Stale { .. } | CommitOutcome::Forked { .. } => Ok(Vec::new()),
            CommitOutcome::Full => Err(Refusal::new(
                RefusalKind::Conflict,
                "this file has as many versions as are kept; choose one of them first",
            )),
        }
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
        let fate = |chunk: &ChunkEntry| Tag(chunk.seq).fate(Tag(fat.base), fat.tag());
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
            if used.bytes > 0 {
                ledger.note(used.lease, Named { file: fat.file, fat: fat.hash() })?;
            }
        }
        Ok(())
    }
}
