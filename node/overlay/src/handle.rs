//! What the rest of Fathom holds of the overlay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::GOSSIP_BYTES_MAX;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::build;
use crate::config::{COMMANDS_QUEUED_MAX, GOODBYE_MAX, LISTEN_MAX, LISTEN_SETTLES, OverlayConfig, Tuning};
use crate::error::{OverlayError, innermost};
use crate::frame::{FrameError, read_frame, write_frame};
use crate::gossip::{GossipId, GossipMessage, Verdict};
use crate::identity::{keypair, node_of, parse_address, peer_of, with_peer};
use crate::names::{Names, Proto};
use crate::quic::{Flows, Sent};
use crate::stream::PeerStream;
use crate::streams::{self, Counters, InboundStream, OpenRequest};
use crate::swarm::{Command, Peers, Task, Then};
use crate::traffic::{RateCaps, Rates, Traffic};

/// What peers begin. Both queues are bounded; a full stream queue makes openers wait, a full gossip queue drops hints.
#[derive(Debug)]
pub struct Incoming {
    /// Streams that peers opened.
    pub streams: mpsc::Receiver<InboundStream>,
    /// Gossip messages that wait for a verdict.
    pub gossip: mpsc::Receiver<GossipMessage>,
}

/// The node's connections to its peers. Clones are cheap and share them; the overlay ends with the last clone, or
/// with [`Overlay::shutdown`].
#[derive(Debug, Clone)]
pub struct Overlay {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: NodeId,
    peer: PeerId,
    listens: bool,
    external: Vec<String>,
    external_only: AtomicBool,
    commands: mpsc::Sender<Command>,
    addresses: watch::Receiver<Vec<String>>,
    cancel: CancellationToken,
    stopped: CancellationToken,
    counters: Arc<Counters>,
    traffic: Arc<Traffic>,
    opened: AtomicU64,
    flows: Arc<Flows>,
}

/// Starts an overlay: binds the listen addresses and spawns the task that owns all connections. Must be called within
/// a tokio runtime.
///
/// # Errors
/// [`OverlayError::InvalidAddress`] and [`OverlayError::Listen`] for a listen or external address,
/// [`OverlayError::Start`] if the network stack cannot be set up.
pub async fn start(config: OverlayConfig) -> Result<(Overlay, Incoming), OverlayError> {
    start_tuned(config, Tuning::default()).await
}

/// As [`start`], with another transport than the one that was measured to be best.
///
/// # Errors
/// As [`start`].
pub async fn start_tuned(config: OverlayConfig, tuning: Tuning) -> Result<(Overlay, Incoming), OverlayError> {
    let names = Names::of(config.network);
    start_named(&config, tuning, Arc::new(names))
}

fn start_named(config: &OverlayConfig, tuning: Tuning, names: Arc<Names>) -> Result<(Overlay, Incoming), OverlayError> {
    let (keypair, node) = keypair(config.key_seed)?;
    let peer = keypair.public().to_peer_id();
    let counters = Arc::new(Counters::default());
    let (stream_sender, streams) = mpsc::channel(config.limits.inbound_queue.max(1));
    let (gossip_sender, gossip) = mpsc::channel(config.limits.gossip_queue.max(1));
    let (commands, command_receiver) = mpsc::channel(COMMANDS_QUEUED_MAX);
    let (address_sender, addresses) = watch::channel(Vec::new());
    let behaviour = streams::Behaviour::new(Arc::clone(&names), config.limits, stream_sender, Arc::clone(&counters));
    let traffic = Arc::new(Traffic::default());
    let (mut swarm, flows) = build::swarm(&keypair, &names, config, tuning, Arc::clone(&traffic), behaviour)?;
    for text in &config.listen {
        let (address, _) = parse_address(text)?;
        let listen = |reason: String| OverlayError::Listen { address: text.clone(), reason };
        swarm.listen_on(address).map_err(|error| listen(innermost(&error)))?;
    }
    let mut external = Vec::new();
    for text in &config.external {
        let (address, _) = parse_address(text)?;
        external.push(with_peer(address, peer));
    }
    let cancel = CancellationToken::new();
    let stopped = CancellationToken::new();
    let task = Task {
        swarm,
        peers: Peers::new(peer),
        commands: command_receiver,
        gossip: gossip_sender,
        addresses: address_sender,
        cancel: cancel.clone(),
        stopped: stopped.clone().drop_guard(),
        version: names.identify.clone(),
        topic: names.topic.clone(),
    };
    tokio::spawn(task.run());
    let listens = !config.listen.is_empty();
    let shared = Shared {
        node,
        peer,
        listens,
        external,
        external_only: AtomicBool::new(false),
        commands,
        addresses,
        cancel,
        stopped,
        counters,
        traffic,
        opened: AtomicU64::new(0),
        flows,
    };
    Ok((Overlay { shared: Arc::new(shared) }, Incoming { streams, gossip }))
}

