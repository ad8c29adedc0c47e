//! Local FATs of each format as files: they open for ever, with everything that is in them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{FILE, LEASE, OWNER, device_id, entry};
use fathom_protocol::fat::{Follows, Lineage, Tag};
use fathom_protocol::ids::LeaseId;
use fathom_protocol::time::UnixMs;
use fathom_store::fat::FORMAT;
use fathom_store::{ChunkEntry, ChunkState, CommitFile, CommitOutcome, FatConfig, FatTotals, FinalEntry, LocalFat};

fn golden(format: u64) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/local-fat-v{format}.redb"))
}

fn open(path: &Path) -> LocalFat {
    LocalFat::open(path, FatConfig { headroom_bytes: 0, ..FatConfig::default() }).unwrap()
}

/// A final FAT that kept the second of two versions.
fn last() -> FinalEntry {
    let none = Follows::default();
    let before = [1, 2].map(|counter| Tag::new(counter, 0)).map(|seq| Lineage { base: seq, seq, follows: &none });
    let follows =
        Follows::all_of([Lineage { follows: &Follows::all_of([before[0]], None), ..before[1] }], Some(before[1].seq));
    FinalEntry { seq: Tag::new(3, 0).0, base: Tag::new(2, 0).0, follows, record: b"a final FAT".to_vec() }
}

/// A chunk that another vendor sent; there is none in format 2.
fn sent() -> ChunkEntry {
    ChunkEntry { state: ChunkState::Sent, ..entry(4, 5, 100) }
}

/// Writes a local FAT with at least one row in every table.
fn write(path: &Path) {
    let fat = open(path);
    fat.put_lease(LEASE, b"a signed lease", 10_000).unwrap();
    fat.put_lease(LeaseId([9; 16]), b"another one", 77).unwrap();
    for n in 0..4 {
        fat.insert_chunk(&entry(n, 1 + n, 100), None, Some(b"the head")).unwrap();
    }
    let commit = CommitFile { owner: OWNER, file: FILE, fat: last(), now: UnixMs(1) };
    assert!(matches!(fat.commit_and_erase(&commit).unwrap(), CommitOutcome::Applied { committed: 2, .. }));
    let leaving = entry(2, 3, 100).key();
    fat.write(|tx| {
        tx.put_move(&leaving, b"a move")?;
        tx.set_state(&leaving, ChunkState::Leaving { moved: b"a move".to_vec() })
    })
    .unwrap();
    fat.insert_chunk(&sent(), None, None).unwrap();
    fat.put_device("/srv/disk".as_ref(), device_id(1)).unwrap();
}

/// Keeps away: a release that cannot read what an earlier one wrote. The file is never edited: another layout is another format,
/// with a file of its own beside this one. A new one is written with
/// `FATHOM_WRITE_GOLDEN=1 cargo test -p fathom-store --test golden`.
#[test]
fn a_local_fat_of_format_3_opens_with_everything_in_it() {
    if !golden(FORMAT).exists() && std::env::var_os("FATHOM_WRITE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(golden(FORMAT).parent().unwrap()).unwrap();
        write(&golden(FORMAT));
    }
    opens(FORMAT, Some(sent()));
}

#[test]
fn a_local_fat_of_format_2_opens_with_everything_in_it() {
    opens(2, None);
}

fn opens(format: u64, sent: Option<ChunkEntry>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local-fat.redb");
    std::fs::copy(golden(format), &path).unwrap();
    let count = 3 + sent.iter().len() as u64;
    for _ in 0..2 {
        let fat = open(&path);
        let chunks = fat.chunks_of_file(OWNER, FILE).unwrap();
        let mut expected: Vec<_> = (1..4).map(|n| entry(n, 1 + n, 100)).collect();
        expected[0].state = ChunkState::Committed;
        expected[1].state = ChunkState::Leaving { moved: b"a move".to_vec() };
        expected.extend(sent.clone());
        assert_eq!(chunks, expected);
        assert_eq!(fat.chunks_of_lease(LEASE).unwrap().len() as u64, count);
        assert_eq!(fat.totals().unwrap(), FatTotals { chunks: count, bytes: count * 100 });
        let leases = fat.leases().unwrap();
        assert_eq!(
            leases.iter().map(|(_, lease)| (lease.bytes, lease.used)).collect::<Vec<_>>(),
            [(10_000, count * 100), (77, 0)]
        );
        assert_eq!((leases[0].1.signed.as_slice(), leases[1].0), (&b"a signed lease"[..], LeaseId([9; 16])));
        assert_eq!(fat.versions_of(OWNER, FILE).unwrap(), [last()]);
        assert_eq!(fat.moves().unwrap(), [(entry(2, 3, 100).key(), b"a move".to_vec())]);
        assert_eq!(fat.kv("head").unwrap().unwrap(), b"the head");
        assert_eq!(fat.device_at("/srv/disk".as_ref()).unwrap(), Some(device_id(1)));
        // It takes new rows, too.
        fat.put_many(&[("epoch", b"7")]).unwrap();
    }
}
