//! Erasure coding: `k` data shards and `m` parity shards, of which any `k` give back the others.
//!
//! A **stripe** is `k` sealed chunks of a file that follow each other, the data shards, and `m` parity shards made of them. Each
//! is a chunk of its own to whoever stores it: an identifier, a length, a receipt. Nothing here knows a key, so that a vendor
//! can make a shard again as well as its owner. The last stripe of a file may have fewer data shards; those that it lacks
//! count as zeros that everybody has. A data shard that is shorter than the longest one of its stripe counts as if zeros
//! followed it.
//!
//! The code is Reed-Solomon over GF(2^16), as reed-solomon-simd (after Leopard-RS) makes it: the 16-bit symbols of each
//! [`PARITY_UNIT`] bytes have their low bytes in its first half and their high bytes in the second. So every unit is coded on its own, and a parity
//! shard is as long as the longest data shard, rounded up to units. What was stored must be read for as long as there is data:
//! `tests/golden/parity_*` holds bytes of this code.
//! Source: Lin, Chung, Han, "Novel Polynomial Basis and Its Application to Reed-Solomon Erasure Codes" (2014).

use std::fmt;
use std::str::FromStr;

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use serde::{Deserialize, Serialize};

use crate::limits::{CHUNK_BYTES_MAX, PARITY_UNIT, SHARDS_MAX};
use crate::seal::sealed_len;

/// Bytes of each shard that are encoded at a time: what is worked on stays in the processor's cache.
const SLICE: usize = 64 * 1024;
/// Bytes of each shard that are decoded at a time: fewer make what precedes each time weigh, and more the memory (measured).
const DECODED: usize = 256 * 1024;

/// How many data and parity shards a stripe has. Written `4+2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub struct Code {
    data: u8,
    parity: u8,
}

/// Why numbers or a text are no [`Code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "erasure coding is written k+m, as in 4+2: at least 2 data shards, at least 1 parity shard, and together at most {SHARDS_MAX}"
)]
pub struct NoCode;

/// Why shards were not made.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CodingError {
    /// Fewer shards than the stripe has data shards.
    #[error("{had} of the {needed} shards that are needed are there")]
    TooFew {
        /// How many are there.
        had: usize,
        /// How many are needed.
        needed: usize,
    },
    /// A shard or a stripe is not as long as it must be.
    #[error("the shards do not make a stripe")]
    Shape,
    /// The code refused.
    #[error("the code failed: {0}")]
    Code(reed_solomon_simd::Error),
}

impl From<reed_solomon_simd::Error> for CodingError {
    fn from(error: reed_solomon_simd::Error) -> Self {
        Self::Code(error)
    }
}

impl Code {
    /// `data` data shards and `parity` parity shards.
    ///
    /// # Errors
    /// [`NoCode`] for fewer than 2 data shards, no parity shard, or more than [`SHARDS_MAX`] in all.
    pub fn new(data: u8, parity: u8) -> Result<Self, NoCode> {
        let total = usize::from(data) + usize::from(parity);
        if data < 2 || parity < 1 || total > SHARDS_MAX { Err(NoCode) } else { Ok(Self { data, parity }) }
    }

    /// Data shards of a full stripe.
    #[must_use]
    pub fn data(self) -> usize {
        usize::from(self.data)
    }

    /// Parity shards.
    #[must_use]
    pub fn parity(self) -> usize {
        usize::from(self.parity)
    }

    /// All shards of a full stripe.
    #[must_use]
    pub fn total(self) -> usize {
        self.data() + self.parity()
    }
}

impl TryFrom<(u8, u8)> for Code {
    type Error = NoCode;

    fn try_from((data, parity): (u8, u8)) -> Result<Self, NoCode> {
        Self::new(data, parity)
    }
}

impl From<Code> for (u8, u8) {
    fn from(code: Code) -> Self {
        (code.data, code.parity)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

impl FromStr for Code {
    type Err = NoCode;

    fn from_str(text: &str) -> Result<Self, NoCode> {
        let (data, parity) = text.trim().split_once('+').ok_or(NoCode)?;
        let number = |text: &str| text.trim().parse::<u8>().map_err(|_| NoCode);
        Self::new(number(data)?, number(parity)?)
    }
}

/// The stripes of a file. A **piece** is what is stored of it, counted from 0: the data shards, which are its chunks, in order,
/// and after them the parity shards, stripe by stripe. A **position** is a shard's place in its stripe: data shards from 0,
/// parity shards from `k`, whether or not the stripe is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripes {
    /// Its code.
    pub code: Code,
    /// Plaintext bytes of the file.
    pub size: u64,
    /// Plaintext bytes of each chunk but the last.
    pub chunk_plain: u32,
}

impl Stripes {
    /// Number of chunks, that is data shards.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_plain.max(1)))
    }

