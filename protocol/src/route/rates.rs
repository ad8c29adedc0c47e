//! How fast links are, from transfers that happened anyway.
//!
//! - [`Sustained`]: what a node can say of its own link: the best rate that it kept up lately.
//! - [`Meter`]: bytes that come from one peer, over the time in which they were coming.
//! - [`Experience`]: what a sender learns of the hops behind it. In a chain with cut-through, receipts come back together unless a hop
//!   is slower than the one before: then its receipt comes later, and by how much says how slow it is.
//!
//! What is seen while something else is the limit only shows what a link carries at least, and never lowers an estimate.

use std::collections::BTreeMap;

use super::RATE_MAX;
use crate::ids::NodeId;

/// Length of one step of [`Sustained`], milliseconds.
pub const STEP_MS: u64 = 250;
/// Steps in a row that make a rate: the first and the last may be partly idle.
const STEPS: usize = 3;
/// Steps of one period, and periods that are remembered: ten minutes.
const PERIOD_STEPS: u64 = 60_000 / STEP_MS;
const PERIODS: usize = 10;

/// The best rate that was kept up in the last ten minutes. Fed each [`STEP_MS`].
#[derive(Clone, Debug, Default)]
pub struct Sustained {
    last: [u64; STEPS],
    steps: u64,
    best: [u64; PERIODS],
}

impl Sustained {
    /// `bytes` passed in the step that ends now; whether the link was what limited them.
    pub fn step(&mut self, bytes: u64, limited: bool) {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(PERIOD_STEPS) {
            self.best.rotate_right(1);
            self.best[0] = 0;
        }
        self.last.rotate_right(1);
        self.last[0] = if limited { bytes } else { 0 };
        if self.last.iter().all(|bytes| *bytes > 0) {
            let rate = self.last[STEPS / 2].saturating_mul(1_000) / STEP_MS;
            self.best[0] = self.best[0].max(rate.min(RATE_MAX));
        }
    }

    /// Bytes per second; 0 if not yet measured.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.best.iter().copied().max().unwrap_or(0)
    }
}

/// Time over which [`Meter`] takes a rate, microseconds.
const WINDOW_US: u64 = 250_000;
/// A shorter time counts if so many bytes came in it.
const WINDOW_BYTES: u64 = 1 << 20;

/// The rate at which bytes come from one peer, over the time in which any were coming.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Meter {
    coming: u32,
    since: u64,
    bytes: u64,
    rate: Option<f64>,
}

impl Meter {
    /// A transfer's first bytes are here.
    pub fn begin(&mut self, now_us: u64) {
        if self.coming == 0 {
            (self.since, self.bytes) = (now_us, 0);
        }
        self.coming += 1;
    }

    /// So many bytes came.
    pub fn came(&mut self, now_us: u64, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.take(now_us, WINDOW_US);
    }

    /// A transfer ended, well or not.
    pub fn end(&mut self, now_us: u64) {
        self.coming = self.coming.saturating_sub(1);
        if self.coming == 0 && self.bytes >= WINDOW_BYTES {
            self.take(now_us, 1);
        }
    }

    fn take(&mut self, now_us: u64, least_us: u64) {
        let passed = now_us.saturating_sub(self.since);
        if passed < least_us {
            return;
        }
        let newest = self.bytes as f64 * 1e6 / passed as f64;
        self.rate = Some(self.rate.map_or(newest, |rate| (rate + newest) / 2.0));
        (self.since, self.bytes) = (now_us, 0);
    }

    /// Bytes per second; a transfer that is under way and brings nothing lowers it as time passes.
    #[must_use]
    pub fn rate(&self, now_us: u64) -> Option<f64> {
        let passed = now_us.saturating_sub(self.since);
        if self.coming == 0 || passed < 2 * WINDOW_US {
            return self.rate;
        }
        let now = (self.bytes as f64 * 1e6 / passed as f64).max(1.0);
        Some(self.rate.map_or(now, |rate| rate.min(now)))
    }
}

/// What one direction of a node's link carries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Capacity {
    /// The most that was seen.
    seen: f64,
    /// What it was when it was the limit.
    limit: Option<Limit>,
}

/// A link that was the limit of a transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limit {
    rate: f64,
    /// When that was seen last.
    at: u64,
    /// Who was at the other end, and might have been it instead.
    towards: NodeId,
}

