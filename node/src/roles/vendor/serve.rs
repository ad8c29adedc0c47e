//! A chunk, or a range of it, goes out to its owner (figure 19). Bytes are verified against the chunk's identifier
//! before the first one leaves: what is damaged is refused, never served.

use std::sync::Arc;
use std::time::Duration;

use fathom_overlay::{PeerStream, frame};
use fathom_protocol::codec;
use fathom_protocol::limits::FIRST_FRAME_BYTES_MAX;
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::wire::{ALIVE_EVERY_MS, FetchAnswer, FetchRequest, Refusal, RefusalKind};
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
/// How long a peer may take no byte at all.
const STALL: Duration = Duration::from_secs(5);
/// Bytes per second below which a peer that takes its bytes too slowly is given up.
const TAKEN_BYTES_PER_S_MIN: u64 = 8 * 1024;
/// How long it may be slower than that at first.
const SLOW_START: Duration = Duration::from_secs(10);

impl Vendor {
    /// Serves one inbound fetch stream to its end.
    pub async fn fetch(self: &Arc<Self>, mut stream: PeerStream) {
        let Ok(request) = frame::read_frame_within(&mut stream, FIRST_FRAME_BYTES_MAX, REQUEST_WAIT).await else {
            return;
        };
        let working = self.look_up(&request);
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
        match found {
            Ok((chunk_length, encoded, _place)) => {
                let encoded_length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
                let head = FetchAnswer::Found { chunk_length, encoded_length };
                if tell(&mut stream, &head).await.is_ok() && send(&mut stream, &encoded).await.is_some() {
                    self.transfers.count(encoded.len());
                }
            }
            Err(refusal) => {
                let _ = tell(&mut stream, &FetchAnswer::Refused(refusal)).await;
            }
        }
        let _ = tokio::time::timeout(SILENCE, stream.shutdown()).await;
    }

    async fn look_up(self: &Arc<Self>, request: &[u8]) -> Result<(u32, Vec<u8>, super::transfers::Place<'_>), Refusal> {
        let request: Carried<FetchRequest> = codec::decode(request, FIRST_FRAME_BYTES_MAX)
            .map_err(|error| Refusal::new(RefusalKind::BadRequest, error.to_string()))?;
        let request = request.verify()?;
        if request.vendor != self.me {
            return Err(Refusal::new(RefusalKind::NotAuthorised, "the request is for another vendor"));
        }
        if request.expires < clock::now() {
            return Err(Refusal::new(RefusalKind::LeaseExpired, "the request has expired; sign a new one"));
        }
        let place = self.transfers.outgoing().await?;
        let (chunk_length, encoded) = self.blocking(move |vendor| vendor.encode(&request)).await?;
        Ok((chunk_length, encoded, place))
    }

    /// Reads the chunk from its devices and encodes the range. Blocks.
    fn encode(&self, request: &Signed<FetchRequest>) -> Result<(u32, Vec<u8>), Refusal> {
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
