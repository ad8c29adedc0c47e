//! Connections that come, fail and go.

use libp2p::swarm::SwarmEvent;

use super::{Task, named};
use crate::behaviour::BehaviourEvent;
use crate::identity::without_peer;

impl Task {
    pub(super) fn on_connection(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let remote = without_peer(endpoint.get_remote_address().clone());
                self.peers.established(peer_id, connection_id, remote);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                if let Some(cause) = cause {
                    tracing::debug!(peer = %named(&peer_id), %cause, "connection lost");
                }
                self.peers.closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                connection_id,
                error,
            } => {
                tracing::debug!(peer = %named(&peer), %error, "dial failed");
                let step = self.peers.dial_failed(peer, connection_id, &error);
                self.take(peer, step);
            }
            SwarmEvent::IncomingConnectionError {
                error,
                send_back_addr,
                ..
            } => {
                tracing::debug!(%error, from = %send_back_addr, "an inbound connection was not established");
            }
            _ => {}
        }
    }
}
