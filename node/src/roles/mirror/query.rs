//! Answers in pages: a user's files, all vendors, the log, and a vendor's orders.

use std::sync::Arc;

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::head::{LeaseEvidence, VendorHead};
use fathom_protocol::ids::{FileId, Hash, LeaseId, NodeId, OwnerId};
use fathom_protocol::limits::{HEADS_MAX, SYNC_RECORDS_MAX};
use fathom_protocol::reconcile::{Compare, Compared, Probe, WantedList, answer, wanted_keys};
use fathom_protocol::sign::Carried;
use fathom_protocol::sync::{Cursor, Event};
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
        let page = self.off_reactor(move || match query.since.filter(|_| query.files.is_empty()) {
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

    /// One lease of `vendor`, or of whichever vendor has it, with the proof under that vendor's newest head here.
    ///
    /// # Errors
    /// `NotFound` if the vendor, or any vendor with that lease, is not known here.
    pub(super) async fn lease_of(&self, vendor: Option<NodeId>, lease: LeaseId) -> Result<LeaseEvidence, Refusal> {
        let known = {
            let state = self.writer.shared().state();
            match vendor {
                Some(vendor) => state.table.vendor(vendor).cloned(),
                None => state.table.vendor_of(lease).cloned(),
            }
        };
        let reason =
            if vendor.is_some() { "this mirror does not know that vendor" } else { "no vendor has that lease" };
        let known = known.ok_or_else(|| Refusal::new(RefusalKind::NotFound, reason))?;
        // Proving hashes all of the vendor's leases.
        self.off_reactor(move || known.evidence(lease)).await
    }

    /// One vendor's head and leases, and the proof against it if there is one.
    pub(super) async fn vendor_of(&self, vendor: NodeId) -> Result<Page, Refusal> {
        self.page(move |shared| {
            Ok(LogPage {
                records: shared.store.records(&[Key::Vendor(vendor), Key::Proof(vendor)])?.0,
                ..LogPage::default()
            })
        })
        .await
    }

    /// The proofs against `vendors`, against all if none is named; as many as fit a page.
    pub(super) async fn proofs(&self, vendors: Bounded<NodeId, HEADS_MAX>) -> Result<Page, Refusal> {
        self.page(move |shared| {
            let wanted = |vendor: &NodeId| vendors.is_empty() || vendors.contains(vendor);
            let keys: Vec<Key> =
                shared.state().table.proofs().map(|(vendor, _)| vendor).filter(wanted).map(Key::Proof).collect();
            let (records, covered) = shared.store.records(&keys)?;
            Ok(LogPage { records, next: 0, more: covered < keys.len() })
        })
        .await
    }

    /// The heads of `vendors`, those that are known here.
    pub(super) fn heads(&self, vendors: &[NodeId]) -> Bounded<Carried<VendorHead>, HEADS_MAX> {
        let state = self.writer.shared().state();
        let known = vendors.iter().filter_map(|vendor| state.table.vendor(*vendor));
        Bounded::first(known.map(|vendor| vendor.head.carried().clone()))
    }

    /// What was accepted here after `cursor`, for the first reading from the start. Who read another log, or this one when it was
    /// longer, is told where it ends now and compares tables instead.
    pub(super) async fn since(&self, log: Hash, cursor: u64) -> Result<Page, Refusal> {
        self.page(move |shared| {
            let newest = shared.store.newest()?;
            let first = log == Cursor::NONE.log;
            if !first && (log != shared.store.log() || cursor > newest) {
                return Ok(LogPage { records: Vec::new(), next: newest, more: false });
            }
            shared.store.after(if first { 0 } else { cursor }, |key| vec![key.to_vec()])
        })
        .await
    }

    /// Where this table differs from another mirror's.
    pub(super) async fn compare(&self, from: NodeId, compare: Compare) -> Result<Compared, Refusal> {
        let shared = Arc::clone(self.writer.shared());
        let root = matches!(compare.probe, Probe::Root(_));
        let told = self.off_reactor(move || answer(shared.state().table.index(), &compare)).await?;
        if root {
            self.tell_core(Event::Compared { by: from, differ: told != Compared::Same });
        }
        Ok(told)
    }

    /// Records that another mirror lacks; `next` of the page counts the positions that were looked at.
    pub(super) async fn wanted(&self, wanted: WantedList) -> Result<Page, Refusal> {
        self.page(move |shared| {
            let found = wanted_keys(&shared.state().table, &wanted);
            let places: Vec<(usize, Key)> =
                found.iter().enumerate().filter_map(|(at, key)| key.map(|key| (at, key))).collect();
            let keys: Vec<Key> = places.iter().map(|(_, key)| *key).collect();
            let (records, covered) = shared.store.records(&keys)?;
            let looked_at = places.get(covered).map_or(found.len(), |(at, _)| *at);
            Ok(LogPage { records, next: looked_at as u64, more: looked_at < wanted.len() })
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

/// Everything of the owner's, or of the files named, after the query's key.
fn all_of(shared: &Shared, query: &OwnerQuery) -> Result<FilesPage, redb::Error> {
    // Before the keys are looked up: what comes meanwhile is read again from the log.
    let cursor = LogCursor { log: shared.store.log(), position: shared.store.newest()? };
    let after = query.after.as_ref().and_then(|after| Key::of_file(after));
    let mut keys: Vec<Key> = {
        let state = shared.state();
        state.table.keys_of(query.owner, &query.files, after).take(SYNC_RECORDS_MAX + 1).collect()
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
