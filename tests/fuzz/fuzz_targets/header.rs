//! Any bytes as the header of a chunk, and its arrival at the vendor that its first hop names.
#![no_main]

use fathom_fuzz::stable;
use fathom_protocol::header::Header;
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::{HEADER_BYTES_MAX, HOPS_MAX};
use fathom_protocol::time::UnixMs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(header) = stable::<Header>(bytes, HEADER_BYTES_MAX) else { return };
    let first = header.hops.first().and_then(|hop| hop.peek().ok());
    let me = first.as_ref().map_or(NodeId([0; 32]), |hop| hop.vendor);
    let now = first.map_or(UnixMs(0), |hop| hop.expires);
    let hops = header.hops.len();
    if let Ok(arrived) = header.arrive(me, now) {
        assert!(hops <= HOPS_MAX);
        assert!(arrived.mine.vendor == me);
        assert!(arrived.rest.hops.len() == hops - 1);
        assert!(arrived.next.is_some() == (hops > 1));
        assert!((1..=64).contains(&arrived.mine.split.parts(arrived.mine.length)));
    }
});
