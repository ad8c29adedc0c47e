//! One newtype per identifier. All are fixed-length byte strings: CBOR byte strings on the wire, lower-case
//! hexadecimal for people. Decoding refuses any other length.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text was not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct ParseIdError {
    /// How many hexadecimal digits the identifier has.
    pub expected: usize,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The identifier in `bytes`, or `None` if the length is not [`Self::LEN`].
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hexadecimal digits, for logs and tables.
            #[must_use]
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let wrong = ParseIdError { expected: $len * 2 };
                let bytes = data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .map_err(|_| wrong.clone())?;
                Self::from_slice(&bytes).ok_or(wrong)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Bytes;
                impl Visitor<'_> for Bytes {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} bytes", $len)
                    }
                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        $name::from_slice(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
                    }
                }
                deserializer.deserialize_bytes(Bytes)
            }
        }
    };
}

byte_id!(
    /// A node: its ed25519 public key. The libp2p peer id derives from it.
    NodeId, 32
);
byte_id!(
    /// A user: the ed25519 public key that its recovery phrase gives.
    OwnerId, 32
);
byte_id!(
    /// A chunk: the BLAKE3 hash of its ciphertext, so that anybody can verify the bytes without a key.
    ChunkId, 32
);
byte_id!(
    /// A BLAKE3 hash of a record's bytes, of a root, or of a sub-chunk.
    Hash, 32
);
byte_id!(
    /// A lease, drawn at random by its vendor.
    LeaseId, 16
);
byte_id!(
    /// A file of one user: a keyed hash of its name, so that mirrors and vendors learn nothing of the name.
    FileId, 16
);
byte_id!(
    /// A storage device of a vendor, drawn at random when the device is first added.
    DeviceId, 16
);
byte_id!(
    /// A network: nodes of different networks share no protocol name and never exchange records.
    NetworkId, 16
);
byte_id!(
    /// What makes the fingerprints of one comparison of tables its own: drawn at random by the mirror that asks.
    SessionKey, 16
);
byte_id!(
    /// What a part of a table comes to under a [`SessionKey`]. Six bytes: that two parts which differ look the same happens once in
    /// 2^48, nobody can bring it about, and the next session has another key.
    Fingerprint, 6
);
byte_id!(
    /// An ed25519 signature.
    Signature, 64
);

impl Hash {
    /// The BLAKE3 hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl ChunkId {
    /// The identifier of the ciphertext `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}
