//! A lease: an extent of a vendor's capacity that is locked for one user. The vendor is its only writer.
//!
//! ```text
//! OFFERED (120 s) -> LOCKED (24 h) -> COMMITTED (31 d, renewed) -> erased -> gone
//!                                        expiry -> GRACE (7 d: readable, renewable) -> gone
//! ```
//! A lease that holds committed bytes can be offered more room; then [`Lease::room_expires`] bounds the room that is
//! not filled yet, and [`Lease::expires`] goes on bounding what is stored.

use serde::{Deserialize, Serialize};

use crate::ids::{FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::sign::{RecordError, SignerId, record};
use crate::tags;
use crate::time::UnixMs;

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Countersigned, no byte stored against the newest room yet.
    Offered,
    /// Bytes are arriving.
    Locked,
    /// Named by a final FAT; only stored bytes are held.
    Committed,
    /// Past its expiry; readable and renewable until grace ends.
    Grace,
}

impl LeaseState {
    /// The name shown to people and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Locked => "locked",
            Self::Committed => "committed",
            Self::Grace => "grace",
        }
    }
}

/// The newest final FAT that the vendor acted on for a lease. A vendor that notes it here cannot drop the lease later and say
/// that nobody used it ([`crate::fork`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The file.
    pub file: FileId,
    /// The final FAT's identity.
    pub fat: Hash,
}

/// An extent of `vendor`'s capacity, held for `owner`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who stores, and who signs this.
    pub vendor: NodeId,
    /// Drawn at random by the vendor.
    pub id: LeaseId,
    /// Grows by one with each change.
    pub revision: u64,
    /// For whom the bytes are held: who may read, renew and release them.
    pub owner: OwnerId,
    /// Whose signature on a hop fills the lease: the owner's, or in a migration the source vendor's.
    pub authority: SignerId,
    /// Bytes held in all.
    pub bytes: u64,
    /// Bytes stored, at most `bytes`.
    pub used: u64,
    /// Where it is in its life.
    pub state: LeaseState,
    /// Until when the room that is not filled is held.
    pub room_expires: UnixMs,
    /// Until when what is stored is held, before grace.
    pub expires: UnixMs,
    /// The final FAT that committed bytes of it last; none before the first.
    pub named: Option<Named>,
}

impl Lease {
    /// Bytes held and not stored.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.bytes.saturating_sub(self.used)
    }
}

record!(
    Lease,
    tags::sign::LEASE,
    1024,
    vendor,
    fn check(&self) -> Result<(), RecordError> {
        if self.used > self.bytes {
            return Err(RecordError::Invalid("a lease uses more bytes than it holds"));
        }
        Ok(())
    }
);
