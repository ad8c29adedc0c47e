//! What an interrupted put goes on from: one redb file per user.
//!
//! | table | key | value (CBOR, but for `meta`) |
//! |---|---|---|
//! | `meta` | `version` | [`FORMAT`], u32 little-endian; a file without it has format 1 |
//! | `puts` | name given to the put | [`PutRecord`]: the locked storage |
//! | `files` | file identifier [16] | [`FileRecord`]: the source as it was, key and tag |
//! | `chunks` | file identifier [16], index u64 be | [`ChunkRecord`]: identity, salt and the copies with receipts; parity shards come after the chunks |
//!
//! One thread writes, whatever came meanwhile in one transaction: at once what is waited for (the begin of a put of several chunks, and
//! everything of a put before its final FATs are handed in) and their receipts. The rest waits for that, a moment at most. Losing the last receipts, or the begin of a small put, in a crash costs sending those copies again and nothing else: an unchanged chunk is sealed to the same bytes, and a vendor that
//! has them answers at once. Losing the end of a put costs nothing, since a file's next put has another number.

mod inspect;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use fathom_protocol::codec;
use fathom_protocol::erasure::Code;
use fathom_protocol::fat::{Place, SALT_LEN};
use fathom_protocol::ids::{ChunkId, FileId};
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::Location;
use fathom_store::storage::begin_write;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::UserError;
use super::store::lock;
pub(crate) use inspect::inspect;

/// Version of the layout above. Another one is refused.
const FORMAT: u32 = 1;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const PUTS: TableDefinition<&str, &[u8]> = TableDefinition::new("puts");
const FILES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("files");
const CHUNKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("chunks");
/// Receipts that wait for the writer.
const QUEUED_MAX: usize = 1_024;
/// How long what nobody waits for is gathered.
const GATHER: Duration = Duration::from_millis(100);

/// One put: the storage that was locked for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PutRecord {
    /// The locations, each with the bytes granted for this put.
    pub locations: Vec<Location>,
}

/// A file of a put as it was when the put began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    /// Name of the put that it belongs to.
    pub put: String,
    /// Source: length, modification time in nanoseconds, inode. Another source starts over.
    pub source: (u64, i128, u64),
    /// Plaintext bytes of a chunk.
    pub chunk_plain: u32,
    /// How parity is made of its chunks, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Key of the file's chunks.
    pub file_key: [u8; 32],
    /// Tag of the chunks, and sequence number of the final FAT to come.
    pub seq: u64,
}

/// A chunk with the receipts that came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ChunkRecord {
    /// BLAKE3 of the ciphertext.
    pub id: ChunkId,
    /// With which it was sealed.
    pub salt: [u8; SALT_LEN],
    /// Copies with a receipt.
    pub copies: Vec<CopyRecord>,
}

/// One copy with a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyRecord {
    /// Which copy it is, from 0.
    pub column: u8,
    /// Where it is.
    pub place: Place,
    /// When its receipt came.
    pub acked: UnixMs,
}

enum Job {
    Begin {
        name: String,
        record: PutRecord,
        fresh: Vec<(FileId, FileRecord)>,
        /// Who waits for it.
        done: Option<mpsc::SyncSender<Option<String>>>,
    },
    Chunk {
        file: FileId,
        index: u64,
        record: ChunkRecord,
        /// It is the put's only one: what begins and ends within a moment is written once.
        alone: bool,
    },
    End {
        name: String,
        files: Vec<FileId>,
    },
    /// Told why the transaction failed, if it did.
    Flush(mpsc::SyncSender<Option<String>>),
}

/// What waits for the writer and is not waited for, by name, and how often.
#[derive(Default)]
struct Soon {
    /// Puts that have begun and are not on disk.
    beginning: BTreeMap<String, usize>,
    /// Their files.
    files: BTreeMap<FileId, usize>,
    /// Puts that have ended and may be on disk.
    ending: BTreeMap<String, usize>,
}

fn once_more<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    *counts.entry(key).or_default() += 1;
}

fn once_less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(times) if *times > 1 => *times -= 1,
        _ => drop(counts.remove(key)),
    }
}

impl Soon {
    fn begin(&mut self, name: &str, fresh: &[(FileId, FileRecord)]) {
        once_more(&mut self.beginning, name.to_owned());
        fresh.iter().for_each(|(file, _)| once_more(&mut self.files, *file));
    }

    /// Takes out what was written.
    fn written(&mut self, job: &Job) {
        match job {
            Job::Begin { name, fresh, done: None, .. } => {
                once_less(&mut self.beginning, name);
                fresh.iter().for_each(|(file, _)| once_less(&mut self.files, file));
            }
            Job::End { name, .. } => once_less(&mut self.ending, name),
            Job::Begin { .. } | Job::Chunk { .. } | Job::Flush(_) => {}
        }
    }
}

