//! The floor of a benchmark: bytes over a chain of hops with nothing but libp2p between them.
//!
//! A swarm over libp2p's own QUIC transport, as it comes, and one behaviour, the streams': no identify, ping, gossip, caps or book of peers. Nothing
//! is stored, hashed or sealed. What a node reaches above or below this is its own doing.
//!
//! A transfer: the opener sends the number of bytes (u64, big-endian). Each hop opens the next one and passes it on; the
//! last answers one byte, [`READY`], which goes back along the chain. Then the bytes go, each hop passing on while it reads
//! (cut-through), and the last answers [`DONE`] when it has them all. Timing begins at `READY`, so no handshake is in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fathom_protocol::ids::NetworkId;
use futures::StreamExt;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder};
use libp2p_quic::Config;
use libp2p_quic::tokio::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::config::{COMMANDS_QUEUED_MAX, ConnectionCaps, LISTEN_MAX};
use crate::error::{OverlayError, innermost};
use crate::identity::{keypair, parse_address, with_peer};
use crate::names::{Names, Proto};
use crate::stream::PeerStream;
use crate::streams::{Behaviour, Counters, InboundStream, OpenRequest};

/// Bytes read and written at a time.
const PIECE: usize = 256 * 1024;
/// Pieces that a hop has read and not yet passed on.
const PIECES_AHEAD: usize = 4;
/// Where the floor listens.
const LISTEN: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
/// How long dialling, opening and the answer `READY` may take together.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// Longest time without a byte.
const STALL: Duration = Duration::from_secs(30);
/// A connection without streams is kept for so long, between two transfers.
const IDLE_MAX: Duration = Duration::from_secs(600);
const READY: u8 = b'r';
const DONE: u8 = b'd';

/// Why a transfer of the floor failed.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The next hop could not be reached, or the swarm not be started.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A stream broke, or was silent for too long.
    #[error("a stream of the floor broke: {0}")]
    Stream(#[from] std::io::Error),
}

/// A bare swarm that listens on the loopback interface. It ends when this is dropped.
#[derive(Debug)]
pub struct Floor {
    address: String,
    sender: FloorSender,
    incoming: mpsc::Receiver<InboundStream>,
    _end: oneshot::Sender<()>,
}

/// The opening half of a [`Floor`]. Clones are cheap.
#[derive(Clone, Debug)]
pub struct FloorSender(mpsc::Sender<(Multiaddr, PeerId, OpenRequest)>);

impl Floor {
    /// Starts it. `key_seed` decides its peer id. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`FloorError::Overlay`].
    pub async fn start(key_seed: [u8; 32]) -> Result<Self, FloorError> {
        let (keypair, _) = keypair(key_seed)?;
        let caps = ConnectionCaps::default();
        let (sender, incoming) = mpsc::channel(caps.inbound_queue);
        let names = Arc::new(Names::of(NetworkId([0; 16])));
        let behaviour = Behaviour::new(names, caps, sender, Arc::new(Counters::default()));
        let start = |reason: String| OverlayError::Start { reason };
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_other_transport(|keypair| Transport::new(Config::new(keypair)))
            .map_err(|error| start(error.to_string()))?
            .with_behaviour(|_| behaviour)
            .map_err(|error| start(error.to_string()))?
            .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_MAX))
            .build();
        let (listen, _) = parse_address(LISTEN)?;
        swarm.listen_on(listen).map_err(|error| start(innermost(&error)))?;
        let (opens, open_receiver) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let (listening, address) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        tokio::spawn(drive(swarm, open_receiver, listening, ended));
        let address = match timeout(LISTEN_MAX, address).await {
            Ok(Ok(address)) => address,
            _ => return Err(start("it does not listen".to_owned()).into()),
        };
        Ok(Self { address, sender: FloorSender(opens), incoming, _end: end })
    }

    /// Its multiaddress with `/p2p`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Takes transfers until the swarm ends, one after another, and passes each on to `next` if there is one. What goes wrong
    /// with one transfer is given to `failed` and ends that transfer only.
    pub async fn serve(mut self, next: Option<&str>, mut failed: impl FnMut(FloorError)) {
        let opener = self.sender.clone();
        while let Some(inbound) = self.incoming.recv().await {
            if let Err(error) = relay(inbound.stream, &opener, next).await {
                failed(error);
            }
        }
    }

    /// What sends over this swarm's connections.
    #[must_use]
    pub fn sender(&self) -> FloorSender {
        self.sender.clone()
    }
}

impl FloorSender {
    /// Sends `bytes` bytes to the hop at `address` and returns how long it took from its consent to its word that all arrived at
    /// the end of the chain.
    ///
    /// # Errors
    /// [`FloorError`].
    pub async fn send(&self, address: &str, bytes: u64) -> Result<Duration, FloorError> {
        let mut stream = self.open(address, bytes).await?;
        let began = Instant::now();
        let piece = vec![0x5a; PIECE];
        let mut left = bytes;
        while left > 0 {
            let length = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            in_time(stream.write_all(&piece[..length])).await?;
            left -= length as u64;
        }
        in_time(stream.flush()).await?;
        expect(&mut stream, DONE).await?;
        Ok(began.elapsed())
    }

