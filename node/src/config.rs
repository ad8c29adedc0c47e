//! The node's configuration: `DIR/fathom.toml`.
//!
//! `config/keys.rs` is the one table of every key with its meaning, unit and range; reading, `init --set` and the commented
//! file are all driven by it, so that none of them can forget a key. A value is checked when it enters a [`Config`],
//! wherever it comes from.
//!
//! This module knows nothing of the network or of how a value is used.

mod device;
mod keys;
mod rate;
mod read;
mod render;
mod schedule;
mod size;

use std::path::{Path, PathBuf};

use fathom_protocol::erasure::Code;
use serde::{Deserialize, Serialize};

pub use device::DeviceConfig;
pub use rate::format_rate;
pub use render::render_commented;
pub use schedule::{Caps, ScheduleEntry};
use schedule::{caps_at, next_change};
pub use size::{SizeError, format_size, parse_size};

/// Length of a configuration file, in bytes.
pub const CONFIG_BYTES_MAX: usize = 256 * 1024;

/// What a node does. A node has any set of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Stores files on the network and fetches them, for the person who holds the recovery phrase
    User,
    /// Offers storage of its devices
    Vendor,
    /// Keeps the table of all storage (the FAT) and hands out space
    Mirror,
    /// Lets newcomers into the network
    Bootstrap,
}

impl Role {
    /// Every role, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::User, Self::Vendor, Self::Mirror, Self::Bootstrap];

    /// The role as it is written on the command line and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Vendor => "vendor",
            Self::Mirror => "mirror",
            Self::Bootstrap => "bootstrap",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The whole configuration. `Config::default()` is what an empty file means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// What concerns every role.
    pub node: NodeConfig,
    /// The vendor role.
    pub vendor: VendorConfig,
    /// How long leases live. A vendor offers these times; a user asks for no longer.
    pub lease: LeaseConfig,
    /// The mirror role.
    pub mirror: MirrorConfig,
    /// The user role.
    pub user: UserConfig,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// What this node does; at least one role, none twice.
    pub roles: Vec<Role>,
    /// Multiaddresses to listen on, QUIC only.
    pub listen: Vec<String>,
    /// Multiaddresses under which others reach this node, if they differ from `listen` (a forwarded port).
    pub external: Vec<String>,
    /// How much it may send and receive while no entry of `schedule` says otherwise.
    pub caps: Caps,
    /// What background work may have of each cap at most, in percent.
    pub background_percent: u8,
    /// Whether traffic with the local network is capped like any other.
    pub cap_local: bool,
    /// Other caps at some times of the week; the first entry whose time it is counts.
    pub schedule: Vec<ScheduleEntry>,
    /// Whether addresses of its own interfaces are announced beside those: 1 or 0.
    pub announce_own: u8,
}

impl NodeConfig {
    /// The caps in force at `minute` of the week.
    #[must_use]
    pub fn caps_at(&self, minute: u16) -> Caps {
        caps_at(self.caps, &self.schedule, minute)
    }

    /// In how many minutes other caps are in force; none if never.
    #[must_use]
    pub fn next_change(&self, minute: u16) -> Option<u16> {
        next_change(self.caps, &self.schedule, minute)
    }
}

/// `[vendor]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorConfig {
    /// Where the storage stands; copies go to different zones. At most 64 bytes; empty means unstated.
    pub zone: String,
    /// Who runs it; copies go to different operators. At most 64 bytes; empty means unstated.
    pub operator: String,
    /// Seconds between two reports of the resources to the mirrors.
    pub report_seconds: u64,
    /// Seconds for which a migration's source keeps its copy.
    pub hold_seconds: u64,
    /// Share of the capacity in use, in percent, above which the vendor moves data elsewhere.
    pub overload_percent: u8,
    /// Share of the capacity in use, in percent, at which moving stops. Below `overload_percent`.
    pub relief_percent: u8,
    /// Sustained traffic, in MB/s (10^6 bytes), above which the vendor moves data elsewhere; 0: no threshold.
    pub bandwidth_mb_per_s: u64,
    /// Share of the capacity, in percent, that one user may lock and not fill.
    pub unsealed_percent: u8,
    /// The devices, each with its own directory.
    pub devices: Vec<DeviceConfig>,
}

