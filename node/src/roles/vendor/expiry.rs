//! What lapses: offers that nobody took, chunks that no final FAT ever named, and leases past their grace.

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::ledger::Lapse;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::Refusal;
use fathom_store::{ChunkEntry, ChunkKey, FatError};
use tokio::time::Instant;

use super::accounts::in_transaction;
use super::{Vendor, fat_refusal, lock};
use crate::clock;

/// How often leases are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often all chunks are looked at, at least and at most.
const SWEEP_MIN: Duration = Duration::from_secs(2);
const SWEEP_MAX: Duration = Duration::from_secs(3_600);
/// Chunks erased in one transaction.
const ERASE_BATCH: usize = 1_024;
/// Leases dated anew in one transaction.
const REDATE_BATCH: usize = 16;

impl Vendor {
    /// Lets time pass, for as long as the vendor runs.
    pub(super) async fn expiring(self: &Arc<Self>) {
        let every = Duration::from_millis(self.settings.terms.lock_ms / 8).clamp(SWEEP_MIN, SWEEP_MAX);
        let mut sweep = Instant::now() + every;
        loop {
            tokio::time::sleep(TICK).await;
            let due = Instant::now() >= sweep;
            if due {
                sweep = Instant::now() + every;
            }
            let done = self.blocking(move |vendor| {
                let now = clock::now();
                vendor.redate()?;
                // A local FAT that is older than what this vendor promised since has leases expire that were renewed.
                let agreed = vendor.agreed_clock().filter(|_| !vendor.is_out_of_step());
                vendor.lapse(now, agreed)?;
                if due { vendor.sweep(now, agreed) } else { Ok(()) }
            });
            if let Err(refusal) = done.await {
                tracing::warn!(%refusal, "what has lapsed was not dealt with; it is tried again");
            }
        }
    }

    /// Once the time is known, dates anew what was promised by a clock that may have been behind. Blocks.
    pub(super) fn redate(&self) -> Result<(), Refusal> {
        let dated = self.dating_clock();
        if !dated.sure {
            return Ok(());
        }
        let doubtful = lock(&self.ledger).doubtful();
        for leases in doubtful.chunks(REDATE_BATCH) {
            let done = self.durable(|tx| {
                for id in leases {
                    lock(&self.ledger).redate(dated.at, *id).map_err(|refusal| in_transaction(&refusal))?;
                    for key in tx.keys_of_lease(*id)? {
                        let held = |entry: ChunkEntry| entry.state.lapses() && entry.stored_at < dated.at;
                        if tx.chunk(&key)?.is_some_and(held) {
                            tx.set_stored_at(&key, dated.at)?;
                        }
                    }
                }
                Ok(())
            });
            if let Err(refusal) = done {
                let mut ledger = lock(&self.ledger);
                for id in leases {
                    ledger.doubt(*id);
                }
                return Err(refusal);
            }
        }
        if !doubtful.is_empty() {
            tracing::info!(leases = doubtful.len(), "leases were dated anew: the time is known now");
            self.touch();
        }
        Ok(())
    }

    /// Lets the ledger's time pass and erases what it reclaims. Blocks.
    fn lapse(&self, now: UnixMs, agreed: Option<UnixMs>) -> Result<(), Refusal> {
        let lapses = lock(&self.ledger).tick(now, agreed)?;
        if lapses.is_empty() {
            return Ok(());
        }
        self.settle_accounts()?;
        self.touch();
        for lapse in lapses {
            let Lapse::Reclaim(id) = lapse else { continue };
            let chunks = self.fat.chunks_of_lease(id).map_err(|error| fat_refusal(&error))?;
            tracing::info!(lease = %id, chunks = chunks.len(), "a lease is past its grace: its chunks are erased");
            for batch in chunks.chunks(ERASE_BATCH) {
                let keys: Vec<ChunkKey> = batch.iter().map(fathom_store::ChunkEntry::key).collect();
                let erased = self.fat.erase_chunks(&keys).map_err(|error| fat_refusal(&error))?;
                self.erased(&erased)?;
            }
        }
        Ok(())
    }

    /// Erases chunks that no final FAT named within the time that a lease is locked, by the clocks here and at the
    /// mirrors (invariant 6). Blocks.
    pub(super) fn sweep(&self, now: UnixMs, agreed: Option<UnixMs>) -> Result<(), Refusal> {
        let Some(agreed) = agreed.filter(|_| self.has_caught_up()) else { return Ok(()) };
        if lock(&self.ledger).doubts() {
            return Ok(());
        }
        let clock = now.min(agreed);
        let limit = self.settings.terms.lock_ms;
        let lapsed = |entry: &ChunkEntry| entry.state.lapses() && clock.since_ms(entry.stored_at) > limit;
        let mut old = Vec::new();
        let looked = self.fat.for_each_chunk(|entry| {
            if old.len() < ERASE_BATCH && lapsed(entry) {
                old.push(entry.key());
            }
        });
        looked.map_err(|error| fat_refusal(&error))?;
        old.retain(|key| self.is_unconfirmed(key).is_ok_and(|unconfirmed| !unconfirmed));
        if old.is_empty() {
            return Ok(());
        }
        let erased = self.fat.write(|tx| {
            let mut erased = Vec::new();
            for key in &old {
                // A final FAT may have come since, or the chunk was sent again.
                if tx.chunk(key)?.is_some_and(|entry| lapsed(&entry)) {
                    erased.extend(tx.erase_chunk(key)?);
                }
            }
            Ok::<_, FatError>(erased)
        });
        let erased = erased.map_err(|error| fat_refusal(&error))?;
        tracing::info!(chunks = erased.len(), "chunks that no final FAT named were erased");
        self.erased(&erased)
    }
}
