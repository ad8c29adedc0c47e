//! The catalogue on this machine's disk: the user's records as mirrors gave them, manifests still sealed.
//!
//! ```text
//! meta:    "version" -> u32 le, "owner" -> owner[32]
//! records: Key::to_bytes() -> CBOR of SyncRecord
//! cursors: mirror[32] -> log[32], position u64 le, when it was read (Unix ms) u64 le
//! ```
//! A record was verified when it was taken in. Nothing here is the only copy: a file that is damaged, of another format or of
//! another user is begun anew, and the mirrors are read from the start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use fathom_protocol::catalogue::Records;
use fathom_protocol::codec;
use fathom_protocol::fat::FinalFat;
use fathom_protocol::ids::{FileId, Hash, NodeId, OwnerId};
use fathom_protocol::keys::UserKeys;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::sign::Carried;
use fathom_protocol::table::{Key, Verified, verify};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{LogCursor, SyncRecord};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Asked, Listed, StoredFile, listed, open_manifest};
use crate::roles::user::UserError;

/// Version of the layout above. A file with another one is begun anew.
const FORMAT: u32 = 2;
/// Memory that the database may use for pages, bytes.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Records that are opened at a time for a listing.
const BATCH: usize = 4_096;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const CURSORS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("cursors");

/// Where the other side's log was read to, and when.
pub(super) struct Read {
    pub(super) mirror: NodeId,
    pub(super) cursor: LogCursor,
    pub(super) at: UnixMs,
}

/// The catalogue on disk.
pub(in crate::roles::user) struct Local {
    database: Database,
    owner: OwnerId,
    /// Records are taken in one page after the other.
    taking: Mutex<()>,
}

fn failed(error: impl std::fmt::Display) -> UserError {
    UserError::Catalogue(error.to_string())
}

fn file_range(tag: u8, owner: OwnerId, file: FileId) -> (Vec<u8>, Vec<u8>) {
    let prefix = [&[tag][..], &owner.0, &file.0].concat();
    let end = [&prefix[..], &[0xff; Hash::LEN + 17]].concat();
    (prefix, end)
}

