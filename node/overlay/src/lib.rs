//! Fathom's network of peers: connections, streams and gossip.
//!
//! This is the only crate that touches libp2p, and none of its types leave it: peers are
//! [`NodeId`](fathom_protocol::ids::NodeId)s, addresses are multiaddresses as text. It knows nothing of leases, files
//! or chunks: what is said on a stream is its callers' business.
//!
//! [`start`] gives an [`Overlay`], the handle by which the node acts, and an [`Incoming`], what its peers begin. One
//! task owns all connections; every operation that waits for a peer has a deadline.
//!
//! What a caller has to know about streams: closing is not delivery, an end is not a proof of completeness, and a peer
//! can fall silent at any moment. So: frames with lengths ([`frame`]), an answer to whatever matters, and a deadline on
//! progress.

/// What to leave out of a log at its usual level: the swarm's own greeting, which says nothing that the node does not say.
pub const QUIET_LOG: &str = "libp2p_swarm=warn";

mod behaviour;
mod build;
mod config;
mod error;
mod floor;
pub mod frame;
mod gossip;
mod handle;
mod identity;
mod names;
mod quic;
mod stream;
mod streams;
mod swarm;
mod traffic;

pub use config::{Cipher, Congestion, ConnectionCaps, OverlayConfig, Tuning};
pub use error::OverlayError;
pub use floor::{Floor, FloorError, FloorSender};
pub use frame::{FrameError, read_frame, read_frame_within, write_frame, write_frame_within};
pub use gossip::{GossipId, GossipMessage, Verdict};
pub use handle::{Incoming, Overlay, start, start_tuned};
pub use names::Proto;
pub use quic::Sent;
pub use stream::PeerStream;
pub use streams::InboundStream;
pub use traffic::{RateCaps, Rates};
