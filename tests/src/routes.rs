//! A model of homes on the Internet, in simulated time: links with rates, delays and losses, chains with cut-through in which hops share
//! links fairly, and a user that chooses its chains with the core of [`fathom_protocol::route`] and learns from the receipts, as a
//! node does. What the chosen ways take is compared with all fixed ones. See `bench-routes` and `docs/performance.md`.

mod fluid;

use fathom_protocol::ids::NodeId;
use fathom_protocol::route::chain;
use fathom_protocol::route::coordinate::{Coordinate, Position};
use fathom_protocol::route::rates::{Experience, Sending};
use fathom_protocol::route::{ASSUMED_BYTES_PER_S, ASSUMED_ROUND_TRIP_S, End, LOST};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// Copies of each chunk, and vendors to choose from for each.
pub const COPIES: usize = 3;
/// Vendors for each copy.
pub const WIDTH: usize = 2;
/// Bytes of a chunk.
const CHUNK: u64 = 4 << 20;
/// Chunks of a put, and how many are under way at a time.
const CHUNKS: usize = 24;
const IN_FLIGHT: usize = 8;
/// Rounds in which vendors and the user probe each other before the put.
const PROBES: u64 = 30;
/// Kinds of home links, Mbit/s down and up.
const LINKS: [(f64, f64); 7] =
    [(20.0, 5.0), (50.0, 10.0), (100.0, 20.0), (100.0, 40.0), (250.0, 50.0), (500.0, 250.0), (1000.0, 500.0)];

/// One home's link.
#[derive(Clone, Copy, Debug)]
pub struct Home {
    /// Bytes per second that it sends.
    pub up: f64,
    /// Bytes per second that it receives.
    pub down: f64,
    /// What its access link adds to a round trip, seconds.
    pub access_s: f64,
    /// Where it is, seconds from the middle in two directions.
    pub place: [f64; 2],
    /// Share of packets that it loses.
    pub loss: f64,
}

/// A user, home 0, and its vendors.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The homes.
    pub homes: Vec<Home>,
}

impl Topology {
    /// The topology of `seed`: links of 20/5 to 1000/500 Mbit/s, round trips of 5 to 150 ms, losses of up to 2 %.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut home = || {
            let (down, up) = LINKS[chance.random_range(0..LINKS.len())];
            let lossy: bool = chance.random_bool(0.3);
            Home {
                up: up * 125_000.0,
                down: down * 125_000.0,
                access_s: chance.random_range(0.002..0.02),
                place: [chance.random_range(0.0..0.075), chance.random_range(0.0..0.075)],
                loss: if lossy { chance.random_range(0.0..0.01) } else { 0.0 },
            }
        };
        let mut homes: Vec<Home> = (0..=COPIES * WIDTH).map(|_| home()).collect();
        // With a user that sends no faster than any vendor all ways are alike.
        homes[0].up = homes[0].up.max(40.0 * 125_000.0);
        homes[0].down = homes[0].down.max(100.0 * 125_000.0);
        Self { homes }
    }

    /// Round trip between two homes, seconds.
    #[must_use]
    pub fn round_trip_s(&self, a: usize, b: usize) -> f64 {
        let (a, b) = (&self.homes[a], &self.homes[b]);
        let apart = (a.place[0] - b.place[0]).hypot(a.place[1] - b.place[1]);
        apart + a.access_s + b.access_s
    }

    /// What is left of a link between two homes because of losses.
    fn left(&self, a: usize, b: usize) -> f64 {
        1.0 / (1.0 + LOST * (self.homes[a].loss + self.homes[b].loss))
    }

    /// The columns: which homes may take which copy.
    #[must_use]
    pub fn columns(&self) -> Vec<Vec<usize>> {
        (0..COPIES).map(|column| (1..=WIDTH).map(|number| column * WIDTH + number).collect()).collect()
    }
}

/// All fixed ways: each choice of one home a column, in each order.
#[must_use]
pub fn all_ways(topology: &Topology) -> Vec<Vec<usize>> {
    fn extend(columns: &[Vec<usize>], way: &mut Vec<usize>, used: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
        if way.len() == columns.len() {
            all.push(way.clone());
            return;
        }
        for (column, homes) in columns.iter().enumerate() {
            if used.contains(&column) {
                continue;
            }
            used.push(column);
            for home in homes {
                way.push(*home);
                extend(columns, way, used, all);
                way.pop();
            }
            used.pop();
        }
    }
    let mut all = Vec::new();
    extend(&topology.columns(), &mut Vec::new(), &mut Vec::new(), &mut all);
    all
}

/// Who says where chunks go, and hears what becomes of them.
trait Policy {
    /// Chunk `chunk` begins; so many are under way to each home, and in all at home 0.
    fn begin(&mut self, chunk: usize, now: f64, in_flight: &[u32]) -> Vec<usize>;
    /// The receipt of `home` came.
    fn receipt(&mut self, _chunk: usize, _home: usize, _now: f64) {}
    /// All receipts of the chunk are here.
    fn end(&mut self, _chunk: usize, _now: f64) {}
}

struct Fixed<'a>(&'a [usize]);

impl Policy for Fixed<'_> {
    fn begin(&mut self, _: usize, _: f64, _: &[u32]) -> Vec<usize> {
        self.0.to_vec()
    }
}

