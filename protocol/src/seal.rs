//! Sealing a chunk: segments of 64 KiB with ChaCha20-Poly1305 in the STREAM construction.
//!
//! The chunk's key is `HKDF-SHA256(file key, label, index u64 le, salt[8])`. The salt is a keyed hash of the plaintext
//! ([`chunk_salt`]): a file that changed between two attempts does not meet one key twice, while one that did not is sealed
//! to the same bytes, so that what a vendor has already is recognised and counted once. Within a chunk the nonce of segment
//! `i` is `0[7], i u32 be, last u8`: a segment that is cut off, repeated or moved does not open.
//! Source: Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance" (2015).

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};

use crate::fat::SALT_LEN;
use crate::keys::derive;
use crate::limits::{CHUNK_PLAIN_MAX, SEGMENT_PLAIN, SEGMENT_TAG};
use crate::mutations::{Line, without};
use crate::tags;

/// Why a chunk did not open or seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Empty, or longer than [`CHUNK_PLAIN_MAX`].
    #[error("a chunk has 1 to 4194304 bytes, this one has {0}")]
    Length(usize),
    /// A segment is not what was sealed under this key and place.
    #[error("segment {0} of the chunk is not what was stored")]
    Segment(usize),
}

/// Length of a sealed chunk of `plain` bytes.
#[must_use]
pub fn sealed_len(plain: u32) -> u32 {
    plain + plain.div_ceil(SEGMENT_PLAIN as u32) * SEGMENT_TAG as u32
}

fn cipher(file_key: &[u8; 32], index: u64, salt: [u8; SALT_LEN]) -> ChaCha20Poly1305 {
    let mut info = tags::derive::CHUNK.to_vec();
    info.extend_from_slice(&index.to_le_bytes());
    info.extend_from_slice(&salt);
    ChaCha20Poly1305::new(&derive(file_key, &info).into())
}

fn nonce(segment: usize, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[7..11].copy_from_slice(&(segment as u32).to_be_bytes());
    nonce[11] = u8::from(last);
    nonce.into()
}

/// The salt of chunk `index` with these `plain` bytes: BLAKE3 of index (u64 le) and plaintext under a key of its own. Two
/// plaintexts of one index of one file meet in it with a chance of 2^-64.
#[must_use]
pub fn chunk_salt(file_key: &[u8; 32], index: u64, plain: &[u8]) -> [u8; SALT_LEN] {
    if without(Line::Salt) {
        return [0; SALT_LEN];
    }
    let mut hasher = blake3::Hasher::new_keyed(&derive(file_key, tags::derive::SALT));
    hasher.update(&index.to_le_bytes()).update(plain);
    let mut salt = [0; SALT_LEN];
    hasher.finalize_xof().fill(&mut salt);
    salt
}

/// Seals chunk `index` of a file. `salt` must be another one for other `plain` bytes: see [`chunk_salt`].
///
/// # Errors
/// [`SealError::Length`].
pub fn seal_chunk(file_key: &[u8; 32], index: u64, salt: [u8; SALT_LEN], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    if plain.is_empty() || plain.len() > CHUNK_PLAIN_MAX {
        return Err(SealError::Length(plain.len()));
    }
    let cipher = cipher(file_key, index, salt);
    let segments = plain.len().div_ceil(SEGMENT_PLAIN);
    let mut sealed = Vec::with_capacity(plain.len() + segments * SEGMENT_TAG);
    for (segment, bytes) in plain.chunks(SEGMENT_PLAIN).enumerate() {
        let start = sealed.len();
        sealed.extend_from_slice(bytes);
        let tag = cipher
            .encrypt_inout_detached(&nonce(segment, segment + 1 == segments), b"", InOutBuf::from(&mut sealed[start..]))
            .map_err(|_| SealError::Segment(segment))?;
        sealed.extend_from_slice(&tag);
    }
    Ok(sealed)
}

/// Opens a whole chunk.
///
/// # Errors
/// [`SealError`].
pub fn open_chunk(file_key: &[u8; 32], index: u64, salt: [u8; SALT_LEN], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let segments = sealed.len().div_ceil(SEGMENT_PLAIN + SEGMENT_TAG);
    open_segments(file_key, index, salt, sealed, 0, segments)
}

/// As [`open_chunk`], into `plain`, which is as long as the chunk is then.
///
/// # Errors
/// [`SealError`].
pub fn open_chunk_into(
    file_key: &[u8; 32],
    index: u64,
    salt: [u8; SALT_LEN],
    sealed: &[u8],
    plain: &mut [u8],
) -> Result<(), SealError> {
    let segments = sealed.len().div_ceil(SEGMENT_PLAIN + SEGMENT_TAG);
    open_segments_into(file_key, index, salt, sealed, (0, segments), plain)
}

/// Opens `sealed`, which holds whole segments from segment `first` on, of a chunk of `segments` segments.
///
/// # Errors
/// [`SealError`].
pub fn open_segments(
    file_key: &[u8; 32],
    index: u64,
    salt: [u8; SALT_LEN],
    sealed: &[u8],
    first: usize,
    segments: usize,
) -> Result<Vec<u8>, SealError> {
    let here = sealed.len().div_ceil(SEGMENT_PLAIN + SEGMENT_TAG);
    let mut plain = vec![0; sealed.len().saturating_sub(here * SEGMENT_TAG)];
    open_segments_into(file_key, index, salt, sealed, (first, segments), &mut plain)?;
    Ok(plain)
}

fn open_segments_into(
    file_key: &[u8; 32],
    index: u64,
    salt: [u8; SALT_LEN],
    sealed: &[u8],
    (first, segments): (usize, usize),
    plain: &mut [u8],
) -> Result<(), SealError> {
    if sealed.is_empty() || sealed.len() > crate::limits::CHUNK_BYTES_MAX {
        return Err(SealError::Length(sealed.len()));
    }
    let cipher = cipher(file_key, index, salt);
    let mut rest = plain;
    for (offset, bytes) in sealed.chunks(SEGMENT_PLAIN + SEGMENT_TAG).enumerate() {
        let segment = first + offset;
        let wrong = SealError::Segment(segment);
        let (text, tag) = bytes.split_last_chunk::<SEGMENT_TAG>().ok_or(wrong)?;
        let (into, after) = rest.split_at_mut_checked(text.len()).ok_or(wrong)?;
        let buffers = InOutBuf::new(text, into).map_err(|_| wrong)?;
        let nonce = nonce(segment, segment + 1 == segments);
        cipher.decrypt_inout_detached(&nonce, b"", buffers, &Tag::from(*tag)).map_err(|_| wrong)?;
        rest = after;
    }
    // There is room for more segments than there are.
    if rest.is_empty() { Ok(()) } else { Err(SealError::Length(sealed.len())) }
}