impl Overlay {
    /// Who this node is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// The libp2p peer id of this node, as in its addresses.
    #[must_use]
    pub fn peer_id(&self) -> String {
        self.shared.peer.to_string()
    }

    /// Inbound streams that were reset so far because a cap was reached.
    #[must_use]
    pub fn inbound_reset(&self) -> u64 {
        self.shared.counters.inbound_reset()
    }

    /// Streams that were opened so far.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// From now on the node sends and receives no more than this. Without a call there is no cap.
    pub fn limit(&self, caps: RateCaps) {
        self.shared.traffic.limit(caps);
    }

    /// What goes over the node's sockets.
    #[must_use]
    pub fn rates(&self) -> Rates {
        self.shared.traffic.rates()
    }

    /// Makes `stream` one of background work, in both directions: it keeps to the background's share of the caps, and to less of
    /// it while others use the line.
    #[must_use]
    pub fn in_background(&self, stream: PeerStream) -> PeerStream {
        stream.paced(&self.shared.traffic)
    }

    /// From now on the addresses of this node are the external ones only, if it has any.
    pub fn announce_external_only(&self) {
        self.shared.external_only.store(true, Ordering::Relaxed);
    }

    /// The addresses of this node, external ones first, each with `/p2p/` and the peer id. Waits up to 5 s for the
    /// first on which it listens; empty if the node neither listens nor has external ones.
    pub async fn listen_addresses(&self) -> Vec<String> {
        let mut watched = self.shared.addresses.clone();
        let mut listening = Vec::new();
        if self.shared.listens {
            // An error is a timeout or a stopped overlay: the list is then what it is.
            let _ = timeout(LISTEN_MAX, watched.wait_for(|addresses| !addresses.is_empty())).await;
            // An unspecified address becomes one per interface, one after another.
            while let Ok(Ok(())) = timeout(LISTEN_SETTLES, watched.changed()).await {}
            listening = watched.borrow().clone();
        }
        if self.shared.external_only.load(Ordering::Relaxed) && !self.shared.external.is_empty() {
            listening.clear();
        }
        listening.retain(|address| !self.shared.external.contains(address));
        [self.shared.external.clone(), listening].concat()
    }

    /// Connects to `peer` unless it is connected. Callers at the same time share one dial.
    ///
    /// # Errors
    /// [`OverlayError::NoAddress`], [`OverlayError::InvalidAddress`] (no address is usable),
    /// [`OverlayError::WrongPeer`], [`OverlayError::WrongNetwork`], [`OverlayError::Unreachable`],
    /// [`OverlayError::ConnectionLost`] (among others: the peer refuses), [`OverlayError::Banned`],
    /// [`OverlayError::Busy`], [`OverlayError::Timeout`], [`OverlayError::ToSelf`], [`OverlayError::InvalidNode`],
    /// [`OverlayError::Stopped`].
    pub async fn connect(&self, peer: NodeId, addresses: &[String], deadline: Duration) -> Result<(), OverlayError> {
        let (reply, answer) = oneshot::channel();
        self.want(peer, addresses, Then::Tell(reply), answer, deadline).await
    }

