//! Fetching one chunk: the best source first, a slow one raced, a bad one dropped (figures 17 to 19).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use fathom_overlay::{Proto, frame};
use fathom_protocol::codec;
use fathom_protocol::ids::{ChunkId, NodeId};
use fathom_protocol::limits::{ANSWER_BYTES_MAX, CHUNK_BYTES_MAX};
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{FetchAnswer, FetchRequest, Refusal, RefusalKind};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncReadExt;

use super::gather::Pace;
use super::path::way;
use super::store::lock;
use super::{User, UserError};
use crate::net::{SILENCE, frame_refusal, silent};
use crate::{bao, clock};

/// After this long without the chunk, the next source is asked as well.
pub(super) const RACE_AFTER: Duration = Duration::from_millis(1_000);
/// Bytes read from the transport at a time.
const PIECE: usize = 256 * 1024;
const REQUEST_SECONDS: u64 = 60;

/// A vendor and what it gave.
pub(super) type Answer = (NodeId, Result<Vec<u8>, Refusal>);

/// How the vendors served one get.
#[derive(Debug, Default)]
pub(super) struct Sources {
    served: Mutex<BTreeMap<NodeId, Service>>,
    /// How long shards took.
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
}

impl Sources {
    /// Sources of which `vendors` are asked last.
    pub(super) fn last(vendors: impl IntoIterator<Item = NodeId>) -> Self {
        let service = Service { failed: true, ..Service::default() };
        let served = vendors.into_iter().map(|vendor| (vendor, service.clone())).collect();
        Self { served: Mutex::new(served), pace: Pace::default() }
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
    pub(super) fn into_services(self) -> BTreeMap<NodeId, Service> {
        self.served.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
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
        &self,
        chunk: ChunkId,
        length: u32,
        holders: &[NodeId],
        sources: &Sources,
    ) -> Result<Vec<u8>, String> {
        let mut left: Vec<NodeId> = holders.to_vec();
        let mut asked: FuturesUnordered<BoxFuture<'_, Answer>> = FuturesUnordered::new();
        let mut reasons = Vec::new();
        let mut newest = None;
        loop {
            if asked.is_empty() {
                match self.best(&mut left, sources) {
                    Some(vendor) => {
                        newest = Some(vendor);
                        asked.push(Box::pin(self.fetch_from(vendor, chunk, length, sources)));
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
            tokio::select! {
                biased;
                Some((vendor, answer)) = asked.next() => match answer {
                    Ok(bytes) => return Ok(bytes),
                    Err(refusal) => {
                        sources.failed(vendor, chunk, &refusal);
                        reasons.push(format!("{}: {refusal}", vendor.short()));
                    }
                },
                () = tokio::time::sleep(RACE_AFTER), if !left.is_empty() => {
                    // Other chunks better ask elsewhere, too.
                    if let Some(slow) = newest {
                        sources.with(slow, |service| service.failed = true);
                    }
                    if let Some(vendor) = self.best(&mut left, sources) {
                        newest = Some(vendor);
                        asked.push(Box::pin(self.fetch_from(vendor, chunk, length, sources)));
                    }
                }
            }
        }
    }

    /// Takes the best source out of `left`: one that has not failed, with the least under way for its distance.
    fn best(&self, left: &mut Vec<NodeId>, sources: &Sources) -> Option<NodeId> {
        let cost = |vendor: &NodeId| {
            let (in_flight, failed) = sources.with(*vendor, |service| (service.in_flight, service.failed));
            let way = way(&self.net, *vendor, None);
            (failed || way.suspected, f64::from(in_flight + 1) * (way.score() + 2.0))
        };
        let (at, _) =
            left.iter().map(cost).enumerate().min_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))?;
        Some(left.swap_remove(at))
    }

    pub(super) async fn fetch_from(
        &self,
        vendor: NodeId,
        chunk: ChunkId,
        length: u32,
        sources: &Sources,
    ) -> (NodeId, Result<Vec<u8>, Refusal>) {
        sources.with(vendor, |service| service.in_flight += 1);
        let _under_way = UnderWay(sources, vendor);
        let fetched = self.fetch_range(vendor, chunk, 0, length).await;
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

    /// Bytes `offset..offset + length` of a chunk from one vendor, verified against the chunk's identity alone.
    pub(super) async fn fetch_range(
        &self,
        vendor: NodeId,
        chunk: ChunkId,
        offset: u32,
        length: u32,
    ) -> Result<Vec<u8>, Refusal> {
        let request = FetchRequest {
            version: fathom_protocol::tags::VERSION,
            owner: self.owner(),
            vendor,
            chunk,
            offset,
            length,
            expires: clock::now().plus_seconds(REQUEST_SECONDS),
        };
        let request = Signed::sign(request, self.signing())?;
        let mut stream = self.net.open(vendor, Proto::Fetch).await?;
        let broke = |error| frame_refusal(vendor, &error);
        frame::write_frame_within(&mut stream, &codec::encode(request.carried()), SILENCE).await.map_err(broke)?;
        let (chunk_length, encoded_length) = loop {
            let answer = frame::read_frame_within(&mut stream, ANSWER_BYTES_MAX, SILENCE).await.map_err(broke)?;
            match codec::decode(&answer, ANSWER_BYTES_MAX) {
                Ok(FetchAnswer::Alive) => {}
                Ok(FetchAnswer::Found { chunk_length, encoded_length }) => break (chunk_length, encoded_length),
                Ok(FetchAnswer::Refused(refusal)) => return Err(refusal),
                Err(error) => return Err(Refusal::new(RefusalKind::BadRequest, error.to_string())),
            }
        };
        // The hash tree adds less than an eighth to what was asked.
        let most = (length as usize).saturating_mul(9) / 8 + 64 * 1024;
        if chunk_length as usize > CHUNK_BYTES_MAX || encoded_length as usize > most {
            return Err(Refusal::new(RefusalKind::WrongLength, "the vendor announced more than was asked"));
        }
        let encoded = read_encoded(&mut stream, vendor, encoded_length as usize).await?;
        let decoded =
            tokio::task::spawn_blocking(move || bao::decode(chunk, chunk_length, offset, length, &encoded)).await;
        match decoded {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => {
                Err(Refusal::new(RefusalKind::Corrupt, format!("{} sent something else: {error}", vendor.short())))
            }
            Err(error) => Err(Refusal::new(RefusalKind::Internal, error.to_string())),
        }
    }
}

/// Reads exactly `length` bytes; each piece must come within [`SILENCE`]. Memory grows with what arrives.
async fn read_encoded(
    stream: &mut fathom_overlay::PeerStream,
    vendor: NodeId,
    length: usize,
) -> Result<Vec<u8>, Refusal> {
    let (mut encoded, mut filled) = (Vec::new(), 0);
    while filled < length {
        if filled == encoded.len() {
            encoded.resize(length.min(filled + PIECE), 0);
        }
        match tokio::time::timeout(SILENCE, stream.read(&mut encoded[filled..])).await {
            Ok(Ok(0)) => {
                return Err(Refusal::new(
                    RefusalKind::WrongLength,
                    format!("{} stopped in the middle", vendor.short()),
                ));
            }
            Ok(Ok(read)) => filled += read,
            Ok(Err(error)) => {
                return Err(Refusal::new(RefusalKind::Unreachable, format!("{} broke off: {error}", vendor.short())));
            }
            Err(_) => return Err(silent(vendor)),
        }
    }
    Ok(encoded)
}

/// The error for a chunk that no source gave.
pub(super) fn lost(name: &str, index: usize, reason: String) -> UserError {
    UserError::ChunkLost { name: name.to_owned(), index, reason }
}
