//! Sending chunks to one vendor: the next hop of a chain, or the destination of a migration.

use std::time::Duration;

use fathom_overlay::{PeerStream, Proto, frame};
use fathom_protocol::codec;
use fathom_protocol::header::{Headers, Hop};
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::ANSWERS_BYTES_MAX;
use fathom_protocol::wire::{ChunkAnswer, ChunkAnswers, Numbered, Refusal, RefusalKind};
use tokio::io::{AsyncWrite, AsyncWriteExt, ReadHalf};
use tokio::sync::{mpsc, oneshot};

use super::body::{Body, Piece};
use super::ingest::about;
use crate::net::{DIAL, Net, SILENCE, frame_refusal, overlay_refusal, silent};

/// Longest time for the next hop to take a few more bytes. A slow link is no fault: whether the vendor behind it is there at all
/// shows by its signs of life, within [`SILENCE`].
const STALL: Duration = Duration::from_secs(30);

/// How a hop ended.
enum Sent {
    /// It said that it is done.
    Done,
    /// The chunk never became whole here, so nothing more is owed to it.
    Abandoned,
}

/// The vendors of each chunk that have not answered.
struct Open {
    vendors: Vec<Vec<NodeId>>,
    /// Whether none has.
    untouched: bool,
}

impl Open {
    fn of(headers: &Headers) -> Self {
        let vendors = headers.iter().map(|header| header.hops.iter().filter_map(|hop| Some(hop.peek().ok()?.vendor)));
        Self { vendors: vendors.map(Iterator::collect).collect(), untouched: true }
    }

    /// Takes note of an answer. Whether it is of one who still owed it.
    fn answered(&mut self, number: u8, vendor: NodeId) -> bool {
        let Some(vendors) = self.vendors.get_mut(usize::from(number)) else { return false };
        let owed = vendors.len();
        vendors.retain(|open| *open != vendor);
        self.untouched = false;
        vendors.len() < owed
    }
}

/// Sends `headers` and `body` to the vendor of `hop`, which is the first of each header, and passes its answers and those of the
/// vendors behind it to `answers`. What fails is passed as the first silent vendor's [`ChunkAnswer::Failed`], for each chunk.
pub(super) async fn send(net: &Net, hop: &Hop, headers: &Headers, body: &Body, answers: &mpsc::Sender<Numbered>) {
    let mut open = Open::of(headers);
    let mut result = attempt(net, hop, headers, body, answers, &mut open).await;
    if matches!(result, Err(Attempt::Lost(_))) && open.untouched {
        // A connection that the peer forgot in a restart shows as such when it is used; the next one is new.
        net.suspect(hop.vendor);
        result = attempt(net, hop, headers, body, answers, &mut open).await;
    }
    if let Err(Attempt::Lost(refusal) | Attempt::Failed(refusal)) = result {
        net.suspect(hop.vendor);
        for (number, vendors) in open.vendors.iter().enumerate() {
            // If the next hop has answered for itself, it is the vendors behind it of whom nothing is known.
            if let Some(vendor) = vendors.first() {
                let failed = ChunkAnswer::Failed { vendor: *vendor, refusal: refusal.clone() };
                let _ = answers.send(about(number, failed)).await;
            }
        }
    }
}

/// Why an attempt brought nothing.
enum Attempt {
    /// The connection broke under it.
    Lost(Refusal),
    Failed(Refusal),
}

async fn attempt(
    net: &Net,
    hop: &Hop,
    headers: &Headers,
    body: &Body,
    answers: &mpsc::Sender<Numbered>,
    open: &mut Open,
) -> Result<(), Attempt> {
    let stream = dial(net, hop).await.map_err(Attempt::Failed)?;
    exchange(net, stream, hop, headers, body, answers, open).await.map_err(|refusal| match refusal.kind {
        RefusalKind::Unreachable => Attempt::Lost(refusal),
        _ => Attempt::Failed(refusal),
    })
}