    /// Number of stripes.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.chunks().div_ceil(self.code.data() as u64)
    }

    /// Number of pieces.
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.chunks() + self.count() * self.code.parity() as u64
    }

    /// Plaintext bytes of a piece; 0 for parity.
    #[must_use]
    pub fn plain_len(&self, piece: u64) -> u32 {
        let left = self.size.saturating_sub(piece.saturating_mul(u64::from(self.chunk_plain)));
        u32::try_from(left).unwrap_or(u32::MAX).min(self.chunk_plain)
    }

    /// Lengths of the data shards of a stripe, as sealed, bytes.
    #[must_use]
    pub fn lengths(&self, stripe: u64) -> Vec<u32> {
        let first = stripe * self.code.data() as u64;
        let end = (first + self.code.data() as u64).min(self.chunks());
        (first..end).map(|chunk| sealed_len(self.plain_len(chunk))).collect()
    }

    /// Length of a piece as it is stored, bytes.
    #[must_use]
    pub fn len(&self, piece: u64) -> u32 {
        if piece < self.chunks() {
            sealed_len(self.plain_len(piece))
        } else {
            parity_len(&self.lengths(self.place(piece).0))
        }
    }

    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Stripe and position of a piece.
    #[must_use]
    pub fn place(&self, piece: u64) -> (u64, usize) {
        let (data, parity) = (self.code.data() as u64, self.code.parity() as u64);
        let (stripe, position) = match piece.checked_sub(self.chunks()) {
            None => (piece / data, piece % data),
            Some(piece) => (piece / parity, data + piece % parity),
        };
        // A position is less than SHARDS_MAX.
        (stripe, usize::try_from(position).unwrap_or(usize::MAX))
    }

    /// The pieces of a stripe with their positions, data first.
    #[must_use]
    pub fn members(&self, stripe: u64) -> Vec<(usize, u64)> {
        let (data, parity) = (self.code.data(), self.code.parity());
        let first = stripe * data as u64;
        let have = usize::try_from(self.chunks().saturating_sub(first)).unwrap_or(data).min(data);
        let chunks = (0..have).map(|position| (position, first + position as u64));
        let coded = self.chunks() + stripe * parity as u64;
        chunks.chain((0..parity).map(|number| (data + number, coded + number as u64))).collect()
    }
}

/// Length of the parity shards of a stripe with data shards of these lengths, bytes.
#[must_use]
pub fn parity_len(lengths: &[u32]) -> u32 {
    lengths.iter().copied().max().unwrap_or(0).next_multiple_of(PARITY_UNIT)
}

fn check(code: Code, lengths: &[u32]) -> Result<usize, CodingError> {
    let length = lengths.iter().copied().max().unwrap_or(0) as usize;
    if lengths.is_empty() || lengths.len() > code.data() || lengths.contains(&0) || length > CHUNK_BYTES_MAX {
        return Err(CodingError::Shape);
    }
    Ok(parity_len(lengths) as usize)
}

/// The parity shards of a stripe with these data shards. Blocks for a few milliseconds for each 4 MiB.
///
/// # Errors
/// [`CodingError::Shape`] if there is no shard, one too many, or one that is empty or too long.
pub fn encode(code: Code, data: &[&[u8]]) -> Result<Vec<Vec<u8>>, CodingError> {
    let lengths: Vec<u32> = data.iter().map(|shard| u32::try_from(shard.len()).unwrap_or(u32::MAX)).collect();
    let length = check(code, &lengths)?;
    let mut parity = vec![Vec::with_capacity(length); code.parity()];
    let mut encoder = ReedSolomonEncoder::new(code.data(), code.parity(), SLICE.min(length))?;
    let mut padded = vec![0; SLICE.min(length)];
    for from in (0..length).step_by(SLICE) {
        let bytes = SLICE.min(length - from);
        encoder.reset(code.data(), code.parity(), bytes)?;
        for position in 0..code.data() {
            let shard = data.get(position).copied().unwrap_or_default();
            encoder.add_original_shard(slice(shard, from, &mut padded[..bytes]))?;
        }
        let coded = encoder.encode()?;
        parity.iter_mut().zip(coded.recovery_iter()).for_each(|(shard, slice)| shard.extend_from_slice(slice));
    }
    Ok(parity)
}

