//! What goes wrong, and when: drawn from the seed, or directed by a scenario.

use fathom_protocol::delta::HeadId;
use fathom_protocol::ids::Hash;

use super::network::Weather;
use super::node::Body;
use super::random::Random;
use super::vendor::{Restore, Vendor};
use super::world::{Actor, Doom, Event, World};

/// Milliseconds between two faults, at most.
const PAUSE_MS: u64 = 9_000;
/// Steps of a disk within which a crash is set to come.
const STEPS: u64 = 40;

/// How long a restore takes, milliseconds: longer than any message is on its way.
const RESTORE_MS: (u64, u64) = (56_000, 90_000);

/// A fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Draw one now, and the next one later.
    Any,
}

/// How large a world is, and who in it does not follow the protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) mirrors: usize,
    pub(super) vendors: usize,
    pub(super) users: usize,
    /// Users that have two devices.
    pub(super) pairs: usize,
    pub(super) zones: usize,
    pub(super) copies: u8,
    /// Chunks that a vendor has room for, at least and at most.
    pub(super) units: (u64, u64),
    pub(super) pace_ms: u64,
    pub(super) byzantine_mirrors: usize,
    pub(super) byzantine_vendors: usize,
    pub(super) byzantine_users: usize,
}

impl Shape {
    /// A world of any size.
    pub(super) fn any(random: &mut Random) -> Self {
        let mirrors = random.within(3, 5) as usize;
        Self {
            mirrors,
            vendors: random.within(6, 9) as usize,
            users: random.within(4, 8) as usize,
            pairs: random.below(3) as usize,
            zones: random.within(2, 5) as usize,
            copies: random.within(2, 3) as u8,
            units: (8, 40),
            pace_ms: random.within(3_000, 15_000),
            byzantine_mirrors: random.below(2) as usize,
            byzantine_vendors: random.below(3) as usize,
            byzantine_users: random.below(3) as usize,
        }
    }

    /// Everybody follows the protocol.
    pub(super) fn honest(random: &mut Random) -> Self {
        Self { byzantine_mirrors: 0, byzantine_vendors: 0, byzantine_users: 0, ..Self::any(random) }
    }
}

impl Weather {
    /// Any weather.
    pub(super) fn any(random: &mut Random) -> Self {
        Self {
            loss: [0, 10, 50, 300][random.index(4)],
            replay: [0, 20, 100, 500][random.index(4)],
            latency_min: 1,
            latency_max: [20, 100, 400][random.index(3)],
        }
    }
}

impl World {
    /// Faults begin.
    pub(super) fn storm(&mut self) {
        self.links.weather = Weather::any(&mut self.random);
        self.schedule(PAUSE_MS, Event::Fault(Fault::Any));
    }

    pub(super) fn inject(&mut self, fault: Fault) {
        let Fault::Any = fault;
        let node = self.random.index(self.nodes.len());
        match self.random.below(22) {
            0..=2 => self.partition_any(),
            3 => self.clog_in_turn(),
            4 => self.links.weather = Weather::any(&mut self.random),
            5 => self.crash_some(node),
            6 => self.doom(node, Doom::Before),
            7 => self.doom(node, Doom::After),
            8..=9 => self.crash_in_write(),
            10..=11 => self.jump_clock(),
            12 => self.stranger(node),
            13..=14 => self.back_up(),
            15..=16 => self.restore(),
            17..=18 => self.drop_lease(),
            19..=20 => self.twins(),
            _ => self.revive_clocks(),
        }
        let pause = self.random.within(500, PAUSE_MS);
        self.schedule(pause, Event::Fault(Fault::Any));
    }

    fn partition_any(&mut self) {
        let mut nodes: Vec<usize> = (0..self.nodes.len()).collect();
        self.random.shuffle(&mut nodes);
        let at = self.random.within(1, nodes.len() as u64 - 1) as usize;
        let one_way = self.random.chance(400);
        let until = self.now + self.random.within(1_000, 60_000);
        let (side, other) = nodes.split_at(at);
        self.cut(side, other, one_way, until);
    }

