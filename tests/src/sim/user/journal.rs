//! What an interrupted put goes on from, as the user's node notes it: the same tables, keys and values, written at the same
//! points, on a disk that loses and tears what was not synced.
//!
//! `begin` and `end` are durable when they return. Receipts are durable a little later, many at once: those of the last moment
//! before a crash are lost.

use fathom_protocol::codec;
use fathom_protocol::fat::{Place, SALT_LEN};
use fathom_protocol::ids::{ChunkId, FileId};
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::Location;
use fathom_store::storage::{Opening, begin_write, open_database};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sim::disk::Disk;

const PUTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("puts");
const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files");
const CHUNKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("chunks");

/// One put: the storage that was locked for it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PutRecord {
    pub(super) locations: Vec<Location>,
}

/// A file of a put as it was when the put began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub(super) put: String,
    /// The source's identity: another source starts over.
    pub(super) source: (u64, i128, u64),
    pub(super) chunk_plain: u32,
    pub(super) file_key: [u8; 32],
    pub(super) seq: u64,
}

/// A chunk with the receipts that came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ChunkRecord {
    pub(super) id: ChunkId,
    pub(super) salt: [u8; SALT_LEN],
    pub(super) copies: Vec<CopyRecord>,
}

/// One copy with a receipt.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct CopyRecord {
    pub(super) column: u8,
    pub(super) place: Place,
    pub(super) acked: UnixMs,
}

/// Why something was not noted: the power failed.
pub(super) type Failed = redb::Error;

/// The journal.
#[derive(Debug)]
pub(super) struct Journal {
    db: Database,
    queued: Vec<(FileId, u64, ChunkRecord)>,
}

fn chunk_key(file: FileId, index: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&file.0);
    key[16..].copy_from_slice(&index.to_be_bytes());
    key
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> T {
    codec::decode(bytes, FRAME_BYTES_MAX).expect("what the journal wrote decodes")
}

impl Journal {
    /// Opens or creates the journal on a disk.
    pub(super) fn open(disk: &Disk) -> Result<Self, Failed> {
        let db = open_database(disk, Opening { cache_bytes: 1 << 18, check: false, overlay: false })?;
        let begin = begin_write(&db)?;
        begin.open_table(PUTS)?;
        begin.open_table(FILES)?;
        begin.open_table(CHUNKS)?;
        begin.commit()?;
        Ok(Self { db, queued: Vec::new() })
    }

    /// Puts that were begun and have not ended.
    pub(super) fn pending(&self) -> Result<Vec<String>, Failed> {
        let table = self.db.begin_read()?.open_table(PUTS)?;
        table.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect()
    }

    pub(super) fn put(&self, name: &str) -> Result<Option<PutRecord>, Failed> {
        let table = self.db.begin_read()?.open_table(PUTS)?;
        Ok(table.get(name)?.map(|value| read(value.value())))
    }

    pub(super) fn file(&self, file: FileId) -> Result<Option<FileRecord>, Failed> {
        let table = self.db.begin_read()?.open_table(FILES)?;
        Ok(table.get(&file.0[..])?.map(|value| read(value.value())))
    }

    pub(super) fn chunks(&self, file: FileId) -> Result<Vec<(u64, ChunkRecord)>, Failed> {
        let table = self.db.begin_read()?.open_table(CHUNKS)?;
        let mut chunks = Vec::new();
        for entry in table.range(&chunk_key(file, 0)[..]..=&chunk_key(file, u64::MAX)[..])? {
            let (key, value) = entry?;
            let index = key.value().last_chunk::<8>().map_or(0, |index| u64::from_be_bytes(*index));
            chunks.push((index, read(value.value())));
        }
        Ok(chunks)
    }

    /// Begins a put, or notes new locations of one. A file that is `fresh` loses what an earlier put noted.
    pub(super) fn begin(
        &self,
        name: &str,
        record: &PutRecord,
        fresh: Option<(FileId, &FileRecord)>,
    ) -> Result<(), Failed> {
        let begin = begin_write(&self.db)?;
        {
            begin.open_table(PUTS)?.insert(name, &*codec::encode(record))?;
            let mut files = begin.open_table(FILES)?;
            let mut chunks = begin.open_table(CHUNKS)?;
            if let Some((file, record)) = fresh {
                files.insert(&file.0[..], &*codec::encode(record))?;
                chunks.retain_in(&chunk_key(file, 0)[..]..=&chunk_key(file, u64::MAX)[..], |_, _| false)?;
            }
        }
        Ok(begin.commit()?)
    }

    /// Notes a chunk and its receipts, to be written soon. Returns whether nothing waited to be written before.
    pub(super) fn chunk(&mut self, file: FileId, index: u64, record: ChunkRecord) -> bool {
        self.queued.push((file, index, record));
        self.queued.len() == 1
    }

    /// Writes what was noted.
    pub(super) fn flush(&mut self) -> Result<(), Failed> {
        if self.queued.is_empty() {
            return Ok(());
        }
        let begin = begin_write(&self.db)?;
        {
            let mut chunks = begin.open_table(CHUNKS)?;
            for (file, index, record) in self.queued.drain(..) {
                chunks.insert(&chunk_key(file, index)[..], &*codec::encode(&record))?;
            }
        }
        Ok(begin.commit()?)
    }

    /// Forgets a put that is stored.
    pub(super) fn end(&mut self, name: &str, file: FileId) -> Result<(), Failed> {
        self.flush()?;
        let begin = begin_write(&self.db)?;
        {
            begin.open_table(PUTS)?.remove(name)?;
            begin.open_table(FILES)?.remove(&file.0[..])?;
            let mut chunks = begin.open_table(CHUNKS)?;
            chunks.retain_in(&chunk_key(file, 0)[..]..=&chunk_key(file, u64::MAX)[..], |_, _| false)?;
        }
        Ok(begin.commit()?)
    }
}
