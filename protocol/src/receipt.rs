//! A receipt: a vendor's signed custody of a chunk, down to each device's validation (figures 13 and 14).
//! It leaves only after the data and the local FAT are durable.

use serde::{Deserialize, Serialize};

use crate::codec::Bounded;
use crate::ids::{ChunkId, DeviceId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::limits::PARTS_MAX;
use crate::sign::{RecordError, record};
use crate::tags;
use crate::time::UnixMs;

/// One sub-chunk on one device, written durably and compared with what reads back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatedPart {
    /// Where it is.
    pub device: DeviceId,
    /// Its name there: BLAKE3 of its bytes as they lie on the device, in which the chunk's are preceded by a header.
    pub hash: Hash,
    /// Its place in the chunk, bytes.
    pub offset: u32,
    /// Its length, bytes.
    pub length: u32,
}

/// Custody of one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who has it, and signs.
    pub vendor: NodeId,
    /// Whose it is.
    pub owner: OwnerId,
    /// Under which lease.
    pub lease: LeaseId,
    /// For which file.
    pub file: FileId,
    /// For which final FAT of that file.
    pub seq: u64,
    /// What it is.
    pub chunk: ChunkId,
    /// Its length, bytes.
    pub length: u32,
    /// Where it lies: contiguous from 0 to `length`.
    pub parts: Bounded<ValidatedPart, PARTS_MAX>,
    /// When it became durable.
    pub stored: UnixMs,
}

record!(
    Receipt,
    tags::sign::RECEIPT,
    16 * 1024,
    vendor,
    fn check(&self) -> Result<(), RecordError> {
        let mut end = 0u64;
        for part in &self.parts {
            if u64::from(part.offset) != end {
                return Err(RecordError::Invalid("a receipt's sub-chunks leave a gap"));
            }
            end += u64::from(part.length);
        }
        if end != u64::from(self.length) {
            return Err(RecordError::Invalid("a receipt's sub-chunks do not add up to the chunk"));
        }
        Ok(())
    }
);
