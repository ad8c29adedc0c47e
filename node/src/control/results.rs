//! The JSON results of the commands, as the command line prints them with `--json`.
//!
//! Identifiers are hexadecimal texts, sizes are bytes, instants are milliseconds since the Unix epoch. Fields that a
//! newer node adds are ignored; fields that an older one lacks have their default.

mod lease;
mod path;
mod traffic;

use serde::{Deserialize, Serialize};

pub use lease::{LeaseMove, LeaseProofResult, LeaseRecord, LeaseResult, LeaseUse};
pub use path::{PathResult, PathVendor};
pub use traffic::{TrafficStatus, WayStatus};

/// A vendor that was replaced while a file was stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replaced {
    /// The chunk.
    pub chunk: String,
    /// The vendor that failed.
    pub vendor: String,
    /// Why, for a person.
    pub reason: String,
}

/// Of `put`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PutResult {
    /// Files stored.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Chunks of these files.
    pub chunks: u64,
    /// Copies of each chunk; 1 with erasure coding.
    pub copies: u64,
    /// Erasure coding, such as `4+2`; absent for whole copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasure: Option<String>,
    /// Copies of chunks, or shards, that were acknowledged in this run.
    pub sent_chunks: u64,
    /// Copies of chunks, or shards, that an earlier run had stored.
    pub resumed_chunks: u64,
    /// Vendors that failed and were replaced.
    pub replaced: Vec<Replaced>,
    /// What a person should know, for example that copies could not be spread over zones.
    pub warnings: Vec<String>,
    /// Mirrors that acknowledged the final FAT, the smallest number over all files.
    pub mirrors_acked: u64,
    /// How long it took.
    pub seconds: f64,
}

/// A vendor from which something could not be fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedSource {
    /// The vendor.
    pub vendor: String,
    /// Why, for a person.
    pub reason: String,
}

/// Of `get`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GetResult {
    /// Files fetched.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Chunks of these files.
    pub chunks: u64,
    /// Bytes from each vendor.
    pub by_vendor: std::collections::BTreeMap<String, u64>,
    /// Vendors that failed; others gave the data.
    pub failed_sources: Vec<FailedSource>,
    /// Whether the storage was freed.
    pub released: bool,
    /// Files of which there are several versions, for people.
    pub warnings: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Of `get --range`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RangeResult {
    /// First byte of the range, from 0.
    pub first: u64,
    /// Its length.
    pub bytes: u64,
    /// Size of the whole file.
    pub size: u64,
    /// Bytes of ciphertext that were asked for and came, verified.
    pub fetched: u64,
    /// Requests to vendors.
    pub requests: u64,
    /// Bytes of ciphertext from each vendor.
    pub by_vendor: std::collections::BTreeMap<String, u64>,
    /// How long it took.
    pub seconds: f64,
}

/// One file of `ls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileEntry {
    /// Name on the network.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Copies of each chunk; 1 with erasure coding.
    pub copies: u64,
    /// Erasure coding, such as `4+2`; absent for whole copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasure: Option<String>,
    /// How many final FATs it had.
    pub seq: u64,
    /// When the file was last changed, before it was stored.
    pub modified: u64,
    /// Versions that were stored at the same time; 1 unless one has to be chosen with `fat resolve`.
    pub versions: u64,
}

/// Of `ls`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LsResult {
    /// By name.
    pub files: Vec<FileEntry>,
    /// How long ago mirrors were last read, when none answers now; absent if the list is fresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
}

/// One of several versions of a file that were stored at the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionEntry {
    /// By which it is chosen, from 1.
    pub version: u64,
    /// Whether this is a device's removal of the file.
    pub removed: bool,
    /// Size.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Copies of each chunk; 1 with erasure coding.
    pub copies: u64,
    /// Erasure coding, such as `4+2`; absent for whole copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasure: Option<String>,
    /// When the file was last changed, before it was stored.
    pub modified: u64,
    /// When it was stored.
    pub stored: u64,
}

/// Of `fat resolve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolveResult {
    /// The file.
    pub name: String,
    /// Its versions, the one that was stored first in front.
    pub versions: Vec<VersionEntry>,
    /// The one that was kept, if one was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
    /// Mirrors that acknowledged the choice.
    pub mirrors_acked: u64,
}

/// A file that could not be repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unrepaired {
    /// The file.
    pub name: String,
    /// Why, for a person.
    pub reason: String,
}

/// Of `repair`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RepairResult {
    /// Files looked at.
    pub files: u64,
    /// Leases renewed, or asked about, in all, without those of vendors that are given up.
    pub leases: u64,
    /// Those of them whose vendor did not answer: nothing is known of what is there.
    pub unanswered: u64,
    /// Copies that were gone.
    pub lost_copies: u64,
    /// Copies and shards that were made again.
    pub made_copies: u64,
    /// Those of them that the vendors which have them now made from other vendors' shards.
    pub made_by_vendors: u64,
    /// Files for which that was done.
    pub repaired: u64,
    /// Files of which something is still missing.
    pub failed: Vec<Unrepaired>,
}

/// Of `rm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RmResult {
    /// Files removed.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Mirrors that acknowledged the release, the smallest number over all files.
    pub mirrors_acked: u64,
}

