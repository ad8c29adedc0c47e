//! Which way is best, as decisions: where nodes are in the space of round trips, how much their links carry, and when a chain of
//! vendors, or a download from several, will be done (figures 7, 8, 17 and 18).
//!
//! - [`coordinate`]: Vivaldi coordinates, by which the round trip between two vendors is known without asking either.
//! - [`rates`]: how fast links are, from the transfers that happened: what a node says of itself, what a reader sees of a source,
//!   and what a sender learns of each hop behind it from the times of the receipts.
//! - [`chain`]: the expected completion of a chain with cut-through, and the best members and order of one.
//! - [`sources`]: the expected completion of a fetch from one of several sources, and when it is late.
//!
//! What a vendor announces of itself is its word. It is used where nothing was measured here, within bounds, and what it can
//! bring a liar is work, which then shows how fast it is. Times are microseconds of any clock that only goes forward; rates are
//! bytes per second.

pub mod chain;
pub mod coordinate;
pub mod rates;
pub mod sources;

/// Bytes per second that a link is taken to carry of which nothing is known: 100 Mbit/s. High rather than low, since who is
/// never tried is never measured.
pub const ASSUMED_BYTES_PER_S: f64 = 12_500_000.0;
/// The same of what a node sends.
pub const ASSUMED_UP_BYTES_PER_S: f64 = 12_500_000.0;
/// The greatest rate that anybody may announce, bytes per second: 1 Tbit/s.
pub const RATE_MAX: u64 = 125_000_000_000;
/// Round trip that is assumed where none is known, seconds.
pub const ASSUMED_ROUND_TRIP_S: f64 = 0.1;
/// Transfers under way at a vendor that halve what one more gets.
const LOAD_HALF: f64 = 32.0;
/// What is left of a link at a share of losses `p` is `1 / (1 + LOST * p)`.
pub const LOST: f64 = 12.0;
/// What a vendor that does not answer costs before another one is tried, seconds.
const SILENCE_S: f64 = 2.0;
/// What a vendor that failed a moment ago costs, seconds: it is the last choice.
const SUSPECTED_S: f64 = 20.0;

/// What is known of one node's link and of how it behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    /// Bytes per second that it sends, as far as known.
    pub up: Option<f64>,
    /// Bytes per second that it receives, as far as known.
    pub down: Option<f64>,
    /// Bytes per second that its devices write.
    pub disk: Option<f64>,
    /// Share of packets that were lost on the way to it, 0 to 1.
    pub loss: f64,
    /// Share of calls that it answered, 0 to 1.
    pub answered: f64,
    /// Transfers that it says it has under way.
    pub load: u32,
    /// Chunks of this node that are on their way to it or from it.
    pub in_flight: u32,
    /// Whether it failed a moment ago.
    pub suspected: bool,
}

impl Default for End {
    fn default() -> Self {
        Self { up: None, down: None, disk: None, loss: 0.0, answered: 1.0, load: 0, in_flight: 0, suspected: false }
    }
}

impl End {
    /// Bytes per second that one more transfer gets of what this node sends.
    fn up_share(&self) -> f64 {
        self.share(self.up, ASSUMED_UP_BYTES_PER_S)
    }

    /// The same of what it receives.
    fn down_share(&self) -> f64 {
        self.share(self.down, ASSUMED_BYTES_PER_S)
    }

    fn share(&self, rate: Option<f64>, assumed: f64) -> f64 {
        // What was measured has the losses in it. Of a link of which nothing else is known, 0.8 is left at 2 %
        // (docs/performance.md, Links).
        let rate = rate.unwrap_or_else(|| assumed / (1.0 + LOST * bounded(self.loss, 0.0, 1.0)));
        let busy = 1.0 + f64::from(self.load) / LOAD_HALF;
        bounded(rate, 1.0, RATE_MAX as f64) / busy / (f64::from(self.in_flight) + 1.0)
    }

    /// Seconds that it is expected to cost that it may not answer.
    fn risk(&self) -> f64 {
        let missing = 1.0 - bounded(self.answered, 0.0, 1.0);
        missing * SILENCE_S + if self.suspected { SUSPECTED_S } else { 0.0 }
    }
}

/// `value` within bounds; what is no number is the lower one.
fn bounded(value: f64, low: f64, high: f64) -> f64 {
    if value.is_nan() { low } else { value.clamp(low, high) }
}
