#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

const KEY: Key = Key([0xab; 16]);

/// Keeps away: a release that does not find what an earlier one wrote.
#[test]
fn a_record_of_version_1_has_these_bytes() {
    let record = KEY.record(Hash([7; 32]), b"part");
    let header = [&b"FPAK\x01\0\0\0\0\0\0\x04\0\0\0\0"[..], &[7; 32]].concat();
    assert_eq!(record[..CHECKED], header);
    let check = [0x65, 0xbf, 0xb8, 0x28, 0xf0, 0x08, 0x24, 0xad, 0x70, 0x7d, 0x3e, 0xaa, 0x32, 0x2c, 0xf3, 0x21];
    assert_eq!(record[CHECKED..HEADER], check);
    assert_eq!(&record[HEADER..], b"part");
    assert_eq!(KEY.parse(record.first_chunk().unwrap()), Some((Hash([7; 32]), 4)));
    assert_eq!(Key::of_name(&KEY.name()), Some(KEY));
}

#[test]
fn only_its_own_headers_are_a_packs_records() {
    let record = KEY.record(Hash([7; 32]), b"part");
    let header: [u8; HEADER] = *record.first_chunk().unwrap();
    assert_eq!(Key([1; 16]).parse(&header), None, "another pack's");
    for at in 0..HEADER {
        let mut flipped = header;
        flipped[at] ^= 1;
        assert_eq!(KEY.parse(&flipped), None, "byte {at}");
    }
    for name in ["", "ab", "+bababababababababababababababab", "ABababababababababababababababab"] {
        assert_eq!(Key::of_name(name), None, "{name}");
    }
}
