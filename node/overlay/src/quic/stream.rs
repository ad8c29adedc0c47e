//! One bidirectional QUIC stream as libp2p's substream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};

/// Both halves of a stream. Closing ends the sending half only, and does not wait for the other side to have it all. A
/// dropped stream ends its sending half as well, and tells the other side to stop sending unless it had ended.
#[derive(Debug)]
pub(crate) struct Stream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    finished: bool,
}

impl Stream {
    pub(super) fn new((send, receive): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self { send, receive, finished: false }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // libp2p closes more than once; quinn takes the second time for a mistake.
        if !self.finished {
            self.send.finish().map_err(io::Error::from)?;
            self.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}
