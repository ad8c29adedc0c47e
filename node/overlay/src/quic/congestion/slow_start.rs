//! Slow start that ends when packets begin to wait (after HyStart++, RFC 9406).
//!
//! Unlike there, not the shortest round trip of a whole round is compared with the round before, but that of a few packets
//! in a row: within one round of doubling, the queue may fill from empty to full.

use std::time::Duration;

/// Packets in a row of which the shortest round trip counts: one alone is late for many reasons.
const ROW: u32 = 16;
/// How much longer than in the round before a round trip has to take.
const LONGER_MIN: Duration = Duration::from_millis(4);
const LONGER_MAX: Duration = Duration::from_millis(16);
const LONGER_DIVISOR: u32 = 8;
/// Rounds of slower growth in which it may turn out that there was no queue, and by what they are slower. The RFC has 5,
/// in which the window triples: more than the queues of many links take.
const CAUTIOUS_ROUNDS: u32 = 3;
const CAUTIOUS_DIVISOR: f64 = 4.0;

#[derive(Debug, Clone, Default)]
pub(super) struct SlowStart {
    /// The shortest round trip of the round before, and of the one under way.
    before: Option<Duration>,
    current: Option<Duration>,
    /// The shortest of the row under way, and its packets so far.
    row: Option<Duration>,
    packets: u32,
    cautious: Option<Cautious>,
}

#[derive(Debug, Clone, Copy)]
struct Cautious {
    rounds: u32,
    /// The round trip at which caution began.
    since: Duration,
}

impl SlowStart {
    /// A packet took `waited` there and back.
    pub(super) fn measured(&mut self, waited: Duration) {
        self.current = Some(self.current.map_or(waited, |current| current.min(waited)));
        let row = self.row.map_or(waited, |row| row.min(waited));
        self.row = Some(row);
        self.packets += 1;
        if self.packets < ROW {
            return;
        }
        self.row = None;
        self.packets = 0;
        match (self.cautious, self.before) {
            (Some(cautious), _) if row < cautious.since => self.cautious = None,
            (None, Some(before)) => {
                let longer = (before / LONGER_DIVISOR).clamp(LONGER_MIN, LONGER_MAX);
                if row >= before + longer {
                    self.cautious = Some(Cautious { rounds: 0, since: row });
                }
            }
            _ => {}
        }
    }

    /// By how many bytes the window grows for each byte that arrives.
    pub(super) fn growth(&self) -> f64 {
        if self.cautious.is_some() { 1.0 / CAUTIOUS_DIVISOR } else { 1.0 }
    }

    /// Returns whether slow start has ended.
    pub(super) fn round_ended(&mut self) -> bool {
        self.before = self.current.take().or(self.before);
        match &mut self.cautious {
            Some(cautious) => {
                cautious.rounds += 1;
                cautious.rounds >= CAUTIOUS_ROUNDS
            }
            None => false,
        }
    }
}