impl Capacity {
    fn carried(&mut self, rate: f64) {
        self.seen = self.seen.max(rate);
        // It carried that much, whatever was believed.
        if let Some(limit) = &mut self.limit {
            limit.rate = limit.rate.max(rate);
        }
    }

    fn limited(&mut self, rate: f64, towards: NodeId, at: u64) {
        let rate_now = self.limit.map_or(rate, |limit| (limit.rate + rate) / 2.0);
        self.limit = Some(Limit { rate: rate_now, at, towards });
        // Links change: what was seen once is not for ever.
        self.seen = self.seen.mul_add(0.9, rate * 0.1);
    }

    /// The limit, unless it was seen too long ago.
    fn now(&self, now_us: u64) -> Option<f64> {
        self.limit.filter(|limit| now_us.saturating_sub(limit.at) < REMEMBERED_US).map(|limit| limit.rate)
    }
}

/// Chunks that a node is sending on, over time.
#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    count: u32,
    /// Chunks times microseconds.
    area: u64,
    at: u64,
}

impl Busy {
    fn change(&mut self, now: u64, more: bool) -> u64 {
        self.area = self.area.saturating_add(u64::from(self.count) * now.saturating_sub(self.at));
        self.at = self.at.max(now);
        self.count = if more { self.count.saturating_add(1) } else { self.count.saturating_sub(1) };
        self.area
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    up: Capacity,
    down: Capacity,
    sending: Busy,
}

/// How long a limit is believed that nobody saw since, microseconds: ten minutes.
const REMEMBERED_US: u64 = 600_000_000;
/// Nodes of which something is remembered; the one that is sending nothing and comes first makes room.
const NODES_MAX: usize = 4_096;
/// A receipt that comes later than the one before by this share of the chunk's time, and by [`LATE_US`] and a round trip, shows that
/// its hop is the limit.
const LATE_SHARE: f64 = 0.25;
const LATE_US: u64 = 100_000;
/// A sender whose uplink carried so many times as much is not what limits a hop.
const CARRIES_MORE: f64 = 1.5;

/// What a sender knows of nodes' links by the chunks that it sent through them.
#[derive(Clone, Debug, Default)]
pub struct Experience {
    nodes: BTreeMap<NodeId, Ends>,
}

/// A chunk on its way along a chain. Made by [`Experience::begin`], and handed to [`Experience::end`] whatever becomes of it.
#[derive(Debug)]
pub struct Sending {
    chain: Vec<NodeId>,
    began: u64,
    length: u64,
    /// For each hop, what [`Busy::area`] of its sender was at the start; none once the hop is done.
    areas: Vec<Option<u64>>,
    /// When the receipts came, by hop.
    arrived: Vec<Option<u64>>,
}

impl Experience {
    fn ends(&mut self, node: NodeId) -> &mut Ends {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node) {
            let idle = self.nodes.iter().find(|(_, ends)| ends.sending.count == 0).map(|(node, _)| *node);
            idle.or(self.nodes.keys().next().copied()).map(|out| self.nodes.remove(&out));
        }
        self.nodes.entry(node).or_default()
    }

    /// `length` bytes begin to go from the first node of `chain`, which is this one, to the others.
    pub fn begin(&mut self, chain: Vec<NodeId>, length: u64, now_us: u64) -> Sending {
        let senders = chain.len().saturating_sub(1);
        let areas = chain.iter().take(senders).map(|node| Some(self.ends(*node).sending.change(now_us, true)));
        let areas = areas.collect();
        Sending { chain, began: now_us, length, areas, arrived: vec![None; senders] }
    }

    /// The receipt of `vendor` is here; `round_trip_us` is about what a word from it takes.
    pub fn arrived(&mut self, sending: &mut Sending, vendor: NodeId, now_us: u64, round_trip_us: u64) {
        let Some(hop) = sending.chain.iter().skip(1).position(|node| *node == vendor) else { return };
        let Some(area) = sending.areas[hop].take() else { return };
        sending.arrived[hop] = Some(now_us);
        let (from, length) = (sending.chain[hop], sending.length as f64);
        let took = now_us.saturating_sub(sending.began).max(1);
        let together = self.ends(from).sending.change(now_us, false).saturating_sub(area) as f64 / took as f64;
        // All chunks that the sender had under way shared its link.
        let rate = (together.max(1.0) * length * 1e6 / took as f64).min(RATE_MAX as f64);
        // A vendor in between whose receipt did not come shows nothing.
        let before = match hop.checked_sub(1) {
            None => Some(sending.began),
            Some(before) => sending.arrived[before],
        };
        let late = before.map_or(0, |before| now_us.saturating_sub(before));
        let limited = late > LATE_US + 2 * round_trip_us && late as f64 > LATE_SHARE * took as f64;
        self.carried(from, vendor, rate, limited, now_us);
    }

