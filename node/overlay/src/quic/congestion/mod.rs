//! How much may be in flight: CUBIC that sounds the depth of the queue before it believes a loss.
//!
//! CUBIC takes every loss for a full queue. On a radio link or a bad line, packets are also lost while there is room, and
//! it then uses a tenth of the link. Here a loss counts as congestion only if the packets around it also waited:
//!
//! - `depth` is how long packets wait in queues now (round trip minus the shortest of late), `deepest` how long they
//!   waited when the queue was full of late. A loss at a depth below [`DEEP`] of `deepest`, or below what can be measured
//!   on the path at all, is the line's and changes nothing; unless the queue is so deep that giving way costs nothing.
//! - A loss above it is answered as CUBIC answers it, so that at a full queue both give way alike and share alike.
//! - Without a queue to sound (a policer, a very shallow buffer) the share of lost packets decides: above [`HEAVY`] of
//!   what was sent in the last rounds it is congestion, whatever the depth.
//!
//! Slow start ends when packets begin to wait, not by overflowing the queue.
//!
//! Sources: RFC 9438 (CUBIC), RFC 9406 (HyStart++); telling losses apart by the queue: C. P. Fu and S. C. Liew, "TCP Veno",
//! IEEE JSAC 21(2), 2003.

mod cubic;
mod depth;
mod losses;
mod slow_start;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use self::cubic::Cubic;
use self::depth::Depth;
use self::losses::Losses;
use self::slow_start::SlowStart;
use super::flows::{Flow, Flows};

/// A queue of this share of its greatest depth counts as full.
const DEEP: f64 = 0.5;
/// The share of lost packets above which they are the path's limit.
const HEAVY: f64 = 0.03;

/// Makes a [`Sounding`] for each path.
#[derive(Debug, Clone)]
pub(crate) struct SoundingConfig {
    /// Bytes in flight before anything is known of the path.
    pub(crate) initial_window: u64,
    /// Where to count what arrives.
    pub(crate) flows: Arc<Flows>,
}

impl ControllerFactory for SoundingConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let flow = Flow::new(Arc::clone(&self.flows));
        Box::new(Sounding::new(self.initial_window, now, mtu, flow))
    }
}

/// The controller of one path. See the module.
#[derive(Debug, Clone)]
pub(crate) struct Sounding {
    initial_window: u64,
    flow: Arc<Flow>,
    mtu: u64,
    /// Bytes that may be in flight.
    window: f64,
    slow_start: Option<SlowStart>,
    /// Where slow start ends in any case.
    threshold: f64,
    cubic: Cubic,
    depth: Depth,
    losses: Losses,
    /// The packets sent from here on make the round under way: when one of them is acknowledged, it is over.
    round_began: Instant,
    /// Losses of packets sent before have been answered already.
    answered: Option<Instant>,
}

impl Sounding {
    pub(super) fn new(initial_window: u64, now: Instant, mtu: u16, flow: Arc<Flow>) -> Self {
        Self {
            initial_window,
            flow,
            mtu: u64::from(mtu),
            window: initial_window as f64,
            slow_start: Some(SlowStart::default()),
            threshold: f64::INFINITY,
            cubic: Cubic::default(),
            depth: Depth::new(now),
            losses: Losses::default(),
            round_began: now,
            answered: None,
        }
    }

    /// Where it counts what arrives.
    pub(super) fn flow(&self) -> &Flow {
        &self.flow
    }

    fn window_min(&self) -> f64 {
        (2 * self.mtu) as f64
    }

    /// A packet of `bytes` sent at `sent` has arrived; a round trip takes `round_trip` at present.
    fn arrived(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, round_trip: Duration) {
        let waited = now.saturating_duration_since(sent);
        self.depth.measured(now, waited, round_trip);
        self.losses.arrived(bytes);
        // A window that still grows is the limit itself.
        self.flow.arrived(bytes, !app_limited && self.slow_start.is_none());
        if sent >= self.round_began {
            self.round_began = now;
            self.losses.round_ended();
            if let Some(slow_start) = &mut self.slow_start
                && slow_start.round_ended()
            {
                self.end_slow_start();
            }
        }
        if self.answered.is_some_and(|answered| sent <= answered) {
            return;
        }
        if app_limited {
            // A window that is not used proves nothing.
            self.cubic.paused(now);
            return;
        }
        if let Some(slow_start) = &mut self.slow_start {
            slow_start.measured(waited);
            self.window += bytes as f64 * slow_start.growth();
            if self.window >= self.threshold {
                self.end_slow_start();
            }
        } else {
            self.window += self.cubic.growth(now, self.window, bytes, self.mtu, round_trip);
        }
    }

    /// `bytes` of packets, the last of which was sent at `sent`, are lost; none if the network marked one instead.
    fn lost(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        let marked = bytes == 0;
        self.losses.lost(bytes, self.mtu);
        self.flow.lost(bytes);
        if self.answered.is_some_and(|answered| sent <= answered) && !persistent {
            return;
        }
        if !(marked || persistent || self.depth.is_deep(DEEP) || self.losses.are_heavy(HEAVY)) {
            return;
        }
        self.losses.answered();
        self.answered = Some(now);
        self.slow_start = None;
        self.window = self.cubic.reduced(now, self.window, self.mtu).max(self.window_min());
        if persistent {
            // Nothing arrived for long: what was known of the path may be over.
            self.answered = None;
            self.slow_start = Some(SlowStart::default());
            self.threshold = self.window;
            self.window = self.window_min();
        }
    }

    fn end_slow_start(&mut self) {
        self.slow_start = None;
        self.cubic.begin_at(self.window);
    }
}

impl Controller for Sounding {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.arrived(now, sent, bytes, app_limited, rtt.get());
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.lost(now, sent, lost_bytes, persistent);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.window = self.window.max(self.window_min());
    }

    fn window(&self) -> u64 {
        self.window as u64
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
