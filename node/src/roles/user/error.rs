//! Why the user role could not do what it was asked.

use std::path::PathBuf;

use fathom_protocol::erasure::Code;
use fathom_protocol::fat::ManifestError;
use fathom_protocol::seal::SealError;
use fathom_protocol::sign::RecordError;
use fathom_protocol::wire::{Refusal, RefusalKind};

use crate::control::{CommandError, ErrorKind};

/// A failed put, get, listing or removal.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No mirror is known, or none answered.
    #[error("no mirror answered ({0} known)")]
    NoMirror(usize),
    /// A mirror or vendor refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A chunk or shard could not be placed.
    #[error("{} of {name} found no place: {reason}", which(*column, *code))]
    NoPlace {
        /// The file.
        name: String,
        /// Which copy, or which column of shards, from 1.
        column: usize,
        /// Whose shards, if it is stored with parity.
        code: Option<Code>,
        /// What was tried last.
        reason: String,
    },
    /// The final FAT is at too few mirrors.
    #[error("{acked} of {wanted} mirrors stored the final FAT: {reason}")]
    NotStored {
        /// How many did.
        acked: usize,
        /// How many must.
        wanted: usize,
        /// What the others said.
        reason: String,
    },
    /// The source is not there or cannot be stored.
    #[error("{0}")]
    Source(String),
    /// The source changed while it was read.
    #[error("{} changed while it was being stored", .0.display())]
    SourceChanged(PathBuf),
    /// A local file operation.
    #[error("failed to {operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The journal of interrupted puts.
    #[error("the journal of this user failed: {0}")]
    Journal(String),
    /// A file of which one version has to be chosen first.
    #[error("{name} has {versions} versions, which were stored at the same time")]
    Forked {
        /// The file.
        name: String,
        /// How many.
        versions: usize,
    },
    /// A file has no such version.
    #[error("{name} has {versions} versions, and no version {asked}")]
    NoVersion {
        /// The file.
        name: String,
        /// How many.
        versions: usize,
        /// Which was asked for.
        asked: usize,
    },
    /// The list of files on this machine.
    #[error("the catalogue of this user's files failed: {0}")]
    Catalogue(String),
    /// A journal with a layout that this build does not know.
    #[error(
        "{} has format {found} and this build reads format {read}: run the newer build, or move the file away and repeat the puts that were interrupted",
        path.display()
    )]
    JournalFormat {
        /// Which.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The format that this build reads and writes.
        read: u32,
    },
    /// It is not clear which vendor is meant.
    #[error("{} vendor with files of yours has an id that begins with {prefix}", if *several { "more than one" } else { "no" })]
    WhichVendor {
        /// What was given of its id.
        prefix: String,
        /// Whether several begin so.
        several: bool,
    },
    /// No such file of this user.
    #[error("there is no file or tree named {0}")]
    NotFound(String),
    /// No source gave a chunk.
    #[error("chunk {index} of {name} could not be fetched: {reason}")]
    ChunkLost {
        /// The file.
        name: String,
        /// Which chunk, from 0.
        index: usize,
        /// What each source said.
        reason: String,
    },
    /// Data from the network does not verify.
    #[error("{0}")]
    Integrity(String),
    /// Something that should not happen.
    #[error("{0}")]
    Internal(String),
}

impl UserError {
    /// An I/O error with its operation and path.
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}

impl From<RecordError> for UserError {
    fn from(error: RecordError) -> Self {
        Self::Integrity(format!("a record from the network was refused: {error}"))
    }
}

impl From<ManifestError> for UserError {
    fn from(error: ManifestError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<SealError> for UserError {
    fn from(error: SealError) -> Self {
        Self::Integrity(error.to_string())
    }
}

/// What found no place.
fn which(column: usize, code: Option<Code>) -> String {
    match code {
        None => format!("copy {column} of a chunk"),
        Some(code) => format!("one of the {} shards ({code}) of a stripe", code.total()),
    }
}

fn refusal_kind(kind: RefusalKind) -> (ErrorKind, &'static str) {
    match kind {
        RefusalKind::NoSpace | RefusalKind::TooFewVendors => (
            ErrorKind::NoSpace,
            "see `fathom fat` for what is on offer; store less, use --copies or --erasure with fewer vendors, or wait for more",
        ),
        RefusalKind::Silent | RefusalKind::Unreachable => {
            (ErrorKind::Network, "run the same command again; it goes on where it was")
        }
        RefusalKind::Conflict | RefusalKind::Stale => (
            ErrorKind::Other,
            "another device of yours changed this file; look at `fathom ls`, then run the command again",
        ),
        _ => (ErrorKind::Other, "run the same command again; if it stays, the log of the node says more"),
    }
}

impl From<UserError> for CommandError {
    fn from(error: UserError) -> Self {
        let (kind, hint) = match &error {
            UserError::NoMirror(0) => {
                (ErrorKind::Network, "join a network with `fathom join`, or wait until the node has found its mirrors")
            }
            UserError::NoMirror(_) => {
                (ErrorKind::Network, "check this machine's connection; `fathom status` lists the mirrors")
            }
            UserError::Refused(refusal) => refusal_kind(refusal.kind),
            UserError::NoPlace { .. } => (
                ErrorKind::NoSpace,
                "what was stored is kept; run the same command again when more vendors are there, or with fewer --copies or shards (--erasure)",
            ),
            UserError::NotStored { .. } => {
                (ErrorKind::Network, "the data is at its vendors; run the same command again to finish")
            }
            UserError::Source(_) => (ErrorKind::NotFound, "check the path"),
            UserError::SourceChanged(_) => (ErrorKind::Other, "run the command again when nothing writes to the file"),
            UserError::Io { .. } => (ErrorKind::Other, "mend the cause and run the same command again"),
            UserError::Journal(_) => {
                (ErrorKind::Other, "if the disk is full, make room; stored files are not affected")
            }
            UserError::Catalogue(_) => (
                ErrorKind::Other,
                "if the disk is full, make room; the catalogue can be removed, and is then read from the mirrors again",
            ),
            UserError::Forked { name, .. } => {
                let hint = format!(
                    "`fathom fat resolve {name}` shows them, `fathom get {name} --version N` fetches one, and `fathom fat resolve {name} --keep N` keeps one"
                );
                return Self::new(ErrorKind::Other, error.to_string()).hint(hint);
            }
            UserError::NoVersion { name, .. } => {
                return Self::new(ErrorKind::Usage, error.to_string())
                    .hint(format!("`fathom fat resolve {name}` shows them"));
            }
            UserError::WhichVendor { .. } => {
                (ErrorKind::Usage, "`fathom fat` lists all vendors, `fathom path NAME` those of a file")
            }
            UserError::JournalFormat { .. } => (ErrorKind::Other, "stored files are not affected"),
            UserError::NotFound(_) => (ErrorKind::NotFound, "`fathom ls` lists the names"),
            UserError::ChunkLost { .. } => (
                ErrorKind::Integrity,
                "run the same command again when more vendors are reachable; what arrived is kept",
            ),
            UserError::Integrity(_) => (ErrorKind::Integrity, "check that this is the right recovery phrase"),
            UserError::Internal(_) => (ErrorKind::Other, "please report this with the node's log"),
        };
        Self::new(kind, error.to_string()).hint(hint)
    }
}
