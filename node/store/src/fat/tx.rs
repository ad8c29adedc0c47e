//! One transaction on the local FAT.

use std::path::Path;

use fathom_protocol::fat::{Fate, Tag};
use fathom_protocol::ids::{DeviceId, FileId, LeaseId, OwnerId};
use fathom_protocol::limits::VERSIONS_MAX;
use fathom_protocol::time::UnixMs;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::codec::{self, Opaque, Row};
use super::{
    ChunkEntry, ChunkKey, ChunkState, CommitFile, CommitOutcome, ErasedChunk, FatError, FatTotals, FinalEntry,
    Inserted, LeaseEntry,
};
use crate::set::StoredPart;

pub(crate) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(crate) const META: Table = TableDefinition::new("meta");
pub(crate) const CHUNKS: Table = TableDefinition::new("chunks");
pub(crate) const BY_FILE: Table = TableDefinition::new("by_file");
pub(crate) const BY_LEASE: Table = TableDefinition::new("by_lease");
pub(crate) const LEASES: Table = TableDefinition::new("leases");
pub(crate) const FINALS: Table = TableDefinition::new("finals");
pub(crate) const TWINS: Table = TableDefinition::new("twins");
pub(crate) const MOVES: Table = TableDefinition::new("moves");
pub(crate) const KV: Table = TableDefinition::new("kv");
pub(crate) const PENDING_ERASE: Table = TableDefinition::new("pending_erase");
pub(crate) const DEVICES: Table = TableDefinition::new("devices");
/// Every table, to be made when the file is.
pub(crate) const TABLES: [Table; 11] =
    [META, CHUNKS, BY_FILE, BY_LEASE, LEASES, FINALS, TWINS, MOVES, KV, PENDING_ERASE, DEVICES];
/// Key in `meta` of the format number.
pub(crate) const FORMAT_KEY: &[u8] = b"format";
pub(crate) const TOTALS_KEY: &[u8] = b"totals";

/// What can go wrong below: the database's own errors, or bytes that do not decode.
#[derive(Debug)]
pub(crate) enum RowError {
    Database(redb::Error),
    Corrupt(String),
}

impl<E: Into<redb::Error>> From<E> for RowError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

pub(crate) type RowResult<T> = Result<T, RowError>;

fn name(table: Table) -> String {
    use redb::TableHandle;
    table.name().to_owned()
}

fn decode<R: Row>(table: Table, key: &[u8], bytes: &[u8]) -> RowResult<R> {
    codec::open(&name(table), key, bytes).map_err(RowError::Corrupt)
}

pub(crate) fn get_in<R: Row>(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    table: Table,
    key: &[u8],
) -> RowResult<Option<R>> {
    match rows.get(key)? {
        Some(value) => decode(table, key, value.value()).map(Some),
        None => Ok(None),
    }
}

/// Keys that begin with `prefix` and come after `after`, at most `limit`.
pub(crate) fn keys_in(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> RowResult<Vec<Vec<u8>>> {
    use std::ops::Bound;
    let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
    let mut keys = Vec::new();
    for row in rows.range::<&[u8]>((from, Bound::Unbounded))? {
        let (key, _) = row?;
        if !key.value().starts_with(prefix) || keys.len() >= limit {
            break;
        }
        keys.push(key.value().to_vec());
    }
    Ok(keys)
}

pub(crate) fn broken_index(table: Table) -> RowError {
    RowError::Corrupt(format!("a key of `{}` does not decode", name(table)))
}

/// Where a final FAT stands among those that are known of its file.
enum Place {
    /// The only one.
    Alone,
    /// With these, which do not follow it, nor it them.
    Beside(Vec<FinalEntry>),
    /// One follows it.
    Behind { seq: u64 },
    /// There are as many as are kept.
    Full,
}

/// One durable transaction. What it does is seen by its own reads at once, and by everybody once it is committed.
pub struct FatTx<'a> {
    tx: &'a WriteTransaction,
    failure: &'a dyn Fn(RowError) -> FatError,
}

