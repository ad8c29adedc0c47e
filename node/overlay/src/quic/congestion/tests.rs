//! Controllers on a simulated bottleneck: virtual time, seeded losses, the same result in every run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const MTU: u64 = 1400;

/// A link that all flows share: one rate, one drop-tail queue, losses by chance.
#[derive(Debug, Clone, Copy)]
struct Link {
    mbit_per_s: f64,
    round_trip_ms: f64,
    /// The queue's room, as a share of what is in flight when the link is full and the queue empty.
    queue: f64,
    loss: f64,
    /// Round trips vary by up to so much at random.
    jitter_ms: f64,
}

const LINK: Link = Link { mbit_per_s: 100.0, round_trip_ms: 40.0, queue: 1.0, loss: 0.0, jitter_ms: 0.0 };

/// Makes a flow at its start.
type Make = fn(Instant) -> Flow;

/// What is measured, and what it shares the link with.
enum Flow {
    Sounding(Box<Sounding>),
    /// CUBIC that believes every loss.
    Cubic {
        window: f64,
        threshold: f64,
        cubic: Cubic,
        answered: Option<Instant>,
    },
}

impl Flow {
    fn sounding(now: Instant) -> Self {
        Self::Sounding(Box::new(Sounding::new(32 * 1200, now, MTU as u16, super::Flow::new(Arc::default()))))
    }

    fn cubic(_: Instant) -> Self {
        Self::Cubic { window: 12_000.0, threshold: f64::INFINITY, cubic: Cubic::default(), answered: None }
    }

    fn window(&self) -> f64 {
        match self {
            Self::Sounding(sounding) => sounding.window,
            Self::Cubic { window, .. } => *window,
        }
    }

    fn arrived(&mut self, now: Instant, sent: Instant, round_trip: Duration) {
        match self {
            Self::Sounding(sounding) => sounding.arrived(now, sent, MTU, false, round_trip),
            Self::Cubic { answered: Some(answered), .. } if sent <= *answered => {}
            Self::Cubic { window, threshold, .. } if *window < *threshold => *window += MTU as f64,
            Self::Cubic { window, cubic, .. } => *window += cubic.growth(now, *window, MTU, MTU, round_trip),
        }
    }

    fn lost(&mut self, now: Instant, sent: Instant) {
        match self {
            Self::Sounding(sounding) => sounding.lost(now, sent, MTU, false),
            Self::Cubic { answered: Some(answered), .. } if sent <= *answered => {}
            Self::Cubic { window, threshold, cubic, answered } => {
                *window = cubic.reduced(now, *window, MTU).max(2.0 * MTU as f64);
                *threshold = *window;
                *answered = Some(now);
            }
        }
    }
}

struct Sender {
    flow: Flow,
    starts: Instant,
    /// What is in flight, by number, and when it was sent.
    flying: BTreeMap<u64, Instant>,
    next: u64,
    round_trip: Duration,
    may_send: Instant,
    /// A send is in the queue of events.
    waking: bool,
    delivered: u64,
    lost: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Send(usize),
    Acknowledged(usize, u64),
}

struct World {
    link: Link,
    random: SmallRng,
    now: Instant,
    /// When what is queued now has left.
    idle_at: Instant,
    senders: Vec<Sender>,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
}

impl World {
    /// Flows that start at the given seconds.
    fn new(link: Link, seed: u64, flows: &[(Make, f64)]) -> Self {
        let now = Instant::now();
        let mut events = BinaryHeap::new();
        let mut sender = |(number, (make, at)): (usize, &(Make, f64))| {
            let starts = now + Duration::from_secs_f64(*at);
            events.push(Reverse((starts, Event::Send(number))));
            Sender {
                flow: make(starts),
                starts,
                flying: BTreeMap::new(),
                next: 0,
                round_trip: Duration::from_secs_f64(link.round_trip_ms / 1e3),
                may_send: starts,
                waking: true,
                delivered: 0,
                lost: 0,
            }
        };
        let senders = flows.iter().enumerate().map(&mut sender).collect();
        Self { link, random: SmallRng::seed_from_u64(seed), now, idle_at: now, senders, events }
    }

