//! Any bytes as a [`fathom_protocol::wire::FetchAnswer`].
#![no_main]

use fathom_fuzz::stable;
use fathom_protocol::limits::ANSWER_BYTES_MAX;
use fathom_protocol::wire::FetchAnswer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    stable::<FetchAnswer>(bytes, ANSWER_BYTES_MAX);
});
