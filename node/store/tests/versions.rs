//! What final FATs do to chunks in the local FAT: versions of a file, and what was moved here (faults 15 and 47).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{FILE, LEASE, OWNER, commit, entry, filled, of_entry, state, written};
use fathom_protocol::fat::{Follows, Tag};
use fathom_protocol::ids::FileId;
use fathom_protocol::limits::VERSIONS_MAX;
use fathom_protocol::time::UnixMs;
use fathom_store::testing::FailingStorage;
use fathom_store::{ChunkEntry, ChunkState, CommitFile, CommitOutcome, FinalEntry, LocalFat};

/// The choice of one of several versions.
fn chosen(kept: Tag, seq: Tag, record: &[u8], versions: &[FinalEntry]) -> CommitFile {
    let follows = Follows::all_of(versions.iter().map(FinalEntry::lineage), Some(kept));
    of_entry(FinalEntry { seq: seq.0, base: kept.0, follows, record: record.to_vec() })
}

fn of_writer(n: u64, counter: u64, writer: u16) -> ChunkEntry {
    ChunkEntry { seq: Tag::new(counter, writer).0, ..entry(n, 0, 100) }
}

fn states(fat: &LocalFat) -> Vec<(u64, ChunkState)> {
    fat.chunks_of_file(OWNER, FILE).unwrap().into_iter().map(|entry| (entry.seq, entry.state)).collect()
}

#[test]
fn a_final_fat_commits_its_range_and_erases_what_is_older() {
    let fat = filled(&FailingStorage::default());
    fat.insert_chunk(&entry(2, 2, 100), None, None).unwrap();
    fat.insert_chunk(&entry(3, 5, 100), None, None).unwrap();
    let mut elsewhere = entry(4, 1, 100);
    elsewhere.file = FileId([9; 16]);
    fat.insert_chunk(&elsewhere, None, None).unwrap();

    let first = fat.commit_and_erase(&commit(1, 1, b"final 1")).unwrap();
    assert_eq!(first, CommitOutcome::Applied { committed: 2, erased: vec![] });
    let again = fat.commit_and_erase(&commit(1, 1, b"final 1")).unwrap();
    assert_eq!(again, CommitOutcome::Applied { committed: 0, erased: vec![] });

    let CommitOutcome::Applied { committed: 1, erased } = fat.commit_and_erase(&commit(2, 3, b"final 3")).unwrap()
    else {
        panic!("not applied");
    };
    assert_eq!(erased.len(), 2);
    assert!(erased.iter().all(|chunk| chunk.lease == LEASE && chunk.length == 100));
    assert_eq!(states(&fat), [(Tag::new(2, 0).0, ChunkState::Committed), (Tag::new(5, 0).0, ChunkState::Stored)]);
    assert_eq!(fat.lease(LEASE).unwrap().unwrap().used, 300);
    assert_eq!(fat.versions_of(OWNER, FILE).unwrap().remove(0).record, b"final 3");
    assert_eq!(fat.commit_and_erase(&commit(9, 2, b"old")).unwrap(), CommitOutcome::Stale { seq: Tag::new(3, 0).0 });
}

