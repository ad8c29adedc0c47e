//! Sending chunks along a chain of vendors (figures 9 to 12) and collecting what they say (figure 14). Small chunks that go the same
//! way at the same time go on one stream, whichever put they are of: what a stream, a wake-up and a sync cost is then shared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fathom_overlay::{Proto, frame};
use fathom_protocol::codec;
use fathom_protocol::header::{Header, Headers, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, FileId, NodeId};
use fathom_protocol::limits::{ANSWERS_BYTES_MAX, BUNDLE_CHUNKS_MAX, FIRST_FRAME_BYTES_MAX};
use fathom_protocol::receipt::Receipt;
use fathom_protocol::seal::sealed_len;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{ChunkAnswer, ChunkAnswers, Refusal, RefusalKind};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::placement::Slot;
use super::store::lock;
use super::together::Together;
use super::{User, UserError};
use crate::clock;
use crate::net::{Class, SILENCE, UnderWay, frame_refusal, silent};

/// Bytes handed to the transport at a time. Large, since on a busy machine the number of wake-ups decides.
const PIECE: usize = 256 * 1024;
/// Longest wait for all receipts once the last byte was handed to the transport, however alive the vendors say they are: so
/// long, and the time that all chunks in flight need on the slowest link that is of any use.
const RECEIPTS: Duration = Duration::from_secs(25);
/// Bytes per second of that link.
const SLOWEST: u64 = 64 * 1024;
/// Longest wait for the transport to take a piece: a slow uplink is no fault of the vendor's, whose signs of life tell whether it
/// is there.
const STALL: Duration = Duration::from_secs(60);
/// Sub-chunks a vendor makes at least, where it has so many devices.
pub(super) const PARTS_MIN: u8 = 2;
const HEADER_SECONDS: u64 = 600;

/// A sealed chunk on its way.
#[derive(Clone)]
pub(super) struct SealedChunk {
    /// Its file.
    pub file: FileId,
    /// Its tag.
    pub seq: u64,
    /// BLAKE3 of `bytes`.
    pub id: ChunkId,
    /// For what it is sent.
    pub class: Class,
    /// The ciphertext.
    pub bytes: Arc<Vec<u8>>,
}

/// Longest chunk that goes with others, in bytes. [`BUNDLE_CHUNKS_MAX`] of them are no longer than a chunk can be.
const SMALL: usize = 128 * 1024;
/// Shortest chunk by which links are measured, in bytes.
const MEASURED: usize = 256 * 1024;
/// Sub-chunks of such a chunk: it is not worth dividing.
const PARTS_OF_SMALL: u8 = 1;

/// What each vendor of the chain said. A vendor that is missing was not reached, and no fault of its own.
pub(super) type Outcome = BTreeMap<NodeId, Result<Signed<Receipt>, Refusal>>;

/// A small chunk, its way, and since when it waits.
struct Errand {
    chunk: SealedChunk,
    chain: Vec<Slot>,
    since: Instant,
}

/// Small chunks that are to be sent.
pub(super) struct Errands {
    /// By the first vendor on their way. Nothing is known of one if sending ended early.
    together: Arc<Together<Errand, Option<Outcome>>>,
    /// Vendors that were gone when chunks were last sent to them, and when that showed. As many as there are such vendors.
    gone: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Errands {
    pub(super) fn new() -> Self {
        Self { together: Together::new(BUNDLE_CHUNKS_MAX), gone: Mutex::default() }
    }
}

/// What a stream of chunks carries: each with its header, all along one chain of vendors.
struct Load {
    chain: Vec<NodeId>,
    headers: Headers,
    chunks: Vec<SealedChunk>,
}

impl Load {
    /// In the background if nobody waits for any of it.
    fn class(&self) -> Class {
        let background = self.chunks.iter().all(|chunk| chunk.class == Class::Background);
        if background { Class::Background } else { Class::Foreground }
    }

    fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.len()).sum()
    }
}

fn vendors(chain: &[Slot]) -> Vec<NodeId> {
    chain.iter().map(|slot| slot.place.vendor).collect()
}

impl User {
    fn header(&self, chunk: &SealedChunk, chain: &[Slot]) -> Result<Header, UserError> {
        let length =
            u32::try_from(chunk.bytes.len()).map_err(|_| UserError::Internal("a chunk is too long".to_owned()))?;
        let expires = clock::now().plus_seconds(HEADER_SECONDS);
        let parts_min = if chunk.bytes.len() <= SMALL { PARTS_OF_SMALL } else { PARTS_MIN };
        let hops = chain.iter().enumerate().map(|(position, slot)| {
            let hop = Hop {
                version: fathom_protocol::tags::VERSION,
                owner: self.owner(),
                authority: self.owner().into(),
                file: chunk.file,
                seq: chunk.seq,
                chunk: chunk.id,
                length,
                expires,
                position: u8::try_from(position).unwrap_or(u8::MAX),
                vendor: slot.place.vendor,
                addresses: slot.head.addresses.clone(),
                lease: slot.lease.clone(),
                split: SplitPolicy { part_bytes_max: sealed_len(self.settings.part_bytes), parts_min },
                next: chain.get(position + 1).map(|next| next.place.vendor),
            };
            Signed::sign(hop, self.signing())
        });
        let hops = hops.collect::<Result<Vec<_>, _>>()?;
        Header::new(hops).map_err(|error| UserError::Internal(error.to_string()))
    }

