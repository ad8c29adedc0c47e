//! Any bytes as a [`fathom_protocol::wire::Response`].
#![no_main]

use fathom_fuzz::stable;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::wire::Response;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    stable::<Response>(bytes, FRAME_BYTES_MAX);
});
