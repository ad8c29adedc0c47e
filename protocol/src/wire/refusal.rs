//! Why a node does not do what it is asked.

use serde::{Deserialize, Serialize};

use crate::codec::Text;
use crate::limits::REASON_BYTES_MAX;
use crate::sign::RecordError;

/// The kind of a refusal, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The message did not decode, or a signature, order or limit was wrong.
    BadRequest,
    /// A signature is not its signer's, or the signer has no right to ask this.
    NotAuthorised,
    /// A version that this node does not speak.
    Version,
    /// The lease has no room for these bytes.
    OverLease,
    /// The lease's room or the request has expired.
    LeaseExpired,
    /// No such lease here.
    UnknownLease,
    /// The body was shorter or longer than announced.
    WrongLength,
    /// The body is not the chunk that was announced.
    WrongHash,
    /// Not enough storage.
    NoSpace,
    /// Who asks holds as much room that it did not fill as the vendor lets anybody have.
    Unsealed,
    /// Too few vendors, operators or zones.
    TooFewVendors,
    /// Too much at once; try again or elsewhere.
    Busy,
    /// The peer said nothing for [`SILENCE_MS`](super::SILENCE_MS).
    Silent,
    /// The peer could not be reached.
    Unreachable,
    /// Not here.
    NotFound,
    /// It is here and damaged.
    Corrupt,
    /// A newer record is known.
    Stale,
    /// Another record with this sequence number is known.
    Conflict,
    /// The final FAT is stored; another device of its owner wrote one at the same time, and both are kept until one is chosen.
    Forked,
    /// This node does not have the role that was asked.
    WrongRole,
    /// The node failed; its log says more.
    Internal,
}

/// A refusal, with words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub reason: Text<REASON_BYTES_MAX>,
}

impl Refusal {
    /// A refusal with a reason, cut to its limit.
    #[must_use]
    pub fn new(kind: RefusalKind, reason: impl AsRef<str>) -> Self {
        Self { kind, reason: Text::cut(reason.as_ref()) }
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        let kind = match error {
            RecordError::BadSignature => RefusalKind::NotAuthorised,
            RecordError::Version(_) => RefusalKind::Version,
            RecordError::Decode(_) | RecordError::Invalid(_) => RefusalKind::BadRequest,
        };
        Self::new(kind, error.to_string())
    }
}
