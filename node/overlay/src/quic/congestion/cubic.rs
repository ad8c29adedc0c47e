//! CUBIC's window over time (RFC 9438), in bytes, without slow start.

use std::time::{Duration, Instant};

/// What is left of the window after congestion.
const BETA: f64 = 0.7;
/// Packets per cubed second.
const C: f64 = 0.4;
/// Packets per round by which Reno with [`BETA`] grows as fast as with one half.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

#[derive(Debug, Clone, Default)]
pub(super) struct Cubic {
    /// The window at which congestion was met, and from which the curve is flat, in bytes.
    plateau: f64,
    /// Seconds from the reduction to the plateau; none before the first.
    to_plateau: f64,
    /// Time since the reduction, pauses not counted.
    elapsed: Duration,
    last: Option<Instant>,
    /// The window that Reno would have by now, in bytes.
    reno: f64,
}

impl Cubic {
    /// Slow start ended at `window` without congestion.
    pub(super) fn begin_at(&mut self, window: f64) {
        *self = Self { plateau: window, reno: window, ..Self::default() };
    }

    /// Congestion was met at `window`. Returns the window from now on.
    pub(super) fn reduced(&mut self, now: Instant, window: f64, mtu: u64) -> f64 {
        // A smaller window than last time: somebody else has come, who is given room.
        let plateau = if window < self.plateau { window * (1.0 + BETA) / 2.0 } else { window };
        let left = window * BETA;
        let to_plateau = ((plateau - left).max(0.0) / mtu as f64 / C).cbrt();
        *self = Self { plateau, to_plateau, elapsed: Duration::ZERO, last: Some(now), reno: left };
        left
    }

    /// Nothing is sent that would fill the window: the curve waits.
    pub(super) fn paused(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// By how many bytes `window` grows as `bytes` of it have arrived.
    pub(super) fn growth(&mut self, now: Instant, window: f64, bytes: u64, mtu: u64, round_trip: Duration) -> f64 {
        let mtu = mtu as f64;
        // Acknowledgements come many times a round: a longer gap was a pause.
        let gap = now.saturating_duration_since(self.last.unwrap_or(now)).min(round_trip);
        self.elapsed += gap;
        self.last = Some(now);
        self.reno += ALPHA * mtu * bytes as f64 / window;
        let ahead = (self.elapsed + round_trip).as_secs_f64() - self.to_plateau;
        let curve = C * ahead.powi(3) * mtu + self.plateau;
        if curve < self.reno {
            return (self.reno - window).clamp(0.0, bytes as f64);
        }
        // At most half the window more in a round.
        let target = curve.clamp(window, 1.5 * window);
        (target - window) * bytes as f64 / window
    }
}
