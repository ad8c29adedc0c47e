//! Fetching one chunk: the best source first, a slow one raced, a bad one dropped (figures 17 to 19).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fathom_protocol::ids::{ChunkId, NodeId};
use fathom_protocol::route::sources::patience;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{FetchRequest, Refusal, RefusalKind};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use super::ahead::Ahead;
use super::chain::way;
use super::gather::Pace;
use super::store::lock;
use super::together::Together;
use super::{User, UserError};
use crate::net::{Class, Encoded};
use crate::{bao, clock};

/// After this long without the chunk at least, the next source is asked as well.
pub(super) const RACE_AFTER: Duration = Duration::from_millis(1_000);
const REQUEST_SECONDS: u64 = 60;
/// How long a source that was late is asked last.
const LATE: Duration = Duration::from_secs(5);
/// Longest chunk that is asked for together with others, in bytes. As many as go on one stream are no longer
/// than a chunk can be.
pub(super) const SMALL: usize = 128 * 1024;

/// A vendor and what it gave.
pub(super) type Answer = (NodeId, Result<Vec<u8>, Refusal>);

/// Bytes `offset..offset + length` of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    chunk: ChunkId,
    offset: u32,
    length: u32,
}

impl Range {
    pub(super) fn new(chunk: ChunkId, offset: u32, length: u32) -> Self {
        Self { chunk, offset, length }
    }
}

/// Small chunks that are asked for together, by their vendor.
pub(super) type Fetches = Together<Range, Result<Vec<u8>, Refusal>>;

/// How the vendors served one get.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// For what is fetched.
    class: Class,
    served: Mutex<BTreeMap<NodeId, Service>>,
    /// What was asked for before it was sure that it is wanted.
    pub(super) ahead: Mutex<Option<Ahead>>,
    /// How long chunks, or shards, took.
    pub(super) pace: Pace,
}

/// How one vendor served.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    /// Requests under way.
    pub in_flight: u32,
    /// Ciphertext bytes that arrived and verified.
    pub bytes: u64,
    /// Chunks that arrived and verified.
    pub good: Vec<ChunkId>,
    /// Chunks that did not.
    pub bad: Vec<ChunkId>,
    /// Why, the last time.
    pub reason: Option<String>,
    /// Whether to ask it last.
    pub failed: bool,
    /// When something from it was late as others go.
    pub late: Option<Instant>,
}

impl Service {
    /// Whether others are better asked.
    pub(super) fn is_last(&self) -> bool {
        self.failed || self.late.is_some_and(|late| late.elapsed() < LATE)
    }
}

impl Sources {
    /// Sources of work of this class.
    pub(super) fn of_class(class: Class) -> Self {
        Self { class, ..Self::default() }
    }

    /// `vendors` are asked last.
    pub(super) fn last(&self, vendors: impl IntoIterator<Item = NodeId>) {
        vendors.into_iter().for_each(|vendor| self.with(vendor, |service| service.failed = true));
    }

    pub(super) fn with<T>(&self, vendor: NodeId, work: impl FnOnce(&mut Service) -> T) -> T {
        work(lock(&self.served).entry(vendor).or_default())
    }

    /// Notes that `vendor` did not give a chunk.
    pub(super) fn failed(&self, vendor: NodeId, chunk: ChunkId, refusal: &Refusal) {
        self.with(vendor, |service| {
            service.bad.push(chunk);
            service.failed = true;
            service.reason = Some(refusal.reason.to_string());
        });
    }

    /// What each vendor did.
    pub(super) fn take_services(&self) -> BTreeMap<NodeId, Service> {
        std::mem::take(&mut lock(&self.served))
    }
}

/// Counts a request as under way until it is dropped.
struct UnderWay<'a>(&'a Sources, NodeId);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.with(self.1, |service| service.in_flight = service.in_flight.saturating_sub(1));
    }
}

impl User {
    /// The ciphertext of `chunk`, whole and verified, from any of `holders`.
    ///
    /// # Errors
    /// What each source said.
    pub(super) async fn fetch_chunk(
        self: &Arc<Self>,
        chunk: ChunkId,
        length: u32,
        holders: &[NodeId],
        sources: &Sources,
    ) -> Result<Vec<u8>, String> {
        self.fetch_part(Range::new(chunk, 0, length), holders, sources).await
    }