    /// Cuts all links between two sides.
    pub(super) fn cut(&mut self, side: &[usize], other: &[usize], one_way: bool, until: u64) {
        self.injected.partitions += 1;
        self.trace.note(self.now, format!("partition {side:?} | {other:?} one way: {one_way} until {until}"));
        self.links.part(side, other, one_way, until);
    }

    /// Links of one node clog one after the other and come free in another order.
    pub(super) fn clog_in_turn(&mut self) {
        let from = self.random.index(self.nodes.len());
        self.trace.note(self.now, format!("links of {from} clog in turn"));
        for to in 0..self.nodes.len() {
            let until = self.now + self.random.within(500, 30_000);
            self.links.clog(from, to, until);
        }
    }

    fn crash_some(&mut self, node: usize) {
        self.crash(node);
    }

    fn doom(&mut self, node: usize, doom: Doom) {
        if self.nodes[node].up {
            self.nodes[node].doom = doom;
        }
    }

    /// The power of a vendor or of a user's device fails at one of the next steps of its disk.
    fn crash_in_write(&mut self) {
        let role = if self.random.chance(700) { 1 } else { 2 };
        let nodes = self.role(role);
        let node = nodes[self.random.index(nodes.len())];
        let step = self.random.within(1, STEPS);
        match &self.nodes[node].actor {
            Actor::Vendor(vendor) if self.nodes[node].up => vendor.disk.fail_at(step),
            Actor::User(user) if self.nodes[node].up => user.disk.fail_at(step),
            _ => {}
        }
    }

    /// The power of one vendor fails at one of the next steps of its disk.
    pub(super) fn crash_vendor_in_write(&mut self, node: usize) {
        let step = self.random.within(1, STEPS);
        if let (Actor::Vendor(vendor), true) = (&self.nodes[node].actor, self.nodes[node].up) {
            vendor.disk.fail_at(step);
        }
    }

    /// A user's device dies: at once, before or after its next step, or in the middle of a write of its journal.
    pub(super) fn crash_user(&mut self) {
        let devices = self.role(2);
        let node = devices[self.random.index(devices.len())];
        let step = self.random.within(1, STEPS);
        match (self.random.below(4), &self.nodes[node].actor) {
            (0, _) => self.crash(node),
            (1, _) => self.doom(node, Doom::Before),
            (2, _) => self.doom(node, Doom::After),
            (_, Actor::User(user)) if self.nodes[node].up => user.disk.fail_at(step),
            _ => {}
        }
    }

    /// Two devices of one user begin to store one file at the same moment.
    pub(super) fn twins(&mut self) {
        let devices = self.role(2);
        let owner = |world: &Self, node: usize| match &world.nodes[node].actor {
            Actor::User(user) => Some(user.keys.owner()),
            _ => None,
        };
        let pairs: Vec<(usize, usize)> = devices
            .windows(2)
            .filter(|pair| owner(self, pair[0]) == owner(self, pair[1]))
            .map(|pair| (pair[0], pair[1]))
            .collect();
        if pairs.is_empty() {
            return;
        }
        let (first, second) = pairs[self.random.index(pairs.len())];
        let name = self.random.index(8);
        for node in [first, second] {
            if self.nodes[node].up {
                self.step(node, &format!("{node} stores a file at once with its twin"), |actor, cx| {
                    if let Actor::User(user) = actor {
                        user.put_now(cx, name);
                    }
                });
            }
        }
    }

    /// A vendor that does not keep its word drops a lease.
    pub(super) fn drop_lease(&mut self) {
        let Some(node) = self.droppers.get(self.random.index(self.droppers.len())).copied() else { return };
        if self.nodes[node].up {
            self.step(node, &format!("{node} drops a lease"), |actor, cx| {
                if let Actor::Vendor(vendor) = actor {
                    // Where its disk fails, it is as if nothing was.
                    let _ = vendor.drop_a_lease(cx);
                    // With its leases it lays its memory of requests aside, and who lies owes nobody that.
                    cx.oracle.vendor_forgot(cx.me);
                }
            });
        }
    }