impl<'a> FatTx<'a> {
    pub(crate) fn new(tx: &'a WriteTransaction, failure: &'a dyn Fn(RowError) -> FatError) -> Self {
        Self { tx, failure }
    }

    fn run<T>(&self, work: impl FnOnce() -> RowResult<T>) -> Result<T, FatError> {
        work().map_err(self.failure)
    }

    fn get<R: Row>(&self, table: Table, key: &[u8]) -> Result<Option<R>, FatError> {
        self.run(|| get_in(&self.tx.open_table(table)?, table, key))
    }

    fn put<R: Row>(&self, table: Table, key: &[u8], row: &R) -> Result<(), FatError> {
        self.run(|| {
            let value = codec::seal(&name(table), key, row).map_err(RowError::Corrupt)?;
            self.tx.open_table(table)?.insert(key, value.as_slice())?;
            Ok(())
        })
    }

    fn mark(&self, table: Table, key: &[u8]) -> Result<(), FatError> {
        self.run(|| {
            self.tx.open_table(table)?.insert(key, [].as_slice())?;
            Ok(())
        })
    }

    fn delete(&self, table: Table, key: &[u8]) -> Result<bool, FatError> {
        self.run(|| Ok(self.tx.open_table(table)?.remove(key)?.is_some()))
    }

    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, FatError> {
        self.run(|| keys_in(&self.tx.open_table(table)?, prefix, None, usize::MAX))
    }

    fn corrupt(&self, table: Table) -> FatError {
        (self.failure)(broken_index(table))
    }

    /// The entry of a chunk.
    ///
    /// # Errors
    /// `Corrupt`, `Database`; so for every method here, besides what each names.
    pub fn chunk(&self, key: &ChunkKey) -> Result<Option<ChunkEntry>, FatError> {
        self.get(CHUNKS, &codec::chunk_key(key))
    }

    /// Stores `entry` and counts it under its lease, unless the owner has that chunk here already.
    ///
    /// # Errors
    /// `NoLease`, `OverLease`.
    pub fn insert_chunk(&mut self, entry: &ChunkEntry) -> Result<Inserted, FatError> {
        if let Some(there) = self.chunk(&entry.key())? {
            return Ok(Inserted::AlreadyThere(Box::new(there)));
        }
        let mut lease = self.lease(entry.lease)?.ok_or(FatError::NoLease { lease: entry.lease })?;
        let free = lease.bytes.saturating_sub(lease.used);
        if u64::from(entry.length) > free {
            return Err(FatError::OverLease { lease: entry.lease, length: entry.length, free });
        }
        lease.used += u64::from(entry.length);
        self.put(LEASES, &entry.lease.0, &lease)?;
        self.put_entry(entry)?;
        self.mark(BY_FILE, &codec::by_file_key(entry))?;
        self.mark(BY_LEASE, &codec::by_lease_key(entry))?;
        let totals = self.totals()?;
        self.put_totals(FatTotals { chunks: totals.chunks + 1, bytes: totals.bytes + u64::from(entry.length) })?;
        Ok(Inserted::New)
    }

    fn put_entry(&self, entry: &ChunkEntry) -> Result<(), FatError> {
        self.put(CHUNKS, &codec::chunk_key(&entry.key()), entry)
    }

    fn change(&self, key: &ChunkKey, change: impl FnOnce(&mut ChunkEntry)) -> Result<ChunkEntry, FatError> {
        let mut entry = self.chunk(key)?.ok_or(FatError::NoChunk { key: *key })?;
        change(&mut entry);
        self.put_entry(&entry)?;
        Ok(entry)
    }

    /// Sets where a chunk is in its life.
    ///
    /// # Errors
    /// `NoChunk`.
    pub fn set_state(&mut self, key: &ChunkKey, state: ChunkState) -> Result<(), FatError> {
        self.change(key, |entry| entry.state = state).map(|_| ())
    }