    /// A range of the ciphertext of a chunk, verified, from any of `holders`.
    ///
    /// # Errors
    /// What each source said.
    pub(super) async fn fetch_part(
        self: &Arc<Self>,
        range: Range,
        holders: &[NodeId],
        sources: &Sources,
    ) -> Result<Vec<u8>, String> {
        let chunk = range.chunk;
        let mut left: Vec<NodeId> = holders.to_vec();
        let mut asked: FuturesUnordered<BoxFuture<'_, Answer>> = FuturesUnordered::new();
        let mut reasons = Vec::new();
        let began = Instant::now();
        let mut newest = None;
        let mut expected = 0.0;
        loop {
            if asked.is_empty() {
                match self.best(&mut left, range.length, sources) {
                    Some((vendor, seconds)) => {
                        (newest, expected) = (Some(vendor), seconds);
                        asked.push(Box::pin(self.fetch_part_from(vendor, range, sources)));
                    }
                    None => {
                        return Err(if reasons.is_empty() {
                            "no vendor holds it".to_owned()
                        } else {
                            reasons.join("; ")
                        });
                    }
                }
            }
            let patience = patience(expected, sources.pace.seconds(), RACE_AFTER.as_secs_f64());
            tokio::select! {
                biased;
                Some((vendor, answer)) = asked.next() => match answer {
                    Ok(bytes) => {
                        sources.pace.note(began.elapsed());
                        return Ok(bytes);
                    }
                    Err(refusal) => {
                        sources.failed(vendor, chunk, &refusal);
                        reasons.push(format!("{}: {refusal}", vendor.short()));
                    }
                },
                () = tokio::time::sleep(Duration::from_secs_f64(patience)), if !left.is_empty() => {
                    // Other chunks better ask elsewhere, too.
                    if let Some(slow) = newest {
                        sources.with(slow, |service| service.late = Some(Instant::now()));
                    }
                    if let Some((vendor, seconds)) = self.best(&mut left, range.length, sources) {
                        (newest, expected) = (Some(vendor), seconds);
                        asked.push(Box::pin(self.fetch_part_from(vendor, range, sources)));
                    }
                }
            }
        }
    }