/// The journal. Of chunks, reads see what was written before the last [`Journal::flush`].
pub(super) struct Journal {
    db: Arc<Database>,
    writer: mpsc::SyncSender<Job>,
    soon: Arc<Mutex<Soon>>,
}

fn failed(error: impl std::fmt::Display) -> UserError {
    UserError::Journal(error.to_string())
}

fn chunk_key(file: FileId, index: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&file.0);
    key[16..].copy_from_slice(&index.to_be_bytes());
    key
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, UserError> {
    codec::decode(bytes, FRAME_BYTES_MAX).map_err(failed)
}

impl Journal {
    /// Opens or creates the journal.
    ///
    /// # Errors
    /// [`UserError::JournalFormat`] for a layout that this build does not know, [`UserError::Journal`].
    pub(super) fn open(file: &Path) -> Result<Self, UserError> {
        let db = Arc::new(Database::create(file).map_err(failed)?);
        let begin = begin_write(&db).map_err(failed)?;
        check_format(&begin, file)?;
        begin.open_table(PUTS).map_err(failed)?;
        begin.open_table(FILES).map_err(failed)?;
        begin.open_table(CHUNKS).map_err(failed)?;
        begin.commit().map_err(failed)?;
        let (writer, jobs) = mpsc::sync_channel(QUEUED_MAX);
        let soon = Arc::new(Mutex::default());
        let theirs = (Arc::clone(&db), Arc::clone(&soon));
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_jobs(&theirs.0, &theirs.1, &jobs))
            .map_err(failed)?;
        Ok(Self { db, writer, soon })
    }

    /// Number of puts under way or interrupted.
    pub(super) fn pending(&self) -> u64 {
        let noted = || -> Result<BTreeSet<String>, redb::Error> {
            let table = self.db.begin_read()?.open_table(PUTS)?;
            table.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect()
        };
        let mut names = noted().unwrap_or_default();
        let soon = lock(&self.soon);
        names.extend(soon.beginning.keys().cloned());
        names.iter().filter(|name| !soon.ending.contains_key(*name)).count() as u64
    }

    /// Waits for the writer if what is about to be read is on its way there.
    fn read_after(&self, waits: impl FnOnce(&Soon) -> bool) -> Result<(), UserError> {
        let waits = waits(&lock(&self.soon));
        if waits { self.flush() } else { Ok(()) }
    }

    /// The put named `name`, if it was begun before and has not ended.
    pub(super) fn put(&self, name: &str) -> Result<Option<PutRecord>, UserError> {
        self.read_after(|soon| soon.ending.contains_key(name) || soon.beginning.contains_key(name))?;
        let table = self.db.begin_read().map_err(failed)?.open_table(PUTS).map_err(failed)?;
        table.get(name).map_err(failed)?.map(|value| read(value.value())).transpose()
    }

    /// The file, if a put of it was begun before.
    pub(super) fn file(&self, file: FileId) -> Result<Option<FileRecord>, UserError> {
        self.read_after(|soon| soon.files.contains_key(&file))?;
        let table = self.db.begin_read().map_err(failed)?.open_table(FILES).map_err(failed)?;
        table.get(&file.0[..]).map_err(failed)?.map(|value| read(value.value())).transpose()
    }

    /// Chunks of `file` that have receipts, by index.
    pub(super) fn chunks(&self, file: FileId) -> Result<Vec<(u64, ChunkRecord)>, UserError> {
        let table = self.db.begin_read().map_err(failed)?.open_table(CHUNKS).map_err(failed)?;
        let range = table.range(&chunk_key(file, 0)[..]..=&chunk_key(file, u64::MAX)[..]).map_err(failed)?;
        let mut chunks = Vec::new();
        for entry in range {
            let (key, value) = entry.map_err(failed)?;
            let index = key.value().last_chunk::<8>().map_or(0, |index| u64::from_be_bytes(*index));
            chunks.push((index, read(value.value())?));
        }
        Ok(chunks)
    }

    /// Begins a put, or notes new locations of one. Files that are `fresh` lose what an earlier put noted. Durable on return if `wait`
    /// is set, else soon, with others.
    pub(super) fn begin(
        &self,
        name: &str,
        record: &PutRecord,
        fresh: &[(FileId, FileRecord)],
        wait: bool,
    ) -> Result<(), UserError> {
        let (name, record, fresh) = (name.to_owned(), record.clone(), fresh.to_vec());
        if !wait {
            lock(&self.soon).begin(&name, &fresh);
            return self.send(Job::Begin { name, record, fresh, done: None });
        }
        let (done, written) = mpsc::sync_channel(1);
        self.send(Job::Begin { name, record, fresh, done: Some(done) })?;
        await_written(&written)
    }

    fn send(&self, job: Job) -> Result<(), UserError> {
        self.writer.send(job).map_err(|_| failed("its writer has ended"))
    }

    /// Notes a chunk and its receipts. Durable soon, with others, and later if it is its put's only one (`alone`).
    pub(super) fn chunk(&self, file: FileId, index: u64, record: ChunkRecord, alone: bool) -> Result<(), UserError> {
        self.send(Job::Chunk { file, index, record, alone })
    }

    /// Waits until everything noted before is durable.
    pub(super) fn flush(&self) -> Result<(), UserError> {
        let (done, written) = mpsc::sync_channel(1);
        self.send(Job::Flush(done))?;
        await_written(&written)
    }

    /// Forgets a put that is stored. Durable soon, with others.
    pub(super) fn end(&self, name: &str, files: &[FileId]) -> Result<(), UserError> {
        once_more(&mut lock(&self.soon).ending, name.to_owned());
        self.send(Job::End { name: name.to_owned(), files: files.to_vec() })
    }
}

