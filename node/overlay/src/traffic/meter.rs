//! Bytes of the last seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Whole seconds over which a rate is taken.
const SECONDS: u64 = 5;
/// Those, the one under way, and some that nobody reads while they are cleared.
const SLOTS: usize = 8;

/// Counts bytes by the second. Two threads that begin a second at the same moment may lose one count: it is for people.
#[derive(Debug, Default)]
pub(super) struct Meter {
    total: AtomicU64,
    /// Which second each slot is about, and its bytes.
    slots: [(AtomicU64, AtomicU64); SLOTS],
}

impl Meter {
    /// `bytes` went `since` the meter began.
    pub(super) fn count(&self, since: Duration, bytes: usize) {
        self.total.fetch_add(bytes as u64, Ordering::Relaxed);
        let second = since.as_secs();
        let (about, count) = &self.slots[second as usize % SLOTS];
        if about.swap(second, Ordering::Relaxed) == second {
            count.fetch_add(bytes as u64, Ordering::Relaxed);
        } else {
            count.store(bytes as u64, Ordering::Relaxed);
        }
    }

    /// All bytes so far.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes per second, over the last whole seconds.
    pub(super) fn rate(&self, since: Duration) -> u64 {
        let now = since.as_secs();
        let recent = now.saturating_sub(SECONDS)..now;
        let slots = self.slots.iter().filter(|(about, _)| recent.contains(&about.load(Ordering::Relaxed)));
        slots.map(|(_, count)| count.load(Ordering::Relaxed)).sum::<u64>() / SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let meter = Meter::default();
        for tenth in 0..100 {
            meter.count(Duration::from_millis(100 * tenth), 50);
        }
        assert_eq!((meter.total(), meter.rate(Duration::from_secs(10))), (5_000, 500));
        assert_eq!(meter.rate(Duration::from_secs(12)), 300, "two of the five seconds had nothing");
        assert_eq!(meter.rate(Duration::from_secs(60)), 0);
        meter.count(Duration::from_secs(61), 10);
        assert_eq!((meter.total(), meter.rate(Duration::from_secs(62))), (5_010, 2));
    }
}
