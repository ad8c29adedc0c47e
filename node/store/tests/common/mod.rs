//! What the tests of this crate share.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::fat::{Follows, Lineage, Tag};
use fathom_protocol::ids::{ChunkId, DeviceId, FileId, LeaseId, NodeId, OwnerId};
use fathom_protocol::limits::FOLLOWS_MAX;
use fathom_protocol::time::UnixMs;
use fathom_store::testing::{FailingStorage, FaultyDevice};
use fathom_store::{
    ChunkEntry, ChunkTag, CommitFile, Device, DeviceSet, FatConfig, FatError, FatTotals, FinalEntry, Inserted,
    LocalFat, MemoryDevice, SetConfig, SplitPolicy, StoredPart,
};

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

pub fn config() -> FatConfig {
    FatConfig { headroom_bytes: 0, ..FatConfig::default() }
}

pub fn open(storage: &FailingStorage) -> Result<LocalFat, FatError> {
    LocalFat::open_in(Arc::new(storage.clone()), config())
}

/// A local FAT with one lease of 10,000 bytes and two chunks of 100.
pub fn filled(storage: &FailingStorage) -> LocalFat {
    let fat = open(storage).unwrap();
    fat.put_lease(LEASE, b"lease 1", 10_000).unwrap();
    for n in 0..2 {
        assert_eq!(fat.insert_chunk(&entry(n, 1, 100), None, None).unwrap(), Inserted::New);
    }
    fat
}

pub fn commit(base: u64, seq: u64, record: &[u8]) -> CommitFile {
    written(Tag::new(base, 0), Tag::new(seq, 0), record)
}

pub fn written(base: Tag, seq: Tag, record: &[u8]) -> CommitFile {
    // After more versions than can be named: it follows all with a lower counter.
    let none = Follows::default();
    let last = (0..FOLLOWS_MAX as u16).map(|back| Tag::new(seq.counter() - 1, u16::MAX - back));
    let follows = Follows::all_of(last.map(|seq| Lineage { base: seq, seq, follows: &none }), None);
    of_entry(FinalEntry { seq: seq.0, base: base.0, follows, record: record.to_vec() })
}

pub fn of_entry(fat: FinalEntry) -> CommitFile {
    CommitFile { owner: OWNER, file: FILE, fat, now: UnixMs(9_000) }
}

/// Everything that a user or mirror could see, and that indices, lease and totals agree with the chunks.
pub fn state(fat: &LocalFat) -> (Vec<ChunkEntry>, Vec<u8>, Option<Vec<u8>>) {
    let chunks = fat.chunks_after(None, 1000).unwrap();
    let used: u64 = chunks.iter().map(|entry| u64::from(entry.length)).sum();
    let lease = fat.lease(LEASE).unwrap().unwrap();
    assert_eq!(lease.used, used);
    assert_eq!(fat.totals().unwrap(), FatTotals { chunks: chunks.len() as u64, bytes: used });
    assert_eq!(fat.chunks_of_lease(LEASE).unwrap(), chunks);
    let mut of_file = fat.chunks_of_file(OWNER, FILE).unwrap();
    of_file.sort_by_key(ChunkEntry::key);
    assert_eq!(of_file, chunks);
    (chunks, lease.signed, fat.kv("head").unwrap())
}
