//! The local FAT: faults 2, 5, 6, 7, 11, 31, 35, 44 and 46 as far as they show in it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::{
    FILE, LEASE, OWNER, WHOLE, bytes, commit, config, device_id, entry, faulty, filled, open, set_of, state, tag, taken,
};
use fathom_protocol::ids::{LeaseId, OwnerId};
use fathom_protocol::time::UnixMs;
use fathom_store::testing::{BackendFault, FailingStorage, crash_images};
use fathom_store::{ChunkEntry, ChunkState, Device, FatConfig, FatError, FatHealth, FatTotals, Inserted, LocalFat};

/// Keeps away: a second receipt, or bytes counted twice, when the first receipt was lost (fault 31: or replayed).
#[test]
fn fault_02_a_retry_gets_the_same_receipt_and_counts_once() {
    let storage = FailingStorage::default();
    let fat = filled(&storage);
    let before = state(&fat);
    drop(fat);
    let fat = open(&storage).unwrap();
    let mut retry = entry(0, 1, 100);
    retry.receipt = b"another receipt".to_vec();
    retry.parts.clear();
    for _ in 0..3 {
        let Inserted::AlreadyThere(there) = fat.insert_chunk(&retry, Some(b"lease 9"), Some(b"head 9")).unwrap() else {
            panic!("stored twice");
        };
        assert_eq!(there.receipt, b"receipt 0");
    }
    assert_eq!(state(&fat), before);

    let mut other = entry(0, 1, 100);
    other.owner = OwnerId([99; 32]);
    assert_eq!(fat.insert_chunk(&other, None, None).unwrap(), Inserted::New, "another owner's chunk is another chunk");
}

/// Keeps away: a crash in the repair after a crash losing what was committed.
#[test]
fn fault_05_a_crash_during_the_recovery_loses_nothing() {
    let storage = FailingStorage::default();
    let fat = filled(&storage);
    let before = state(&fat);
    let crashed = storage.image();
    // What the first recovery writes; the process dies after each of these writes and recovers again.
    let first = FailingStorage::from_image(crashed.clone());
    first.record();
    drop(open(&first).unwrap());
    let writes = first.recorded();

    assert!(!writes.is_empty());
    for count in 0..=writes.len() {
        let mut image = crashed.clone();
        writes[..count].iter().for_each(|write| write.apply(&mut image, usize::MAX));
        let fat = open(&FailingStorage::from_image(image)).unwrap_or_else(|error| panic!("after {count}: {error}"));
        assert_eq!(state(&fat), before, "after {count} writes");
    }
    drop(fat);
}

/// Keeps away: half a transaction after a crash at any write of it, torn or out of order.
#[test]
fn fault_06_a_crash_at_any_write_leaves_the_old_or_the_new_state() {
    type Change = fn(&LocalFat);
    let changes: [(&str, Change); 3] = [
        ("insert", |fat| drop(fat.insert_chunk(&entry(7, 2, 500), Some(b"lease 2"), Some(b"head 2")).unwrap())),
        ("commit", |fat| drop(fat.commit_and_erase(&commit(2, 3, b"final 3")).unwrap())),
        ("erase", |fat| drop(fat.erase_chunks(&[entry(1, 1, 100).key()]).unwrap())),
    ];
    for (name, change) in changes {
        let storage = FailingStorage::default();
        let fat = filled(&storage);
        let (old, image) = (state(&fat), storage.image());
        storage.record();
        change(&fat);
        let new = state(&fat);
        assert_ne!(old, new);
        let (mut olds, mut news) = (0, 0);
        for (at, image) in crash_images(&image, &storage.recorded(), 20).into_iter().enumerate() {
            let fat =
                open(&FailingStorage::from_image(image)).unwrap_or_else(|error| panic!("{name}, image {at}: {error}"));
            let found = state(&fat);
            assert!(found == old || found == new, "{name}, image {at}: a mix");
            if found == old { olds += 1 } else { news += 1 }
        }

        assert!(olds > 0 && news > 0, "{name}: {olds} old, {news} new");
    }
}

/// Keeps away: a damaged local FAT that is trusted, or that stops the vendor without a word on what to do.
#[test]
fn fault_07_a_flipped_bit_is_refused_with_a_way_out_or_harmless() {
    let storage = FailingStorage::default();
    let fat = filled(&storage);
    let before = state(&fat);
    drop(fat);
    let image = storage.image();
    let live: Vec<usize> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    let mut refused = 0;
    for at in live.iter().step_by(live.len() / 400 + 1) {
        let damaged = FailingStorage::from_image(image.clone());
        damaged.flip_bit(at * 8 + at % 8);
        match open(&damaged) {
            Ok(fat) => assert_eq!(state(&fat), before, "byte {at}"),
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                let way_out = text.contains("move the file aside") || text.contains("run the release");
                assert!(way_out, "byte {at}: {text}");
            }
        }
    }

    assert!(refused > 0);
}

