//! How a file outlives the loss of vendors: whole copies, or shards of which some are enough.

use std::ops::Range;

use fathom_protocol::erasure::{Code, Stripes};
use fathom_protocol::limits::COPIES_MAX;
use fathom_protocol::seal::sealed_len;

use super::UserError;
use super::source::{chunk_plain, striped_plain};
use super::store::{PutFile, lock};

/// What of a file is stored more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redundancy {
    /// So many copies of each chunk, each at another vendor.
    Copies(usize),
    /// Parity over each few chunks, each shard at another vendor.
    Erasure(Code),
}

impl std::fmt::Display for Redundancy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Copies(1) => f.write_str("1 copy"),
            Self::Copies(copies) => write!(f, "{copies} copies"),
            Self::Erasure(code) => code.fmt(f),
        }
    }
}

impl Redundancy {
    /// # Errors
    /// [`UserError::Source`] for a number of copies that is out of range.
    pub(super) fn check(self) -> Result<(), UserError> {
        match self {
            Self::Copies(copies) if copies == 0 || copies > COPIES_MAX => {
                Err(UserError::Source(format!("copies must be 1 to {COPIES_MAX}")))
            }
            _ => Ok(()),
        }
    }

    /// Vendors that each chunk, or each stripe, needs.
    pub(super) fn columns(self) -> u8 {
        let columns = match self {
            Self::Copies(copies) => copies,
            Self::Erasure(code) => code.total(),
        };
        u8::try_from(columns).unwrap_or(u8::MAX)
    }

    /// Copies of each chunk.
    pub(super) fn copies(self) -> u64 {
        match self {
            Self::Copies(copies) => copies as u64,
            Self::Erasure(_) => 1,
        }
    }

    /// The code, if there is one.
    pub(super) fn code(self) -> Option<Code> {
        match self {
            Self::Copies(_) => None,
            Self::Erasure(code) => Some(code),
        }
    }

    /// Plaintext bytes of a chunk for a file of `size` bytes.
    pub(super) fn chunk_plain(self, size: u64) -> u32 {
        match self {
            Self::Copies(_) => chunk_plain(size),
            Self::Erasure(code) => striped_plain(size, code.data()),
        }
    }
}

/// What is stored of the file: pieces, that is chunks and after them parity shards.
impl PutFile {
    /// Its stripes, if it is stored with parity.
    pub(super) fn stripes(&self) -> Option<Stripes> {
        let code = self.code?;
        Some(Stripes { code, size: self.source.size, chunk_plain: self.chunk_plain })
    }

    /// Length of piece `index` as it is stored, bytes.
    pub(super) fn piece_len(&self, index: u64) -> u32 {
        self.stripes().map_or_else(|| sealed_len(self.plain_len(index)), |stripes| stripes.len(index))
    }

    /// What is sealed and sent at a time: chunks, or stripes.
    pub(super) fn job_count(&self) -> u64 {
        self.stripes().map_or(self.chunk_count(), |stripes| stripes.count())
    }

    /// Bytes of pieces that column `column`, of `columns` in all, lacks.
    pub(super) fn needed(&self, column: u8, columns: u8) -> u64 {
        let chunks = lock(&self.chunks);
        let pieces = self.stripes().map_or(self.chunk_count(), |stripes| stripes.pieces());
        let has =
            |index: &u64| chunks.get(index).is_some_and(|chunk| chunk.copies.iter().any(|copy| copy.column == column));
        (0..pieces)
            .filter(|index| self.columns(*index, columns).contains(&column) && !has(index))
            .map(|index| u64::from(self.piece_len(index)))
            .sum()
    }

    /// The columns of piece `index`, of `columns` in all: every one has a copy of a chunk, or one a shard, where the stripes take turns so that
    /// each vendor has its share of what is read.
    pub(super) fn columns(&self, index: u64, columns: u8) -> Range<u8> {
        let Some(stripes) = self.stripes() else { return 0..columns };
        let (stripe, position) = stripes.place(index);
        let column = (stripe + position as u64) % u64::from(columns.max(1));
        let column = u8::try_from(column).unwrap_or(u8::MAX);
        column..column + 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use fathom_protocol::erasure::Stripes;
    use fathom_protocol::limits::CHUNK_PLAIN_MAX;

    use super::*;

    /// Keeps away: a small file, or the end of a large one, that takes as many bytes with 4+2 as three copies would.
    #[test]
    fn a_file_of_any_size_takes_little_more_than_its_code_says() {
        for (data, parity) in [(2, 1), (4, 2), (10, 4), (13, 3)] {
            let code = Code::new(data, parity).unwrap();
            let ratio = code.total() as f64 / code.data() as f64;
            for size in [
                1u64,
                5,
                1_000,
                65_536,
                100_001,
                1 << 20,
                (4 << 20) + 1,
                67_108_863,
                67_108_864,
                (16 << 20) * 5 + 1,
                1 << 30,
            ] {
                let stripes = Stripes { code, size, chunk_plain: Redundancy::Erasure(code).chunk_plain(size) };
                assert!(stripes.chunk_plain as usize <= CHUNK_PLAIN_MAX);
                let stored: u64 = (0..stripes.pieces()).map(|piece| u64::from(stripes.len(piece))).sum();
                // A tag for each segment, and parity in whole units.
                let beside = stripes.pieces() as f64 * 96.0 + size as f64 * ratio / 4_096.0;
                assert!(
                    stored as f64 <= size as f64 * ratio + beside + 64.0 * ratio,
                    "{size} bytes with {code}: {stored}"
                );
            }
        }
    }
}
