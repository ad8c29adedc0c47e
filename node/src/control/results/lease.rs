//! Of `fat --lease`.

use serde::{Deserialize, Serialize};

/// The story of one lease.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseResult {
    /// The lease.
    pub lease: String,
    /// Who holds it, or held it.
    pub vendor: String,
    /// The vendor's zone.
    pub zone: String,
    /// Whether the vendor's newest head commits to it.
    pub live: bool,
    /// What the vendor signed, if it is live.
    pub record: Option<LeaseRecord>,
    /// Final FATs of the asking user that use it.
    pub used_by: Vec<LeaseUse>,
    /// Moves of the asking user's chunks to it and away from it.
    pub moves: Vec<LeaseMove>,
    /// What proves it.
    pub proof: LeaseProofResult,
}

/// A lease as its vendor signed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseRecord {
    /// Its user.
    pub owner: String,
    /// Grows with each change.
    pub revision: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes stored.
    pub used: u64,
    /// For example `offered`, `locked` or `committed`.
    pub state: String,
    /// Until when room that is not filled is held.
    pub room_expires: u64,
    /// Until when what is stored is held, before grace.
    pub expires: u64,
}

/// What a file of the asking user has under a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseUse {
    /// The file.
    pub file: String,
    /// Its name, if it could be read.
    pub name: Option<String>,
    /// Sequence number of the final FAT.
    pub seq: u64,
    /// Bytes of the file there.
    pub bytes: u64,
}

/// A chunk that came to a lease or left it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseMove {
    /// The chunk.
    pub chunk: String,
    /// Its length.
    pub length: u64,
    /// Who had it.
    pub from: String,
    /// Under which lease.
    pub from_lease: String,
    /// Who has it.
    pub to: String,
    /// Under which lease.
    pub to_lease: String,
    /// When.
    pub at: u64,
}

/// The vendor's head, and the proof under its root. Both were verified by the node that answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseProofResult {
    /// True, or there is no answer.
    pub verified: bool,
    /// `present` or `absent`.
    pub proves: String,
    /// The mirror that showed it.
    pub mirror: String,
    /// Epoch of the head.
    pub epoch: u64,
    /// Sequence number of the head.
    pub seq: u64,
    /// When the head was signed.
    pub issued: u64,
    /// Its age.
    pub age_seconds: u64,
    /// The root.
    pub root: String,
    /// How many leases the root commits to.
    pub leases: u64,
    /// Length of the proof.
    pub bytes: u64,
}
