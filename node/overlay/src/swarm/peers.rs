//! The book of peers: connections, dials under way, who waits for them, and bans. It decides; [`Task`](super::Task)
//! does. It touches no swarm, so that its rules can be read in one place:
//!
//! - All who want one peer share one dial. Who brings an address that is not being tried adds a dial of that address,
//!   since a dead one takes seconds to fail; the first connection serves all.
//! - A connection is used once its peer is identified as one of this network.
//! - A connection that a caller found silent is suspect: the next who wants the peer gets a new dial. A process that
//!   was killed and restarted does not answer on connections of its former life, and QUIC takes seconds to notice.
//! - An address at which somebody else answers does not hide the peer's other addresses.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use fathom_protocol::ids::NodeId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::on_connection::explain;
use crate::config::{ADDRESSES_TRIED_MAX, DIALS_PER_PEER_MAX, IDENTIFY_MAX, STRANGER_LINGERS, WAITERS_PER_PEER_MAX};
use crate::error::OverlayError;
use crate::identity::{node_of, without_peer};
use crate::streams::OpenRequest;

/// What to do once a peer is connected.
#[derive(Debug)]
pub(crate) enum Then {
    /// Tell that it is.
    Tell(oneshot::Sender<Result<(), OverlayError>>),
    /// Open a stream.
    Open(OpenRequest),
}

impl Then {
    fn gave_up(&self) -> bool {
        match self {
            Self::Tell(reply) => reply.is_closed(),
            Self::Open(request) => request.reply.is_closed(),
        }
    }

    fn fail(self, error: OverlayError) {
        // A caller that has given up needs no answer.
        match self {
            Self::Tell(reply) => drop(reply.send(Err(error))),
            Self::Open(request) => drop(request.reply.send(Err(error))),
        }
    }
}

/// What the task has to do next for a peer.
#[derive(Debug)]
pub(crate) enum Step {
    Nothing,
    Dial(DialOpts),
    /// Open these streams on this connection.
    Open(ConnectionId, Vec<OpenRequest>),
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    remote: Multiaddr,
    since: Instant,
    identified: bool,
    /// This node is closing it: nothing new begins on it.
    closing: bool,
    /// A caller waited on it in vain, and nothing has shown since that it lives.
    suspect: bool,
    round_trip: Option<Duration>,
}

#[derive(Debug)]
struct Waiter {
    addresses: Vec<Multiaddr>,
    then: Then,
}

/// Those who wait for one peer.
#[derive(Debug)]
struct Pending {
    node: NodeId,
    waiters: Vec<Waiter>,
    /// The dials under way, each with its addresses.
    dials: Vec<(ConnectionId, Vec<Multiaddr>)>,
    tried: HashSet<Multiaddr>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Peers {
    local: PeerId,
    connections: HashMap<PeerId, Vec<Connection>>,
    pending: HashMap<PeerId, Pending>,
    bans: HashMap<PeerId, Instant>,
}

impl Peers {
    pub(crate) fn new(local: PeerId) -> Self {
        Self { local, connections: HashMap::new(), pending: HashMap::new(), bans: HashMap::new() }
    }

    /// Somebody wants `peer` connected.
    pub(super) fn want(&mut self, peer: PeerId, node: NodeId, mut addresses: Vec<Multiaddr>, then: Then) -> Step {
        addresses.truncate(ADDRESSES_TRIED_MAX);
        let connections = self.connections.get(&peer);
        if peer == self.local {
            then.fail(OverlayError::ToSelf);
        } else if self.bans.get(&peer).is_some_and(|end| *end > Instant::now()) {
            then.fail(OverlayError::Banned { peer: node });
        } else if let Some(id) = connections.and_then(|all| usable(all))
            && (addresses.is_empty() || !connections.is_some_and(|all| doubtful(all)))
        {
            return fulfil(id, vec![Waiter { addresses, then }]);
        } else if let Some(pending) = self.pending.get_mut(&peer) {
            if pending.waiters.len() >= WAITERS_PER_PEER_MAX {
                then.fail(OverlayError::Busy { peer: node });
                return Step::Nothing;
            }
            pending.waiters.push(Waiter { addresses, then });
            if !connections.is_some_and(|all| under_way(all)) {
                return pending.dial(peer).map_or(Step::Nothing, Step::Dial);
            }
        } else {
            let under_way = connections.is_some_and(|connections| under_way(connections));
            if addresses.is_empty() && !under_way {
                then.fail(OverlayError::NoAddress { peer: node });
                return Step::Nothing;
            }
            let waiters = vec![Waiter { addresses, then }];
            let pending = Pending { node, waiters, dials: Vec::new(), tried: HashSet::new() };
            let pending = self.pending.entry(peer).or_insert(pending);
            if !under_way {
                return pending.dial(peer).map_or(Step::Nothing, Step::Dial);
            }
        }
        Step::Nothing
    }

