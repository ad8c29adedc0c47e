//! Fetching any of a stripe's shards until there are enough of them: data before parity, the best vendors first, and for one that is
//! slow or fails another shard instead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fathom_protocol::erasure::{self, Stripes};
use fathom_protocol::fat::{Manifest, Place};
use fathom_protocol::ids::{ChunkId, NodeId};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use super::fetch::{Answer, RACE_AFTER, Sources};
use super::store::lock;
use super::{User, blocking};

/// A shard is slow if it takes so many times as long as others did, and longer than [`RACE_AFTER`].
const SLOW: u32 = 2;

/// How long chunks or shards of one get, or repair, took on average.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<(u32, Duration)>);

impl Pace {
    pub(super) fn note(&self, took: Duration) {
        let mut pace = lock(&self.0);
        pace.0 = pace.0.saturating_add(1);
        pace.1 += took;
    }

    /// Seconds on average, if any came.
    pub(super) fn seconds(&self) -> Option<f64> {
        let (count, took) = *lock(&self.0);
        (count > 0).then(|| took.as_secs_f64() / f64::from(count))
    }

    /// How long to wait for a shard before another one is asked for; none if nothing came yet: then it is not known who is slow,
    /// and a vendor that is hung shows by its silence.
    fn patience(&self) -> Option<Duration> {
        let (count, took) = *lock(&self.0);
        (count > 0).then(|| (took / count * SLOW).max(RACE_AFTER))
    }
}

/// One shard of a stripe, and who has it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Its position in the stripe.
    pub position: usize,
    /// BLAKE3 of its bytes.
    pub id: ChunkId,
    /// Length, bytes.
    pub length: u32,
    /// Vendors that have it.
    pub holders: Vec<NodeId>,
}

/// Shards that are here, by position.
pub(super) type Got = BTreeMap<usize, Vec<u8>>;

/// The shards of a stripe with the vendors at those of their places that are `kept`.
pub(super) fn shards_of(
    manifest: &Manifest,
    stripes: &Stripes,
    stripe: u64,
    kept: impl Fn(ChunkId, Place) -> bool,
) -> Vec<Held> {
    let held = |(position, piece): (usize, u64)| {
        let piece = manifest.piece(usize::try_from(piece).ok()?)?;
        let places = manifest.places_of_piece(&piece).filter(|place| kept(piece.id, *place));
        let holders = places.map(|place| place.vendor).collect();
        Some(Held { position, id: piece.id, length: piece.length, holders })
    };
    stripes.members(stripe).into_iter().filter_map(held).collect()
}

/// A request that is under way: the shard's place in the list, when it began, and what came.
type Asked<'a> = BoxFuture<'a, (usize, Instant, Answer)>;

impl User {
    /// Fetches shards until `got` has as many as are `needed`. Each is verified against its identifier.
    ///
    /// # Errors
    /// Why there are too few; `got` keeps those that came.
    pub(super) async fn gather(
        self: &Arc<Self>,
        shards: &[Held],
        data: usize,
        needed: usize,
        got: &mut Got,
        sources: &Sources,
    ) -> Result<(), String> {
        let missing = shards.iter().enumerate().filter(|(_, shard)| !got.contains_key(&shard.position));
        let mut left: Vec<(usize, NodeId)> =
            missing.flat_map(|(at, shard)| shard.holders.iter().map(move |vendor| (at, *vendor))).collect();
        let mut asked: FuturesUnordered<Asked<'_>> = FuturesUnordered::new();
        let mut pending: BTreeMap<usize, NodeId> = BTreeMap::new();
        let mut reasons = Vec::new();
        loop {
            while got.len() + pending.len() < needed && self.ask(shards, data, &mut left, &mut pending, &asked, sources)
            {
            }
            if got.len() >= needed {
                return Ok(());
            }
            if pending.is_empty() {
                let why = if reasons.is_empty() { "no vendor has the others".to_owned() } else { reasons.join("; ") };
                return Err(format!("{} of the {needed} shards that its stripe needs are left: {why}", got.len()));
            }
            let patience = sources.pace.patience().filter(|_| !left.is_empty());
            tokio::select! {
                biased;
                Some((at, began, (vendor, answer))) = asked.next() => {
                    pending.remove(&at);
                    match answer {
                        Ok(bytes) => {
                            sources.pace.note(began.elapsed());
                            got.insert(shards[at].position, bytes);
                        }
                        Err(refusal) => {
                            sources.failed(vendor, shards[at].id, &refusal);
                            reasons.push(format!("{}: {refusal}", vendor.short()));
                        }
                    }
                }
                () = tokio::time::sleep(patience.unwrap_or_default()), if patience.is_some() => {
                    // Other stripes better ask elsewhere, too.
                    for vendor in pending.values() {
                        sources.with(*vendor, |service| service.late = Some(Instant::now()));
                    }
                    for _ in 0..pending.len() {
                        self.ask(shards, data, &mut left, &mut pending, &asked, sources);
                    }
                }
            }
        }
    }

