//! The catalogue on disk.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use fathom_protocol::codec::{Blob, Bounded, Text};
use fathom_protocol::fat::{ChunkRef, FileMeta, Follows, Place, Use};
use fathom_protocol::ids::{ChunkId, Hash, LeaseId, NodeId};
use fathom_protocol::keys::Phrase;
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::LogCursor;

use super::local::Read;
use super::*;
use crate::roles::all_before;

/// Chunks of a file of the tests, each a byte long.
const CHUNKS: u8 = 3;

fn user(seed: u8) -> UserKeys {
    Phrase::from_entropy([seed; 32]).user_keys()
}

fn vendor(seed: u8) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[seed; 32])
}

fn node(seed: u8) -> NodeId {
    NodeId(vendor(seed).verifying_key().to_bytes())
}

fn chunk(index: u8) -> ChunkId {
    ChunkId([index; 32])
}

/// A final FAT of `name`; with `size` 0 it releases the file.
fn fat(keys: &UserKeys, name: &str, seq: Tag, size: u64, issued: u64) -> Verified {
    let file = keys.file_id(name);
    let meta = FileMeta {
        name: Text::new(name).unwrap(),
        size,
        mode: 0o644,
        modified: UnixMs(7),
        chunk_plain: u32::try_from(size.div_ceil(u64::from(CHUNKS)).max(1)).unwrap(),
    };
    let chunks: Vec<ChunkRef> =
        (0..CHUNKS).map(|index| ChunkRef { id: chunk(index), salt: [index; 8], copies: vec![0] }).collect();
    let place = Place { vendor: node(1), lease: LeaseId([1; 16]) };
    let body = match size {
        0 => Blob::default(),
        _ => {
            let manifest = Manifest::new(meta, [9; 32], vec![place], 1, &chunks).unwrap();
            keys.seal_manifest(&manifest, file, seq.0, [1; 24]).unwrap()
        }
    };
    let uses =
        if size == 0 { Vec::new() } else { vec![Use { vendor: node(1), lease: place.lease, bytes: size, unused: 0 }] };
    let fat = FinalFat {
        version: fathom_protocol::tags::VERSION,
        owner: keys.owner(),
        file,
        seq: seq.0,
        base: seq.0,
        follows: all_before(seq),
        uses: Bounded::new(uses).unwrap(),
        frees: Bounded::default(),
        issued: UnixMs(issued),
        order_expires: UnixMs(issued + 1),
        body,
    };
    Verified::Fat(Signed::sign(fat, keys.signing()).unwrap())
}

fn moved(keys: &UserKeys, name: &str, seq: Tag, index: u8) -> Verified {
    let body = Move {
        version: fathom_protocol::tags::VERSION,
        owner: keys.owner(),
        file: keys.file_id(name),
        seq: seq.0,
        chunk: chunk(index),
        length: 1,
        from: node(1),
        from_lease: LeaseId([1; 16]),
        to: node(2),
        to_lease: LeaseId([2; 16]),
        at: UnixMs(3),
    };
    let moved = CarriedMove::propose(&body, &vendor(1)).unwrap().cosign(&vendor(2));
    Verified::Move(body, moved)
}

fn read(position: u64) -> Read {
    Read { mirror: node(9), cursor: LogCursor { log: Hash([4; 32]), position }, at: UnixMs(position) }
}

fn names(local: &Local, keys: &UserKeys) -> Vec<(String, u64)> {
    local.list(keys).unwrap().into_iter().map(|line| (line.name, line.versions)).collect()
}