    /// Sends `chunk` along `chain` and waits for what its vendors say. Ends within [`SILENCE`] of the first vendor's last sign
    /// of life; each further vendor is watched by the one before it.
    pub(super) async fn send_chain(
        self: &Arc<Self>,
        chunk: &SealedChunk,
        chain: &[Slot],
    ) -> Result<Outcome, UserError> {
        let Some(first) = chain.first().map(|slot| slot.place.vendor) else { return Ok(Outcome::new()) };
        for slot in chain {
            self.net.book().learn_addresses(slot.place.vendor, slot.head.addresses.iter().map(ToString::to_string));
        }
        if chunk.bytes.len() > SMALL {
            let header = self.header(chunk, chain)?;
            let load = Load { chain: vendors(chain), headers: Headers::first([header]), chunks: vec![chunk.clone()] };
            return Ok(self.send_load(&load).await.pop().unwrap_or_default());
        }
        let errand = Errand { chunk: chunk.clone(), chain: chain.to_vec(), since: Instant::now() };
        let user = Arc::clone(self);
        let sent = self.errands.together.ask(first, errand, move |errands| {
            let user = Arc::clone(&user);
            async move { user.run_errands(errands).await }
        });
        let ended = || UserError::Internal("chunks were not sent to their end".to_owned());
        sent.await.flatten().ok_or_else(ended)
    }

    /// What becomes of an errand that waited while others found that a vendor on its way is gone: another is chosen, and the
    /// silence is paid for once.
    fn overtaken(&self, errand: &Errand) -> Outcome {
        let gone = lock(&self.errands.gone);
        let theirs = errand.chain.iter().map(|slot| slot.place.vendor);
        let theirs = theirs.filter(|vendor| gone.get(vendor).is_some_and(|showed| *showed > errand.since));
        theirs.map(|vendor| (vendor, Err(silent(vendor)))).collect()
    }