/// Keeps away: a local FAT that loses or mixes state, or takes reads down with it, when its disk is full.
#[test]
fn fault_11_without_space_writes_are_refused_and_reads_go_on() {
    let mut failures = 0;
    for nth in 1.. {
        let storage = FailingStorage::default();
        let fat = filled(&storage);
        let old = state(&fat);
        storage.fail_nth(nth, BackendFault::NoSpace);
        let insert = || fat.insert_chunk(&entry(7, 2, 500), Some(b"lease 2"), Some(b"head 2"));
        if insert().is_ok() {
            break;
        }
        failures += 1;
        let seen = state(&fat);
        assert!(seen == old || seen.0.len() == 3, "write {nth}: a mix");
        for _ in 0..2 {
            let refused = insert();
            assert!(matches!(refused, Err(FatError::NoSpace { .. })), "write {nth}: {refused:?}");
            assert_eq!(fat.health(), FatHealth::NoSpace);
            assert_eq!(state(&fat), seen);
        }
        storage.heal();
        insert().unwrap();
        assert_eq!(fat.health(), FatHealth::ReadWrite);
        let new = state(&fat);
        assert_eq!((new.0.len(), new.1.as_slice()), (3, b"lease 2".as_slice()));
        drop(fat);
        assert_eq!(state(&open(&storage).unwrap()), new, "write {nth}");
    }

    assert!(failures >= 2, "{failures}");
}

/// The same before it begins: the file system's free space is looked at first.
#[test]
fn fault_11_a_nearly_full_file_system_is_noticed_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local-fat.redb");
    LocalFat::open(&path, config()).unwrap().put_many(&[("head", b"1")]).unwrap();
    let fat = LocalFat::open(&path, FatConfig { headroom_bytes: u64::MAX, ..config() }).unwrap();
    assert!(matches!(fat.put_many(&[("head", b"2")]), Err(FatError::NoSpace { .. })));
    assert_eq!(fat.kv("head").unwrap().unwrap(), b"1");
}

/// Keeps away: going on after an I/O error as if what is in the page cache were on the disk, and a receipt whose chunk a power
/// cut then forgets.
#[test]
fn fault_10_after_an_io_error_nothing_is_acknowledged_until_reopened() {
    for nth in 1.. {
        let storage = FailingStorage::default();
        let fat = filled(&storage);
        storage.fail_nth(nth, BackendFault::Eio);
        let insert = || fat.insert_chunk(&entry(7, 2, 500), None, None);
        if insert().is_ok() {
            assert!(nth > 2);
            break;
        }
        let seen = state(&fat);
        let refused = insert();
        assert!(matches!(refused, Err(FatError::Failed { .. })), "write {nth}: {refused:?}");
        assert_eq!(state(&fat), seen);
        let left = state(&open(&FailingStorage::from_image(storage.durable_image())).unwrap());
        assert_eq!(&left.0[..2], &filled(&FailingStorage::default()).chunks_after(None, 9).unwrap()[..], "write {nth}");
        fat.reopen().unwrap();
        assert_eq!(state(&fat), seen);
        insert().unwrap();
        assert_eq!(state(&fat).0.len(), 3);
        let left = FailingStorage::from_image(storage.durable_image());
        assert_eq!(state(&open(&left).unwrap()), state(&fat), "write {nth}: acknowledged and lost in a power cut");
    }
}

#[test]
fn a_file_is_rewritten_on_reopen_and_open_to_one_process_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local-fat.redb");
    let fat = LocalFat::open(&path, config()).unwrap();
    fat.put_lease(LEASE, b"lease", 1).unwrap();
    assert!(matches!(LocalFat::open(&path, config()), Err(FatError::InUse { .. })));
    fat.reopen().unwrap();
    drop(fat);
    assert_eq!(LocalFat::open(&path, config()).unwrap().leases().unwrap().len(), 1);
    fs::write(&path, b"not a database at all").unwrap();
    let error = LocalFat::open(&path, config()).unwrap_err();
    assert!(matches!(error, FatError::Corrupt { .. }) && error.to_string().contains("move the file aside"), "{error}");
}

#[test]
fn an_unknown_format_is_refused_with_a_way_out() {
    use redb::{Database, TableDefinition};
    const META: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("meta");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local-fat.redb");
    drop(LocalFat::open(&path, config()).unwrap());
    let database = Database::create(&path).unwrap();
    let tx = database.begin_write().unwrap();
    tx.open_table(META).unwrap().insert(b"format".as_slice(), 4u64.to_be_bytes().as_slice()).unwrap();
    tx.commit().unwrap();
    drop(database);
    let error = LocalFat::open(&path, config()).unwrap_err();
    assert!(matches!(error, FatError::Version { found: 4, .. }) && error.to_string().contains("newer one"), "{error}");
}

