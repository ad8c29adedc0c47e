//! What final FATs cost, in bytes: measured, and held to a limit.

use fathom_protocol::codec::{Bounded, Text, encode};
use fathom_protocol::fat::{ChunkRef, FileMeta, FinalFat, Manifest, Place, Tag, Use};
use fathom_protocol::ids::{ChunkId, LeaseId, NodeId};
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::SyncRecord;
use fathom_tests::samples::{self, signed};

/// Bytes of a final FAT per chunk, for files of at least [`CHUNKS_MIN`] chunks with [`COPIES`] copies.
const PER_CHUNK_MAX: f64 = 48.0;
const CHUNKS_MIN: usize = 1_000;
const COPIES: usize = 3;
/// Plaintext of a chunk of a file of a gigabyte, in bytes.
const CHUNK_PLAIN: u64 = 4 << 20;

/// Bytes of the whole record, as mirrors keep and send it, of a file of `chunks` chunks at `vendors` vendors.
fn record_bytes(chunks: usize, vendors: usize) -> usize {
    let user = samples::user();
    let name = "family/Photos/2026/November/video of the first snow.mp4";
    let place = |at: usize| Place {
        vendor: NodeId(*blake3::hash(&at.to_le_bytes()).as_bytes()),
        lease: LeaseId::from_slice(&blake3::hash(&at.to_be_bytes()).as_bytes()[..16]).unwrap(),
    };
    let places: Vec<Place> = (0..vendors).map(place).collect();
    let refs: Vec<ChunkRef> = (0..chunks)
        .map(|index| {
            let id = ChunkId::of(&index.to_le_bytes());
            let copies = (0..COPIES).map(|copy| ((index + copy) % vendors) as u16).collect();
            ChunkRef { id, salt: id.0[..8].try_into().unwrap(), copies }
        })
        .collect();
    let size = chunks as u64 * CHUNK_PLAIN;
    let meta = FileMeta {
        name: Text::new(name).unwrap(),
        size,
        mode: 0o644,
        modified: UnixMs(1_763_000_000_000),
        chunk_plain: CHUNK_PLAIN as u32,
    };
    let manifest = Manifest::new(meta, [7; 32], places.clone(), COPIES as u8, &refs).unwrap();
    let (file, seq) = (user.file_id(name), Tag::new(3, 0xbeef).0);
    let used = |place: &Place| Use {
        vendor: place.vendor,
        lease: place.lease,
        bytes: size * COPIES as u64 / vendors as u64,
        unused: 4_195_328,
    };
    let fat = FinalFat {
        version: VERSION,
        owner: user.owner(),
        file,
        seq,
        base: seq,
        // As many as there can be.
        follows: samples::all_before(Tag(seq)),
        uses: Bounded::first(places.iter().map(used)),
        frees: Bounded::default(),
        issued: UnixMs(1_763_000_000_000),
        order_expires: UnixMs(1_766_888_000_000),
        body: user.seal_manifest(&manifest, file, seq, [5; 24]).unwrap(),
    };
    encode(&SyncRecord::Fat(signed(fat, user.signing()).into_carried())).len()
}

#[test]
fn a_final_fat_has_at_most_48_bytes_for_each_chunk() {
    for (chunks, vendors) in [(CHUNKS_MIN, 6), (10_000, 24), (100_000, 64)] {
        let bytes = record_bytes(chunks, vendors);
        let per_chunk = bytes as f64 / chunks as f64;
        println!("{chunks} chunks in {COPIES} copies at {vendors} vendors: {bytes} bytes, {per_chunk:.2} a chunk");
        assert!(per_chunk <= PER_CHUNK_MAX, "{per_chunk} bytes a chunk for {chunks} chunks");
    }
    let small = record_bytes(1, COPIES);
    println!("a file of one chunk in {COPIES} copies: {small} bytes");
    assert!(small <= 1_500, "{small}");
}
