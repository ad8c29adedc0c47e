//! When a chunk will be at all vendors of a chain, and which chain is done first.
//!
//! Each vendor sends on while it receives, so bytes arrive at the pace of the slowest step so far: the sender's uplink and every
//! vendor's downlink count, and of the vendors' uplinks all but the last one's. That is why the order matters: the slowest uplink
//! goes last. To this come the round trips along the chain (bytes forth, receipts back), the slowest device, and what vendors that
//! do not answer are expected to cost.
//!
//! The search goes through orders and members in depth, the most promising first, and leaves what cannot be better than
//! the best so far: a chain's time never shrinks when a vendor is added. At most [`VISITS_MAX`] steps.

use super::{ASSUMED_BYTES_PER_S, End, bounded};

/// Steps of one search. All orders of three vendors with two to choose from for each are 79.
pub const VISITS_MAX: usize = 20_000;

/// Bytes per second that a device writes of which nothing is known.
const ASSUMED_DISK: f64 = 8.0 * ASSUMED_BYTES_PER_S;

/// Share of the time that the chain's own links would take that is added: of two chains that are as fast as the source, the one with
/// more to spare is better, since figures are wrong and others use the links, too.
const SPARE: f64 = 0.25;

/// A chain as far as it goes.
#[derive(Clone, Copy, Debug)]
struct Partial {
    /// Round trips and risks so far, seconds.
    fixed: f64,
    /// The slowest step so far, bytes per second.
    rate: f64,
    /// The slowest of those steps that another chain would not have.
    own: f64,
    /// What the last vendor could send on, bytes per second.
    up: f64,
    /// Time of the slowest device, seconds.
    disk: f64,
}

impl Partial {
    fn at_source(source: &End) -> Self {
        Self { fixed: 0.0, rate: f64::INFINITY, own: f64::INFINITY, up: source.up_share(), disk: 0.0 }
    }

    fn with(self, next: &End, round_trip_s: f64, bytes: u64) -> Self {
        let disk = bounded(next.disk.unwrap_or(ASSUMED_DISK), 1.0, f64::MAX);
        let down = next.down_share();
        // The source's uplink is in every chain.
        let before = if self.rate.is_infinite() { f64::INFINITY } else { self.up };
        Self {
            fixed: self.fixed + bounded(round_trip_s, 0.0, 60.0) + next.risk(),
            rate: self.rate.min(self.up).min(down),
            own: self.own.min(before).min(down),
            up: next.up_share(),
            disk: self.disk.max(bytes as f64 * (f64::from(next.in_flight) + 1.0) / disk),
        }
    }

    fn seconds(&self, bytes: u64) -> f64 {
        self.fixed + bytes as f64 / self.rate + SPARE * bytes as f64 / self.own + self.disk
    }
}

/// Seconds until `bytes` bytes are at all of `chain`, in this order, and their receipts are back at the source. `round_trip_s` is that
/// between two of the chain, or the source (`None`) and one of it.
pub fn seconds(source: &End, chain: &[End], round_trip_s: impl Fn(Option<usize>, usize) -> f64, bytes: u64) -> f64 {
    let mut so_far = Partial::at_source(source);
    for (at, next) in chain.iter().enumerate() {
        so_far = so_far.with(next, round_trip_s(at.checked_sub(1), at), bytes);
    }
    if chain.is_empty() { 0.0 } else { so_far.seconds(bytes) }
}

/// A place in the chain: which column it serves, and which of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Position in the list of columns.
    pub column: usize,
    /// Position in the list of nodes.
    pub node: usize,
}

/// What [`choose`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The chain, first vendor first.
    pub chain: Vec<Link>,
    /// Its expected time, seconds.
    pub seconds: f64,
}

struct Search<'a, F> {
    nodes: &'a [End],
    columns: &'a [Vec<usize>],
    round_trip_s: F,
    bytes: u64,
    visits: usize,
    taken: Vec<Link>,
    best: Option<Choice>,
}

/// The members and order of a chain from `source` through one of the nodes of each column, no node twice, that is done first with
/// `bytes` bytes. `None` if a column has no node of its own.
pub fn choose(
    source: &End,
    nodes: &[End],
    columns: &[Vec<usize>],
    round_trip_s: impl Fn(Option<usize>, usize) -> f64,
    bytes: u64,
) -> Option<Choice> {
    let taken = Vec::with_capacity(columns.len());
    let mut search = Search { nodes, columns, round_trip_s, bytes, visits: 0, taken, best: None };
    search.descend(Partial::at_source(source));
    search.best
}

