//! What a command tells while it runs.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::results::PathVendor;

/// Events of one command that wait for a slow reader.
pub const EVENTS_QUEUED_MAX: usize = 256;

/// One event, a JSON line `{"event": "...", ...}`. Identifiers are hexadecimal texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ControlEvent {
    /// How far the command is.
    Progress {
        /// Bytes done, of the user's data.
        bytes: u64,
        /// Bytes in all; 0 if not known yet.
        total: u64,
        /// Chunks done.
        chunks_done: u64,
    },
    /// The provisional FAT: space that a mirror locked for this user.
    Provisional {
        /// One entry for each lease.
        locations: Vec<ProvisionalLocation>,
    },
    /// The vendors in the order of preference.
    Path {
        /// Best first.
        order: Vec<PathVendor>,
    },
    /// A vendor failed and its copies go elsewhere.
    Replaced {
        /// The chunk.
        chunk: String,
        /// The vendor that failed.
        vendor: String,
        /// Why, for a person.
        reason: String,
    },
    /// A chunk has all its copies.
    Receipt {
        /// The chunk.
        chunk: String,
        /// The vendors whose receipts are here.
        vendors: Vec<String>,
    },
    /// Anything else that a person should know.
    Note {
        /// One sentence.
        text: String,
    },
}

/// One lease of a provisional FAT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionalLocation {
    /// The vendor.
    pub vendor: String,
    /// Its zone.
    pub zone: String,
    /// The lease.
    pub lease: String,
    /// Size of the lease, in bytes.
    pub bytes: u64,
}

/// Where a command puts its events. Cheap to clone. A reader that has gone away is no error: whoever reads also
/// cancels the command.
#[derive(Debug, Clone)]
pub struct EventSink {
    sender: mpsc::Sender<ControlEvent>,
}

impl EventSink {
    /// A sink and where its events come out, at most [`EVENTS_QUEUED_MAX`] of them waiting.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<ControlEvent>) {
        let (sender, receiver) = mpsc::channel(EVENTS_QUEUED_MAX);
        (Self { sender }, receiver)
    }

    /// Hands over an event. Progress is dropped when the queue is full, since the next one says more; anything else
    /// waits for room. The wait ends: a reader that takes nothing is cut off by the server, which cancels the command.
    pub async fn send(&self, event: ControlEvent) {
        if matches!(event, ControlEvent::Progress { .. }) {
            // Full or closed: in both cases nobody misses it.
            let _ = self.sender.try_send(event);
        } else {
            let _ = self.sender.send(event).await;
        }
    }

    /// Hands over progress without waiting; callable from anywhere.
    pub fn progress(&self, bytes: u64, total: u64, chunks_done: u64) {
        let _ = self.sender.try_send(ControlEvent::Progress { bytes, total, chunks_done });
    }

    /// Hands over a sentence for a person.
    pub async fn note(&self, text: impl Into<String> + Send) {
        self.send(ControlEvent::Note { text: text.into() }).await;
    }
}