/// Keeps away: a lease overfilled by a byte; earlier chunks stay.
#[test]
fn fault_35_a_lease_takes_its_bytes_and_not_one_more() {
    let fat = filled(&FailingStorage::default());
    let before = state(&fat);
    let over = fat.insert_chunk(&entry(7, 1, 9_801), Some(b"lease 2"), None);
    assert!(matches!(over, Err(FatError::OverLease { length: 9_801, free: 9_800, .. })), "{over:?}");
    assert_eq!(state(&fat), before);
    assert_eq!(fat.insert_chunk(&entry(7, 1, 9_800), None, None).unwrap(), Inserted::New);
    let other = ChunkEntry { lease: LeaseId([77; 16]), ..entry(8, 1, 1) };
    assert!(matches!(fat.insert_chunk(&other, None, None), Err(FatError::NoLease { .. })));
    assert!(matches!(fat.remove_lease(LEASE), Err(FatError::LeaseInUse { used: 10_000, .. })));
    assert_eq!(fat.erase_lease(LEASE).unwrap().len(), 3);
    assert_eq!((fat.lease(LEASE).unwrap(), fat.totals().unwrap()), (None, FatTotals::default()));
}

/// Keeps away: parts that stay for ever after a crash between any two steps of a store or an erase.
#[test]
fn a_restart_finishes_erases_removes_orphans_and_names_what_is_missing() {
    let devices = [faulty(1, 1 << 20), faulty(2, 1 << 20)];
    let set = set_of(&devices);
    let storage = FailingStorage::default();
    let fat = open(&storage).unwrap();
    fat.put_lease(LEASE, b"lease", 1 << 20).unwrap();
    let store = |n: u64| {
        let chunk = bytes(n, 1_000);
        let parts = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE).unwrap();
        ChunkEntry::stored(&tag(&chunk, 1), 1_000, parts, vec![1], UnixMs(n))
    };
    let (kept, erased, lost) = (store(1), store(2), store(3));
    for entry in [&kept, &erased, &lost] {
        fat.insert_chunk(entry, None, None).unwrap();
    }
    let _orphan = store(4);
    fat.erase_chunks(&[erased.key()]).unwrap();
    assert!(set.remove_parts(&lost.parts).is_empty());
    drop(fat);

    let fat = open(&storage).unwrap();
    let report = fat.recover(&set).unwrap();
    assert_eq!((report.erases.removed, report.erases.remaining), (1, 0));
    assert_eq!((report.orphans, report.orphan_bytes), (1, 1_136));
    assert_eq!(report.missing.len(), 1);
    assert_eq!((report.missing[0].key, report.missing[0].part), (lost.key(), lost.parts[0]));
    assert_eq!(taken(&set), (1_136, 0));
    assert_eq!(set.read_chunk(&kept.parts).unwrap(), bytes(1, 1_000));
    assert_eq!(fat.recover(&set).unwrap().orphans, 0);
}

/// Keeps away: forgetting what is to be erased on a disk that is away, or taking its parts for lost.
#[test]
fn fault_13_an_absent_device_keeps_its_erases_and_loses_nothing() {
    let devices = [faulty(1, 1 << 20)];
    let set = set_of(&devices);
    let fat = open(&FailingStorage::default()).unwrap();
    fat.put_lease(LEASE, b"lease", 1 << 20).unwrap();
    let chunks: Vec<ChunkEntry> = (0..2)
        .map(|n| {
            let chunk = bytes(n, 1_000);
            let parts = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE).unwrap();
            ChunkEntry::stored(&tag(&chunk, 1), 1_000, parts, vec![1], UnixMs(n))
        })
        .collect();
    chunks.iter().for_each(|entry| drop(fat.insert_chunk(entry, None, None).unwrap()));
    devices[0].unplug();
    fat.erase_chunks(&[chunks[0].key()]).unwrap();
    let report = fat.recover(&set).unwrap();
    assert_eq!((report.erases.remaining, report.missing.len(), report.orphans), (1, 0, 0));
    assert_eq!(report.unreachable, [device_id(1)]);
    assert_eq!(set.reopen_suspended(), []);
    devices[0].clear();
    assert_eq!(set.reopen_suspended(), [device_id(1)]);
    let erases = fat.finish_erases(&set).unwrap();
    assert_eq!((erases.removed, erases.remaining), (1, 0));
    assert_eq!(devices[0].report().parts, 1);
    assert_eq!(fat.finish_erases(&set).unwrap().removed, 0);
}

