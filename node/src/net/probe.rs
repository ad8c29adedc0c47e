//! Measuring the ways to many nodes at once.

use std::time::Duration;

use fathom_protocol::ids::NodeId;
use fathom_protocol::wire::Request;
use futures::StreamExt;

use super::Net;

/// Longest wait for a probe's answer.
const PROBE: Duration = Duration::from_millis(700);
/// Probes under way at a time.
const PROBES: usize = 32;
/// Ways that one look measures at most; the next look measures others.
const WAYS_MAX: usize = 256;
/// Longest time for one look.
const LOOK: Duration = Duration::from_millis(1_500);

impl Net {
    /// Measures the round trip to each of `nodes`, in parallel. A silent one costs at most [`PROBE`] and is suspected.
    pub(crate) async fn probe(&self, nodes: impl IntoIterator<Item = NodeId>) {
        futures::stream::iter(nodes)
            .for_each_concurrent(PROBES, |node| async move {
                // A failure is noted in the book of peers, which is all that is needed here.
                let _ = self.call(node, &Request::Ping, PROBE).await;
            })
            .await;
    }

    /// Has the ways to `nodes` measured, as far as that was not done within `lately`: at most [`WAYS_MAX`] of them, and
    /// within [`LOOK`]. One that failed lately is left alone until it is no more suspected.
    pub(crate) async fn measure(&self, nodes: impl IntoIterator<Item = NodeId>, lately: Duration) {
        let mut unknown = self.book().unmeasured(nodes, lately);
        unknown.truncate(WAYS_MAX);
        let _ = tokio::time::timeout(LOOK, self.probe(unknown)).await;
    }
}
