//! Any bytes as a vendor's answer to a fetch: what comes out is the range that was asked for, of the chunk that was asked for,
//! or nothing.
#![no_main]

#[allow(dead_code)]
#[path = "../../../node/src/bao.rs"]
mod bao;

use fathom_protocol::ids::ChunkId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, u32, u32, u16, Vec<u8>)| {
    let (chunk_length, offset, length, real, encoded) = input;
    let chunk: Vec<u8> = (0..u32::from(real)).map(|i| (i * 31 + i / 251) as u8).collect();
    let id = ChunkId::of(&chunk);
    // Whatever is claimed and sent: at most what was stored comes out.
    if let Ok(bytes) = bao::decode(id, chunk_length, offset, length, &encoded) {
        let range = offset as usize..offset as usize + length as usize;
        assert!(chunk.get(range) == Some(&bytes[..]));
    }
    // The honest encoding, damaged somewhere by the input.
    if chunk.is_empty() {
        return;
    }
    let (offset, length) = (offset % chunk.len() as u32, 1 + length % chunk.len() as u32);
    let length = length.min(chunk.len() as u32 - offset);
    let mut answer = bao::encode(&chunk, offset, length);
    let honest = bao::decode(id, chunk.len() as u32, offset, length, &answer);
    assert!(honest.is_ok_and(|bytes| bytes == chunk[offset as usize..(offset + length) as usize]));
    for (at, flip) in encoded.iter().enumerate().take(answer.len()) {
        answer[at] ^= flip;
    }
    if let Ok(bytes) = bao::decode(id, chunk.len() as u32, offset, length, &answer) {
        assert!(bytes == chunk[offset as usize..(offset + length) as usize]);
    }
});
