//! The mirror's records on disk, in one redb file. Nothing here decides: the writer says what to keep.
//!
//! ```text
//! meta:      "version" -> u32 le, "log" -> Hash[32], "next" -> u64 le: the next free position
//! records:   Key::to_bytes() -> CBOR of SyncRecord
//! log:       position u64 -> key        a key has its newest position only
//! positions: key -> position u64
//! cursors:   mirror[32] -> log[32], cursor u64 le
//! orders:    key of a final FAT -> vendor[32] each: vendors that it no longer names and that must still see it
//! suspicions: due u64 be, vendor[32], lease[16] -> CBOR of Suspicion; files of older builds do not have this table
//! ```
//! Positions start at 1 and are never used twice, so a cursor of 0 has seen nothing.

mod disk;
mod inspect;
mod load;
mod suspicions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::codec;
use fathom_protocol::ids::{FileId, Hash, NodeId, OwnerId};
use fathom_protocol::limits::{FRAME_BYTES_MAX, SYNC_RECORDS_MAX};
use fathom_protocol::table::{Key, Suspicion, Table};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::SyncRecord;
use fathom_store::storage::{FatStorage, FileStorage};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use disk::Disk;
pub(crate) use inspect::inspect;

/// Version of the layout above.
const FORMAT: u32 = 2;
/// Records in one answer are cut at so many bytes; one record alone may be larger and still fits a frame.
pub(super) const PAGE_BYTES: usize = 6 * 1024 * 1024;
/// Largest encoded record that is kept, bytes: with a page around it, it still fits a frame.
pub(super) const RECORD_BYTES_MAX: usize = FRAME_BYTES_MAX - 4096;
/// Log entries looked at for one page.
const SCANNED_MAX: usize = 65_536;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const POSITIONS: TableDefinition<&[u8], u64> = TableDefinition::new("positions");
const CURSORS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("cursors");
const ORDERS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("orders");
const SUSPICIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("suspicions");

/// Why the mirror's records cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or file cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{} is in use by another process; stop that node first", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// A layout that this build does not know.
    #[error(
        "{} has format {found} and this build reads format {FORMAT}: run the newer build, or move the file away and let this mirror copy everything from the other mirrors",
        path.display()
    )]
    Version {
        /// Which.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// It is damaged.
    #[error(
        "{} cannot be read: {source}; if the disk is sound, move the file away and start again: this mirror then copies everything from the other mirrors",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
}

/// The records on disk.
pub(super) struct Store {
    disk: Disk,
    log: Hash,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.disk.path().display())
    }
}

/// Vendors that a final FAT no longer names and that must still see it.
pub(super) type Also = BTreeMap<(OwnerId, FileId), BTreeSet<NodeId>>;

/// What the disk holds, as the mirror keeps it in memory.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Who holds what.
    pub(super) table: Table,
    /// Whom else to tell.
    pub(super) also: Also,
    /// How far each other mirror was read: its log and the position in it.
    pub(super) cursors: BTreeMap<NodeId, (Hash, u64)>,
    /// Leases that vanished lately.
    pub(super) suspicions: Vec<Suspicion>,
}

/// One step of a write. Steps of one batch are applied in order, all or none.
#[derive(Debug)]
pub(super) enum Change {
    /// Keep this record at a new position.
    Put { key: Vec<u8>, record: Vec<u8> },
    /// Forget the record.
    Drop { key: Vec<u8> },
    /// Keep what is under this key under another one, at a new position.
    Rename { key: Vec<u8>, to: Vec<u8> },
    /// Tell these vendors, too; with `again` those that poll see the final FAT once more.
    Also { key: Vec<u8>, vendors: Vec<NodeId>, again: bool },
    /// A mirror was read up to here.
    Cursor { mirror: NodeId, log: Hash, cursor: u64 },
    /// A lease vanished.
    Suspect(Box<Suspicion>),
    /// What was due until then was looked at.
    LookedAt(UnixMs),
}

/// Records of the log, in order.
#[derive(Debug, Default)]
pub(super) struct LogPage {
    pub(super) records: Vec<SyncRecord>,
    /// Everything up to this position was looked at.
    pub(super) next: u64,
    /// Whether the log goes on.
    pub(super) more: bool,
}

