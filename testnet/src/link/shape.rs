//! When a datagram arrives at the other end of a link's direction, or that it does not. Neither sockets nor clocks:
//! times are what has passed since the link began.

use std::time::Duration;

/// Bytes of IPv4 and UDP around each datagram, which take their time on a link as well.
const HEADERS_BYTES: u64 = 28;
/// Bytes that may be on their way in one direction, whatever its rate and delay: a bound on memory.
pub(super) const UNDER_WAY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What one direction of a link is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Direction {
    /// Bytes per second, with the headers of IP and UDP; none: as fast as the machine is.
    pub bytes_per_s: Option<u64>,
    /// Bytes that wait for the link at most; what comes when it is full is dropped. Without a rate nothing waits.
    pub queue_bytes: u64,
    /// How long each datagram takes beside waiting and being sent.
    pub delay: Duration,
    /// By up to how much longer, at random. Datagrams do not overtake one another.
    pub jitter: Duration,
    /// The share of datagrams that are lost by chance, 0 to 1, after they have waited and been sent.
    pub loss: f64,
}

impl Default for Direction {
    fn default() -> Self {
        Self { bytes_per_s: None, queue_bytes: 0, delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0 }
    }
}

impl Direction {
    /// A direction of `mbit_per_s` that delays by `delay`, with a queue that takes `queue` to be sent.
    #[must_use]
    pub fn of(mbit_per_s: u64, delay: Duration, queue: Duration) -> Self {
        let bytes_per_s = mbit_per_s * 125_000;
        let queue_bytes = (bytes_per_s as f64 * queue.as_secs_f64()) as u64;
        Self { bytes_per_s: Some(bytes_per_s), queue_bytes, delay, ..Self::default() }
    }

    /// The same with losses.
    #[must_use]
    pub fn losing(self, loss: f64) -> Self {
        Self { loss, ..self }
    }
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that have arrived or will.
    pub passed: u64,
    /// The bytes of those.
    pub passed_bytes: u64,
    /// Those that were lost by chance.
    pub lost: u64,
    /// Those for which the queue had no room.
    pub dropped: u64,
}

#[derive(Debug)]
pub(super) struct Shaper {
    pub(super) direction: Direction,
    pub(super) counts: Counts,
    random: u64,
    /// When all that waits has been sent.
    free: Duration,
    /// When the datagram before arrives.
    last: Duration,
}

impl Shaper {
    pub(super) fn new(direction: Direction, seed: u64) -> Self {
        Self { direction, counts: Counts::default(), random: seed, free: Duration::ZERO, last: Duration::ZERO }
    }

    /// A datagram of `bytes` comes at `now`. Returns when it arrives; nothing if it does not.
    pub(super) fn offer(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let size = bytes as u64 + HEADERS_BYTES;
        let sent = match self.direction.bytes_per_s {
            None => now,
            Some(rate) => {
                let waiting = self.free.saturating_sub(now).as_nanos() * u128::from(rate) / 1_000_000_000;
                if waiting + u128::from(size) > u128::from(self.direction.queue_bytes) {
                    self.counts.dropped += 1;
                    return None;
                }
                self.free = self.free.max(now) + Duration::from_nanos(size * 1_000_000_000 / rate.max(1));
                self.free
            }
        };
        if self.chance() < self.direction.loss {
            self.counts.lost += 1;
            return None;
        }
        let jitter = self.direction.jitter.mul_f64(self.chance());
        self.last = self.last.max(sent + self.direction.delay + jitter);
        self.counts.passed += 1;
        self.counts.passed_bytes += bytes as u64;
        Some(self.last)
    }

    /// A number of at least 0 and below 1 (SplitMix64: S. Vigna's public domain generator).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    /// With its headers 1,250 bytes: a tenth of a millisecond at 100 Mbit/s.
    const DATAGRAM: usize = 1222;

    fn shaper(direction: Direction) -> Shaper {
        Shaper::new(direction, 7)
    }

    #[test]
    fn datagrams_take_the_links_time_and_its_delay() {
        let mut shaper = shaper(Direction::of(100, 20 * MS, 10 * MS));
        assert_eq!(shaper.offer(MS, DATAGRAM), Some(21 * MS + MS / 10));
        assert_eq!(shaper.offer(MS, DATAGRAM), Some(21 * MS + MS / 5));
        // The link was idle meanwhile.
        assert_eq!(shaper.offer(5 * MS, DATAGRAM), Some(25 * MS + MS / 10));
    }

    #[test]
    fn a_full_queue_drops() {
        let mut shaper = shaper(Direction::of(100, MS, 10 * MS));
        let arrived = (0..1000).filter_map(|_| shaper.offer(MS, DATAGRAM)).count();
        assert_eq!((arrived, shaper.counts.dropped), (100, 900));
        // Half of it has left.
        let arrived = (0..1000).filter_map(|_| shaper.offer(6 * MS, DATAGRAM)).count();
        assert_eq!(arrived, 50);
        assert_eq!(shaper.counts.passed_bytes, 150 * DATAGRAM as u64);
    }

    #[test]
    fn losses_are_as_many_as_asked_and_the_same_for_a_seed() {
        let run = |seed| {
            let mut shaper = Shaper::new(Direction::default().losing(0.02), seed);
            (0..50_000).map(|_| shaper.offer(MS, DATAGRAM).is_some()).collect::<Vec<_>>()
        };
        let lost = run(1).iter().filter(|arrived| !**arrived).count();
        assert!((850..1150).contains(&lost), "{lost}");
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn jitter_varies_the_delay_and_keeps_the_order() {
        let mut shaper = shaper(Direction { delay: 10 * MS, jitter: 5 * MS, ..Direction::default() });
        let times: Vec<Duration> = (0..100).map(|n| shaper.offer(n * MS, DATAGRAM).unwrap()).collect();
        assert!(times.is_sorted());
        for (n, at) in (0..).zip(&times) {
            assert!((n * MS + 10 * MS..=n * MS + 15 * MS).contains(at));
        }
        let steps: std::collections::BTreeSet<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.len() > 10);
    }
}
