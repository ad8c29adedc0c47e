//! Golden bytes: what this build writes is what every build before it wrote, byte by byte.
//!
//! A file in `tests/golden` is hexadecimal text, 64 digits a line. An existing file is never rewritten: another meaning gets
//! another message. A new message gets its file with `FATHOM_WRITE_GOLDEN=1 cargo test -p fathom-tests --test golden`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fathom_protocol::codec::decode;
use fathom_protocol::fat::Manifest;
use fathom_protocol::head::VendorHead;
use fathom_protocol::keys::Phrase;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::rebuild::Rebuild;
use fathom_protocol::seal::open_chunk;
use fathom_protocol::sign::Carried;
use fathom_protocol::table;
use fathom_protocol::wire::{ChunkAnswer, FetchAnswer, Gossip, Request, Response, SyncRecord};
use fathom_tests::samples;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        text.push_str(&data_encoding::HEXLOWER.encode(line));
        text.push('\n');
    }
    text
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
}

fn read(name: &str) -> Vec<u8> {
    from_hex(&std::fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap())
}

#[test]
fn every_message_is_written_as_ever() {
    let write = std::env::var_os("FATHOM_WRITE_GOLDEN").is_some_and(|value| value == "1");
    let mut wrong = Vec::new();
    for (name, bytes) in samples::golden() {
        let path = folder().join(format!("{name}.hex"));
        if !path.exists() && write {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, to_hex(&bytes)).unwrap();
        }
        match std::fs::read_to_string(&path) {
            Err(error) => wrong.push(format!("{name}: {error}; write it with FATHOM_WRITE_GOLDEN=1")),
            Ok(text) if from_hex(&text) != bytes => {
                wrong.push(format!("{name}: this build writes\n{}instead of\n{text}", to_hex(&bytes)));
            }
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn samples_are_the_same_in_each_run_and_each_has_its_own_name() {
    let all = samples::golden();
    assert_eq!(all, samples::golden());
    let names: BTreeSet<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), all.len());
}

/// Messages of earlier builds that nobody sends any more. Their names and tags stay theirs.
const RETIRED: [&str; 3] = ["key_peer", "response_page", "sync_peer"];

/// What is not spoken any more is refused, and not taken for something else.
#[test]
fn retired_messages_are_refused() {
    assert!(decode::<SyncRecord>(&read("sync_peer"), FRAME_BYTES_MAX).is_err());
    // It had one of each record.
    assert!(decode::<Response>(&read("response_page"), FRAME_BYTES_MAX).is_err());
    assert_eq!(table::Key::of_file(&read("key_peer")), None);
    let tag = read("key_peer")[0];
    let used = samples::golden().into_iter().filter(|(name, _)| name.starts_with("key_"));
    assert!(used.into_iter().all(|(_, bytes)| bytes[0] != tag), "a tag is never used again");
}

#[test]
fn no_golden_file_is_without_its_message() {
    let written = samples::golden().into_iter().map(|(name, _)| name);
    let names: BTreeSet<String> = written.chain(RETIRED.map(str::to_owned)).map(|name| format!("{name}.hex")).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "{name} belongs to no message that this build writes");
    }
}

/// The bytes on file, and not only those of this run, are read as the messages they stand for.
#[test]
fn every_golden_file_is_read_as_ever() {
    for (name, value) in samples::requests() {
        assert_eq!(decode::<Request>(&read(name), FRAME_BYTES_MAX), Ok(value), "{name}");
    }
    for (name, value) in samples::responses() {
        assert_eq!(decode::<Response>(&read(name), FRAME_BYTES_MAX), Ok(value), "{name}");
    }
    for (name, value) in samples::chunk_answers() {
        assert_eq!(decode::<ChunkAnswer>(&read(name), FRAME_BYTES_MAX), Ok(value), "{name}");
    }
    for (name, value) in samples::fetch_answers() {
        assert_eq!(decode::<FetchAnswer>(&read(name), FRAME_BYTES_MAX), Ok(value), "{name}");
    }
    for (name, value) in samples::gossips() {
        assert_eq!(decode::<Gossip>(&read(name), FRAME_BYTES_MAX), Ok(value), "{name}");
    }
    for (name, value) in samples::sync_records() {
        let record = decode::<SyncRecord>(&read(name), FRAME_BYTES_MAX).unwrap();
        assert_eq!(record, value, "{name}");
        assert_eq!(table::verify(record).unwrap().to_record(), value, "{name}");
    }
}

/// A head that says nothing of its vendor's link, as none did once, and one that does.
#[test]
fn heads_are_read_with_and_without_what_their_vendor_knows_of_its_link() {
    let head = |name: &str| decode::<Carried<VendorHead>>(&read(name), FRAME_BYTES_MAX).unwrap().verify().unwrap();
    assert_eq!(head("vendor_head").into_value(), samples::head(1, 17, &[]));
    assert_eq!(head("vendor_head_measured").into_value(), samples::measured_head(1));
}

/// Data that was sealed by an older build opens with this one.
#[test]
fn what_was_sealed_opens_as_ever() {
    let (key, index, salt, plain) = samples::plain_chunk();
    assert_eq!(open_chunk(&key, index, salt, &read("chunk_sealed")).unwrap(), plain);
    let manifest = samples::user().open_manifest(&read("manifest_sealed"), samples::file(), 4).unwrap();
    assert_eq!(manifest, samples::manifest());
    let coded: Manifest = decode(&read("manifest_coded"), FRAME_BYTES_MAX).unwrap();
    assert_eq!(coded, samples::coded_manifest());
    coded.check().unwrap();
    // A file without parity is written as it was before there was any.
    assert_eq!(decode::<Manifest>(&read("manifest"), FRAME_BYTES_MAX), Ok(samples::manifest()));
    let order: Carried<Rebuild> = decode(&read("rebuild"), FRAME_BYTES_MAX).unwrap();
    assert_eq!(order.verify().unwrap().into_value(), samples::rebuild());
}

/// A phrase written down on paper gives the same keys in every build, and the words are those of BIP-39.
#[test]
fn a_phrase_gives_the_same_user_as_ever() {
    let phrase = Phrase::from_entropy([0; 32]);
    assert_eq!(phrase.words(), format!("{}art", "abandon ".repeat(23)));
    let keys = samples::user();
    assert_eq!([&keys.owner().0[..], &keys.file_id("a/b").0].concat(), read("user_keys"));
}
