//! Of `path`: the ways to vendors.

use serde::{Deserialize, Serialize};

/// One vendor of `path`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathVendor {
    /// The vendor.
    pub vendor: String,
    /// Its zone.
    pub zone: String,
    /// Round trip in milliseconds, if it was measured.
    pub rtt_ms: Option<f64>,
    /// By how much round trips vary, milliseconds.
    pub variation_ms: f64,
    /// Share of what was sent there lately that was lost, 0 to 1.
    pub loss: f64,
    /// Bytes per second that it sends to others, as measured here, or else as it says.
    pub up_bytes_per_s: Option<u64>,
    /// The same of what it receives.
    pub down_bytes_per_s: Option<u64>,
    /// Bytes per second that came from it to this node of late.
    pub from_bytes_per_s: Option<u64>,
    /// Hops between here and there: 1 for a direct connection, 2 over a relay.
    pub hops: u64,
    /// Share of this node's calls that it answered, 0 to 1.
    pub uptime: f64,
    /// Transfers that it says it has under way.
    pub load: f64,
    /// Seconds until a chunk of 4 MiB is expected to be stored there, or fetched from there.
    pub seconds: f64,
    /// The same in milliseconds: vendors are ordered by it.
    pub score: f64,
    /// Whether it would be used: it did not fail a moment ago.
    pub chosen: bool,
    /// Its place in the chain that would be used, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<u64>,
}

/// Of `path`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathResult {
    /// Of a file with erasure coding its shards, such as `4+2`: any four of its six vendors give it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasure: Option<String>,
    /// Best first.
    pub vendors: Vec<PathVendor>,
    /// For storing: seconds until a chunk of 4 MiB is expected to be at all vendors of the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_seconds: Option<f64>,
}