    /// Connects to whom `address` names at its end by `/p2p/`.
    ///
    /// # Errors
    /// As [`Overlay::connect`]; [`OverlayError::InvalidAddress`] also if it names nobody.
    pub async fn connect_address(&self, address: &str, deadline: Duration) -> Result<NodeId, OverlayError> {
        let invalid =
            |reason: &str| OverlayError::InvalidAddress { address: address.to_owned(), reason: reason.to_owned() };
        let (_, peer) = parse_address(address)?;
        let peer = peer.ok_or_else(|| invalid("it does not end with /p2p/ and a peer id"))?;
        let node = node_of(&peer).ok_or_else(|| invalid("the peer id is not of an ed25519 key"))?;
        self.connect(node, &[address.to_owned()], deadline).await?;
        Ok(node)
    }

    /// Opens a stream to `peer`, connecting first if needed, all within `deadline`. The peer learns of the stream with
    /// the first bytes; that it does not accept it shows as an error of kind `Unsupported` on the first read.
    ///
    /// # Errors
    /// As [`Overlay::connect`], and [`OverlayError::Unsupported`].
    pub async fn open(
        &self,
        peer: NodeId,
        addresses: &[String],
        proto: Proto,
        deadline: Duration,
    ) -> Result<PeerStream, OverlayError> {
        let begun = Instant::now();
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let open = async |deadline| {
            let (reply, answer) = oneshot::channel();
            self.want(peer, addresses, Then::Open(OpenRequest { proto, reply }), answer, deadline).await
        };
        match open(deadline).await {
            // A connection that the peer forgot in a restart ends when it is used: once more, over a new one.
            Err(OverlayError::ConnectionLost { .. }) => {
                self.suspect(peer);
                open(deadline.saturating_sub(begun.elapsed())).await
            }
            other => other,
        }
    }

    /// Sends `request` on an rpc stream of its own and returns the answer, of at most `max_answer` bytes.
    ///
    /// # Errors
    /// As [`Overlay::open`], and [`OverlayError::Frame`].
    pub async fn rpc(
        &self,
        peer: NodeId,
        addresses: &[String],
        request: &[u8],
        max_answer: usize,
        deadline: Duration,
    ) -> Result<Vec<u8>, OverlayError> {
        let talk = async {
            let mut stream = self.open(peer, addresses, Proto::Rpc, deadline).await?;
            let answer = exchange(&mut stream, request, max_answer).await;
            answer.map_err(|error| match error {
                FrameError::Io { kind: std::io::ErrorKind::Unsupported, .. } => {
                    OverlayError::Unsupported { peer, proto: Proto::Rpc }
                }
                error => OverlayError::Frame { peer, error },
            })
        };
        match timeout(deadline, talk).await {
            Ok(answer) => answer,
            Err(_) => {
                self.suspect(peer);
                Err(OverlayError::Timeout { peer, after: deadline })
            }
        }
    }

    /// Tells that the caller waited for `peer` in vain on an open stream. The next [`Overlay::open`] or
    /// [`Overlay::connect`] with addresses then dials anew instead of trusting the connection, which a peer that was
    /// killed and restarted would not answer on. A failed [`Overlay::rpc`] does this by itself.
    pub fn suspect(&self, peer: NodeId) {
        if let Ok(peer) = peer_of(peer) {
            // Only a hint: with a full queue the connection's own timeout will do.
            let _ = self.shared.commands.try_send(Command::Suspect { peer });
        }
    }

    /// Closes all connections to `peer`.
    pub async fn disconnect(&self, peer: NodeId) {
        if let Ok(peer) = peer_of(peer) {
            self.ask(|reply| Command::Disconnect { peer, reply }).await;
        }
    }

    /// The connected peers of this network and where each is.
    pub async fn connected(&self) -> Vec<(NodeId, String)> {
        self.ask(|reply| Command::Connected { reply }).await.unwrap_or_default()
    }

    /// The last measured round trip to a connected peer.
    pub async fn round_trip(&self, peer: NodeId) -> Option<Duration> {
        let peer = peer_of(peer).ok()?;
        self.ask(|reply| Command::RoundTrip { peer, reply }).await.flatten()
    }

    /// What became of what was sent to `peer` lately; none if it never was connected.
    #[must_use]
    pub fn sent_to(&self, peer: NodeId) -> Option<Sent> {
        self.shared.flows.to(&peer_of(peer).ok()?)
    }

