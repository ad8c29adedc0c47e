//! A local FAT looked at from outside, while no vendor runs on it: every row, and whether the rows agree with each other.
//!
//! Nothing reaches the file: what opening repairs after a crash stays in memory. Each table is read row by row, so memory does
//! not grow with the file. What the signed records in the rows say is the caller's to judge.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fathom_protocol::ids::{DeviceId, FileId, Hash, LeaseId, OwnerId};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableHandle};

use super::codec::{self, Opaque, Row};
use super::engine::{check_format, open_with};
use super::tx::{
    BY_FILE, BY_LEASE, CHUNKS, DEVICES, FINALS, KV, LEASES, META, MOVES, PENDING_ERASE, RowError, RowResult,
    TOTALS_KEY, TWINS, Table, get_in, keys_in,
};
use super::{ChunkEntry, ChunkKey, FatError, FatTotals, FinalEntry, LeaseEntry};
use crate::storage::{FatStorage, FileStorage, Opening};

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatRow {
    /// A chunk.
    Chunk(ChunkEntry),
    /// A lease.
    Lease(LeaseId, LeaseEntry),
    /// The newest final FAT of a file that the vendor was shown.
    Final(OwnerId, FileId, FinalEntry),
    /// Another final FAT of a file, written at once with that one.
    Twin(OwnerId, FileId, FinalEntry),
    /// A signed move.
    Move(ChunkKey, Vec<u8>),
    /// A value by name.
    Value(String, Vec<u8>),
    /// A part that awaits erasure.
    PendingErase(DeviceId, Hash),
    /// The device that a directory was.
    Device(PathBuf, DeviceId),
}

/// Something that is not as it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The table, or `file`.
    pub table: &'static str,
    /// The row's key; empty if it is about the whole table.
    pub key: Vec<u8>,
    /// What is wrong, as a sentence without a full stop.
    pub problem: String,
}

/// What hears of rows and findings: leases first, then chunks, and final FATs after them.
pub trait Inspector {
    /// A row whose check holds.
    fn row(&mut self, row: FatRow);
    /// Something wrong.
    fn finding(&mut self, finding: Finding);
}

/// Reads the whole local FAT in the file at `path`, checks pages, rows, indexes, sums and counts, and tells `inspector`.
///
/// # Errors
/// `Version`, `InUse`, `Database`; damage is a finding.
pub fn inspect(path: &Path, inspector: &mut dyn Inspector) -> Result<(), FatError> {
    inspect_in(&FileStorage::new(path), inspector)
}

