//! Identify: a connection is used only after its peer has told that it is of this network.

use libp2p::identify;

use super::{Task, named};

impl Task {
    pub(super) fn on_identify(&mut self, event: identify::Event) {
        match event {
            identify::Event::Received { connection_id, peer_id, info } => {
                if info.protocol_version == self.version {
                    let step = self.peers.identified(peer_id, connection_id);
                    self.take(peer_id, step);
                } else {
                    tracing::debug!(peer = %named(&peer_id), "a node of another network was connected");
                    self.peers.of_another_network(&peer_id);
                }
            }
            identify::Event::Error { connection_id, peer_id, error } => {
                tracing::debug!(peer = %named(&peer_id), %error, "a peer did not tell its network");
                if !self.peers.is_identified(&peer_id, connection_id) {
                    self.swarm.close_connection(connection_id);
                }
            }
            identify::Event::Sent { .. } | identify::Event::Pushed { .. } => {}
        }
    }
}