impl Local {
    /// Opens the catalogue of `owner` in `file`, or begins it. Blocks.
    ///
    /// # Errors
    /// [`UserError::Catalogue`] if the file can neither be read nor begun anew.
    pub(in crate::roles::user) fn open(file: &Path, owner: OwnerId) -> Result<Self, UserError> {
        let open = || Database::builder().set_cache_size(CACHE_BYTES).create(file).map_err(failed);
        let begun = open().and_then(|database| Ok(prepare(&database, owner)?.then_some(database)));
        let database = match begun {
            Ok(Some(database)) => database,
            other => {
                if let Err(error) = other {
                    tracing::warn!(%error, "the catalogue is begun anew and read from the mirrors");
                }
                if let Err(error) = std::fs::remove_file(file)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    return Err(failed(error));
                }
                let database = open()?;
                prepare(&database, owner)?;
                database
            }
        };
        Ok(Self { database, owner, taking: Mutex::new(()) })
    }

    /// How far each mirror was read, and when. Blocks.
    pub(super) fn cursor(&self, mirror: NodeId) -> Result<Option<LogCursor>, UserError> {
        let table = self.database.begin_read().map_err(failed)?.open_table(CURSORS).map_err(failed)?;
        Ok(table.get(&mirror.0[..]).map_err(failed)?.and_then(|value| parse_cursor(value.value())).map(|(at, _)| at))
    }

    /// When a mirror was last read to its end; none if that never happened. Blocks.
    pub(super) fn read_at(&self) -> Result<Option<UnixMs>, UserError> {
        let table = self.database.begin_read().map_err(failed)?.open_table(CURSORS).map_err(failed)?;
        let mut newest = None;
        for entry in table.iter().map_err(failed)? {
            let (_, value) = entry.map_err(failed)?;
            newest = newest.max(parse_cursor(value.value()).map(|(_, at)| at));
        }
        Ok(newest)
    }

    /// Takes verified records of this owner in, and notes how far their mirror was read, in one transaction. Blocks.
    pub(super) fn take(&self, records: Vec<Verified>, read: Option<&Read>) -> Result<(), UserError> {
        let _turn = self.taking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut files: BTreeMap<FileId, Vec<Verified>> = BTreeMap::new();
        for record in records {
            if let Some((_, file)) = record.key().file() {
                files.entry(file).or_default().push(record);
            }
        }
        let transaction = self.database.begin_write().map_err(failed)?;
        {
            let mut rows = transaction.open_table(RECORDS).map_err(failed)?;
            for (file, news) in files {
                let before = self.rows_of(&rows, file)?;
                let mut merged = Records::default();
                for bytes in before.values() {
                    merged.take(verify(decode(bytes)?).map_err(failed)?);
                }
                news.into_iter().for_each(|record| merged.take(record));
                let after =
                    merged.kept().iter().map(|(key, record)| (key.to_bytes(), codec::encode(&record.to_record())));
                let after: BTreeMap<Vec<u8>, Vec<u8>> = after.collect();
                for key in before.keys().filter(|key| !after.contains_key(*key)) {
                    rows.remove(key.as_slice()).map_err(failed)?;
                }
                for (key, record) in after.iter().filter(|(key, record)| before.get(*key) != Some(*record)) {
                    rows.insert(key.as_slice(), record.as_slice()).map_err(failed)?;
                }
            }
            if let Some(read) = read {
                let value = [&read.cursor.log.0[..], &read.cursor.position.to_le_bytes(), &read.at.0.to_le_bytes()];
                let mut cursors = transaction.open_table(CURSORS).map_err(failed)?;
                cursors.insert(&read.mirror.0[..], value.concat().as_slice()).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    fn rows_of(
        &self,
        rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
        file: FileId,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, UserError> {
        let mut found = BTreeMap::new();
        for tag in [2, 3, 6] {
            let (from, to) = file_range(tag, self.owner, file);
            for row in rows.range(from.as_slice()..=to.as_slice()).map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                found.insert(key.value().to_vec(), value.value().to_vec());
            }
        }
        Ok(found)
    }

    /// The files asked for that are known, opened. Blocks.
    ///
    /// # Errors
    /// [`UserError::Integrity`] if a manifest does not open, [`UserError::Catalogue`] if a record does not verify.
    pub(in crate::roles::user) fn load(
        &self,
        keys: &UserKeys,
        files: &[FileId],
    ) -> Result<BTreeMap<FileId, StoredFile>, UserError> {
        let rows = self.database.begin_read().map_err(failed)?.open_table(RECORDS).map_err(failed)?;
        let mut records = Records::default();
        for file in files {
            for bytes in self.rows_of(&rows, *file)?.values() {
                records.take(verify(decode(bytes)?).map_err(failed)?);
            }
        }
        Ok(records.into_files(keys)?)
    }

    /// One line for each file that holds data, by name. Manifests are opened on all cores, a few at a time. Blocks.
    ///
    /// # Errors
    /// [`UserError::Integrity`] if a manifest does not open, [`UserError::Catalogue`].
    pub(in crate::roles::user) fn list(&self, keys: &UserKeys) -> Result<Vec<Listed>, UserError> {
        let rows = self.database.begin_read().map_err(failed)?.open_table(RECORDS).map_err(failed)?;
        let own = |tag: u8| file_range(tag, self.owner, FileId([0; FileId::LEN])).0;
        let end = |tag: u8| file_range(tag, self.owner, FileId([0xff; FileId::LEN])).1;
        let mut forked = BTreeSet::new();
        for row in rows.range(own(6).as_slice()..=end(6).as_slice()).map_err(failed)? {
            let (key, _) = row.map_err(failed)?;
            forked.extend(Key::of_file(key.value()).and_then(|key| key.file()).map(|(_, file)| file));
        }
        let mut lines = Vec::new();
        let mut batch: Vec<Vec<u8>> = Vec::with_capacity(BATCH);
        for row in rows.range(own(2).as_slice()..=end(2).as_slice()).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let file = Key::of_file(key.value()).and_then(|key| key.file()).map(|(_, file)| file);
            if file.is_some_and(|file| forked.contains(&file)) {
                continue;
            }
            batch.push(value.value().to_vec());
            if batch.len() == BATCH {
                lines.extend(open_all(keys, &batch)?);
                batch.clear();
            }
        }
        lines.extend(open_all(keys, &batch)?);
        let forked: Vec<FileId> = forked.into_iter().collect();
        lines.extend(self.load(keys, &forked)?.values().filter_map(StoredFile::listed));
        lines.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(lines)
    }

    /// Forgets everything, so that mirrors are read from the start. Blocks.
    pub(super) fn clear(&self) -> Result<(), UserError> {
        let _turn = self.taking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let transaction = self.database.begin_write().map_err(failed)?;
        transaction.open_table(RECORDS).map_err(failed)?.retain(|_, _| false).map_err(failed)?;
        transaction.open_table(CURSORS).map_err(failed)?.retain(|_, _| false).map_err(failed)?;
        transaction.commit().map_err(failed)
    }
}

/// Makes the tables of a new file. Returns whether the file is of this format and owner.
fn prepare(database: &Database, owner: OwnerId) -> Result<bool, UserError> {
    let transaction = database.begin_write().map_err(failed)?;
    let fits = {
        let mut meta = transaction.open_table(META).map_err(failed)?;
        let version = meta.get("version").map_err(failed)?.map(|value| value.value().to_vec());
        let found = meta.get("owner").map_err(failed)?.map(|value| value.value().to_vec());
        match (version, found) {
            (None, None) => {
                meta.insert("version", &FORMAT.to_le_bytes()[..]).map_err(failed)?;
                meta.insert("owner", &owner.0[..]).map_err(failed)?;
                true
            }
            (version, found) => {
                version.as_deref() == Some(&FORMAT.to_le_bytes()[..]) && found.as_deref() == Some(&owner.0[..])
            }
        }
    };
    if fits {
        transaction.open_table(RECORDS).map_err(failed)?;
        transaction.open_table(CURSORS).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(fits)
}

fn parse_cursor(bytes: &[u8]) -> Option<(LogCursor, UnixMs)> {
    let (log, rest) = bytes.split_at_checked(Hash::LEN)?;
    let (position, at) = rest.split_at_checked(8)?;
    let position = u64::from_le_bytes(position.try_into().ok()?);
    Some((LogCursor { log: Hash::from_slice(log)?, position }, UnixMs(u64::from_le_bytes(at.try_into().ok()?))))
}

fn decode(bytes: &[u8]) -> Result<SyncRecord, UserError> {
    codec::decode(bytes, FRAME_BYTES_MAX).map_err(failed)
}

/// The lines of final FATs; released files have none. A sealed manifest that opens was sealed by this user, so signatures, which
/// were verified when the records came, are not verified again.
fn open_all(keys: &UserKeys, batch: &[Vec<u8>]) -> Result<Vec<Listed>, UserError> {
    let line = |bytes: &Vec<u8>| -> Result<Option<Listed>, UserError> {
        let SyncRecord::Fat(fat) = decode(bytes)? else { return Err(failed("a record is under a wrong key")) };
        let fat: FinalFat = Carried::peek(&fat)?;
        if fat.is_release() {
            return Ok(None);
        }
        let manifest = open_manifest(keys, &fat)?;
        Ok(Some(listed(fat.file, &manifest, fat.tag().counter(), 1)))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let parts = batch.chunks(batch.len().div_ceil(threads).max(1));
        let workers: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().filter_map(|bytes| line(bytes).transpose()).collect()))
            .collect();
        let mut lines = Vec::with_capacity(batch.len());
        for worker in workers {
            let part: Result<Vec<Listed>, UserError> =
                worker.join().unwrap_or_else(|_| Err(failed("a worker ended early")));
            lines.extend(part?);
        }
        Ok(lines)
    })
}