/// As [`inspect`], in `storage`.
///
/// # Errors
/// As for [`inspect`].
pub fn inspect_in(storage: &dyn FatStorage, inspector: &mut dyn Inspector) -> Result<(), FatError> {
    let opening = Opening { cache_bytes: 32 * 1024 * 1024, check: true, overlay: true };
    let database = match open_with(storage, opening) {
        Ok(database) => database,
        Err(FatError::Corrupt { detail, .. }) => {
            inspector.finding(Finding { table: "file", key: Vec::new(), problem: detail });
            // Rows have checks of their own: what can be read is shown.
            match open_with(storage, Opening { check: false, ..opening }) {
                Ok(database) => database,
                Err(FatError::Corrupt { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    match check_format(storage, &database) {
        Ok(_) => {}
        Err(FatError::Corrupt { detail, .. }) => {
            inspector.finding(Finding { table: "meta", key: Vec::new(), problem: detail });
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let mut walk = Walk { database: &database, inspector, counted: FatTotals::default() };
    walk.table(LEASES, Walk::lease);
    walk.table(CHUNKS, Walk::chunk);
    walk.table(BY_FILE, |walk, tx, key, _| walk.index(tx, BY_FILE, key));
    walk.table(BY_LEASE, |walk, tx, key, _| walk.index(tx, BY_LEASE, key));
    walk.table(FINALS, |walk, _, key, value| walk.last(FINALS, key, value));
    walk.table(TWINS, |walk, _, key, value| walk.last(TWINS, key, value));
    walk.table(MOVES, |walk, _, key, value| {
        let row: Opaque = open_row(MOVES, key, value)?;
        let key = codec::parse_chunk_key(key).ok_or("its key does not decode")?;
        walk.inspector.row(FatRow::Move(key, row.0));
        Ok(())
    });
    walk.table(KV, |walk, _, key, value| {
        let row: Opaque = open_row(KV, key, value)?;
        let name = String::from_utf8(key.to_vec()).map_err(|_| "its key is no text")?;
        walk.inspector.row(FatRow::Value(name, row.0));
        Ok(())
    });
    walk.table(PENDING_ERASE, |walk, _, key, _| {
        let (device, part) = codec::parse_erase(key).ok_or("its key does not decode")?;
        walk.inspector.row(FatRow::PendingErase(device, part));
        Ok(())
    });
    walk.table(DEVICES, |walk, _, key, value| {
        let row: Opaque = open_row(DEVICES, key, value)?;
        let device = DeviceId::from_slice(&row.0).ok_or("it names no device")?;
        walk.inspector.row(FatRow::Device(PathBuf::from(OsString::from_vec(key.to_vec())), device));
        Ok(())
    });
    walk.totals();
    Ok(())
}

/// Why a row is not as it has to be.
struct Wrong(String);

impl From<&str> for Wrong {
    fn from(problem: &str) -> Self {
        Self(problem.to_owned())
    }
}

impl From<String> for Wrong {
    fn from(problem: String) -> Self {
        Self(problem)
    }
}

impl From<RowError> for Wrong {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Corrupt(detail) => Self(detail),
            RowError::Database(error) => Self(format!("it cannot be read: {error}")),
        }
    }
}

fn open_row<R: Row>(table: Table, key: &[u8], value: &[u8]) -> Result<R, Wrong> {
    codec::open(table.name(), key, value).map_err(Wrong)
}

struct Walk<'a> {
    database: &'a Database,
    inspector: &'a mut dyn Inspector,
    counted: FatTotals,
}

impl Walk<'_> {
    fn found(&mut self, table: Table, key: &[u8], problem: impl Into<String>) {
        let table = TABLE_NAMES.iter().find(|name| **name == table.name()).copied().unwrap_or("file");
        self.inspector.finding(Finding { table, key: key.to_vec(), problem: problem.into() });
    }

    /// Shows every row of `table` to `each`. Damage ends the table, not the walk.
    fn table(
        &mut self,
        table: Table,
        mut each: impl FnMut(&mut Self, &ReadTransaction, &[u8], &[u8]) -> Result<(), Wrong>,
    ) {
        // redb panics on some damage that it cannot tell from a bug of its own.
        let walked = catch_unwind(AssertUnwindSafe(|| -> RowResult<()> {
            let tx = self.database.begin_read()?;
            let rows = match tx.open_table(table) {
                // Files were without it once.
                Err(redb::TableError::TableDoesNotExist(_)) if table.name() == TWINS.name() => return Ok(()),
                rows => rows?,
            };
            for row in rows.iter()? {
                let (key, value) = row?;
                if let Err(Wrong(problem)) = each(self, &tx, key.value(), value.value()) {
                    self.found(table, key.value(), problem);
                }
            }
            Ok(())
        }));
        match walked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.found(table, &[], format!("the table ends early: {}", Wrong::from(error).0)),
            Err(_) => self.found(table, &[], "the table ends early: its pages contradict each other"),
        }
    }

    fn chunk(&mut self, tx: &ReadTransaction, key: &[u8], value: &[u8]) -> Result<(), Wrong> {
        let entry: ChunkEntry = open_row(CHUNKS, key, value)?;
        self.counted.chunks += 1;
        self.counted.bytes += u64::from(entry.length);
        for (index, name, row) in
            [(BY_FILE, "file", codec::by_file_key(&entry)), (BY_LEASE, "lease", codec::by_lease_key(&entry))]
        {
            let there = tx.open_table(index).map_err(RowError::from)?.get(row.as_slice()).map_err(RowError::from)?;
            if there.is_none() {
                self.found(CHUNKS, key, format!("the index by {name} does not have it"));
            }
        }
        let mut end = Some(0u32);
        for part in &entry.parts {
            end = end.filter(|end| *end == part.offset).and_then(|end| end.checked_add(part.length));
        }
        if end != Some(entry.length) {
            self.found(CHUNKS, key, "its parts do not add up to it");
        }
        let leases = tx.open_table(LEASES).map_err(RowError::from)?;
        if leases.get(&entry.lease.0[..]).map_err(RowError::from)?.is_none() {
            self.found(CHUNKS, key, format!("its lease {} is not there", entry.lease));
        }
        self.inspector.row(FatRow::Chunk(entry));
        Ok(())
    }

    fn lease(&mut self, tx: &ReadTransaction, key: &[u8], value: &[u8]) -> Result<(), Wrong> {
        let entry: LeaseEntry = open_row(LEASES, key, value)?;
        let lease = LeaseId::from_slice(key).ok_or("its key does not decode")?;
        let (index, chunks) =
            (tx.open_table(BY_LEASE).map_err(RowError::from)?, tx.open_table(CHUNKS).map_err(RowError::from)?);
        let mut used = 0u64;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = keys_in(&index, key, after.as_deref(), super::PAGE_ROWS_MAX)?;
            for row in &page {
                let chunk = codec::parse_by_lease(row).map(|key| codec::chunk_key(&key));
                if let Some(chunk) = chunk
                    && let Ok(Some(entry)) = get_in::<ChunkEntry>(&chunks, CHUNKS, &chunk)
                {
                    used += u64::from(entry.length);
                }
            }
            match page.last() {
                Some(last) if page.len() == super::PAGE_ROWS_MAX => after = Some(last.clone()),
                _ => break,
            }
        }
        if used != entry.used {
            self.found(LEASES, key, format!("it says {} bytes used, and its chunks have {used}", entry.used));
        }
        if entry.used > entry.bytes {
            self.found(LEASES, key, format!("it says {} bytes used of {}", entry.used, entry.bytes));
        }
        self.inspector.row(FatRow::Lease(lease, entry));
        Ok(())
    }

    fn last(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Wrong> {
        let entry: FinalEntry = open_row(table, key, value)?;
        let twin = table.name() == TWINS.name();
        let (file, _) = key.split_at_checked(OwnerId::LEN + FileId::LEN).ok_or("its key does not decode")?;
        let expected = if twin { codec::twin_key(file, &entry.record) } else { file.to_vec() };
        if expected != key {
            return Err("its key is that of another record".into());
        }
        let split = file.split_at_checked(OwnerId::LEN);
        let split = split.and_then(|(owner, file)| Some((OwnerId::from_slice(owner)?, FileId::from_slice(file)?)));
        let (owner, file) = split.ok_or("its key does not decode")?;
        self.inspector.row(if twin { FatRow::Twin(owner, file, entry) } else { FatRow::Final(owner, file, entry) });
        Ok(())
    }

    /// A row of an index names a chunk that is there and says the same.
    fn index(&mut self, tx: &ReadTransaction, index: Table, key: &[u8]) -> Result<(), Wrong> {
        let by_file = index.name() == BY_FILE.name();
        let chunk = if by_file { codec::parse_by_file(key).map(|(_, key)| key) } else { codec::parse_by_lease(key) };
        let chunk = chunk.ok_or("its key does not decode")?;
        let chunks = tx.open_table(CHUNKS).map_err(RowError::from)?;
        // A chunk whose row is damaged was told of when the chunks were read.
        let Ok(entry) = get_in::<ChunkEntry>(&chunks, CHUNKS, &codec::chunk_key(&chunk)) else { return Ok(()) };
        let entry = entry.ok_or("it names a chunk that is not there")?;
        let expected = if by_file { codec::by_file_key(&entry) } else { codec::by_lease_key(&entry) };
        if expected == key { Ok(()) } else { Err("the chunk that it names says otherwise".into()) }
    }

    fn totals(&mut self) {
        let totals = || -> RowResult<Option<FatTotals>> {
            get_in(&self.database.begin_read()?.open_table(META)?, META, TOTALS_KEY)
        };
        match totals() {
            Ok(totals) => {
                let (said, counted) = (totals.unwrap_or_default(), self.counted);
                if said != counted {
                    let problem = format!(
                        "it says {} chunks with {} bytes, and there are {} with {}",
                        said.chunks, said.bytes, counted.chunks, counted.bytes
                    );
                    self.found(META, TOTALS_KEY, problem);
                }
            }
            Err(error) => self.found(META, TOTALS_KEY, Wrong::from(error).0),
        }
    }
}

const TABLE_NAMES: [&str; 11] =
    ["twins", "meta", "chunks", "by_file", "by_lease", "leases", "finals", "moves", "kv", "pending_erase", "devices"];