/// Keeps away: a lost local FAT making the data on healthy devices useless (faults 7 and 46).
#[test]
fn fault_46_a_lost_local_fat_is_rebuilt_from_the_devices() {
    let devices = [faulty(1, 1 << 20), faulty(2, 1 << 20)];
    let set = set_of(&devices);
    let policy = fathom_store::SplitPolicy { part_bytes_max: 300, parts_min: 2 };
    let mut stored = Vec::new();
    for n in 0..20 {
        let chunk = bytes(n, 1_000);
        stored.push((chunk.clone(), set.store_chunk(&tag(&chunk, n), &chunk, policy).unwrap()));
    }
    // A put that crashed half way, and a rotten part.
    assert!(set.remove_parts(&stored[18].1[1..2]).is_empty());
    let rotten = stored[19].1[0];
    devices[usize::from(rotten.device != device_id(1))].inner().flip_bit(rotten.part, 99);

    let fat = open(&FailingStorage::default()).unwrap();
    let before = taken(&set);
    let report = fat.recover(&set).unwrap();
    assert_eq!((report.orphans, report.kept > 70), (0, true), "an empty local FAT takes nothing for an orphan");
    assert_eq!(taken(&set), before);
    fat.put_lease(LEASE, b"lease from a mirror", 1 << 20).unwrap();
    let report = fat.rebuild(&set, UnixMs(5)).unwrap();
    assert_eq!((report.chunks, report.incomplete.len(), report.unreadable), (18, 2, 1));
    for (n, (chunk, _)) in stored[..18].iter().enumerate() {
        let found = fat.chunk(OWNER, tag(chunk, 0).chunk).unwrap().unwrap();
        assert_eq!((found.seq, found.file, found.lease), (n as u64, FILE, LEASE));
        assert_eq!(set.read_chunk(&found.parts).unwrap(), *chunk);
    }
    assert_eq!(fat.lease(LEASE).unwrap().unwrap().used, 18_000);
    assert_eq!(fat.rebuild(&set, UnixMs(6)).unwrap().chunks, 0);
}

#[test]
fn values_moves_devices_and_parts_are_kept() {
    let storage = FailingStorage::default();
    let fat = filled(&storage);
    let key = entry(0, 1, 100).key();
    fat.put_many(&[("cursor/b", b"2"), ("cursor/a", b"1"), ("epoch", b"7")]).unwrap();
    let moved = entry(5, 1, 100).parts;
    fat.write(|tx| {
        tx.put_move(&key, b"move")?;
        tx.set_state(&key, ChunkState::Leaving { moved: b"move".to_vec() })?;
        tx.set_receipt(&key, b"new receipt")?;
        tx.replace_parts(&key, &moved)
    })
    .unwrap();
    fat.put_device("/srv/disk".as_ref(), device_id(4)).unwrap();
    let refused = fat.write(|tx| {
        tx.put_kv("epoch", b"8")?;
        tx.remove_move(&key)?;
        Err::<(), _>(FatError::Refused("no".to_owned()))
    });
    assert!(refused.is_err());
    drop(fat);
    let fat = open(&storage).unwrap();
    assert_eq!(fat.kv("epoch").unwrap().unwrap(), b"7");
    let cursors = [("cursor/a".to_owned(), b"1".to_vec()), ("cursor/b".to_owned(), b"2".to_vec())];
    assert_eq!(fat.kv_with_prefix("cursor/").unwrap(), cursors);
    assert_eq!(fat.moves().unwrap(), [(key, b"move".to_vec())]);
    assert_eq!(fat.device_at("/srv/disk".as_ref()).unwrap(), Some(device_id(4)));
    let found = fat.chunk(key.owner, key.chunk).unwrap().unwrap();
    assert_eq!((found.parts, found.receipt), (moved, b"new receipt".to_vec()));
    assert_eq!(found.state, ChunkState::Leaving { moved: b"move".to_vec() });
    assert_eq!(fat.finals_after(None, 10).unwrap(), vec![]);
}

#[test]
fn inserts_that_share_a_transaction_have_their_own_outcomes() {
    let fat = open(&FailingStorage::default()).unwrap();
    fat.put_lease(LEASE, b"lease", 10_000).unwrap();
    // 16 threads insert 10 chunks each, every chunk twice, under a lease with room for 100 of the 160.
    let (new, there, over) = std::thread::scope(|scope| {
        let insert = |n| match fat.insert_chunk(&entry(n, 1, 100), None, None) {
            Ok(Inserted::New) => (1, 0, 0),
            Ok(Inserted::AlreadyThere(_)) => (0, 1, 0),
            Err(FatError::OverLease { .. }) => (0, 0, 1),
            Err(error) => panic!("{error}"),
        };
        let threads: Vec<_> = (0..32u64)
            .map(|thread| scope.spawn(move || (0..10).map(|n| insert(thread % 16 * 10 + n)).collect::<Vec<_>>()))
            .collect();
        let outcomes = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        outcomes.fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2))
    });
    assert_eq!((new, there + over), (100, 220));
    assert_eq!(state(&fat).0.len(), 100);
}