    /// Some vendors make a backup.
    pub(super) fn back_up(&mut self) {
        for node in self.role(1) {
            let now = self.nodes[node].up && self.random.chance(500);
            if let (Actor::Vendor(vendor), true) = (&mut self.nodes[node].actor, now) {
                vendor.back_up();
            }
        }
    }

    /// A vendor's disk is lost, and what there is of it is put back. That takes a while: nothing that it said before is on its way
    /// any more. Only where every mirror knows that it said more than the backup has: a head that nobody remembers is
    /// forgotten, and its number is given again.
    pub(super) fn restore(&mut self) {
        let mirrors = self.quiet().mirrors;
        let known = |vendor: &Vendor, after: HeadId| {
            let Some(run) = &vendor.running else { return false };
            mirrors.iter().all(|(_, mirror)| {
                let known = mirror.table.vendor(vendor.id()).map(|known| HeadId::of(&known.head));
                known.is_some_and(|known| known.epoch == run.life.head().epoch && known.height() > after.height())
            })
        };
        let mut candidates = Vec::new();
        for node in self.role(1) {
            let Actor::Vendor(vendor) = &self.nodes[node].actor else { continue };
            if !self.nodes[node].up || self.known.byzantine[node] {
                continue;
            }
            let none = HeadId { epoch: 0, seq: 0, hash: Hash([0; Hash::LEN]) };
            if vendor.backup.as_ref().is_some_and(|backup| known(vendor, backup.head)) {
                candidates.extend([(node, Restore::All), (node, Restore::FatOnly)]);
            }
            if known(vendor, none) {
                candidates.push((node, Restore::Nothing));
            }
        }
        if candidates.is_empty() {
            return;
        }
        let (node, what) = candidates[self.random.index(candidates.len())];
        let down = self.random.within(RESTORE_MS.0, RESTORE_MS.1);
        self.injected.restores += 1;
        self.trace.note(self.now, format!("disk of {node} is put back: {what:?}"));
        self.crash_and_restore(node, down, Some(what));
    }

    /// One vendor's clock, or that of a minority of mirrors, jumps.
    fn jump_clock(&mut self) {
        const HOUR: i64 = 3_600_000;
        let mirrors = self.role(0);
        let wrong = |world: &Self| mirrors.iter().filter(|at| world.nodes[**at].skew.abs() > 1_000).count();
        let liars = mirrors.iter().filter(|at| self.known.byzantine[**at]).count();
        let mut nodes = self.role(1);
        if 2 * (wrong(self) + liars + 1) < mirrors.len() {
            nodes.extend(&mirrors);
        }
        let node = nodes[self.random.index(nodes.len())];
        let jump = [HOUR, -HOUR, 87_600 * HOUR, -1_000 * HOUR, 30_000][self.random.index(5)];
        self.set_clock(node, jump);
    }

    /// Sets how far a node's clock is ahead.
    pub(super) fn set_clock(&mut self, node: usize, ahead: i64) {
        self.injected.clock_jumps += 1;
        self.trace.note(self.now, format!("clock of {node} is {ahead} ms ahead"));
        self.nodes[node].skew = ahead;
    }

    fn revive_clocks(&mut self) {
        for node in &mut self.nodes {
            node.skew = node.skew.clamp(-1_000, 1_000);
        }
    }

    /// Somebody opens a frame and says that it will be long.
    fn stranger(&mut self, node: usize) {
        let length = [1 << 10, 1 << 16, (1 << 16) + 1, 1 << 22, u64::MAX][self.random.index(5)];
        self.injected.byzantine_acts += 1;
        if self.nodes[node].up {
            self.post(node, node, Body::Opened { length });
        }
    }
}
