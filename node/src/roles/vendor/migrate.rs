//! Away with data when there is too much (figures 15b to 15e): room at another vendor, the chunk over there, its receipt,
//! a move that both sign, the mirrors' word, and after a hold time the erase here. What is decided on the way is
//! [`fathom_protocol::rehome`]'s.
//!
//! Each step is safe to be cut off after: before the cosigned move is on disk the chunk is simply here, and a copy at the
//! destination lapses there; once it is, a restart hands the same move in again and goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fathom_protocol::codec;
use fathom_protocol::fat::{Fate, Tag};
use fathom_protocol::ids::NodeId;
use fathom_protocol::moves::{CarriedMove, MOVE_BYTES_MAX};
use fathom_protocol::rehome::{
    self, Batch, Batches, CONFIRM_AFTER_MS, Confirmed, Custody, HeldChunk, Load, Open, Pause, Proposed, Relief,
    Submitted, confirmed, is_held_long_enough, is_of, may_leave, proposed, submitted,
};
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response};
use fathom_store::{ChunkEntry, ChunkKey, ChunkState};
use futures::StreamExt;
use futures::future::join_all;

use super::rehome::place;
use super::report::{MIRROR_WAIT, MIRRORS_TOLD};
use super::{Vendor, fat_refusal, lock};

/// How often it is looked whether anything must be moved or erased.
const TICK: Duration = Duration::from_millis(500);
/// Chunks on their way at once.
const IN_FLIGHT: usize = 4;
/// Chunks looked at in one round.
const LOOKED_AT_MAX: usize = 16_384;
/// How often moves that are open are gone on with.
const AGAIN: Duration = Duration::from_secs(5);
/// Bytes moved away for the transfer rate's sake in one round; the rate is then measured anew.
const RATE_ROUND_BYTES: u64 = 64 * 1024 * 1024;
/// Longest wait for a vendor's signature.
const VENDOR_WAIT: Duration = Duration::from_secs(5);
/// Largest stored move, in bytes, with its signatures.
const STORED_MOVE_BYTES_MAX: usize = MOVE_BYTES_MAX + 512;

/// A chunk that is elsewhere and is kept for a while.
#[derive(Debug)]
pub(super) struct Leaving {
    since: Instant,
    length: u32,
}

/// A chunk as the decisions see it.
pub(super) fn held(entry: &ChunkEntry) -> HeldChunk {
    let ChunkEntry { owner, file, seq, chunk, length, lease, .. } = *entry;
    HeldChunk { owner, file, seq, chunk, length, lease }
}

/// The key under which a chunk is stored.
pub(super) fn key_of(chunk: &HeldChunk) -> ChunkKey {
    ChunkKey { owner: chunk.owner, chunk: chunk.chunk }
}

/// Where a chunk is in its life, as the decisions see it.
pub(super) fn custody(entry: &ChunkEntry) -> Custody {
    match entry.state {
        ChunkState::Stored | ChunkState::Sent => Custody::Stored,
        ChunkState::Committed => Custody::Committed,
        ChunkState::Leaving { .. } => Custody::Leaving,
    }
}

impl Vendor {
    /// Keeps this vendor below its overload, for as long as it runs.
    pub(super) async fn migrating(self: &Arc<Self>) {
        let (mut pause, mut held_up) = (Pause::default(), false);
        let (mut next_round, mut next_look) = (Instant::now(), Instant::now());
        let cut_off = self.blocking(|vendor| Ok(!vendor.open_moves()?.is_empty() || !lock(&vendor.leaving).is_empty()));
        let mut relief = Relief::resumed(cut_off.await.unwrap_or(false));
        loop {
            tokio::time::sleep(TICK).await;
            if let Err(refusal) = self.erase_left().await {
                tracing::warn!(%refusal, "chunks that were moved away are not erased yet");
            }
            self.confirm().await;
            if self.moves_open.load(Ordering::Relaxed) && Instant::now() >= next_look {
                held_up = !self.resume().await;
                next_look = Instant::now() + AGAIN;
            }
            if held_up || Instant::now() < next_round {
                continue;
            }
            let (excess, load) = self.excess(&mut relief);
            if excess == 0 {
                lock(&self.held_at).clear();
            }
            if excess > 0 {
                let moved = self.round(excess, load).await;
                next_round = Instant::now() + Duration::from_millis(pause.after(moved));
            }
        }
    }

