//! The share of packets that were lost in the last rounds.

/// Rounds over which losses are counted.
const ROUNDS: usize = 4;
/// By how many standard deviations of a count of rare events it has to be larger than expected.
const DEVIATIONS: f64 = 3.0;

#[derive(Debug, Clone, Default)]
pub(super) struct Losses {
    /// Bytes that arrived and bytes that were lost, the round under way first.
    rounds: [(u64, u64); ROUNDS],
    mtu: u64,
}

impl Losses {
    pub(super) fn arrived(&mut self, bytes: u64) {
        self.rounds[0].0 += bytes;
    }

    pub(super) fn lost(&mut self, bytes: u64, mtu: u64) {
        self.rounds[0].1 += bytes;
        self.mtu = mtu;
    }

    pub(super) fn round_ended(&mut self) {
        self.rounds.rotate_right(1);
        self.rounds[0] = (0, 0);
    }

    /// What was counted has been answered.
    pub(super) fn answered(&mut self) {
        self.rounds = Default::default();
    }

    /// Whether more than `share` of the packets were lost, and more than by chance.
    pub(super) fn are_heavy(&self, share: f64) -> bool {
        let arrived: u64 = self.rounds.iter().map(|(arrived, _)| arrived).sum();
        let lost: u64 = self.rounds.iter().map(|(_, lost)| lost).sum();
        let packets = |bytes: u64| bytes as f64 / self.mtu.max(1) as f64;
        let expected = share * packets(arrived + lost);
        packets(lost) > expected + DEVIATIONS * expected.sqrt()
    }
}