/// A shard that is there: its position in the stripe, and its bytes.
pub type Present<'a> = (usize, &'a [u8]);

/// Makes the shards at the positions `wanted` of a stripe whose data shards have these `lengths`, from any of as many others as it
/// has data shards. What comes out is to be compared with its identifier: shards that do not belong together make
/// something else.
///
/// # Errors
/// [`CodingError::TooFew`], or [`CodingError::Shape`] if a shard has another length than it must or there is no such position.
pub fn rebuild(
    code: Code,
    lengths: &[u32],
    present: &[Present<'_>],
    wanted: &[usize],
) -> Result<Vec<Vec<u8>>, CodingError> {
    let length = check(code, lengths)?;
    let len_of = |position: usize| match lengths.get(position) {
        Some(length) => Some(*length as usize),
        None => (code.data()..code.total()).contains(&position).then_some(length),
    };
    let mut shards: Vec<Option<&[u8]>> = vec![None; code.total()];
    for (position, bytes) in present {
        if len_of(*position) != Some(bytes.len()) {
            return Err(CodingError::Shape);
        }
        shards[*position] = Some(bytes);
    }
    if wanted.iter().any(|position| len_of(*position).is_none()) {
        return Err(CodingError::Shape);
    }
    let had = shards.iter().flatten().count();
    if had < lengths.len() {
        return Err(CodingError::TooFew { had, needed: lengths.len() });
    }
    let missing = |position: &usize| shards[*position].is_none();
    let restored = match (0..lengths.len()).any(|position| missing(&position)) && wanted.iter().any(missing) {
        true => decode(code, lengths, length, &shards)?,
        false => Vec::new(),
    };
    let data: Vec<&[u8]> = (0..lengths.len())
        .map(|position| shards[position].or_else(|| restored.get(position)?.as_deref()).unwrap_or_default())
        .collect();
    let coded = if wanted.iter().any(|position| *position >= code.data() && missing(position)) {
        encode(code, &data)?
    } else {
        Vec::new()
    };
    let made = wanted.iter().map(|position| match shards[*position] {
        Some(bytes) => Ok(bytes.to_vec()),
        None => match position.checked_sub(code.data()) {
            Some(parity) => coded.get(parity).cloned().ok_or(CodingError::Shape),
            None => Ok(data.get(*position).copied().unwrap_or_default().to_vec()),
        },
    });
    made.collect()
}

/// The data shards that are missing among `shards`, by position.
fn decode(
    code: Code,
    lengths: &[u32],
    length: usize,
    shards: &[Option<&[u8]>],
) -> Result<Vec<Option<Vec<u8>>>, CodingError> {
    let lost = |position: usize| shards[position].is_none() && position < lengths.len();
    let new = |position: usize| lost(position).then(|| Vec::with_capacity(length));
    let mut restored: Vec<Option<Vec<u8>>> = (0..lengths.len()).map(new).collect();
    let mut decoder = ReedSolomonDecoder::new(code.data(), code.parity(), DECODED.min(length))?;
    let mut padded = vec![0; DECODED.min(length)];
    for from in (0..length).step_by(DECODED) {
        let bytes = DECODED.min(length - from);
        decoder.reset(code.data(), code.parity(), bytes)?;
        for position in (0..code.data()).filter(|position| !lost(*position)) {
            // Those that the stripe lacks are zeros.
            let slice = slice(shards[position].unwrap_or_default(), from, &mut padded[..bytes]);
            decoder.add_original_shard(position, slice)?;
        }
        for (number, shard) in shards[code.data()..].iter().enumerate() {
            if let Some(shard) = shard {
                decoder.add_recovery_shard(number, &shard[from..from + bytes])?;
            }
        }
        let decoded = decoder.decode()?;
        for (position, slice) in decoded.restored_original_iter() {
            if let Some(shard) = restored.get_mut(position).and_then(Option::as_mut) {
                shard.extend_from_slice(slice);
            }
        }
    }
    for (shard, length) in restored.iter_mut().zip(lengths) {
        if let Some(shard) = shard {
            shard.truncate(*length as usize);
        }
    }
    Ok(restored)
}

/// As many bytes of a shard from `from` on as `padded` has, where zeros follow its end.
fn slice<'a>(shard: &'a [u8], from: usize, padded: &'a mut [u8]) -> &'a [u8] {
    let rest = shard.get(from..).unwrap_or_default();
    if let Some(whole) = rest.get(..padded.len()) {
        return whole;
    }
    padded[..rest.len()].copy_from_slice(rest);
    padded[rest.len()..].fill(0);
    padded
}