impl Store {
    /// Opens the file at `path`, or makes it, and loads what it holds. Blocks.
    pub(super) fn open(path: &Path) -> Result<(Self, Content), StoreError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|source| StoreError::Io { path: directory.to_owned(), source })?;
        }
        Self::open_in(Arc::new(FileStorage::new(path)), disk::RETRY)
    }

    /// Opens what is in `storage`; after a failed write, writing is tried again every `retry`.
    pub(super) fn open_in(storage: Arc<dyn FatStorage>, retry: Duration) -> Result<(Self, Content), StoreError> {
        let disk = Disk::open(storage, retry)?;
        let log = prepare(&disk)?;
        let store = Self { disk, log };
        let content = store.reload()?;
        Ok((store, content))
    }

    /// Which log this is: drawn at random when the file was made.
    pub(super) fn log(&self) -> Hash {
        self.log
    }

    /// Reads everything from disk again, as is due after a failed write. Blocks.
    pub(super) fn reload(&self) -> Result<Content, StoreError> {
        self.load().map_err(|error| damaged(self.disk.path(), error))
    }

    /// After a failed write: whether it can be written now. What is there does not change. Blocks.
    pub(super) fn make_writable(&self) -> Result<(), StoreError> {
        self.disk.make_writable()
    }

    fn read<T>(&self, work: impl FnMut(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        self.disk.read(work)
    }

    /// Applies `changes` in one durable transaction. Returns the position of each `Put`, in order. Blocks.
    pub(super) fn apply(&self, changes: &[Change]) -> Result<Vec<u64>, redb::Error> {
        self.disk.write(|transaction| Batch::open(transaction)?.apply(changes))
    }

    /// The records under `keys`, as many from the front as fit a page, and how many keys that covers. Blocks.
    pub(super) fn records(&self, keys: &[Key]) -> Result<(Vec<SyncRecord>, usize), redb::Error> {
        self.read(|transaction| {
            let table = transaction.open_table(RECORDS)?;
            let mut page = Pages::default();
            for (at, key) in keys.iter().enumerate() {
                if let Some(bytes) = table.get(key.to_bytes().as_slice())?
                    && !page.push(bytes.value())
                {
                    return Ok((page.records, at));
                }
            }
            Ok((page.records, keys.len()))
        })
    }

    /// Records after `cursor` in the log. `pick` maps each key of the log to the records that are wanted for it. Blocks.
    pub(super) fn after(&self, cursor: u64, pick: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Result<LogPage, redb::Error> {
        self.read(|transaction| {
            let (log, records) = (transaction.open_table(LOG)?, transaction.open_table(RECORDS)?);
            let mut page = Pages::default();
            let mut seen = BTreeSet::new();
            let mut next = cursor;
            for (scanned, entry) in log.range(cursor.saturating_add(1)..)?.enumerate() {
                let (position, key) = entry?;
                if scanned == SCANNED_MAX {
                    return Ok(LogPage { records: page.records, next, more: true });
                }
                let begins = page.records.is_empty();
                for key in pick(key.value()) {
                    if seen.contains(&key) {
                        continue;
                    }
                    if let Some(bytes) = records.get(key.as_slice())?
                        && !page.push(bytes.value())
                    {
                        if begins {
                            // Versions of a huge file that no page holds together; the others are shown when they are written.
                            break;
                        }
                        return Ok(LogPage { records: page.records, next, more: true });
                    }
                    seen.insert(key);
                }
                next = position.value();
            }
            Ok(LogPage { records: page.records, next, more: false })
        })
    }

    /// The newest position in the log, 0 if it is empty. Blocks.
    pub(super) fn newest(&self) -> Result<u64, redb::Error> {
        self.read(|transaction| {
            let meta = transaction.open_table(META)?;
            Ok(meta.get("next")?.map_or(1, |bytes| u64_of(bytes.value())).saturating_sub(1))
        })
    }
}

/// Records that make up one answer.
#[derive(Default)]
struct Pages {
    records: Vec<SyncRecord>,
    bytes: usize,
}

impl Pages {
    /// Takes a record unless it does not fit. One that does not decode is left out: the log says so at the next start.
    fn push(&mut self, bytes: &[u8]) -> bool {
        let full = self.records.len() == SYNC_RECORDS_MAX || self.bytes + bytes.len() > PAGE_BYTES;
        if full && !self.records.is_empty() {
            return false;
        }
        self.bytes += bytes.len();
        self.records.extend(decode(bytes));
        true
    }
}

/// The tables of one write transaction.
struct Batch<'t> {
    meta: redb::Table<'t, &'static str, &'static [u8]>,
    records: redb::Table<'t, &'static [u8], &'static [u8]>,
    log: redb::Table<'t, u64, &'static [u8]>,
    positions: redb::Table<'t, &'static [u8], u64>,
    cursors: redb::Table<'t, &'static [u8], &'static [u8]>,
    orders: redb::Table<'t, &'static [u8], &'static [u8]>,
    suspicions: redb::Table<'t, &'static [u8], &'static [u8]>,
}

