//! What a world is put through: chance, or one fault as it is described in the list of faults.

use fathom_protocol::rehome::Thresholds;

use super::faults::Shape;
use super::network::Weather;
use super::random::Random;
use super::world::World;

/// A course of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Everything at once, drawn from the seed.
    Storm,
    /// Nothing goes wrong.
    Calm,
    /// 17: mirrors, vendors and users are parted for 60 s, and both sides allocate.
    Parted,
    /// 18: one vendor sees one side only.
    OneSideOnly,
    /// 19: links fail in one direction and clog in turn.
    Asymmetric,
    /// 20: 30 % of the messages are lost, 50 % come twice, in any order.
    Lossy,
    /// 21: clocks are off by an hour and by ten years, and jump back.
    Clocks,
    /// 23: everybody wants the last extent.
    Race,
    /// 24: vendors' disks are put back to what backups hold.
    Restores,
    /// 26: vendors drop leases that are in use.
    Drops,
    /// 47: two devices of each user store the same files at the same moments.
    Twins,
    /// 3: users' devices crash in the middle of what they do, all the time.
    Interrupted,
    /// 15, 16: vendors have too much and move it away, while they crash and lose sight of each other.
    Moves,
    /// Puts follow each other, on storage that is locked ahead; nothing else goes wrong.
    Bursts,
    /// 50: a mirror is away for as long as a year is to this world's leases.
    Away,
}

/// Virtual length of a storm, milliseconds.
const STORM_MS: u64 = 240_000;

impl Scenario {
    pub(super) fn shape(self, random: &mut Random) -> Shape {
        match self {
            Self::Storm => Shape::any(random),
            Self::Race => {
                Shape { users: 20, vendors: 6, units: (2, 2), pace_ms: 200, copies: 2, ..Shape::honest(random) }
            }
            Self::Drops => Shape { byzantine_vendors: 2, ..Shape::honest(random) },
            Self::Moves => Shape { units: (6, 24), pace_ms: 3_500, ..Shape::honest(random) },
            Self::Twins => Shape { users: 4, pairs: 2, ..Shape::honest(random) },
            _ => Shape::honest(random),
        }
    }

    pub(super) fn play(self, world: &mut World) {
        let going = match self {
            Self::Storm => {
                world.storm();
                world.run_until(STORM_MS)
            }
            Self::Calm | Self::Bursts => world.run_until(60_000),
            Self::Parted => world.run_until(30_000) && self.part(world) && world.run_until(95_000),
            Self::OneSideOnly => world.run_until(30_000) && self.part(world) && world.run_until(95_000),
            Self::Asymmetric => self.asymmetric(world),
            Self::Lossy => {
                world.links.weather = Weather { loss: 300, replay: 500, latency_min: 1, latency_max: 400 };
                world.run_until(180_000)
            }
            Self::Clocks => self.clocks(world),
            Self::Race => world.run_until(60_000),
            Self::Restores => self.restores(world),
            Self::Drops => self.drops(world),
            Self::Away => self.away(world),
            Self::Twins => self.twins(world),
            Self::Interrupted => self.interrupted(world),
            Self::Moves => self.moves(world),
        };
        if going {
            world.calm();
            world.settle();
        }
    }

    /// Half of each role on either side; or one vendor with one mirror and half of the users.
    fn part(self, world: &mut World) -> bool {
        let until = world.now + 60_000;
        let mut side = Vec::new();
        for role in 0..3 {
            let nodes = world.role(role);
            let half = if self == Self::OneSideOnly && role == 1 { 1 } else { nodes.len() / 2 };
            side.extend(&nodes[..half]);
        }
        let other: Vec<usize> = (0..world.nodes.len()).filter(|node| !side.contains(node)).collect();
        world.cut(&side, &other, false, until);
        true
    }

    fn asymmetric(self, world: &mut World) -> bool {
        for round in 0..6 {
            if !world.run_until(20_000 + round * 20_000) {
                return false;
            }
            world.clog_in_turn();
            world.clog_in_turn();
            let from = world.random.index(world.nodes.len());
            let other: Vec<usize> = (0..world.nodes.len()).filter(|node| *node != from).collect();
            let until = world.now + 15_000;
            world.cut(&[from], &other, true, until);
        }
        world.run_until(150_000)
    }

