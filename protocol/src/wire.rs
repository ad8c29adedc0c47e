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

use serde::{Deserialize, Serialize};

use crate::codec::{Blob, Bounded, Text};
use crate::delta::VendorDelta;
use crate::fat::FinalFat;
use crate::fork::ForkProof;
use crate::head::{Addresses, Label, LeaseEvidence, VendorHead, VendorRecord};
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::lease::Lease;
use crate::limits::{
    ALLOCATE_ASKED_MAX, ALLOCATE_VENDORS_MAX, ANSWERS_MAX, BUNDLE_CHUNKS_MAX, CHUNKS_PER_MESSAGE_MAX, COPIES_MAX,
    FATS_PER_SUBMIT_MAX, FILES_PER_QUERY_MAX, GOSSIP_RECORDS_MAX, HEADS_MAX, KEY_BYTES_MAX, PEERS_MAX,
    REASON_BYTES_MAX, SHARDS_MAX, SYNC_RECORDS_MAX, VALIDATIONS_MAX,
};
use crate::moves::CarriedMove;
use crate::rebuild::Rebuild;
use crate::receipt::Receipt;
use crate::reconcile::{Compare, Compared, WantedList};
use crate::sign::{Carried, RecordError, SignerId, record};
use crate::tags;
use crate::time::UnixMs;

/// How often a side that owes an answer says that it is alive, in milliseconds.
pub const ALIVE_EVERY_MS: u64 = 500;
/// Silence of a peer that owes an answer after which the work goes elsewhere, in milliseconds.
pub const SILENCE_MS: u64 = 2_000;

/// The kind of a refusal, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The message did not decode, or a signature, order or limit was wrong.
    BadRequest,
    /// A signature is not its signer's, or the signer has no right to ask this.
    NotAuthorised,
    /// A version that this node does not speak.
    Version,
    /// The lease has no room for these bytes.
    OverLease,
    /// The lease's room or the request has expired.
    LeaseExpired,
    /// No such lease here.
    UnknownLease,
    /// The body was shorter or longer than announced.
    WrongLength,
    /// The body is not the chunk that was announced.
    WrongHash,
    /// Not enough storage.
    NoSpace,
    /// Who asks holds as much room that it did not fill as the vendor lets anybody have.
    Unsealed,
    /// Too few vendors, operators or zones.
    TooFewVendors,
    /// Too much at once; try again or elsewhere.
    Busy,
    /// The peer said nothing for [`SILENCE_MS`].
    Silent,
    /// The peer could not be reached.
    Unreachable,
    /// Not here.
    NotFound,
    /// It is here and damaged.
    Corrupt,
    /// A newer record is known.
    Stale,
    /// Another record with this sequence number is known.
    Conflict,
    /// The final FAT is stored; another device of its owner wrote one at the same time, and both are kept until one is chosen.
    Forked,
    /// This node does not have the role that was asked.
    WrongRole,
    /// The node failed; its log says more.
    Internal,
}

/// A refusal, with words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub reason: Text<REASON_BYTES_MAX>,
}

impl Refusal {
    /// A refusal with a reason, cut to its limit.
    #[must_use]
    pub fn new(kind: RefusalKind, reason: impl AsRef<str>) -> Self {
        Self { kind, reason: Text::cut(reason.as_ref()) }
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        let kind = match error {
            RecordError::BadSignature => RefusalKind::NotAuthorised,
            RecordError::Version(_) => RefusalKind::Version,
            RecordError::Decode(_) | RecordError::Invalid(_) => RefusalKind::BadRequest,
        };
        Self::new(kind, error.to_string())
    }
}

/// A node's roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Holds the FAT.
    pub mirror: bool,
    /// Offers storage.
    pub vendor: bool,
    /// Stores and fetches for a person.
    pub user: bool,
    /// Introduces nodes to each other.
    pub bootstrap: bool,
}

/// A node's own word on its roles and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who signs.
    pub node: NodeId,
    /// What it does.
    pub roles: Roles,
    /// Where to dial it.
    pub addresses: Addresses,
    /// When it was signed; the newer of two is kept.
    pub issued: UnixMs,
}

record!(PeerRecord, tags::sign::PEER, 4 * 1024, node);

/// What a request asks of vendors beside room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wants {
    /// Only vendors in these zones; in any if there are none.
    pub zones: Bounded<Label, COPIES_MAX>,
    /// Only vendors with this medium.
    pub media: Option<Label>,
    /// Measured bytes per second that the devices write together, at least; 0: any.
    pub bandwidth_min: u64,
    /// Microseconds of the slowest device's durable write, and of the mirror's round trip if it was measured, at most; 0: any.
    pub latency_us_max: u32,
}

/// A request for storage (figure 5): by a user for itself, or by a vendor that must move a user's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocateRequest {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// For whom the bytes are held.
    pub owner: OwnerId,
    /// Who signs, and who will fill the leases.
    pub authority: SignerId,
    /// The file, if the mirror must keep clear of vendors that hold it already.
    pub file: Option<FileId>,
    /// Copies wanted, or shards of each stripe, each at other operators and zones where there are any: 1 to [`SHARDS_MAX`].
    pub copies: u8,
    /// Vendors wanted for each copy, so that one copy's chunks spread; 1 at least.
    pub width: u8,
    /// Bytes wanted for each copy.
    pub bytes: u64,
    /// Every share is a multiple of this, the length of a full sealed chunk.
    pub unit: u32,
    /// Vendors that must not be chosen.
    pub exclude: Bounded<NodeId, ALLOCATE_VENDORS_MAX>,
    /// Zones to keep clear of while there are others.
    pub avoid_zones: Bounded<Label, COPIES_MAX>,
    /// What vendors must be like.
    pub wants: Wants,
    /// Random; the same request asked again through another mirror gets the same leases.
    pub nonce: Hash,
    /// After this the request is refused.
    pub expires: UnixMs,
}

