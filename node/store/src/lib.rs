//! A vendor's devices and its local FAT: which sub-chunk of which user lies on which device.
//!
//! Everything here is synchronous; callers in asynchronous code use a blocking thread. The crate knows
//! nothing of the network, and nothing of what the protocol's signed records say: leases, heads, receipts, moves and
//! final FATs are opaque bytes to it.
//!
//! Order of a store (invariant 4, durable before signed):
//!
//! 1. [`DeviceSet::store_chunk`] splits the chunk, writes the parts and waits for each device's validation;
//! 2. [`LocalFat::insert_chunk`] commits where they are, together with the receipt, in one durable transaction;
//! 3. only then may the receipt leave. If step 2 answers [`Inserted::AlreadyThere`], the stored receipt is the
//!    one to send, and the parts of this attempt go back through [`DeviceSet::remove_parts`].
//!
//! Order of an erase: one transaction of the local FAT forgets the chunk and remembers its parts as pending;
//! [`LocalFat::finish_erases`] then removes them. A crash anywhere leaves either a stored chunk, or
//! parts that [`LocalFat::recover`] removes at the next start.
//!
//! Part names are never shared. A part is a self-describing header with a random salt, then the payload
//! (see [`part`]); its name is the BLAKE3 hash of all of it. Two stores of one chunk, by a replay or by another owner, hence
//! yield different parts, and removing one can never take bytes from the other.

mod budget;
pub mod device;
pub mod direct;
mod directory;
pub mod fat;
mod marker;
mod memory;
mod meter;
mod pack;
pub mod part;
pub mod set;
pub mod storage;
pub mod testing;

pub use device::{Device, DeviceError, DeviceKind, DeviceReport, DeviceState, PartEntry, PartValidation};
pub use directory::{DirectoryConfig, DirectoryDevice, PACK_BYTES_MAX};
pub use fat::{
    ChunkEntry, ChunkKey, ChunkState, CommitFile, CommitOutcome, EraseReport, ErasedChunk, FatConfig, FatError,
    FatHealth, FatTotals, FatTx, FinalEntry, Inserted, LeaseEntry, LocalFat, MissingPart, OpenDeviceError,
    RebuildReport, RecoverReport,
};
pub use memory::MemoryDevice;
pub use part::{ChunkTag, PART_HEADER_BYTES, Part};
pub use set::{BadPart, DeviceSet, SetConfig, SplitPolicy, StoreError, StoredPart, Whole};
