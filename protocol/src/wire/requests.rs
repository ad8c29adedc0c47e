//! What is asked, given back and announced under a signature, so that whoever passes it on cannot change it.

use serde::{Deserialize, Serialize};

use crate::codec::{Blob, Bounded};
use crate::head::{Addresses, Label};
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::limits::{
    ALLOCATE_VENDORS_MAX, CHUNKS_PER_MESSAGE_MAX, COPIES_MAX, FILES_PER_QUERY_MAX, KEY_BYTES_MAX, SHARDS_MAX,
};
use crate::sign::{RecordError, SignerId, record};
use crate::tags;
use crate::time::UnixMs;

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
