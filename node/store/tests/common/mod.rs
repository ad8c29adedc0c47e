//! What the tests of this crate share.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::fat::Tag;
use fathom_protocol::ids::{ChunkId, DeviceId, FileId, LeaseId, NodeId, OwnerId};
use fathom_protocol::time::UnixMs;
use fathom_store::testing::FaultyDevice;
use fathom_store::{ChunkEntry, ChunkTag, Device, DeviceSet, MemoryDevice, SetConfig, SplitPolicy, StoredPart};

pub const VENDOR: NodeId = NodeId([1; 32]);
pub const OWNER: OwnerId = OwnerId([2; 32]);
pub const LEASE: LeaseId = LeaseId([3; 16]);
pub const FILE: FileId = FileId([4; 16]);
pub const WHOLE: SplitPolicy = SplitPolicy { part_bytes_max: 0, parts_min: 1 };

pub type Faulty = Arc<FaultyDevice<MemoryDevice>>;

pub fn device_id(n: u8) -> DeviceId {
    DeviceId([n; 16])
}

pub fn faulty(n: u8, quota: u64) -> Faulty {
    Arc::new(FaultyDevice::new(MemoryDevice::new(device_id(n), quota)))
}

/// Short deadlines, so that a hung device costs a test little.
pub fn quick() -> SetConfig {
    SetConfig {
        validation_deadline: Duration::from_millis(300),
        read_deadline: Duration::from_millis(300),
        store_deadline: Duration::from_secs(5),
        ..SetConfig::default()
    }
}

pub fn set_of(devices: &[Faulty]) -> DeviceSet {
    DeviceSet::new(devices.iter().map(|device| Arc::clone(device) as Arc<dyn Device>).collect(), quick()).unwrap()
}

/// Bytes that do not compress and differ by `seed`.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut reader = {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        blake3::Hasher::new_keyed(&key).finalize_xof()
    };
    reader.fill(&mut out);
    out
}

pub fn tag(chunk: &[u8], seq: u64) -> ChunkTag {
    ChunkTag { owner: OWNER, chunk: ChunkId::of(chunk), file: FILE, seq, lease: LEASE }
}

/// An entry of `length` bytes at `seq` whose chunk and part are made of `n`.
pub fn entry(n: u64, seq: u64, length: u32) -> ChunkEntry {
    let name = bytes(n, 32);
    let part = StoredPart { device: device_id(1), part: fathom_protocol::ids::Hash::of(&name), offset: 0, length };
    let seq = Tag::new(seq, 0).0;
    ChunkEntry::stored(&tag(&name, seq), length, vec![part], format!("receipt {n}").into_bytes(), UnixMs(1_000 + n))
}

/// Used and temporary bytes of all devices.
pub fn taken(set: &DeviceSet) -> (u64, u64) {
    set.report().iter().fold((0, 0), |sum, report| (sum.0 + report.used, sum.1 + report.temporary))
}
