//! One stream to a peer.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use fathom_protocol::ids::NodeId;
use libp2p::core::upgrade::NegotiationError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::identity::ip_of;
use crate::traffic::{Pace, Traffic};

/// A stream between this node and a peer, in both directions. Neither side may trust an end of the stream: a peer
/// that vanishes or drops its stream can look like one that finished, so each message carries its length
/// ([`frame`](crate::frame)). Nor is `shutdown` delivery: only the peer's answer tells that it has the bytes.
///
/// Dropping the stream refuses whatever the peer still sends (its writes fail) and ends what this side sends.
pub struct PeerStream {
    inner: Compat<libp2p::Stream>,
    peer: NodeId,
    remote: String,
    /// Of a stream in the background whose peer is not exempt: what it keeps to.
    pace: Option<Pace>,
    /// Of an inbound stream: its share of what the peer may have open. Freed on drop.
    _permit: Option<OwnedSemaphorePermit>,
}

impl PeerStream {
    pub(crate) fn new(
        stream: libp2p::Stream,
        peer: NodeId,
        remote: String,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { inner: stream.compat(), peer, remote, pace: None, _permit: permit }
    }

    /// Who is at the other end; the connection's handshake proved its key.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// The multiaddress of the other end, without the peer id.
    #[must_use]
    pub fn remote_address(&self) -> &str {
        &self.remote
    }

    /// The same in the background of `traffic`.
    pub(crate) fn paced(mut self, traffic: &Arc<Traffic>) -> Self {
        let exempt = ip_of(&self.remote).is_some_and(|ip| traffic.exempts(ip));
        self.pace = (!exempt).then(|| Pace::new(Arc::clone(traffic)));
        self
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut Compat<libp2p::Stream>> {
        Pin::new(&mut self.get_mut().inner)
    }
}

/// A stream is opened without waiting for the peer's consent, which saves a round trip; a refusal then shows up here.
fn refusal(error: io::Error) -> io::Error {
    let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<NegotiationError>());
    match refused {
        Some(NegotiationError::Failed) => {
            io::Error::new(io::ErrorKind::Unsupported, "the peer does not accept such streams")
        }
        _ => error,
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(pace) = &mut this.pace else { return Pin::new(&mut this.inner).poll_read(cx, buf).map_err(refusal) };
        let most = ready!(pace.poll_read(cx)).min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part)).map_err(refusal)?;
        let bytes = part.filled().len();
        buf.advance(bytes);
        pace.read(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let most = match &mut this.pace {
            Some(pace) => ready!(pace.poll_write(cx, buf.len())),
            None => buf.len(),
        };
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, &buf[..most])).map_err(refusal)?;
        if let Some(pace) = &mut this.pace {
            pace.wrote(written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx).map_err(refusal)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx).map_err(refusal)
    }
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").field("peer", &self.peer).field("remote", &self.remote).finish_non_exhaustive()
    }
}
