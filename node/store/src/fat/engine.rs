//! The redb file behind the local FAT, and what happens when it cannot be written.
//!
//! After any failed write redb refuses everything until the database is opened again, and opening repairs, which
//! writes. So after a failure the file is opened behind an overlay that keeps such writes in memory: reads go on
//! from the last durable state, and every change is refused. When the failure was a full file system, the next
//! change tries the file itself again. After another failure the page cache may hold what the disk does not, so
//! only [`Engine::reopen`] leads back, which copies what is read to a new file and syncs that.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase};

use super::tx::{FORMAT_KEY, FatTx, META, RowError, TABLES, is_previous_io};
use super::{FORMAT, FORMAT_READ_MIN, FatConfig, FatError, FatHealth};
use crate::storage::{self, FatStorage, Opening, is_full};

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
    let tx = storage::begin_write(database).map_err(|error| failure(error.into()))?;
    let value = change(&mut FatTx::new(&tx, failure))?;
    tx.commit().map_err(|error| failure(error.into()))?;
    Ok(value)
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
    let database = open_with(storage, Opening { check: config.check_on_open, overlay: false, ..opening(config) })?;
    if check_format(storage, &database)? < FORMAT {
        initialise(&database).map_err(|error| failure(storage.path(), error))?;
    }
    Ok(database)
}

/// Opens the database so that nothing reaches the storage.
fn open_overlay(storage: &dyn FatStorage, config: &FatConfig) -> Result<Database, FatError> {
    open_with(storage, Opening { check: false, overlay: true, ..opening(config) })
}

fn opening(config: &FatConfig) -> Opening {
    Opening { cache_bytes: config.cache_bytes, check: config.check_on_open, overlay: false }
}

pub(super) fn open_with(storage: &dyn FatStorage, opening: Opening) -> Result<Database, FatError> {
    storage::open_database(storage, opening).map_err(|error| match error {
        DatabaseError::UpgradeRequired(version) => FatError::Corrupt {
            path: storage.path().to_owned(),
            detail: format!("its database has the unknown version {version}"),
        },
        error => failure(storage.path(), error.into()),
    })
}

pub(super) fn check_format(storage: &dyn FatStorage, database: &Database) -> Result<u64, FatError> {
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
            Ok(found @ FORMAT_READ_MIN..=FORMAT) => Ok(found),
            Ok(found) => Err(FatError::Version { path: storage.path().to_owned(), found }),
            Err(_) => Err(failed(RowError::Corrupt("its format number has a wrong length".to_owned()))),
        },
        None => initialise(database).map(|()| FORMAT).map_err(failed),
    }
}

/// Makes what tables there are not yet, and notes the format.
fn initialise(database: &Database) -> Result<(), RowError> {
    let tx = storage::begin_write(database)?;
    for table in TABLES {
        tx.open_table(table)?;
    }
    tx.open_table(META)?.insert(FORMAT_KEY, FORMAT.to_be_bytes().as_slice())?;
    tx.commit()?;
    Ok(())
}
