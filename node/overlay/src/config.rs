//! What a node chooses about its overlay, and the constants that it does not choose.

use std::time::Duration;

use fathom_protocol::ids::NetworkId;

/// How to start an overlay.
#[derive(Clone)]
pub struct OverlayConfig {
    /// The node's ed25519 secret key; its public key is the `NodeId`.
    pub key_seed: [u8; 32],
    /// The network; peers of another one are refused.
    pub network: NetworkId,
    /// Multiaddresses to listen on, such as `/ip4/0.0.0.0/udp/0/quic-v1`. Empty: the node only dials.
    pub listen: Vec<String>,
    /// Multiaddresses under which others reach this node although it does not listen on them (a forwarded port).
    pub external: Vec<String>,
    /// Whether the node subscribes to gossip. A node that does not can still publish to those that do.
    pub gossip: bool,
    /// Bounds on what others may take from this node.
    pub limits: ConnectionCaps,
}

/// Bounds on connections and streams. Beyond a connection cap the connection is refused; beyond a stream cap the
/// opener waits, first in its own QUIC stack, then in this node's backlog, and only a full backlog resets a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionCaps {
    /// Established connections in all.
    pub connections: u32,
    /// Established connections with one peer (two when both dial at once).
    pub connections_per_peer: u32,
    /// Connections being set up from outside.
    pub pending_inbound: u32,
    /// Connections being set up by this node.
    pub pending_outbound: u32,
    /// Inbound streams of one peer that the node works on at once, and that one connection may have open.
    pub inbound_streams_per_peer: u32,
    /// Inbound streams of one connection that wait for room in the queue.
    pub inbound_backlog: usize,
    /// Inbound streams of all peers that wait to be taken from [`Incoming::streams`](crate::Incoming).
    pub inbound_queue: usize,
    /// Gossip messages that wait to be taken from [`Incoming::gossip`](crate::Incoming).
    pub gossip_queue: usize,
}

impl Default for ConnectionCaps {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_peer: 4,
            pending_inbound: 256,
            pending_outbound: 256,
            inbound_streams_per_peer: 256,
            inbound_backlog: 320,
            inbound_queue: 256,
            gossip_queue: 1024,
        }
    }
}

/// How the transport works where there is more than one way. The default is what was measured to be best
/// (docs/performance.md); the others are there to be measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// Who decides how much is sent.
    pub congestion: Congestion,
    /// What seals packets.
    pub cipher: Cipher,
}

/// Congestion controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// CUBIC that takes a loss for congestion only if there is a queue.
    #[default]
    Sounding,
    /// quinn's CUBIC, as libp2p has it.
    Cubic,
    /// quinn's BBR, which its authors call experimental.
    Bbr,
}

/// Ciphers, in the order in which they are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cipher {
    /// AES-GCM first where the processor has instructions for it, else ChaCha20 first.
    #[default]
    Fastest,
    /// ChaCha20-Poly1305 first, as libp2p has it.
    ChaCha20,
}

/// Commands from handles that wait for the swarm's task.
pub(crate) const COMMANDS_QUEUED_MAX: usize = 1024;
/// Callers that wait for one peer to be connected.
pub(crate) const WAITERS_PER_PEER_MAX: usize = 1024;
/// Dials of one peer under way, each of other addresses.
pub(crate) const DIALS_PER_PEER_MAX: usize = 4;
/// Streams that wait on one connection to be opened.
pub(crate) const OPENS_PER_CONNECTION_MAX: usize = 1024;
/// Bans remembered; the one that ends first makes room.
pub(crate) const BANS_MAX: usize = 4096;
/// Addresses of one peer that a dial tries.
pub(crate) const ADDRESSES_TRIED_MAX: usize = 16;
/// Streams of one connection that libp2p's own protocols (identify, ping, gossipsub) need beside the node's.
pub(crate) const STREAMS_OF_LIBP2P: u32 = 32;

/// QUIC: a connection on which nothing arrives for so long is dead.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(6);
/// QUIC: how often an idle connection is kept alive; three in [`SILENCE_MAX`].
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// QUIC: how long a handshake may take.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// QUIC: unacknowledged bytes of one stream; a path of 100 Mbit/s and 600 ms fits.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// QUIC: unacknowledged bytes of one connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 24 * 1024 * 1024;
/// QUIC: bytes of one connection that are kept until the other side has acknowledged them.
pub(crate) const SEND_WINDOW_BYTES: u64 = 10 * 1024 * 1024;
/// QUIC: bytes that may be sent before anything is known of the path, paced.
pub(crate) const INITIAL_WINDOW_BYTES: u64 = 32 * 1200;

/// A connection without streams closes after so long.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(600);
/// How often a connection's round trip is measured.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(15);
/// How long a ping may take.
pub(crate) const PING_MAX: Duration = Duration::from_secs(5);
/// A peer that has not told its network by then is disconnected.
pub(crate) const IDENTIFY_MAX: Duration = Duration::from_secs(5);
/// A peer of another network is disconnected after so long, in which it learns the same about this node.
pub(crate) const STRANGER_LINGERS: Duration = Duration::from_secs(1);
/// How often an idle peer repeats who it is. It never changes; rare keeps idle networks quiet.
pub(crate) const IDENTIFY_EVERY: Duration = Duration::from_secs(3600);
/// How long a stream's opening or negotiation may take.
pub(crate) const STREAM_OPEN_MAX: Duration = Duration::from_secs(10);
/// How often bans and overdue peers are looked at.
pub(crate) const UPKEEP_EVERY: Duration = Duration::from_millis(500);
/// How long a shutdown waits for connections to say goodbye.
pub(crate) const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// How long [`Overlay::listen_addresses`](crate::Overlay::listen_addresses) waits for the first one.
pub(crate) const LISTEN_MAX: Duration = Duration::from_secs(5);
/// ... and for the interfaces that follow it.
pub(crate) const LISTEN_SETTLES: Duration = Duration::from_millis(30);

/// Gossip: how often the mesh is repaired.
pub(crate) const GOSSIP_HEARTBEAT: Duration = Duration::from_millis(500);
/// Gossip: a message of the same bytes is not delivered again for so long.
pub(crate) const GOSSIP_DUPLICATE: Duration = Duration::from_secs(30);
/// Gossip: bytes that signature, key, topic and framing add to a message.
pub(crate) const GOSSIP_OVERHEAD_BYTES: usize = 1024;
