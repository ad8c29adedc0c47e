//! What is stored of a file, chunks and parity shards alike, and the stripes that they make.

use super::{ChunkRef, FileMeta, Manifest, ManifestError, NOWHERE, Parity, Place};
use crate::codec::Blob;
use crate::erasure::{Code, Stripes};
use crate::ids::ChunkId;
use crate::seal::sealed_len;
use crate::tags;

/// Bytes of a parity shard: its identifier and its place.
const SHARD_ENTRY: usize = ChunkId::LEN + 2;

/// One parity shard as its owner knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParityRef {
    /// BLAKE3 of its bytes.
    pub id: ChunkId,
    /// Where it is, as an index into [`Manifest::places`]; nowhere if none.
    pub place: Option<u16>,
}

/// Something that vendors store of a file: a sealed chunk or a parity shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// BLAKE3 of its bytes.
    pub id: ChunkId,
    /// Length, bytes.
    pub length: u32,
    /// Where its copies are: indices into [`Manifest::places`].
    pub copies: Vec<u16>,
}

impl Manifest {
    /// Packs a file that is stored with parity: its chunks, each in one place, and the parity shards of all stripes in order.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn coded(
        meta: FileMeta,
        file_key: [u8; 32],
        places: Vec<Place>,
        code: Code,
        (chunks, parity): (&[ChunkRef], &[ParityRef]),
    ) -> Result<Self, ManifestError> {
        let mut packed = Vec::with_capacity(parity.len() * SHARD_ENTRY);
        for shard in parity {
            packed.extend_from_slice(&shard.id.0);
            packed.extend_from_slice(&shard.place.unwrap_or(NOWHERE).to_le_bytes());
        }
        let mut manifest = Self::new(meta, file_key, places, 1, chunks)?;
        manifest.version = tags::MANIFEST_CODED;
        manifest.parity = Some(Parity { code, shards: Blob::new(packed).map_err(|_| ManifestError::TooLarge)? });
        manifest.check()?;
        Ok(manifest)
    }

    /// Whether the parity shards fit the chunks, where `known` says whether two bytes are the index of a place.
    pub(super) fn check_parity(&self, known: impl Fn(&[u8]) -> bool) -> Result<(), ManifestError> {
        let (Some(parity), Some(stripes)) = (&self.parity, self.stripes()) else { return Ok(()) };
        if self.copies_per_chunk != 1 {
            return Err(ManifestError::Invalid("a file with parity has several copies"));
        }
        let shards = stripes.pieces() - stripes.chunks();
        if parity.shards.len() as u64 != shards.saturating_mul(SHARD_ENTRY as u64) {
            return Err(ManifestError::Invalid("the parity shards do not add up to the stripes"));
        }
        if !parity.shards.chunks_exact(SHARD_ENTRY).all(|entry| known(&entry[ChunkId::LEN..])) {
            return Err(ManifestError::Invalid("a parity shard refers to no place"));
        }
        Ok(())
    }

    /// Its code, if it is stored with parity.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.parity.as_ref().map(|parity| parity.code)
    }

    /// Its stripes, if it is stored with parity.
    #[must_use]
    pub fn stripes(&self) -> Option<Stripes> {
        let code = self.code()?;
        Some(Stripes { code, size: self.size, chunk_plain: self.chunk_plain })
    }

    /// Number of pieces.
    #[must_use]
    pub fn piece_count(&self) -> usize {
        self.chunk_count() + self.parity.as_ref().map_or(0, |parity| parity.shards.len() / SHARD_ENTRY)
    }

    /// Piece `index`, chunks first and then the parity shards stripe by stripe, or `None` past the end.
    #[must_use]
    pub fn piece(&self, index: usize) -> Option<Piece> {
        if let Some(chunk) = self.chunk(index) {
            return Some(Piece { id: chunk.id, length: sealed_len(self.plain_len(index)), copies: chunk.copies });
        }
        let parity = self.parity_shard(index.checked_sub(self.chunk_count())?)?;
        let length = self.stripes()?.len(index as u64);
        Some(Piece { id: parity.id, length, copies: parity.place.into_iter().collect() })
    }

    /// All pieces in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        (0..self.piece_count()).filter_map(|index| self.piece(index))
    }

    /// Where the copies of `piece`, one of this manifest, are.
    pub fn places_of_piece(&self, piece: &Piece) -> impl Iterator<Item = Place> + '_ {
        self.places_at(piece.copies.clone())
    }

    /// The parity shards of all stripes in order.
    pub(super) fn parity(&self) -> impl Iterator<Item = ParityRef> + '_ {
        (0..self.piece_count() - self.chunk_count()).filter_map(|number| self.parity_shard(number))
    }

    fn parity_shard(&self, number: usize) -> Option<ParityRef> {
        let entry = self.parity.as_ref()?.shards.chunks_exact(SHARD_ENTRY).nth(number)?;
        let place = u16::from_le_bytes([entry[ChunkId::LEN], entry[ChunkId::LEN + 1]]);
        let id = ChunkId::from_slice(&entry[..ChunkId::LEN])?;
        Some(ParityRef { id, place: (place != NOWHERE).then_some(place) })
    }
}