    /// Bytes to move away now; 0 if this vendor is not overloaded. If it is for the space's sake, with its load.
    fn excess(&self, relief: &mut Relief) -> (u64, Option<Load>) {
        let (used, capacity) = {
            let ledger = lock(&self.ledger);
            (ledger.leases().map(|lease| lease.used).sum::<u64>(), ledger.capacity())
        };
        // A device that is unplugged for an hour makes the rest look full, which is no reason to move anything. It is noted before
        // the capacity is without it, so it is asked after that was read.
        if self.device_away.load(Ordering::Relaxed) {
            return (0, None);
        }
        let leaving: u64 = lock(&self.leaving).values().map(|left| u64::from(left.length)).sum();
        let stays = used.saturating_sub(leaving);
        let load = Load { bytes: stays, capacity };
        let excess = relief.excess(load, self.settings.thresholds());
        if excess > 0 {
            return (excess, Some(load));
        }
        let threshold = self.settings.bandwidth_mb_per_s.saturating_mul(1_000_000);
        if threshold > 0 && self.transfers.above(threshold) {
            self.transfers.measure_anew();
            return (RATE_ROUND_BYTES.min(stays), None);
        }
        (0, None)
    }

    /// Moves about `excess` bytes away. Returns how many chunks were moved.
    async fn round(self: &Arc<Self>, excess: u64, load: Option<Load>) -> usize {
        let batches = match self.blocking(move |vendor| vendor.choose(excess, load)).await {
            Ok(batches) => batches,
            Err(refusal) => {
                tracing::warn!(%refusal, "no chunks chosen to be moved");
                return 0;
            }
        };
        let mut moved = 0;
        for mut batch in batches {
            let mut places = match self.allocate(&mut batch).await {
                Ok(places) => places,
                Err(refusal) => {
                    tracing::info!(%refusal, "overloaded, and no storage for what should go");
                    continue;
                }
            };
            let sends = place(&batch, &mut places).into_iter().map(|(moving, at)| {
                let place = &places[at];
                async move {
                    let (chunk, key) = (moving.chunk, key_of(&moving));
                    let done = self.move_chunk(&moving, place).await;
                    if let Err(refusal) = &done {
                        let to = place.room.vendor.short();
                        if refusal.kind == RefusalKind::Conflict {
                            lock(&self.held_at).entry(key).or_default().insert(place.room.vendor);
                            tracing::debug!(%chunk, %to, "the destination holds a copy; another one is looked for");
                        } else {
                            tracing::warn!(%chunk, %to, %refusal, "chunk not moved; it stays here");
                        }
                    }
                    usize::from(done.is_ok())
                }
            });
            let done: Vec<usize> = futures::stream::iter(sends).buffer_unordered(IN_FLIGHT).collect().await;
            moved += done.iter().sum::<usize>();
            self.return_room(&places).await;
        }
        if moved > 0 {
            tracing::info!(chunks = moved, "chunks moved to other vendors");
        }
        moved
    }

    /// Chunks to move: named by a final FAT, whole files first, until `excess` bytes are reached. Those that were to be moved to
    /// a vendor which has a copy are tried again, elsewhere, when there are no others. Blocks.
    fn choose(&self, excess: u64, load: Option<Load>) -> Result<Vec<Batch>, Refusal> {
        let held_at = lock(&self.held_at).clone();
        let untried = self.choose_among((excess, load), |key| !held_at.contains_key(key))?;
        if !untried.is_empty() || held_at.is_empty() {
            return Ok(untried);
        }
        let mut again = self.choose_among((excess, load), |key| held_at.contains_key(key))?;
        for batch in &mut again {
            let keys = batch.chunks.iter().map(key_of);
            batch.exclude = keys.filter_map(|key| held_at.get(&key)).flatten().copied().collect();
        }
        Ok(again)
    }

