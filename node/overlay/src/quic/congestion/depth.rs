//! How long packets wait in queues, from how long their round trips take.

use std::time::{Duration, Instant};

/// How long an extreme is remembered: from one to two of these. CUBIC fills a queue every few seconds.
const MEMORY: Duration = Duration::from_secs(15);
/// What cannot be told from noise: this, or a fortieth of the shortest round trip.
const NOISE_MIN: Duration = Duration::from_micros(500);
const NOISE_DIVISOR: u32 = 40;

/// Round trips of late. Single ones are late for reasons other than queues, such as a busy computer or a radio's
/// turns; the shortest of half a round is not.
#[derive(Debug, Clone)]
pub(super) struct Depth {
    /// The shortest of the half round before, and of the one under way, and when that one ends.
    before: Duration,
    current: Option<Duration>,
    ends: Instant,
    /// Shortest and longest of late, the older and the younger half of the memory.
    old: Option<(Duration, Duration)>,
    young: Option<(Duration, Duration)>,
    turns: Instant,
}

impl Depth {
    pub(super) fn new(now: Instant) -> Self {
        Self { before: Duration::MAX, current: None, ends: now, old: None, young: None, turns: now + MEMORY }
    }

    /// A packet took `waited` there and back.
    pub(super) fn measured(&mut self, now: Instant, waited: Duration, round_trip: Duration) {
        // A single sample is enough to be the shortest.
        let (shortest, longest) = self.young.unwrap_or((waited, Duration::ZERO));
        self.young = Some((shortest.min(waited), longest));
        self.current = Some(self.current.map_or(waited, |current| current.min(waited)));
        if now < self.ends {
            return;
        }
        let (shortest, longest) = self.young.unwrap_or((waited, Duration::ZERO));
        let half = self.current.take().unwrap_or(waited);
        self.young = Some((shortest, longest.max(half)));
        self.before = half;
        self.ends = now + round_trip / 2;
        if now >= self.turns {
            self.old = self.young.take();
            self.turns = now + MEMORY;
        }
    }

    /// Whether packets wait at least `share` of the longest wait of late, and longer than by chance.
    pub(super) fn is_deep(&self, share: f64) -> bool {
        let (shortest, longest) = self.extremes();
        let now = self.before.min(self.current.unwrap_or(Duration::MAX));
        let depth = now.saturating_sub(shortest);
        let deepest = longest.saturating_sub(shortest);
        depth > NOISE_MIN.max(shortest / NOISE_DIVISOR) && depth.as_secs_f64() >= share * deepest.as_secs_f64()
    }

    fn extremes(&self) -> (Duration, Duration) {
        let halves = || self.old.iter().chain(&self.young);
        let shortest = halves().map(|(shortest, _)| *shortest).min().unwrap_or_default();
        let longest = halves().map(|(_, longest)| *longest).max().unwrap_or_default();
        (shortest, longest)
    }
}