    fn bytes_per_s(&self) -> f64 {
        self.link.mbit_per_s * 1e6 / 8.0
    }

    /// Runs for `seconds`. Returns what each flow delivered of what the link could have carried meanwhile.
    fn run(&mut self, seconds: f64) -> Vec<f64> {
        let end = self.now + Duration::from_secs_f64(seconds);
        let before: Vec<u64> = self.senders.iter().map(|sender| sender.delivered).collect();
        while self.events.peek().is_some_and(|Reverse((at, _))| *at <= end) {
            let Reverse((at, event)) = self.events.pop().unwrap();
            self.now = at;
            match event {
                Event::Send(sender) => {
                    self.senders[sender].waking = false;
                    self.send(sender);
                }
                Event::Acknowledged(sender, number) => self.acknowledged(sender, number),
            }
        }
        self.now = end;
        let could = self.bytes_per_s() * seconds;
        self.senders.iter().zip(before).map(|(sender, before)| (sender.delivered - before) as f64 / could).collect()
    }

    fn send(&mut self, number: usize) {
        loop {
            let now = self.now;
            let sender = &mut self.senders[number];
            let flying = sender.flying.len() as u64 * MTU;
            if now < sender.starts || (flying + MTU) as f64 > sender.flow.window() {
                return;
            }
            if now < sender.may_send {
                if !sender.waking {
                    sender.waking = true;
                    self.events.push(Reverse((sender.may_send, Event::Send(number))));
                }
                return;
            }
            // As quinn paces.
            let pause = sender.round_trip.as_secs_f64() * MTU as f64 / (1.25 * sender.flow.window());
            sender.may_send = now + Duration::from_secs_f64(pause);
            sender.flying.insert(sender.next, now);
            let packet = sender.next;
            sender.next += 1;
            self.transmit(number, packet);
        }
    }

    fn transmit(&mut self, sender: usize, packet: u64) {
        let rate = self.bytes_per_s();
        let room = self.link.queue * rate * self.link.round_trip_ms / 1e3;
        let queued = self.idle_at.saturating_duration_since(self.now).as_secs_f64() * rate;
        if queued + MTU as f64 > room.max(2.0 * MTU as f64) {
            return;
        }
        self.idle_at = self.idle_at.max(self.now) + Duration::from_secs_f64(MTU as f64 / rate);
        if self.random.random_bool(self.link.loss) {
            return;
        }
        let jitter = self.random.random_range(0.0..=self.link.jitter_ms);
        let back = self.idle_at + Duration::from_secs_f64((self.link.round_trip_ms + jitter) / 1e3);
        self.events.push(Reverse((back, Event::Acknowledged(sender, packet))));
    }

    fn acknowledged(&mut self, number: usize, packet: u64) {
        let now = self.now;
        let sender = &mut self.senders[number];
        // Late, and counted as lost.
        let Some(sent) = sender.flying.remove(&packet) else { return };
        sender.delivered += MTU;
        let waited = now - sent;
        sender.round_trip = (sender.round_trip * 7 + waited) / 8;
        sender.flow.arrived(now, sent, sender.round_trip);
        // Overtaken by as much as jitter can explain, and by three packets.
        let patience = waited.max(sender.round_trip) * 9 / 8;
        while let Some((&oldest, &sent)) = sender.flying.first_key_value()
            && (oldest + 3 <= packet && self.link.jitter_ms == 0.0 || oldest < packet && now - sent > patience)
        {
            sender.flying.remove(&oldest);
            sender.lost += 1;
            sender.flow.lost(now, sent);
        }
        self.send(number);
    }
}

