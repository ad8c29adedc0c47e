//! Requests and responses, one of each per stream.

use serde::{Deserialize, Serialize};

use super::{
    AllocateRequest, Cancel, LogCursor, OwnerQuery, PeerRecord, Refusal, Renew, SyncRecord, Unused, Validation,
};
use crate::codec::{Blob, Bounded, Text};
use crate::delta::VendorDelta;
use crate::fat::FinalFat;
use crate::head::{LeaseEvidence, VendorHead, VendorRecord};
use crate::ids::{Hash, LeaseId, NodeId};
use crate::lease::Lease;
use crate::limits::{
    ALLOCATE_ASKED_MAX, ALLOCATE_VENDORS_MAX, COPIES_MAX, FATS_PER_SUBMIT_MAX, HEADS_MAX, KEY_BYTES_MAX, PEERS_MAX,
    REASON_BYTES_MAX, SYNC_RECORDS_MAX, VALIDATIONS_MAX,
};
use crate::moves::CarriedMove;
use crate::rebuild::Rebuild;
use crate::receipt::Receipt;
use crate::reconcile::{Compare, Compared, WantedList};
use crate::route::coordinate::Coordinate;
use crate::sign::Carried;
use crate::time::UnixMs;

/// One locked location of a provisional FAT (figure 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Which copy it serves, from 0.
    pub column: u8,
    /// Bytes of the lease's room that were added for this request.
    pub granted: u64,
    /// The vendor's countersigned lease.
    pub lease: Carried<Lease>,
    /// The vendor's head: its zone and addresses.
    pub head: Carried<VendorHead>,
}

/// Locked storage for one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionalFat {
    /// The locations, by column.
    pub locations: Bounded<Location, ALLOCATE_VENDORS_MAX>,
    /// What could not be honoured, for people: "copies 1 and 2 share the zone ...".
    pub warnings: Bounded<Text<REASON_BYTES_MAX>, COPIES_MAX>,
}

/// What a request asks. One per stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Are you there, and where: measures the path.
    Ping,
    /// Introduces a node and asks for others.
    Announce(Carried<PeerRecord>),
    /// Vendor to mirror: my head and leases (figures 2 and 3).
    Report(VendorRecord),
    /// Vendor to mirror: my head, and what changed since one that you know. `NotFound` asks for all leases.
    ReportDelta(VendorDelta),
    /// User or vendor to mirror: lock storage (figure 5).
    Allocate(Carried<AllocateRequest>),
    /// Mirror to vendor: countersign `bytes` of this request (figure 6).
    Offer {
        /// The request, signed by its authority.
        request: Carried<AllocateRequest>,
        /// Bytes wanted from this vendor.
        bytes: u64,
    },
    /// User to mirror: final FATs to check and keep (figure 15).
    SubmitFats(Bounded<Carried<FinalFat>, FATS_PER_SUBMIT_MAX>),
    /// User to mirror: my files (figure 16).
    FatsOf(Carried<OwnerQuery>),
    /// Anybody to mirror: vendors after this one, heads and leases.
    Vendors {
        /// The last vendor of the page before.
        after: Option<NodeId>,
    },
    /// Anybody to mirror: the heads of these vendors, without their leases.
    Heads(Bounded<NodeId, HEADS_MAX>),
    /// Mirror to mirror: what you accepted since. A cursor that is not of the mirror's log, or beyond its end, is answered with
    /// no records, the log and its end, and the two compare their tables; the log of zeros is that of a mirror that was never read.
    Since {
        /// The log that the cursor belongs to.
        log: Hash,
        /// Last position seen.
        cursor: u64,
    },
    /// Vendor to mirror: final FATs that concern me, since.
    Orders {
        /// The asking vendor.
        vendor: NodeId,
        /// The log that the cursor belongs to.
        log: Hash,
        /// Last position seen.
        cursor: u64,
    },
    /// Mirror to vendor: act on these final FATs (figure 22).
    Order(Bounded<Carried<FinalFat>, FATS_PER_SUBMIT_MAX>),
    /// Vendor to vendor: I moved this chunk to you, sign that you have it.
    Cosign(CarriedMove),
    /// Vendor to mirror: a cosigned move.
    SubmitMove(CarriedMove),
    /// User to vendor and mirror: how a download went.
    Validate(Bounded<Carried<Validation>, VALIDATIONS_MAX>),
    /// User to mirror, mirror to vendor: room that will not be filled.
    Unused(Carried<Unused>),
    /// User to mirror, mirror to vendor: a request for storage is withdrawn.
    Cancel(Carried<Cancel>),
    /// User to vendor: prolong a lease.
    Renew(Carried<Renew>),
    /// Anybody to mirror: the digest of your table.
    Digest,
    /// Mirror to mirror: where do our tables differ.
    Compare(Compare),
    /// Mirror to mirror: the records at these positions, as far as they are not older than the asker's.
    Wanted(WantedList),
    /// Anybody to mirror: one vendor's head and leases, and the proof against it if there is one.
    VendorOf(NodeId),
    /// Anybody to mirror: the proofs against these vendors, or against all if none is named.
    Proofs(Bounded<NodeId, HEADS_MAX>),
    /// Anybody to mirror: one lease, with what proves it.
    LeaseOf {
        /// Whose lease; with none, of whichever vendor has it in its newest head.
        vendor: Option<NodeId>,
        /// Which.
        lease: LeaseId,
    },
    /// User to vendor: make this shard from others and store it.
    Rebuild(Box<Carried<Rebuild>>),
}

