//! Sending one chunk along a chain of vendors (figures 9 to 12) and collecting what they say (figure 14).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fathom_overlay::{Proto, frame};
use fathom_protocol::codec;
use fathom_protocol::header::{Header, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, FileId, NodeId};
use fathom_protocol::limits::ANSWER_BYTES_MAX;
use fathom_protocol::receipt::Receipt;
use fathom_protocol::seal::sealed_len;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{ChunkAnswer, Refusal, RefusalKind};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::placement::Slot;
use super::{User, UserError};
use crate::clock;
use crate::net::{SILENCE, frame_refusal, silent};

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
    /// The ciphertext.
    pub bytes: Arc<Vec<u8>>,
}

/// What each vendor of the chain said. A vendor that is missing was not reached, and no fault of its own.
pub(super) type Outcome = BTreeMap<NodeId, Result<Signed<Receipt>, Refusal>>;

impl User {
    fn header(&self, chunk: &SealedChunk, chain: &[Slot]) -> Result<Header, UserError> {
        let length =
            u32::try_from(chunk.bytes.len()).map_err(|_| UserError::Internal("a chunk is too long".to_owned()))?;
        let expires = clock::now().plus_seconds(HEADER_SECONDS);
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
                split: SplitPolicy { part_bytes_max: sealed_len(self.settings.part_bytes), parts_min: PARTS_MIN },
                next: chain.get(position + 1).map(|next| next.place.vendor),
            };
            Signed::sign(hop, self.signing())
        });
        let hops = hops.collect::<Result<Vec<_>, _>>()?;
        Header::new(hops).map_err(|error| UserError::Internal(error.to_string()))
    }

    /// Sends `chunk` along `chain` and waits for what its vendors say. Ends within [`SILENCE`] of the first vendor's last sign
    /// of life; each further vendor is watched by the one before it.
    pub(super) async fn send_chain(&self, chunk: &SealedChunk, chain: &[Slot]) -> Result<Outcome, UserError> {
        let mut outcome = Outcome::new();
        let Some(first) = chain.first().map(|slot| slot.place.vendor) else { return Ok(outcome) };
        for slot in chain {
            self.net.book().learn_addresses(slot.place.vendor, slot.head.addresses.iter().map(ToString::to_string));
        }
        let header = codec::encode(&self.header(chunk, chain)?);
        for again in [true, false] {
            let stream = match self.net.open(first, Proto::Chunk).await {
                Ok(stream) => stream,
                Err(refusal) => {
                    outcome.insert(first, Err(refusal));
                    return Ok(outcome);
                }
            };
            let ended = self.exchange(stream, &header, chunk, chain, &mut outcome).await;
            let Err(refusal) = ended else { break };
            self.net.suspect(first);
            // A connection that the vendor forgot in a restart shows as such when it is used; the next one is new.
            if again && refusal.kind == RefusalKind::Unreachable && outcome.is_empty() {
                continue;
            }
            outcome.entry(first).or_insert(Err(refusal));
            break;
        }
        for (vendor, _) in outcome.iter().filter(|(_, said)| matches!(said, Err(refusal) if is_gone(refusal.kind))) {
            self.net.suspect(*vendor);
        }
        Ok(outcome)
    }

    /// Sends the header and the body while it collects the answers.
    async fn exchange(
        &self,
        stream: fathom_overlay::PeerStream,
        header: &[u8],
        chunk: &SealedChunk,
        chain: &[Slot],
        outcome: &mut Outcome,
    ) -> Result<(), Refusal> {
        let first = stream.peer();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let bytes = Arc::clone(&chunk.bytes);
        let (begun, begin) = oneshot::channel();
        let sending = async move {
            let sent = send_body(&mut writer, header, begun, &bytes).await;
            // The half is kept until the answers are in: dropping it would end the stream.
            (sent, writer)
        };
        let receiving = async {
            // A vendor owes no sign of life for a header that still waits here for the connection's window.
            self.net.begun(first, begin).await;
            loop {
                let answer = frame::read_frame_within(&mut reader, ANSWER_BYTES_MAX, SILENCE).await;
                let answer = answer.map_err(|error| frame_refusal(first, &error))?;
                let answer: ChunkAnswer = codec::decode(&answer, ANSWER_BYTES_MAX).map_err(|error| {
                    Refusal::new(RefusalKind::BadRequest, format!("{} answered badly: {error}", first.short()))
                })?;
                match answer {
                    ChunkAnswer::Alive => {}
                    ChunkAnswer::Done => return Ok(()),
                    ChunkAnswer::Receipt(receipt) => outcome.extend(self.accept(chunk, chain, receipt)),
                    ChunkAnswer::Failed { vendor, refusal } => {
                        if chain.iter().any(|slot| slot.place.vendor == vendor) {
                            outcome.entry(vendor).or_insert(Err(refusal));
                        }
                    }
                }
                if outcome.len() == chain.len() {
                    return Ok(());
                }
            }
        };
        tokio::pin!(sending, receiving);
        tokio::select! {
            ended = &mut receiving => ended,
            // Whether or not everything was sent: the vendor may have refused before, and its answer says why.
            (_sent, _writer) = &mut sending => {
                let queued = (chunk.bytes.len() * self.settings.in_flight.max(1)) as u64;
                let most = RECEIPTS + Duration::from_secs(queued / SLOWEST);
                tokio::time::timeout(most, &mut receiving).await.unwrap_or_else(|_| Err(silent(first)))
            }
        }
    }

    /// A receipt counts if its vendor signed it for exactly this chunk. One that had it already names the lease of that time.
    fn accept(
        &self,
        chunk: &SealedChunk,
        chain: &[Slot],
        receipt: fathom_protocol::sign::Carried<Receipt>,
    ) -> Option<(NodeId, Result<Signed<Receipt>, Refusal>)> {
        let receipt = receipt.verify().ok()?;
        chain.iter().find(|slot| slot.place.vendor == receipt.vendor)?;
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

async fn send_body(
    writer: &mut (impl AsyncWrite + Unpin),
    header: &[u8],
    begun: oneshot::Sender<()>,
    body: &[u8],
) -> Result<(), ()> {
    frame::write_frame_within(writer, header, STALL).await.map_err(|_| ())?;
    let _ = begun.send(());
    for piece in body.chunks(PIECE) {
        match tokio::time::timeout(STALL, writer.write_all(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(()),
        }
    }
    writer.flush().await.map_err(|_| ())
}