    /// Bytes went from one node to another at this rate; whether that hop was what limited them.
    pub fn carried(&mut self, from: NodeId, to: NodeId, rate: f64, limited: bool, now_us: u64) {
        if !limited {
            self.ends(from).up.carried(rate);
            self.ends(to).down.carried(rate);
            return;
        }
        let known = self.ends(to).down.now(now_us);
        // Uplinks are the scarce ones at home, so it is the receiver only if the sender is known to send faster, or the receiver is known
        // to be slow.
        let receiver = self.ends(from).up.seen > CARRIES_MORE * rate
            || known.is_some_and(|known| known < CARRIES_MORE * rate && rate < CARRIES_MORE * known);
        if receiver {
            self.ends(to).down.limited(rate, from, now_us);
            if known.is_none() {
                self.clear_of(to, rate);
            }
        } else {
            self.ends(from).up.limited(rate, to, now_us);
            self.ends(to).down.carried(rate);
        }
    }

    /// `to` turned out to be slow: those that were taken to be slow when they sent to it may not be.
    fn clear_of(&mut self, to: NodeId, rate: f64) {
        for ends in self.nodes.values_mut() {
            // One that was slower than that is slow itself.
            let like = |a: f64, b: f64| a < CARRIES_MORE * b && b < CARRIES_MORE * a;
            let wrong = |limit: &Limit| limit.towards == to && like(limit.rate, rate);
            if ends.up.limit.as_ref().is_some_and(wrong) {
                ends.up.limit = None;
            }
        }
    }

    /// The chunk is sent, or given up.
    pub fn end(&mut self, sending: Sending, now_us: u64) {
        for (node, area) in sending.chain.iter().zip(sending.areas) {
            if area.is_some() {
                self.ends(*node).sending.change(now_us, false);
            }
        }
    }

    /// Bytes per second that `node` sends, if that was the limit of a transfer lately.
    #[must_use]
    pub fn up(&self, node: NodeId, now_us: u64) -> Option<f64> {
        self.nodes.get(&node)?.up.now(now_us)
    }

    /// The same of what it receives.
    #[must_use]
    pub fn down(&self, node: NodeId, now_us: u64) -> Option<f64> {
        self.nodes.get(&node)?.down.now(now_us)
    }

