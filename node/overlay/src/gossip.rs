//! Hints between those who subscribe. Gossip only makes things fresh sooner; what it loses, anti-entropy brings.

use fathom_protocol::ids::NodeId;

/// Names a received message when its verdict is reported.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GossipId {
    /// The hash of the message's bytes.
    pub(crate) message: Vec<u8>,
    pub(crate) source: NodeId,
}

/// A message that waits for a verdict. Each must get one by [`Overlay::report_gossip`](crate::Overlay::report_gossip).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipMessage {
    /// Names it for the verdict.
    pub id: GossipId,
    /// Who passed it on, not necessarily who wrote it.
    pub source: NodeId,
    /// What was published: 1 byte to 48 KiB.
    pub bytes: Vec<u8>,
}

/// What becomes of a received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is good and is passed on.
    Accept,
    /// It is of no use and is not passed on; nobody is to blame.
    Ignore,
    /// It is forged or malformed: it is not passed on, and counts against who sent it.
    Reject,
}
