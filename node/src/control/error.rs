//! What went wrong with a command, in words for a person and a kind for a program.

use serde::{Deserialize, Serialize};

/// The kind of a failure; each has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Anything else.
    Other,
    /// The command was not given as it must be.
    Usage,
    /// No such file, name, node or directory.
    NotFound,
    /// Not enough space or vendors to place the data.
    NoSpace,
    /// No mirror or peer can be reached.
    Network,
    /// Interrupted; the same command goes on where this one ended.
    Interrupted,
    /// Data or a record does not verify.
    Integrity,
    /// A key is missing, wrong or readable by others, or this node may not do that.
    Permission,
}

impl ErrorKind {
    /// The exit code of the command line, as `fathom --help` lists them.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::NoSpace => 4,
            Self::Network => 5,
            Self::Interrupted => 6,
            Self::Integrity => 7,
            Self::Permission => 8,
        }
    }

    /// The kind that has this exit code; [`ErrorKind::Other`] for a code that none has.
    #[must_use]
    pub fn from_exit_code(code: u8) -> Self {
        match code {
            2 => Self::Usage,
            3 => Self::NotFound,
            4 => Self::NoSpace,
            5 => Self::Network,
            6 => Self::Interrupted,
            7 => Self::Integrity,
            8 => Self::Permission,
            _ => Self::Other,
        }
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// For programs and the exit code.
    pub kind: ErrorKind,
    /// What happened; no capital, no full stop.
    pub message: String,
    /// What to do now, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl CommandError {
    /// An error without a hint.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same error with what to do now.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

macro_rules! command_error_from {
    ($error:ty, $kind:expr) => {
        impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                #[allow(clippy::redundant_closure_call)]
                let kind = $kind(&error);
                // These messages say what happened and, after the semicolon, what to do.
                let text = error.to_string();
                match text.rsplit_once("; ") {
                    Some((message, hint)) => Self::new(kind, message).hint(hint),
                    None => Self::new(kind, text),
                }
            }
        }
    };
}

use crate::config::ConfigError;
use crate::home::HomeError;
use crate::identity::IdentityError;
use crate::network::NetworkError;
use fathom_bootstrap::DescriptorError;

command_error_from!(ConfigError, |error: &ConfigError| match error {
    ConfigError::Missing { .. } => ErrorKind::NotFound,
    ConfigError::NoAssignment(_) => ErrorKind::Usage,
    _ => ErrorKind::Other,
});
command_error_from!(HomeError, home_kind);
command_error_from!(IdentityError, |error: &IdentityError| match error {
    IdentityError::Home(error) => home_kind(error),
    IdentityError::Random(_) => ErrorKind::Other,
    _ => ErrorKind::Permission,
});
command_error_from!(DescriptorError, |_: &DescriptorError| ErrorKind::Usage);
command_error_from!(NetworkError, |error: &NetworkError| match error {
    NetworkError::Home(error) => home_kind(error),
    NetworkError::None => ErrorKind::Network,
    NetworkError::NoFile(_) => ErrorKind::NotFound,
    NetworkError::Descriptor(_) | NetworkError::NoPeers(_) => ErrorKind::Usage,
    NetworkError::Stored { .. } | NetworkError::Other(_) | NetworkError::Random(_) => ErrorKind::Other,
});

fn home_kind(error: &HomeError) -> ErrorKind {
    match error {
        HomeError::Missing(_) => ErrorKind::NotFound,
        HomeError::SecretReadable { .. } => ErrorKind::Permission,
        HomeError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Other,
    }
}
