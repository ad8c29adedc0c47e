//! Records that carry their owner's signature.
//!
//! [`Carried`] is what arrives: bytes and a signature, believed by nobody. [`Carried::verify`] is the only way to a
//! [`Signed`], whose value decoded within its limits, holds together, and was signed by the key that it names.
//! The signature covers the bytes as carried, never a re-encoding.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use crate::codec::{self, DecodeError};
use crate::ids::{Hash, NodeId, OwnerId, Signature};
use crate::mutations::{Line, without};
use crate::tags;

/// The ed25519 public key that a record says signed it. A node's or a user's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignerId(pub OwnerId);

impl fmt::Debug for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignerId({})", self.0.short())
    }
}

impl From<NodeId> for SignerId {
    fn from(node: NodeId) -> Self {
        Self(OwnerId(node.0))
    }
}

impl From<OwnerId> for SignerId {
    fn from(owner: OwnerId) -> Self {
        Self(owner)
    }
}

impl SignerId {
    /// The key as a node's identifier.
    #[must_use]
    pub fn node(self) -> NodeId {
        NodeId(self.0.0)
    }
}

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The body did not decode.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A version that this build does not know.
    #[error("version {0} is not known here; one of the two nodes needs an update")]
    Version(u16),
    /// The signature is not that of the key the record names.
    #[error("the signature does not match its signer")]
    BadSignature,
    /// The parts of the record contradict each other.
    #[error("the record is not valid: {0}")]
    Invalid(&'static str),
}

/// A type that is signed by one party.
pub trait Record: Serialize + DeserializeOwned {
    /// Signature label, from [`tags::sign`].
    const LABEL: &'static str;
    /// Largest encoded body, in bytes.
    const BYTES_MAX: usize;
    /// The version in the record.
    fn version(&self) -> u16;
    /// Who must have signed it.
    fn signer(&self) -> SignerId;
    /// Whether its parts hold together, beyond their bounds.
    ///
    /// # Errors
    /// [`RecordError::Invalid`] with what does not.
    fn check(&self) -> Result<(), RecordError> {
        Ok(())
    }
}

/// Makes a type with a `version` field a [`Record`]: its label, its largest encoded body, the field that names its signer, and
/// `check` if its parts must hold together beyond their bounds.
macro_rules! record {
    ($record:ty, $label:expr, $bytes_max:expr, $signer:ident $(, $check:item)?) => {
        impl crate::sign::Record for $record {
            const LABEL: &'static str = $label;
            const BYTES_MAX: usize = $bytes_max;
            fn version(&self) -> u16 {
                self.version
            }
            fn signer(&self) -> crate::sign::SignerId {
                self.$signer.into()
            }
            $($check)?
        }
    };
}
pub(crate) use record;

/// A record as it was received: nothing about it is known to be true.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried<T> {
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    signature: Signature,
    #[serde(skip)]
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Carried<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Carried({}, {} bytes)", std::any::type_name::<T>(), self.body.len())
    }
}

impl<T: Record> Carried<T> {
    /// Decodes the body without believing it: bounds and version are checked, the signature is not.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn peek(&self) -> Result<T, RecordError> {
        let value: T = codec::decode(&self.body, T::BYTES_MAX)?;
        if value.version() != tags::VERSION {
            return Err(RecordError::Version(value.version()));
        }
        value.check()?;
        Ok(value)
    }

    /// Decodes, checks and verifies.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn verify(self) -> Result<Signed<T>, RecordError> {
        let value = self.peek()?;
        verify_bytes(T::LABEL, &self.body, value.signer(), &self.signature)?;
        Ok(Signed { value, carried: self })
    }

    /// Takes the record as verified because a verified record commits to exactly these bytes and this signature,
    /// see [`Self::commitment`].
    pub(crate) fn attested(self) -> Result<Signed<T>, RecordError> {
        let value = self.peek()?;
        Ok(Signed { value, carried: self })
    }

    /// BLAKE3 of the body: the record's identity.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.body)
    }

    /// BLAKE3 of body and signature: what a root commits to, so that neither can be exchanged under it.
    #[must_use]
    pub fn commitment(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.body).update(&self.signature.0);
        Hash(*hasher.finalize().as_bytes())
    }

    /// Length of the body in bytes.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body.len()
    }
}

/// A record whose signature was verified here, or was made here.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed<T> {
    value: T,
    carried: Carried<T>,
}

impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({:?})", self.value)
    }
}

impl<T> std::ops::Deref for Signed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Record> Signed<T> {
    /// Signs `value` with `key`.
    ///
    /// # Errors
    /// [`RecordError`] if the value does not hold together or names another signer.
    pub fn sign(value: T, key: &SigningKey) -> Result<Self, RecordError> {
        value.check()?;
        if value.signer() != SignerId(OwnerId(key.verifying_key().to_bytes())) {
            return Err(RecordError::BadSignature);
        }
        let body = codec::encode(&value);
        if body.len() > T::BYTES_MAX {
            return Err(DecodeError::TooLong { length: body.len(), max: T::BYTES_MAX }.into());
        }
        let signature = sign_bytes(T::LABEL, &body, key);
        Ok(Self { value, carried: Carried { body, signature, kind: std::marker::PhantomData } })
    }

    /// The record as it is sent.
    #[must_use]
    pub fn carried(&self) -> &Carried<T> {
        &self.carried
    }

    /// The record as it is sent, by value.
    #[must_use]
    pub fn into_carried(self) -> Carried<T> {
        self.carried
    }

    /// The value, by value.
    #[must_use]
    pub fn into_value(self) -> T {
        self.value
    }

    /// BLAKE3 of the body: the record's identity.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.carried.hash()
    }
}

impl<T> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.carried.serialize(serializer)
    }
}

fn message(label: &str, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(label.len() + 1 + Hash::LEN);
    message.extend_from_slice(label.as_bytes());
    message.push(0);
    message.extend_from_slice(&Hash::of(body).0);
    message
}

/// Signs `label, 0x00, BLAKE3(body)`.
#[must_use]
pub fn sign_bytes(label: &str, body: &[u8], key: &SigningKey) -> Signature {
    Signature(key.sign(&message(label, body)).to_bytes())
}

/// Verifies a signature made by [`sign_bytes`]. Small-order keys are refused.
///
/// # Errors
/// [`RecordError::BadSignature`].
pub fn verify_bytes(label: &str, body: &[u8], signer: SignerId, signature: &Signature) -> Result<(), RecordError> {
    if without(Line::Signature) {
        return Ok(());
    }
    let key = VerifyingKey::from_bytes(signer.0.as_bytes()).map_err(|_| RecordError::BadSignature)?;
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    key.verify_strict(&message(label, body), &signature).map_err(|_| RecordError::BadSignature)
}
