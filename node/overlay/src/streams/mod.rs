//! The behaviour that opens and accepts the node's streams.
//!
//! libp2p-stream was measured to lose inbound streams in bursts and to open one stream after another. Here opens run
//! side by side, and an inbound stream moves through bounded stations, each of which waits for room in the next: the
//! opener's QUIC stack, the connection's backlog, the share of the peer, the queue of all peers.
//! This module must not know what is said on a stream.

mod handler;
mod upgrade;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use fathom_protocol::ids::NodeId;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::handler::Handler;
use crate::config::ConnectionCaps;
use crate::error::OverlayError;
use crate::identity::{node_of, without_peer};
use crate::names::{Names, Proto};
use crate::stream::PeerStream;

/// A stream that a peer opened.
#[derive(Debug)]
pub struct InboundStream {
    /// Who opened it.
    pub peer: NodeId,
    /// What it is for.
    pub proto: Proto,
    /// The stream; it counts against the peer's share until it is dropped.
    pub stream: PeerStream,
    /// The multiaddress that it came from, without the peer id.
    pub remote_address: String,
}

/// One stream to open, and whom to tell.
pub(crate) struct OpenRequest {
    pub(crate) proto: Proto,
    pub(crate) reply: oneshot::Sender<Result<PeerStream, OverlayError>>,
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenRequest({})", self.proto)
    }
}

/// Inbound streams that were reset because a cap was reached.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    inbound_reset: AtomicU64,
}

impl Counters {
    pub(crate) fn inbound_reset(&self) -> u64 {
        self.inbound_reset.load(Ordering::Relaxed)
    }

    /// Counts one; warns at each power of two, since a flood of streams must not become a flood of lines.
    fn count_reset(&self, peer: NodeId) {
        let count = self.inbound_reset.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(peer = %peer.short(), count, "inbound streams reset: the node is not taking them fast enough");
        }
    }
}

/// A connection was denied because its key is not ed25519.
#[derive(Debug, thiserror::Error)]
#[error("the peer's key is not an ed25519 key")]
struct NotANode;

/// Opens and accepts streams on every connection.
pub(crate) struct Behaviour {
    names: Arc<Names>,
    caps: ConnectionCaps,
    inbound: mpsc::Sender<InboundStream>,
    counters: Arc<Counters>,
    /// What each connected peer may have open, over all its connections.
    shares: HashMap<PeerId, Weak<Semaphore>>,
    requests: VecDeque<(PeerId, ConnectionId, OpenRequest)>,
}

impl Behaviour {
    pub(crate) fn new(
        names: Arc<Names>,
        caps: ConnectionCaps,
        inbound: mpsc::Sender<InboundStream>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { names, caps, inbound, counters, shares: HashMap::new(), requests: VecDeque::new() }
    }

    /// Opens a stream on `connection`. The caller polls the swarm next. If the connection is gone by then, the
    /// request is dropped, which its other end notices.
    pub(crate) fn open(&mut self, peer: PeerId, connection: ConnectionId, request: OpenRequest) {
        // Bounded: the swarm's task takes a bounded number of commands before it polls, and polling drains this.
        self.requests.push_back((peer, connection, request));
    }

    fn handler(&mut self, peer: PeerId, remote: &Multiaddr) -> Result<Handler, ConnectionDenied> {
        let node = node_of(&peer).ok_or_else(|| ConnectionDenied::new(NotANode))?;
        let share = self.share(peer);
        let remote = without_peer(remote.clone()).to_string();
        let counters = Arc::clone(&self.counters);
        Ok(Handler::new(
            Arc::clone(&self.names),
            node,
            remote,
            share,
            self.inbound.clone(),
            self.caps.inbound_backlog,
            counters,
        ))
    }

    /// The share of `peer`. It lives as long as a connection or stream of the peer, so that streams held over a
    /// reconnect still count.
    fn share(&mut self, peer: PeerId) -> Arc<Semaphore> {
        if let Some(share) = self.shares.get(&peer).and_then(Weak::upgrade) {
            return share;
        }
        // Another behaviour may still deny the connection, of which this one hears nothing: sweep before growing.
        if self.shares.len() >= 2 * self.caps.connections as usize {
            self.shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.caps.inbound_streams_per_peer as usize));
        self.shares.insert(peer, Arc::downgrade(&share));
        share
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, remote)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event
            && self.shares.get(&closed.peer_id).is_some_and(|share| share.strong_count() == 0)
        {
            self.shares.remove(&closed.peer_id);
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.requests.pop_front() {
            Some((peer_id, connection, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event })
            }
            None => Poll::Pending,
        }
    }
}
