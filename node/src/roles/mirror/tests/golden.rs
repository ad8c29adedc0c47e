//! The rows of the mirror's file, byte by byte, and a start from them.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::HEXLOWER;
use fathom_protocol::codec;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::table::{Key, verify};
use fathom_protocol::wire::SyncRecord;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;

use super::super::store::{Change, Store};
use crate::golden;

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const RECORDS: Bytes = TableDefinition::new("records");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const POSITIONS: TableDefinition<&[u8], u64> = TableDefinition::new("positions");
const CURSORS: Bytes = TableDefinition::new("cursors");
const ORDERS: Bytes = TableDefinition::new("orders");

/// Every row as `table key value`, a line each: text as it is, numbers decimal, bytes hexadecimal.
fn dump(path: &Path) -> String {
    let database = Database::open(path).unwrap();
    let read = database.begin_read().unwrap();
    let mut lines = Vec::new();
    for row in read.open_table(META).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        // Drawn at random when the file is made.
        let value = if key.value() == "log" { vec![0; value.value().len()] } else { value.value().to_vec() };
        lines.push(format!("meta {} {}", key.value(), HEXLOWER.encode(&value)));
    }
    for row in read.open_table(LOG).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        lines.push(format!("log {} {}", key.value(), HEXLOWER.encode(value.value())));
    }
    for row in read.open_table(POSITIONS).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        lines.push(format!("positions {} {}", HEXLOWER.encode(key.value()), value.value()));
    }
    for (name, table) in [("records", RECORDS), ("cursors", CURSORS), ("orders", ORDERS)] {
        for row in read.open_table(table).unwrap().iter().unwrap() {
            let (key, value) = row.unwrap();
            lines.push(format!("{name} {} {}", HEXLOWER.encode(key.value()), HEXLOWER.encode(value.value())));
        }
    }
    lines.join("\n") + "\n"
}

/// The golden records by key, as they are synced and kept.
fn records() -> Vec<(Key, SyncRecord, Vec<u8>)> {
    ["sync_vendor", "sync_fat", "sync_move"]
        .map(|name| {
            let bytes = golden::message(name);
            let record: SyncRecord = codec::decode(&bytes, FRAME_BYTES_MAX).unwrap();
            (verify(record.clone()).unwrap().key(), record, bytes)
        })
        .into()
}

const VENDORS: [NodeId; 2] = [NodeId([6; 32]), NodeId([7; 32])];
const MIRROR: NodeId = NodeId([8; 32]);
const THEIR_LOG: Hash = Hash([9; 32]);

/// A file of format 2 is written as ever, and one with the golden rows opens with all of its content.
#[test]
fn rows_keep_their_bytes_and_a_start_reads_them_as_ever() {
    let dir = TempDir::new().unwrap();
    let written = dir.path().join("written.redb");
    let (store, _) = Store::open(&written).unwrap();
    let put = |(key, _, bytes): &(Key, SyncRecord, Vec<u8>)| Change::Put { key: key.to_bytes(), record: bytes.clone() };
    let mut changes: Vec<Change> = records().iter().map(put).collect();
    let fat = records()[1].0;
    changes.push(Change::Also { key: fat.to_bytes(), vendors: VENDORS.to_vec(), again: true });
    changes.push(Change::Cursor { mirror: MIRROR, log: THEIR_LOG, cursor: 0x0102 });
    store.apply(&changes).unwrap();
    drop(store);
    let golden = golden::same("mirror-store-v2", dump(&written).as_bytes());

    let remade = dir.path().join("remade.redb");
    restore(&remade, std::str::from_utf8(&golden).unwrap());
    let (store, content) = Store::open(&remade).unwrap();
    for (key, record, _) in records() {
        assert_eq!(store.records(&[key]).unwrap().0.pop(), Some(record), "{key:?}");
    }
    assert_eq!(content.cursors, BTreeMap::from([(MIRROR, (THEIR_LOG, 0x0102))]));
    let Key::Fat(owner, file) = fat else { panic!("{fat:?}") };
    assert_eq!(content.also[&(owner, file)], VENDORS.into());
    assert!(content.table.fat(owner, file).is_some());
    assert_eq!(store.newest().unwrap(), 4);
    let order: Vec<SyncRecord> = store.after(0, |key| vec![key.to_vec()]).unwrap().records;
    let [vendor, fat, moved] = <[_; 3]>::try_from(records()).unwrap().map(|(_, record, _)| record);
    assert_eq!(order, [vendor, moved, fat], "what is told again comes last");
    drop(store);
    assert_eq!(dump(&remade).as_bytes(), golden, "opening changes nothing");
}

/// Makes a file with these rows.
fn restore(path: &Path, rows: &str) {
    let database = Database::create(path).unwrap();
    let write = database.begin_write().unwrap();
    let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
    for row in rows.lines() {
        let [table, key, value] = <[&str; 3]>::try_from(row.split(' ').collect::<Vec<_>>()).unwrap();
        match table {
            "meta" => drop(write.open_table(META).unwrap().insert(key, &*hex(value)).unwrap()),
            "log" => drop(write.open_table(LOG).unwrap().insert(key.parse::<u64>().unwrap(), &*hex(value)).unwrap()),
            "positions" => {
                drop(write.open_table(POSITIONS).unwrap().insert(&*hex(key), value.parse::<u64>().unwrap()).unwrap());
            }
            other => {
                let table = [("records", RECORDS), ("cursors", CURSORS), ("orders", ORDERS)];
                let (_, table) = table.into_iter().find(|(name, _)| *name == other).unwrap();
                drop(write.open_table(table).unwrap().insert(&*hex(key), &*hex(value)).unwrap());
            }
        }
    }
    write.commit().unwrap();
}

/// Keeps away: a release that cannot read the file of an earlier one. The file is never edited: another layout is another format,
/// with a file of its own beside this one. A new one is written with `FATHOM_WRITE_GOLDEN=1 cargo test -p fathom --lib`.
#[test]
fn a_mirrors_file_of_format_2_opens_with_every_record() {
    let path = golden::file("mirror-fat-v2.redb", |path| {
        let (store, _) = Store::open(path).unwrap();
        let mut changes: Vec<Change> =
            records().into_iter().map(|(key, _, record)| Change::Put { key: key.to_bytes(), record }).collect();
        let also = Change::Also { key: records()[1].0.to_bytes(), vendors: VENDORS.to_vec(), again: false };
        changes.extend([also, Change::Cursor { mirror: MIRROR, log: THEIR_LOG, cursor: 0x0102 }]);
        store.apply(&changes).unwrap();
    });
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("fat.redb");
    std::fs::copy(path, &copy).unwrap();
    for _ in 0..2 {
        let (store, content) = Store::open(&copy).unwrap();
        let log = store.after(0, |key| vec![key.to_vec()]).unwrap().records;
        assert_eq!(log.len(), records().len());
        for (key, record, _) in records() {
            assert_eq!(store.records(&[key]).unwrap().0, [record], "{key:?}");
        }
        assert_eq!(content.cursors, BTreeMap::from([(MIRROR, (THEIR_LOG, 0x0102))]));
        assert_eq!(content.also.values().next(), Some(&VENDORS.into()));
    }
}