record!(
    AllocateRequest,
    tags::sign::ALLOCATE,
    8 * 1024,
    authority,
    fn check(&self) -> Result<(), RecordError> {
        if self.copies == 0
            || usize::from(self.copies) > SHARDS_MAX
            || self.width == 0
            || self.unit == 0
            || self.bytes == 0
        {
            return Err(RecordError::Invalid("an allocation must ask for 1 to 16 copies of at least one byte"));
        }
        Ok(())
    }
);

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

/// A position in a mirror's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCursor {
    /// Which log.
    pub log: Hash,
    /// Everything up to here was seen.
    pub position: u64,
}

/// A user asks for its own final FATs and moves (figure 16): all of them, or what a mirror accepted since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerQuery {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who asks and signs.
    pub owner: OwnerId,
    /// The mirror asked, so that nobody can ask elsewhere with this.
    pub mirror: NodeId,
    /// These files, or all if none is named.
    pub files: Bounded<FileId, FILES_PER_QUERY_MAX>,
    /// Of all files: only what the mirror accepted after this. If its log is another one by now, it answers with everything.
    pub since: Option<LogCursor>,
    /// Of everything: only keys ([`crate::table::Key::to_bytes`]) after this one, in order: the next page.
    pub after: Option<Blob<KEY_BYTES_MAX>>,
    /// After this the query is refused.
    pub expires: UnixMs,
}

record!(OwnerQuery, tags::sign::QUERY, FILES_PER_QUERY_MAX * 20 + 1024, owner);

/// A user's word after downloads: to each vendor about its chunks, to mirrors about the whole (figures 19 and 20).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validation {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who fetched and signs.
    pub owner: OwnerId,
    /// Whose service this is about.
    pub vendor: NodeId,
    /// Chunks that arrived and verified.
    pub good: Bounded<ChunkId, CHUNKS_PER_MESSAGE_MAX>,
    /// Chunks that were asked for and did not arrive, or did not verify.
    pub bad: Bounded<ChunkId, CHUNKS_PER_MESSAGE_MAX>,
    /// When.
    pub at: UnixMs,
}

record!(Validation, tags::sign::VALIDATION, 2 * CHUNKS_PER_MESSAGE_MAX * 40 + 1024, owner);

/// The lease's authority gives room back that it will not fill (figure 14).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who signs: the lease's authority.
    pub authority: SignerId,
    /// Whose lease.
    pub vendor: NodeId,
    /// Which.
    pub lease: LeaseId,
    /// Bytes of room given back, at most.
    pub bytes: u64,
    /// Random: the same message given twice counts once.
    pub nonce: Hash,
}

record!(Unused, tags::sign::UNUSED, 512, authority);

/// A request for storage failed, or is not wanted any more: a vendor gives back what it locked for it, whatever that was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who signed the request, and signs this.
    pub authority: SignerId,
    /// The vendor that may hold room for it.
    pub vendor: NodeId,
    /// The request's nonce.
    pub request: Hash,
}

record!(Cancel, tags::sign::CANCEL, 512, authority);

/// A user prolongs a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who signs.
    pub owner: OwnerId,
    /// Whose lease.
    pub vendor: NodeId,
    /// Which.
    pub lease: LeaseId,
    /// After this the request is refused.
    pub expires: UnixMs,
}

record!(Renew, tags::sign::RENEW, 512, owner);

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

/// What a request asks. One per stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Are you there: measures the path.
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
    /// Still working on it. Sent every [`ALIVE_EVERY_MS`]; another response follows.
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
}

/// What a vendor says back along the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkAnswer {
    /// Still at work.
    Alive,
    /// A vendor of the chain has it.
    Receipt(Carried<Receipt>),
    /// A vendor of the chain does not have it.
    Failed {
        /// Which.
        vendor: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing more will come.
    Done,
}

/// What is said of one of the chunks that came on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// Which: its place among the headers, from 0. Without meaning for [`ChunkAnswer::Alive`] and [`ChunkAnswer::Done`].
    pub number: u8,
    /// What.
    pub answer: ChunkAnswer,
}

/// One frame of answers about the chunks that came on a stream.
pub type ChunkAnswers = Bounded<Numbered, ANSWERS_MAX>;

/// What opens a fetch stream: the chunks that are wanted on it, each asked for by its owner.
pub type FetchRequests = Bounded<Carried<FetchRequest>, BUNDLE_CHUNKS_MAX>;

/// A request for the bytes of a chunk (figure 19).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who asks and signs.
    pub owner: OwnerId,
    /// Who is asked.
    pub vendor: NodeId,
    /// What.
    pub chunk: ChunkId,
    /// First byte wanted.
    pub offset: u32,
    /// Bytes wanted; the answer covers whole groups of 16 KiB around them.
    pub length: u32,
    /// After this the request is refused.
    pub expires: UnixMs,
}

record!(FetchRequest, tags::sign::FETCH, 1024, owner);

/// What precedes the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchAnswer {
    /// Still reading.
    Alive,
    /// The bao encoding of the range follows.
    Found {
        /// Length of the whole chunk, bytes.
        chunk_length: u32,
        /// Length of the encoding that follows, bytes.
        encoded_length: u32,
    },
    /// No.
    Refused(Refusal),
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
