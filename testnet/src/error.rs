//! What can go wrong with a local network, worded for the person who started it.

use std::path::PathBuf;

/// Why a local network could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TestnetError {
    /// A file or directory of the network could not be used.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb ("create", "read").
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The node binary could not be started at all.
    #[error("cannot start {}: {source}", binary.display())]
    Spawn {
        /// The program that was to be run.
        binary: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A command of the node ended with an exit code other than 0.
    #[error("`{command}` failed with exit code {code}: {message}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit code; 128 + the number of a signal that ended it.
        code: i32,
        /// What it said.
        message: String,
    },
    /// A command of the node did not end in time and was killed.
    #[error("`{command}` did not end within {seconds} s and was killed")]
    CommandTimeout {
        /// The command line.
        command: String,
        /// The limit.
        seconds: u64,
    },
    /// A command of the node answered with something other than what was agreed.
    #[error("`{command}` gave an answer without {missing}")]
    Answer {
        /// The command line.
        command: String,
        /// The field or shape that was expected.
        missing: String,
    },
    /// A node's process ended, or did not do what it should.
    #[error("node {name} {why}\n--- end of {} ---\n{log}", path.display())]
    Node {
        /// The node's name in this network.
        name: String,
        /// What it did, as a predicate ("ended before it was ready").
        why: String,
        /// Its log file.
        path: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// A condition was not reached in time.
    #[error("waited {seconds} s in vain until {what}")]
    Deadline {
        /// The condition.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// There is no node of that name.
    #[error("no node is called {name} here; there are {known}")]
    NoSuchNode {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// There is no network in that directory.
    #[error("no testnet in {}: start one with `fathom testnet up --dir {}`", dir.display(), dir.display())]
    NoTestnet {
        /// The directory that was looked at.
        dir: PathBuf,
    },
    /// The request cannot be fulfilled as it stands.
    #[error("{0}")]
    Usage(String),
    /// A signal could not be sent.
    #[error("cannot signal node {name} (process {pid}): {source}")]
    Signal {
        /// The node.
        name: String,
        /// Its process.
        pid: u32,
        /// The cause.
        source: std::io::Error,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl TestnetError {
    /// The exit code of a command that ends with this error: 2 usage, 3 not found, 6 interrupted,
    /// 1 everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoSuchNode { .. } | Self::NoTestnet { .. } => 3,
            Self::Usage(_) => 2,
            Self::Cancelled => 6,
            _ => 1,
        }
    }

    /// A word for scripts, stable across versions.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Spawn { .. } => "spawn",
            Self::Command { .. } => "command",
            Self::CommandTimeout { .. } => "command_timeout",
            Self::Answer { .. } => "answer",
            Self::Node { .. } => "node",
            Self::Deadline { .. } => "deadline",
            Self::NoSuchNode { .. } => "no_such_node",
            Self::NoTestnet { .. } => "no_testnet",
            Self::Usage(_) => "usage",
            Self::Signal { .. } => "signal",
            Self::Cancelled => "cancelled",
        }
    }
}
