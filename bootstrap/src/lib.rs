//! How a node finds its network: the network descriptor and the invite.
//!
//! A descriptor names a network and the addresses of a few nodes that let others in. It has two forms with the
//! same content: a TOML file for people to read and keep, and a compact `fathom:...` invite for a chat message.
//! Neither is secret and neither is signed: each peer address ends in the peer's key, which the first connection
//! verifies, so a changed invite leads to another network, never to an impersonated one. Whoever takes an invite
//! trusts the person who sent it.
//!
//! This crate knows nothing of libp2p, of configuration files or of clocks, and performs no I/O: the caller reads
//! the text and brings randomness.

mod descriptor;
mod invite;

pub use descriptor::{DESCRIPTOR_VERSION, DescriptorError, NetworkDescriptor, PEERS_MAX, TEXT_BYTES_MAX};
pub use invite::{INVITE_PREFIX, INVITE_VERSION};
