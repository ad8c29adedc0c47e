//! The redb file behind the local FAT, and what happens when it cannot be written.
//!
//! After any failed write redb refuses everything until the database is opened again, and opening repairs, which
//! writes. So after a failure the file is opened behind an overlay that keeps such writes in memory: reads go on
//! from the last durable state, and every change is refused. When the failure was a full file system, the next
//! change tries the file itself again. After another failure the page cache may hold what the disk does not, so
//! only [`Engine::reopen`] leads back, which copies what is read to a new file and syncs that.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::backends::FileBackend;
use redb::{
    BackendError, Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageBackend,
};

use super::tx::{FORMAT_KEY, FatTx, META, RowError, TABLES, is_previous_io};
use super::{FORMAT, FatConfig, FatError, FatHealth};

/// Where the bytes of a local FAT are.
pub trait FatStorage: Debug + Send + Sync {
    /// The bytes, for one database at a time.
    ///
    /// # Errors
    /// Whatever the medium answers.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Bytes free for growth, if that can be known.
    ///
    /// # Errors
    /// Whatever the medium answers.
    fn free_bytes(&self) -> io::Result<Option<u64>>;

    /// Writes everything anew and durably, while no database has it open.
    ///
    /// # Errors
    /// Whatever the medium answers; then the old bytes are still there.
    fn rewrite(&self) -> io::Result<()>;

    /// What to call it in messages.
    fn path(&self) -> &Path;
}

/// A file.
#[derive(Debug)]
pub(crate) struct FileStorage {
    path: PathBuf,
}

