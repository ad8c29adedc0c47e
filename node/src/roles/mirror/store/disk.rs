//! The mirror's file, and what happens when it cannot be written.
//!
//! After any failed write redb refuses everything until the database is opened again, and opening repairs, which writes. So
//! after a failure the file is opened behind an overlay that keeps such writes in memory: reads go on from what is on the
//! disk, and every change is refused. [`Disk::make_writable`] leads back. After a full file system it opens the file itself;
//! after another failure the page cache may hold what the disk does not, so it writes the whole file anew first.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use fathom_store::storage::{self, FatStorage, Opening, is_full, open_database};
use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::{StoreError, open_error};

/// Memory that the database may use for pages, bytes.
const CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Below this many free bytes in the file's file system, writes are refused before they begin.
const HEADROOM_BYTES: u64 = 16 * 1024 * 1024;
/// Between two attempts to write a file again that could not be written.
pub(super) const RETRY: Duration = Duration::from_secs(1);

const OPENING: Opening = Opening { cache_bytes: CACHE_BYTES, check: true, overlay: false };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Writable,
    /// Its file system was full.
    Full,
    /// A write or a sync failed for another reason.
    Failed,
}

#[derive(Debug)]
struct Opened {
    /// `None` only if not even the overlay opened.
    database: Option<Database>,
    health: Health,
    /// Counts changes of `database`, so that one failure seen by many is dealt with once.
    generation: u64,
    tried: Option<Instant>,
}

/// The file.
#[derive(Debug)]
pub(super) struct Disk {
    storage: Arc<dyn FatStorage>,
    retry: Duration,
    opened: RwLock<Opened>,
}

impl Disk {
    /// Opens what is in `storage`, or makes it; after a failure it tries again every `retry`.
    pub(super) fn open(storage: Arc<dyn FatStorage>, retry: Duration) -> Result<Self, StoreError> {
        let database = open_database(&*storage, OPENING).map_err(|error| open_error(storage.path(), error))?;
        let opened = Opened { database: Some(database), health: Health::Writable, generation: 0, tried: None };
        Ok(Self { storage, retry, opened: RwLock::new(opened) })
    }

    /// What to call it in messages.
    pub(super) fn path(&self) -> &Path {
        self.storage.path()
    }

    /// Whether writes reach the file.
    pub(super) fn is_writable(&self) -> bool {
        self.shared().health == Health::Writable
    }

    /// Runs `work` on one consistent state; after a failure of a writer once more, on what is on the disk.
    pub(super) fn read<T>(
        &self,
        mut work: impl FnMut(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        // A reader may be the first to see that a writer's failure has closed the database.
        for last in [false, true] {
            let (result, generation) = {
                let opened = self.shared();
                let database = opened.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
                (database.begin_read().map_err(redb::Error::from).and_then(|tx| work(&tx)), opened.generation)
            };
            match result {
                Err(redb::Error::PreviousIo) if !last => self.degrade(generation, &redb::Error::PreviousIo),
                result => return result,
            }
        }
        Err(redb::Error::PreviousIo)
    }

    /// Runs `work` in one transaction that is durable when this returns. If it fails, nothing of it stays, or, after a failure at
    /// the very end, all of it.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let (result, generation) = {
            let opened = self.shared();
            let database = opened.database.as_ref().filter(|_| opened.health == Health::Writable);
            let database = database.ok_or_else(|| redb::Error::Io(refusal(opened.health)))?;
            let result = storage::begin_write(database).and_then(|transaction| {
                let value = work(&transaction)?;
                transaction.commit()?;
                Ok(value)
            });
            (result, opened.generation)
        };
        if let Err(error) = &result
            && matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            self.degrade(generation, error);
        }
        result
    }

    /// Leads back to writing after a failure, if the disk lets it. What is read does not change by it.
    pub(super) fn make_writable(&self) -> Result<(), StoreError> {
        let refused = |health| StoreError::Io { path: self.path().to_owned(), source: refusal(health) };
        let (generation, health) = {
            let opened = self.shared();
            (opened.generation, opened.health)
        };
        let free = self.storage.free_bytes();
        let free = free.map_err(|source| StoreError::Io { path: self.path().to_owned(), source })?;
        if free.is_some_and(|free| free < HEADROOM_BYTES) {
            return Err(refused(Health::Full));
        }
        if health == Health::Writable {
            return Ok(());
        }
        let mut opened = self.exclusive();
        if opened.generation != generation {
            return if opened.health == Health::Writable { Ok(()) } else { Err(refused(opened.health)) };
        }
        if opened.tried.is_some_and(|tried| tried.elapsed() < self.retry) {
            return Err(refused(health));
        }
        opened.tried = Some(Instant::now());
        opened.database = None;
        opened.generation += 1;
        let rewritten = if health == Health::Failed { self.storage.rewrite() } else { Ok(()) };
        let rewritten = rewritten.map_err(|source| StoreError::Io { path: self.path().to_owned(), source });
        let database = rewritten.and_then(|()| {
            open_database(&*self.storage, OPENING).map_err(|error| open_error(self.storage.path(), error))
        });
        match database {
            Ok(database) => {
                tracing::info!(path = %self.path().display(), "the mirror's records can be written again");
                (opened.database, opened.health) = (Some(database), Health::Writable);
                Ok(())
            }
            Err(error) => {
                opened.database = self.overlay();
                Err(error)
            }
        }
    }

    /// The database of `generation` failed: go on behind an overlay.
    fn degrade(&self, generation: u64, error: &redb::Error) {
        let mut opened = self.exclusive();
        if opened.generation != generation {
            return;
        }
        opened.database = None;
        opened.generation += 1;
        opened.tried = Some(Instant::now());
        // What is seen behind the overlay has to be on the disk; if a sync says no, nobody knows whether it is.
        let synced = self.storage.open().and_then(|backend| {
            let synced = backend.sync_data();
            let closed = backend.close();
            synced.and(closed)
        });
        opened.health = match (error, synced) {
            (redb::Error::Io(error), Ok(())) if is_full(error) => Health::Full,
            _ => Health::Failed,
        };
        tracing::error!(path = %self.path().display(), %error, "the mirror's records are read-only now");
        opened.database = self.overlay();
    }

    fn overlay(&self) -> Option<Database> {
        open_database(&*self.storage, Opening { overlay: true, check: false, ..OPENING })
            .inspect_err(|error| tracing::error!(%error, "the mirror's records cannot even be read"))
            .ok()
    }

    fn shared(&self) -> RwLockReadGuard<'_, Opened> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Opened> {
        self.opened.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(health: Health) -> io::Error {
    match health {
        Health::Full => io::Error::new(io::ErrorKind::StorageFull, "its file system is full"),
        _ => io::Error::other("a write failed; it is tried again"),
    }
}
