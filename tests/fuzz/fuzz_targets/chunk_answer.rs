//! Any bytes as a [`fathom_protocol::wire::ChunkAnswer`].
#![no_main]

use fathom_fuzz::stable;
use fathom_protocol::limits::ANSWER_BYTES_MAX;
use fathom_protocol::wire::ChunkAnswer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    stable::<ChunkAnswer>(bytes, ANSWER_BYTES_MAX);
});
