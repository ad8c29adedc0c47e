//! Any bytes as a part on a device: a disk may hold anything after a crash or a bad cable.
#![no_main]

use fathom_protocol::limits::CHUNK_BYTES_MAX;
use fathom_store::PART_HEADER_BYTES;
use fathom_store::part::PartHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((header, payload)) = PartHeader::parse(bytes) else { return };
    assert!(payload.len() + PART_HEADER_BYTES as usize == bytes.len());
    assert!(header.chunk_length as usize <= CHUNK_BYTES_MAX);
    assert!(header.offset as usize + payload.len() <= header.chunk_length as usize);
});
