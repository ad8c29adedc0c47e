//! Why the overlay could not do what it was asked, in words for the person who asked.

use std::time::Duration;

use fathom_protocol::ids::NodeId;

use crate::frame::FrameError;
use crate::names::Proto;

/// Why an overlay operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// The node's network stack could not be set up.
    #[error("cannot set up the network: {reason}")]
    Start {
        /// What the operating system or a library said.
        reason: String,
    },
    /// A listen address could not be bound.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address as configured.
        address: String,
        /// What the operating system said.
        reason: String,
    },
    /// A text is not an address that this node can use.
    #[error("'{address}' is not a usable address: {reason}")]
    InvalidAddress {
        /// The text.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The identifier is no ed25519 public key, so no node can have it.
    #[error("{} is not the key of a node", .0.short())]
    InvalidNode(NodeId),
    /// The peer is this node.
    #[error("a node does not connect to itself")]
    ToSelf,
    /// The peer is not connected and no address of it is known.
    #[error("no address is known for node {}", peer.short())]
    NoAddress {
        /// Whom to reach.
        peer: NodeId,
    },
    /// None of the peer's addresses answered.
    #[error("node {} cannot be reached: {reason}", peer.short())]
    Unreachable {
        /// Whom to reach.
        peer: NodeId,
        /// What each address said.
        reason: String,
    },
    /// Somebody else answers at the peer's address, or the address names another peer.
    #[error("the address of node {} belongs to another node, {found}", expected.short())]
    WrongPeer {
        /// Who should have answered.
        expected: NodeId,
        /// The libp2p peer id of who did.
        found: String,
    },
    /// The peer belongs to another network.
    #[error("node {} is of another network", peer.short())]
    WrongNetwork {
        /// Who it is.
        peer: NodeId,
    },
    /// The deadline passed first.
    #[error("node {} did not answer within {} ms", peer.short(), after.as_millis())]
    Timeout {
        /// Who did not answer.
        peer: NodeId,
        /// The deadline.
        after: Duration,
    },
    /// The peer does not speak this kind of stream.
    #[error("node {} does not accept {proto} streams", peer.short())]
    Unsupported {
        /// Who it is.
        peer: NodeId,
        /// The kind of stream.
        proto: Proto,
    },
    /// The connection ended before the operation was done: the peer left, or it refuses this node, or is full.
    #[error("the connection to node {} ended", peer.short())]
    ConnectionLost {
        /// The other end.
        peer: NodeId,
    },
    /// This node has banned the peer.
    #[error("node {} is banned for now", peer.short())]
    Banned {
        /// Who it is.
        peer: NodeId,
    },
    /// A cap of this node was reached: connections, or operations that wait for the peer.
    #[error("too much is already under way with node {}", peer.short())]
    Busy {
        /// The other end.
        peer: NodeId,
    },
    /// A frame of an rpc could not be sent or received.
    #[error("talking to node {} failed: {error}", peer.short())]
    Frame {
        /// The other end.
        peer: NodeId,
        /// What happened.
        error: FrameError,
    },
    /// A gossip message exceeds the limit.
    #[error("a gossip message of {bytes} bytes exceeds {max}")]
    GossipTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Nobody who listens to gossip is connected.
    #[error("no connected node listens to gossip")]
    GossipNoPeers,
    /// The queues to all who listen are full; the message was not sent.
    #[error("gossip is sent faster than it is taken")]
    GossipQueuesFull,
    /// The message could not be signed or packed.
    #[error("cannot publish: {reason}")]
    Gossip {
        /// What the library said.
        reason: String,
    },
    /// The overlay was shut down.
    #[error("the node is shutting down")]
    Stopped,
}

/// The last cause of `error`: the layers above it only repeat that something failed.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
