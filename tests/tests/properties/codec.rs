//! Bounds at 0, 1, max and max + 1, and lengths that are only announced.

use fathom_protocol::codec::{Blob, Bounded, DecodeError, Text, TooMany, decode, encode};
use fathom_protocol::ids::{ChunkId, LeaseId, NodeId};
use proptest::prelude::*;

const MAX: usize = 300;
/// More than any of these values takes.
const ROOM: usize = 1 << 16;

#[test]
fn lists_texts_and_blobs_hold_0_1_and_max_and_not_one_more() {
    for length in [0, 1, MAX] {
        let list: Bounded<u8, MAX> = Bounded::new(vec![7; length]).unwrap();
        assert_eq!(decode::<Bounded<u8, MAX>>(&encode(&list), ROOM), Ok(list));
        let text: Text<MAX> = Text::new("t".repeat(length)).unwrap();
        assert_eq!(decode::<Text<MAX>>(&encode(&text), ROOM), Ok(text));
        let blob: Blob<MAX> = Blob::new(vec![7; length]).unwrap();
        assert_eq!(decode::<Blob<MAX>>(&encode(&blob), ROOM), Ok(blob));
    }
    let over = MAX + 1;
    let too_many = TooMany { length: over, max: MAX };
    assert_eq!(Bounded::<u8, MAX>::new(vec![7; over]), Err(too_many));
    assert_eq!(Text::<MAX>::new("t".repeat(over)), Err(too_many));
    assert_eq!(Blob::<MAX>::new(vec![7; over]), Err(too_many));
    let list = encode(&Bounded::<u8, { MAX + 1 }>::new(vec![7; over]).unwrap());
    assert!(matches!(decode::<Bounded<u8, MAX>>(&list, ROOM), Err(DecodeError::Malformed(_))));
    let text = encode(&"t".repeat(over));
    assert!(matches!(decode::<Text<MAX>>(&text, ROOM), Err(DecodeError::Malformed(_))));
    let blob = encode(&Blob::<{ MAX + 1 }>::new(vec![7; over]).unwrap());
    assert!(matches!(decode::<Blob<MAX>>(&blob, ROOM), Err(DecodeError::Malformed(_))));
}

/// A list without an announced length is counted while it arrives.
#[test]
fn a_list_of_unknown_length_is_bounded_too() {
    let stream = |length: usize| [&[0x9f][..], &vec![7; length], &[0xff]].concat();
    assert_eq!(decode::<Bounded<u8, MAX>>(&stream(MAX), ROOM).unwrap().len(), MAX);
    assert!(decode::<Bounded<u8, MAX>>(&stream(MAX + 1), ROOM).is_err());
    // The same for bytes and text in pieces.
    let pieces = |kind: u8, length: usize| [&[kind | 0x1f][..], &[kind | 1, b't'].repeat(length), &[0xff]].concat();
    for length in [0, 1, MAX] {
        assert_eq!(decode::<Blob<MAX>>(&pieces(0x40, length), ROOM).unwrap().len(), length);
        assert_eq!(decode::<Text<MAX>>(&pieces(0x60, length), ROOM).unwrap().as_str().len(), length);
    }
    assert!(decode::<Blob<MAX>>(&pieces(0x40, MAX + 1), ROOM).is_err());
    assert!(decode::<Text<MAX>>(&pieces(0x60, MAX + 1), ROOM).is_err());
}

#[test]
fn empty_and_overlong_messages_are_told_before_they_are_read() {
    assert_eq!(decode::<u8>(&[], ROOM), Err(DecodeError::Empty));
    assert_eq!(decode::<u8>(&[7], 0), Err(DecodeError::TooLong { length: 1, max: 0 }));
    assert_eq!(decode::<u8>(&[7], 1), Ok(7));
    assert_eq!(decode::<u8>(&[7; 9], 8), Err(DecodeError::TooLong { length: 9, max: 8 }));
}

#[test]
fn identifiers_take_their_length_and_no_other() {
    for length in [0, 1, 15, 16, 17, 31, 32, 33, 64] {
        let bytes = encode(&Blob::<64>::new(vec![1; length]).unwrap());
        assert_eq!(decode::<LeaseId>(&bytes, ROOM).is_ok(), length == 16);
        assert_eq!(decode::<ChunkId>(&bytes, ROOM).is_ok(), length == 32);
        let text = "ab".repeat(length);
        assert_eq!(text.parse::<NodeId>().is_ok(), length == 32);
    }
}

#[test]
fn a_text_is_cut_between_characters() {
    assert_eq!(Text::<4>::cut("ééé").as_str(), "éé");
    assert_eq!(Text::<5>::cut("ééé").as_str(), "éé");
    assert_eq!(Text::<0>::cut("é").as_str(), "");
    assert_eq!(Text::<9>::cut("ééé").as_str(), "ééé");
}

/// Nesting is refused before it exhausts the stack.
#[test]
fn deep_nesting_is_refused() {
    let deep = [vec![0x81; 100_000], vec![0x00]].concat();
    assert!(decode::<Bounded<Bounded<u8, 1>, 1>>(&deep, 1 << 20).is_err());
    // In a field that nobody knows, and that is therefore skipped.
    let unknown = [vec![0xa1, 0x61, b'x'], deep].concat();
    assert!(decode::<fathom_protocol::wire::Page>(&unknown, 1 << 20).is_err());
}

proptest! {
    #![proptest_config(crate::config(512))]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<Bounded<Text<8>, 4>>(&bytes, 128);
        let _ = decode::<Blob<8>>(&bytes, 128);
        let _ = decode::<fathom_protocol::wire::Response>(&bytes, 128);
    }

    #[test]
    fn identifiers_are_written_and_read_alike(bytes: [u8; 32]) {
        let node = NodeId(bytes);
        prop_assert_eq!(node.to_string().parse::<NodeId>().unwrap(), node);
        prop_assert_eq!(node.to_string().to_uppercase().parse::<NodeId>().unwrap(), node);
    }
}