    fn choose_among(
        &self,
        (excess, load): (u64, Option<Load>),
        among: impl Fn(&ChunkKey) -> bool,
    ) -> Result<Vec<Batch>, Refusal> {
        let pending: BTreeSet<ChunkKey> =
            self.fat.moves().map_err(|error| fat_refusal(&error))?.into_iter().map(|(key, _)| key).collect();
        let damaged = lock(&self.damaged).clone();
        let mut batches = Batches::new(excess, load);
        let (mut looked, mut after) = (0, None);
        while !batches.is_full() && looked < LOOKED_AT_MAX {
            let page = self.fat.chunks_after(after.as_ref(), 1_024).map_err(|error| fat_refusal(&error))?;
            let Some(last) = page.last() else { break };
            after = Some(last.key());
            looked += page.len();
            for entry in page {
                let key = entry.key();
                let moves_away = if pending.contains(&key) { Some(self.goes_away(&key)?) } else { None };
                if may_leave(custody(&entry), moves_away) && !damaged.contains(&key) && among(&key) {
                    batches.add(held(&entry));
                }
            }
        }
        Ok(batches.into_batches())
    }

    /// Whether the stored move of a chunk leads away from here.
    fn goes_away(&self, key: &ChunkKey) -> Result<bool, Refusal> {
        let stored = self.fat.move_of(key).map_err(|error| fat_refusal(&error))?;
        Ok(stored
            .and_then(|bytes| stored_move(&bytes))
            .is_some_and(|moved| moved.proposal().is_ok_and(|body| body.from == self.me)))
    }

    /// Hands a move in; what follows is known once the mirrors have answered.
    pub(super) async fn submit(&self, moved: &CarriedMove) -> Submitted {
        let mirrors: Vec<NodeId> = self.net.book().mirrors().into_iter().take(MIRRORS_TOLD).collect();
        let request = Request::SubmitMove(moved.clone());
        let asked = mirrors.iter().map(|mirror| self.net.call(*mirror, &request, MIRROR_WAIT));
        let answers = join_all(asked).await.into_iter().map(|answer| match answer {
            Ok(Response::Done) => Ok(()),
            Ok(_) => Err(Refusal::new(RefusalKind::BadRequest, "a mirror answered a move strangely")),
            Err(refusal) => Err(refusal),
        });
        submitted(answers)
    }

    /// A mirror has the move: the chunk leaves. Blocks.
    pub(super) fn mark_leaving(&self, key: &ChunkKey, moved: &CarriedMove) -> Result<(), Refusal> {
        let (state, body) = (ChunkState::Leaving { moved: codec::encode(moved) }, moved.proposal()?);
        let length = self.durable(|tx| {
            let leaves =
                |entry: &ChunkEntry| entry.state == ChunkState::Committed && is_of(self.me, &body, entry.lease);
            let Some(entry) = tx.chunk(key)?.filter(leaves) else { return Ok(None) };
            tx.set_state(key, state)?;
            self.count_migration(tx)?;
            Ok(Some(entry.length))
        })?;
        if let Some(length) = length {
            lock(&self.leaving).insert(*key, Leaving { since: Instant::now(), length });
        }
        Ok(())
    }

    /// Goes on with moves that a stop or a silence cut off. Whether mirrors have all of those that both sides signed: while they
    /// do not, nothing else is moved.
    async fn resume(self: &Arc<Self>) -> bool {
        let Ok(open) = self.blocking(|vendor| vendor.open_moves()).await else { return false };
        self.moves_open.store(false, Ordering::Relaxed);
        let (mut through, mut unsigned) = (true, false);
        for (key, moved, cosigned) in open {
            let moved = if cosigned { Ok(moved) } else { self.cosigned(&key, &moved).await };
            let done = match moved {
                Ok(moved) => self.hand_in(&key, &moved).await,
                Err(refusal) => {
                    tracing::debug!(%refusal, "a move waits for its destination");
                    unsigned = true;
                    continue;
                }
            };
            if let Err(refusal) = done {
                tracing::debug!(%refusal, "a move waits for a mirror");
                through = false;
            }
        }
        self.moves_open.fetch_or(!through || unsigned, Ordering::Relaxed);
        through
    }

