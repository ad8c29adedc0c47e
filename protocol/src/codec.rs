//! Bytes to values and back: CBOR through serde, with every bound checked while decoding.
//!
//! Collections and texts on the wire are [`Bounded`] and [`Text`]: their limit is part of their type, so a value
//! that exists is within it, and a peer that announces 2^64 elements is refused before anything is allocated.

use std::fmt;
use std::ops::Deref;

use cbor4ii::core::dec::Read;
use cbor4ii::core::utils::SliceReader;
use cbor4ii::serde::Deserializer as Cbor;
use serde::de::{self, DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why bytes did not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There was nothing.
    #[error("the message is empty")]
    Empty,
    /// More bytes than the limit of this kind of message.
    #[error("the message has {length} bytes, the limit is {max}")]
    TooLong {
        /// Length that was announced or received, in bytes.
        length: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// Not CBOR of the expected shape, or a bound was exceeded.
    #[error("the message is malformed: {0}")]
    Malformed(String),
    /// The value decoded, and more bytes followed it.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// The CBOR encoding of `value`.
///
/// # Panics
/// Never for the types of this crate: they contain nothing that CBOR cannot express, and a vector grows by
/// allocation alone.
#[must_use]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    match cbor4ii::serde::to_vec(Vec::with_capacity(256), &value) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("encoding to memory failed: {error}"),
    }
}

/// Decodes one value that must fill `bytes` exactly.
///
/// # Errors
/// [`DecodeError`]: empty, longer than `max` bytes, malformed, or followed by something.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() > max {
        return Err(DecodeError::TooLong { length: bytes.len(), max });
    }
    let mut cbor = Cbor::new(SliceReader::new(bytes));
    let value = T::deserialize(&mut cbor).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let mut rest = cbor.into_inner();
    let left = rest.fill(bytes.len()).map_or(0, |left| left.as_ref().len());
    if left > 0 {
        return Err(DecodeError::Trailing(left));
    }
    Ok(value)
}

/// At most `MAX` values, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bounded<T, const MAX: usize>(Vec<T>);

/// More elements than a bounded list or text takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} is more than the limit of {max}")]
pub struct TooMany {
    /// How many there were.
    pub length: usize,
    /// How many are allowed.
    pub max: usize,
}

impl<T, const MAX: usize> Bounded<T, MAX> {
    /// The list, if it has at most `MAX` elements.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn new(values: Vec<T>) -> Result<Self, TooMany> {
        if values.len() > MAX { Err(TooMany { length: values.len(), max: MAX }) } else { Ok(Self(values)) }
    }

    /// The first `MAX` elements of `values`.
    pub fn first(values: impl IntoIterator<Item = T>) -> Self {
        Self(values.into_iter().take(MAX).collect())
    }

    /// The elements, without the bound.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for Bounded<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> IntoIterator for Bounded<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T, const MAX: usize> IntoIterator for &'a Bounded<T, MAX> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Serialize, const MAX: usize> Serialize for Bounded<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Bounded<T, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} elements")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                if let Some(length) = seq.size_hint().filter(|length| *length > MAX) {
                    return Err(de::Error::invalid_length(length, &self));
                }
                // The vector grows with what really arrives, never with what was announced.
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    if values.len() == MAX {
                        return Err(de::Error::invalid_length(MAX + 1, &self));
                    }
                    values.push(value);
                }
                Ok(Bounded(values))
            }
        }
        deserializer.deserialize_seq(List(std::marker::PhantomData))
    }
}

/// UTF-8 text of at most `MAX` bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// The text, if it has at most `MAX` bytes.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn new(text: impl Into<String>) -> Result<Self, TooMany> {
        let text = text.into();
        if text.len() > MAX { Err(TooMany { length: text.len(), max: MAX }) } else { Ok(Self(text)) }
    }

    /// The text cut to `MAX` bytes at a character boundary. For reasons meant for people.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let mut end = text.len().min(MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> Serialize for Text<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes<const MAX: usize>;
        impl<const MAX: usize> Visitor<'_> for Bytes<MAX> {
            type Value = Text<MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "text of at most {MAX} bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<MAX>, E> {
                Text::new(text).map_err(|_| E::invalid_length(text.len(), &self))
            }
        }
        deserializer.deserialize_str(Bytes::<MAX>)
    }
}

/// A byte string of at most `MAX` bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Blob<MAX> {
    /// The bytes, if there are at most `MAX`.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, TooMany> {
        if bytes.len() > MAX { Err(TooMany { length: bytes.len(), max: MAX }) } else { Ok(Self(bytes)) }
    }
}

impl<const MAX: usize> Deref for Blob<MAX> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> fmt::Debug for Blob<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<const MAX: usize> Serialize for Blob<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Blob<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes<const MAX: usize>;
        impl<const MAX: usize> Visitor<'_> for Bytes<MAX> {
            type Value = Blob<MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob<MAX>, E> {
                if bytes.len() > MAX { Err(E::invalid_length(bytes.len(), &self)) } else { Ok(Blob(bytes.to_vec())) }
            }
        }
        deserializer.deserialize_bytes(Bytes::<MAX>)
    }
}
