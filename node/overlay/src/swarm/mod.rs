//! The one task that owns the swarm. Handles send it commands; it answers each and awaits nothing else.

mod on_connection;
mod on_gossip;
mod on_identify;
mod on_ping;
mod peers;

use std::time::{Duration, Instant};

use fathom_protocol::ids::NodeId;
use futures::StreamExt;
use libp2p::gossipsub::{IdentTopic, PublishError};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::peers::Step;
pub(crate) use self::peers::{Peers, Then};
use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::config::{BANS_MAX, GOODBYE_MAX, UPKEEP_EVERY};
use crate::error::OverlayError;
use crate::gossip::{GossipId, GossipMessage, Verdict};
use crate::identity::{node_of, with_peer};

/// What a handle asks for. A dropped reply means that nobody waits any more.
pub(crate) enum Command {
    /// Have a connection to `peer`, then do `then`.
    Want {
        peer: PeerId,
        node: NodeId,
        addresses: Vec<Multiaddr>,
        then: Then,
    },
    Disconnect {
        peer: PeerId,
        reply: oneshot::Sender<()>,
    },
    Connected {
        reply: oneshot::Sender<Vec<(NodeId, String)>>,
    },
    /// A caller waited in vain for `peer`.
    Suspect {
        peer: PeerId,
    },
    RoundTrip {
        peer: PeerId,
        reply: oneshot::Sender<Option<Duration>>,
    },
    Publish {
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<(), OverlayError>>,
    },
    Report {
        id: GossipId,
        verdict: Verdict,
        reply: oneshot::Sender<()>,
    },
    Ban {
        peer: PeerId,
        length: Duration,
        reply: oneshot::Sender<()>,
    },
}

/// The swarm and what is known about its peers.
pub(crate) struct Task {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) peers: Peers,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) gossip: mpsc::Sender<GossipMessage>,
    /// Listen addresses as they come and go, with the peer id.
    pub(crate) addresses: watch::Sender<Vec<String>>,
    pub(crate) cancel: CancellationToken,
    /// Tells the handles that the task has ended, however it ends.
    pub(crate) stopped: DropGuard,
    /// The protocol version that a peer of this network announces.
    pub(crate) version: String,
    pub(crate) topic: IdentTopic,
}

impl Task {
    /// Runs until cancelled or until the last handle is gone.
    pub(crate) async fn run(mut self) {
        let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                _ = upkeep.tick() => self.on_upkeep(),
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
        self.say_goodbye().await;
    }

    fn on_command(&mut self, command: Command) {
        // A caller that has given up needs no answer: failed sends are of no interest here.
        match command {
            Command::Want { peer, node, addresses, then } => {
                let step = self.peers.want(peer, node, addresses, then);
                self.take(peer, step);
            }
            Command::Disconnect { peer, reply } => {
                self.disconnect(peer);
                let _ = reply.send(());
            }
            Command::Connected { reply } => {
                let _ = reply.send(self.peers.connected());
            }
            Command::Suspect { peer } => self.peers.suspect(&peer),
            Command::RoundTrip { peer, reply } => {
                let _ = reply.send(self.peers.round_trip(&peer));
            }
            Command::Publish { bytes, reply } => {
                let _ = reply.send(self.publish(bytes));
            }
            Command::Report { id, verdict, reply } => {
                self.report(&id, verdict);
                let _ = reply.send(());
            }
            Command::Ban { peer, length, reply } => {
                self.ban(peer, length);
                let _ = reply.send(());
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => self.tell_addresses(),
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener reports an error")
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::error!(?reason, "a listener closed: peers can no longer reach this node there");
                self.tell_addresses();
            }
            event => self.on_connection(event),
        }
    }

    fn on_upkeep(&mut self) {
        let now = Instant::now();
        for peer in self.peers.bans_over(now) {
            self.swarm.behaviour_mut().bans.unblock_peer(peer);
        }
        for connection in self.peers.unwanted(now) {
            self.swarm.close_connection(connection);
        }
        self.peers.forget_those_who_gave_up();
    }

    /// Does what the peer book decided.
    fn take(&mut self, peer: PeerId, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Dial(dial) => {
                let id = dial.connection_id();
                if let Err(error) = self.swarm.dial(dial) {
                    let step = self.peers.dial_failed(peer, id, &error);
                    self.take(peer, step);
                }
            }
            Step::Open(connection, requests) => {
                for request in requests {
                    self.swarm.behaviour_mut().streams.open(peer, connection, request);
                }
            }
        }
    }

    fn disconnect(&mut self, peer: PeerId) {
        self.peers.closing(&peer);
        // The error is that there was no connection.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn ban(&mut self, peer: PeerId, length: Duration) {
        if let Some(freed) = self.peers.ban(peer, length, BANS_MAX) {
            self.swarm.behaviour_mut().bans.unblock_peer(freed);
        }
        self.swarm.behaviour_mut().bans.block_peer(peer);
        self.disconnect(peer);
    }

    fn publish(&mut self, bytes: Vec<u8>) -> Result<(), OverlayError> {
        match self.swarm.behaviour_mut().gossip.publish(self.topic.clone(), bytes) {
            // A duplicate was published by somebody else a moment ago.
            Ok(_) | Err(PublishError::Duplicate) => Ok(()),
            Err(PublishError::NoPeersSubscribedToTopic) => Err(OverlayError::GossipNoPeers),
            Err(PublishError::AllQueuesFull(_)) => Err(OverlayError::GossipQueuesFull),
            Err(error) => Err(OverlayError::Gossip { reason: error.to_string() }),
        }
    }

    fn tell_addresses(&mut self) {
        let local = *self.swarm.local_peer_id();
        let listening = self.swarm.listeners().map(|address| with_peer(address.clone(), local)).collect();
        self.addresses.send_replace(listening);
    }

    /// Closes all connections, so that peers notice at once instead of after the idle timeout.
    async fn say_goodbye(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.next().await;
            }
        };
        // Beyond the deadline the peers' idle timeout tells them.
        let _ = tokio::time::timeout(GOODBYE_MAX, closed).await;
        drop(self.stopped);
    }
}

/// The name of a peer in logs.
fn named(peer: &PeerId) -> String {
    node_of(peer).map_or_else(|| peer.to_string(), |node| node.short())
}