/// Seconds that a put takes whose chunks all go along `way`.
#[must_use]
pub fn fixed(topology: &Topology, way: &[usize]) -> f64 {
    fluid::run(topology, &mut Fixed(way))
}

/// A user that knows what it measured.
#[derive(Debug)]
pub struct Chooser<'a> {
    topology: &'a Topology,
    experience: Experience,
    coordinates: Vec<Coordinate>,
    under_way: Vec<Option<Sending>>,
    /// Whether vendors' heads say what their links carry, as they do once anybody's transfer was limited by them.
    announced: bool,
    /// When the put under way began, seconds.
    began: f64,
}

fn id(home: usize) -> NodeId {
    NodeId([home as u8; NodeId::LEN])
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

impl<'a> Chooser<'a> {
    /// A user that has probed, and sent nothing yet.
    #[must_use]
    pub fn new(topology: &'a Topology, announced: bool) -> Self {
        let count = topology.homes.len();
        let mut positions = vec![Position::default(); count];
        for round in 0..PROBES {
            for a in 0..count {
                // As vendors do: some of the others, others each time.
                for step in 0..3 {
                    let b = (a + 1 + (round as usize * 3 + step) % (count - 1)) % count;
                    let at = positions[b].coordinate();
                    positions[a].sample(topology.round_trip_s(a, b) * 1e6, &at, round ^ (((a * b) as u64) << 7));
                }
            }
        }
        let coordinates = positions.iter().map(Position::coordinate).collect();
        let under_way = (0..CHUNKS).map(|_| None).collect();
        Self { topology, experience: Experience::default(), coordinates, under_way, announced, began: 0.0 }
    }

    /// Seconds that a put takes whose chunks go as the core chooses, by what was learnt so far, and learning.
    pub fn put(&mut self) -> f64 {
        let took = fluid::run(self.topology, self);
        self.began += took + 1.0;
        took
    }

    fn away(&self, from: Option<usize>, to: usize) -> f64 {
        let Some(from) = from else { return self.topology.round_trip_s(0, to) };
        let (a, b) = (self.coordinates[from], self.coordinates[to]);
        if a.is_settled() && b.is_settled() { a.round_trip_us(&b) / 1e6 } else { ASSUMED_ROUND_TRIP_S }
    }
}

impl Policy for Chooser<'_> {
    fn begin(&mut self, chunk: usize, now: f64, in_flight: &[u32]) -> Vec<usize> {
        let now_us = micros(self.began + now);
        let end = |home: usize| {
            let (up, down) = (self.experience.up(id(home), now_us), self.experience.down(id(home), now_us));
            let said = |rate: f64| (self.announced && home > 0).then_some(rate);
            let theirs = &self.topology.homes[home];
            // As a node takes them: its own figures first, and of downlinks only what speaks for them.
            let down = down.or(said(theirs.down).filter(|down| *down > ASSUMED_BYTES_PER_S));
            End { up: up.or(said(theirs.up)), down, in_flight: in_flight[home], ..End::default() }
        };
        // The user itself is no vendor; home 0 is never in a column.
        let nodes: Vec<End> = (0..self.topology.homes.len()).map(end).collect();
        let columns = self.topology.columns();
        let choice = chain::choose(&end(0), &nodes, &columns, |from, to| self.away(from, to), CHUNK);
        let way: Vec<usize> = choice.into_iter().flat_map(|choice| choice.chain).map(|link| link.node).collect();
        let chain = std::iter::once(0).chain(way.iter().copied()).map(id).collect();
        self.under_way[chunk] = Some(self.experience.begin(chain, CHUNK, now_us));
        way
    }

    fn receipt(&mut self, chunk: usize, home: usize, now: f64) {
        if let Some(sending) = &mut self.under_way[chunk] {
            let round_trip = micros(self.topology.round_trip_s(0, home));
            self.experience.arrived(sending, id(home), micros(self.began + now), round_trip);
        }
    }

    fn end(&mut self, chunk: usize, now: f64) {
        if let Some(sending) = self.under_way[chunk].take() {
            self.experience.end(sending, micros(self.began + now));
        }
    }
}

/// What one topology showed. Seconds.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The first put of a user that knows round trips only, in a network whose vendors know as little of themselves.
    pub unknown: f64,
    /// Its third.
    pub later: f64,
    /// The first put of a user whose vendors have measured their links.
    pub announced: f64,
    /// The best of all fixed ways.
    pub best: f64,
    /// A fixed way at random: the mean.
    pub mean: f64,
    /// The median of them.
    pub median: f64,
}

/// Tries all ways over the topology of `seed`.
#[must_use]
pub fn compare(seed: u64) -> Outcome {
    let topology = Topology::of(seed);
    let mut all: Vec<f64> = all_ways(&topology).iter().map(|way| fixed(&topology, way)).collect();
    all.sort_by(f64::total_cmp);
    let mut chooser = Chooser::new(&topology, false);
    let unknown = chooser.put();
    chooser.put();
    let later = chooser.put();
    let announced = Chooser::new(&topology, true).put();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    Outcome { unknown, later, announced, best: all[0], mean, median: all[all.len() / 2] }
}
