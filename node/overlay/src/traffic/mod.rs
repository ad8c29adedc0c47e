//! How much the node may send and receive, and how much it does.
//!
//! Upload is paced where datagrams leave and download where they come in (`quic/socket`), so that the caps are about
//! bytes on the wire: every connection, retransmissions and QUIC's own bytes included. What goes on in the background has
//! a share of the caps, which is kept where its streams are read and written ([`Pace`]).
//!
//! The local network costs nobody anything and is exempt: see [`is_local`].

mod gate;
mod meter;
mod pace;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::gate::Gate;
use self::meter::Meter;

pub(crate) use pace::Pace;

/// The share of its share that background work has while others use the line, as a divisor: enough that nobody takes it for
/// dead.
const YIELDS: u64 = 8;
/// ... and bytes per second that it has in any case, of a cap that is at least twice that: a vendor gives a chunk up that
/// comes at less than 8 KiB/s, and several are on their way.
const BACKGROUND_MIN: u64 = 64 * 1024;
/// Others who use this share of what the background leaves them want the line.
const BUSY: f64 = 0.8;
/// Over about so many seconds that is looked at.
const LATELY: f64 = 1.0;

/// How much the node may send and receive, in bytes per second of UDP payload. `default()` is: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateCaps {
    /// Bytes per second sent; none: no cap.
    pub upload: Option<u64>,
    /// Bytes per second received; none: no cap.
    pub download: Option<u64>,
    /// Whether traffic with the local network is capped like any other.
    pub local: bool,
    /// What background work may have of each cap at most, in percent.
    pub background_percent: u8,
}

impl Default for RateCaps {
    fn default() -> Self {
        Self { upload: None, download: None, local: false, background_percent: 100 }
    }
}

/// What goes over the node's sockets, without the local network if that is exempt. Bytes of UDP payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Bytes per second sent, over the last seconds.
    pub upload: u64,
    /// Bytes per second received.
    pub download: u64,
    /// Bytes sent since the node started.
    pub uploaded: u64,
    /// Bytes received since the node started.
    pub downloaded: u64,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// One way: its cap, the background's part of it, and what went.
#[derive(Debug)]
struct Line {
    /// Whether there is a cap: looked at for every datagram.
    capped: AtomicBool,
    gates: Mutex<Gates>,
    meter: Meter,
}

#[derive(Debug)]
struct Gates {
    all: Gate,
    background: Gate,
    /// Bytes that others than the background booked lately, and until when that is so.
    others: f64,
    at: Instant,
    /// Background's bytes per second while nobody else uses the line.
    share: Option<u64>,
}

impl Line {
    fn new(now: Instant) -> Self {
        let gates = Gates { all: Gate::open(now), background: Gate::open(now), others: 0.0, at: now, share: None };
        Self { capped: AtomicBool::new(false), gates: Mutex::new(gates), meter: Meter::default() }
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        // No code that holds it can panic half way through a change.
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, now: Instant, cap: Option<u64>, percent: u8) {
        let mut gates = self.gates();
        gates.all.set(now, cap);
        let share = |cap: u64| (u128::from(cap) * u128::from(percent) / 100) as u64;
        let share = cap.map(|cap| share(cap).max(BACKGROUND_MIN.min(cap / 2)).max(1));
        gates.share = share;
        gates.background.set(now, share);
        self.capped.store(cap.is_some(), Ordering::Release);
    }
}

impl Gates {
    /// Others booked so many bytes; or the background, of what is booked for all.
    fn note(&mut self, now: Instant, bytes: f64) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.others = self.others * (-passed / LATELY).exp() + bytes;
    }

    /// Whether others want the line.
    fn is_busy(&mut self, now: Instant) -> bool {
        self.note(now, 0.0);
        let left = self.all.rate().zip(self.share).map(|(cap, share)| cap.saturating_sub(share));
        left.is_some_and(|left| self.others > BUSY * LATELY * left as f64)
    }
}

/// The node's traffic. All its sockets share one.
#[derive(Debug)]
pub(crate) struct Traffic {
    began: Instant,
    /// Whether the local network is capped, too.
    local: AtomicBool,
    up: Line,
    down: Line,
}

impl Default for Traffic {
    fn default() -> Self {
        let now = Instant::now();
        Self { began: now, local: AtomicBool::new(false), up: Line::new(now), down: Line::new(now) }
    }
}

impl Traffic {
    /// From now on.
    pub(crate) fn limit(&self, caps: RateCaps) {
        let now = Instant::now();
        self.local.store(caps.local, Ordering::Release);
        self.up.set(now, caps.upload, caps.background_percent);
        self.down.set(now, caps.download, caps.background_percent);
    }

    pub(crate) fn rates(&self) -> Rates {
        let since = self.began.elapsed();
        Rates {
            upload: self.up.meter.rate(since),
            download: self.down.meter.rate(since),
            uploaded: self.up.meter.total(),
            downloaded: self.down.meter.total(),
        }
    }

