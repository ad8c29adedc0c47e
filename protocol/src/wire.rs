//! The messages between nodes.
//!
//! | protocol | opener sends | other side answers |
//! |---|---|---|
//! | rpc | one [`Request`] frame | one [`Response`] frame |
//! | chunk | a [`Headers`](crate::header::Headers) frame, then exactly the bytes of its chunks, one after another | [`ChunkAnswers`] frames, the last one [`ChunkAnswer::Done`] alone |
//! | fetch | one [`FetchRequests`] frame | for each request, in order, one [`FetchAnswer`] frame, then the bao-encoded range |
//!
//! A frame is its length as u32 big-endian and that many bytes of CBOR. While an answer is pending the answering side
//! sends `Alive` frames, so that a peer that is stopped is told apart from one that is busy.

mod refusal;
mod requests;
mod rpc;
mod streams;

use serde::{Deserialize, Serialize};

use crate::codec::Bounded;
use crate::delta::VendorDelta;
use crate::fat::FinalFat;
use crate::fork::ForkProof;
use crate::head::VendorRecord;
use crate::ids::NodeId;
use crate::limits::GOSSIP_RECORDS_MAX;
use crate::moves::CarriedMove;
use crate::sign::Carried;

pub use refusal::{Refusal, RefusalKind};
pub use requests::{
    AllocateRequest, Cancel, LogCursor, OwnerQuery, PeerRecord, Renew, Roles, Unused, Validation, Wants,
};
pub use rpc::{FilesPage, Location, Page, ProvisionalFat, Request, Response, TableDigest};
pub use streams::{ChunkAnswer, ChunkAnswers, FetchAnswer, FetchRequest, FetchRequests, Numbered};

/// How often a side that owes an answer says that it is alive, in milliseconds.
pub const ALIVE_EVERY_MS: u64 = 500;
/// Silence of a peer that owes an answer after which the work goes elsewhere, in milliseconds.
pub const SILENCE_MS: u64 = 2_000;

/// One entry of the FAT as mirrors exchange it. `Peer` was one and will not be another: a node's announcement goes by
/// [`Request::Announce`], and is kept in each node's book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncRecord {
    /// A vendor's head and leases.
    Vendor(VendorRecord),
    /// A final FAT.
    Fat(Carried<FinalFat>),
    /// A cosigned move.
    Move(CarriedMove),
    /// A proof against a vendor.
    Proof(Box<ForkProof>),
}

/// A gossip message: a record small enough to send, or a hint that there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gossip {
    /// The record itself.
    Record(Box<SyncRecord>),
    /// Several that came about together.
    Records(Bounded<SyncRecord, GOSSIP_RECORDS_MAX>),
    /// What changed at a vendor, for those that have the head before.
    Delta(Box<VendorDelta>),
    /// The sender accepted something that is too large for gossip; ask it.
    Grew {
        /// Who has it.
        mirror: NodeId,
        /// Position in its log.
        cursor: u64,
    },
}