    /// What became of what was sent to all peers since the start.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.shared.flows.in_all()
    }

    /// Publishes a hint of 1 byte to 48 KiB to all who subscribe. Success means that it was queued to at least one.
    ///
    /// # Errors
    /// [`OverlayError::GossipTooLong`], [`OverlayError::GossipNoPeers`], [`OverlayError::GossipQueuesFull`],
    /// [`OverlayError::Gossip`], [`OverlayError::Stopped`].
    pub async fn publish(&self, bytes: Vec<u8>) -> Result<(), OverlayError> {
        if bytes.is_empty() {
            return Err(OverlayError::Gossip { reason: "the message is empty".to_owned() });
        }
        if bytes.len() > GOSSIP_BYTES_MAX {
            return Err(OverlayError::GossipTooLong { bytes: bytes.len(), max: GOSSIP_BYTES_MAX });
        }
        self.ask(|reply| Command::Publish { bytes, reply }).await.unwrap_or(Err(OverlayError::Stopped))
    }

    /// Tells what becomes of a received message.
    pub async fn report_gossip(&self, id: GossipId, verdict: Verdict) {
        self.ask(|reply| Command::Report { id, verdict, reply }).await;
    }

    /// Closes all connections to `peer` and refuses it for `length`.
    pub async fn ban(&self, peer: NodeId, length: Duration) {
        if let Ok(peer) = peer_of(peer) {
            self.ask(|reply| Command::Ban { peer, length, reply }).await;
        }
    }

    /// Says goodbye to all peers and ends the overlay, within a second. Later calls fail with
    /// [`OverlayError::Stopped`].
    pub async fn shutdown(&self) {
        self.shared.cancel.cancel();
        // Twice the goodbye: the task may have to finish an event first.
        let _ = timeout(GOODBYE_MAX * 2, self.shared.stopped.cancelled()).await;
    }

    /// Sends a command and waits for its answer; `None` once the overlay has stopped.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Has `peer` connected and `then` done, within `deadline`.
    async fn want<T>(
        &self,
        peer: NodeId,
        addresses: &[String],
        then: Then,
        answer: oneshot::Receiver<Result<T, OverlayError>>,
        deadline: Duration,
    ) -> Result<T, OverlayError> {
        let id = peer_of(peer)?;
        let (addresses, unusable) = usable(peer, id, addresses);
        let done = async {
            let command = Command::Want { peer: id, node: peer, addresses, then };
            self.shared.commands.send(command).await.map_err(|_| OverlayError::Stopped)?;
            answer.await.unwrap_or_else(|_| {
                let stopped = self.shared.stopped.is_cancelled() || self.shared.cancel.is_cancelled();
                Err(if stopped { OverlayError::Stopped } else { OverlayError::ConnectionLost { peer } })
            })
        };
        let done = timeout(deadline, done).await.unwrap_or(Err(OverlayError::Timeout { peer, after: deadline }));
        match (done, unusable) {
            // What is wrong with the addresses given says more than that none is known.
            (Err(OverlayError::NoAddress { .. }), Some(error)) => Err(error),
            (done, _) => done,
        }
    }
}

/// The usable ones of `addresses`, and why the last unusable one is not. One bad address must not hide a good one.
fn usable(peer: NodeId, id: PeerId, addresses: &[String]) -> (Vec<Multiaddr>, Option<OverlayError>) {
    let mut good = Vec::new();
    let mut bad = None;
    for text in addresses {
        match parse_address(text) {
            Ok((_, Some(named))) if named != id => {
                bad = Some(OverlayError::WrongPeer { expected: peer, found: named.to_string() })
            }
            Ok((address, _)) => good.push(address),
            Err(error) => bad = Some(error),
        }
    }
    (good, bad)
}

async fn exchange(stream: &mut PeerStream, request: &[u8], max_answer: usize) -> Result<Vec<u8>, FrameError> {
    write_frame(stream, request).await?;
    // The answer shows that the request was delivered. Closing tells nothing and is left to the drop, which comes last.
    read_frame(stream, max_answer).await
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
