//! quinn's sockets, with the caps of [`Traffic`] between them and the system's.
//!
//! A connection that sends asks the socket for its turn; if that is later, it keeps the packet, waits and then sends. So
//! nothing is dropped or copied, connections take turns, and whatever a connection has to send first when its turn has come
//! (QUIC puts acknowledgements and short messages first) goes first. A lone small packet does not wait behind others' bulk.
//!
//! The turn is a thing of the connection, but quinn's interface shows the socket neither who sends nor who waits. So it is
//! kept with the task that drives the connection ([`Mine`]), in which both happen.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::time::Sleep;

use super::inbox::Inbox;
use crate::traffic::{Traffic, Way};

/// Shorter packets are not bulk: acknowledgements, signs of life, requests.
const SMALL: usize = 1_000;
/// How long one packet train may keep a capped line busy: short, so that others are not kept waiting.
const TRAIN: Duration = Duration::from_millis(4);
/// Bytes of a full packet, about.
const PACKET_BYTES: u64 = 1_452;

tokio::task_local! {
    static MINE: Mine;
}

/// What concerns the connection that a task drives.
#[derive(Debug, Default)]
struct Mine {
    /// Its turn, which was booked and not used yet.
    turn: Cell<Option<Instant>>,
    /// Whether its packets are capped, as far as that is known.
    exempt: Cell<bool>,
}

/// tokio, as quinn's runtime, with sockets that keep the caps.
#[derive(Debug, Clone)]
pub(in crate::quic) struct Paced(pub(in crate::quic) Arc<Traffic>);

impl Runtime for Paced {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(MINE.scope(Mine::default(), future));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(PacedSocket { inner, traffic: Arc::clone(&self.0), inbox: Inbox::default() }))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

#[derive(Debug)]
struct PacedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    traffic: Arc<Traffic>,
    inbox: Inbox,
}

impl PacedSocket {
    /// Whether `bytes` may go now. If not, the task's turn is noted.
    fn may_go(&self, bytes: usize, lone: bool) -> bool {
        let now = Instant::now();
        // Whose turn was booked has been counted already.
        if let Some(turn) = MINE.try_with(|mine| mine.turn.get()).ok().flatten() {
            return turn <= now;
        }
        let small = lone && bytes < SMALL;
        let turn = match small {
            true => self.traffic.turn_ahead(Way::Up, now, bytes),
            false => self.traffic.turn(Way::Up, now, bytes),
        };
        // What is sent outside of a connection, such as a refusal, cannot wait and is rare.
        turn <= now || MINE.try_with(|mine| mine.turn.set(Some(turn))).is_err()
    }
}

impl AsyncUdpSocket for PacedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = Arc::clone(&self.inner).create_io_poller();
        Box::pin(Poller { inner, sleep: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (to, bytes) = (transmit.destination.ip(), transmit.contents.len());
        let capped = self.traffic.cap(Way::Up, to).is_some();
        let _ = MINE.try_with(|mine| mine.exempt.set(!capped));
        if capped {
            let lone = transmit.segment_size.is_none_or(|segment| bytes <= segment);
            if !self.may_go(bytes, lone) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        match self.inner.try_send(transmit) {
            // The system has no room: the turn stays.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if capped {
                    let _ = MINE.try_with(|mine| mine.turn.set(mine.turn.get().or(Some(Instant::now()))));
                }
                Err(error)
            }
            other => {
                let _ = MINE.try_with(|mine| mine.turn.set(None));
                self.traffic.count(Way::Up, to, bytes);
                other
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.traffic.is_capped(Way::Down) || !self.inbox.is_empty() {
            return self.inbox.poll(&self.traffic, &*self.inner, cx, buffers, meta);
        }
        let received = ready!(self.inner.poll_recv(cx, buffers, meta))?;
        for meta in &meta[..received] {
            self.traffic.count(Way::Down, meta.addr.ip(), meta.len);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        let most = self.inner.max_transmit_segments();
        let exempt = || MINE.try_with(|mine| mine.exempt.get()).unwrap_or(false);
        match self.traffic.upload_cap() {
            None => most,
            Some(_) if exempt() => most,
            Some(rate) => {
                let packets = rate.saturating_mul(TRAIN.as_millis() as u64) / 1_000 / PACKET_BYTES;
                usize::try_from(packets).unwrap_or(most).clamp(1, most)
            }
        }
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Waits for the task's turn, and then for the system's socket.
struct Poller {
    inner: Pin<Box<dyn UdpPoller>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let turn = MINE.try_with(|mine| mine.turn.get()).ok().flatten();
        if let Some(turn) = turn.filter(|turn| *turn > Instant::now()) {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(turn.into())));
            if sleep.deadline().into_std() != turn {
                sleep.as_mut().reset(turn.into());
            }
            ready!(Future::poll(sleep.as_mut(), cx));
        }
        self.inner.as_mut().poll_writable(cx)
    }
}