    /// The most that `node` was seen to send and to receive, bytes per second; 0 if nothing.
    #[must_use]
    pub fn seen(&self, node: NodeId) -> (f64, f64) {
        self.nodes.get(&node).map_or((0.0, 0.0), |ends| (ends.up.seen, ends.down.seen))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1 << 20;
    const NOW: u64 = 10_000_000;

    fn node(number: u8) -> NodeId {
        NodeId([number; NodeId::LEN])
    }

    #[test]
    fn a_rate_is_what_was_kept_up_and_is_forgotten() {
        let mut sustained = Sustained::default();
        sustained.step(9_000_000, true);
        sustained.step(9_000_000, true);
        sustained.step(50, false);
        assert_eq!(sustained.rate(), 0, "a burst");
        for bytes in [10, 1_000, 800, 20] {
            sustained.step(bytes, true);
        }
        assert_eq!(sustained.rate(), 4_000);
        for _ in 0..PERIOD_STEPS * PERIODS as u64 + 1 {
            sustained.step(0, false);
        }
        assert_eq!(sustained.rate(), 0);
    }

    #[test]
    fn bytes_are_counted_over_the_time_in_which_they_come() {
        let mut meter = Meter::default();
        for transfer in 0..5 {
            let start = transfer * 10_000_000;
            meter.begin(start);
            for step in 1..=10 {
                meter.came(start + step * 100_000, 100_000);
            }
            meter.end(start + 1_000_000);
        }
        let rate = meter.rate(90_000_000).unwrap();
        assert!((900_000.0..1_100_000.0).contains(&rate), "{rate}");
        // One that brings nothing is not as fast as it was.
        meter.begin(100_000_000);
        assert!(meter.rate(110_000_000).unwrap() < 10.0);
        meter.came(110_000_000, 4 * MIB);
        meter.end(110_000_001);
        assert!(meter.rate(120_000_000).unwrap() > 100_000.0);
    }

    #[test]
    fn the_hop_whose_receipt_is_late_is_the_slow_one() {
        let mut experience = Experience::default();
        let chain = vec![node(0), node(1), node(2), node(3)];
        // Vendor 1 sends 1 MiB/s, the user and vendor 2 send ten.
        let mut sending = experience.begin(chain.clone(), 4 * MIB, 0);
        experience.arrived(&mut sending, node(1), 400_000, 20_000);
        experience.arrived(&mut sending, node(2), 4_000_000, 20_000);
        experience.arrived(&mut sending, node(3), 4_020_000, 20_000);
        experience.end(sending, 4_020_000);
        let up = experience.up(node(1), NOW).unwrap();
        assert!((1.0e6..1.2e6).contains(&up), "{up}");
        assert_eq!((experience.up(node(2), NOW), experience.down(node(2), NOW)), (None, None));
        assert!(experience.up(node(0), NOW).unwrap() > 9e6);
    }

    #[test]
    fn chunks_that_share_a_hop_count_together() {
        let mut experience = Experience::default();
        let chain = vec![node(0), node(1)];
        let mut together: Vec<Sending> = (0..8).map(|_| experience.begin(chain.clone(), MIB, 0)).collect();
        // Eight at once, 1 MiB/s in all.
        for sending in &mut together {
            experience.arrived(sending, node(1), 8_000_000, 0);
        }
        together.into_iter().for_each(|sending| experience.end(sending, 8_000_000));
        let up = experience.up(node(0), NOW).unwrap();
        assert!((0.7e6..1.2e6).contains(&up), "{up}");
    }

    #[test]
    fn a_receiver_is_blamed_only_if_its_sender_is_known_to_be_faster() {
        let mut experience = Experience::default();
        experience.carried(node(1), node(2), 1e6, true, NOW);
        assert!(experience.up(node(1), NOW).is_some() && experience.down(node(2), NOW).is_none());
        // It was the receiver after all.
        experience.carried(node(1), node(3), 9e6, false, NOW);
        assert!(experience.up(node(1), NOW).unwrap() >= 9e6);
        experience.carried(node(1), node(2), 1e6, true, NOW);
        assert_eq!(experience.down(node(2), NOW), Some(1e6));
        assert!(experience.up(node(1), NOW).unwrap() >= 9e6);
    }

    #[test]
    fn who_was_blamed_for_a_slow_receiver_is_cleared_and_limits_are_forgotten() {
        let mut experience = Experience::default();
        experience.carried(node(1), node(2), 1e6, true, NOW);
        experience.carried(node(3), node(4), 1e6, true, NOW);
        // Somebody who sends fast elsewhere finds vendor 2 slow.
        experience.carried(node(5), node(6), 9e6, false, NOW);
        experience.carried(node(5), node(2), 1.1e6, true, NOW);
        assert_eq!(experience.up(node(1), NOW), None);
        assert_eq!(experience.up(node(3), NOW), Some(1e6));
        // From now on it is the one to blame.
        experience.carried(node(7), node(2), 1e6, true, NOW);
        assert_eq!(experience.up(node(7), NOW), None);
        assert_eq!(experience.up(node(3), NOW + REMEMBERED_US), None);
    }

    #[test]
    fn memory_has_a_bound_and_what_was_given_up_is_no_more_under_way() {
        let mut experience = Experience::default();
        for number in 0..NODES_MAX as u32 + 100 {
            let mut id = [0; NodeId::LEN];
            id[..4].copy_from_slice(&number.to_be_bytes());
            let sending = experience.begin(vec![NodeId(id), node(9)], 1, 0);
            experience.end(sending, 1);
        }
        assert!(experience.nodes.len() <= NODES_MAX);
        assert!(experience.nodes.values().all(|ends| ends.sending.count == 0));
    }
}