impl FileStorage {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn sync_parent(&self) -> io::Result<()> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl FatStorage for FileStorage {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path)?;
        self.sync_parent()?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let fs = rustix::fs::statvfs(
            self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )?;
        Ok(Some(fs.f_bavail.saturating_mul(fs.f_frsize)))
    }

    fn rewrite(&self) -> io::Result<()> {
        let copy = self.path.with_extension("rewrite");
        fs::copy(&self.path, &copy)?;
        File::open(&copy)?.sync_all()?;
        fs::rename(&copy, &self.path)?;
        self.sync_parent()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[derive(Debug)]
pub(crate) struct Engine {
    storage: Arc<dyn FatStorage>,
    config: FatConfig,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// `None` only if not even the overlay opened.
    database: Option<Database>,
    health: FatHealth,
    /// Counts changes of `database`, so that one failure seen by many is dealt with once.
    generation: u64,
}

impl Engine {
    pub(crate) fn open(storage: Arc<dyn FatStorage>, config: FatConfig) -> Result<Self, FatError> {
        let database = open_database(&*storage, &config)?;
        let state = RwLock::new(State { database: Some(database), health: FatHealth::ReadWrite, generation: 0 });
        Ok(Self { storage, config, state })
    }

    pub(crate) fn health(&self) -> FatHealth {
        self.shared().health.clone()
    }

    pub(crate) fn read<T>(&self, work: impl Fn(&ReadTransaction) -> Result<T, RowError>) -> Result<T, FatError> {
        // A reader may be the first to see that a writer's failure has closed the database.
        for last in [false, true] {
            let (result, generation) = {
                let state = self.shared();
                let database = state.database.as_ref().ok_or_else(|| self.unwritable(&state.health))?;
                let result = database.begin_read().map_err(RowError::from).and_then(|tx| work(&tx));
                (result, state.generation)
            };
            match result {
                Ok(value) => return Ok(value),
                Err(error) if is_previous_io(&error) && !last => {
                    self.degrade(generation, &io::Error::other("an earlier operation failed"))
                }
                Err(error) => return Err(self.failure(error)),
            }
        }
        Err(self.unwritable(&self.health()))
    }

    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut FatTx<'_>) -> Result<T, FatError>) -> Result<T, FatError> {
        self.make_writable()?;
        let failed = Mutex::new(None);
        let (result, generation) = {
            let state = self.shared();
            if state.health != FatHealth::ReadWrite {
                return Err(self.unwritable(&state.health));
            }
            let database = state.database.as_ref().ok_or_else(|| self.unwritable(&state.health))?;
            let failure = |error: RowError| {
                if let RowError::Database(redb::Error::Io(error)) = &error {
                    let copy = io::Error::new(error.kind(), error.to_string());
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
                }
                self.failure(error)
            };
            (transact(database, &failure, change), state.generation)
        };
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.degrade(generation, &error);
        }
        result
    }

    /// Copies what can be read to a new file, and goes on with that.
    pub(crate) fn reopen(&self) -> Result<(), FatError> {
        let mut state = self.exclusive();
        if state.health == FatHealth::ReadWrite {
            return Ok(());
        }
        state.database = None;
        state.generation += 1;
        let opened = match self.storage.rewrite() {
            Ok(()) => open_database(&*self.storage, &self.config),
            Err(error) => Err(self.failure(error.into())),
        };
        match opened {
            Ok(database) => {
                state.database = Some(database);
                state.health = FatHealth::ReadWrite;
                Ok(())
            }
            Err(error) => {
                state.database = open_overlay(&*self.storage, &self.config).ok();
                Err(error)
            }
        }
    }

    /// Refuses early what cannot be written; tries the file again if it was full.
    fn make_writable(&self) -> Result<(), FatError> {
        let full = || FatError::NoSpace { path: self.storage.path().to_owned() };
        let generation = {
            let state = self.shared();
            if matches!(state.health, FatHealth::Failed { .. }) {
                return Err(self.unwritable(&state.health));
            }
            let free = self.storage.free_bytes().map_err(|error| self.failure(error.into()))?;
            if free.is_some_and(|free| free < self.config.headroom_bytes) {
                return Err(full());
            }
            if state.health == FatHealth::ReadWrite {
                return Ok(());
            }
            state.generation
        };
        let mut state = self.exclusive();
        if state.generation != generation {
            return Ok(());
        }
        state.database = None;
        state.generation += 1;
        match open_database(&*self.storage, &self.config) {
            Ok(database) => {
                state.database = Some(database);
                state.health = FatHealth::ReadWrite;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "the local FAT stays read-only");
                state.database = open_overlay(&*self.storage, &self.config).ok();
                Err(full())
            }
        }
    }

    /// The database of `generation` failed: go on behind an overlay.
    fn degrade(&self, generation: u64, error: &io::Error) {
        let mut state = self.exclusive();
        if state.generation != generation {
            return;
        }
        state.database = None;
        state.generation += 1;
        // What is seen behind the overlay has to be on the disk; if a sync says no, nobody knows whether it is.
        let synced = self.storage.open().and_then(|backend| {
            let synced = backend.sync_data();
            let closed = backend.close();
            synced.and(closed)
        });
        state.health = match synced {
            Ok(()) if is_full(error) => FatHealth::NoSpace,
            _ => FatHealth::Failed { reason: error.to_string() },
        };
        tracing::error!(path = %self.storage.path().display(), %error, "the local FAT is read-only now");
        match open_overlay(&*self.storage, &self.config) {
            Ok(database) => state.database = Some(database),
            Err(error) => tracing::error!(%error, "the local FAT cannot even be read"),
        }
    }

    fn unwritable(&self, health: &FatHealth) -> FatError {
        let path = self.storage.path().to_owned();
        match health {
            FatHealth::Failed { reason } => FatError::Failed { path, reason: reason.clone() },
            _ => FatError::NoSpace { path },
        }
    }

    fn failure(&self, error: RowError) -> FatError {
        failure(self.storage.path(), error)
    }

    fn shared(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn transact<T>(
    database: &Database,
    failure: &dyn Fn(RowError) -> FatError,
    change: impl FnOnce(&mut FatTx<'_>) -> Result<T, FatError>,
) -> Result<T, FatError> {
    let mut tx = database.begin_write().map_err(|error| failure(error.into()))?;
    tx.set_durability(Durability::Immediate).map_err(|error| failure(redb::Error::from(error).into()))?;
    let value = change(&mut FatTx::new(&tx, failure))?;
    tx.commit().map_err(|error| failure(error.into()))?;
    Ok(value)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn failure(path: &Path, error: RowError) -> FatError {
    let path = path.to_owned();
    match error {
        RowError::Corrupt(detail) => FatError::Corrupt { path, detail },
        RowError::Database(redb::Error::Corrupted(detail)) => FatError::Corrupt { path, detail },
        RowError::Database(redb::Error::DatabaseAlreadyOpen) => FatError::InUse { path },
        RowError::Database(redb::Error::Io(error)) if is_full(&error) => FatError::NoSpace { path },
        RowError::Database(redb::Error::Io(error))
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            FatError::Corrupt { path, detail: error.to_string() }
        }
        RowError::Database(error) => FatError::Database { path, detail: error.to_string() },
    }
}

/// Opens the database for reading and writing, makes it if it is new, and checks its format.
fn open_database(storage: &dyn FatStorage, config: &FatConfig) -> Result<Database, FatError> {
    let database = open_backend(storage, config, |backend| backend, config.check_on_open)?;
    check_format(storage, &database)?;
    Ok(database)
}

/// Opens the database so that nothing reaches the storage.
fn open_overlay(storage: &dyn FatStorage, config: &FatConfig) -> Result<Database, FatError> {
    open_backend(storage, config, |base| Box::new(Overlay::new(base)), false)
}

fn open_backend(
    storage: &dyn FatStorage,
    config: &FatConfig,
    wrap: impl FnOnce(Box<dyn StorageBackend>) -> Box<dyn StorageBackend>,
    check: bool,
) -> Result<Database, FatError> {
    let backend = storage.open().map_err(|error| failure(storage.path(), error.into()))?;
    let backend = Boxed(wrap(backend));
    // redb panics on some damage that it cannot tell from a bug of its own.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Builder::new()
            .set_cache_size(config.cache_bytes)
            .set_check_integrity_on_open(check)
            .create_with_backend(backend)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::UpgradeRequired(version))) => Err(FatError::Corrupt {
            path: storage.path().to_owned(),
            detail: format!("its database has the unknown version {version}"),
        }),
        Ok(Err(error)) => Err(failure(storage.path(), error.into())),
        Err(_) => Err(FatError::Corrupt {
            path: storage.path().to_owned(),
            detail: "its pages contradict each other".to_owned(),
        }),
    }
}