    /// Asks the destination for its signature under a proposal that is on disk. What it signed is on disk when this returns; a
    /// proposal that it refuses is not.
    pub(super) async fn cosigned(
        self: &Arc<Self>,
        key: &ChunkKey,
        proposal: &CarriedMove,
    ) -> Result<CarriedMove, Refusal> {
        let (key, body) = (*key, proposal.proposal()?);
        let answer = self.net.call(body.to, &Request::Cosign(proposal.clone()), VENDOR_WAIT).await;
        match proposed(&body, answer) {
            Proposed::Signed(moved) => {
                let record = codec::encode(&moved);
                self.blocking(move |vendor| vendor.durable(|tx| tx.put_move(&key, &record))).await?;
                Ok(moved)
            }
            Proposed::Refused(refusal) => {
                self.blocking(move |vendor| vendor.durable(|tx| tx.remove_move(&key))).await?;
                Err(refusal)
            }
            Proposed::Waits(refusal) => {
                self.moves_open.store(true, Ordering::Relaxed);
                Err(refusal)
            }
        }
    }

    /// Hands in a move that both sides signed, and does what follows. Returns whether a mirror has it, or it is void; an error if it
    /// is still open.
    pub(super) async fn hand_in(self: &Arc<Self>, key: &ChunkKey, moved: &CarriedMove) -> Result<bool, Refusal> {
        let (key, record) = (*key, moved.clone());
        match self.submit(moved).await {
            Submitted::Taken => self.blocking(move |vendor| vendor.mark_leaving(&key, &record)).await.map(|()| true),
            Submitted::Void(refusal) => {
                // A final FAT decides about the chunk.
                tracing::debug!(%refusal, "a move is void");
                self.blocking(move |vendor| vendor.durable(|tx| tx.remove_move(&key))).await.map(|_| false)
            }
            Submitted::Waits(refusal) => {
                self.moves_open.store(true, Ordering::Relaxed);
                Err(refusal)
            }
        }
    }

    /// Hands in moves to here of which it is not known that a mirror has them, some time after they were signed: then final FATs
    /// that free the chunk reach this vendor. A chunk whose move is void lapses like one that no final FAT names.
    async fn confirm(self: &Arc<Self>) {
        let due: Vec<ChunkKey> = {
            let mut unconfirmed = lock(&self.unconfirmed);
            let after = Duration::from_millis(CONFIRM_AFTER_MS);
            let due: Vec<ChunkKey> =
                unconfirmed.iter().filter(|(_, since)| since.elapsed() >= after).map(|(key, _)| *key).collect();
            unconfirmed.extend(due.iter().map(|key| (*key, Instant::now())));
            due
        };
        for key in due {
            if let Err(refusal) = self.confirm_one(key).await {
                tracing::debug!(%refusal, "chunks that were moved here are not confirmed by a mirror yet");
                return;
            }
        }
    }

    async fn confirm_one(self: &Arc<Self>, key: ChunkKey) -> Result<(), Refusal> {
        let stored = self.blocking(move |vendor| vendor.open_at(&key)).await?;
        let Some((Open::Confirm, Some(moved))) = stored else {
            lock(&self.unconfirmed).remove(&key);
            return Ok(());
        };
        let (body, outcome) = (moved.proposal()?, self.submit(&moved).await);
        if let Submitted::Waits(refusal) = outcome {
            return Err(refusal);
        }
        self.blocking(move |vendor| {
            let now = vendor.dating_clock().at;
            let versions = vendor.fat.versions_of(body.owner, body.file).map_err(|error| fat_refusal(&error))?;
            let fates: Vec<Fate> = versions.iter().map(|known| known.lineage().fate(Tag(body.seq))).collect();
            let confirmed = confirmed(&outcome, &fates);
            vendor.durable(|tx| {
                let came = |entry: &ChunkEntry| entry.state.lapses() && is_of(vendor.me, &body, entry.lease);
                if !tx.chunk(&key)?.is_some_and(|entry| came(&entry)) {
                    return Ok(());
                }
                match confirmed {
                    Confirmed::Keep => return tx.set_state(&key, ChunkState::Committed),
                    Confirmed::Lapse => tx.set_stored_at(&key, now)?,
                    // Should the version be chosen after all, that commits it.
                    Confirmed::Lapses => {
                        tx.set_state(&key, ChunkState::Stored)?;
                        tx.set_stored_at(&key, now)?;
                    }
                    Confirmed::Waits => {}
                }
                tx.remove_move(&key).map(drop)
            })
        })
        .await?;
        lock(&self.unconfirmed).remove(&key);
        Ok(())
    }

