//! Any bytes as a [`fathom_protocol::wire::Gossip`].
#![no_main]

use fathom_fuzz::stable;
use fathom_protocol::limits::GOSSIP_BYTES_MAX;
use fathom_protocol::wire::Gossip;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    stable::<Gossip>(bytes, GOSSIP_BYTES_MAX);
});