fn await_written(written: &mpsc::Receiver<Option<String>>) -> Result<(), UserError> {
    let failure = written.recv().map_err(|_| failed("its writer has ended"))?;
    failure.map_or(Ok(()), |reason| Err(UserError::Journal(reason)))
}

/// Refuses another format than [`FORMAT`], and numbers a file that has no number yet.
fn check_format(begin: &WriteTransaction, file: &Path) -> Result<(), UserError> {
    let mut meta = begin.open_table(META).map_err(failed)?;
    let found =
        meta.get("version").map_err(failed)?.map(|bytes| bytes.value().try_into().map_or(0, u32::from_le_bytes));
    match found {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(UserError::JournalFormat { path: file.to_owned(), found, read: FORMAT }),
        None => meta.insert("version", &FORMAT.to_le_bytes()[..]).map(drop).map_err(failed),
    }
}

fn forget_chunks(chunks: &mut redb::Table<'_, &[u8], &[u8]>, file: FileId) -> Result<(), UserError> {
    chunks.retain_in(&chunk_key(file, 0)[..]..=&chunk_key(file, u64::MAX)[..], |_, _| false).map_err(failed)
}

fn write_jobs(db: &Database, soon: &Mutex<Soon>, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let jobs = gather(first, jobs);
        let failure = write(db, &jobs).err().map(|error| error.to_string());
        if let Some(error) = &failure {
            // Receipts that are not noted cost a second sending after a crash; the put itself goes on.
            tracing::warn!(%error, "the journal was not written");
        }
        for job in jobs {
            lock(soon).written(&job);
            if let Job::Begin { done: Some(done), .. } | Job::Flush(done) = job {
                // Who gave up waiting needs no answer.
                drop(done.send(failure.clone()));
            }
        }
    }
}

/// What is written next: everything that is there once somebody waits for some of it, or has more to lose, or after a while.
fn gather(first: Job, jobs: &mpsc::Receiver<Job>) -> Vec<Job> {
    let urgent =
        |job: &Job| matches!(job, Job::Begin { done: Some(_), .. } | Job::Chunk { alone: false, .. } | Job::Flush(_));
    let until = Instant::now() + GATHER;
    let mut gathered = vec![first];
    while gathered.len() < QUEUED_MAX && !gathered.last().is_some_and(urgent) {
        match jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(job) => gathered.push(job),
            Err(_) => break,
        }
    }
    gathered.extend(jobs.try_iter().take(QUEUED_MAX));
    gathered
}

/// Does all of `jobs`, in order, in one durable transaction.
fn write(db: &Database, jobs: &[Job]) -> Result<(), UserError> {
    let begin = begin_write(db).map_err(failed)?;
    {
        let mut puts = begin.open_table(PUTS).map_err(failed)?;
        let mut files = begin.open_table(FILES).map_err(failed)?;
        let mut chunks = begin.open_table(CHUNKS).map_err(failed)?;
        for job in jobs {
            match job {
                Job::Begin { name, record, fresh, .. } => {
                    puts.insert(name.as_str(), &*codec::encode(record)).map_err(failed)?;
                    for (file, record) in fresh {
                        files.insert(&file.0[..], &*codec::encode(record)).map_err(failed)?;
                        forget_chunks(&mut chunks, *file)?;
                    }
                }
                Job::Chunk { file, index, record, .. } => {
                    chunks.insert(&chunk_key(*file, *index)[..], &*codec::encode(record)).map_err(failed)?;
                }
                Job::End { name, files: ended } => {
                    puts.remove(name.as_str()).map_err(failed)?;
                    for file in ended {
                        files.remove(&file.0[..]).map_err(failed)?;
                        forget_chunks(&mut chunks, *file)?;
                    }
                }
                Job::Flush(_) => {}
            }
        }
    }
    begin.commit().map_err(failed)
}

#[cfg(test)]
mod tests;
