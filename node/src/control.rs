//! The control socket: how the command line speaks to a running node.
//!
//! One connection carries one request. The client sends one JSON line, [`ControlRequest`]; the server answers with
//! any number of [`ControlEvent`] lines and then one final line, `{"result": ...}` or
//! `{"error": {"kind", "message", "hint"}}`. Between them it sends empty lines as a sign of life. A client that closes
//! its connection cancels its request. A line that begins with `quiet ` and goes on with the request asks for no events.
//!
//! The socket's file is readable and writable for its owner only, which is the whole authorisation.
//! This module knows nothing of what a command does: it drives [`Commands`].

mod client;
mod error;
mod event;
mod line;
pub mod results;
mod server;
mod socket;

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use client::ControlClient;
pub use error::{CommandError, ErrorKind};
pub use event::{ControlEvent, EVENTS_QUEUED_MAX, EventSink, ProvisionalLocation};
pub use server::{ControlError, ControlServer, serve};

/// What a request line begins with whose client wants no events.
const QUIET: &[u8] = b"quiet ";
/// Longest request line, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Longest answer line, in bytes: a listing of about 300,000 files.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What vendors of a put must be like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// Zones to store in; any if there are none.
    pub zones: Vec<String>,
    /// Medium, such as "ssd".
    pub media: Option<String>,
    /// Least measured write speed, MB/s (10^6 bytes); 0: any.
    pub bandwidth_mb_per_s: u64,
    /// Most milliseconds to reach a vendor and write durably there; 0: any.
    pub latency_ms: u32,
    /// For measurements: vendors, first of all each other's order in a chain, whatever is known of their links.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<String>,
}

impl Wanted {
    fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// What the command line asks of a node. Paths are absolute, since the node has another working directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Store a file, or every file under a directory. Answer: [`results::PutResult`].
    Put {
        /// The file or directory, absolute.
        path: PathBuf,
        /// Name on the network; of a directory's files, what comes before `/relative/path`.
        name: String,
        /// Copies of each chunk; the configuration's number if absent.
        #[serde(default)]
        copies: Option<usize>,
        /// Erasure coding instead of copies, such as "4+2".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        erasure: Option<String>,
        /// What its vendors must be like.
        #[serde(default, skip_serializing_if = "Wanted::is_any")]
        wanted: Wanted,
    },
    /// Fetch a file, or every file whose name begins with `name/`. Answer: [`results::GetResult`].
    Get {
        /// Name on the network.
        name: String,
        /// Where to, absolute. A file: this path, or inside it if it is a directory. A tree: below this path.
        output: PathBuf,
        /// Free the storage once everything is here and checked.
        #[serde(default)]
        release: bool,
        /// Of a file with several versions this one, from 1; the newest if absent.
        #[serde(default)]
        version: Option<usize>,
    },
    /// Fetch a range of a file, and nothing else of it. Answer: [`results::RangeResult`].
    GetRange {
        /// Name on the network.
        name: String,
        /// The file that it is written to, absolute.
        output: PathBuf,
        /// First byte, from 0.
        first: u64,
        /// Last byte; the end of the file if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<u64>,
        /// Of a file with several versions this one, from 1; the newest if absent.
        #[serde(default)]
        version: Option<usize>,
    },
    /// Show the versions of a file that devices stored at the same time, or keep one. Answer: [`results::ResolveResult`].
    Resolve {
        /// Name on the network.
        name: String,
        /// The version to keep, from 1; the others are freed.
        #[serde(default)]
        keep: Option<usize>,
    },
    /// Make copies again that vendors lost. Answer: [`results::RepairResult`].
    Repair {
        /// Files or trees; all if there are none.
        #[serde(default)]
        names: Vec<String>,
        /// Vendors that are given up, by the first hexadecimal digits of their ids: what they have is copied to others.
        #[serde(default)]
        without: Vec<String>,
    },
    /// List the user's files. Answer: [`results::LsResult`].
    Ls {
        /// Only this file, or the files below this name.
        #[serde(default)]
        prefix: Option<String>,
    },
    /// Free the storage of files without fetching them. Answer: [`results::RmResult`].
    Rm {
        /// Names of files or of trees.
        names: Vec<String>,
    },
    /// Describe the node. Answer: [`results::StatusResult`].
    Status,
    /// Show the FAT. Answer: [`results::FatResult`], or [`results::FatDigestResult`] for the digest.
    Fat {
        /// Only the digest.
        #[serde(default)]
        digest: bool,
        /// Ask this mirror, a node id in hexadecimal.
        #[serde(default)]
        mirror: Option<String>,
    },
    /// Tell the story of one lease, with its proof. Answer: [`results::LeaseResult`].
    Lease {
        /// The lease, or the first digits of its identifier.
        lease: String,
        /// The vendor, a node id in hexadecimal; with the whole identifier of a lease that is gone, its absence there is proven.
        #[serde(default)]
        vendor: Option<String>,
        /// Ask this mirror, a node id in hexadecimal.
        #[serde(default)]
        mirror: Option<String>,
    },
    /// Explain which vendors would be used. Answer: [`results::PathResult`].
    Path {
        /// For fetching this file; for storing if absent.
        #[serde(default)]
        name: Option<String>,
    },
    /// Bring back the list of files. `user.key` is in place when this is sent: a node that runs reads it again.
    /// Answer: [`results::RecoverResult`].
    Recover,
    /// List the vendor's devices. Answer: [`results::DevicesResult`].
    DeviceList,
}

impl ControlRequest {
    /// The command's name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put { .. } => "put",
            Self::Get { .. } | Self::GetRange { .. } => "get",
            Self::Ls { .. } => "ls",
            Self::Rm { .. } => "rm",
            Self::Status => "status",
            Self::Fat { .. } => "fat",
            Self::Lease { .. } => "fat --lease",
            Self::Path { .. } => "path",
            Self::Resolve { .. } => "fat resolve",
            Self::Repair { .. } => "repair",
            Self::Recover => "recover",
            Self::DeviceList => "device list",
        }
    }
}

/// What a node does for a request. The same object serves the control socket and commands without a running node.
pub trait Commands: Send + Sync + 'static {
    /// Runs one request. Dropping the future cancels it, and must leave a state from which the same request goes on.
    /// The result is one of [`results`] as JSON.
    fn run(
        self: Arc<Self>,
        request: ControlRequest,
        events: EventSink,
    ) -> BoxFuture<'static, Result<serde_json::Value, CommandError>>;
}

/// The last line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Final {
    /// The command's result.
    Result(serde_json::Value),
    /// Why there is none.
    Error(CommandError),
}

impl From<Result<serde_json::Value, CommandError>> for Final {
    fn from(outcome: Result<serde_json::Value, CommandError>) -> Self {
        outcome.map_or_else(Self::Error, Self::Result)
    }
}

#[cfg(test)]
mod tests;
