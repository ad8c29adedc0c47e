//! Any bytes as a manifest. Only its owner can seal one, but it may be an owner with another program.
#![no_main]

use fathom_fuzz::stable;
use fathom_protocol::fat::Manifest;
use fathom_protocol::limits::FAT_BODY_BYTES_MAX;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(manifest) = stable::<Manifest>(bytes, FAT_BODY_BYTES_MAX) else { return };
    if manifest.check().is_err() {
        return;
    }
    let mut size = 0u64;
    for (index, chunk) in manifest.chunks().enumerate() {
        assert!(chunk.copies.iter().all(|copy| usize::from(*copy) < manifest.places.len()));
        size += u64::from(manifest.plain_len(index));
    }
    assert!(size == manifest.size);
    let mut pieces = 0;
    for piece in manifest.pieces() {
        assert!(piece.length > 0 && piece.copies.iter().all(|copy| usize::from(*copy) < manifest.places.len()));
        pieces += 1;
    }
    assert!(pieces == manifest.piece_count());
    if let Ok(same) = manifest.with_moves(&[]) {
        assert!(same.chunk_count() == manifest.chunk_count() && same.piece_count() == manifest.piece_count());
    }
});
