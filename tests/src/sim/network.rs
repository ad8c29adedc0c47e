//! The links between nodes: latency, loss, replay, reordering, partitions of either kind, and links that clog in turn.

use std::collections::BTreeMap;

use super::random::Random;
use super::report::Injected;

/// How bad the links are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// Messages lost, in 1,000.
    pub(super) loss: u64,
    /// Messages delivered a second time, in 1,000.
    pub(super) replay: u64,
    /// Shortest way, milliseconds.
    pub(super) latency_min: u64,
    /// Longest ordinary way, milliseconds. Ways of different lengths are what reorders.
    pub(super) latency_max: u64,
}

impl Weather {
    /// Nothing is lost.
    pub(super) const FAIR: Self = Self { loss: 0, replay: 0, latency_min: 2, latency_max: 40 };
}

/// All links.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) weather: Weather,
    /// Links that carry nothing until then, by (from, to).
    cut: BTreeMap<(usize, usize), u64>,
    /// Links that hold everything back until then.
    clogged: BTreeMap<(usize, usize), u64>,
}

impl Links {
    pub(super) fn new(weather: Weather) -> Self {
        Self { weather, cut: BTreeMap::new(), clogged: BTreeMap::new() }
    }

    /// Milliseconds after which each copy of a message arrives; none if it is lost.
    pub(super) fn carry(
        &self,
        now: u64,
        (from, to): (usize, usize),
        random: &mut Random,
        injected: &mut Injected,
    ) -> Vec<u64> {
        if from == to {
            return vec![0];
        }
        if self.cut.get(&(from, to)).is_some_and(|until| *until > now) {
            injected.blocked += 1;
            return Vec::new();
        }
        if random.chance(self.weather.loss) {
            injected.lost += 1;
            return Vec::new();
        }
        let held = self.clogged.get(&(from, to)).map_or(0, |until| until.saturating_sub(now));
        injected.clogged += u64::from(held > 0);
        let way = |random: &mut Random| {
            // A few messages take ten times as long as the others.
            let stretch = if random.chance(20) { 10 } else { 1 };
            held + stretch * random.within(self.weather.latency_min, self.weather.latency_max)
        };
        let mut ways = vec![way(random)];
        if random.chance(self.weather.replay) {
            injected.replayed += 1;
            let late = random.within(0, 20_000);
            ways.push(way(random) + late);
        }
        ways
    }

    /// Cuts every link between the two sides until `until`; in one direction only if `one_way`.
    pub(super) fn part(&mut self, side: &[usize], other: &[usize], one_way: bool, until: u64) {
        for a in side {
            for b in other.iter().filter(|b| *b != a) {
                self.cut.insert((*a, *b), until);
                if !one_way {
                    self.cut.insert((*b, *a), until);
                }
            }
        }
    }

    /// Holds back everything from `from` to `to` until `until`.
    pub(super) fn clog(&mut self, from: usize, to: usize, until: u64) {
        self.clogged.insert((from, to), until);
    }

    /// All faults of the links end.
    pub(super) fn heal(&mut self) {
        self.weather = Weather::FAIR;
        self.cut.clear();
        self.clogged.clear();
    }
}