    /// A stream to the hop at `address`, announced and consented to by the whole chain behind it.
    async fn open(&self, address: &str, bytes: u64) -> Result<PeerStream, FloorError> {
        let (target, peer) = parse_address(address)?;
        let invalid =
            |reason: &str| OverlayError::InvalidAddress { address: address.to_owned(), reason: reason.to_owned() };
        let peer = peer.ok_or_else(|| invalid("it does not end with /p2p/ and a peer id"))?;
        let (reply, answer) = oneshot::channel();
        let request = OpenRequest { proto: Proto::Chunk, reply };
        let opened = async {
            self.0.send((target, peer, request)).await.map_err(|_| OverlayError::Stopped)?;
            answer.await.unwrap_or_else(|_| Err(invalid("it does not answer")))
        };
        let opened = timeout(OPEN_MAX, opened).await.unwrap_or_else(|_| Err(invalid("it does not answer in time")));
        let mut stream = opened?;
        in_time(stream.write_all(&bytes.to_be_bytes())).await?;
        in_time(stream.flush()).await?;
        expect(&mut stream, READY).await?;
        Ok(stream)
    }
}

/// Takes one transfer and passes it on.
async fn relay(mut from: PeerStream, opener: &FloorSender, next: Option<&str>) -> Result<(), FloorError> {
    let mut announced = [0; 8];
    in_time(from.read_exact(&mut announced)).await?;
    let bytes = u64::from_be_bytes(announced);
    let mut onward = match next {
        Some(next) => Some(opener.open(next, bytes).await?),
        None => None,
    };
    in_time(from.write_all(&[READY])).await?;
    in_time(from.flush()).await?;
    match &mut onward {
        None => discard(&mut from, bytes).await?,
        Some(onward) => pass_on(&mut from, onward, bytes).await?,
    }
    in_time(from.write_all(&[DONE])).await?;
    in_time(from.flush()).await?;
    // The opener drops the stream once it has read the answer; to drop it here first could lose that.
    let _ = in_time(from.read(&mut announced)).await;
    Ok(())
}

async fn discard(from: &mut PeerStream, bytes: u64) -> Result<(), FloorError> {
    let mut piece = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        let length = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        let read = in_time(from.read(&mut piece[..length])).await?;
        if read == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        left -= read as u64;
    }
    Ok(())
}

/// Reads and writes side by side, in whole pieces: on a busy machine the number of wake-ups decides.
async fn pass_on(from: &mut PeerStream, onward: &mut PeerStream, bytes: u64) -> Result<(), FloorError> {
    let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(PIECES_AHEAD);
    let reading = async move {
        let mut left = bytes;
        while left > 0 {
            let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            in_time(from.read_exact(&mut piece)).await?;
            left -= piece.len() as u64;
            if sender.send(piece).await.is_err() {
                // The writing side says why.
                break;
            }
        }
        Ok::<_, FloorError>(())
    };
    let writing = async move {
        while let Some(piece) = pieces.recv().await {
            in_time(onward.write_all(&piece)).await?;
        }
        in_time(onward.flush()).await?;
        expect(onward, DONE).await
    };
    tokio::try_join!(reading, writing).map(drop)
}

async fn expect(stream: &mut PeerStream, answer: u8) -> Result<(), FloorError> {
    let mut read = [0];
    in_time(stream.read_exact(&mut read)).await?;
    let unexpected = || std::io::Error::new(std::io::ErrorKind::InvalidData, "an unexpected answer");
    if read[0] == answer { Ok(()) } else { Err(unexpected().into()) }
}

async fn in_time<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    timeout(STALL, work).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Owns the swarm: dials for who opens, keeps the first connection to each peer.
async fn drive(
    mut swarm: Swarm<Behaviour>,
    mut opens: mpsc::Receiver<(Multiaddr, PeerId, OpenRequest)>,
    listening: oneshot::Sender<String>,
    mut ended: oneshot::Receiver<()>,
) {
    let mut listening = Some(listening);
    let mut connections: HashMap<PeerId, ConnectionId> = HashMap::new();
    let mut waiting: HashMap<PeerId, Vec<OpenRequest>> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            // Also when the sender was dropped, which is how it ends.
            _ = &mut ended => return,
            Some((address, peer, request)) = opens.recv() => match connections.get(&peer) {
                Some(connection) => swarm.behaviour_mut().open(peer, *connection, request),
                None => {
                    waiting.entry(peer).or_default().push(request);
                    if let Err(error) = swarm.dial(address.with(libp2p::multiaddr::Protocol::P2p(peer))) {
                        tracing::warn!(%error, "the floor cannot dial");
                        waiting.remove(&peer);
                    }
                }
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    if let Some(listening) = listening.take() {
                        let _ = listening.send(with_peer(address, *swarm.local_peer_id()));
                    }
                }
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                    let connection = *connections.entry(peer_id).or_insert(connection_id);
                    for request in waiting.remove(&peer_id).unwrap_or_default() {
                        swarm.behaviour_mut().open(peer_id, connection, request);
                    }
                }
                SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                    connections.retain(|peer, connection| *peer != peer_id || *connection != connection_id);
                }
                SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                    tracing::warn!(%error, "the floor cannot connect");
                    // Dropped requests tell their openers.
                    waiting.remove(&peer);
                }
                _ => {}
            },
        }
    }
}