impl<'t> Batch<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            records: transaction.open_table(RECORDS)?,
            log: transaction.open_table(LOG)?,
            positions: transaction.open_table(POSITIONS)?,
            cursors: transaction.open_table(CURSORS)?,
            orders: transaction.open_table(ORDERS)?,
            suspicions: transaction.open_table(SUSPICIONS)?,
        })
    }

    fn apply(&mut self, changes: &[Change]) -> Result<Vec<u64>, redb::Error> {
        let mut next = self.meta.get("next")?.map_or(1, |bytes| u64_of(bytes.value()));
        let mut placed = Vec::new();
        for change in changes {
            match change {
                Change::Put { key, record } => {
                    self.records.insert(key.as_slice(), record.as_slice())?;
                    placed.push(next);
                    self.place(key, &mut next)?;
                }
                Change::Drop { key } => self.forget(key)?,
                Change::Rename { key, to } => {
                    let record = self.records.get(key.as_slice())?.map(|record| record.value().to_vec());
                    if let Some(record) = record {
                        self.records.insert(to.as_slice(), record.as_slice())?;
                        self.place(to, &mut next)?;
                    }
                }
                Change::Also { key, vendors, again } => {
                    let mut all: BTreeSet<NodeId> =
                        self.orders.get(key.as_slice())?.iter().flat_map(|known| nodes(known.value())).collect();
                    all.extend(vendors);
                    let bytes: Vec<u8> = all.iter().flat_map(|vendor| vendor.0).collect();
                    self.orders.insert(key.as_slice(), bytes.as_slice())?;
                    if *again {
                        self.place(key, &mut next)?;
                    }
                }
                Change::Cursor { mirror, log, cursor } => {
                    let value = [&log.0[..], &cursor.to_le_bytes()].concat();
                    self.cursors.insert(&mirror.0[..], value.as_slice())?;
                }
                Change::Suspect(suspicion) => self.suspect(suspicion)?,
                Change::LookedAt(until) => self.looked_at(*until)?,
            }
        }
        self.meta.insert("next", &next.to_le_bytes()[..])?;
        Ok(placed)
    }

    fn place(&mut self, key: &[u8], next: &mut u64) -> Result<(), redb::Error> {
        let before = self.positions.insert(key, *next)?.map(|position| position.value());
        if let Some(before) = before {
            self.log.remove(before)?;
        }
        self.log.insert(*next, key)?;
        *next += 1;
        Ok(())
    }

    fn forget(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        self.records.remove(key)?;
        let position = self.positions.remove(key)?.map(|position| position.value());
        if let Some(position) = position {
            self.log.remove(position)?;
        }
        Ok(())
    }
}

/// Makes the tables, or checks the version of those that are there. Returns the log's identifier.
fn prepare(disk: &Disk) -> Result<Hash, StoreError> {
    let found = disk.write(|transaction| {
        let mut meta = transaction.open_table(META)?;
        let version = meta.get("version")?.map(|bytes| bytes.value().to_vec());
        let Some(bytes) = version else {
            let log = Hash(rand::random());
            meta.insert("version", &FORMAT.to_le_bytes()[..])?;
            meta.insert("log", &log.0[..])?;
            drop(meta);
            Batch::open(transaction)?;
            return Ok(Ok(log));
        };
        let version = bytes.try_into().map_or(0, u32::from_le_bytes);
        let log = meta.get("log")?.and_then(|log| Hash::from_slice(log.value()));
        Ok(log.filter(|_| version == FORMAT).ok_or(version))
    });
    match found {
        Ok(Ok(log)) => Ok(log),
        Ok(Err(found)) => Err(StoreError::Version { path: disk.path().to_owned(), found }),
        Err(redb::Error::Io(source)) => Err(StoreError::Io { path: disk.path().to_owned(), source }),
        Err(error) => Err(damaged(disk.path(), error)),
    }
}

fn open_error(path: &Path, error: redb::DatabaseError) -> StoreError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        redb::DatabaseError::Storage(redb::StorageError::Io(source))
            if source.kind() != std::io::ErrorKind::InvalidData =>
        {
            StoreError::Io { path: path.to_owned(), source }
        }
        error => damaged(path, error.into()),
    }
}

fn damaged(path: &Path, source: redb::Error) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), source: Box::new(source) }
}

fn decode(bytes: &[u8]) -> Option<SyncRecord> {
    codec::decode(bytes, FRAME_BYTES_MAX).ok()
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn nodes(bytes: &[u8]) -> impl Iterator<Item = NodeId> + '_ {
    bytes.chunks_exact(NodeId::LEN).filter_map(NodeId::from_slice)
}

/// The key of a vendor or final FAT, or of its twin; moves give their final FAT's key, and `None` is a key of another kind.
pub(super) fn parse_key(key: &[u8]) -> Option<Key> {
    let (tag, rest) = key.split_first()?;
    match tag {
        1 => NodeId::from_slice(rest).map(Key::Vendor),
        2 | 3 => {
            let (owner, rest) = rest.split_at_checked(OwnerId::LEN)?;
            let file = rest.get(..FileId::LEN)?;
            Some(Key::Fat(OwnerId::from_slice(owner)?, FileId::from_slice(file)?))
        }
        6 => {
            let (owner, rest) = rest.split_at_checked(OwnerId::LEN)?;
            let (file, hash) = rest.split_at_checked(FileId::LEN)?;
            Some(Key::Twin(OwnerId::from_slice(owner)?, FileId::from_slice(file)?, Hash::from_slice(hash)?))
        }
        _ => None,
    }
}
