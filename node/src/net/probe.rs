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
/// A node whose way was measured so lately is taken to be there still.
const SURE: Duration = Duration::from_secs(5);
/// A way that was measured so lately is not measured again for its figure alone.
const FRESH: Duration = Duration::from_secs(60);
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

    /// Measures the round trip to those of `nodes` of which it is not known that they are there: their ways were not measured within
    /// [`SURE`], or they failed since and may be back.
    pub(crate) async fn probe_uncertain(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.probe(self.book().uncertain(nodes, SURE)).await;
    }

    /// Has the ways to `nodes` measured, as far as that was not done within the last minute: at most [`WAYS_MAX`] of them, and
    /// within [`LOOK`]. One that failed lately is left alone until it is no more suspected.
    pub(crate) async fn measure(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let mut unknown = self.book().unmeasured(nodes, FRESH);
        unknown.truncate(WAYS_MAX);
        let _ = tokio::time::timeout(LOOK, self.probe(unknown)).await;
    }
}