    fn clocks(self, world: &mut World) -> bool {
        const HOUR: i64 = 3_600_000;
        for (round, ahead) in [HOUR, -HOUR, 87_600 * HOUR, -87_600 * HOUR, HOUR].into_iter().enumerate() {
            if !world.run_until(30_000 + 30_000 * round as u64) {
                return false;
            }
            let vendors = world.role(1);
            for vendor in vendors.iter().skip(round % 2).step_by(2) {
                world.set_clock(*vendor, ahead);
            }
            let mirror = world.role(0)[0];
            world.set_clock(mirror, ahead);
        }
        world.run_until(190_000)
    }

    /// Backups are made, more is stored, and disks go back.
    fn restores(self, world: &mut World) -> bool {
        for round in 0..4 {
            if !world.run_until(25_000 + 35_000 * round) {
                return false;
            }
            world.back_up();
            if !world.run_until(45_000 + 35_000 * round) {
                return false;
            }
            world.restore();
        }
        world.run_until(200_000)
    }

    fn drops(self, world: &mut World) -> bool {
        world.droppers = world.role(1).into_iter().filter(|node| world.known.byzantine[*node]).collect();
        for node in world.droppers.clone() {
            world.nodes[node].twister = None;
        }
        for round in 0..8 {
            if !world.run_until(30_000 + 8_000 * round) {
                return false;
            }
            world.drop_lease();
        }
        world.run_until(110_000)
    }

    fn twins(self, world: &mut World) -> bool {
        for round in 1..=20 {
            if !world.run_until(3_000 * round) {
                return false;
            }
            world.twins();
        }
        world.run_until(70_000)
    }

    fn interrupted(self, world: &mut World) -> bool {
        for round in 1..=30 {
            if !world.run_until(2_000 * round) {
                return false;
            }
            world.crash_user();
        }
        world.run_until(70_000)
    }

    /// From which load on vendors move data away. Drawn apart from all else: what a seed was before it was, it stays.
    pub(super) fn limits(self, seed: u64) -> Thresholds {
        // Above the whole, nothing ever moves.
        let never = Thresholds { overload_percent: 101, relief_percent: 101 };
        let eager = Thresholds { overload_percent: 45, relief_percent: 38 };
        match (self, seed % 3) {
            (Self::Moves, _) | (Self::Storm, 0) => eager,
            (Self::Storm, 1) => Thresholds { overload_percent: 70, relief_percent: 50 },
            _ => never,
        }
    }

    /// Whether users store many files one after the other.
    pub(super) fn bursts(self, seed: u64) -> bool {
        self == Self::Bursts || self == Self::Storm && seed % 4 == 2
    }

    /// Vendors crash, also in the middle of writes, and mirrors are cut off from them, while data moves all the time.
    fn moves(self, world: &mut World) -> bool {
        for round in 1..=16 {
            if !world.run_until(5_000 * round) {
                return false;
            }
            let (mirrors, vendors) = (world.role(0), world.role(1));
            let vendor = vendors[world.random.index(vendors.len())];
            match round % 4 {
                0 => {
                    let mirror = mirrors[world.random.index(mirrors.len())];
                    let until = world.now + world.random.within(2_000, 30_000);
                    world.cut(&[mirror], &vendors, round % 8 == 0, until);
                }
                1 => world.crash(vendor),
                2 => world.crash_vendor_in_write(vendor),
                _ => world.crash_user(),
            }
        }
        world.run_until(90_000)
    }

    /// Longer than any lease, order or file of this world lives.
    fn away(self, world: &mut World) -> bool {
        if !world.run_until(60_000) {
            return false;
        }
        let mirror = world.role(0)[0];
        world.crash_for(mirror, 500_000);
        world.run_until(570_000)
    }
}

impl std::str::FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "storm" => Self::Storm,
            "calm" => Self::Calm,
            "parted" => Self::Parted,
            "one-side-only" => Self::OneSideOnly,
            "asymmetric" => Self::Asymmetric,
            "lossy" => Self::Lossy,
            "clocks" => Self::Clocks,
            "race" => Self::Race,
            "restores" => Self::Restores,
            "drops" => Self::Drops,
            "away" => Self::Away,
            "twins" => Self::Twins,
            "interrupted" => Self::Interrupted,
            "moves" => Self::Moves,
            "bursts" => Self::Bursts,
            other => return Err(format!("no scenario is called {other}")),
        })
    }
}
