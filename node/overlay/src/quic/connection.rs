//! A QUIC connection as libp2p's muxer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{ConnectionError, VarInt};
use tokio::time::timeout;

use super::congestion::Sounding;
use super::error::Error;
use super::stream::Stream;
use super::tls;
use super::window::Window;

/// libp2p gives no reasons when it closes a connection.
pub(super) const NO_ERROR: VarInt = VarInt::from_u32(0);

type Streams = BoxStream<'static, Result<(quinn::SendStream, quinn::RecvStream), ConnectionError>>;

/// An established connection. It ends when it is closed, or when it and all its streams are dropped.
pub(crate) struct Connection {
    connection: quinn::Connection,
    inbound: Streams,
    outbound: Streams,
    closing: Option<BoxFuture<'static, ConnectionError>>,
    window: Arc<Window>,
}

impl Connection {
    fn new(connection: quinn::Connection) -> Self {
        let inbound =
            stream::unfold(
                connection.clone(),
                |connection| async move { Some((connection.accept_bi().await, connection)) },
            );
        let outbound =
            stream::unfold(
                connection.clone(),
                |connection| async move { Some((connection.open_bi().await, connection)) },
            );
        Self { connection, inbound: inbound.boxed(), outbound: outbound.boxed(), closing: None, window: Arc::default() }
    }
}

/// Waits for the handshake of `connecting`. Returns who is at the other end.
pub(super) async fn establish(connecting: quinn::Connecting, within: Duration) -> Result<(PeerId, Connection), Error> {
    let connection = timeout(within, connecting).await.map_err(|_| Error::HandshakeTimedOut)??;
    let peer = tls::peer_of(&connection)?;
    if let Ok(controller) = connection.congestion_state().into_any().downcast::<Sounding>() {
        controller.flow().leads_to(peer);
    }
    Ok((peer, Connection::new(connection)))
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        let window = Arc::clone(&self.window);
        next(&mut self.inbound, &window, cx)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        let window = Arc::clone(&self.window);
        next(&mut self.outbound, &window, cx)
    }

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Error>> {
        // quinn drives itself, and addresses do not change.
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = &mut *self;
        let closing = this.closing.get_or_insert_with(|| {
            this.connection.close(NO_ERROR, &[]);
            let connection = this.connection.clone();
            async move { connection.closed().await }.boxed()
        });
        match ready!(closing.poll_unpin(cx)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error.into())),
        }
    }
}

fn next(streams: &mut Streams, window: &Arc<Window>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
    match ready!(streams.poll_next_unpin(cx)) {
        Some(Ok(stream)) => Poll::Ready(Ok(Stream::new(stream, Arc::clone(window)))),
        Some(Err(error)) => Poll::Ready(Err(error.into())),
        // Neither ends: each failure is followed by the next.
        None => Poll::Pending,
    }
}
