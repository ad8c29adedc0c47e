//! A mirror's file as its store keeps it: records by key, a log of positions, cursors. Its transactions are all or nothing.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::table::{DROPPED_GRACE_MS, Key, Suspicion, Table};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::SyncRecord;

/// Records of one page. Few, so that pages end in the middle of things.
const PAGE: usize = 24;

/// One change of a transaction.
#[derive(Debug)]
pub(in crate::sim) enum Change {
    Put(Key, SyncRecord),
    Drop(Key),
    Demote(Key, Key),
    /// Whom else to show the final FATs of a file, and whether those that there are count as new.
    Also(Key, BTreeSet<NodeId>, bool),
    Cursor(NodeId, Hash, u64),
    Suspect(Box<Suspicion>),
    LookedAt(UnixMs),
}

/// What is on disk.
#[derive(Debug)]
pub(in crate::sim) struct Store {
    pub(in crate::sim) log: Hash,
    pub(in crate::sim) next: u64,
    pub(in crate::sim) records: BTreeMap<Key, SyncRecord>,
    positions: BTreeMap<Key, u64>,
    entries: BTreeMap<u64, Key>,
    also: BTreeMap<Key, BTreeSet<NodeId>>,
    pub(in crate::sim) cursors: BTreeMap<NodeId, (Hash, u64)>,
    pub(in crate::sim) suspicions: Vec<Suspicion>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Hash([0; Hash::LEN]))
    }
}

impl Store {
    pub(in crate::sim) fn new(log: Hash) -> Self {
        Self {
            log,
            next: 1,
            records: BTreeMap::new(),
            positions: BTreeMap::new(),
            entries: BTreeMap::new(),
            also: BTreeMap::new(),
            cursors: BTreeMap::new(),
            suspicions: Vec::new(),
        }
    }

    pub(in crate::sim) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(key, record) => {
                    self.records.insert(key, record);
                    self.place(key);
                }
                Change::Drop(key) => {
                    self.records.remove(&key);
                    if let Some(position) = self.positions.remove(&key) {
                        self.entries.remove(&position);
                    }
                }
                Change::Demote(from, to) => {
                    if let Some(record) = self.records.remove(&from) {
                        self.records.insert(to, record);
                        self.place(to);
                    }
                }
                Change::Also(key, vendors, again) => {
                    let known = self.also.entry(key).or_default();
                    let before = known.len();
                    known.extend(vendors);
                    if again && known.len() > before && self.records.contains_key(&key) {
                        self.place(key);
                    }
                }
                Change::Cursor(mirror, log, next) => {
                    self.cursors.insert(mirror, (log, next));
                }
                Change::Suspect(suspicion) => self.suspicions.push(*suspicion),
                Change::LookedAt(until) => self
                    .suspicions
                    .retain(|suspicion| suspicion.due > until && suspicion.due <= until.plus_ms(DROPPED_GRACE_MS)),
            }
        }
    }

    fn place(&mut self, key: Key) {
        if let Some(before) = self.positions.insert(key, self.next) {
            self.entries.remove(&before);
        }
        self.entries.insert(self.next, key);
        self.next += 1;
    }

    /// Records after `cursor` that are wanted, the next cursor, and whether there are more.
    pub(in crate::sim) fn after(&self, cursor: u64, wanted: impl Fn(&Key) -> bool) -> (Vec<SyncRecord>, u64, bool) {
        let (mut records, mut next) = (Vec::new(), cursor);
        for (position, key) in self.entries.range(cursor + 1..) {
            if wanted(key) {
                if records.len() == PAGE {
                    return (records, next, true);
                }
                records.extend(self.records.get(key).cloned());
            }
            next = *position;
        }
        (records, next, false)
    }

    /// Whether a vendor must see this final FAT.
    pub(in crate::sim) fn concerns(&self, table: &Table, vendor: NodeId, key: &Key) -> bool {
        let (Key::Fat(owner, file) | Key::Twin(owner, file, _)) = *key else { return false };
        table.versions(owner, file).any(|fat| fat.vendors.binary_search(&vendor).is_ok())
            || self.also.get(&Key::Fat(owner, file)).is_some_and(|vendors| vendors.contains(&vendor))
            || table.moves_of(owner, file).any(|(_, moved)| moved.to == vendor)
    }
}
