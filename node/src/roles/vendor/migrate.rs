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
use fathom_protocol::ids::NodeId;
use fathom_protocol::moves::{CarriedMove, MOVE_BYTES_MAX};
use fathom_protocol::rehome::{
    self, Batch, Batches, Custody, HeldChunk, Open, Relief, Submitted, is_held_long_enough, may_leave, submitted,
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
/// After a round in which nothing could be moved, the next one waits so long.
const PAUSE: Duration = Duration::from_secs(5);
/// Bytes moved away for the transfer rate's sake in one round; the rate is then measured anew.
const RATE_ROUND_BYTES: u64 = 64 * 1024 * 1024;
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
        ChunkState::Stored => Custody::Stored,
        ChunkState::Committed => Custody::Committed,
        ChunkState::Leaving { .. } => Custody::Leaving,
    }
}

impl Vendor {
    /// Keeps this vendor below its overload, for as long as it runs.
    pub(super) async fn migrating(self: &Arc<Self>) {
        let mut pause = Instant::now();
        let cut_off = self.blocking(|vendor| Ok(!vendor.open_moves()?.is_empty() || !lock(&vendor.leaving).is_empty()));
        let mut relief = Relief::resumed(cut_off.await.unwrap_or(false));
        loop {
            tokio::time::sleep(TICK).await;
            if let Err(refusal) = self.erase_left().await {
                tracing::warn!(%refusal, "chunks that were moved away are not erased yet");
            }
            if Instant::now() < pause {
                continue;
            }
            if self.moves_open.load(Ordering::Relaxed) && !self.resume().await {
                pause = Instant::now() + PAUSE;
                continue;
            }
            let excess = self.excess(&mut relief);
            if excess == 0 {
                lock(&self.held_at).clear();
            }
            if excess > 0 && self.round(excess).await == 0 {
                pause = Instant::now() + PAUSE;
            }
        }
    }

    /// Bytes to move away now; 0 if this vendor is not overloaded. Chunks that leave already do not count as stored.
    fn excess(&self, relief: &mut Relief) -> u64 {
        // A device that is unplugged for an hour makes the rest look full, which is no reason to move anything.
        if self.device_away.load(Ordering::Relaxed) {
            return 0;
        }
        let (used, capacity) = {
            let ledger = lock(&self.ledger);
            (ledger.leases().map(|lease| lease.used).sum::<u64>(), ledger.capacity())
        };
        let leaving: u64 = lock(&self.leaving).values().map(|left| u64::from(left.length)).sum();
        let stays = used.saturating_sub(leaving);
        let excess = relief.excess(stays, capacity, self.settings.thresholds());
        if excess > 0 {
            return excess;
        }
        let threshold = self.settings.bandwidth_mb_per_s.saturating_mul(1_000_000);
        if threshold > 0 && self.transfers.above(threshold) {
            self.transfers.measure_anew();
            return RATE_ROUND_BYTES.min(stays);
        }
        0
    }

    /// Moves about `excess` bytes away. Returns how many chunks were moved.
    async fn round(self: &Arc<Self>, excess: u64) -> usize {
        let batches = match self.blocking(move |vendor| vendor.choose(excess)).await {
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
    fn choose(&self, excess: u64) -> Result<Vec<Batch>, Refusal> {
        let held_at = lock(&self.held_at).clone();
        let untried = self.choose_among(excess, |key| !held_at.contains_key(key))?;
        if !untried.is_empty() || held_at.is_empty() {
            return Ok(untried);
        }
        let mut again = self.choose_among(excess, |key| held_at.contains_key(key))?;
        for batch in &mut again {
            let keys = batch.chunks.iter().map(key_of);
            batch.exclude = keys.filter_map(|key| held_at.get(&key)).flatten().copied().collect();
        }
        Ok(again)
    }

    fn choose_among(&self, excess: u64, among: impl Fn(&ChunkKey) -> bool) -> Result<Vec<Batch>, Refusal> {
        let pending: BTreeSet<ChunkKey> =
            self.fat.moves().map_err(|error| fat_refusal(&error))?.into_iter().map(|(key, _)| key).collect();
        let damaged = lock(&self.damaged).clone();
        let mut batches = Batches::new(excess);
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
        let state = ChunkState::Leaving { moved: codec::encode(moved) };
        let length = self.durable(|tx| {
            let Some(entry) = tx.chunk(key)?.filter(|entry| entry.state == ChunkState::Committed) else {
                return Ok(None);
            };
            tx.set_state(key, state)?;
            self.count_migration(tx)?;
            Ok(Some(entry.length))
        })?;
        if let Some(length) = length {
            lock(&self.leaving).insert(*key, Leaving { since: Instant::now(), length });
        }
        Ok(())
    }

    /// Goes on with moves that a stop cut off. Whether all of them are through.
    async fn resume(self: &Arc<Self>) -> bool {
        let Ok(open) = self.blocking(|vendor| vendor.open_moves()).await else { return false };
        self.moves_open.store(false, Ordering::Relaxed);
        let mut through = true;
        for (key, moved) in open {
            match self.submit(&moved).await {
                Submitted::Taken => {
                    through &= self.blocking(move |vendor| vendor.mark_leaving(&key, &moved)).await.is_ok();
                }
                Submitted::Void(_) => {
                    // A final FAT decides about the chunk.
                    let forgot = self.blocking(move |vendor| vendor.durable(|tx| tx.remove_move(&key)));
                    through &= forgot.await.is_ok();
                }
                Submitted::Waits(refusal) => {
                    tracing::debug!(%refusal, "a move waits for a mirror");
                    through = false;
                }
            }
        }
        self.moves_open.fetch_or(!through, Ordering::Relaxed);
        through
    }

    /// Moves away from here whose chunk has not begun to leave; forgets those whose chunk is gone. Blocks.
    fn open_moves(&self) -> Result<Vec<(ChunkKey, CarriedMove)>, Refusal> {
        let mut open = Vec::new();
        for (key, bytes) in self.fat.moves().map_err(|error| fat_refusal(&error))? {
            let entry = self.fat.chunk(key.owner, key.chunk).map_err(|error| fat_refusal(&error))?;
            let moved = stored_move(&bytes);
            let body = moved.as_ref().and_then(|moved| moved.proposal().ok());
            match (rehome::reopened(self.me, entry.as_ref().map(custody), body.as_ref()), moved) {
                (Open::Submit, moved) => open.extend(moved.map(|moved| (key, moved))),
                (Open::Hold, _) => {
                    let length = entry.map_or(0, |entry| entry.length);
                    lock(&self.leaving).entry(key).or_insert(Leaving { since: Instant::now(), length });
                }
                (Open::Rests, _) => {}
                (Open::Forget, _) => {
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