#[test]
fn what_was_taken_in_is_listed_by_name_and_loaded_with_its_moves() {
    let dir = tempfile::tempdir().unwrap();
    let (path, keys) = (dir.path().join("catalogue.redb"), user(1));
    let local = Local::open(&path, keys.owner()).unwrap();
    assert_eq!((local.read_at().unwrap(), local.cursor(node(9)).unwrap()), (None, None));
    let tag = Tag::new(1, 5);
    let first = vec![fat(&keys, "b/two", tag, 6, 1), moved(&keys, "b/two", tag, 1), fat(&keys, "a", tag, 3, 1)];
    local.take(first, None).unwrap();
    // A move may come before its final FAT.
    local.take(vec![moved(&keys, "b/one", tag, 0)], None).unwrap();
    local.take(vec![fat(&keys, "b/one", tag, 6, 1)], Some(&read(8))).unwrap();
    drop(local);
    let local = Local::open(&path, keys.owner()).unwrap();
    assert_eq!(names(&local, &keys), [("a".into(), 1), ("b/one".into(), 1), ("b/two".into(), 1)]);
    assert_eq!(local.cursor(node(9)).unwrap(), Some(read(8).cursor));
    assert_eq!(local.read_at().unwrap(), Some(UnixMs(8)));
    let loaded = local.load(&keys, &[keys.file_id("b/two"), keys.file_id("nothing")]).unwrap();
    let file = &loaded[&keys.file_id("b/two")];
    assert_eq!(
        (loaded.len(), file.sources()),
        (1, {
            let mut both = vec![node(1), node(2)];
            both.sort();
            both
        })
    );

    // A newer final FAT makes the move void; a release takes the file off the list and keeps its number.
    local.take(vec![fat(&keys, "b/two", Tag::new(2, 5), 6, 2), fat(&keys, "a", Tag::new(2, 1), 0, 2)], None).unwrap();
    let file = local.load(&keys, &[keys.file_id("b/two")]).unwrap().remove(&keys.file_id("b/two")).unwrap();
    assert_eq!((file.counter(), file.moves.len(), file.sources()), (2, 0, vec![node(1)]));
    assert_eq!(names(&local, &keys), [("b/one".into(), 1), ("b/two".into(), 1)]);
    let gone = local.load(&keys, &[keys.file_id("a")]).unwrap().remove(&keys.file_id("a")).unwrap();
    assert_eq!((gone.counter(), gone.manifest().is_none()), (2, true));
    let all = local.list(&keys).unwrap();
    assert_eq!(select(all.clone(), "b/").unwrap().len(), 2);
    assert_eq!(select(all.clone(), "b/two").unwrap()[0].bytes, 6);
    assert!(matches!(select(all, "b/t"), Err(UserError::NotFound(_))));
}

/// Two devices stored a file at once: one line says so, both versions are there, and put and rm refuse until one is chosen.
#[test]
fn fault_47_a_fork_is_listed_as_one_file_with_two_versions() {
    let dir = tempfile::tempdir().unwrap();
    let keys = user(2);
    let local = Local::open(&dir.path().join("catalogue.redb"), keys.owner()).unwrap();
    let (a, b) = (fat(&keys, "file", Tag::new(4, 1), 3, 20), fat(&keys, "file", Tag::new(4, 2), 6, 10));
    local.take(vec![a], None).unwrap();
    local.take(vec![b], None).unwrap();
    assert_eq!(names(&local, &keys), [("file".to_owned(), 2)]);
    let file = local.load(&keys, &[keys.file_id("file")]).unwrap().remove(&keys.file_id("file")).unwrap();
    let sizes: Vec<u64> = file.versions.iter().map(|version| version.manifest.as_ref().unwrap().size).collect();
    assert_eq!((sizes, file.manifest().unwrap().size), (vec![6, 3], 3), "in the order in which they were stored");
    assert!(matches!(file.settled(), Err(UserError::Forked { versions: 2, .. })));
    assert!(matches!(file.version(3), Err(UserError::NoVersion { asked: 3, .. })));
    local.take(vec![fat(&keys, "file", Tag::new(5, 9), 6, 30)], None).unwrap();
    assert_eq!(names(&local, &keys), [("file".to_owned(), 1)]);
}

/// Keeps away: a person is asked to choose among versions that differ in nothing but where their copies are.
#[test]
fn fault_47_versions_with_the_same_content_leave_nothing_to_choose() {
    let dir = tempfile::tempdir().unwrap();
    let keys = user(2);
    let local = Local::open(&dir.path().join("catalogue.redb"), keys.owner()).unwrap();
    // Two devices repaired the file at once.
    let (a, b) = (fat(&keys, "file", Tag::new(4, 1), 3, 20), fat(&keys, "file", Tag::new(4, 2), 3, 10));
    local.take(vec![a, b], None).unwrap();
    assert_eq!(names(&local, &keys), [("file".to_owned(), 1)]);
    let file = local.load(&keys, &[keys.file_id("file")]).unwrap().remove(&keys.file_id("file")).unwrap();
    assert_eq!((file.versions.len(), file.settled().is_ok()), (2, true));
}

