//! Any bytes as a [`fathom_protocol::wire::Request`].
#![no_main]

use fathom_fuzz::stable;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::wire::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    stable::<Request>(bytes, FRAME_BYTES_MAX);
});
