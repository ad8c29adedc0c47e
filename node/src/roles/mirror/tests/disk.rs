//! The mirror's records on a disk that fails: faults 4, 6, 7, 10 and 11 as far as they show in them.

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::codec;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::table::{Key, Table};
use fathom_protocol::wire::{RefusalKind, SyncRecord, TableDigest};
use fathom_store::testing::{BackendFault, FailingStorage, WriteRecord, crash_images};

use super::super::store::{Change, Content, Store, StoreError};
use super::super::writer::{Kept, Outcome, Writer};
use super::support::{checked, fat, key, moved, node, plain_vendor};

fn open(storage: &FailingStorage) -> Result<(Store, Content), StoreError> {
    Store::open_in(Arc::new(storage.clone()), Duration::ZERO)
}

fn writer(storage: &FailingStorage) -> Writer {
    let (store, content) = open(storage).unwrap();
    Writer::start(store, content).unwrap()
}

fn put(record: SyncRecord) -> Change {
    let record = checked(record);
    Change::Put { key: record.key().to_bytes(), record: codec::encode(&record.to_record()) }
}

/// Everything that a node could see: the table's digest, cursors, vendors to tell, and the log in order.
type Seen = (TableDigest, String, Vec<SyncRecord>, u64);

fn seen(store: &Store, content: &Content) -> Seen {
    let log = store.after(0, |key| vec![key.to_vec()]).unwrap();
    assert!(!log.more);
    (content.table.digest(), format!("{:?} {:?}", content.cursors, content.also), log.records, store.newest().unwrap())
}

fn seen_in(image: Vec<u8>) -> Seen {
    let (store, content) = open(&FailingStorage::from_image(image)).unwrap_or_else(|error| panic!("{error}"));
    seen(&store, &content)
}

/// One transaction with every kind of change: a head that grows, a final FAT that voids a move, whom to tell, and a cursor.
fn changes() -> [Vec<Change>; 2] {
    let user = key(50);
    let file = Key::Fat(super::support::owner(&user), fathom_protocol::ids::FileId([1; 16]));
    let also = |again| Change::Also { key: file.to_bytes(), vendors: vec![node(&key(2))], again };
    let cursor = |cursor| Change::Cursor { mirror: NodeId([3; 32]), log: Hash([4; 32]), cursor };
    let move_of = || SyncRecord::Move(moved(&user, 1, 0, 5, &key(1), &key(2)));
    let first = vec![
        put(plain_vendor(1, 1)),
        put(SyncRecord::Fat(fat(&user, 1, 0, 0, &[node(&key(1))], 5_000))),
        put(move_of()),
        cursor(7),
    ];
    let drop = Change::Drop { key: checked(move_of()).key().to_bytes() };
    let second = vec![
        put(plain_vendor(1, 2)),
        put(plain_vendor(2, 1)),
        drop,
        put(SyncRecord::Fat(fat(&user, 1, 1, 1, &[], 0))),
        also(true),
        cursor(9),
    ];
    [first, second]
}

/// Keeps away: half a transaction after a crash at any write of it, torn or out of order.
#[test]
fn fault_06_a_crash_at_any_write_leaves_the_mirror_its_old_or_its_new_state() {
    let storage = FailingStorage::default();
    let (store, _) = open(&storage).unwrap();
    let [first, second] = changes();
    store.apply(&first).unwrap();
    let (old, image) = (seen(&store, &store.reload().unwrap()), storage.image());
    storage.record();
    store.apply(&second).unwrap();
    let new = seen(&store, &store.reload().unwrap());
    assert_ne!(old, new);
    let (mut olds, mut news) = (0, 0);
    for (at, image) in crash_images(&image, &storage.recorded(), 20).into_iter().enumerate() {
        let found = seen_in(image);
        assert!(found == old || found == new, "image {at}: a mix");
        if found == old { olds += 1 } else { news += 1 }
    }

    assert!(olds > 0 && news > 0, "{olds} old, {news} new");
}

/// Keeps away: a record that was acknowledged and is not there after a crash at any later moment.
#[test]
fn fault_04_a_crash_at_any_write_loses_nothing_that_was_acknowledged() {
    let storage = FailingStorage::default();
    let (store, _) = open(&storage).unwrap();
    let before = storage.image();
    storage.record();
    // How many writes there were when each was acknowledged.
    let acknowledged: Vec<usize> = (0..6)
        .map(|file| {
            store.apply(&[put(SyncRecord::Fat(fat(&key(50), file, 0, 0, &[node(&key(1))], 2_000)))]).unwrap();
            storage.recorded_len()
        })
        .collect();
    let mut image = before;
    for (at, write) in storage.recorded().iter().enumerate() {
        write.apply(&mut image, usize::MAX);
        if !matches!(write, WriteRecord::Write { .. }) {
            let due = acknowledged.iter().filter(|count| **count <= at + 1).count();
            let (_, content) = open(&FailingStorage::from_image(image.clone())).unwrap();
            let found = content.table.digest().files as usize;
            assert!((due..=due + 1).contains(&found), "after write {at}: {found} of {due}");
        }
    }
}

async fn keep(writer: &Writer, record: SyncRecord) -> Outcome {
    writer.keep(vec![checked(record)], None).await.unwrap().remove(0)
}