async fn exchange(
    net: &Net,
    stream: PeerStream,
    hop: &Hop,
    headers: &Headers,
    body: &Body,
    answers: &mpsc::Sender<Numbered>,
    open: &mut Open,
) -> Result<(), Refusal> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (begun, begin) = oneshot::channel();
    let sending = async {
        frame::write_frame_within(&mut writer, &codec::encode(headers), STALL)
            .await
            .map_err(|error| frame_refusal(hop.vendor, &error))?;
        let _ = begun.send(());
        write_body(&mut writer, body, hop.vendor).await
    };
    tokio::pin!(sending);
    let reading = async {
        // The vendor owes no sign of life for a header that still waits here for the connection's window.
        net.begun(hop.vendor, begin).await;
        read_answers(&mut reader, hop.vendor, answers, open).await
    };
    tokio::pin!(reading);
    let mut sent = false;
    loop {
        tokio::select! {
            biased;
            done = &mut reading => return done,
            result = &mut sending, if !sent => match result {
                Ok(Sent::Done) => sent = true,
                // Dropping the stream tells the next hop that its copy is void.
                Ok(Sent::Abandoned) => return Ok(()),
                Err(refusal) if refusal.kind == RefusalKind::Silent => return Err(refusal),
                // It takes no more bytes, but it may have said why.
                Err(_) => sent = true,
            },
        }
    }
}

/// The hop's vendor consented by its lease, so it is dialled, at the addresses known here and those of the hop.
async fn dial(net: &Net, hop: &Hop) -> Result<PeerStream, Refusal> {
    let mut addresses = net.book().addresses(hop.vendor);
    for address in &hop.addresses {
        if !addresses.iter().any(|known| known == address.as_str()) {
            addresses.push(address.to_string());
        }
    }
    let opened = net.overlay().open(hop.vendor, &addresses, Proto::Chunk, DIAL).await;
    opened.map(|stream| net.classed(stream)).map_err(|error| overlay_refusal(hop.vendor, &error))
}

async fn write_body(writer: &mut (impl AsyncWrite + Unpin), body: &Body, to: NodeId) -> Result<Sent, Refusal> {
    let mut taken = 0;
    loop {
        let piece = match body.next(taken).await {
            Piece::Bytes(bytes) => bytes,
            Piece::Broken => return Ok(Sent::Abandoned),
            Piece::End => {
                let flushed = tokio::time::timeout(STALL, writer.flush()).await;
                return match flushed {
                    Ok(Ok(())) => Ok(Sent::Done),
                    Ok(Err(error)) => Err(broke_off(to, &error)),
                    Err(_) => Err(silent(to)),
                };
            }
        };
        write_piece(writer, &piece, STALL).await.map_err(|error| match error {
            Some(error) => broke_off(to, &error),
            None => silent(to),
        })?;
        taken += piece.len();
    }
}

fn broke_off(to: NodeId, error: &std::io::Error) -> Refusal {
    Refusal::new(RefusalKind::Unreachable, format!("{} broke off: {error}", to.short()))
}

/// Writes all of `bytes`; each bit of progress may take `stall`. `None` as error: it took longer.
pub(super) async fn write_piece(
    writer: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    stall: Duration,
) -> Result<(), Option<std::io::Error>> {
    while !bytes.is_empty() {
        match tokio::time::timeout(stall, writer.write(bytes)).await {
            Ok(Ok(0)) => return Err(Some(std::io::ErrorKind::WriteZero.into())),
            Ok(Ok(written)) => bytes = &bytes[written..],
            Ok(Err(error)) => return Err(Some(error)),
            Err(_) => return Err(None),
        }
    }
    Ok(())
}

/// Passes answers on until the hop is done. Vendors that answered are taken out of `open`.
async fn read_answers(
    reader: &mut ReadHalf<PeerStream>,
    from: NodeId,
    answers: &mpsc::Sender<Numbered>,
    open: &mut Open,
) -> Result<(), Refusal> {
    let bad = |what: &str| Refusal::new(RefusalKind::BadRequest, format!("{} answered badly: {what}", from.short()));
    loop {
        let frame = frame::read_frame_within(reader, ANSWERS_BYTES_MAX, SILENCE)
            .await
            .map_err(|error| frame_refusal(from, &error))?;
        let said: ChunkAnswers = codec::decode(&frame, ANSWERS_BYTES_MAX).map_err(|error| bad(&error.to_string()))?;
        for numbered in said {
            let vendor = match &numbered.answer {
                ChunkAnswer::Alive => continue,
                ChunkAnswer::Done => return Ok(()),
                ChunkAnswer::Receipt(receipt) => receipt.peek().map_err(|error| bad(&error.to_string()))?.vendor,
                ChunkAnswer::Failed { vendor, .. } => *vendor,
            };
            // So no more is passed up than there are vendors behind.
            if !open.answered(numbered.number, vendor) {
                return Err(bad("an answer that nobody owes"));
            }
            if answers.send(numbered).await.is_err() {
                return Ok(());
            }
        }
    }
}