    /// Asks for the best shard of those that are left and not under way. Returns whether there was one.
    fn ask<'a>(
        self: &'a Arc<Self>,
        shards: &[Held],
        data: usize,
        left: &mut Vec<(usize, NodeId)>,
        pending: &mut BTreeMap<usize, NodeId>,
        asked: &FuturesUnordered<Asked<'a>>,
        sources: &'a Sources,
    ) -> bool {
        let cost = |(at, vendor): &(usize, NodeId)| {
            let (last, seconds) = self.source_cost(*vendor, shards[*at].length, sources);
            // Parity costs decoding, so it is for when a vendor of data is bad.
            let parity = shards[*at].position >= data;
            ((last, parity), seconds)
        };
        let free = left.iter().enumerate().filter(|(_, (at, _))| !pending.contains_key(at));
        let best = free.map(|(number, shard)| (number, cost(shard)));
        let best = best.min_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let Some((number, _)) = best else { return false };
        let (at, vendor) = left.swap_remove(number);
        let Held { id, length, .. } = shards[at];
        pending.insert(at, vendor);
        asked.push(Box::pin(async move {
            let began = Instant::now();
            (at, began, self.fetch_from(vendor, id, length, sources).await)
        }));
        true
    }

    /// A shard of a stripe, made of `shards`, which are others of it.
    ///
    /// # Errors
    /// Why there are too few of them.
    pub(super) async fn remake(
        self: &Arc<Self>,
        stripes: Stripes,
        stripe: u64,
        wanted: &Held,
        shards: &[Held],
        sources: &Sources,
    ) -> Result<Vec<u8>, String> {
        let (lengths, mut got) = (stripes.lengths(stripe), Got::new());
        self.gather(shards, stripes.code.data(), lengths.len(), &mut got, sources).await?;
        let (position, id) = (wanted.position, wanted.id);
        let made = blocking(move || Ok(make(stripes, &lengths, &got, &[(position, id)])));
        made.await.map_err(|error| error.to_string())?.map(|mut made| made.remove(0))
    }
}

/// The shards at these positions, made of those that were got and compared with their identifiers. Blocks.
pub(super) fn make(
    stripes: Stripes,
    lengths: &[u32],
    got: &Got,
    wanted: &[(usize, ChunkId)],
) -> Result<Vec<Vec<u8>>, String> {
    let present: Vec<(usize, &[u8])> = got.iter().map(|(position, bytes)| (*position, bytes.as_slice())).collect();
    let positions: Vec<usize> = wanted.iter().map(|(position, _)| *position).collect();
    let made = erasure::rebuild(stripes.code, lengths, &present, &positions).map_err(|error| error.to_string())?;
    match made.iter().zip(wanted).all(|(made, (_, id))| ChunkId::of(made) == *id) {
        true => Ok(made),
        false => Err("its shards do not belong together: they were stored wrong".to_owned()),
    }
}
