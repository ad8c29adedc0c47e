//! Reading ranges of chunks from a vendor: one stream, answers in the order of the requests, every length checked before it is read.

use fathom_overlay::{PeerStream, Proto, frame};
use fathom_protocol::codec;
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::{ANSWER_BYTES_MAX, CHUNK_BYTES_MAX};
use fathom_protocol::sign::Carried;
use fathom_protocol::wire::{FetchAnswer, FetchRequest, FetchRequests, Refusal, RefusalKind};
use tokio::io::AsyncReadExt;

use super::{Net, SILENCE, frame_refusal, silent};

/// Bytes read from the transport at a time.
const PIECE: usize = 256 * 1024;

/// A range of a chunk as a vendor sent it: not verified yet.
#[derive(Debug)]
pub struct Encoded {
    /// The whole chunk's length, bytes.
    pub chunk_length: u32,
    /// The range with the hashes that prove it.
    pub bytes: Vec<u8>,
}

/// The answers of one vendor to [`Net::fetch`].
#[derive(Debug)]
pub struct Fetching {
    stream: PeerStream,
    vendor: NodeId,
    net: Net,
}

impl Net {
    /// Asks `vendor` for ranges of chunks, at most as many as go on one stream.
    ///
    /// # Errors
    /// A [`Refusal`] of kind `Unreachable` or `Silent`.
    pub async fn fetch(
        &self,
        vendor: NodeId,
        requests: impl IntoIterator<Item = Carried<FetchRequest>>,
    ) -> Result<Fetching, Refusal> {
        let mut stream = self.open(vendor, Proto::Fetch).await?;
        let requests = codec::encode(&FetchRequests::first(requests));
        let written = frame::write_frame_within(&mut stream, &requests, SILENCE).await;
        written.map_err(|error| frame_refusal(vendor, &error))?;
        Ok(Fetching { stream, vendor, net: self.clone() })
    }
}

impl Fetching {
    /// The answer to the next request, which was for `length` bytes: the range, or why the vendor does not give it.
    ///
    /// # Errors
    /// A [`Refusal`] after which nothing more comes: the stream broke, fell silent for [`SILENCE`], or said what it must not.
    pub async fn next(&mut self, length: u32) -> Result<Result<Encoded, Refusal>, Refusal> {
        let (chunk_length, encoded_length) = loop {
            let answer = frame::read_frame_within(&mut self.stream, ANSWER_BYTES_MAX, SILENCE).await;
            let answer = answer.map_err(|error| frame_refusal(self.vendor, &error))?;
            match codec::decode(&answer, ANSWER_BYTES_MAX) {
                Ok(FetchAnswer::Alive) => {}
                Ok(FetchAnswer::Found { chunk_length, encoded_length }) => {
                    break (chunk_length, encoded_length as usize);
                }
                Ok(FetchAnswer::Refused(refusal)) => return Ok(Err(refusal)),
                Err(error) => return Err(Refusal::new(RefusalKind::BadRequest, error.to_string())),
            }
        };
        // The hash tree adds less than an eighth to what was asked.
        let most = (length as usize).saturating_mul(9) / 8 + 64 * 1024;
        if chunk_length as usize > CHUNK_BYTES_MAX || encoded_length > most {
            return Err(Refusal::new(RefusalKind::WrongLength, "the vendor announced more than was asked"));
        }
        let bytes = self.read(encoded_length).await?;
        Ok(Ok(Encoded { chunk_length, bytes }))
    }

    /// Reads exactly `length` bytes; each piece must come within [`SILENCE`]. Memory that is not written to is not there yet: it grows
    /// with what arrives.
    async fn read(&mut self, length: usize) -> Result<Vec<u8>, Refusal> {
        let vendor = self.vendor;
        let coming = self.net.coming(vendor);
        let (mut bytes, mut filled) = (Vec::with_capacity(length), 0);
        while filled < length {
            if filled == bytes.len() {
                bytes.resize(length.min(filled + PIECE), 0);
            }
            match tokio::time::timeout(SILENCE, self.stream.read(&mut bytes[filled..])).await {
                Ok(Ok(0)) => {
                    let reason = format!("{} stopped in the middle", vendor.short());
                    return Err(Refusal::new(RefusalKind::WrongLength, reason));
                }
                Ok(Ok(read)) => {
                    coming.came(read);
                    filled += read;
                }
                Ok(Err(error)) => {
                    let reason = format!("{} broke off: {error}", vendor.short());
                    return Err(Refusal::new(RefusalKind::Unreachable, reason));
                }
                Err(_) => return Err(silent(vendor)),
            }
        }
        Ok(bytes)
    }
}