    pub(super) fn established(&mut self, peer: PeerId, id: ConnectionId, remote: Multiaddr) {
        if let Some(pending) = self.pending.get_mut(&peer) {
            pending.end_dial(id);
        }
        let connection = Connection {
            id,
            remote,
            since: Instant::now(),
            identified: false,
            closing: false,
            suspect: false,
            round_trip: None,
        };
        self.connections.entry(peer).or_default().push(connection);
    }

    /// The peer of `id` is of this network.
    pub(super) fn identified(&mut self, peer: PeerId, id: ConnectionId) -> Step {
        let Some(connection) = self.connection(&peer, id) else {
            return Step::Nothing;
        };
        if connection.closing {
            return Step::Nothing;
        }
        connection.identified = true;
        match self.pending.remove(&peer) {
            Some(pending) => fulfil(id, pending.waiters),
            None => Step::Nothing,
        }
    }

    pub(super) fn is_identified(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        self.connection(peer, id).is_some_and(|connection| connection.identified)
    }

    /// The peer is of another network. Its connection stays for a moment, so that the peer learns the same: closed at
    /// once, it would only see a connection that ended.
    pub(super) fn of_another_network(&mut self, peer: &PeerId) {
        self.closing(peer);
        if let Some(pending) = self.pending.remove(peer) {
            let error = OverlayError::WrongNetwork { peer: pending.node };
            pending.fail(&error);
        }
    }

    /// All connections to `peer` are being closed.
    pub(super) fn closing(&mut self, peer: &PeerId) {
        for connection in self.connections.get_mut(peer).into_iter().flatten() {
            connection.closing = true;
        }
    }

    pub(super) fn closed(&mut self, peer: PeerId, id: ConnectionId) {
        if let Some(connections) = self.connections.get_mut(&peer) {
            connections.retain(|connection| connection.id != id);
            if under_way(connections) {
                return;
            }
            if connections.is_empty() {
                self.connections.remove(&peer);
            }
        }
        // A dial that is still under way will tell those who wait.
        if self.pending.get(&peer).is_some_and(|pending| !pending.dials.is_empty()) {
            return;
        }
        if let Some(pending) = self.pending.remove(&peer) {
            let lost = OverlayError::ConnectionLost { peer: pending.node };
            pending.fail(&lost);
        }
    }

    /// The dial `id` of `peer` failed.
    pub(super) fn dial_failed(&mut self, peer: PeerId, id: ConnectionId, error: &DialError) -> Step {
        // A dial that is not in the list served waiters who are long gone.
        let Some(pending) = self.pending.get_mut(&peer) else {
            return Step::Nothing;
        };
        let Some(trying) = pending.end_dial(id) else {
            return Step::Nothing;
        };
        match error {
            // Only this address is to blame; one that was not asked for would be tried for ever.
            DialError::WrongPeerId { address, .. } if trying.contains(&without_peer(address.clone())) => {
                pending.tried.insert(without_peer(address.clone()));
            }
            _ => pending.tried.extend(trying),
        }
        let error = explain(pending.node, error);
        if self.connections.get(&peer).is_some_and(|connections| under_way(connections)) {
            // The peer has connected to this node meanwhile, and is being identified.
            return Step::Nothing;
        }
        if let Some(dial) = pending.dial(peer) {
            return Step::Dial(dial);
        }
        if !pending.dials.is_empty() {
            return Step::Nothing;
        }
        let Some(pending) = self.pending.remove(&peer) else {
            return Step::Nothing;
        };
        // A suspect connection is better than none: the peer may be one that cannot be dialed.
        if let Some(id) = self.trust(&peer) {
            return fulfil(id, pending.waiters);
        }
        pending.fail(&error);
        Step::Nothing
    }

    /// A caller has waited in vain for `peer`.
    pub(super) fn suspect(&mut self, peer: &PeerId) {
        for connection in self.connections.get_mut(peer).into_iter().flatten() {
            connection.suspect = true;
        }
    }

    /// Ends the suspicion against `peer`'s connections. Returns the one to use.
    fn trust(&mut self, peer: &PeerId) -> Option<ConnectionId> {
        let connections = self.connections.get_mut(peer)?;
        for connection in &mut *connections {
            connection.suspect = false;
        }
        usable(connections)
    }

    /// Connections whose peer has not told its network in time, or told another one.
    pub(super) fn unwanted(&self, now: Instant) -> Vec<ConnectionId> {
        let overdue = |connection: &&Connection| {
            let grace = if connection.closing { STRANGER_LINGERS } else { IDENTIFY_MAX };
            !connection.identified && now.duration_since(connection.since) > grace
        };
        self.connections.values().flatten().filter(overdue).map(|connection| connection.id).collect()
    }

