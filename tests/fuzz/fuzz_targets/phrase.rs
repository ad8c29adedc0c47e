//! Any text as a recovery phrase, and any 32 bytes as one that must be read as it was written.
#![no_main]

use fathom_protocol::keys::Phrase;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(phrase) = Phrase::parse(text)
    {
        assert!(text.to_lowercase().split_whitespace().eq(phrase.words().split(' ')));
    }
    if let Some(entropy) = bytes.first_chunk::<32>() {
        let words = Phrase::from_entropy(*entropy).words();
        assert!(Phrase::parse(&words).is_ok_and(|phrase| phrase.entropy() == entropy));
    }
});