fn alone(link: Link, flow: Make) -> f64 {
    let mut world = World::new(link, 1, &[(flow, 0.0)]);
    world.run(3.0);
    world.run(40.0)[0]
}

/// The reason for all this.
#[test]
fn cubic_does_not_fill_a_lossy_link() {
    let used = alone(Link { loss: 0.001, ..LINK }, Flow::cubic);
    assert!(used < 0.3, "{used}");
}

#[test]
fn a_lossy_link_is_filled() {
    for queue in [0.05, 0.2, 1.0, 3.0] {
        for jitter_ms in [0.0, 8.0] {
            for (loss, least) in [(0.0, 0.85), (0.001, 0.85), (0.01, 0.8), (0.02, 0.75)] {
                let used = alone(Link { loss, queue, jitter_ms, ..LINK }, Flow::sounding);
                assert!(used > least, "{used} at loss {loss}, queue {queue}, jitter {jitter_ms}");
            }
        }
    }
}

#[test]
fn links_of_other_sizes_are_filled() {
    for (mbit_per_s, round_trip_ms) in [(5.0, 30.0), (20.0, 150.0), (500.0, 5.0)] {
        let used = alone(Link { loss: 0.01, mbit_per_s, round_trip_ms, ..LINK }, Flow::sounding);
        assert!(used > 0.9, "{used} of {mbit_per_s} Mbit/s at {round_trip_ms} ms");
    }
}

/// At a full queue it gives way as CUBIC does, whoever was there first.
#[test]
fn a_link_is_shared_with_cubic() {
    for queue in [0.05, 0.2, 1.0, 3.0] {
        for (ours, theirs) in [(0.0, 0.0), (0.0, 10.0), (10.0, 0.0)] {
            let flows: [(Make, f64); 2] = [(Flow::sounding, ours), (Flow::cubic, theirs)];
            let mut world = World::new(Link { queue, ..LINK }, 1, &flows);
            world.run(30.0);
            let used = world.run(60.0);
            let ratio = used[0] / used[1];
            assert!((0.5..2.0).contains(&ratio), "{used:?}, queue {queue}, started at {ours} and {theirs} s");
            assert!(used[0] + used[1] > 0.85, "{used:?}");
        }
    }
}

/// A computer that stood still for a moment makes round trips long, and no queue deep. Keeps away: for half a minute every
/// loss was taken for the line's, since no queue was half as deep as that.
#[test]
fn a_stall_does_not_change_how_a_link_is_shared() {
    let mut world = World::new(LINK, 1, &[(Flow::sounding, 0.0), (Flow::cubic, 0.0)]);
    let mut shares = [0.0, 0.0];
    world.run(30.0);
    for _ in 0..3 {
        let Flow::Sounding(sounding) = &mut world.senders[0].flow else { panic!("not the flow that was made") };
        let now = world.now;
        for late in 1..=200 {
            let arrived = now + Duration::from_millis(late);
            sounding.depth.measured(arrived, Duration::from_millis(600), ROUND);
        }
        world.run(1.0);
        let used = world.run(25.0);
        shares = [shares[0] + used[0], shares[1] + used[1]];
    }
    let ratio = shares[0] / shares[1];
    assert!((0.5..2.0).contains(&ratio), "{ratio}");
}

#[test]
fn a_link_is_shared_among_equals() {
    for loss in [0.0, 0.01] {
        for queue in [0.2, 1.0, 3.0] {
            let flows: Vec<(Make, f64)> = vec![(Flow::sounding, 0.0), (Flow::sounding, 10.0)];
            let mut world = World::new(Link { queue, loss, ..LINK }, 1, &flows);
            world.run(30.0);
            let used = world.run(60.0);
            let ratio = used[0] / used[1];
            assert!((0.4..2.5).contains(&ratio), "{used:?} at loss {loss}, queue {queue}");
        }
    }
}

