//! The user: stores, finds and fetches a person's files, and is the only role that holds keys to their content.
//!
//! `put` seals chunks and sends each along a chain of vendors; `get` fetches them from several at once; `catalogue` is what
//! the mirrors hold for this user, with a copy on this machine; `journal` is what an interrupted put goes on from; `resolve`
//! chooses one of several versions; `renew` looks after what is stored (`survey`) and has lost copies made again (`repair`).

mod ahead;
mod catalogue;
mod chain;
mod error;
mod fetch;
mod gather;
mod get;
mod journal;
mod lately;
mod mirrors;
mod path;
mod placement;
mod put;
mod read;
mod redundancy;
mod remove;
mod renew;
mod repair;
mod resolve;
mod send;
mod source;
mod stock;
mod store;
mod stripes;
mod successor;
mod survey;
mod together;
mod turns;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use fathom_protocol::familiar::Familiar;
use fathom_protocol::fat::FinalFat;
use fathom_protocol::ids::{FileId, Hash, NodeId, OwnerId};
use fathom_protocol::keys::UserKeys;
use fathom_protocol::limits::{BUNDLE_CHUNKS_MAX, FILES_PER_QUERY_MAX};
use fathom_protocol::sign::Carried;
use fathom_protocol::table::Verified;
use fathom_protocol::wire::{Refusal, Response};

use crate::net::Net;
use ahead::Seen;
use catalogue::Local;
pub use catalogue::{Listed, Listing, StoredFile, Version, select};
pub use error::UserError;
use fetch::Fetches;
use journal::Journal;
pub(crate) use journal::inspect;
use lately::Lately;
pub use read::{OpenFile, READ_MAX};
pub use redundancy::Redundancy;
use send::Errands;
use stock::Stock;
use together::Together;
use turns::Turns;
use words::Words;

/// How a user stores and fetches.
#[derive(Clone, Copy, Debug)]
pub struct UserSettings {
    /// How files are stored unless a put says otherwise.
    pub redundancy: Redundancy,
    /// Chunks in transfer at a time.
    pub in_flight: usize,
    /// Vendors split a chunk into parts of at most this many bytes.
    pub part_bytes: u32,
    /// How long a vendor surely holds a chunk that no final FAT names yet, in milliseconds. Older receipts are not relied on.
    pub trusted_ms: u64,
    /// Time between two looks for vendors that lost copies.
    pub check: Duration,
}

#[cfg(test)]
impl UserSettings {
    /// Those of tests that look at something else.
    pub(crate) const TEST: Self = Self {
        redundancy: Redundancy::Copies(3),
        in_flight: 1,
        part_bytes: 1 << 20,
        trusted_ms: 1_000,
        check: Duration::from_secs(600),
    };
}

/// Files that mirrors are asked for, and what one had; none if it did not answer.
type Queries = Together<FileId, Option<Vec<Verified>>>;

/// Final FATs for a mirror, and what it said.
type Submissions = Together<Carried<FinalFat>, Result<Response, Refusal>>;

/// Final FATs that are remembered as verified.
const FAMILIAR: usize = 1_024;
/// Small final FATs that are handed in together.
const SUBMITTED_TOGETHER: usize = 64;

/// A person's files on the network.
pub struct User {
    keys: UserKeys,
    net: Net,
    settings: UserSettings,
    journal: Journal,
    local: Local,
    /// When all leases were last renewed, Unix milliseconds as text.
    renewed_file: PathBuf,
    turns: Turns,
    stock: Stock,
    queries: Arc<Queries>,
    lately: Lately,
    seen: Seen,
    words: Words,
    /// Final FATs that mirrors showed a moment ago.
    familiar: Familiar,
    submissions: Arc<Submissions>,
    /// Small chunks that are to be sent.
    errands: Errands,
    fetches: Arc<Fetches>,
    /// One repair runs at a time.
    mending: tokio::sync::Mutex<()>,
    /// Vendors that commands used since they were last looked at, and the epochs of their heads then.
    used: Mutex<BTreeMap<NodeId, u64>>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({})", self.owner().short())
    }
}

impl User {
    /// The user role with its journal and catalogue in `dir`.
    ///
    /// # Errors
    /// [`UserError::Journal`], [`UserError::Catalogue`].
    pub fn open(dir: &Path, net: Net, keys: UserKeys, settings: UserSettings) -> Result<Arc<Self>, UserError> {
        let journal = Journal::open(&dir.join("journal.redb"))?;
        let local = Local::open(&dir.join("catalogue.redb"), keys.owner())?;
        Ok(Arc::new(Self {
            keys,
            net,
            settings,
            journal,
            local,
            renewed_file: dir.join("renewed"),
            turns: Turns::default(),
            stock: Stock::default(),
            queries: Together::new(FILES_PER_QUERY_MAX),
            lately: Lately::default(),
            seen: Seen::default(),
            words: Words::default(),
            familiar: Familiar::new(FAMILIAR),
            submissions: Together::new(SUBMITTED_TOGETHER),
            errands: Errands::new(),
            fetches: Together::new(BUNDLE_CHUNKS_MAX),
            mending: tokio::sync::Mutex::default(),
            used: Mutex::default(),
        }))
    }

    /// The user's public identity.
    #[must_use]
    pub fn owner(&self) -> OwnerId {
        self.keys.owner()
    }

    /// How files are stored unless a put says otherwise.
    #[must_use]
    pub fn redundancy(&self) -> Redundancy {
        self.settings.redundancy
    }

    /// Puts that were interrupted and can be resumed.
    #[must_use]
    pub fn pending_puts(&self) -> u64 {
        self.journal.pending()
    }

    /// Before its node ends: says what is to be said, gives back what is locked ahead, and waits until the journal is on disk.
    pub async fn close(self: &Arc<Self>) {
        self.tell_now().await;
        self.give_back(self.empty_stock()).await;
        let user = Arc::clone(self);
        if let Err(error) = blocking(move || user.journal.flush()).await {
            tracing::warn!(%error, "the journal was not written to its end");
        }
    }

    fn signing(&self) -> &SigningKey {
        self.keys.signing()
    }
}

/// Random bytes from the operating system.
fn random<const N: usize>() -> Result<[u8; N], UserError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| UserError::Internal(format!("no random bytes: {error}")))?;
    Ok(bytes)
}

fn nonce() -> Result<Hash, UserError> {
    random().map(Hash)
}

/// Runs blocking work off the reactor.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UserError> + Send + 'static,
) -> Result<T, UserError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(UserError::Internal(format!("a worker ended early: {error}"))),
    }
}
