//! Answering rpc streams: one request, signs of life while it is worked on, one response.

use std::future::Future;
use std::time::Duration;

use fathom_overlay::{FrameError, PeerStream, frame};
use fathom_protocol::codec;
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::{FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX};
use fathom_protocol::wire::{ALIVE_EVERY_MS, Refusal, RefusalKind, Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest time for a peer to send its request (invariant 11).
const REQUEST: Duration = Duration::from_secs(5);
/// Longest time for a peer to take an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Requests longer than [`FIRST_FRAME_BYTES_MAX`] that are taken in at a time, from all peers together: who only connects costs
/// little, and many who send much cost no more than a few.
static LARGE: Semaphore = Semaphore::const_new(4);

async fn read_request(stream: &mut PeerStream) -> Result<Vec<u8>, FrameError> {
    let length = frame::read_length(stream, FRAME_BYTES_MAX).await?;
    let _turn = if length > FIRST_FRAME_BYTES_MAX { LARGE.acquire().await.ok() } else { None };
    frame::read_body(stream, length).await
}

/// What answers requests.
pub trait Handler: Send + Sync {
    /// Answers `request` of the authenticated peer `from`.
    fn handle(&self, from: NodeId, request: Request) -> impl Future<Output = Response> + Send;
}

/// Serves one stream to its end.
///
/// # Errors
/// [`FrameError`] if the peer broke off, was too slow, or sent too much.
pub async fn serve_rpc(mut stream: PeerStream, handler: &impl Handler) -> Result<(), FrameError> {
    let from = stream.peer();
    let request = timeout(REQUEST, read_request(&mut stream)).await.unwrap_or(Err(FrameError::TimedOut(REQUEST)))?;
    let response = match codec::decode::<Request>(&request, FRAME_BYTES_MAX) {
        Ok(request) => {
            let working = handler.handle(from, request);
            tokio::pin!(working);
            loop {
                tokio::select! {
                    biased;
                    response = &mut working => break response,
                    () = tokio::time::sleep(Duration::from_millis(ALIVE_EVERY_MS)) => {
                        frame::write_frame_within(&mut stream, &codec::encode(&Response::Alive), ANSWER).await?;
                    }
                }
            }
        }
        Err(error) => Response::Refused(Refusal::new(RefusalKind::BadRequest, error.to_string())),
    };
    frame::write_frame_within(&mut stream, &codec::encode(&response), ANSWER).await?;
    Ok(stream.shutdown().await?)
}