    /// Sends small chunks, those that go one way on one stream. What came of each, in their order.
    async fn run_errands(&self, errands: Vec<Errand>) -> Vec<Option<Outcome>> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; errands.len()];
        let mut loads: Vec<(Vec<usize>, usize, Load)> = Vec::new();
        for (at, errand) in errands.into_iter().enumerate() {
            let overtaken = self.overtaken(&errand);
            if !overtaken.is_empty() {
                outcomes[at] = Some(overtaken);
                continue;
            }
            let Errand { chunk, chain, .. } = errand;
            let Ok(header) = self.header(&chunk, &chain) else { continue };
            let (way, length) = (vendors(&chain), codec::encode(&header).len());
            let fits = |(_, bytes, load): &&mut (_, usize, Load)| {
                load.chain == way && *bytes + length + 8 <= FIRST_FRAME_BYTES_MAX
            };
            match loads.iter_mut().find(fits) {
                Some((places, bytes, load)) => {
                    places.push(at);
                    *bytes += length;
                    load.headers = Headers::first(load.headers.iter().cloned().chain([header]));
                    load.chunks.push(chunk);
                }
                None => {
                    let load = Load { chain: way, headers: Headers::first([header]), chunks: vec![chunk] };
                    loads.push((vec![at], length, load));
                }
            }
        }
        let sent = loads.iter().map(|(_, _, load)| self.send_load(load));
        let sent = futures::future::join_all(sent).await;
        for ((places, _, _), said) in loads.iter().zip(sent) {
            for (at, outcome) in places.iter().zip(said) {
                outcomes[*at] = Some(outcome);
            }
        }
        outcomes
    }

    /// Sends chunks along their chain. What its vendors said of each, in their order.
    async fn send_load(&self, load: &Load) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::new(); load.chunks.len()];
        let Some(first) = load.chain.first().copied() else { return outcomes };
        let headers = codec::encode(&load.headers);
        let fail = |outcomes: &mut Vec<Outcome>, refusal: &Refusal| {
            for outcome in outcomes {
                outcome.entry(first).or_insert_with(|| Err(refusal.clone()));
            }
        };
        for again in [true, false] {
            let stream = match self.net.class(load.class()).open(first, Proto::Chunk).await {
                Ok(stream) => stream,
                Err(refusal) => {
                    fail(&mut outcomes, &refusal);
                    break;
                }
            };
            let ended = self.exchange(stream, &headers, load, &mut outcomes).await;
            let Err(refusal) = ended else { break };
            self.net.suspect(first);
            // A connection that the vendor forgot in a restart shows as such when it is used; the next one is new.
            if again && refusal.kind == RefusalKind::Unreachable && outcomes.iter().all(Outcome::is_empty) {
                continue;
            }
            fail(&mut outcomes, &refusal);
            break;
        }
        let said = outcomes.iter().flatten();
        for (vendor, _) in said.filter(|(_, said)| matches!(said, Err(refusal) if is_gone(refusal.kind))) {
            self.net.suspect(*vendor);
            lock(&self.errands.gone).insert(*vendor, Instant::now());
        }
        outcomes
    }

    /// Sends headers and bodies while it collects the answers.
    async fn exchange(
        &self,
        stream: fathom_overlay::PeerStream,
        headers: &[u8],
        load: &Load,
        outcomes: &mut [Outcome],
    ) -> Result<(), Refusal> {
        let first = stream.peer();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (begun, begin) = oneshot::channel();
        // Small ones show how long a sync takes, and not how fast a link is.
        let measured = load.chunks.len() == 1 && load.bytes() >= MEASURED;
        let mut under_way: Option<UnderWay<'_>> = None;
        let sending = async move {
            let sent = send_bodies(&mut writer, headers, begun, &load.chunks).await;
            // The half is kept until the answers are in: dropping it would end the stream.
            (sent, writer)
        };
        let receiving = async {
            // A vendor owes no sign of life for headers that still wait here for the connection's window.
            self.net.begun(first, begin).await;
            under_way = measured.then(|| self.net.sending(&load.chain, load.bytes() as u64));
            loop {
                let frame = frame::read_frame_within(&mut reader, ANSWERS_BYTES_MAX, SILENCE).await;
                let frame = frame.map_err(|error| frame_refusal(first, &error))?;
                let said: ChunkAnswers = codec::decode(&frame, ANSWERS_BYTES_MAX).map_err(|error| {
                    Refusal::new(RefusalKind::BadRequest, format!("{} answered badly: {error}", first.short()))
                })?;
                for numbered in said {
                    let number = usize::from(numbered.number);
                    let (Some(chunk), Some(outcome)) = (load.chunks.get(number), outcomes.get_mut(number)) else {
                        continue;
                    };
                    match numbered.answer {
                        ChunkAnswer::Alive => {}
                        ChunkAnswer::Done => return Ok(()),
                        ChunkAnswer::Receipt(receipt) => {
                            let accepted = self.accept(chunk, &load.chain, receipt);
                            if let (Some((vendor, Ok(_))), Some(under_way)) = (&accepted, &mut under_way) {
                                under_way.arrived(*vendor);
                            }
                            outcome.extend(accepted);
                        }
                        ChunkAnswer::Failed { vendor, refusal } if load.chain.contains(&vendor) => {
                            outcome.entry(vendor).or_insert(Err(refusal));
                        }
                        ChunkAnswer::Failed { .. } => {}
                    }
                }
                if outcomes.iter().all(|outcome| outcome.len() == load.chain.len()) {
                    return Ok(());
                }
            }
        };
        tokio::pin!(sending, receiving);
        tokio::select! {
            ended = &mut receiving => ended,
            // Whether or not everything was sent: the vendor may have refused before, and its answer says why.
            (_sent, _writer) = &mut sending => {
                let queued = (load.bytes() * self.settings.in_flight.max(1)) as u64;
                let most = RECEIPTS + Duration::from_secs(queued / SLOWEST);
                tokio::time::timeout(most, &mut receiving).await.unwrap_or_else(|_| Err(silent(first)))
            }
        }
    }

    /// A receipt counts if its vendor signed it for exactly this chunk. One that had it already names the lease of that time.
    fn accept(
        &self,
        chunk: &SealedChunk,
        chain: &[NodeId],
        receipt: fathom_protocol::sign::Carried<Receipt>,
    ) -> Option<(NodeId, Result<Signed<Receipt>, Refusal>)> {
        let receipt = receipt.verify().ok()?;
        chain.iter().find(|vendor| **vendor == receipt.vendor)?;
        let good = receipt.owner == self.owner()
            && receipt.chunk == chunk.id
            && receipt.length as usize == chunk.bytes.len()
            && receipt.file == chunk.file
            && receipt.seq == chunk.seq;
        let vendor = receipt.vendor;
        let refusal = || Refusal::new(RefusalKind::BadRequest, "the vendor signed a receipt for something else");
        Some((vendor, if good { Ok(receipt) } else { Err(refusal()) }))
    }
}

/// Whether a vendor that was refused with `kind` is to be given no more.
pub(super) fn is_gone(kind: RefusalKind) -> bool {
    matches!(kind, RefusalKind::Silent | RefusalKind::Unreachable)
}

async fn send_bodies(
    writer: &mut (impl AsyncWrite + Unpin),
    headers: &[u8],
    begun: oneshot::Sender<()>,
    chunks: &[SealedChunk],
) -> Result<(), ()> {
    frame::write_frame_within(writer, headers, STALL).await.map_err(|_| ())?;
    let _ = begun.send(());
    for piece in chunks.iter().flat_map(|chunk| chunk.bytes.chunks(PIECE)) {
        match tokio::time::timeout(STALL, writer.write_all(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(()),
        }
    }
    writer.flush().await.map_err(|_| ())
}
