//! A move: one chunk's custody passing from one vendor to another, signed by both (figures 15b to 15e).
//! Mirrors lay moves over the final FAT, so its user finds the chunk without having been there.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId, Signature};
use crate::sign::{RecordError, SignerId, sign_bytes, verify_bytes};
use crate::tags;
use crate::time::UnixMs;

/// Largest encoded move, in bytes.
pub const MOVE_BYTES_MAX: usize = 1024;

/// What moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Whose chunk it is.
    pub owner: OwnerId,
    /// Of which file.
    pub file: FileId,
    /// The tag under which the chunk was stored.
    pub seq: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its length, bytes.
    pub length: u32,
    /// Who had it.
    pub from: NodeId,
    /// Under which lease.
    pub from_lease: LeaseId,
    /// Who has it.
    pub to: NodeId,
    /// Under which lease.
    pub to_lease: LeaseId,
    /// When.
    pub at: UnixMs,
}

/// A move as it is carried: the body's bytes and up to two signatures.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedMove {
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    from_signature: Signature,
    to_signature: Option<Signature>,
}

impl std::fmt::Debug for CarriedMove {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CarriedMove({} bytes, cosigned: {})", self.body.len(), self.to_signature.is_some())
    }
}

impl CarriedMove {
    /// The source's half.
    ///
    /// # Errors
    /// [`RecordError::BadSignature`] if `key` is not the source's.
    pub fn propose(body: &Move, key: &SigningKey) -> Result<Self, RecordError> {
        if body.from.0 != key.verifying_key().to_bytes() {
            return Err(RecordError::BadSignature);
        }
        let body = codec::encode(body);
        let from_signature = sign_bytes(tags::sign::MOVE, &body, key);
        Ok(Self { body, from_signature, to_signature: None })
    }

    /// Verifies the source's half.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn proposal(&self) -> Result<Move, RecordError> {
        let body: Move = codec::decode(&self.body, MOVE_BYTES_MAX)?;
        if body.version != tags::VERSION {
            return Err(RecordError::Version(body.version));
        }
        if body.from == body.to {
            return Err(RecordError::Invalid("a move goes from a vendor to itself"));
        }
        verify_bytes(tags::sign::MOVE, &self.body, SignerId::from(body.from), &self.from_signature)?;
        Ok(body)
    }

    /// Adds the destination's signature. The caller has verified [`Self::proposal`] and holds the chunk.
    #[must_use]
    pub fn cosign(mut self, key: &SigningKey) -> Self {
        self.to_signature = Some(sign_bytes(tags::sign::MOVE, &self.body, key));
        self
    }

    /// Verifies both signatures.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn verify(&self) -> Result<Move, RecordError> {
        let body = self.proposal()?;
        let signature = self.to_signature.as_ref().ok_or(RecordError::BadSignature)?;
        verify_bytes(tags::sign::MOVE, &self.body, SignerId::from(body.to), signature)?;
        Ok(body)
    }

    /// BLAKE3 of the body: the move's identity.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.body)
    }
}
