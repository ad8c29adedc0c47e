//! Datagrams that came faster than the download cap allows: each is handed on when its turn has come.
//!
//! To whoever sends, the cap is then a slow link with a short queue in front of it, which is what its congestion control
//! is made for: what arrives adapts to the cap within a few round trips, for one connection and for many, and what comes
//! while the queue is full is dropped. Reading streams slowly instead would leave it to the windows of flow control, which
//! are granted for each connection and cannot be taken back: 24 MiB may then still come from each when a cap begins.
//!
//! Nothing is overtaken: QUIC takes packets that come out of order for lost ones. What does not count against the cap goes
//! through at once.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::AsyncUdpSocket;
use quinn::udp::RecvMeta;
use tokio::time::Sleep;

use crate::traffic::{Traffic, Way};

/// How long a datagram waits at most; one that would wait longer is dropped. Long enough to keep a path of 150 ms busy with
/// any congestion control, short enough for those who wait for an answer.
const DEPTH: Duration = Duration::from_millis(200);
/// ... and one of a handshake: dropped, it would come again after a second at the earliest, and a few times only.
const OPENING_DEPTH: Duration = Duration::from_secs(1);
/// The bit of a packet's first byte that those of a handshake have set (RFC 9000, 17.2), and no other here.
const LONG_HEADER: u8 = 0x80;
/// How much more than that may be owed for what was dropped.
const OWED: Duration = Duration::from_millis(200);
/// Bytes that wait at most, whatever the cap.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Datagrams of this size are dropped only when there is no room in memory: a sign of life that is lost costs more.
const SMALL: usize = 200;
/// Batches taken from the system before others have a turn on this thread.
const BATCHES: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Whether nothing waits, to be looked at without the lock.
    waiting: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    datagrams: VecDeque<Datagrams>,
    bytes: usize,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Datagrams of one sender that came together, as the system gives them.
#[derive(Debug)]
struct Datagrams {
    turn: Instant,
    meta: RecvMeta,
    bytes: Vec<u8>,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        !self.waiting.load(Ordering::Acquire)
    }

    /// As `poll_recv` of a socket: what has its turn, and what needs none.
    pub(super) fn poll(
        &self,
        traffic: &Traffic,
        socket: &dyn AsyncUdpSocket,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.held();
        for _ in 0..BATCHES {
            let received = match socket.poll_recv(cx, buffers, meta) {
                Poll::Ready(received) => received?,
                Poll::Pending => return self.release(&mut held, cx, buffers, meta, 0),
            };
            let through = held.take(traffic, buffers, meta, received);
            self.waiting.store(!held.datagrams.is_empty(), Ordering::Release);
            if through > 0 {
                return self.release(&mut held, cx, buffers, meta, through);
            }
        }
        let released = self.release(&mut held, cx, buffers, meta, 0);
        if released.is_pending() {
            cx.waker().wake_by_ref();
        }
        released
    }

    /// Adds to the first `filled` messages those whose turn has come.
    fn release(
        &self,
        held: &mut Held,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        mut filled: usize,
    ) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        while filled < meta.len().min(buffers.len())
            && let Some(first) = held.datagrams.front()
            && first.turn <= now
            && let Some(first) = held.datagrams.pop_front()
        {
            held.bytes -= first.bytes.len();
            // Buffers are all of one size, and a message came in one of them.
            let length = first.bytes.len().min(buffers[filled].len());
            buffers[filled][..length].copy_from_slice(&first.bytes[..length]);
            meta[filled] = RecvMeta { len: length, ..first.meta };
            filled += 1;
        }
        self.waiting.store(!held.datagrams.is_empty(), Ordering::Release);
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        if let Some(first) = held.datagrams.front() {
            let turn = first.turn.into();
            let sleep = held.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(turn)));
            if sleep.deadline() != turn {
                sleep.as_mut().reset(turn);
            }
            if sleep.as_mut().poll(cx).is_ready() {
                // Its turn has come meanwhile.
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // No code that holds it can panic half way through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Keeps those of `received` messages that have to wait, and moves the others to the front. Returns how many those are.
    fn take(
        &mut self,
        traffic: &Traffic,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        received: usize,
    ) -> usize {
        let now = Instant::now();
        let mut through = 0;
        for at in 0..received {
            let this = meta[at];
            traffic.count(Way::Down, this.addr.ip(), this.len);
            if traffic.cap(Way::Down, this.addr.ip()).is_some() || self.waits(&this) {
                self.keep(traffic, this, &buffers[at][..this.len], now);
                continue;
            }
            if through < at {
                let (to, from) = buffers.split_at_mut(at);
                to[through][..this.len].copy_from_slice(&from[0][..this.len]);
                meta[through] = this;
            }
            through += 1;
        }
        through
    }

    /// Whether something of the same sender waits, which must not be overtaken.
    fn waits(&self, meta: &RecvMeta) -> bool {
        self.datagrams.iter().any(|datagrams| datagrams.meta.addr == meta.addr)
    }

    fn keep(&mut self, traffic: &Traffic, mut meta: RecvMeta, bytes: &[u8], now: Instant) {
        let rate = traffic.cap(Way::Down, meta.addr.ip());
        let datagram = meta.stride.clamp(1, meta.len.max(1));
        let mut fits = bytes.len().min(BYTES_MAX.saturating_sub(self.bytes) / datagram * datagram);
        if let Some(rate) = rate
            && bytes.len() > SMALL
        {
            let opens = bytes.first().is_some_and(|first| first & LONG_HEADER != 0);
            let depth = if opens { OPENING_DEPTH } else { DEPTH };
            let left = depth.saturating_sub(traffic.backlog(Way::Down, now));
            let room = usize::try_from(left.as_micros() * u128::from(rate) / 1_000_000).unwrap_or(usize::MAX);
            // Whole datagrams.
            fits = fits.min(room.div_ceil(datagram).saturating_mul(datagram));
        }
        // What is dropped has taken its time of the line, too; but not so that nothing else gets any.
        let dropped = bytes.len().saturating_sub(fits);
        if dropped > 0 && traffic.backlog(Way::Down, now) < DEPTH + OWED {
            traffic.gone(Way::Down, now, dropped);
        }
        if fits == 0 {
            return;
        }
        let kept = &bytes[..fits.min(bytes.len())];
        meta.len = kept.len();
        let turn = traffic.turn(Way::Down, now, kept.len());
        self.bytes += kept.len();
        self.datagrams.push_back(Datagrams { turn, meta, bytes: kept.to_vec() });
    }
}