/// A device of a vendor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceEntry {
    /// The device.
    pub id: String,
    /// Its directory; absent where others look.
    pub path: String,
    /// Bytes that may be used.
    pub quota: u64,
    /// Bytes in use, temporary files included.
    pub used: u64,
    /// Bytes that can still be used.
    pub free: u64,
    /// For example `ok`, `full` or `failed`.
    pub state: String,
    /// Parts of chunks on it.
    pub parts: u64,
}

/// Of `device list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DevicesResult {
    /// In the order of the configuration.
    pub devices: Vec<DeviceEntry>,
}

/// One vendor of `fat`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FatVendor {
    /// The vendor.
    pub vendor: String,
    /// Its zone.
    pub zone: String,
    /// Who runs it.
    pub operator: String,
    /// Bytes on offer.
    pub capacity: u64,
    /// Bytes under live leases.
    pub locked: u64,
    /// Bytes that hold data.
    pub used: u64,
    /// Bytes that can still be leased.
    pub free: u64,
    /// Live leases.
    pub leases: u64,
    /// Epoch of its head.
    pub epoch: u64,
    /// Sequence number of its head.
    pub seq: u64,
    /// Age of its head.
    pub age_seconds: f64,
    /// Round trip from the node that answers, in milliseconds, if it measured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// `good`, `full`, `degraded`, `suspect`, `old` or `quarantined`.
    pub health: String,
    /// The same for a person, with what is wrong.
    pub health_note: String,
    /// Its devices, as it reports them.
    pub devices: Vec<serde_json::Value>,
    /// Where it is reached.
    pub addresses: Vec<String>,
}

/// The sums of `fat` over its vendors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FatTotal {
    /// Number of vendors.
    pub vendors: u64,
    /// Bytes on offer.
    pub capacity: u64,
    /// Bytes under live leases.
    pub locked: u64,
    /// Bytes that hold data.
    pub used: u64,
    /// Bytes that can still be leased.
    pub free: u64,
    /// Live leases.
    pub leases: u64,
}

/// One lease of `fat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FatLease {
    /// The vendor.
    pub vendor: String,
    /// The lease.
    pub id: String,
    /// Its user.
    pub owner: String,
    /// Bytes locked.
    pub bytes: u64,
    /// Bytes that hold data.
    pub used: u64,
    /// For example `offered`, `locked` or `committed`.
    pub state: String,
    /// When it ends.
    pub expires: u64,
}

/// Of `fat`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FatResult {
    /// The mirror whose table this is.
    pub mirror: String,
    /// The table's digest.
    pub digest: String,
    /// Every vendor.
    pub vendors: Vec<FatVendor>,
    /// Every live lease.
    pub leases: Vec<FatLease>,
    /// The sums over the vendors.
    pub total: FatTotal,
    /// Number of final FATs.
    pub files: u64,
    /// Number of moves.
    pub moves: u64,
}

/// Of `fat --digest`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FatDigestResult {
    /// The table's digest.
    pub digest: String,
    /// Number of heads.
    pub heads: u64,
    /// Number of live leases.
    pub leases: u64,
    /// Number of final FATs.
    pub files: u64,
    /// Number of moves.
    pub moves: u64,
}

/// A mirror as `status` sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MirrorSeen {
    /// The mirror.
    pub node: String,
    /// Whether it answers.
    pub reachable: bool,
    /// Round trip in milliseconds, if it was measured.
    pub rtt_ms: Option<f64>,
}

/// The vendor role in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VendorStatus {
    /// Bytes on offer.
    pub capacity: u64,
    /// Bytes under live leases.
    pub locked: u64,
    /// Bytes that hold data.
    pub used: u64,
    /// Bytes that can still be leased.
    pub free: u64,
    /// Chunks held.
    pub chunks: u64,
    /// The devices.
    pub devices: Vec<DeviceEntry>,
    /// Chunks that were moved to other vendors, ever.
    pub migrations: u64,
    /// What its operator must know and do, if anything: a proof against it, or its key in use elsewhere.
    pub warning: Option<String>,
}

/// The mirror role in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MirrorStatus {
    /// Number of heads.
    pub heads: u64,
    /// Number of live leases.
    pub leases: u64,
    /// Number of final FATs.
    pub files: u64,
    /// Number of moves.
    pub moves: u64,
    /// The table's digest.
    pub digest: String,
}

/// The user role in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserStatus {
    /// The user's public key.
    pub owner: String,
    /// Files stored.
    pub files: u64,
    /// How files are stored unless a put says otherwise: `3 copies`, or `4+2` for erasure coding.
    pub redundancy: String,
    /// Puts that were interrupted and can be resumed.
    pub pending_puts: u64,
}

/// Of `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusResult {
    /// The node.
    pub node: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Peers connected.
    pub peers: u64,
    /// What it sends and receives, and how much it may.
    pub traffic: TrafficStatus,
    /// The mirrors that it knows.
    pub mirrors: Vec<MirrorSeen>,
    /// If it is a vendor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<VendorStatus>,
    /// If it is a mirror.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorStatus>,
    /// If it serves a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserStatus>,
}

/// Of `recover`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecoverResult {
    /// The user's public key.
    pub owner: String,
    /// Files found.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
}