    pub(super) fn forget_those_who_gave_up(&mut self) {
        for pending in self.pending.values_mut() {
            pending.waiters.retain(|waiter| !waiter.then.gave_up());
        }
    }

    pub(super) fn measured(&mut self, peer: &PeerId, id: ConnectionId, round_trip: Duration) {
        if let Some(connection) = self.connection(peer, id) {
            connection.round_trip = Some(round_trip);
            connection.suspect = false;
        }
    }

    pub(super) fn round_trip(&self, peer: &PeerId) -> Option<Duration> {
        self.connections.get(peer)?.iter().filter_map(|connection| connection.round_trip).min()
    }

    pub(super) fn connected(&self) -> Vec<(NodeId, String)> {
        let one = |(peer, connections): (&PeerId, &Vec<Connection>)| {
            let connection =
                connections.iter().rev().find(|connection| connection.identified && !connection.closing)?;
            Some((node_of(peer)?, connection.remote.to_string()))
        };
        self.connections.iter().filter_map(one).collect()
    }

    /// Bans `peer`. Returns whose ban ends early because there are more than `max`.
    pub(super) fn ban(&mut self, peer: PeerId, length: Duration, max: usize) -> Option<PeerId> {
        let now = Instant::now();
        let end = now.checked_add(length).unwrap_or(now + Duration::from_secs(365 * 24 * 3600));
        self.bans.insert(peer, end);
        if let Some(pending) = self.pending.remove(&peer) {
            let banned = OverlayError::Banned { peer: pending.node };
            pending.fail(&banned);
        }
        if self.bans.len() <= max {
            return None;
        }
        let first = self
            .bans
            .iter()
            .filter(|(banned, _)| **banned != peer)
            .min_by_key(|(_, end)| **end)
            .map(|(peer, _)| *peer)?;
        self.bans.remove(&first);
        Some(first)
    }

    /// Ends the bans whose time is over.
    pub(super) fn bans_over(&mut self, now: Instant) -> Vec<PeerId> {
        self.bans.extract_if(|_, end| *end <= now).map(|(peer, _)| peer).collect()
    }

    fn connection(&mut self, peer: &PeerId, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(peer)?.iter_mut().find(|connection| connection.id == id)
    }
}

impl Pending {
    /// A dial of all addresses that were not tried and are not being tried, if somebody still waits, there are any,
    /// and not too many dials are under way.
    fn dial(&mut self, peer: PeerId) -> Option<DialOpts> {
        self.waiters.retain(|waiter| !waiter.then.gave_up());
        if self.dials.len() >= DIALS_PER_PEER_MAX {
            return None;
        }
        let mut untried: Vec<Multiaddr> = Vec::new();
        for address in self.waiters.iter().flat_map(|waiter| &waiter.addresses) {
            let known = self.tried.contains(address) || untried.contains(address);
            let trying = self.dials.iter().any(|(_, trying)| trying.contains(address));
            if !known && !trying && untried.len() < ADDRESSES_TRIED_MAX {
                untried.push(address.clone());
            }
        }
        if untried.is_empty() {
            return None;
        }
        // Sharing is decided here, so libp2p's own condition must not refuse.
        let dial = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(untried.clone()).build();
        self.dials.push((dial.connection_id(), untried));
        Some(dial)
    }

    /// The dial `id` is over. Returns its addresses.
    fn end_dial(&mut self, id: ConnectionId) -> Option<Vec<Multiaddr>> {
        let at = self.dials.iter().position(|(dial, _)| *dial == id)?;
        Some(self.dials.swap_remove(at).1)
    }

    fn fail(self, error: &OverlayError) {
        for waiter in self.waiters {
            waiter.then.fail(error.clone());
        }
    }
}

/// The newest connection on which something can begin, if possible one that is not suspect.
fn usable(connections: &[Connection]) -> Option<ConnectionId> {
    let ready = || connections.iter().rev().filter(|c| c.identified && !c.closing);
    ready().find(|c| !c.suspect).or_else(|| ready().next()).map(|c| c.id)
}

/// Whether a new dial is due although there is a connection. One that doubles it is enough, so that a slow peer is
/// not dialed again and again.
fn doubtful(connections: &[Connection]) -> bool {
    let mut open = connections.iter().filter(|c| !c.closing);
    open.next().is_some_and(|c| c.suspect) && open.next().is_none()
}

/// Whether a connection is still to be identified.
fn under_way(connections: &[Connection]) -> bool {
    connections.iter().any(|c| !c.closing && !c.identified)
}

fn fulfil(connection: ConnectionId, waiters: Vec<Waiter>) -> Step {
    let mut requests = Vec::new();
    for waiter in waiters {
        match waiter.then {
            Then::Tell(reply) => drop(reply.send(Ok(()))),
            Then::Open(request) => requests.push(request),
        }
    }
    if requests.is_empty() { Step::Nothing } else { Step::Open(connection, requests) }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
