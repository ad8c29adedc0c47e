#![allow(clippy::unwrap_used, clippy::expect_used)]
use fathom_protocol::ids::{LeaseId, NodeId};

use super::*;
use crate::golden;

const FILE: FileId = FileId([3; 16]);
const INDEX: u64 = 0x0102;

fn put() -> PutRecord {
    let lease = codec::decode(&golden::message("lease"), FRAME_BYTES_MAX).unwrap();
    let head = codec::decode(&golden::message("vendor_head"), FRAME_BYTES_MAX).unwrap();
    PutRecord { locations: vec![Location { column: 1, granted: 7 << 20, lease, head }] }
}

fn file() -> FileRecord {
    FileRecord {
        put: "a/b".to_owned(),
        source: (5_000_000, 1_790_000_000_123_456_789, 42),
        chunk_plain: 1 << 20,
        code: None,
        file_key: [9; 32],
        seq: 4,
    }
}

fn chunk() -> ChunkRecord {
    let place = Place { vendor: NodeId([5; 32]), lease: LeaseId([6; 16]) };
    let copies = vec![CopyRecord { column: 2, place, acked: UnixMs(1_790_000_000_000) }];
    ChunkRecord { id: ChunkId([7; 32]), salt: [8; SALT_LEN], copies }
}

/// Golden bytes of format 1. They are never edited: another layout is another [`FORMAT`].
#[test]
fn rows_keep_their_bytes_and_are_read_as_ever() {
    let golden = golden::same("journal-put-v1", &codec::encode(&put()));
    assert_eq!(read::<PutRecord>(&golden).unwrap(), put());
    let golden = golden::same("journal-file-v1", &codec::encode(&file()));
    assert_eq!(read::<FileRecord>(&golden).unwrap(), file());
    let golden = golden::same("journal-chunk-v1", &codec::encode(&chunk()));
    assert_eq!(read::<ChunkRecord>(&golden).unwrap(), chunk());
    golden::same("journal-chunk-key-v1", &chunk_key(FILE, INDEX));
}

/// A journal with the golden rows, as the build before the format had a number left it.
fn golden_journal(path: &Path, version: Option<&[u8]>) {
    let db = Database::create(path).unwrap();
    let write = db.begin_write().unwrap();
    let rows = ["journal-put-v1", "journal-file-v1", "journal-chunk-v1", "journal-chunk-key-v1"];
    let [put, file, chunk, key] = rows.map(golden::on_file);
    write.open_table(PUTS).unwrap().insert("a", &*put).unwrap();
    write.open_table(FILES).unwrap().insert(&FILE.0[..], &*file).unwrap();
    write.open_table(CHUNKS).unwrap().insert(&*key, &*chunk).unwrap();
    if let Some(version) = version {
        write.open_table(META).unwrap().insert("version", version).unwrap();
    }
    write.commit().unwrap();
}

#[test]
fn a_restart_goes_on_from_golden_rows() {
    let temp = tempfile::tempdir().unwrap();
    for (name, version) in [("unnumbered", None), ("numbered", Some(&[1, 0, 0, 0][..]))] {
        let path = temp.path().join(name);
        golden_journal(&path, version);
        for _ in 0..2 {
            let journal = Journal::open(&path).unwrap();
            assert_eq!(journal.pending(), 1, "{name}");
            assert_eq!(journal.put("a").unwrap(), Some(put()), "{name}");
            assert_eq!(journal.file(FILE).unwrap(), Some(file()), "{name}");
            assert_eq!(journal.chunks(FILE).unwrap(), [(INDEX, chunk())], "{name}");
            drop(journal);
            await_closed(&path);
        }
    }
}

/// The writer's thread ends a moment after the journal.
fn await_closed(path: &Path) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Err(error) = Database::open(path) {
        assert!(std::time::Instant::now() < end, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn another_format_is_refused_untouched_and_the_message_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("journal.redb");
    golden_journal(&path, Some(&[2, 0, 0, 0]));
    for _ in 0..2 {
        let Err(error) = Journal::open(&path) else { panic!("a journal of format 2 was opened") };
        assert!(matches!(error, UserError::JournalFormat { found: 2, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("format 2") && text.contains("move the file away"), "{text}");
    }
}

/// Keeps away: a release that cannot go on from the journal of an earlier one. The file is never edited: another layout is another
/// [`FORMAT`], with a file of its own. A new one is written with `FATHOM_WRITE_GOLDEN=1 cargo test -p fathom --lib`.
#[test]
fn a_journal_of_format_1_opens_with_every_record() {
    let golden = golden::file("journal-v1.redb", |path| {
        golden_journal(path, Some(&[1, 0, 0, 0]));
        let db = Database::open(path).unwrap();
        let write = db.begin_write().unwrap();
        write.open_table(PUTS).unwrap().insert(file().put.as_str(), &*codec::encode(&put())).unwrap();
        write.commit().unwrap();
    });
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("journal.redb");
    std::fs::copy(golden, &path).unwrap();
    let journal = Journal::open(&path).unwrap();
    assert_eq!((journal.pending(), journal.put("a/b").unwrap()), (2, Some(put())));
    assert_eq!(journal.file(FILE).unwrap(), Some(file()));
    assert_eq!(journal.chunks(FILE).unwrap(), [(INDEX, chunk())]);
}

/// Keeps away: a put of one chunk that is repeated at once and does not find what it had noted, or one that ended and is found.
#[test]
fn what_nobody_waited_for_is_read_all_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("journal.redb");
    let journal = Journal::open(&path).unwrap();
    journal.begin("a/b", &put(), &[(FILE, file())], false).unwrap();
    assert_eq!(journal.pending(), 1);
    journal.chunk(FILE, INDEX, chunk(), true).unwrap();
    assert_eq!(journal.file(FILE).unwrap(), Some(file()));
    assert_eq!(journal.put("a/b").unwrap(), Some(put()));
    assert_eq!(journal.chunks(FILE).unwrap(), [(INDEX, chunk())]);
    journal.end("a/b", &[FILE]).unwrap();
    assert_eq!(journal.pending(), 0);
    assert_eq!(journal.put("a/b").unwrap(), None);
    assert_eq!((journal.file(FILE).unwrap(), journal.chunks(FILE).unwrap()), (None, Vec::new()));
    journal.begin("a/b", &put(), &[(FILE, file())], false).unwrap();
    journal.flush().unwrap();
    drop(journal);
    await_closed(&path);
    let journal = Journal::open(&path).unwrap();
    assert_eq!((journal.pending(), journal.file(FILE).unwrap()), (1, Some(file())));
}