/// Where there is no queue that could be seen, what is lost stays little: a link is not flooded for its last percent.
#[test]
fn without_a_queue_losses_stay_few() {
    let mut world = World::new(Link { queue: 0.01, ..LINK }, 1, &[(Flow::sounding, 0.0)]);
    let used = world.run(40.0)[0];
    let sender = &world.senders[0];
    let lost = sender.lost as f64 / sender.next as f64;
    assert!(lost < 0.04 && used > 0.7, "{lost} lost, {used} used");
}

/// The link becomes a tenth as fast: what is in flight follows.
#[test]
fn a_slower_link_is_noticed() {
    let mut world = World::new(Link { loss: 0.01, ..LINK }, 1, &[(Flow::sounding, 0.0)]);
    world.run(10.0);
    world.link.mbit_per_s /= 10.0;
    world.run(5.0);
    let (lost, sent) = (world.senders[0].lost, world.senders[0].next);
    let used = world.run(20.0)[0];
    let lost = (world.senders[0].lost - lost) as f64 / (world.senders[0].next - sent) as f64;
    assert!(used > 0.8 && lost < 0.03, "{used} used, {lost} lost");
}

#[test]
fn slow_start_ends_when_packets_begin_to_wait() {
    let start = |flow| {
        let mut world = World::new(Link { queue: 2.0, ..LINK }, 1, &[(flow, 0.0)]);
        let used = world.run(3.0)[0];
        (used, world.senders[0].lost)
    };
    let (ours, cubic) = (start(Flow::sounding), start(Flow::cubic));
    assert!(ours.0 > 0.85 && 4 * ours.1 < cubic.1, "{ours:?} {cubic:?}");
}

/// A controller that has met a queue, and the time.
fn settled() -> (Sounding, Instant) {
    let mut world = World::new(LINK, 1, &[(Flow::sounding, 0.0)]);
    world.run(20.0);
    let Flow::Sounding(sounding) = world.senders.remove(0).flow else { panic!("not the flow that was made") };
    (*sounding, world.now)
}

const ROUND: Duration = Duration::from_millis(40);

#[test]
fn a_mark_of_the_network_is_congestion_and_a_loss_without_a_queue_is_none() {
    let (mut sounding, mut now) = settled();
    // The queue has emptied.
    for _ in 0..200 {
        now += Duration::from_millis(1);
        sounding.arrived(now, now - ROUND, MTU, true, ROUND);
    }
    let window = sounding.window;
    sounding.lost(now, now - ROUND, MTU, false);
    assert_eq!(sounding.window, window);
    sounding.lost(now, now - ROUND, 0, false);
    assert!((sounding.window / window - 0.7).abs() < 0.01);
    // Once a round.
    sounding.lost(now, now - ROUND, 0, false);
    assert!((sounding.window / window - 0.7).abs() < 0.01);
}

#[test]
fn a_window_that_is_not_used_does_not_grow() {
    let (mut sounding, mut now) = settled();
    let window = sounding.window;
    for _ in 0..10_000 {
        now += Duration::from_millis(1);
        sounding.arrived(now, now - ROUND, MTU, true, ROUND);
    }
    assert_eq!(sounding.window, window);
    // Nor does the pause count once it is used again.
    sounding.arrived(now, now - ROUND, MTU, false, ROUND);
    assert!(sounding.window < window + 2.0 * MTU as f64);
}

#[test]
fn after_a_blackout_it_begins_anew() {
    let (mut sounding, mut now) = settled();
    let window = sounding.window;
    sounding.lost(now, now - ROUND, 100 * MTU, true);
    assert_eq!(sounding.window(), 2 * MTU);
    for _ in 0..1000 {
        now += Duration::from_millis(1);
        sounding.arrived(now, now - ROUND, MTU, false, ROUND);
    }
    assert!(sounding.window > 0.5 * window, "{} of {window}", sounding.window);
    // A smaller packet size shrinks the least window with it.
    sounding.on_mtu_update(1200);
    assert_eq!(sounding.window_min(), 2400.0);
}
