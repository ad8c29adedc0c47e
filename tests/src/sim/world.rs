//! The world: virtual time, one queue of events, nodes that come and go. Nothing in it waits, sleeps or runs beside it, so
//! that a seed is a whole history.

mod settle;

use std::collections::BTreeMap;

use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::ledger::Terms;
use fathom_protocol::time::UnixMs;

use super::byzantine::{Stage, Twister};
use super::faults::Fault;
use super::invariants::{After, Oracle};
use super::mirror::Mirror;
use super::network::{Links, Weather};
use super::node::{Body, Cx, EPOCH_MS, Effect, Known, Timer, key};
use super::random::Random;
use super::report::{Injected, Report, Trace, Violation};
use super::user::User;
use super::vendor::{Restore, Vendor};
use super::{Options, Scenario};

/// Leases live for minutes here, so that all of their life passes in a run.
const TERMS: Terms =
    Terms { offer_ms: 20_000, lock_ms: 90_000, commit_ms: 300_000, grace_ms: 60_000, unsealed_percent: 60 };

/// How long a vendor keeps what it moved away, milliseconds.
const HOLD_MS: u64 = 15_000;

/// A node's role.
#[allow(clippy::large_enum_variant)]
pub(super) enum Actor {
    Mirror(Mirror),
    Vendor(Vendor),
    User(User),
}

/// How the next step of a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doom {
    None,
    /// It crashes before its next step.
    Before,
    /// It crashes after its next step, before anybody hears of it.
    After,
}

/// One node.
pub(super) struct Node {
    pub(super) actor: Actor,
    pub(super) up: bool,
    incarnation: u32,
    /// How far its wall clock is ahead of the true time, milliseconds.
    pub(super) skew: i64,
    pub(super) doom: Doom,
    pub(super) twister: Option<Twister>,
}

/// What happens at a time.
pub(super) enum Event {
    Deliver { from: usize, to: usize, body: Body },
    Timer { node: usize, incarnation: u32, timer: Timer },
    Restart(usize),
    Fault(Fault),
}

/// The world.
pub(super) struct World {
    pub(super) now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub(super) nodes: Vec<Node>,
    pub(super) known: Known,
    pub(super) links: Links,
    pub(super) random: Random,
    pub(super) oracle: Oracle,
    pub(super) injected: Injected,
    pub(super) trace: Trace,
    calls: u64,
    seed: u64,
    broken_at: u64,
    pub(super) converged_after: u64,
    /// Vendors that drop leases which are in use.
    pub(super) droppers: Vec<usize>,
}

impl World {
    pub(super) fn new(options: &Options) -> Self {
        let mut random = Random::new(options.seed);
        let shape = options.scenario.shape(&mut random);
        let total = shape.mirrors + shape.vendors + shape.users;
        let mut known = Known {
            mirrors: (0..shape.mirrors).collect(),
            ids: Vec::new(),
            index: BTreeMap::new(),
            byzantine: vec![false; total],
            terms: TERMS,
            limits: options.scenario.limits(options.seed),
            hold_ms: HOLD_MS,
            bursts: options.scenario.bursts(options.seed),
            fair: options.scenario == Scenario::Bursts,
            mutation: options.mutation,
        };
        let mut nodes = Vec::new();
        let mut phrase = [0; 32];
        for at in 0..total {
            let signing = key(&mut random);
            let id = NodeId(signing.verifying_key().to_bytes());
            known.ids.push(id);
            known.index.insert(id, at);
            let actor = if at < shape.mirrors {
                Actor::Mirror(Mirror::new(Hash(random.bytes())))
            } else if at < shape.mirrors + shape.vendors {
                let zone = format!("zone {}", at % shape.zones);
                let capacity = 1_040 * random.within(shape.units.0, shape.units.1);
                Actor::Vendor(Vendor::new(signing, zone, capacity, &known))
            } else {
                let copies = shape.copies.min(shape.vendors as u8);
                // Some users have two devices, which come after each other.
                let nth = at - shape.mirrors - shape.vendors;
                if nth >= 2 * shape.pairs || nth.is_multiple_of(2) {
                    phrase = random.bytes();
                }
                Actor::User(User::new(phrase, shape.pace_ms, copies))
            };
            let skew = random.within(0, 2_000) as i64 - 1_000;
            nodes.push(Node { actor, up: true, incarnation: 0, skew, doom: Doom::None, twister: None });
        }
        let mut world = Self {
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            nodes,
            known,
            links: Links::new(Weather::FAIR),
            random,
            oracle: Oracle::default(),
            injected: Injected::default(),
            trace: Trace::new(options.trace),
            calls: 0,
            seed: options.seed,
            broken_at: 0,
            converged_after: 0,
            droppers: Vec::new(),
        };
        for (role, count) in [(0, shape.byzantine_mirrors), (1, shape.byzantine_vendors), (2, shape.byzantine_users)] {
            world.turn_byzantine(role, count);
        }
        for node in 0..total {
            world.step(node, "start", |actor, cx| actor.start(cx));
        }
        world
    }

