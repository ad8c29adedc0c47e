//! Answers in pages: a user's files, all vendors, the log, and a vendor's orders.

use std::sync::Arc;

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::{FileId, Hash, NodeId, OwnerId};
use fathom_protocol::limits::{HEADS_MAX, SYNC_RECORDS_MAX};
use fathom_protocol::sign::Carried;
use fathom_protocol::table::Key;
use fathom_protocol::wire::{FilesPage, LogCursor, OwnerQuery, Page, Refusal, RefusalKind, SyncRecord};

use super::Mirror;
use super::store::{LogPage, PAGE_BYTES, parse_key};
use super::writer::{Shared, State, vendor_max};
use crate::clock;

impl Mirror {
    /// A user's final FATs and moves: what came after a position of this log, or all of them in the order of their keys. Released
    /// files are among them: their sequence numbers go on.
    pub(super) async fn fats_of(&self, query: Carried<OwnerQuery>) -> Result<FilesPage, Refusal> {
        let query = self.off_reactor(move || query.verify()).await??;
        if query.mirror != self.net.me() {
            return Err(Refusal::new(RefusalKind::NotAuthorised, "this query was signed for another mirror"));
        }
        if query.expires < clock::now() {
            return Err(Refusal::new(RefusalKind::LeaseExpired, "the query has expired; sign a new one"));
        }
        let shared = Arc::clone(self.writer.shared());
        let page = self.off_reactor(move || match query.since.filter(|_| query.file.is_none()) {
            Some(since) if own_cursor(&shared, since.log, since.position)? == since.position => {
                news_of(&shared, &query, since.position)
            }
            _ => all_of(&shared, &query),
        });
        page.await?.map_err(|error| unreadable(&error))
    }

    /// Vendors after `after`, by identifier.
    pub(super) async fn vendors(&self, after: Option<NodeId>) -> Result<Page, Refusal> {
        self.page(move |shared| {
            let mut page = LogPage::default();
            let mut bytes = 0;
            for vendor in shared.state().table.vendors_after(after) {
                bytes += vendor_max(vendor);
                if !page.records.is_empty() && (bytes > PAGE_BYTES || page.records.len() == SYNC_RECORDS_MAX) {
                    page.more = true;
                    break;
                }
                page.records.push(SyncRecord::Vendor(vendor.to_record()));
            }
            Ok(page)
        })
        .await
    }

    /// The heads of `vendors`, those that are known here.
    pub(super) fn heads(&self, vendors: &[NodeId]) -> Bounded<Carried<VendorHead>, HEADS_MAX> {
        let state = self.writer.shared().state();
        let known = vendors.iter().filter_map(|vendor| state.table.vendor(*vendor));
        Bounded::first(known.map(|vendor| vendor.head.carried().clone()))
    }

    /// What was accepted here after `cursor`; from the start if the cursor is not of this log.
    pub(super) async fn since(&self, log: Hash, cursor: u64) -> Result<Page, Refusal> {
        self.page(move |shared| {
            let cursor = own_cursor(shared, log, cursor)?;
            shared.store.after(cursor, |key| vec![key.to_vec()])
        })
        .await
    }

    /// Final FATs after `cursor` that `vendor` must see: those that use or free it, whose chunks were moved to it, or that it
    /// held before.
    pub(super) async fn orders_of(&self, vendor: NodeId, log: Hash, cursor: u64) -> Result<Page, Refusal> {
        self.page(move |shared| {
            let cursor = own_cursor(shared, log, cursor)?;
            shared.store.after(cursor, |key| match parse_key(key) {
                // All versions of the file: which of them names the vendor's chunks is the vendor's to see.
                Some(Key::Fat(owner, file) | Key::Twin(owner, file, _)) => {
                    let state = shared.state();
                    let concerned = concerns(&state, vendor, owner, file);
                    let keys = state.table.version_keys(owner, file).filter(|_| concerned);
                    keys.map(Key::to_bytes).collect()
                }
                _ => Vec::new(),
            })
        })
        .await
    }

    async fn page(
        &self,
        work: impl FnOnce(&Shared) -> Result<LogPage, redb::Error> + Send + 'static,
    ) -> Result<Page, Refusal> {
        let shared = Arc::clone(self.writer.shared());
        let log = shared.store.log();
        let page = self.off_reactor(move || work(&shared)).await?.map_err(|error| unreadable(&error))?;
        Ok(Page { log, next: page.next, more: page.more, clock: clock::now(), records: Bounded::first(page.records) })
    }
}

/// The cursor if it belongs to this log and the log ever was that long (one restored from a backup is shorter), else 0.
fn own_cursor(shared: &Shared, log: Hash, cursor: u64) -> Result<u64, redb::Error> {
    let valid = log == shared.store.log() && cursor <= shared.store.newest()?;
    Ok(if valid { cursor } else { 0 })
}

fn unreadable(error: &redb::Error) -> Refusal {
    tracing::error!(%error, "the mirror's records cannot be read");
    Refusal::new(RefusalKind::Internal, "the mirror's disk failed; ask another mirror")
}

/// What this mirror took of the owner's since `position`.
fn news_of(shared: &Shared, query: &OwnerQuery, position: u64) -> Result<FilesPage, redb::Error> {
    let own = |key: &[u8]| Key::of_file(key).and_then(|key| key.file()).is_some_and(|(owner, _)| owner == query.owner);
    let page = shared.store.after(position, |key| if own(key) { vec![key.to_vec()] } else { Vec::new() })?;
    let cursor = LogCursor { log: shared.store.log(), position: page.next };
    Ok(FilesPage { cursor, whole: false, after: None, more: page.more, records: Bounded::first(page.records) })
}

/// Everything of the owner's, or of one file, after the query's key.
fn all_of(shared: &Shared, query: &OwnerQuery) -> Result<FilesPage, redb::Error> {
    // Before the keys are looked up: what comes meanwhile is read again from the log.
    let cursor = LogCursor { log: shared.store.log(), position: shared.store.newest()? };
    let after = query.after.as_ref().and_then(|after| Key::of_file(after));
    let mut keys: Vec<Key> = {
        let state = shared.state();
        state.table.keys_of(query.owner, query.file, after).take(SYNC_RECORDS_MAX + 1).collect()
    };
    let cut = keys.len() > SYNC_RECORDS_MAX;
    keys.truncate(SYNC_RECORDS_MAX);
    let (records, covered) = shared.store.records(&keys)?;
    let last = keys[..covered].last().and_then(|key| Blob::new(key.to_bytes()).ok());
    let more = cut || covered < keys.len();
    Ok(FilesPage { cursor, whole: true, after: last, more, records: Bounded::first(records) })
}

fn concerns(state: &State, vendor: NodeId, owner: OwnerId, file: FileId) -> bool {
    let mut versions = state.table.versions(owner, file);
    versions.any(|fat| fat.vendors.binary_search(&vendor).is_ok())
        || state.also.get(&(owner, file)).is_some_and(|vendors| vendors.contains(&vendor))
        || state.table.moves_of(owner, file).any(|(_, moved)| moved.to == vendor)
}
