//! What the vendor finds out of its own link, for its head: how fast it sends and receives, and where it is among the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fathom_protocol::ids::NodeId;
use fathom_protocol::route::coordinate::Coordinate;
use fathom_protocol::route::rates::{STEP_MS, Sustained};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Vendor, lock};

/// Mirrors, and vendors, that are probed in one round.
const PROBED: usize = 3;
/// Time between rounds: at first, while the coordinate is far from where it belongs, and later.
const EAGER: Duration = Duration::from_secs(2);
const SETTLED: Duration = Duration::from_secs(30);
/// Rounds in quick succession.
const EAGER_ROUNDS: u64 = 20;
/// Time between two heads that are signed for this alone, at least.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// A change by this share of what was told is worth a head.
const WORTH: f64 = 0.25;
/// One that is smaller is not, microseconds.
const WORTH_US: f64 = 5_000.0;

/// What the head says of the link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Own {
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) coordinate: Option<Coordinate>,
}

impl Own {
    /// Whether `other` would be news to those who know this.
    fn differs(&self, other: &Self) -> bool {
        let far = |a: u64, b: u64| a.abs_diff(b) as f64 > WORTH * a.max(b) as f64;
        let moved = match (self.coordinate, other.coordinate) {
            (Some(here), Some(there)) => {
                let apart = (0..here.place.len()).map(|at| f64::from(here.place[at]) - f64::from(there.place[at]));
                let height = f64::from(here.height) - f64::from(there.height);
                let moved = (apart.map(|apart| apart * apart).sum::<f64>() + height * height).sqrt();
                let size = here.place.iter().map(|at| f64::from(*at).powi(2)).sum::<f64>().sqrt();
                moved > WORTH_US.max(WORTH * size)
            }
            (here, there) => here != there,
        };
        far(self.up, other.up) || far(self.down, other.down) || moved
    }
}

/// What is measured of the vendor's own link.
#[derive(Debug, Default)]
pub(super) struct OwnLink {
    received: AtomicU64,
    /// What it sends to others, and what it receives.
    rates: Mutex<(Sustained, Sustained)>,
    /// What the newest head says.
    told: Mutex<Option<Own>>,
}

impl OwnLink {
    /// Counts bytes of a body as they come.
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Vendor {
    /// What is known of the own link now; a head is about to say so.
    pub(super) fn tell_link(&self) -> Own {
        let own = self.own_link();
        *lock(&self.link.told) = Some(own);
        own
    }

    fn own_link(&self) -> Own {
        let (up, down) = {
            let rates = lock(&self.link.rates);
            (rates.0.rate(), rates.1.rate())
        };
        let coordinate = Some(self.net.coordinate()).filter(Coordinate::is_settled);
        Own { up, down, coordinate }
    }

    /// Takes the rates of the own link.
    pub(super) async fn measuring(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(STEP_MS));
        // A late step would look like a fast link.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut before, mut at) = (self.net.overlay().sent(), Instant::now());
        loop {
            ticks.tick().await;
            let (sent, passed) = (self.net.overlay().sent(), at.elapsed());
            at = Instant::now();
            let in_step =
                |bytes: u64| bytes * STEP_MS / u64::try_from(passed.as_millis()).unwrap_or(STEP_MS).max(STEP_MS);
            let arrived = sent.arrived.saturating_sub(before.arrived);
            let limited = sent.limited.saturating_sub(before.limited);
            before = sent;
            let received = self.link.received.swap(0, Ordering::Relaxed);
            let mut rates = lock(&self.link.rates);
            rates.0.step(in_step(arrived), limited * 2 > arrived);
            rates.1.step(in_step(received), received > 0);
        }
    }

    /// Finds out where the vendor is among the others by asking some of them now and then, and signs a new head when what it says of its
    /// link is no more true.
    pub(super) async fn placing(self: &Arc<Self>) {
        let mut told = Instant::now();
        for round in 0_u64.. {
            tokio::time::sleep(if round < EAGER_ROUNDS { EAGER } else { SETTLED }).await;
            self.net.probe(self.some_others(round)).await;
            let news = {
                let known = *lock(&self.link.told);
                known.is_some_and(|known| known.differs(&self.own_link()))
            };
            // The first coordinate is worth a head at once.
            let first = lock(&self.link.told).is_some_and(|own| own.coordinate.is_none());
            if news && (first || told.elapsed() >= TOLD_EVERY) {
                told = Instant::now();
                self.touch();
            }
        }
    }

    /// Some mirrors and some vendors, others each time.
    fn some_others(&self, round: u64) -> Vec<NodeId> {
        let book = self.net.book();
        let some = |mut nodes: Vec<NodeId>| {
            nodes.retain(|node| *node != self.me);
            // By themselves they come in the order of their round trips, and the nearest alone say little.
            nodes.sort_unstable();
            let first = usize::try_from(round).unwrap_or(0) * PROBED % nodes.len().max(1);
            nodes.rotate_left(first);
            nodes.truncate(PROBED);
            nodes
        };
        let mut asked = some(book.mirrors());
        asked.extend(some(book.with_role(|roles| roles.vendor && !roles.mirror)));
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_signed_for_news_only() {
        let at = |x: i32| Some(Coordinate { place: [x, 0, 0], height: 100, error: 100 });
        let known = Own { up: 1_000, down: 0, coordinate: at(20_000) };
        assert!(!known.differs(&Own { up: 1_100, ..known }));
        assert!(known.differs(&Own { up: 2_000, ..known }));
        assert!(known.differs(&Own { down: 1, ..known }));
        assert!(!known.differs(&Own { coordinate: at(22_000), ..known }));
        assert!(known.differs(&Own { coordinate: at(40_000), ..known }));
        assert!(known.differs(&Own { coordinate: None, ..known }));
    }
}
