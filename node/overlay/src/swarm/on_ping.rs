//! Pings: the round trip of each connection. QUIC itself notices the dead.

use libp2p::ping;

use super::Task;

impl Task {
    pub(super) fn on_ping(&mut self, event: &ping::Event) {
        match event.result {
            Ok(round_trip) => self.peers.measured(&event.peer, event.connection, round_trip),
            Err(ref error) => {
                tracing::debug!(peer = %super::named(&event.peer), %error, "ping failed")
            }
        }
    }
}