    /// Whether it is not known yet if a mirror has the move that brought a chunk here: a table may lead here. Blocks.
    pub(super) fn is_unconfirmed(&self, key: &ChunkKey) -> Result<bool, Refusal> {
        let unconfirmed = matches!(self.open_at(key)?, Some((Open::Confirm, _)));
        if unconfirmed {
            lock(&self.unconfirmed).entry(*key).or_insert_with(Instant::now);
        }
        Ok(unconfirmed)
    }

    /// What is to be done about the move of a chunk, if one is on disk. Blocks.
    pub(super) fn open_at(&self, key: &ChunkKey) -> Result<Option<(Open, Option<CarriedMove>)>, Refusal> {
        let stored = self.fat.move_of(key).map_err(|error| fat_refusal(&error))?;
        let Some(bytes) = stored else { return Ok(None) };
        let entry = self.fat.chunk(key.owner, key.chunk).map_err(|error| fat_refusal(&error))?;
        let moved = stored_move(&bytes);
        let body = moved.as_ref().and_then(|moved| Some((moved.proposal().ok()?, moved.verify().is_ok())));
        let body = body.as_ref().map(|(body, cosigned)| (body, *cosigned));
        Ok(Some((rehome::open(self.me, entry.as_ref().map(|entry| (custody(entry), entry.lease)), body), moved)))
    }

    /// Moves away from here whose chunk has not begun to leave, with whether both sides signed; forgets those whose chunk is gone.
    /// Blocks.
    fn open_moves(&self) -> Result<Vec<(ChunkKey, CarriedMove, bool)>, Refusal> {
        let mut open = Vec::new();
        for (key, _) in self.fat.moves().map_err(|error| fat_refusal(&error))? {
            let Some((what, moved)) = self.open_at(&key)? else { continue };
            match what {
                Open::Propose | Open::Submit => {
                    open.extend(moved.map(|moved| (key, moved, what == Open::Submit)));
                }
                Open::Confirm => drop(lock(&self.unconfirmed).entry(key).or_insert_with(Instant::now)),
                Open::Hold => {
                    let entry = self.fat.chunk(key.owner, key.chunk).map_err(|error| fat_refusal(&error))?;
                    let length = entry.map_or(0, |entry| entry.length);
                    lock(&self.leaving).entry(key).or_insert(Leaving { since: Instant::now(), length });
                }
                Open::Rests => {}
                Open::Forget => {
                    self.durable(|tx| tx.remove_move(&key))?;
                }
            }
        }
        Ok(open)
    }

    /// Erases chunks whose hold time is over. It is counted from when this run first saw them leave, so no clock that
    /// jumps can cut it short.
    async fn erase_left(self: &Arc<Self>) -> Result<(), Refusal> {
        let hold_ms = self.settings.hold_seconds.saturating_mul(1_000);
        let over = |left: &Leaving| {
            let held_ms = u64::try_from(left.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            is_held_long_enough(held_ms, hold_ms)
        };
        let due: Vec<ChunkKey> = {
            let leaving = lock(&self.leaving);
            leaving.iter().filter(|(_, left)| over(left)).map(|(key, _)| *key).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        self.blocking(move |vendor| {
            let erased = vendor.durable(|tx| {
                let mut erased = Vec::new();
                for key in &due {
                    // The owner may have released it meanwhile, and even stored it again.
                    if tx.chunk(key)?.is_some_and(|entry| matches!(entry.state, ChunkState::Leaving { .. })) {
                        erased.extend(tx.erase_chunk(key)?);
                        tx.remove_move(key)?;
                    }
                }
                Ok(erased)
            })?;
            vendor.erased(&erased)?;
            let mut leaving = lock(&vendor.leaving);
            for key in &due {
                leaving.remove(key);
            }
            Ok(())
        })
        .await
    }
}

fn stored_move(bytes: &[u8]) -> Option<CarriedMove> {
    codec::decode(bytes, STORED_MOVE_BYTES_MAX).ok()
}
