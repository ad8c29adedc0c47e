//! Of `status`: what a node sends and receives.

use serde::{Deserialize, Serialize};

/// One way of a node's traffic, bytes of UDP payload. The local network is not in it unless it is capped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WayStatus {
    /// Bytes per second that it may be; absent: no cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<u64>,
    /// Bytes per second over the last five seconds.
    pub rate: u64,
    /// Bytes since the node started.
    pub bytes: u64,
}

/// What a node sends and receives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficStatus {
    /// What it sends.
    pub upload: WayStatus,
    /// What it receives.
    pub download: WayStatus,
    /// Streams that it opened to others since it started: one for each thing that it asked.
    pub streams: u64,
    /// Until when these caps are in force; absent: until the configuration is changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Whether the local network is capped, too.
    pub local: bool,
}