    /// Takes the best source out of `left`: one that has not failed, from which the chunk is expected first, given what is under way
    /// there; with the seconds that it should take.
    pub(super) fn best(&self, left: &mut Vec<NodeId>, length: u32, sources: &Sources) -> Option<(NodeId, f64)> {
        let cost = |vendor: &NodeId| self.source_cost(*vendor, length, sources);
        let (at, (_, seconds)) =
            left.iter().map(cost).enumerate().min_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))?;
        Some((left.swap_remove(at), seconds))
    }

    /// Whether a source is better asked last, and in how many seconds `length` bytes from it should be here.
    pub(super) fn source_cost(&self, vendor: NodeId, length: u32, sources: &Sources) -> (bool, f64) {
        let (in_flight, last) = sources.with(vendor, |service| (service.in_flight, service.is_last()));
        let way = way(&self.net, vendor, in_flight);
        (last || way.suspected(), way.fetch_seconds(u64::from(length)))
    }

    pub(super) async fn fetch_from(
        self: &Arc<Self>,
        vendor: NodeId,
        chunk: ChunkId,
        length: u32,
        sources: &Sources,
    ) -> (NodeId, Result<Vec<u8>, Refusal>) {
        self.fetch_part_from(vendor, Range::new(chunk, 0, length), sources).await
    }

    async fn fetch_part_from(
        self: &Arc<Self>,
        vendor: NodeId,
        range: Range,
        sources: &Sources,
    ) -> (NodeId, Result<Vec<u8>, Refusal>) {
        let Range { chunk, offset, length } = range;
        sources.with(vendor, |service| service.in_flight += 1);
        let _under_way = UnderWay(sources, vendor);
        let fetched = if length as usize <= SMALL {
            self.fetch_small(vendor, range).await
        } else {
            self.fetch_range(sources.class, vendor, chunk, offset, length).await
        };
        match &fetched {
            Ok(bytes) => sources.with(vendor, |service| {
                service.bytes += bytes.len() as u64;
                service.good.push(chunk);
            }),
            Err(refusal) if matches!(refusal.kind, RefusalKind::Silent | RefusalKind::Unreachable) => {
                self.net.suspect(vendor)
            }
            Err(_) => {}
        }
        (vendor, fetched)
    }

    /// A small chunk, or a short range of one, together with others that are wanted from the same vendor at the same time.
    async fn fetch_small(self: &Arc<Self>, vendor: NodeId, range: Range) -> Result<Vec<u8>, Refusal> {
        let user = Arc::clone(self);
        let fetched = self.fetches.ask(vendor, range, move |ranges| {
            let user = Arc::clone(&user);
            async move { user.fetch_ranges(Class::Foreground, vendor, ranges).await }
        });
        fetched.await.unwrap_or_else(|| Err(Refusal::new(RefusalKind::Internal, "the fetch ended early")))
    }

    /// Bytes `offset..offset + length` of a chunk from one vendor, verified against the chunk's identity alone.
    pub(super) async fn fetch_range(
        &self,
        class: Class,
        vendor: NodeId,
        chunk: ChunkId,
        offset: u32,
        length: u32,
    ) -> Result<Vec<u8>, Refusal> {
        let fetched = self.fetch_ranges(class, vendor, vec![Range { chunk, offset, length }]).await.pop();
        fetched.unwrap_or_else(|| Err(Refusal::new(RefusalKind::Internal, "nothing was asked for")))
    }

    /// Ranges of chunks from one vendor on one stream, in their order, each verified against its chunk's identity alone.
    async fn fetch_ranges(&self, class: Class, vendor: NodeId, ranges: Vec<Range>) -> Vec<Result<Vec<u8>, Refusal>> {
        let count = ranges.len();
        let mut encoded = Vec::with_capacity(count);
        if let Err(refusal) = self.read_ranges(class, vendor, &ranges, &mut encoded).await {
            encoded.resize_with(count, || Err(refusal.clone()));
        }
        let decoding = tokio::task::spawn_blocking(move || {
            let decode = |(range, encoded): (Range, Result<Encoded, Refusal>)| {
                let Encoded { chunk_length, bytes } = encoded?;
                let decoded = bao::decode(range.chunk, chunk_length, range.offset, range.length, &bytes);
                decoded.map_err(|error| {
                    Refusal::new(RefusalKind::Corrupt, format!("{} sent something else: {error}", vendor.short()))
                })
            };
            ranges.into_iter().zip(encoded).map(decode).collect()
        });
        decoding.await.unwrap_or_else(|error| vec![Err(Refusal::new(RefusalKind::Internal, error.to_string())); count])
    }

    /// Asks for ranges and reads what comes into `read`, in their order; the refusal of those that are missing there in the end.
    async fn read_ranges(
        &self,
        class: Class,
        vendor: NodeId,
        ranges: &[Range],
        read: &mut Vec<Result<Encoded, Refusal>>,
    ) -> Result<(), Refusal> {
        let expires = clock::now().plus_seconds(REQUEST_SECONDS);
        let request = |&Range { chunk, offset, length }: &Range| {
            let (version, owner) = (fathom_protocol::tags::VERSION, self.owner());
            let request = FetchRequest { version, owner, vendor, chunk, offset, length, expires };
            Signed::sign(request, self.signing()).map(Signed::into_carried)
        };
        let requests = ranges.iter().map(request).collect::<Result<Vec<_>, _>>()?;
        let mut fetching = self.net.class(class).fetch(vendor, requests).await?;
        for range in ranges {
            read.push(fetching.next(range.length).await?);
        }
        Ok(())
    }
}

/// The error for a chunk that no source gave.
pub(super) fn lost(name: &str, index: usize, reason: String) -> UserError {
    UserError::ChunkLost { name: name.to_owned(), index, reason }
}
