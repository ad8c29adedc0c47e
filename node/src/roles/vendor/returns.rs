//! Giving mirrors back what they lost: a vendor keeps the newest final FATs and the moves that concern it, and hands them in at
//! a mirror whose log it does not know. If all mirrors are lost, their successors learn every final FAT from the vendors.
//!
//! Most mirrors with a new log have everything already, from other mirrors: the vendor reads its orders there first, and hands
//! in only what it did not see. That a log got everything is kept in the local FAT under `returned/`, then the mirror's id as
//! 64 hexadecimal digits: the log, 32 bytes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::fat::FinalFat;
use fathom_protocol::ids::{FileId, Hash, NodeId, OwnerId};
use fathom_protocol::limits::{FATS_PER_SUBMIT_MAX, FRAME_BYTES_MAX};
use fathom_protocol::moves::CarriedMove;
use fathom_protocol::sign::Carried;
use fathom_protocol::wire::{Page, Refusal, RefusalKind, Request, Response, SyncRecord};

use super::{Vendor, fat_refusal};

/// Longest wait for a mirror that takes a batch.
const ANSWER: Duration = Duration::from_secs(10);
/// Batches handed in before the next mirror has its turn: paced, since all vendors do this at once.
const BATCHES_AT_ONCE: usize = 16;
/// Bytes of final FATs in one batch, unless one alone is larger.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How often a mirror is given what it did not take because it knew no lease of its owner: heads are on the way for a while.
const ROUNDS_MAX: u32 = 20;
/// Final FATs read from disk at a time.
const ROWS: usize = 64;

fn is_gone(kind: RefusalKind) -> bool {
    matches!(kind, RefusalKind::Silent | RefusalKind::Unreachable | RefusalKind::Internal)
}

fn returned_key(mirror: NodeId) -> String {
    format!("returned/{mirror}")
}

/// How far a mirror was given back what it lost.
#[derive(Debug, Default)]
pub(super) struct Return {
    /// Its log, once it was heard.
    log: Option<Hash>,
    /// Whether this log is known to have everything; none if that was not looked up yet.
    done: Option<bool>,
    /// Whether the orders there were read to their end, as far as that matters.
    read: bool,
    /// Final FATs that the mirror has, by hash.
    seen: BTreeSet<Hash>,
    /// Whether the moves were handed in.
    moves: bool,
    /// The last file handed in.
    after: Option<(OwnerId, FileId)>,
    /// Whether some were not taken because leases are not known there yet.
    early: bool,
    /// How often all were gone through.
    rounds: u32,
}

impl Return {
    /// Notes a page of orders.
    pub(super) fn heard(&mut self, page: &Page) {
        if self.log != Some(page.log) {
            *self = Self { log: Some(page.log), ..Self::default() };
        }
        if self.done != Some(true) {
            self.seen.extend(page.records.iter().filter_map(|record| match record {
                SyncRecord::Fat(fat) => Some(fat.hash()),
                _ => None,
            }));
            self.read |= !page.more;
        }
    }

    fn finish(&mut self) {
        self.done = Some(true);
        self.seen = BTreeSet::new();
    }
}

impl Vendor {
    /// Hands in what a mirror lacks, some of it each time.
    pub(super) async fn give_back(self: &Arc<Self>, mirror: NodeId, returned: &mut Return) {
        let Some(log) = returned.log.filter(|_| returned.read && returned.done != Some(true)) else { return };
        let outcome = self.give_back_some(mirror, log, returned).await;
        if let Err(refusal) = outcome {
            tracing::debug!(mirror = %mirror.short(), %refusal, "a mirror was not given back everything yet");
        }
    }

