//! Ranges of a chunk that prove themselves: the BLAKE3 tree's hashes on the way from the chunk's identifier to the
//! bytes, in groups of 16 KiB. Whoever knows the identifier can check any range without the rest of the chunk.
//!
//! The encoding is that of the `bao` format without its length prefix: hash pairs and groups in pre-order.

use std::io::Cursor;

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges};
use bao_tree::io::{BaoContentItem, round_up_to_chunks, round_up_to_chunks_groups};
use bao_tree::{BaoTree, BlockSize, ByteRanges, ChunkRanges};
use fathom_protocol::ids::ChunkId;
use fathom_protocol::limits::CHUNK_BYTES_MAX;

/// Groups of 16 hashing blocks of 1 KiB.
const GROUP: BlockSize = BlockSize::from_chunk_log(4);
/// Bytes of one group.
pub const GROUP_BYTES: u32 = 16 * 1024;
/// Bytes of one pair of hashes.
const PAIR_BYTES: usize = 64;

/// Why an encoding was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaoError {
    /// The range is empty or goes beyond the chunk, or the chunk is longer than chunks can be.
    #[error("bytes {offset} to {end} are not a range of a chunk of {chunk_length} bytes")]
    Range {
        /// First byte wanted.
        offset: u32,
        /// Byte after the last one wanted.
        end: u64,
        /// Length of the whole chunk, in bytes.
        chunk_length: u32,
    },
    /// More or fewer bytes than the encoding of this range has.
    #[error("the encoded range has {found} bytes")]
    Length {
        /// How many there are.
        found: usize,
    },
    /// The bytes are not those of the chunk.
    #[error("the bytes do not belong to the chunk: {0}")]
    Wrong(String),
}

fn ranges(chunk_length: u32, offset: u32, length: u32) -> Result<ChunkRanges, BaoError> {
    let end = u64::from(offset) + u64::from(length);
    if length == 0 || end > u64::from(chunk_length) || chunk_length as usize > CHUNK_BYTES_MAX {
        return Err(BaoError::Range { offset, end, chunk_length });
    }
    let bytes = ByteRanges::from(u64::from(offset)..end);
    Ok(round_up_to_chunks_groups(round_up_to_chunks(&bytes), GROUP))
}

/// Most bytes that the encoding of a range of `length` bytes of a chunk of `chunk_length` bytes can have.
#[must_use]
pub fn encoded_max(chunk_length: u32, length: u32) -> usize {
    // A range touches one group more than it fills at each end; each group of the whole chunk brings at most one pair.
    let covered = (length as usize + 2 * GROUP_BYTES as usize).min(chunk_length as usize);
    covered + chunk_length.div_ceil(GROUP_BYTES) as usize * PAIR_BYTES
}

/// The encoding of bytes `offset..offset + length` of `chunk`, in whole groups of 16 KiB around them, if `chunk` is `id`.
///
/// # Errors
/// [`BaoError::Range`], and [`BaoError::Wrong`] if the bytes are not the chunk.
pub fn encode_verified(id: ChunkId, chunk: &[u8], offset: u32, length: u32) -> Result<Vec<u8>, BaoError> {
    let chunk_length = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
    let ranges = ranges(chunk_length, offset, length)?;
    let outboard = PreOrderMemOutboard::create(chunk, GROUP);
    if outboard.root.as_bytes() != &id.0 {
        return Err(BaoError::Wrong(format!("they hash to {}", outboard.root)));
    }
    let mut encoded = Vec::with_capacity(encoded_max(chunk_length, length));
    // Not validated once more: the tree was made of these very bytes, and its root is the identifier.
    encode_ranges(chunk, &outboard, &ranges, &mut encoded).map_err(|error| BaoError::Wrong(error.to_string()))?;
    Ok(encoded)
}

/// [`encode_verified`] for a chunk whose identifier is not known from elsewhere; empty if the range is not in the chunk.
#[must_use]
pub fn encode(chunk: &[u8], offset: u32, length: u32) -> Vec<u8> {
    encode_verified(ChunkId::of(chunk), chunk, offset, length).unwrap_or_default()
}