fn check_format(storage: &dyn FatStorage, database: &Database) -> Result<(), FatError> {
    let found = || -> Result<Option<Vec<u8>>, RowError> {
        let tx = database.begin_read()?;
        match tx.open_table(META) {
            Ok(meta) => Ok(meta.get(FORMAT_KEY)?.map(|value| value.value().to_vec())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let failed = |error| failure(storage.path(), error);
    match found().map_err(failed)? {
        Some(bytes) => match <[u8; 8]>::try_from(bytes.as_slice()).map(u64::from_be_bytes) {
            Ok(FORMAT) => Ok(()),
            Ok(found) => Err(FatError::Version { path: storage.path().to_owned(), found }),
            Err(_) => Err(failed(RowError::Corrupt("its format number has a wrong length".to_owned()))),
        },
        None => initialise(database).map_err(failed),
    }
}

fn initialise(database: &Database) -> Result<(), RowError> {
    let tx = database.begin_write()?;
    for table in TABLES {
        tx.open_table(table)?;
    }
    tx.open_table(META)?.insert(FORMAT_KEY, FORMAT.to_be_bytes().as_slice())?;
    tx.commit()?;
    Ok(())
}

/// A backend behind a pointer, which redb does not take as such.
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

macro_rules! delegate_locks {
    ($inner:tt) => {
        fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.$inner.try_lock_range(start, end)
        }
        fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.$inner.try_lock_shared_range(start, end)
        }
        fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.$inner.lock_range(start, end)
        }
        fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.$inner.lock_shared_range(start, end)
        }
        fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.$inner.unlock_range(start, end)
        }
        fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.$inner.query_lock_range(start, end)
        }
        fn close(&self) -> io::Result<()> {
            self.$inner.close()
        }
    };
}

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    delegate_locks!(0);
}

/// Granularity of the overlay, in bytes.
const OVERLAY_PAGE: u64 = 4096;

/// A backend whose writes stay in memory. What redb writes when it opens a file is a few pages, so this stays small.
#[derive(Debug)]
struct Overlay {
    base: Box<dyn StorageBackend>,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    len: Option<u64>,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    fn new(base: Box<dyn StorageBackend>) -> Self {
        Self { base, written: Mutex::default() }
    }

    /// Bytes of one page, from the overlay or from below; what lies beyond the end of the base is zero.
    fn page(&self, written: &Written, page: u64) -> io::Result<Vec<u8>> {
        if let Some(bytes) = written.pages.get(&page) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; OVERLAY_PAGE as usize];
        let at = page * OVERLAY_PAGE;
        let there = self.base.len()?.saturating_sub(at).min(OVERLAY_PAGE) as usize;
        if there > 0 {
            self.base.read(at, &mut bytes[..there])?;
        }
        Ok(bytes)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.len.map_or_else(|| self.base.len(), Ok)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (page, within) = (at / OVERLAY_PAGE, (at % OVERLAY_PAGE) as usize);
            let take = (OVERLAY_PAGE as usize - within).min(out.len() - done);
            out[done..done + take].copy_from_slice(&self.page(&written, page)?[within..within + take]);
            done += take;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).len = Some(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (page, within) = (at / OVERLAY_PAGE, (at % OVERLAY_PAGE) as usize);
            let take = (OVERLAY_PAGE as usize - within).min(data.len() - done);
            let mut bytes = self.page(&written, page)?;
            bytes[within..within + take].copy_from_slice(&data[done..done + take]);
            written.pages.insert(page, bytes);
            done += take;
        }
        Ok(())
    }

    delegate_locks!(base);
}