/// Keeps away: a mirror that loses or mixes records, or answers nothing more, when its disk is full.
#[tokio::test]
async fn fault_11_without_space_a_mirror_refuses_reads_on_and_recovers() {
    let mut failures = 0;
    for nth in 1.. {
        let storage = FailingStorage::default();
        let writer = writer(&storage);
        keep(&writer, plain_vendor(1, 1)).await.kept.unwrap();
        let old = writer.shared().state().digest();
        storage.fail_nth(nth, BackendFault::NoSpace);
        let outcome = keep(&writer, plain_vendor(2, 1)).await;
        let Err(refusal) = outcome.kept else { break };
        assert_eq!(refusal.kind, RefusalKind::Internal);
        failures += 1;
        // The failed write is there whole or not at all, in memory as on disk, and reads go on.
        let digest = writer.shared().state().digest();
        assert!(digest == old || digest.heads == 2, "write {nth}: {digest:?}");
        for _ in 0..2 {
            assert!(keep(&writer, plain_vendor(3, 1)).await.kept.is_err());
            assert_eq!(writer.shared().state().digest(), digest);
            let store = &writer.shared().store;
            assert!(!store.records(&[Key::Vendor(node(&key(1)))]).unwrap().0.is_empty());
            assert_eq!(store.after(0, |key| vec![key.to_vec()]).unwrap().records.len() as u64, digest.heads);
        }
        storage.heal();
        for vendor in [1, 2, 3] {
            let kept = keep(&writer, plain_vendor(vendor, 2)).await.kept;
            assert!(matches!(kept, Ok(Kept::New { .. })), "write {nth}: {kept:?}");
        }
        let new = writer.shared().state().digest();
        drop(writer);
        assert_eq!(seen_in(storage.image()).0, new, "write {nth}");
    }

    assert!(failures >= 2, "{failures}");
}

/// Keeps away: going on after an I/O error as if what is in the page cache were on the disk: what a mirror acknowledges after
/// it, a power cut does not take away.
#[tokio::test]
async fn fault_10_after_an_io_error_a_mirror_acknowledges_only_what_is_on_the_disk() {
    for nth in 1.. {
        let storage = FailingStorage::default();
        let writer = writer(&storage);
        keep(&writer, plain_vendor(1, 1)).await.kept.unwrap();
        storage.fail_nth(nth, BackendFault::Eio);
        if keep(&writer, plain_vendor(2, 1)).await.kept.is_ok() {
            assert!(nth > 2);
            break;
        }
        let left = seen_in(storage.durable_image()).0;
        assert!(left.heads >= 1, "write {nth}: the first one was acknowledged");
        keep(&writer, plain_vendor(3, 1)).await.kept.unwrap();
        let now = writer.shared().state().digest();
        assert_eq!(seen_in(storage.durable_image()).0, now, "write {nth}: acknowledged and lost in a power cut");
    }
}

/// Keeps away: what was merged and could not be written turning into something known.
#[tokio::test]
async fn a_failed_write_acknowledges_nothing_and_the_table_does_not_run_ahead() {
    let storage = FailingStorage::default();
    let writer = writer(&storage);
    let first = checked(plain_vendor(1, 1));
    writer.keep(vec![first.clone()], None).await.unwrap();
    let before = writer.shared().state().digest();
    storage.fail_nth(1, BackendFault::Broken);
    for _ in 0..2 {
        let outcome = keep(&writer, plain_vendor(2, 1)).await;
        assert_eq!(outcome.kept.unwrap_err().kind, RefusalKind::Internal);
        assert!(!writer.shared().store.records(&[Key::Vendor(node(&key(1)))]).unwrap().0.is_empty(), "reads go on");
    }
    storage.heal();
    let outcomes = writer.keep(vec![first, checked(plain_vendor(3, 1))], None).await.unwrap();
    assert_eq!(outcomes[0].kept, Ok(Kept::Known), "what was kept before the failure is still here");
    assert!(matches!(outcomes[1].kept, Ok(Kept::New { .. })));
    let mut expected = Table::default();
    expected.merge(&outcomes[0].record).unwrap();
    assert_eq!(expected.digest(), before);
    if writer.shared().state().table.vendor(node(&key(2))).is_some() {
        panic!("a record that was refused is in the table");
    }
}

/// Keeps away: a damaged file that is trusted, or that stops the mirror without a word on what to do.
#[test]
fn fault_07_a_flipped_bit_in_a_mirrors_file_is_refused_with_a_way_out_or_harmless() {
    let storage = FailingStorage::default();
    let (store, _) = open(&storage).unwrap();
    let [first, second] = changes();
    store.apply(&first).unwrap();
    store.apply(&second).unwrap();
    let sound = seen(&store, &store.reload().unwrap());
    drop(store);
    let image = storage.image();
    let live: Vec<usize> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    let (mut refused, mut removed) = (0, 0);
    for at in live.iter().step_by(live.len() / 400 + 1) {
        let damaged = FailingStorage::from_image(image.clone());
        damaged.flip_bit(at * 8 + at % 8);
        match open(&damaged) {
            Ok((store, content)) => {
                // Records that do not verify are removed, and with them every cursor, so that they are read again.
                if seen(&store, &content) != sound {
                    removed += 1;
                    assert!(content.cursors.is_empty(), "byte {at}");
                }
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("move the file away"), "byte {at}: {error}");
            }
        }
    }

    assert!(refused > 0, "{refused} refused, {removed} read again");
}