    /// Notes that a chunk was stored, or shown again, at this time.
    ///
    /// # Errors
    /// `NoChunk`.
    pub fn set_stored_at(&mut self, key: &ChunkKey, at: UnixMs) -> Result<(), FatError> {
        self.change(key, |entry| entry.stored_at = at).map(|_| ())
    }

    /// Replaces a chunk's receipt.
    ///
    /// # Errors
    /// `NoChunk`.
    pub fn set_receipt(&mut self, key: &ChunkKey, receipt: &[u8]) -> Result<(), FatError> {
        self.change(key, |entry| entry.receipt = receipt.to_vec()).map(|_| ())
    }

    /// Notes that a chunk's parts are elsewhere now; the ones that it had and has no more await erasure.
    ///
    /// # Errors
    /// `NoChunk`.
    pub fn replace_parts(&mut self, key: &ChunkKey, parts: &[StoredPart]) -> Result<(), FatError> {
        let mut old = Vec::new();
        self.change(key, |entry| old = std::mem::replace(&mut entry.parts, parts.to_vec()))?;
        old.retain(|part| !parts.contains(part));
        old.iter().try_for_each(|part| self.mark(PENDING_ERASE, &codec::erase_key(part.device, part.part)))
    }

    /// Forgets a chunk: its lease has the room again, and its parts await erasure.
    ///
    /// # Errors
    /// None of its own.
    pub fn erase_chunk(&mut self, key: &ChunkKey) -> Result<Option<ErasedChunk>, FatError> {
        let Some(entry) = self.chunk(key)? else {
            return Ok(None);
        };
        self.delete(CHUNKS, &codec::chunk_key(key))?;
        self.delete(BY_FILE, &codec::by_file_key(&entry))?;
        self.delete(BY_LEASE, &codec::by_lease_key(&entry))?;
        for part in &entry.parts {
            self.mark(PENDING_ERASE, &codec::erase_key(part.device, part.part))?;
        }
        if let Some(mut lease) = self.lease(entry.lease)? {
            lease.used = lease.used.saturating_sub(u64::from(entry.length));
            self.put(LEASES, &entry.lease.0, &lease)?;
        }
        let totals = self.totals()?;
        self.put_totals(FatTotals {
            chunks: totals.chunks.saturating_sub(1),
            bytes: totals.bytes.saturating_sub(u64::from(entry.length)),
        })?;
        Ok(Some(ErasedChunk { key: *key, lease: entry.lease, length: entry.length }))
    }

    /// Applies a final FAT record: see [`CommitFile`] and [`CommitOutcome`].
    ///
    /// # Errors
    /// None of its own.
    pub fn commit_and_erase(&mut self, commit: &CommitFile) -> Result<CommitOutcome, FatError> {
        let key = codec::file_key(commit.owner, commit.file);
        let (place, news) = self.keep_final(&key, &commit.fat)?;
        let others = match place {
            Place::Behind { seq } => return Ok(CommitOutcome::Stale { seq }),
            Place::Full => return Ok(CommitOutcome::Full),
            Place::Beside(others) => others,
            Place::Alone => Vec::new(),
        };
        let lineage = commit.fat.lineage();
        let mut committed = 0;
        let mut erased = Vec::new();
        for index in self.keys(BY_FILE, &key)? {
            let (tag, chunk) = codec::parse_by_file(&index).ok_or_else(|| self.corrupt(BY_FILE))?;
            let fate = lineage.fate(Tag(tag));
            // What any of several versions may still want stays until one of them is chosen.
            let elsewhere = others.iter().map(|other| other.lineage().fate(Tag(tag))).collect::<Vec<_>>();
            let unwanted = elsewhere.iter().all(|fate| matches!(fate, Fate::Past | Fate::Lost));
            let lost = fate == Fate::Lost || elsewhere.contains(&Fate::Lost);
            if fate == Fate::Past && unwanted && !lost {
                erased.extend(self.erase_chunk(&chunk)?);
            } else if let Some(mut entry) = self.chunk(&chunk)? {
                match (fate, &entry.state) {
                    (Fate::Live, ChunkState::Stored) => {
                        entry.state = ChunkState::Committed;
                        committed += 1;
                    }
                    (Fate::Lost | Fate::Past, ChunkState::Committed) if unwanted => {
                        entry.state = ChunkState::Stored;
                        entry.stored_at = commit.now;
                    }
                    // A version that was stored, as is seen only now: another device may be choosing it.
                    (Fate::Lost, ChunkState::Stored) if unwanted && news => entry.stored_at = commit.now,
                    _ => continue,
                }
                self.put_entry(&entry)?;
            }
        }
        if others.is_empty() {
            Ok(CommitOutcome::Applied { committed, erased })
        } else {
            Ok(CommitOutcome::Forked { committed, erased })
        }
    }