/// Keeps away: a person is asked to choose between what is stored and an older content, which a device repaired meanwhile.
#[test]
fn fault_47_a_repair_of_what_was_replaced_meanwhile_leaves_nothing_to_choose() {
    let dir = tempfile::tempdir().unwrap();
    let keys = user(2);
    let local = Local::open(&dir.path().join("catalogue.redb"), keys.owner()).unwrap();
    let [first, second, mended] = [(4, 1), (5, 1), (5, 2)].map(|(counter, writer)| Tag::new(counter, writer));
    let Verified::Fat(old) = fat(&keys, "file", first, 6, 10) else { panic!("a final FAT") };
    let Verified::Fat(repair) = fat(&keys, "file", mended, 6, 20) else { panic!("a final FAT") };
    let follows = Follows::all_of([old.lineage()], Some(first));
    let repair = Signed::sign(FinalFat { base: first.0, follows, ..repair.into_value() }, keys.signing()).unwrap();
    let put = fat(&keys, "file", second, 3, 15);
    local.take(vec![Verified::Fat(old), put, Verified::Fat(repair)], None).unwrap();
    assert_eq!(names(&local, &keys), [("file".to_owned(), 1)]);
    let file = local.load(&keys, &[keys.file_id("file")]).unwrap().remove(&keys.file_id("file")).unwrap();
    assert_eq!((file.versions.len(), file.outdated.len(), file.manifest().unwrap().size), (1, 1, 3));
    let next = file.follows(None);
    assert!([first, second, mended].iter().all(|tag| next.has(*tag)), "what comes next ends it");
}

/// Keeps away: a damaged catalogue, or one of another user or format, that stands in the way of the files.
#[test]
fn a_catalogue_that_is_damaged_or_foreign_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (path, keys) = (dir.path().join("catalogue.redb"), user(3));
    let fill = || {
        let local = Local::open(&path, keys.owner()).unwrap();
        local.take(vec![fat(&keys, "file", Tag::new(1, 1), 3, 1)], Some(&read(5))).unwrap();
    };
    fill();
    let stranger = user(4);
    let local = Local::open(&path, stranger.owner()).unwrap();
    assert_eq!((names(&local, &stranger), local.read_at().unwrap()), (vec![], None));
    drop(local);
    std::fs::write(&path, b"not a database at all, but as long as one may be").unwrap();
    let local = Local::open(&path, keys.owner()).unwrap();
    assert_eq!((names(&local, &keys), local.read_at().unwrap()), (vec![], None));
    drop(local);
    fill();
    let local = Local::open(&path, keys.owner()).unwrap();
    assert_eq!(names(&local, &keys).len(), 1);
    local.clear().unwrap();
    assert_eq!((names(&local, &keys), local.cursor(node(9)).unwrap()), (vec![], None));
}

/// A user with 100,000 files lists them in under a second: the time is printed, not asserted, since machines differ.
#[test]
fn a_hundred_thousand_files_are_listed_from_disk() {
    const FILES: usize = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let (path, keys) = (dir.path().join("catalogue.redb"), user(5));
    let local = Local::open(&path, keys.owner()).unwrap();
    let began = Instant::now();
    for page in 0..FILES / 1_000 {
        let page: Vec<usize> = (page * 1_000..(page + 1) * 1_000).collect();
        let make =
            |index: &usize| fat(&keys, &format!("tree/{:02}/file {index:06}", index % 100), Tag::new(1, 1), 3, 1);
        let make = &make;
        let records: Vec<Verified> = std::thread::scope(|scope| {
            let parts: Vec<_> =
                page.chunks(250).map(|part| scope.spawn(move || part.iter().map(make).collect::<Vec<_>>())).collect();
            parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
        });
        local.take(records, Some(&read(page[0] as u64))).unwrap();
    }
    let taken = began.elapsed();
    drop(local);
    let local = Local::open(&path, keys.owner()).unwrap();
    for _ in 0..3 {
        let began = Instant::now();
        let lines = local.list(&keys).unwrap();
        let listed = began.elapsed();
        assert_eq!(lines.len(), FILES);
        assert!(lines.is_sorted_by(|a, b| a.name < b.name));
        assert!(lines.iter().all(|line| line.bytes == 3 && line.chunks == 3 && line.versions == 1));
        let bytes = std::fs::metadata(&path).unwrap().len();
        println!("{FILES} files: taken in within {taken:.2?}, listed in {listed:.2?}, {bytes} bytes on disk");
    }
}
