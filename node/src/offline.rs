//! A node's databases looked at while it does not run: what `fathom fat check` judges and `fathom fat export` writes.
//!
//! Nothing is changed: what opening a database repairs after a crash stays in memory. Rows are read one by one, so memory does
//! not grow with them. Each role knows how its own database is laid out and tells [`Seen`]; this module puts them together.

pub(crate) mod json;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use fathom_protocol::ids::NodeId;
use fathom_store::storage::{FatStorage, FileStorage, Opening, open_database};
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase};
use serde_json::Value;

use crate::control::{CommandError, ErrorKind};
use crate::home::Home;

/// One of a node's databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What a mirror knows of the network.
    Mirror,
    /// A vendor's local FAT.
    Vendor,
    /// A user's journal of puts.
    User,
}

/// What is found while a database is read.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A record: a JSON object with its kind under `type`.
    Record(Value),
    /// Something that is not as it has to be.
    Wrong {
        /// Which table or record.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What hears of it, in the order of the file.
pub(crate) type See<'a> = &'a mut dyn FnMut(Seen);

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mirror, Self::Vendor, Self::User];

    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Vendor => "vendor",
            Self::User => "user",
        }
    }

    /// Its file.
    #[must_use]
    pub fn path(self, home: &Home) -> PathBuf {
        let file = match self {
            Self::Mirror => "fat.redb",
            Self::Vendor => "local-fat.redb",
            Self::User => "journal.redb",
        };
        home.dir().join(self.name()).join(file)
    }

    /// What to do when it is damaged.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Mirror => {
                "move the file away and start the node: this mirror then copies everything from the other mirrors"
            }
            Self::Vendor => {
                "move the file away and start the node: it makes a new local FAT from its devices, for the leases that its mirrors know"
            }
            Self::User => {
                "move the file away and repeat the puts that were interrupted; files that are stored are not affected"
            }
        }
    }

    /// Reads all of it. `me` is the node whose directory this is, if its key is there.
    ///
    /// # Errors
    /// A [`CommandError`] if it cannot be read at all or has another format; damage is [`Seen::Wrong`].
    pub(crate) fn inspect(self, home: &Home, me: Option<NodeId>, see: See<'_>) -> Result<(), CommandError> {
        let path = self.path(home);
        match self {
            Self::Mirror => crate::roles::mirror::inspect(&path, see),
            Self::Vendor => crate::roles::vendor::inspect(&path, me, see),
            Self::User => crate::roles::user::inspect(&path, see),
        }
    }
}

/// Opens the database at `path` so that nothing reaches the file. Damaged pages are told, and what can be read is read.
pub(crate) fn open(path: &std::path::Path, see: See<'_>) -> Result<Option<Database>, CommandError> {
    let storage = FileStorage::new(path);
    let opening = Opening { cache_bytes: 32 * 1024 * 1024, check: true, overlay: true };
    let failed = |error: DatabaseError| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            CommandError::new(ErrorKind::Other, format!("{} is in use by another process", path.display()))
                .hint("stop that node first")
        }
        error => CommandError::new(ErrorKind::Other, format!("failed to open {}: {error}", path.display())),
    };
    match open_database(&storage, opening) {
        Ok(database) => Ok(Some(database)),
        Err(error) if is_damage(&error) => {
            see(Seen::Wrong { what: "the file".to_owned(), problem: error.to_string() });
            // Records have signatures of their own: what can be read is judged by them.
            Ok(open_database(&storage as &dyn FatStorage, Opening { check: false, ..opening }).ok())
        }
        Err(error) => Err(failed(error)),
    }
}

fn is_damage(error: &DatabaseError) -> bool {
    use redb::StorageError::{Corrupted, Io};
    match error {
        DatabaseError::Storage(Corrupted(_)) | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(Io(error)) => {
            matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

/// Runs `walk` over `table`; damage that ends it early is told.
pub(crate) fn table(
    database: &Database,
    table: &str,
    see: See<'_>,
    walk: impl FnOnce(&ReadTransaction, See<'_>) -> Result<(), redb::Error>,
) {
    // redb panics on some damage that it cannot tell from a bug of its own.
    let walked = catch_unwind(AssertUnwindSafe(|| walk(&database.begin_read()?, see)));
    let problem = match walked {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("it ends early: {error}"),
        Err(_) => "it ends early: its pages contradict each other".to_owned(),
    };
    see(Seen::Wrong { what: format!("table {table}"), problem });
}