    /// Keeps a final FAT in place of those that it follows; where it is now, and whether it was not known.
    fn keep_final(&self, file: &[u8], new: &FinalEntry) -> Result<(Place, bool), FatError> {
        let mut known: Vec<(Table, Vec<u8>, FinalEntry)> = Vec::new();
        for twin in self.keys(TWINS, file)? {
            known.extend(self.get(TWINS, &twin)?.map(|entry| (TWINS, twin, entry)));
        }
        known.extend(self.get(FINALS, file)?.map(|entry| (FINALS, file.to_vec(), entry)));
        if let Some((_, _, newer)) = known.iter().find(|(_, _, entry)| entry.follows.has(Tag(new.seq))) {
            return Ok((Place::Behind { seq: newer.seq }, false));
        }
        let goes = |entry: &FinalEntry| new.follows.has(Tag(entry.seq)) || entry.record == new.record;
        let (gone, stay): (Vec<_>, Vec<_>) = known.into_iter().partition(|(_, _, entry)| goes(entry));
        if stay.len() >= VERSIONS_MAX {
            return Ok((Place::Full, false));
        }
        let news = gone.iter().all(|(_, _, entry)| entry.record != new.record);
        gone.iter().try_for_each(|(table, key, _)| self.delete(*table, key).map(drop))?;
        if stay.iter().any(|(_, key, _)| key == file) {
            self.put(TWINS, &codec::twin_key(file, &new.record), new)?;
        } else {
            self.put(FINALS, file, new)?;
        }
        let place = match stay.is_empty() {
            true => Place::Alone,
            false => Place::Beside(stay.into_iter().map(|(_, _, entry)| entry).collect()),
        };
        Ok((place, news))
    }

    /// Puts a final FAT back as a damaged local FAT had it; with `twin` as one that was written at once with another. Nothing is
    /// committed or erased by it.
    ///
    /// # Errors
    /// None of its own.
    pub fn restore_final(
        &mut self,
        owner: OwnerId,
        file: FileId,
        entry: &FinalEntry,
        twin: bool,
    ) -> Result<(), FatError> {
        let key = codec::file_key(owner, file);
        if twin { self.put(TWINS, &codec::twin_key(&key, &entry.record), entry) } else { self.put(FINALS, &key, entry) }
    }

    /// A lease.
    ///
    /// # Errors
    /// None of its own.
    pub fn lease(&self, lease: LeaseId) -> Result<Option<LeaseEntry>, FatError> {
        self.get(LEASES, &lease.0)
    }

    /// Stores a signed lease of `bytes` bytes, new or in a new version; what is used under it stays.
    ///
    /// # Errors
    /// None of its own.
    pub fn put_lease(&mut self, lease: LeaseId, signed: &[u8], bytes: u64) -> Result<(), FatError> {
        let used = self.lease(lease)?.map_or(0, |known| known.used);
        self.put(LEASES, &lease.0, &LeaseEntry { signed: signed.to_vec(), bytes, used })
    }

