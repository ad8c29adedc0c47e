//! When bytes may go so that a rate is kept. No clock: times are arguments.
//!
//! Each parcel of bytes takes its time of the line, one after another, in the order in which they ask (the virtual
//! scheduling of ITU-T I.371). Who asks is told at once when its turn is, so nobody has to ask again, nobody is
//! overtaken, and nobody wakes up in vain.

use std::time::{Duration, Instant};

/// Time that may be made up for after a pause or a late timer, in one go. With [`AHEAD`] it is what a window of 10 s can
/// have beyond the rate: 3 %.
const CATCH_UP: Duration = Duration::from_millis(100);
/// How far the line may be booked for a message that does not wait. More of them wait like everybody.
pub(super) const AHEAD: Duration = Duration::from_millis(200);

/// One direction of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate {
    /// Bytes per second; none: everything goes at once.
    rate: Option<u64>,
    /// When all that asked has gone.
    free: Instant,
}

impl Gate {
    /// One that lets everything through.
    pub(super) fn open(now: Instant) -> Self {
        Self { rate: None, free: now }
    }

    /// The rate from now on. What has its turn keeps it.
    pub(super) fn set(&mut self, now: Instant, rate: Option<u64>) {
        // What was booked at another rate says nothing about this one.
        if self.rate != rate {
            (self.rate, self.free) = (rate.map(|rate| rate.max(1)), now);
        }
    }

    /// Bytes per second, if there is a cap.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Books `bytes`. Returns when they may go: now, or later.
    pub(super) fn turn(&mut self, now: Instant, bytes: usize) -> Instant {
        let Some(rate) = self.rate else { return now };
        let begins = self.free.max(now.checked_sub(CATCH_UP).unwrap_or(now));
        self.free = begins + time_of(bytes, rate);
        begins.max(now)
    }

    /// Books `bytes` that are not to wait behind others, as far as that does no harm. Returns when they may go.
    pub(super) fn turn_ahead(&mut self, now: Instant, bytes: usize) -> Instant {
        let turn = self.turn(now, bytes);
        if turn.saturating_duration_since(now) <= AHEAD { now } else { turn }
    }

    /// Books `bytes` that have gone already.
    pub(super) fn gone(&mut self, now: Instant, bytes: usize) {
        self.turn(now, bytes);
    }

    /// For how long the line is booked.
    pub(super) fn backlog(&self, now: Instant) -> Duration {
        match self.rate {
            Some(_) => self.free.saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }
}

/// How long `bytes` take at `rate` bytes per second.
pub(super) fn time_of(bytes: usize, rate: u64) -> Duration {
    let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn gate(rate: u64) -> (Gate, Instant) {
        // Later than the first instant of the machine, so that there is something to make up for.
        let now = Instant::now() + Duration::from_secs(3600);
        let mut gate = Gate::open(now);
        gate.set(now, Some(rate));
        (gate, now)
    }

    #[test]
    fn each_waits_for_those_before_it() {
        let (mut gate, now) = gate(1_000_000);
        assert_eq!(gate.turn(now, 1_000), now);
        assert_eq!(gate.turn(now, 2_000), now + MS);
        assert_eq!(gate.turn(now, 1), now + 3 * MS);
        assert!(gate.backlog(now) > 3 * MS);
        // Late: it goes at once, and the next one has not lost the time.
        assert_eq!(gate.turn(now + 10 * MS, 9_000), now + 10 * MS);
        assert_eq!(gate.turn(now + 10 * MS, 1), now + 12 * MS + Duration::from_nanos(1_000));
    }

    #[test]
    fn a_pause_is_made_up_for_by_a_tenth_of_a_second_and_no_more() {
        let (mut gate, now) = gate(1_000_000);
        let later = now + Duration::from_secs(60);
        let at_once = (0..1_000).take_while(|_| gate.turn(later, 1_000) == later).count();
        assert_eq!(at_once, 101, "0.1 s and the one that begins now");
    }

    /// However a sender asks, any 10 s have at most 5 % more than the rate.
    #[test]
    fn ten_seconds_never_have_more_than_the_rate_and_five_percent() {
        let (mut gate, now) = gate(625_000);
        let mut gone: Vec<(Instant, u64)> = Vec::new();
        let mut random = 7_u64;
        let mut at = now;
        while at < now + Duration::from_secs(60) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Bulk in packets of up to 14 kB, small messages among them, pauses of up to half a second.
            let bytes = 40 + (random >> 33) as usize % 14_000;
            let turn = if bytes < 1_000 { gate.turn_ahead(at, bytes) } else { gate.turn(at, bytes) };
            gone.push((turn, bytes as u64));
            at = turn.max(at);
            if random >> 60 == 0 {
                at += Duration::from_millis(random >> 33 & 511);
            }
        }
        for (first, (begin, _)) in gone.iter().enumerate() {
            let end = *begin + Duration::from_secs(10);
            let sum: u64 = gone[first..].iter().take_while(|(turn, _)| *turn < end).map(|(_, bytes)| bytes).sum();
            assert!(sum <= 625_000 * 10 * 105 / 100, "{sum}");
        }
    }

    #[test]
    fn small_messages_do_not_wait_unless_there_are_too_many() {
        let (mut gate, now) = gate(100_000);
        assert_eq!(gate.turn(now, 14_000), now);
        assert_eq!(gate.turn_ahead(now, 100), now, "ahead of what is on the line");
        assert!(gate.turn(now, 100) > now + 140 * MS, "bulk waits for both");
        let ahead = (0..1_000).take_while(|_| gate.turn_ahead(now, 100) == now).count();
        assert!((40..70).contains(&ahead), "{ahead}");
    }

    #[test]
    fn another_rate_begins_anew_and_none_lets_everything_through() {
        let (mut gate, now) = gate(1_000);
        gate.turn(now, 1_000_000);
        gate.set(now, Some(2_000));
        assert_eq!(gate.turn(now, 2_000), now);
        assert_eq!(gate.turn(now, 2_000), now + Duration::from_secs(1));
        gate.set(now, None);
        assert_eq!((gate.turn(now, usize::MAX), gate.backlog(now)), (now, Duration::ZERO));
    }
}
