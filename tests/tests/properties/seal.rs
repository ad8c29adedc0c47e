//! Phrases, and chunks that open only as they were sealed.

use fathom_protocol::keys::{Phrase, PhraseError};
use fathom_protocol::limits::{CHUNK_BYTES_MAX, CHUNK_PLAIN_MAX, SEGMENT_PLAIN, SEGMENT_TAG};
use fathom_protocol::seal::{SealError, chunk_salt, open_chunk, open_segments, seal_chunk, sealed_len};
use proptest::prelude::*;

const SEALED: usize = SEGMENT_PLAIN + SEGMENT_TAG;

fn plain(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

/// Lengths around the borders of segments.
fn lengths() -> impl Strategy<Value = usize> {
    (0..4usize, 0..3usize, 1..SEGMENT_PLAIN).prop_map(|(segments, kind, rest)| match kind {
        0 => (segments * SEGMENT_PLAIN).max(1),
        1 => segments * SEGMENT_PLAIN + 1,
        _ => segments * SEGMENT_PLAIN + rest,
    })
}

proptest! {
    #![proptest_config(crate::config(24))]

    #[test]
    fn a_phrase_is_read_as_it_was_written(entropy: [u8; 32], gap in "[ \t\n]{1,4}") {
        let phrase = Phrase::from_entropy(entropy);
        let words = phrase.words();
        prop_assert_eq!(words.split(' ').count(), 24);
        let copied = format!("{gap}{}{gap}", words.to_uppercase().replace(' ', &gap));
        let read = Phrase::parse(&copied).unwrap();
        prop_assert_eq!(read.entropy(), &entropy);
        prop_assert_eq!(read.user_keys().owner(), phrase.user_keys().owner());
    }

    #[test]
    fn a_phrase_with_a_word_less_or_a_wrong_word_is_refused(entropy: [u8; 32], at in 0..24usize) {
        let words = Phrase::from_entropy(entropy).words();
        let mut words: Vec<&str> = words.split(' ').collect();
        let word = words.remove(at);
        prop_assert_eq!(Phrase::parse(&words.join(" ")).err(), Some(PhraseError::WordCount(23)));
        words.insert(at, "fathom");
        prop_assert!(matches!(Phrase::parse(&words.join(" ")), Err(PhraseError::Wrong(_))));
        words[at] = word;
        prop_assert!(Phrase::parse(&words.join(" ")).is_ok());
    }

    #[test]
    fn a_chunk_opens_with_its_own_key_index_and_salt_only(
        key: [u8; 32], index: u64, salt: [u8; 8], length in lengths(), bit in 0..64usize, more: prop::sample::Index,
    ) {
        let plain = plain(length, salt[0]);
        let sealed = seal_chunk(&key, index, salt, &plain).unwrap();
        prop_assert_eq!(sealed.len(), sealed_len(length as u32) as usize);
        prop_assert_eq!(&open_chunk(&key, index, salt, &sealed).unwrap(), &plain);
        prop_assert_eq!(&seal_chunk(&key, index, salt, &plain).unwrap(), &sealed);
        let (mut other_key, mut other_salt) = (key, salt);
        other_key[bit / 8] ^= 1 << (bit % 8);
        other_salt[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(open_chunk(&other_key, index, salt, &sealed), Err(SealError::Segment(0)));
        prop_assert_eq!(open_chunk(&key, index ^ (1 << bit), salt, &sealed), Err(SealError::Segment(0)));
        prop_assert_eq!(open_chunk(&key, index, other_salt, &sealed), Err(SealError::Segment(0)));
        // Another salt leaves nothing of one ciphertext in the other.
        prop_assert_ne!(&seal_chunk(&key, index, other_salt, &plain).unwrap(), &sealed);
        let mut flipped = sealed.clone();
        let at = more.index(sealed.len());
        flipped[at] ^= 1 << (bit % 8);
        prop_assert_eq!(open_chunk(&key, index, salt, &flipped), Err(SealError::Segment(at / SEALED)));
        prop_assert!(open_chunk(&key, index, salt, &sealed[..at]).is_err());
        prop_assert!(open_chunk(&key, index, salt, &[&sealed[..], &[0]].concat()).is_err());
    }

    /// The same bytes are sealed alike each time, others under another key.
    #[test]
    fn a_salt_follows_from_key_index_and_bytes(key: [u8; 32], index: u64, length in lengths(), bit in 0..64usize) {
        let mut plain = plain(length, key[0]);
        let salt = chunk_salt(&key, index, &plain);
        prop_assert_eq!(chunk_salt(&key, index, &plain), salt);
        let mut other_key = key;
        other_key[bit / 8] ^= 1 << (bit % 8);
        prop_assert_ne!(chunk_salt(&other_key, index, &plain), salt);
        prop_assert_ne!(chunk_salt(&key, index ^ (1 << bit), &plain), salt);
        plain[length / 2] ^= 1;
        prop_assert_ne!(chunk_salt(&key, index, &plain), salt);
        plain[length / 2] ^= 1;
        plain.push(0);
        prop_assert_ne!(chunk_salt(&key, index, &plain), salt);
    }

    #[test]
    fn segments_cannot_be_moved_dropped_or_repeated(segments in 2..4usize, a: prop::sample::Index, b: prop::sample::Index) {
        let (key, salt) = ([1; 32], [2; 8]);
        let plain = plain(segments * SEGMENT_PLAIN, 3);
        let sealed = seal_chunk(&key, 0, salt, &plain).unwrap();
        let pieces: Vec<&[u8]> = sealed.chunks(SEALED).collect();
        let (a, b) = (a.index(segments), b.index(segments));
        let mut swapped = pieces.clone();
        swapped.swap(a, b);
        prop_assert_eq!(open_chunk(&key, 0, salt, &swapped.concat()).is_ok(), a == b);
        let mut dropped = pieces.clone();
        dropped.remove(a);
        prop_assert!(open_chunk(&key, 0, salt, &dropped.concat()).is_err());
        let mut repeated = pieces.clone();
        repeated.insert(a, pieces[b]);
        prop_assert!(open_chunk(&key, 0, salt, &repeated.concat()).is_err());
    }

    /// A range of whole segments opens on its own, and only at its own place of a chunk of its own length.
    #[test]
    fn a_range_opens_at_its_place(length in lengths(), from: prop::sample::Index, to: prop::sample::Index, shift in 1..3usize) {
        let (key, salt) = ([1; 32], [2; 8]);
        let plain = plain(length, 9);
        let sealed = seal_chunk(&key, 7, salt, &plain).unwrap();
        let segments = sealed.len().div_ceil(SEALED);
        let first = from.index(segments);
        let end = first + 1 + to.index(segments - first);
        let bytes = &sealed[first * SEALED..(end * SEALED).min(sealed.len())];
        let expected = &plain[first * SEGMENT_PLAIN..(end * SEGMENT_PLAIN).min(plain.len())];
        prop_assert_eq!(open_segments(&key, 7, salt, bytes, first, segments).unwrap(), expected);
        prop_assert!(open_segments(&key, 7, salt, bytes, first + shift, segments + shift).is_err());
        if end == segments {
            // The end of the chunk is not taken for its middle.
            prop_assert!(open_segments(&key, 7, salt, bytes, first, segments + shift).is_err());
        }
    }
}

#[test]
fn chunks_of_0_1_max_and_one_more() {
    let (key, salt) = ([1; 32], [2; 8]);
    assert_eq!(seal_chunk(&key, 0, salt, &[]), Err(SealError::Length(0)));
    assert_eq!(open_chunk(&key, 0, salt, &[]), Err(SealError::Length(0)));
    assert_eq!(seal_chunk(&key, 0, salt, &[5]).unwrap().len(), 17);
    let most = vec![5; CHUNK_PLAIN_MAX + 1];
    let sealed = seal_chunk(&key, 0, salt, &most[1..]).unwrap();
    assert_eq!(sealed.len(), CHUNK_BYTES_MAX);
    assert_eq!(sealed_len(CHUNK_PLAIN_MAX as u32) as usize, CHUNK_BYTES_MAX);
    assert_eq!(open_chunk(&key, 0, salt, &sealed).unwrap(), most[1..]);
    assert_eq!(seal_chunk(&key, 0, salt, &most), Err(SealError::Length(CHUNK_PLAIN_MAX + 1)));
    let over = vec![0; CHUNK_BYTES_MAX + 1];
    assert_eq!(open_chunk(&key, 0, salt, &over), Err(SealError::Length(CHUNK_BYTES_MAX + 1)));
}

/// The message names the limit: it must be the one that is enforced.
#[test]
fn the_limit_in_the_message_is_the_limit() {
    assert!(SealError::Length(0).to_string().contains(&format!("1 to {CHUNK_PLAIN_MAX} bytes")));
}