impl<F: Fn(Option<usize>, usize) -> f64> Search<'_, F> {
    fn descend(&mut self, so_far: Partial) {
        if self.taken.len() == self.columns.len() {
            let seconds = so_far.seconds(self.bytes);
            if !self.taken.is_empty() && self.best.as_ref().is_none_or(|best| seconds < best.seconds) {
                self.best = Some(Choice { chain: self.taken.clone(), seconds });
            }
            return;
        }
        let last = self.taken.last().map(|link| link.node);
        let mut next: Vec<(f64, Link, Partial)> = Vec::new();
        for (column, nodes) in self.columns.iter().enumerate() {
            if self.taken.iter().any(|link| link.column == column) {
                continue;
            }
            for node in nodes {
                let Some(end) = self.nodes.get(*node) else { continue };
                if self.taken.iter().any(|link| link.node == *node) {
                    continue;
                }
                let there = so_far.with(end, (self.round_trip_s)(last, *node), self.bytes);
                // As if another one came behind: so that a slow uplink is tried last.
                let promise = there.seconds(self.bytes).max(there.fixed + self.bytes as f64 / there.up);
                next.push((promise, Link { column, node: *node }, there));
            }
        }
        next.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.node.cmp(&b.1.node)));
        for (_, link, there) in next {
            let hopeless = self.best.as_ref().is_some_and(|best| there.seconds(self.bytes) >= best.seconds);
            // The first way down is always gone to its end.
            if hopeless || (self.visits >= VISITS_MAX && self.best.is_some()) {
                continue;
            }
            self.visits += 1;
            self.taken.push(link);
            self.descend(there);
            self.taken.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1 << 20;

    fn end(up: f64, down: f64) -> End {
        End { up: Some(up), down: Some(down), ..End::default() }
    }

    #[test]
    fn the_slowest_uplink_goes_last_and_the_nearest_of_equals_first() {
        let nodes = [end(0.6e6, 50e6), end(10e6, 50e6), end(10e6, 50e6)];
        let columns = vec![vec![0], vec![1], vec![2]];
        // From the source, node 2 is nearer than node 1; between vendors all are alike.
        let away = |from: Option<usize>, to: usize| match (from, to) {
            (None, 1) => 0.1,
            _ => 0.01,
        };
        let choice = choose(&end(20e6, 20e6), &nodes, &columns, away, 4 * MIB).unwrap();
        assert_eq!(choice.chain.iter().map(|link| link.node).collect::<Vec<_>>(), [2, 1, 0]);
        let as_chosen: Vec<End> = choice.chain.iter().map(|link| nodes[link.node]).collect();
        let node = |at: usize| choice.chain[at].node;
        let seconds = seconds(&end(20e6, 20e6), &as_chosen, |from, to| away(from.map(node), node(to)), 4 * MIB);
        assert_eq!(seconds.to_bits(), choice.seconds.to_bits());
    }

    #[test]
    fn of_two_for_a_column_the_idle_one_is_taken_and_the_suspected_one_is_not() {
        let busy = End { in_flight: 7, ..end(10e6, 10e6) };
        let suspected = End { suspected: true, ..end(1e9, 1e9) };
        let nodes = [busy, end(9e6, 9e6), suspected];
        let choice = choose(&end(5e6, 5e6), &nodes, &[vec![0, 1, 2]], |_, _| 0.02, MIB).unwrap();
        assert_eq!(choice.chain, [Link { column: 0, node: 1 }]);
    }

    #[test]
    fn no_node_serves_two_columns() {
        let nodes = [end(1e6, 1e6), end(1e6, 1e6)];
        let choice = choose(&End::default(), &nodes, &[vec![0, 1], vec![0]], |_, _| 0.01, MIB).unwrap();
        assert!(choice.chain.contains(&Link { column: 1, node: 0 }), "{choice:?}");
        assert_eq!(choose(&End::default(), &nodes, &[vec![0], vec![0]], |_, _| 0.01, MIB), None);
        assert_eq!(choose(&End::default(), &nodes, &[], |_, _| 0.01, MIB), None);
    }
}
