//! Any text as an invite or a network descriptor.
#![no_main]

use fathom_bootstrap::NetworkDescriptor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(network) = NetworkDescriptor::parse(text) else { return };
    assert!(NetworkDescriptor::parse(&network.to_toml()).as_ref() == Ok(&network));
    assert!(NetworkDescriptor::parse(&network.to_invite()).as_ref() == Ok(&network));
});
