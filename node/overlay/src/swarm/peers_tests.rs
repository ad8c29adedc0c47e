#![allow(clippy::unwrap_used, clippy::expect_used)]

use tokio::sync::oneshot::Receiver;

use super::*;
use crate::identity::keypair;

type Answer = Receiver<Result<(), OverlayError>>;

fn someone(seed: u8) -> (PeerId, NodeId) {
    let (pair, node) = keypair([seed; 32]).unwrap();
    (pair.public().to_peer_id(), node)
}

fn address(port: u16) -> Multiaddr {
    format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().unwrap()
}

/// A book, a peer, and a way to want the peer.
struct World {
    peers: Peers,
    peer: PeerId,
    node: NodeId,
    connections: usize,
}

impl World {
    fn new() -> Self {
        let (peer, node) = someone(2);
        Self { peers: Peers::new(someone(1).0), peer, node, connections: 1000 }
    }

    fn want(&mut self, ports: &[u16]) -> (Step, Answer) {
        let (reply, answer) = oneshot::channel();
        let addresses = ports.iter().map(|port| address(*port)).collect();
        (self.peers.want(self.peer, self.node, addresses, Then::Tell(reply)), answer)
    }

    fn establish(&mut self, identified: bool) -> ConnectionId {
        self.connections += 1;
        let id = ConnectionId::new_unchecked(self.connections);
        self.peers.established(self.peer, id, address(1));
        if identified {
            self.peers.identified(self.peer, id);
        }
        id
    }

    fn fail(&mut self, dial: ConnectionId, error: &DialError) -> Step {
        self.peers.dial_failed(self.peer, dial, error)
    }
}

fn dial(step: Step) -> ConnectionId {
    match step {
        Step::Dial(dial) => dial.connection_id(),
        step => panic!("no dial but {step:?}"),
    }
}

fn nothing(step: Step) {
    assert!(matches!(step, Step::Nothing), "{step:?}");
}

#[test]
fn those_who_want_one_peer_share_a_dial_and_are_told_once_it_is_identified() {
    let mut world = World::new();
    let (step, mut first) = world.want(&[1]);
    dial(step);
    let (step, mut second) = world.want(&[1]);
    nothing(step);
    let id = world.establish(false);
    assert!(first.try_recv().is_err(), "not identified yet");
    nothing(world.peers.identified(world.peer, id));
    assert_eq!((first.try_recv().unwrap(), second.try_recv().unwrap()), (Ok(()), Ok(())));
    let (step, mut third) = world.want(&[]);
    nothing(step);
    assert_eq!(third.try_recv().unwrap(), Ok(()));
}

/// Keeps away: a good address waits for the seconds that a dead one takes to fail.
#[test]
fn an_address_that_is_not_being_tried_is_dialed_at_once() {
    let mut world = World::new();
    let (step, mut first) = world.want(&[1]);
    let one = dial(step);
    let (step, mut second) = world.want(&[1, 2]);
    let two = dial(step);
    nothing(world.fail(one, &DialError::Aborted));
    // A late echo of the first dial changes nothing.
    nothing(world.fail(one, &DialError::Aborted));
    assert!(first.try_recv().is_err(), "the second dial may still succeed");
    nothing(world.fail(two, &DialError::Aborted));
    for answer in [&mut first, &mut second] {
        assert!(matches!(answer.try_recv().unwrap(), Err(OverlayError::Unreachable { .. })));
    }
}

#[test]
fn dials_of_one_peer_are_bounded_and_the_rest_follows() {
    let mut world = World::new();
    let mut dials = Vec::new();
    let mut answers = Vec::new();
    for port in 1..=DIALS_PER_PEER_MAX as u16 {
        let (step, answer) = world.want(&[port]);
        dials.push(dial(step));
        answers.push(answer);
    }
    let (step, mut last) = world.want(&[99]);
    nothing(step);
    let follows = dial(world.fail(dials[0], &DialError::Aborted));
    world.peers.established(world.peer, follows, address(99));
    nothing(world.peers.identified(world.peer, follows));
    assert_eq!(last.try_recv().unwrap(), Ok(()));
    nothing(world.fail(dials[1], &DialError::Aborted));
    assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap() == Ok(())));
}

