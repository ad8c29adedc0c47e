//! What is on disk, and when.

use fathom_protocol::ids::{FileId, Hash, NodeId};
use fathom_protocol::table::Key;
use fathom_protocol::wire::{RefusalKind, SyncRecord};
use redb::{Database, ReadableTable, TableDefinition};
use tempfile::TempDir;

use super::super::store::{Store, StoreError};
use super::super::writer::{Cursor, Kept, Writer};
use super::support::{TestMirror, checked, fat, key, moved, node, owner, plain_vendor};

fn all(store: &Store, cursor: u64) -> Vec<SyncRecord> {
    let page = store.after(cursor, |key| vec![key.to_vec()]).unwrap();
    assert!(!page.more);
    page.records
}

#[tokio::test]
async fn what_was_kept_is_there_after_reopening() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m").join("fat.redb");
    let user = key(50);
    let cursor = Cursor { mirror: NodeId([3; 32]), log: Hash([4; 32]), cursor: 77 };
    let writer = Writer::open(&path).unwrap();
    let log = writer.shared().store.log();
    let first = vec![
        checked(plain_vendor(1, 1)),
        checked(SyncRecord::Fat(fat(&user, 1, 0, 0, &[node(&key(1))], 100))),
        checked(SyncRecord::Move(moved(&user, 1, 0, 5, &key(1), &key(2)))),
        checked(SyncRecord::Fat(fat(&user, 2, 0, 0, &[node(&key(1))], 100))),
        checked(SyncRecord::Move(moved(&user, 2, 0, 6, &key(1), &key(3)))),
    ];
    let outcomes = writer.keep(first, Some(cursor)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome.kept, Ok(Kept::New { .. }))));
    // The head moves on; the first file is released, which voids its move.
    let second = vec![checked(plain_vendor(1, 2)), checked(SyncRecord::Fat(fat(&user, 1, 1, 1, &[], 0)))];
    let outcomes = writer.keep(second, None).await.unwrap();
    let Ok(Kept::New { position, tell }) = outcomes[1].kept.clone() else { panic!("{outcomes:?}") };
    assert_eq!(position, 7);
    assert!(tell.contains(&node(&key(1))) && tell.contains(&node(&key(2))), "holders are told, moves followed");
    let digest = writer.shared().state().digest();
    let records = all(&writer.shared().store, 0);
    assert_eq!(records.len(), 4, "one entry a key, and the void move is gone: {records:?}");
    drop(writer);

    let writer = Writer::open(&path).unwrap();
    assert_eq!(writer.shared().state().digest(), digest);
    assert_eq!(writer.shared().store.log(), log);
    assert_eq!(all(&writer.shared().store, 0), records);
    assert_eq!(all(&writer.shared().store, 6).len(), 1);
    let state = writer.shared().state();
    assert_eq!(state.cursors.get(&cursor.mirror), Some(&(cursor.log, cursor.cursor)));
    let also = &state.also[&(owner(&user), FileId([1; 16]))];
    assert!(also.contains(&node(&key(1))) && also.contains(&node(&key(2))));
}

#[tokio::test]
async fn fault_04_a_final_fat_is_on_disk_before_it_is_acknowledged() {
    let mirror = TestMirror::start(101, 3600, false).await;
    let user = key(50);
    for file in 0..20 {
        assert_eq!(mirror.submit(fat(&user, file, 0, 0, &[node(&key(1))], 5000)).await, None);
        // What kill -9 at this moment would leave.
        let copy = mirror.dir.path().join("copy.redb");
        std::fs::copy(mirror.file(), &copy).unwrap();
        let (store, content) = Store::open(&copy).unwrap();
        assert!(content.table.fat(owner(&user), FileId([file; 16])).is_some());
        assert!(store.records(&[Key::Fat(owner(&user), FileId([file; 16]))]).unwrap().0.len() == 1);
    }
    assert_eq!(mirror.submit(fat(&user, 3, 5, 5, &[], 0)).await, None);
    assert_eq!(mirror.submit(fat(&user, 3, 4, 4, &[], 0)).await.unwrap().kind, RefusalKind::Stale);
}

#[test]
fn an_unknown_format_is_refused_with_advice() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("fat.redb");
    drop(Store::open(&path).unwrap());
    let meta: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(meta).unwrap().insert("version", &9u32.to_le_bytes()[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open(&path).err().unwrap();
    assert!(matches!(error, StoreError::Version { found: 9, .. }), "{error}");
    assert!(error.to_string().contains("move the file away"));
    std::fs::write(&path, b"not a database at all").unwrap();
    let error = Store::open(&path).err().unwrap();
    assert!(error.to_string().contains("move the file away"), "{error}");
}

#[tokio::test]
async fn a_damaged_record_is_removed_and_the_other_mirrors_are_read_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("fat.redb");
    let writer = Writer::open(&path).unwrap();
    let cursor = Cursor { mirror: NodeId([3; 32]), log: Hash([4; 32]), cursor: 77 };
    let kept = vec![checked(plain_vendor(1, 1)), checked(plain_vendor(2, 1))];
    writer.keep(kept, Some(cursor)).await.unwrap();
    drop(writer);
    let records: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(records).unwrap();
        let key = Key::Vendor(node(&key(2))).to_bytes();
        let mut bytes = table.get(key.as_slice()).unwrap().unwrap().value().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        table.insert(key.as_slice(), bytes.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    for _ in 0..2 {
        let (store, content) = Store::open(&path).unwrap();
        assert!(content.table.vendor(node(&key(1))).is_some() && content.table.vendor(node(&key(2))).is_none());
        assert!(content.cursors.is_empty());
        assert_eq!(all(&store, 0).len(), 1);
    }
    // The position of the lost record is not used again: who read the log up to it would miss what came there.
    let writer = Writer::open(&path).unwrap();
    let outcomes = writer.keep(vec![checked(plain_vendor(2, 1))], None).await.unwrap();
    assert!(matches!(outcomes[0].kept, Ok(Kept::New { position: 3, .. })), "{outcomes:?}");
}
