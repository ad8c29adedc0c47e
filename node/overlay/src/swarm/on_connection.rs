//! Connections that come, fail and go.

use std::io;

use fathom_protocol::ids::NodeId;
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, TransportError, allow_block_list, connection_limits};

use super::{Task, named};
use crate::behaviour::BehaviourEvent;
use crate::error::{OverlayError, innermost};
use crate::identity::without_peer;

impl Task {
    pub(super) fn on_connection(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let remote = without_peer(endpoint.get_remote_address().clone());
                self.peers.established(peer_id, connection_id, remote);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                if let Some(cause) = cause {
                    tracing::debug!(peer = %named(&peer_id), %cause, "connection lost");
                }
                self.peers.closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), connection_id, error } => {
                tracing::debug!(peer = %named(&peer), %error, "dial failed");
                let step = self.peers.dial_failed(peer, connection_id, &error);
                self.take(peer, step);
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                tracing::debug!(%error, from = %send_back_addr, "an inbound connection was not established");
            }
            _ => {}
        }
    }
}

/// A failed dial in the words of this crate.
pub(super) fn explain(peer: NodeId, error: &DialError) -> OverlayError {
    match error {
        DialError::LocalPeerId { .. } => {
            OverlayError::WrongPeer { expected: peer, found: "this node itself".to_owned() }
        }
        DialError::NoAddresses => OverlayError::NoAddress { peer },
        DialError::WrongPeerId { obtained, .. } => {
            OverlayError::WrongPeer { expected: peer, found: obtained.to_string() }
        }
        DialError::Denied { cause } if cause.downcast_ref::<allow_block_list::Blocked>().is_some() => {
            OverlayError::Banned { peer }
        }
        DialError::Denied { cause } if cause.downcast_ref::<connection_limits::Exceeded>().is_some() => {
            OverlayError::Busy { peer }
        }
        DialError::Transport(failures) => {
            let one = |(address, error): &(Multiaddr, TransportError<io::Error>)| {
                format!("{}: {}", without_peer(address.clone()), innermost(error))
            };
            let reasons: Vec<String> = failures.iter().map(one).collect();
            OverlayError::Unreachable { peer, reason: reasons.join("; ") }
        }
        error => OverlayError::Unreachable { peer, reason: error.to_string() },
    }
}