#[test]
fn an_impostor_costs_only_its_own_address() {
    let mut world = World::new();
    let (step, mut answer) = world.want(&[1, 2]);
    let one = dial(step);
    let impostor = |port| DialError::WrongPeerId { obtained: someone(3).0, address: address(port) };
    let two = dial(world.fail(one, &impostor(2)));
    // An address that was never asked for must not be dialed round for ever.
    nothing(world.fail(two, &impostor(77)));
    assert!(matches!(answer.try_recv().unwrap(), Err(OverlayError::WrongPeer { .. })));
}

#[test]
fn nobody_is_dialed_for_those_who_gave_up() {
    let mut world = World::new();
    let (step, first) = world.want(&[1]);
    let one = dial(step);
    let (step, second) = world.want(&[2]);
    let two = dial(step);
    let impostor = DialError::WrongPeerId { obtained: someone(3).0, address: address(2) };
    let (step, third) = world.want(&[1, 2]);
    nothing(step);
    drop((first, second, third));
    nothing(world.fail(two, &impostor));
    nothing(world.fail(one, &DialError::Aborted));
    assert!(world.peers.pending.is_empty());
}

#[test]
fn a_suspect_connection_is_doubled_once_and_used_if_that_fails() {
    let mut world = World::new();
    let old = world.establish(true);
    world.peers.suspect(&world.peer.clone());
    // Without an address there is nothing to dial.
    let (step, mut answer) = world.want(&[]);
    nothing(step);
    assert_eq!(answer.try_recv().unwrap(), Ok(()));
    let (step, mut answer) = world.want(&[1]);
    let redial = dial(step);
    nothing(world.fail(redial, &DialError::Aborted));
    assert_eq!(answer.try_recv().unwrap(), Ok(()), "the old one is used");

    world.peers.suspect(&world.peer.clone());
    let (step, _answer) = world.want(&[1]);
    dial(step);
    let new = world.establish(true);
    assert_eq!(usable(&world.peers.connections[&world.peer]), Some(new));
    world.peers.suspect(&world.peer.clone());
    let (step, _answer) = world.want(&[1]);
    nothing(step);
    // A ping shows which one lives.
    world.peers.measured(&world.peer.clone(), old, Duration::from_millis(1));
    assert_eq!(usable(&world.peers.connections[&world.peer]), Some(old));
}

#[test]
fn a_connection_that_ends_before_it_is_identified_fails_those_who_wait() {
    let mut world = World::new();
    let (step, mut answer) = world.want(&[1]);
    let id = dial(step);
    world.peers.established(world.peer, id, address(1));
    world.peers.closed(world.peer, id);
    assert_eq!(answer.try_recv().unwrap(), Err(OverlayError::ConnectionLost { peer: world.node }));
    assert!(world.peers.connections.is_empty() && world.peers.pending.is_empty());
}

#[test]
fn a_stranger_is_told_apart_and_then_closed() {
    let mut world = World::new();
    let (step, mut answer) = world.want(&[1]);
    let id = dial(step);
    world.peers.established(world.peer, id, address(1));
    world.peers.of_another_network(&world.peer.clone());
    assert_eq!(answer.try_recv().unwrap(), Err(OverlayError::WrongNetwork { peer: world.node }));
    let now = Instant::now();
    assert!(world.peers.unwanted(now).is_empty());
    assert_eq!(world.peers.unwanted(now + STRANGER_LINGERS * 2), [id]);
}

#[test]
fn bans_end_and_are_bounded() {
    let mut world = World::new();
    let (peer, second, third) = (world.peer, someone(3).0, someone(4).0);
    assert_eq!(world.peers.ban(peer, Duration::from_secs(100), 2), None);
    assert_eq!(world.peers.ban(second, Duration::MAX, 2), None);
    let (_, mut answer) = world.want(&[1]);
    assert_eq!(answer.try_recv().unwrap(), Err(OverlayError::Banned { peer: world.node }));
    assert_eq!(world.peers.ban(third, Duration::from_secs(1), 2), Some(peer), "the first to end makes room");
    assert_eq!(world.peers.bans_over(Instant::now() + Duration::from_secs(2)), [third]);
    let (step, _answer) = world.want(&[1]);
    dial(step);
}

#[test]
fn waiters_are_bounded() {
    let mut world = World::new();
    let mut answers = Vec::new();
    for _ in 0..WAITERS_PER_PEER_MAX {
        answers.push(world.want(&[1]));
    }
    let (_, mut answer) = world.want(&[1]);
    assert_eq!(answer.try_recv().unwrap(), Err(OverlayError::Busy { peer: world.node }));
}