    /// Replaces the signed bytes of a lease, whose extent stays.
    ///
    /// # Errors
    /// `NoLease`.
    pub fn sign_lease(&mut self, lease: LeaseId, signed: &[u8]) -> Result<(), FatError> {
        let mut known = self.lease(lease)?.ok_or(FatError::NoLease { lease })?;
        known.signed = signed.to_vec();
        self.put(LEASES, &lease.0, &known)
    }

    /// Forgets a lease without chunks; false if it is not there.
    ///
    /// # Errors
    /// `LeaseInUse`.
    pub fn remove_lease(&mut self, lease: LeaseId) -> Result<bool, FatError> {
        match self.lease(lease)? {
            Some(known) if known.used > 0 => Err(FatError::LeaseInUse { lease, used: known.used }),
            Some(_) => self.delete(LEASES, &lease.0),
            None => Ok(false),
        }
    }

    /// The chunks under a lease.
    ///
    /// # Errors
    /// None of its own.
    pub fn keys_of_lease(&self, lease: LeaseId) -> Result<Vec<ChunkKey>, FatError> {
        self.keys(BY_LEASE, &lease.0)?
            .iter()
            .map(|key| codec::parse_by_lease(key).ok_or_else(|| self.corrupt(BY_LEASE)))
            .collect()
    }

    /// A value by name.
    ///
    /// # Errors
    /// None of its own.
    pub fn kv(&self, key: &str) -> Result<Option<Vec<u8>>, FatError> {
        Ok(self.get::<Opaque>(KV, key.as_bytes())?.map(|row| row.0))
    }

    /// Stores a value by name.
    ///
    /// # Errors
    /// None of its own.
    pub fn put_kv(&mut self, key: &str, value: &[u8]) -> Result<(), FatError> {
        self.put(KV, key.as_bytes(), &Opaque(value.to_vec()))
    }

    /// Forgets a value; false if it is not there.
    ///
    /// # Errors
    /// None of its own.
    pub fn remove_kv(&mut self, key: &str) -> Result<bool, FatError> {
        self.delete(KV, key.as_bytes())
    }

    /// Stores the signed move of a chunk, to or from this vendor.
    ///
    /// # Errors
    /// None of its own.
    pub fn put_move(&mut self, key: &ChunkKey, record: &[u8]) -> Result<(), FatError> {
        self.put(MOVES, &codec::chunk_key(key), &Opaque(record.to_vec()))
    }

    /// Forgets a move; false if it is not there.
    ///
    /// # Errors
    /// None of its own.
    pub fn remove_move(&mut self, key: &ChunkKey) -> Result<bool, FatError> {
        self.delete(MOVES, &codec::chunk_key(key))
    }

    /// Notes that the directory at `path` is `device`.
    ///
    /// # Errors
    /// None of its own.
    pub fn put_device(&mut self, path: &Path, device: DeviceId) -> Result<(), FatError> {
        self.put(DEVICES, path.as_os_str().as_encoded_bytes(), &Opaque(device.0.to_vec()))
    }

    /// Forgets that parts await erasure.
    pub(crate) fn erased(&mut self, parts: &[Vec<u8>]) -> Result<(), FatError> {
        parts.iter().try_for_each(|key| self.delete(PENDING_ERASE, key).map(|_| ()))
    }

    fn totals(&self) -> Result<FatTotals, FatError> {
        Ok(self.get(META, TOTALS_KEY)?.unwrap_or_default())
    }

    fn put_totals(&self, totals: FatTotals) -> Result<(), FatError> {
        self.put(META, TOTALS_KEY, &totals)
    }
}

/// The database refuses everything since an operation failed.
pub(crate) fn is_previous_io(error: &RowError) -> bool {
    matches!(error, RowError::Database(redb::Error::PreviousIo))
}
