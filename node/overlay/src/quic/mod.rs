//! QUIC as libp2p speaks it, over quinn: one connection is one QUIC connection, one stream one bidirectional QUIC
//! stream, and who is at the other end is in the certificate of the handshake (`libp2p-tls`).
//!
//! libp2p has such a transport of its own, which lets nobody choose the congestion controller, the cipher or the
//! buffers of its sockets. On the wire the two cannot be told apart; `tests` shows both ways.
//!
//! - [`Transport`] listens and dials; it is driven by the swarm. Beside each listener's socket it knows which peers are
//!   expected to dial through a hole that is being punched for them (`punch`).
//! - [`Connection`] is libp2p's muxer, [`Stream`] its substream.
//! - `flows` counts what arrives and what is lost, by peer.
//! - `tls` holds certificates and ciphers, `settings` quinn's configuration, `congestion` how much is sent and when.
//!
//! It knows nothing of swarms, behaviours or peers' books: whether the peer that was reached is the one that was meant,
//! the swarm compares.

mod address;
pub(crate) mod congestion;
mod connection;
mod error;
mod flows;
mod listener;
mod punch;
mod settings;
mod socket;
mod stream;
mod tls;
mod transport;
mod window;

pub(crate) use flows::Flows;
pub use flows::Sent;
pub(crate) use settings::Settings;
pub(crate) use transport::Transport;

#[cfg(test)]
mod tests;
