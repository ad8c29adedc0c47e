//! Chunks, or ranges of them, go out to their owner (figure 19). Bytes are verified against the chunk's identifier
//! before the first one leaves: what is damaged is refused, never served.

use std::sync::Arc;
use std::time::Duration;

use fathom_overlay::{PeerStream, frame};
use fathom_protocol::codec;
use fathom_protocol::limits::{CHUNK_BYTES_MAX, FIRST_FRAME_BYTES_MAX};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::wire::{ALIVE_EVERY_MS, FetchAnswer, FetchRequest, FetchRequests, Refusal, RefusalKind};
use fathom_store::ChunkEntry;
use tokio::io::AsyncWriteExt;

use super::forward::write_piece;
use super::{Vendor, fat_refusal, lock, store_refusal};
use crate::bao::{self, BaoError};
use crate::clock;
use crate::net::SILENCE;

/// Longest time for a peer to send its request (invariant 11).
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// Bytes written at once.
const WRITE_BYTES: usize = 256 * 1024;
/// Longest encoding that is copied to go out in one piece with what precedes it, in bytes.
const TOGETHER: usize = 128 * 1024;
/// How long a peer may take no byte at all.
const STALL: Duration = Duration::from_secs(5);
/// Bytes per second below which a peer that takes its bytes too slowly is given up.
const TAKEN_BYTES_PER_S_MIN: u64 = 8 * 1024;
/// How long it may be slower than that at first.
const SLOW_START: Duration = Duration::from_secs(10);

/// The length of a chunk and the encoding of what was asked of it.
type Found = Result<(u32, Vec<u8>), Refusal>;

impl Vendor {
    /// Serves one inbound fetch stream to its end.
    pub async fn fetch(self: &Arc<Self>, mut stream: PeerStream) {
        let Ok(requests) = frame::read_frame_within(&mut stream, FIRST_FRAME_BYTES_MAX, REQUEST_WAIT).await else {
            return;
        };
        let working = self.look_up(&requests);
        tokio::pin!(working);
        let found = loop {
            tokio::select! {
                biased;
                found = &mut working => break found,
                () = tokio::time::sleep(Duration::from_millis(ALIVE_EVERY_MS)) => {
                    if tell(&mut stream, &FetchAnswer::Alive).await.is_err() {
                        return;
                    }
                }
            }
        };
        let (found, _place) = match found {
            Ok((found, place)) => (found, Some(place)),
            Err(refusal) => (vec![Err(refusal)], None),
        };
        for found in found {
            let answered = match found {
                Ok((chunk_length, encoded)) => self.serve(&mut stream, chunk_length, encoded).await,
                Err(refusal) => tell(&mut stream, &FetchAnswer::Refused(refusal)).await.ok(),
            };
            if answered.is_none() {
                return;
            }
        }
        let _ = tokio::time::timeout(SILENCE, stream.shutdown()).await;
    }

    /// Sends one encoding after what precedes it; `None` if the peer did not take it in time.
    async fn serve(&self, stream: &mut PeerStream, chunk_length: u32, encoded: Vec<u8>) -> Option<()> {
        let encoded_length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
        let head = FetchAnswer::Found { chunk_length, encoded_length };
        if encoded.len() <= TOGETHER {
            let head = codec::encode(&head);
            // A frame of such a length: it fits.
            let mut all = Vec::with_capacity(frame::PREFIX_BYTES + head.len() + encoded.len());
            all.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
            all.extend_from_slice(&head);
            all.extend_from_slice(&encoded);
            send(stream, &all).await?;
        } else {
            tell(stream, &head).await.ok()?;
            send(stream, &encoded).await?;
        }
        self.transfers.count(encoded.len());
        Some(())
    }

    /// Finds what is asked for. The refusal of all, if they are not what they should be.
    async fn look_up(self: &Arc<Self>, requests: &[u8]) -> Result<(Vec<Found>, super::transfers::Place<'_>), Refusal> {
        let bad = |reason: String| Refusal::new(RefusalKind::BadRequest, reason);
        let requests: FetchRequests =
            codec::decode(requests, FIRST_FRAME_BYTES_MAX).map_err(|error| bad(error.to_string()))?;
        let mut bytes = 0;
        for request in &requests {
            let request = request.peek()?;
            if request.vendor != self.me {
                return Err(Refusal::new(RefusalKind::NotAuthorised, "the request is for another vendor"));
            }
            if request.expires < clock::now() {
                return Err(Refusal::new(RefusalKind::LeaseExpired, "the request has expired; sign a new one"));
            }
            bytes += u64::from(request.length);
        }
        if requests.is_empty() || (requests.len() > 1 && bytes > CHUNK_BYTES_MAX as u64) {
            return Err(bad(format!("{} chunks of {bytes} bytes are not to be had on one stream", requests.len())));
        }
        let requests = requests.into_iter().map(Carried::verify).collect::<Result<Vec<_>, _>>()?;
        let place = self.transfers.outgoing().await?;
        let found = self.blocking(move |vendor| Ok(requests.iter().map(|request| vendor.encode(request)).collect()));
        Ok((found.await?, place))
    }

    /// Reads the chunk from its devices and encodes the range. Blocks.
    fn encode(&self, request: &Signed<FetchRequest>) -> Found {
        let entry = self.fat.chunk(request.owner, request.chunk).map_err(|error| fat_refusal(&error))?;
        let entry =
            entry.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "this vendor has no such chunk of yours"))?;
        let bytes = self.read_verified(&entry)?;
        match bao::encode_verified(entry.chunk, &bytes, request.offset, request.length) {
            Ok(encoded) => Ok((entry.length, encoded)),
            Err(error @ BaoError::Range { .. }) => Err(Refusal::new(RefusalKind::BadRequest, error.to_string())),
            Err(error) => {
                self.note_damage(&entry, &error.to_string());
                Err(Refusal::new(RefusalKind::Corrupt, error.to_string()))
            }
        }
    }

    /// The chunk's bytes, each part verified by its device. Blocks.
    pub(super) fn read_verified(&self, entry: &ChunkEntry) -> Result<Vec<u8>, Refusal> {
        self.devices.read_chunk(&entry.parts).map_err(|error| {
            let refusal = store_refusal(&error);
            if refusal.kind == RefusalKind::Corrupt {
                self.note_damage(entry, &error.to_string());
            }
            refusal
        })
    }

    /// Remembers that a chunk is damaged here, for the status and the log.
    pub(super) fn note_damage(&self, entry: &ChunkEntry, why: &str) {
        if lock(&self.damaged).insert(entry.key()) {
            tracing::error!(chunk = %entry.chunk, owner = %entry.owner.short(), %why, "a stored chunk is damaged");
        }
    }
}

async fn tell(stream: &mut PeerStream, answer: &FetchAnswer) -> Result<(), fathom_overlay::FrameError> {
    frame::write_frame_within(stream, &codec::encode(answer), SILENCE).await
}

/// Sends the encoding; `None` if the peer did not take it in time.
async fn send(stream: &mut PeerStream, encoded: &[u8]) -> Option<()> {
    let slow = SLOW_START + Duration::from_secs(encoded.len() as u64 / TAKEN_BYTES_PER_S_MIN);
    let sending = async {
        for piece in encoded.chunks(WRITE_BYTES) {
            write_piece(stream, piece, STALL).await.ok()?;
        }
        stream.flush().await.ok()
    };
    tokio::time::timeout(slow, sending).await.ok().flatten()
}