/// `[lease]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// Seconds for which an offer waits to be taken.
    pub offer_seconds: u64,
    /// Seconds for which a taken lease waits for its final FAT.
    pub lock_seconds: u64,
    /// Seconds for which stored data is kept before its lease must be renewed.
    pub commit_seconds: u64,
    /// Seconds for which data stays readable and renewable after its lease expired.
    pub grace_seconds: u64,
}

/// `[mirror]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorConfig {
    /// Seconds between two requests to another mirror for what is missing here.
    pub poll_seconds: u64,
    /// Seconds between two comparisons of its table with another mirror's.
    pub reconcile_seconds: u64,
}

/// `[user]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserConfig {
    /// Copies of each chunk, each at another vendor.
    pub copies: usize,
    /// Shards of each stripe, each at another vendor, instead of whole copies; none: whole copies.
    pub erasure: Option<Code>,
    /// Chunks in transfer at a time.
    pub in_flight: usize,
    /// Bytes of a part: vendors split a chunk into parts of at most this size, not
    /// counting what sealing adds, and spread them over their devices.
    pub part_bytes: u32,
    /// Seconds between two looks for vendors that lost copies.
    pub check_seconds: u64,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            roles: vec![Role::User],
            listen: vec!["/ip4/0.0.0.0/udp/4600/quic-v1".to_owned()],
            external: Vec::new(),
            caps: Caps::default(),
            background_percent: 25,
            cap_local: false,
            schedule: Vec::new(),
            announce_own: 1,
        }
    }
}

impl Default for VendorConfig {
    fn default() -> Self {
        Self {
            zone: String::new(),
            operator: String::new(),
            report_seconds: 5,
            hold_seconds: 300,
            overload_percent: 90,
            relief_percent: 80,
            bandwidth_mb_per_s: 0,
            unsealed_percent: fathom_protocol::ledger::UNSEALED_PERCENT,
            devices: Vec::new(),
        }
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { offer_seconds: 120, lock_seconds: 86_400, commit_seconds: 2_678_400, grace_seconds: 604_800 }
    }
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self { poll_seconds: 2, reconcile_seconds: 180 }
    }
}

impl Default for UserConfig {
    fn default() -> Self {
        Self { copies: 3, erasure: None, in_flight: 8, part_bytes: 1024 * 1024, check_seconds: 600 }
    }
}

/// Why a configuration was refused. Each message names the key and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("there is no configuration at {}; create one with `fathom init`", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Longer than [`CONFIG_BYTES_MAX`].
    #[error("the configuration is longer than {CONFIG_BYTES_MAX} bytes; check that it is the right file")]
    TooLong,
    /// Not TOML.
    #[error("the configuration is not valid TOML: {0}")]
    Syntax(String),
    /// A key that no version of this program has.
    #[error("unknown key `{key}`{}", suggest(suggestion.as_deref()))]
    UnknownKey {
        /// The key, with its section.
        key: String,
        /// The known key that looks most like it.
        suggestion: Option<String>,
    },
    /// A value of the wrong type, out of range, or otherwise unusable.
    #[error("`{key}`: {problem}")]
    Value {
        /// The key, with its section.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// An `init --set` that is no `KEY=VALUE`.
    #[error("`{0}` is not KEY=VALUE, as in vendor.hold_seconds=60")]
    NoAssignment(String),
}

fn suggest(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(
        || "; `fathom init` writes a file with every key".to_owned(),
        |known| format!("; did you mean `{known}`?"),
    )
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Any [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                std::io::ErrorKind::NotFound => ConfigError::Missing { path },
                _ => ConfigError::Read { path, source },
            }
        })?;
        Self::parse(&text)
    }

    /// Reads and checks a configuration's text. Keys that are left out have their default.
    ///
    /// # Errors
    /// [`ConfigError::TooLong`], [`ConfigError::Syntax`], [`ConfigError::UnknownKey`] or [`ConfigError::Value`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        read::parse(text)
    }

    /// Sets one key from text, as `init --set KEY=VALUE` does: `vendor.hold_seconds` and `60`; lists with commas;
    /// `vendor.device` and `PATH:QUOTA[:RESERVE]` adds a device, `node.schedule` and `DAYS FROM-TO upload=RATE` an entry. What several keys must agree on is left to
    /// [`Config::check`], since they are set one after another.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKey`] or [`ConfigError::Value`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        read::set(self, key, value)
    }

    /// Checks what a single key cannot show: that relief is below overload, that roles and devices differ.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        read::check(self)
    }

    /// Whether this node has `role`.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.node.roles.contains(&role)
    }
}

#[cfg(test)]
mod tests;
