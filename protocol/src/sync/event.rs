//! What happens to a mirror that keeps in step with others, and what it is to do.

use crate::ids::{Hash, NodeId};
use crate::wire::{Request, Response, SyncRecord};

/// What a mirror's operator chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This mirror.
    pub me: NodeId,
    /// Between two looks at another mirror's log, milliseconds.
    pub poll_ms: u64,
    /// Between two comparisons of tables, milliseconds, a quarter more or less.
    pub compare_ms: u64,
}

/// How far another mirror's log was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which log.
    pub log: Hash,
    /// The last position.
    pub position: u64,
}

impl Cursor {
    /// Of a mirror that was never read.
    pub const NONE: Self = Self { log: Hash([0; Hash::LEN]), position: 0 };
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// These are the mirrors that are known now. Said at least as often as one should be noticed.
    Mirrors(Vec<NodeId>),
    /// Time has come, see [`Action::Wake`]. More of them do no harm.
    Tick,
    /// The answer to an [`Action::Ask`].
    Answered {
        /// Who answered.
        peer: NodeId,
        /// Which question.
        ask: u64,
        /// What.
        response: Response,
    },
    /// There is no answer.
    Failed {
        /// Who was asked.
        peer: NodeId,
        /// What.
        ask: u64,
        /// Whether the peer was there and refused.
        refused: bool,
    },
    /// What became of an [`Action::Keep`].
    Kept {
        /// Who brought the records.
        peer: NodeId,
        /// By which question.
        ask: u64,
        /// Records that were new.
        new: usize,
        /// Records that did not verify, other than for their version.
        bad: usize,
        /// Whether everything, the cursor included, is on disk.
        stored: bool,
    },
    /// What became of an admitted gossip message.
    Gossip {
        /// Who passed it on.
        from: NodeId,
        /// What it was.
        told: Told,
    },
    /// An admitted request was verified.
    Checked {
        /// Who sent it.
        from: NodeId,
        /// Records in it that did not verify, other than for their version.
        bad: usize,
    },
    /// This mirror answered the root question of another one's comparison.
    Compared {
        /// Whose.
        by: NodeId,
        /// Whether the tables differ.
        differ: bool,
    },
}

/// What a gossip message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// No message at all, or a record that does not verify.
    Bad,
    /// A record of a version that is not spoken here, or one that could not be looked at.
    Unclear,
    /// A record that was new and is on disk.
    New,
    /// A record that was known, or older than what is known.
    Known,
    /// A hint that a mirror has news.
    Hint {
        /// Which mirror.
        mirror: NodeId,
        /// The position of the news in its log.
        position: u64,
    },
}

/// What becomes of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is passed on.
    Accept,
    /// It is not passed on; nobody is to blame.
    Ignore,
    /// It is not passed on and counts against who sent it.
    Reject,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a mirror.
    Ask {
        /// Whom.
        peer: NodeId,
        /// To be named in the event that follows.
        ask: u64,
        /// What.
        request: Request,
        /// Longest wait, milliseconds.
        within_ms: u64,
    },
    /// Verify these records, keep those that are good and new, and keep the cursor with them.
    Keep {
        /// Who brought them.
        peer: NodeId,
        /// To be named in the event that follows.
        ask: u64,
        /// The records.
        records: Vec<SyncRecord>,
        /// How far the peer's log was then read.
        cursor: Option<Cursor>,
    },
    /// What becomes of the gossip message.
    Verdict(Verdict),
    /// Close all connections to a peer and refuse it for a while.
    Ban {
        /// Whom.
        peer: NodeId,
        /// For how long, milliseconds.
        ms: u64,
    },
    /// Send [`Event::Tick`] at this time; an earlier wish is void.
    Wake {
        /// When, on the clock of [`Sync::handle`](super::Sync::handle).
        at_ms: u64,
    },
}
