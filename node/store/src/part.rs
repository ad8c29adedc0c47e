//! The layout of a part (a sub-chunk) on a device.
//!
//! A part describes itself, so that a vendor whose local FAT is lost can rebuild it from a scan of its devices. All
//! integers are big-endian. The part's name is the BLAKE3 hash of header and payload together.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `FPRT` |
//! | 4 | 1 | version, 1 |
//! | 5 | 3 | zero |
//! | 8 | 16 | salt, random for each write |
//! | 24 | 32 | owner |
//! | 56 | 32 | chunk |
//! | 88 | 16 | file |
//! | 104 | 8 | seq: the tag of the put that brought the chunk |
//! | 112 | 16 | lease |
//! | 128 | 4 | length of the whole chunk |
//! | 132 | 4 | offset of this part's payload in the chunk |
//! | 136 | .. | payload |

use fathom_protocol::ids::{ChunkId, FileId, Hash, LeaseId, OwnerId};
use fathom_protocol::limits::CHUNK_BYTES_MAX;

use crate::direct::Aligned;

/// Bytes that a part takes on its device beyond its payload.
pub const PART_HEADER_BYTES: u32 = 136;
const HEADER: usize = PART_HEADER_BYTES as usize;
const MAGIC: &[u8; 4] = b"FPRT";
const VERSION: u8 = 1;
/// Length of the salt, in bytes.
pub(crate) const SALT_BYTES: usize = 16;

/// Whose chunk it is, and under which lease it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkTag {
    /// The user.
    pub owner: OwnerId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The user's file.
    pub file: FileId,
    /// The file's sequence number that the put is for.
    pub seq: u64,
    /// The lease whose room the chunk takes.
    pub lease: LeaseId,
}

/// A part as it goes to a device: its bytes, and its name, which is their hash.
#[derive(Debug, Clone)]
pub struct Part {
    name: Hash,
    bytes: Aligned,
}

impl Part {
    /// `bytes` under their name.
    #[must_use]
    pub fn of(bytes: Aligned) -> Self {
        Self { name: Hash::of(&bytes), bytes }
    }

    /// BLAKE3 of the bytes.
    #[must_use]
    pub fn name(&self) -> Hash {
        self.name
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Aligned {
        &self.bytes
    }
}

/// The header of a part, as decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartHeader {
    /// Whose chunk.
    pub tag: ChunkTag,
    /// Length of the whole chunk, in bytes.
    pub chunk_length: u32,
    /// Where in the chunk the payload begins, in bytes.
    pub offset: u32,
}

impl PartHeader {
    /// The part's bytes: this header with `salt`, then `payload`.
    pub(crate) fn frame(&self, salt: [u8; SALT_BYTES], payload: &[u8]) -> Aligned {
        Aligned::of(&[
            MAGIC,
            &[VERSION, 0, 0, 0],
            &salt,
            &self.tag.owner.0,
            &self.tag.chunk.0,
            &self.tag.file.0,
            &self.tag.seq.to_be_bytes(),
            &self.tag.lease.0,
            &self.chunk_length.to_be_bytes(),
            &self.offset.to_be_bytes(),
            payload,
        ])
    }

    /// The header and the payload in `bytes`, or `None` if they are not a part of a known version.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, payload) = bytes.split_at_checked(HEADER)?;
        if &head[..4] != MAGIC || head[4..8] != [VERSION, 0, 0, 0] {
            return None;
        }
        let header = Self {
            tag: ChunkTag {
                owner: OwnerId::from_slice(&head[24..56])?,
                chunk: ChunkId::from_slice(&head[56..88])?,
                file: FileId::from_slice(&head[88..104])?,
                seq: u64::from_be_bytes(head[104..112].try_into().ok()?),
                lease: LeaseId::from_slice(&head[112..128])?,
            },
            chunk_length: u32::from_be_bytes(head[128..132].try_into().ok()?),
            offset: u32::from_be_bytes(head[132..136].try_into().ok()?),
        };
        let end = header.offset as usize + payload.len();
        let fits = header.chunk_length as usize <= CHUNK_BYTES_MAX && end <= header.chunk_length as usize;
        fits.then_some((header, payload))
    }
}
