//! Storing a stripe: its chunks are sealed, parity is made of them, and each shard goes to a vendor of its own, all at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use fathom_protocol::erasure::{self, Stripes};
use fathom_protocol::fat::SALT_LEN;
use fathom_protocol::ids::{ChunkId, NodeId};
use fathom_protocol::limits::CHUNK_BYTES_MAX;
use fathom_protocol::seal::{chunk_salt, seal_chunk};
use futures::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::journal::ChunkRecord;
use super::placement::Slot;
use super::send::{Outcome, SealedChunk};
use super::store::{BUSY_PAUSE, Putting, ROUNDS, Round, lock, no_place};
use super::{User, UserError, blocking};
use crate::net::Class;

/// Bytes of memory for one permit of [`StripeRoom`].
const GRAIN: u64 = 64 * 1024;
/// Full stripes for which there is room at least, so that one is sealed while another one is sent.
const STRIPES_MIN: u64 = 2;

/// Room in memory for stripes: for as many bytes as the chunks in flight of whole copies take, or two stripes.
#[derive(Debug)]
pub(super) struct StripeRoom {
    permits: Semaphore,
    total: u32,
}

impl StripeRoom {
    /// For stripes of `columns` shards of up to `longest` bytes.
    pub(super) fn new(in_flight: usize, columns: u8, longest: u32) -> Self {
        let stripe = u64::from(columns) * u64::from(longest);
        let bytes = (STRIPES_MIN * stripe).max(in_flight as u64 * CHUNK_BYTES_MAX as u64);
        let total = u32::try_from(bytes.div_ceil(GRAIN)).unwrap_or(u32::MAX);
        Self { permits: Semaphore::new(total as usize), total }
    }

    /// Waits for room for a stripe of `bytes` bytes.
    pub(super) async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let permits = u32::try_from(bytes.div_ceil(GRAIN)).unwrap_or(u32::MAX).clamp(1, self.total);
        // The semaphore is never closed.
        self.permits.acquire_many(permits).await.ok()
    }
}

/// One shard of a stripe that is being stored.
struct Shard {
    /// Its number among the file's pieces.
    piece: u64,
    column: u8,
    record: ChunkRecord,
    /// Whether it was sealed, or made, before.
    known: bool,
    /// Whether it was counted as stored before.
    counted: bool,
    length: u32,
}

impl User {
    /// Brings every shard of stripe `stripe` of file `at` that has no place yet to a vendor.
    pub(super) async fn store_stripe(
        self: &Arc<Self>,
        put: &Arc<Putting>,
        at: usize,
        stripes: Stripes,
        stripe: u64,
    ) -> Result<(), UserError> {
        let mut shards = shards(put, at, stripes, stripe);
        if self.homeless(put, &shards).is_empty() {
            return Ok(());
        }
        let _room = put.stripes.take(shards.iter().map(|shard| u64::from(shard.length)).sum()).await;
        let sealed = self.seal_stripe(put, at, stripes, stripe, &mut shards).await?;
        let (mut last, mut fruitless) = (Round::default(), 0);
        while fruitless < ROUNDS {
            let homeless = self.homeless(put, &shards);
            if homeless.is_empty() {
                break;
            }
            let wanted: Vec<(u8, u64)> =
                homeless.iter().map(|at| (shards[*at].column, u64::from(shards[*at].length))).collect();
            let slots = self.choose(put, at, self.holders(put, &shards), &wanted).await?;
            let sends =
                homeless.iter().zip(&slots).map(|(at, slot)| self.send_chain(&sealed[*at], std::slice::from_ref(slot)));
            let outcomes = join_all(sends).await;
            last = Round::default();
            for ((member, slot), outcome) in homeless.into_iter().zip(&slots).zip(outcomes) {
                let round = self.note_shard(put, (at, &mut shards[member]), &sealed[member], slot, outcome).await?;
                last.busy |= round.busy;
                last.useful |= round.useful;
                last.reason = if round.reason.is_empty() { last.reason } else { round.reason };
            }
            fruitless = if last.useful { 0 } else { fruitless + 1 };
            if last.busy && fruitless < ROUNDS {
                tokio::time::sleep(BUSY_PAUSE * u32::try_from(fruitless + 1).unwrap_or(1)).await;
            }
        }
        if let Some(member) = self.homeless(put, &shards).first() {
            let reason = format!("{ROUNDS} rounds of vendors failed, the last one because {}", last.reason);
            return Err(no_place(put, at, shards[*member].column, reason));
        }
        for shard in shards.iter().filter(|shard| shard.piece < stripes.chunks()) {
            let plain_len = if shard.counted { 0 } else { u64::from(stripes.plain_len(shard.piece)) };
            self.chunk_done(put, plain_len, &shard.record).await;
        }
        Ok(())
    }

