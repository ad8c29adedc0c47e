//! Sending a chunk to one vendor: the next hop of a chain, or the destination of a migration.

use std::time::Duration;

use fathom_overlay::{PeerStream, Proto, frame};
use fathom_protocol::codec;
use fathom_protocol::header::{Header, Hop};
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::ANSWER_BYTES_MAX;
use fathom_protocol::wire::{ChunkAnswer, Refusal, RefusalKind};
use tokio::io::{AsyncWrite, AsyncWriteExt, ReadHalf};
use tokio::sync::{mpsc, oneshot};

use super::body::{Body, Piece};
use crate::net::{DIAL, Net, SILENCE, frame_refusal, overlay_refusal, silent};

/// Answers that one hop may pass up: each vendor behind it answers once.
const ANSWERS_MAX: usize = fathom_protocol::limits::HOPS_MAX;

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

/// Sends `header` and `body` to the vendor of `hop`, which is the header's first, and passes its answers and those of the
/// vendors behind it to `answers`. What fails is passed as the first silent vendor's [`ChunkAnswer::Failed`].
pub(super) async fn send(net: &Net, hop: &Hop, header: &Header, body: &Body, answers: &mpsc::Sender<ChunkAnswer>) {
    let mut open: Vec<NodeId> = header.hops.iter().filter_map(|hop| Some(hop.peek().ok()?.vendor)).collect();
    let all = open.len();
    let mut result = attempt(net, hop, header, body, answers, &mut open).await;
    if matches!(result, Err(Attempt::Lost(_))) && open.len() == all {
        // A connection that the peer forgot in a restart shows as such when it is used; the next one is new.
        net.suspect(hop.vendor);
        result = attempt(net, hop, header, body, answers, &mut open).await;
    }
    if let Err(Attempt::Lost(refusal) | Attempt::Failed(refusal)) = result {
        net.suspect(hop.vendor);
        // If the next hop has answered for itself, it is the vendors behind it of whom nothing is known.
        if let Some(vendor) = open.first() {
            let _ = answers.send(ChunkAnswer::Failed { vendor: *vendor, refusal }).await;
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
    header: &Header,
    body: &Body,
    answers: &mpsc::Sender<ChunkAnswer>,
    open: &mut Vec<NodeId>,
) -> Result<(), Attempt> {
    let stream = dial(net, hop).await.map_err(Attempt::Failed)?;
    exchange(net, stream, hop, header, body, answers, open).await.map_err(|refusal| match refusal.kind {
        RefusalKind::Unreachable => Attempt::Lost(refusal),
        _ => Attempt::Failed(refusal),
    })
}

async fn exchange(
    net: &Net,
    stream: PeerStream,
    hop: &Hop,
    header: &Header,
    body: &Body,
    answers: &mpsc::Sender<ChunkAnswer>,
    open: &mut Vec<NodeId>,
) -> Result<(), Refusal> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (begun, begin) = oneshot::channel();
    let sending = async {
        frame::write_frame_within(&mut writer, &codec::encode(header), STALL)
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
    opened.map_err(|error| overlay_refusal(hop.vendor, &error))
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
    answers: &mpsc::Sender<ChunkAnswer>,
    open: &mut Vec<NodeId>,
) -> Result<(), Refusal> {
    let bad = |what: &str| Refusal::new(RefusalKind::BadRequest, format!("{} answered badly: {what}", from.short()));
    let mut passed = 0;
    loop {
        let answer = frame::read_frame_within(reader, ANSWER_BYTES_MAX, SILENCE)
            .await
            .map_err(|error| frame_refusal(from, &error))?;
        let answer: ChunkAnswer = codec::decode(&answer, ANSWER_BYTES_MAX).map_err(|error| bad(&error.to_string()))?;
        let about = match &answer {
            ChunkAnswer::Alive => continue,
            ChunkAnswer::Done => return Ok(()),
            ChunkAnswer::Receipt(receipt) => receipt.peek().map_err(|error| bad(&error.to_string()))?.vendor,
            ChunkAnswer::Failed { vendor, .. } => *vendor,
        };
        open.retain(|vendor| *vendor != about);
        passed += 1;
        if passed > ANSWERS_MAX {
            return Err(bad("more answers than vendors"));
        }
        if answers.send(answer).await.is_err() {
            return Ok(());
        }
    }
}