/// Exactly the bytes `offset..offset + length` of the chunk `id`, from their encoding. Everything is verified against
/// `id`; never more is allocated than `encoded` and `length` bytes.
///
/// # Errors
/// [`BaoError`].
pub fn decode(id: ChunkId, chunk_length: u32, offset: u32, length: u32, encoded: &[u8]) -> Result<Vec<u8>, BaoError> {
    let ranges = ranges(chunk_length, offset, length)?;
    if encoded.len() > encoded_max(chunk_length, length) {
        return Err(BaoError::Length { found: encoded.len() });
    }
    let tree = BaoTree::new(u64::from(chunk_length), GROUP);
    let mut rest = Cursor::new(encoded);
    let (from, to) = (u64::from(offset), u64::from(offset) + u64::from(length));
    let mut out = Vec::with_capacity((length as usize).min(encoded.len()));
    for item in DecodeResponseIter::new(blake3::Hash::from(id.0), tree, &mut rest, &ranges) {
        let BaoContentItem::Leaf(leaf) = item.map_err(|error| BaoError::Wrong(error.to_string()))? else { continue };
        let end = leaf.offset + leaf.data.len() as u64;
        let (first, last) = (from.clamp(leaf.offset, end), to.clamp(leaf.offset, end));
        out.extend_from_slice(&leaf.data[(first - leaf.offset) as usize..(last - leaf.offset) as usize]);
    }
    if out.len() != length as usize || rest.position() != encoded.len() as u64 {
        return Err(BaoError::Length { found: encoded.len() });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn chunk(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn any_range_comes_back_exactly() {
        for length in [1, 1023, 1024, 1025, 16_384, 16_385, 100_000, 1 << 20, CHUNK_BYTES_MAX] {
            let bytes = chunk(length);
            let id = ChunkId::of(&bytes);
            let length = length as u32;
            let mut wanted = vec![(0, length), (0, 1), (length - 1, 1), (length / 2, (length / 3).max(1))];
            wanted.push((length / 2, length - length / 2));
            for (offset, count) in wanted {
                let encoded = encode_verified(id, &bytes, offset, count).unwrap();
                assert!(encoded.len() <= encoded_max(length, count), "{length} {offset} {count}");
                let decoded = decode(id, length, offset, count, &encoded).unwrap();
                assert_eq!(decoded, &bytes[offset as usize..(offset + count) as usize]);
            }
        }
    }

    #[test]
    fn a_changed_cut_or_longer_encoding_is_refused() {
        let bytes = chunk(300_000);
        let id = ChunkId::of(&bytes);
        let encoded = encode(&bytes, 50_000, 70_000);
        for at in [0, 63, 64, 1000, encoded.len() / 2, encoded.len() - 1] {
            let mut wrong = encoded.clone();
            wrong[at] ^= 1;
            assert!(matches!(decode(id, 300_000, 50_000, 70_000, &wrong), Err(BaoError::Wrong(_))));
        }
        for cut in [0, 1, 64, encoded.len() - 1] {
            assert!(decode(id, 300_000, 50_000, 70_000, &encoded[..cut]).is_err());
        }
        let mut longer = encoded.clone();
        longer.push(0);
        assert!(matches!(decode(id, 300_000, 50_000, 70_000, &longer), Err(BaoError::Length { .. })));
        assert!(decode(id, 300_000, 0, 70_000, &encoded).is_err(), "another range");
        assert!(decode(ChunkId([7; 32]), 300_000, 50_000, 70_000, &encoded).is_err(), "another chunk");
    }

    #[test]
    fn impossible_ranges_are_refused_before_anything_is_done() {
        let bytes = chunk(5000);
        let id = ChunkId::of(&bytes);
        for (length, offset, count) in
            [(5000, 0, 0), (5000, 5000, 1), (5000, u32::MAX, u32::MAX), (u32::MAX, 0, u32::MAX), (0, 0, 1)]
        {
            assert!(matches!(decode(id, length, offset, count, &bytes), Err(BaoError::Range { .. })));
        }
        assert!(matches!(encode_verified(id, &bytes[1..], 0, 10), Err(BaoError::Wrong(_))));
        assert!(encode(&bytes, 4000, 2000).is_empty());
    }
}