/// Keeps away: freeing chunks on the word of one of two records that two devices wrote at once.
#[test]
fn fault_47_a_fork_commits_both_and_frees_nothing() {
    let fat = filled(&FailingStorage::default());
    let (old, a, b) = (Tag::new(1, 0), Tag::new(2, 7), Tag::new(2, 8));
    fat.commit_and_erase(&written(old, old, b"before")).unwrap();
    fat.insert_chunk(&of_writer(5, 2, 7), None, None).unwrap();
    fat.insert_chunk(&of_writer(6, 2, 8), None, None).unwrap();
    // The first device's frees what was before it: when it came, there was no fork.
    let first = fat.commit_and_erase(&written(a, a, b"device A")).unwrap();
    assert!(matches!(first, CommitOutcome::Applied { committed: 1, ref erased } if erased.len() == 2), "{first:?}");
    assert_eq!(states(&fat), [(a.0, ChunkState::Committed), (b.0, ChunkState::Stored)]);
    let both = [(a.0, ChunkState::Committed), (b.0, ChunkState::Committed)];
    let second = fat.commit_and_erase(&written(b, b, b"device B")).unwrap();
    assert_eq!(second, CommitOutcome::Forked { committed: 1, erased: vec![] });
    for (tag, record) in [(a, b"device A"), (b, b"device B"), (a, b"device A")] {
        assert_eq!(
            fat.commit_and_erase(&written(tag, tag, record)).unwrap(),
            CommitOutcome::Forked { committed: 0, erased: vec![] }
        );
        assert_eq!(states(&fat), both, "shown again it changes nothing");
    }
    let versions = fat.versions_of(OWNER, FILE).unwrap();
    let records: Vec<&[u8]> = versions.iter().map(|known| known.record.as_slice()).collect();
    assert_eq!(records, [b"device A", b"device B"]);

    // The user keeps B: A is let go like chunks that no final FAT names, and not at once.
    let kept = fat.commit_and_erase(&chosen(b, Tag::new(3, 1), b"keep B", &versions)).unwrap();
    assert_eq!(kept, CommitOutcome::Applied { committed: 0, erased: vec![] });
    assert_eq!(states(&fat), [(a.0, ChunkState::Stored), (b.0, ChunkState::Committed)]);
    let lost = fat.chunks_of_file(OWNER, FILE).unwrap().remove(0);
    assert_eq!(lost.stored_at, UnixMs(9_000), "its time begins now");
    // Another device kept A at the same moment: it is there, and so is B.
    let other = fat.commit_and_erase(&chosen(a, Tag::new(3, 2), b"keep A", &versions)).unwrap();
    assert_eq!((other, states(&fat)), (CommitOutcome::Forked { committed: 1, erased: vec![] }, both.to_vec()));
    // The next put ends it all.
    let next = Tag::new(4, 3);
    let CommitOutcome::Applied { erased, .. } = fat.commit_and_erase(&written(next, next, b"put")).unwrap() else {
        panic!("the fork is over");
    };
    assert_eq!((erased.len(), fat.versions_of(OWNER, FILE).unwrap().len()), (2, 1));
}

/// Keeps away: a version that another device is choosing is erased as if nobody had ever stored it, since its vendor was away when it was.
#[test]
fn fault_47_a_version_that_is_first_heard_of_as_given_up_has_the_time_of_one_that_is_let_go() {
    let fat = filled(&FailingStorage::default());
    let (old, a, b) = (Tag::new(1, 0), Tag::new(2, 7), Tag::new(2, 8));
    fat.insert_chunk(&of_writer(5, 2, 7), None, None).unwrap();
    let [of_a, of_b] = [a, b].map(|tag| written(tag, tag, &tag.0.to_be_bytes()).fat);
    let dates = |fat: &LocalFat| {
        let chunks = fat.chunks_of_file(OWNER, FILE).unwrap().into_iter().filter(|entry| entry.seq != old.0);
        chunks.map(|entry| (entry.state, entry.stored_at)).collect::<Vec<_>>()
    };
    let [(ChunkState::Stored, first)] = dates(&fat)[..] else { panic!("{:?}", dates(&fat)) };
    let kept = chosen(b, Tag::new(3, 1), b"keep B", &[of_a, of_b]);
    fat.commit_and_erase(&kept).unwrap();
    assert!(first < kept.now);
    assert_eq!(dates(&fat), [(ChunkState::Stored, kept.now)]);
    // What is shown again is no news.
    fat.commit_and_erase(&CommitFile { now: UnixMs(10_000), ..kept.clone() }).unwrap();
    assert_eq!(dates(&fat), [(ChunkState::Stored, kept.now)]);
}

