//! What the fuzz targets share. Each target takes whatever a peer may send and asserts what holds of it then.

use fathom_protocol::codec::{decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Decodes `bytes`. What decodes is encoded as bytes that decode to the same value and are encoded alike again.
pub fn stable<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8], max: usize) -> Option<T> {
    let value: T = decode(bytes, max).ok()?;
    let written = encode(&value);
    // CBOR can be written shorter than this crate writes it, never so that one value becomes another.
    match decode::<T>(&written, usize::MAX) {
        Ok(again) => {
            assert!(again == value, "the value changed when it was written and read");
            assert!(encode(&again) == written, "one value is written in two ways");
        }
        Err(error) => panic!("what was read cannot be read again: {error}"),
    }
    Some(value)
}