/// A digest by which two mirrors can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    /// BLAKE3 over every record's key and hash, in order.
    pub digest: Hash,
    /// Vendors known.
    pub heads: u64,
    /// Live leases.
    pub leases: u64,
    /// Final FATs that hold data.
    pub files: u64,
    /// Moves.
    pub moves: u64,
    /// Vendors in quarantine.
    pub proofs: u64,
}

/// A page of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The log that `next` belongs to.
    pub log: Hash,
    /// Cursor for the next page.
    pub next: u64,
    /// Whether there is more now.
    pub more: bool,
    /// The mirror's clock, for its vendors' expiry decisions.
    pub clock: UnixMs,
    /// The records.
    pub records: Bounded<SyncRecord, SYNC_RECORDS_MAX>,
}

/// A page of a user's final FATs and moves, as a mirror has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesPage {
    /// The mirror's log, and how far this page, or everything before it, covers it. Whoever reads everything goes on from
    /// the cursor of the first page.
    pub cursor: LogCursor,
    /// Whether this goes through everything, in the order of keys, rather than through the log.
    pub whole: bool,
    /// The last key looked at, to go on after.
    pub after: Option<Blob<KEY_BYTES_MAX>>,
    /// Whether there is more now.
    pub more: bool,
    /// The records.
    pub records: Bounded<SyncRecord, SYNC_RECORDS_MAX>,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Still working on it. Sent every [`ALIVE_EVERY_MS`](super::ALIVE_EVERY_MS); another response follows.
    Alive,
    /// Done; whatever it was is on disk.
    Done,
    /// To [`Request::Announce`]: nodes worth knowing.
    Peers(Bounded<Carried<PeerRecord>, PEERS_MAX>),
    /// To [`Request::Allocate`].
    Provisional(ProvisionalFat),
    /// To [`Request::Allocate`], if it failed and vendors may hold room for it.
    Short {
        /// Why.
        refusal: Refusal,
        /// Vendors that may hold room for it, until they get a [`Request::Cancel`] or the offer lapses.
        asked: Bounded<NodeId, ALLOCATE_ASKED_MAX>,
    },
    /// To [`Request::Offer`] and [`Request::Renew`].
    Offered {
        /// The lease as it is now.
        lease: Carried<Lease>,
        /// Bytes of room that this offer added.
        granted: u64,
    },
    /// To [`Request::SubmitFats`]: one entry per final FAT, in order; none means stored.
    Submitted(Bounded<Option<Refusal>, FATS_PER_SUBMIT_MAX>),
    /// To [`Request::FatsOf`].
    Files(FilesPage),
    /// To [`Request::Vendors`], [`Request::VendorOf`], [`Request::Proofs`], [`Request::Since`], [`Request::Orders`] and
    /// [`Request::Wanted`], where `next` counts the positions that were looked at.
    Page(Page),
    /// To [`Request::Heads`]: those that are known, in any order.
    Heads(Bounded<Carried<VendorHead>, HEADS_MAX>),
    /// To [`Request::Cosign`].
    Cosigned(CarriedMove),
    /// To [`Request::Digest`].
    Digest(TableDigest),
    /// To [`Request::Compare`].
    Compared(Compared),
    /// To [`Request::LeaseOf`].
    Lease(Box<LeaseEvidence>),
    /// No.
    Refused(Refusal),
    /// To [`Request::Rebuild`]: it is stored.
    Stored(Carried<Receipt>),
    /// To [`Request::Ping`]: yes, and where the node is among the others. Whoever reads it looks at its bounds.
    Here(Coordinate),
}