/// Keeps away: chunks that stay for as long as nobody chooses between versions none of which has them.
#[test]
fn fault_47_what_no_version_of_a_fork_wants_goes() {
    let fat = filled(&FailingStorage::default());
    let version = |seq: Tag, base: Tag, before: &[FinalEntry], kept: Option<Tag>| {
        let follows = Follows::all_of(before.iter().map(FinalEntry::lineage), kept);
        FinalEntry { seq: seq.0, base: base.0, follows, record: seq.0.to_be_bytes().to_vec() }
    };
    let a = Tag::new(1, 0);
    let stored = version(a, a, &[], None);
    fat.commit_and_erase(&of_entry(stored.clone())).unwrap();
    // One device puts the file anew, and at the same moment another one repairs it.
    let (put, repair) = (Tag::new(2, 7), Tag::new(2, 8));
    let repaired = version(repair, a, std::slice::from_ref(&stored), Some(a));
    fat.commit_and_erase(&of_entry(repaired.clone())).unwrap();
    let replaced = version(put, put, &[stored], None);
    let outcome = fat.commit_and_erase(&of_entry(replaced)).unwrap();
    assert_eq!(outcome, CommitOutcome::Forked { committed: 0, erased: vec![] });
    assert_eq!(states(&fat), [(a.0, ChunkState::Committed), (a.0, ChunkState::Committed)], "the repair's");
    // The second device puts it anew, too, and has not heard of the first.
    let last = Tag::new(3, 8);
    let outcome = fat.commit_and_erase(&of_entry(version(last, last, &[repaired], None))).unwrap();
    let CommitOutcome::Forked { committed: 0, erased } = outcome else { panic!("{outcome:?}") };
    assert_eq!((erased.len(), states(&fat)), (2, vec![]));
}

/// Keeps away: a copy that was sent for a move which nobody signed stays for as long as its file, since a final FAT that means the one
/// at the source commits it.
#[test]
fn fault_15_a_final_fat_commits_nothing_that_another_vendor_sent() {
    let fat = filled(&FailingStorage::default());
    let sent = |n| ChunkEntry { state: ChunkState::arrived(false), ..entry(n, 1, 100) };
    fat.insert_chunk(&sent(5), None, None).unwrap();
    let outcome = fat.commit_and_erase(&commit(1, 1, b"final 1")).unwrap();
    assert_eq!(outcome, CommitOutcome::Applied { committed: 2, erased: vec![] });
    assert_eq!(fat.chunk(OWNER, sent(5).chunk).unwrap().unwrap(), sent(5));
    // Of a local FAT that was put back it is not known what was signed since.
    fat.rely_on_sent().unwrap();
    assert!(matches!(fat.commit_and_erase(&commit(1, 1, b"final 1")), Ok(CommitOutcome::Applied { committed: 1, .. })));
    // What was released goes, wherever it came from.
    fat.insert_chunk(&sent(6), None, None).unwrap();
    let CommitOutcome::Applied { erased, .. } = fat.commit_and_erase(&commit(2, 2, b"gone")).unwrap() else { panic!() };
    assert_eq!(erased.len(), 4);
}

/// Keeps away: a user, or who has its key, that fills a vendor's disk with versions of one file.
#[test]
fn fault_47_a_file_has_a_bounded_number_of_versions() {
    let fat = filled(&FailingStorage::default());
    for writer in 0..VERSIONS_MAX as u16 {
        let tag = Tag::new(1, writer);
        let outcome = fat.commit_and_erase(&written(tag, tag, &writer.to_be_bytes())).unwrap();
        assert_ne!(outcome, CommitOutcome::Full);
    }
    let before = state(&fat);
    let tag = Tag::new(1, 99);
    assert_eq!(fat.commit_and_erase(&written(tag, tag, b"one more")).unwrap(), CommitOutcome::Full);
    assert_eq!((state(&fat), fat.versions_of(OWNER, FILE).unwrap().len()), (before, VERSIONS_MAX));
}
