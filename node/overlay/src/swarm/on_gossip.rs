//! Gossip: messages to the application and its verdicts back. Nothing is forwarded before its verdict.

use fathom_protocol::limits::GOSSIP_BYTES_MAX;
use libp2p::PeerId;
use libp2p::gossipsub::{Event, MessageAcceptance, MessageId};

use super::{Task, named};
use crate::gossip::{GossipId, GossipMessage, Verdict};
use crate::identity::{node_of, peer_of};

impl Task {
    pub(super) fn on_gossip(&mut self, event: Event) {
        match event {
            Event::Message { propagation_source, message_id, message } => {
                if message.data.is_empty() || message.data.len() > GOSSIP_BYTES_MAX {
                    self.judge(&message_id, &propagation_source, MessageAcceptance::Reject);
                    return;
                }
                let Some(source) = node_of(&propagation_source) else {
                    return;
                };
                let id = GossipId { message: message_id.0.clone(), source };
                if self.gossip.try_send(GossipMessage { id, source, bytes: message.data }).is_err() {
                    // A hint that finds no room is dropped: anti-entropy brings the record itself.
                    tracing::debug!(peer = %source.short(), "gossip queue full, hint dropped");
                    self.judge(&message_id, &propagation_source, MessageAcceptance::Ignore);
                }
            }
            Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %named(&peer_id), "gossip waits for a slow peer")
            }
            _ => {}
        }
    }

    /// Applies the application's verdict.
    pub(super) fn report(&mut self, id: &GossipId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        if let Ok(source) = peer_of(id.source) {
            self.judge(&MessageId::new(&id.message), &source, acceptance);
        }
    }

    fn judge(&mut self, message: &MessageId, source: &PeerId, acceptance: MessageAcceptance) {
        // False when the verdict comes too late to matter: the message has left the cache.
        let _ = self.swarm.behaviour_mut().gossip.report_message_validation_result(message, source, acceptance);
    }
}