    /// Nodes of one role: 0 mirrors, 1 vendors, 2 users.
    pub(super) fn role(&self, role: u8) -> Vec<usize> {
        let is = |node: &Node| match node.actor {
            Actor::Mirror(_) => 0,
            Actor::Vendor(_) => 1,
            Actor::User(_) => 2,
        };
        (0..self.nodes.len()).filter(|at| is(&self.nodes[*at]) == role).collect()
    }

    fn turn_byzantine(&mut self, role: u8, count: usize) {
        let mut nodes = self.role(role);
        self.random.shuffle(&mut nodes);
        for node in nodes.into_iter().take(count) {
            self.known.byzantine[node] = true;
            // Some vendors do everything right but that they let go of leases: twins would be proven before that.
            if role == 1 && self.random.chance(500) {
                self.droppers.push(node);
            } else {
                self.nodes[node].twister = Some(Twister::default());
            }
            self.oracle.liars.insert(self.known.ids[node]);
            if let Actor::User(user) = &self.nodes[node].actor {
                self.oracle.forkers.insert(user.keys.owner());
            }
        }
    }

    pub(super) fn schedule(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + after, self.order), event);
    }

    /// A node's wall clock.
    fn clock(&self, node: usize) -> UnixMs {
        UnixMs((EPOCH_MS + self.now).saturating_add_signed(self.nodes[node].skew))
    }

    /// Lets the world go on until `until` or the first broken promise. Returns whether none was broken.
    pub(super) fn run_until(&mut self, until: u64) -> bool {
        while let Some(entry) = self.queue.first_entry() {
            let at = entry.key().0;
            if at > until || self.oracle.violation.is_some() {
                break;
            }
            let event = entry.remove();
            self.now = at;
            self.handle(event);
        }
        if self.oracle.violation.is_some() {
            self.broken_at = self.now;
            return false;
        }
        self.now = until;
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, body } => {
                if !self.nodes[to].up {
                    return;
                }
                let text = format!("{from}->{to} {}", body.name());
                self.trace.mix(body.bytes());
                self.step(to, &text, |actor, cx| actor.receive(cx, from, body));
            }
            Event::Timer { node, incarnation, timer } => {
                if self.nodes[node].up && self.nodes[node].incarnation == incarnation {
                    let text = format!("{node} {timer:?}");
                    self.step(node, &text, |actor, cx| actor.timer(cx, timer));
                }
            }
            Event::Restart(node) => self.restart(node),
            Event::Fault(fault) => self.inject(fault),
        }
    }

    /// One step of one node, and everything that may go wrong with it.
    pub(super) fn step(&mut self, node: usize, text: &str, act: impl FnOnce(&mut Actor, &mut Cx<'_>)) {
        if self.nodes[node].doom == Doom::Before {
            return self.crash(node);
        }
        self.trace.note(self.now, text.to_owned());
        let now = self.clock(node);
        self.oracle.lapsing = false;
        let mut cx = Cx {
            me: node,
            now,
            at: self.now,
            random: &mut self.random,
            known: &self.known,
            oracle: &mut self.oracle,
            injected: &mut self.injected,
            calls: &mut self.calls,
            out: Vec::new(),
        };
        let Node { actor, twister, .. } = &mut self.nodes[node];
        act(actor, &mut cx);
        let mut effects = cx.out;
        if let Some(twister) = twister {
            let mut stage = Stage {
                now,
                random: &mut self.random,
                known: &self.known,
                oracle: &mut self.oracle,
                injected: &mut self.injected,
            };
            effects = twister.twist(effects, &mut stage, actor);
        }
        let died_in_write = match &self.nodes[node].actor {
            Actor::Vendor(vendor) => vendor.disk.is_dead(),
            Actor::User(user) => user.disk.is_dead(),
            Actor::Mirror(_) => false,
        };
        if died_in_write {
            self.injected.crashes_in_write += 1;
            return self.crash(node);
        }
        self.check(node, After::Step);
        if self.nodes[node].doom == Doom::After {
            self.injected.lost_acknowledgements += 1;
            return self.crash(node);
        }
        for effect in effects {
            match effect {
                Effect::Send { to, body } => self.post(node, to, body),
                Effect::Wait { ms, timer } => {
                    let incarnation = self.nodes[node].incarnation;
                    self.schedule(ms, Event::Timer { node, incarnation, timer });
                }
            }
        }
    }

    pub(super) fn post(&mut self, from: usize, to: usize, body: Body) {
        self.injected.messages += 1;
        let ways = self.links.carry(self.now, (from, to), &mut self.random, &mut self.injected);
        for way in ways {
            self.schedule(way, Event::Deliver { from, to, body: body.clone() });
        }
    }

    fn check(&mut self, node: usize, after: After) {
        if self.known.byzantine[node] || self.oracle.alone.contains(&node) {
            return;
        }
        match &self.nodes[node].actor {
            Actor::Mirror(mirror) => self.oracle.check_mirror(node, mirror, after, &self.known),
            Actor::Vendor(vendor) => self.oracle.check_vendor(node, vendor, after, self.now, &self.known),
            Actor::User(_) => {}
        }
    }

    /// The node stops at once; what its disk had not synced may be lost or torn. It starts again some seconds later.
    pub(super) fn crash(&mut self, node: usize) {
        let down = self.random.within(500, 15_000);
        self.crash_for(node, down);
    }

    pub(super) fn crash_for(&mut self, node: usize, down: u64) {
        self.crash_and_restore(node, down, None);
    }

    /// As [`Self::crash_for`], where a vendor's disk is put back to an earlier state.
    pub(super) fn crash_and_restore(&mut self, node: usize, down: u64, restore: Option<Restore>) {
        let entry = &mut self.nodes[node];
        if !entry.up {
            return;
        }
        entry.doom = Doom::None;
        entry.up = false;
        entry.incarnation += 1;
        let mut after = After::Restart;
        match &mut entry.actor {
            Actor::Mirror(mirror) => mirror.crash(),
            Actor::Vendor(vendor) => {
                if vendor.disk.is_dead() {
                    after = After::RestartInWrite;
                }
                vendor.disk.kill();
                vendor.running = None;
                self.oracle.vendor_forgot(node);
                let (disk, harmed) = vendor.disk.after_crash(&mut self.random);
                vendor.disk = disk;
                self.injected.torn_writes += harmed;
                if let Some(what) = restore {
                    vendor.put_back(what);
                    after = After::Restored;
                }
                if let Err(error) = vendor.open(&self.known) {
                    self.oracle.broken(4, format!("vendor {node} does not open after a crash: {error}"));
                }
            }
            Actor::User(user) => match user.crash(&mut self.random) {
                Ok(harmed) => {
                    self.injected.user_crashes += 1;
                    self.injected.torn_writes += harmed;
                }
                Err(error) => self.oracle.broken(4, format!("user {node} has lost its journal in a crash: {error}")),
            },
        }
        self.injected.crashes += 1;
        self.trace.note(self.now, format!("{node} crashes"));
        self.check(node, after);
        self.schedule(down, Event::Restart(node));
    }

    fn restart(&mut self, node: usize) {
        if !self.nodes[node].up {
            self.nodes[node].up = true;
            let text = format!("{node} starts");
            self.step(node, &text, |actor, cx| actor.start(cx));
        }
    }

    pub(super) fn report(&self) -> Report {
        let (trace, last_events) = self.trace.finish();
        let violation =
            self.oracle.violation.clone().map(|(invariant, what)| Violation { invariant, what, at_ms: self.broken_at });
        let count = |role| self.role(role).len();
        Report {
            seed: self.seed,
            nodes: (count(0), count(1), count(2)),
            virtual_ms: self.now,
            converged_after_ms: self.converged_after,
            events: self.trace.events,
            trace,
            injected: Injected { alone: self.oracle.alone.len() as u64, ..self.injected.clone() },
            last_events: if violation.is_some() { last_events } else { Vec::new() },
            violation,
        }
    }
}

impl Actor {
    fn start(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Mirror(mirror) => mirror.start(cx),
            Self::Vendor(vendor) => vendor.start(cx),
            Self::User(user) => user.start(cx),
        }
    }

    fn receive(&mut self, cx: &mut Cx<'_>, from: usize, body: Body) {
        match self {
            Self::Mirror(mirror) => mirror.receive(cx, from, body),
            Self::Vendor(vendor) => vendor.receive(cx, from, body),
            Self::User(user) => user.receive(cx, from, body),
        }
    }

    fn timer(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        match self {
            Self::Mirror(mirror) => mirror.timer(cx, timer),
            Self::Vendor(vendor) => vendor.timer(cx, timer),
            Self::User(user) => user.timer(cx, timer),
        }
    }
}