    fn line(&self, way: Way) -> &Line {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// The cap of `way` for traffic with `remote`, bytes per second.
    pub(crate) fn cap(&self, way: Way, remote: IpAddr) -> Option<u64> {
        if !self.is_capped(way) || self.exempts(remote) {
            return None;
        }
        self.line(way).gates().all.rate()
    }

    /// Whether `way` has a cap at all.
    pub(crate) fn is_capped(&self, way: Way) -> bool {
        self.line(way).capped.load(Ordering::Acquire)
    }

    /// The cap of what is sent, bytes per second.
    pub(crate) fn upload_cap(&self) -> Option<u64> {
        if self.is_capped(Way::Up) { self.up.gates().all.rate() } else { None }
    }

    /// Whether traffic with `remote` is neither capped nor counted.
    pub(crate) fn exempts(&self, remote: IpAddr) -> bool {
        !self.local.load(Ordering::Acquire) && is_local(remote)
    }

    /// Counts bytes that go or came.
    pub(crate) fn count(&self, way: Way, remote: IpAddr, bytes: usize) {
        if !self.exempts(remote) {
            self.line(way).meter.count(self.began.elapsed(), bytes);
        }
    }

    /// When `bytes` may go.
    pub(crate) fn turn(&self, way: Way, now: Instant, bytes: usize) -> Instant {
        let mut gates = self.line(way).gates();
        gates.note(now, bytes as f64);
        gates.all.turn(now, bytes)
    }

    /// The same for a message that is not to wait behind bulk.
    pub(crate) fn turn_ahead(&self, way: Way, now: Instant, bytes: usize) -> Instant {
        self.line(way).gates().all.turn_ahead(now, bytes)
    }

    /// Books bytes that have gone.
    pub(crate) fn gone(&self, way: Way, now: Instant, bytes: usize) {
        self.line(way).gates().all.gone(now, bytes);
    }

    /// For how long the line is booked.
    pub(crate) fn backlog(&self, way: Way, now: Instant) -> Duration {
        self.line(way).gates().all.backlog(now)
    }

    /// When `bytes` of background work may go. While others use the line it has an eighth of its share.
    fn background_turn(&self, way: Way, now: Instant, bytes: usize) -> Instant {
        let mut gates = self.line(way).gates();
        let busy = gates.is_busy(now);
        gates.note(now, -(bytes as f64));
        let booked = match gates.share {
            Some(share) if busy => bytes as u64 * share / (share / YIELDS).max(BACKGROUND_MIN).min(share),
            _ => bytes as u64,
        };
        gates.background.turn(now, usize::try_from(booked).unwrap_or(usize::MAX))
    }
}

/// Whether `ip` is of this machine or its own network: loopback, private (RFC 1918, RFC 4193) or link-local. Addresses of
/// carriers' NAT (RFC 6598) are not: what goes there has left the house.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_local_network_is_told_from_the_rest() {
        for local in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.9.9",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:192.168.1.1",
        ] {
            assert!(is_local(ip(local)), "{local}");
        }
        for far in ["8.8.8.8", "172.32.0.1", "100.64.0.1", "203.0.113.7", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!is_local(ip(far)), "{far}");
        }
    }

    #[test]
    fn the_local_network_is_neither_capped_nor_counted_unless_asked() {
        let traffic = Traffic::default();
        let (near, far) = (ip("192.168.1.1"), ip("203.0.113.7"));
        let caps = RateCaps { upload: Some(1_000), ..RateCaps::default() };
        traffic.limit(caps);
        assert_eq!((traffic.cap(Way::Up, near), traffic.cap(Way::Up, far)), (None, Some(1_000)));
        assert_eq!(traffic.cap(Way::Down, far), None);
        traffic.count(Way::Up, near, 5);
        traffic.count(Way::Up, far, 7);
        assert_eq!(traffic.rates().uploaded, 7);
        traffic.limit(RateCaps { local: true, ..caps });
        assert_eq!(traffic.cap(Way::Up, near), Some(1_000));
        traffic.count(Way::Up, near, 5);
        assert_eq!(traffic.rates().uploaded, 12);
    }

    #[test]
    fn background_work_has_its_share_and_less_of_it_while_others_send() {
        let traffic = Traffic::default();
        traffic.limit(RateCaps { upload: Some(1_000_000), background_percent: 25, ..RateCaps::default() });
        let now = Instant::now() + Duration::from_secs(3600);
        let took = |turns: u32| {
            let begins = traffic.background_turn(Way::Up, now, 0);
            let mut ends = begins;
            for _ in 0..turns {
                ends = traffic.background_turn(Way::Up, now, 10_000);
                // It goes through the socket as everything does.
                traffic.turn(Way::Up, now, 10_000);
            }
            ends.saturating_duration_since(begins)
        };
        let alone = took(26);
        assert!((Duration::from_millis(880)..=Duration::from_millis(1_000)).contains(&alone), "{alone:?}");
        // Others have booked more than anybody sends in the background.
        traffic.turn(Way::Up, now, 1_000_000);
        let beside = took(25);
        assert!(beside >= Duration::from_secs(3), "{beside:?}");
    }
}