    async fn give_back_some(self: &Arc<Self>, mirror: NodeId, log: Hash, returned: &mut Return) -> Result<(), Refusal> {
        if returned.done.is_none() {
            let stored =
                self.blocking(move |vendor| vendor.fat.kv(&returned_key(mirror)).map_err(|error| fat_refusal(&error)));
            if stored.await?.as_deref() == Some(&log.0[..]) {
                returned.finish();
                return Ok(());
            }
            returned.done = Some(false);
            // What it takes depends on the leases that it knows.
            self.touch();
        }
        if !returned.moves {
            // Before the final FATs: chunks that moved away are missing from the leases that those name.
            for moved in self.blocking(|vendor| vendor.moves_to_give_back()).await? {
                match self.net.call(mirror, &Request::SubmitMove(moved), ANSWER).await {
                    Err(refusal) if is_gone(refusal.kind) => return Err(refusal),
                    // What is stale or known there, stays so.
                    _ => {}
                }
            }
            returned.moves = true;
        }
        for _ in 0..BATCHES_AT_ONCE {
            let (after, seen) = (returned.after, std::mem::take(&mut returned.seen));
            let (batch, last, seen) = self
                .blocking(move |vendor| {
                    let (batch, last) = vendor.fats_to_give_back(after, &seen)?;
                    Ok((batch, last, seen))
                })
                .await?;
            returned.seen = seen;
            if !batch.is_empty() {
                let hashes: Vec<Hash> = batch.iter().map(Carried::hash).collect();
                let answer = self.net.call(mirror, &Request::SubmitFats(Bounded::first(batch)), ANSWER).await?;
                let Response::Submitted(results) = answer else {
                    return Err(Refusal::new(RefusalKind::BadRequest, "the mirror did not say what it kept"));
                };
                for (result, hash) in results.into_iter().zip(hashes) {
                    match result {
                        Some(refusal) if refusal.kind == RefusalKind::Busy => returned.early = true,
                        _ => drop(returned.seen.insert(hash)),
                    }
                }
                tracing::info!(mirror = %mirror.short(), files = returned.seen.len(), "a mirror was given back final FATs");
            }
            returned.after = last;
            if last.is_none() {
                returned.rounds += 1;
                if returned.early && returned.rounds < ROUNDS_MAX {
                    returned.early = false;
                    return Ok(());
                }
                let pair = (returned_key(mirror), log.0);
                let done = move |vendor: &Arc<Self>| {
                    vendor.fat.put_many(&[(pair.0.as_str(), &pair.1[..])]).map_err(|error| fat_refusal(&error))
                };
                self.blocking(done).await?;
                returned.finish();
                return Ok(());
            }
        }
        Ok(())
    }

    /// Cosigned moves from and to this vendor. Blocks.
    fn moves_to_give_back(&self) -> Result<Vec<CarriedMove>, Refusal> {
        let moves = self.fat.moves().map_err(|error| fat_refusal(&error))?;
        let carried =
            moves.into_iter().filter_map(|(_, record)| codec::decode::<CarriedMove>(&record, FRAME_BYTES_MAX).ok());
        Ok(carried.filter(|moved| moved.verify().is_ok()).collect())
    }

    /// A batch of final FATs after a file that are not among `seen`, and the last file looked at; none at the end. Blocks.
    #[allow(clippy::type_complexity, reason = "a page and where it ends")]
    fn fats_to_give_back(
        &self,
        after: Option<(OwnerId, FileId)>,
        seen: &BTreeSet<Hash>,
    ) -> Result<(Vec<Carried<FinalFat>>, Option<(OwnerId, FileId)>), Refusal> {
        let (mut batch, mut bytes, mut last) = (Vec::new(), 0, after);
        loop {
            let rows = self.fat.finals_after(last, ROWS).map_err(|error| fat_refusal(&error))?;
            if rows.is_empty() {
                return Ok((batch, None));
            }
            for (owner, file, _) in rows {
                let mut versions: Vec<Carried<FinalFat>> = Vec::new();
                for version in self.fat.versions_of(owner, file).map_err(|error| fat_refusal(&error))? {
                    let fat: Option<Carried<FinalFat>> = codec::decode(&version.record, FRAME_BYTES_MAX).ok();
                    versions.extend(fat.filter(|fat| !seen.contains(&fat.hash())));
                }
                let size: usize = versions.iter().map(Carried::body_len).sum();
                let full = batch.len() + versions.len() > FATS_PER_SUBMIT_MAX || bytes + size > BATCH_BYTES;
                if full && !batch.is_empty() {
                    return Ok((batch, last));
                }
                bytes += size;
                batch.extend(versions);
                last = Some((owner, file));
            }
        }
    }
}