    /// The shards that no vendor which works has, as indices.
    fn homeless(&self, put: &Putting, shards: &[Shard]) -> Vec<usize> {
        let lacks = |shard: &Shard| !self.missing(put, shard.column..shard.column + 1, &shard.record).is_empty();
        (0..shards.len()).filter(|at| lacks(&shards[*at])).collect()
    }

    /// Vendors that have shards of the stripe, and work.
    fn holders(&self, put: &Putting, shards: &[Shard]) -> Vec<NodeId> {
        let placement = lock(&put.placement);
        let places = shards.iter().flat_map(|shard| &shard.record.copies).map(|copy| copy.place.vendor);
        places.filter(|vendor| !placement.failed().contains(vendor)).collect()
    }

    /// Books what the vendor of one shard said.
    async fn note_shard(
        self: &Arc<Self>,
        put: &Arc<Putting>,
        (at, shard): (usize, &mut Shard),
        sealed: &SealedChunk,
        slot: &Slot,
        outcome: Result<Outcome, UserError>,
    ) -> Result<Round, UserError> {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                lock(&put.placement).settle(slot, u64::from(shard.length), false);
                return Err(error);
            }
        };
        let round = self.note_outcome(put, sealed, std::slice::from_ref(slot), &outcome, &mut shard.record).await;
        if !shard.record.copies.is_empty() {
            let file = &put.files[at];
            lock(&file.chunks).insert(shard.piece, shard.record.clone());
            self.note_chunk(put, file.file, shard.piece, &shard.record).await?;
        }
        Ok(round)
    }

    /// Reads and seals the stripe's chunks and makes its parity. What was made before must come out the same, else the source
    /// changed.
    async fn seal_stripe(
        &self,
        put: &Arc<Putting>,
        at: usize,
        stripes: Stripes,
        stripe: u64,
        shards: &mut [Shard],
    ) -> Result<Vec<SealedChunk>, UserError> {
        let chunks = stripes.members(stripe).into_iter().filter(|(_, piece)| *piece < stripes.chunks());
        let sealing = chunks.map(|(_, index)| {
            let put = Arc::clone(put);
            // Each on a core of its own.
            blocking(move || {
                let file = &put.files[at];
                let plain = file.source.read(index * u64::from(file.chunk_plain), file.plain_len(index))?;
                let salt = chunk_salt(&file.file_key, index, &plain);
                let bytes = seal_chunk(&file.file_key, index, salt, &plain)?;
                Ok((salt, ChunkId::of(&bytes), Arc::new(bytes)))
            })
        });
        let mut sealed = join_all(sealing).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let data: Vec<Arc<Vec<u8>>> = sealed.iter().map(|(_, _, bytes)| Arc::clone(bytes)).collect();
        let parity = blocking(move || {
            let data: Vec<&[u8]> = data.iter().map(|bytes| bytes.as_slice()).collect();
            let parity =
                erasure::encode(stripes.code, &data).map_err(|error| UserError::Internal(error.to_string()))?;
            Ok(parity
                .into_iter()
                .map(|bytes| ([0; SALT_LEN], ChunkId::of(&bytes), Arc::new(bytes)))
                .collect::<Vec<_>>())
        });
        sealed.extend(parity.await?);
        let file = &put.files[at];
        let mut chunks = Vec::with_capacity(shards.len());
        for (shard, (salt, id, bytes)) in shards.iter_mut().zip(sealed) {
            if shard.known && id != shard.record.id {
                return Err(UserError::SourceChanged(file.source.path.clone()));
            }
            (shard.record.id, shard.record.salt) = (id, salt);
            chunks.push(SealedChunk { file: file.file, seq: file.seq, id, class: Class::Foreground, bytes });
        }
        Ok(chunks)
    }
}

/// The shards of a stripe as far as they are known.
fn shards(put: &Putting, at: usize, stripes: Stripes, stripe: u64) -> Vec<Shard> {
    let file = &put.files[at];
    let records: BTreeMap<u64, ChunkRecord> = {
        let chunks = lock(&file.chunks);
        let members = stripes.members(stripe).into_iter();
        members.filter_map(|(_, piece)| Some((piece, chunks.get(&piece)?.clone()))).collect()
    };
    let shard = |(_, piece): (usize, u64)| {
        let known = records.get(&piece);
        let new = || ChunkRecord { id: ChunkId([0; 32]), salt: [0; SALT_LEN], copies: Vec::new() };
        Shard {
            piece,
            column: file.columns(piece, put.copies).start,
            record: known.cloned().unwrap_or_else(new),
            known: known.is_some(),
            counted: known.is_some_and(|record| !record.copies.is_empty()),
            length: stripes.len(piece),
        }
    };
    stripes.members(stripe).into_iter().map(shard).collect()
}
