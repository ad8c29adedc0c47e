//! One bidirectional QUIC stream as libp2p's substream.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use super::window::{Precedence, Window};

/// Bytes of a short message: what is longer gives way to those that are not, on the same connection.
const SHORT: usize = 8 * 1024;
/// The priority of streams that are longer; others have 0.
const BULK: i32 = -1;
/// How long bulk stands back at a time: a short message that nobody cares for any more must not stop it for good.
const BACK: Duration = Duration::from_millis(250);

/// Both halves of a stream. Closing ends the sending half only, and does not wait for the other side to have it all. A
/// dropped stream ends its sending half as well, and tells the other side to stop sending unless it had ended.
///
/// Requests, answers and signs of life do not wait behind bulk: the first bytes of each stream are sent before the rest of
/// any other, and have precedence where streams wait for room in the connection's window.
#[derive(Debug)]
pub(crate) struct Stream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    finished: bool,
    /// Bytes sent while it may still be a short message; none once it is bulk.
    short: Option<usize>,
    window: Arc<Window>,
    /// Held by a short message while it waits for the window.
    precedence: Option<Precedence>,
    /// Ends the time for which a bulk stream stands back.
    back: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(super) fn new((send, receive): (quinn::SendStream, quinn::RecvStream), window: Arc<Window>) -> Self {
        Self { send, receive, finished: false, short: Some(0), window, precedence: None, back: None }
    }

    /// Waits while short messages have precedence.
    fn poll_precedence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.window.poll_yield(cx).is_pending() {
            let back = self.back.get_or_insert_with(|| Box::pin(tokio::time::sleep(BACK)));
            ready!(back.as_mut().poll(cx));
        }
        self.back = None;
        Poll::Ready(())
    }

    /// `bytes` more were sent.
    fn sent(&mut self, bytes: usize) {
        self.precedence = None;
        let Some(sent) = self.short else { return };
        self.short = Some(sent + bytes).filter(|sent| *sent <= SHORT);
        if self.short.is_none() {
            // A stream that was closed meanwhile sends nothing more, and has no priority.
            let _ = self.send.set_priority(BULK);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.short.is_none() {
            ready!(self.poll_precedence(cx));
        }
        match AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes) {
            Poll::Ready(written) => {
                self.sent(*written.as_ref().unwrap_or(&0));
                Poll::Ready(written)
            }
            Poll::Pending => {
                if self.short.is_some() && self.precedence.is_none() {
                    self.precedence = Some(Window::precedence(&self.window));
                }
                Poll::Pending
            }
        }
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
