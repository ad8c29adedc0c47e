//! The FAT mirror: one of the nodes that together are the source design's "Server 5".
//!
//! It verifies records, keeps them, matches requests for storage with vendors, and passes on what it knows; it authors no
//! fact. [`Mirror::handle`] answers requests, [`Mirror::gossip`] takes hints, and [`Mirror::run`] reads the other mirrors'
//! logs, publishes what is new and tells vendors. It knows nothing of chunks, and of manifests only that they are sealed.

mod allocate;
mod deliver;
mod query;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod view;
mod witness;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fathom_protocol::delta::VendorDelta;
use fathom_protocol::ids::{FileId, NodeId, OwnerId};
use fathom_protocol::limits::FATS_PER_SUBMIT_MAX;
use fathom_protocol::moves::CarriedMove;
use fathom_protocol::sign::Carried;
use fathom_protocol::sync::{Cursor, Settings, Sync};
use fathom_protocol::table::{Strangers, Submission, Verified, verify};
use fathom_protocol::wire::{
    Cancel, Refusal, RefusalKind, Request, Response, SyncRecord, TableDigest, Unused, Validation,
};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::net::Net;
pub use store::StoreError;
pub(crate) use store::inspect;
pub use view::fat_view;
use writer::{Kept, Outcome, Writer};

/// Gossip messages that are verified and written at once.
const GOSSIP_AT_ONCE: usize = 64;
/// Longest wait for a vendor that is passed a message of its user.
const PASS_ON: std::time::Duration = std::time::Duration::from_secs(2);

/// What a mirror's operator chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorSettings {
    /// Seconds between two looks at another mirror's log; 1 at least.
    pub poll_seconds: u64,
    /// Seconds between two comparisons with another mirror's table; 1 at least.
    pub reconcile_seconds: u64,
}

impl Default for MirrorSettings {
    fn default() -> Self {
        Self { poll_seconds: 2, reconcile_seconds: 180 }
    }
}

/// Why a mirror cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Its records cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How downloads from one vendor went, by its users' word, since this mirror started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Quality {
    good: u64,
    bad: u64,
}

/// A FAT mirror.
#[derive(Debug)]
pub struct Mirror {
    net: Net,
    writer: Writer,
    /// What is asked of the other mirrors, and who is listened to. Locked before the table, never after it.
    sync: Mutex<Sync>,
    started: tokio::time::Instant,
    /// Has the core looked after earlier than it wished.
    wake: Notify,
    /// Permits for work that keeps a core busy: all cores but one.
    cores: Semaphore,
    gossiping: Arc<Semaphore>,
    quality: Mutex<BTreeMap<NodeId, Quality>>,
    strangers: Mutex<Strangers>,
    orders: mpsc::Sender<deliver::Order>,
    news: mpsc::Sender<sync::News>,
    queues: Mutex<Option<Queues>>,
}

/// What [`Mirror::run`] works off.
#[derive(Debug)]
struct Queues {
    orders: mpsc::Receiver<deliver::Order>,
    news: mpsc::Receiver<sync::News>,
}

/// Where records came from: those brought by their authors are spread, the others spread already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Author,
    Mirror,
}

impl Mirror {
    /// Opens the mirror's records under `dir`, verifies them and starts its writer. Blocks while it reads.
    ///
    /// # Errors
    /// [`MirrorError`], worded for the operator.
    pub fn open(dir: &Path, net: Net, config: &MirrorSettings) -> Result<Arc<Self>, MirrorError> {
        let writer = Writer::open(&dir.join("mirror").join("fat.redb"))?;
        Ok(Self::with_writer(writer, net, config))
    }

    fn with_writer(writer: Writer, net: Net, config: &MirrorSettings) -> Arc<Self> {
        let (orders, order_queue) = mpsc::channel(deliver::ORDERS_QUEUED_MAX);
        let (news, news_queue) = mpsc::channel(sync::NEWS_QUEUED_MAX);
        let cores = std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1);
        {
            let state = writer.shared().state();
            for vendor in state.table.vendors() {
                let addresses = vendor.head.addresses.iter().map(ToString::to_string);
                net.book().learn_addresses(vendor.head.vendor, addresses);
            }
        }
        let settings = Settings {
            me: net.me(),
            poll_ms: config.poll_seconds.max(1).saturating_mul(1000),
            compare_ms: config.reconcile_seconds.max(1).saturating_mul(1000),
        };
        let cursors = writer.shared().state().cursors.clone();
        let cursors = cursors.into_iter().map(|(mirror, (log, position))| (mirror, Cursor { log, position }));
        Arc::new(Self {
            net,
            sync: Mutex::new(Sync::new(settings, cursors.collect())),
            started: tokio::time::Instant::now(),
            wake: Notify::new(),
            writer,
            cores: Semaphore::new(cores),
            gossiping: Arc::new(Semaphore::new(GOSSIP_AT_ONCE)),
            quality: Mutex::default(),
            strangers: Mutex::default(),
            orders,
            news,
            queues: Mutex::new(Some(Queues { orders: order_queue, news: news_queue })),
        })
    }

    /// Answers a request of `from`. Requests for other roles are refused as `WrongRole`.
    pub async fn handle(self: &Arc<Self>, from: NodeId, request: Request) -> Response {
        tracing::trace!(from = %from.short(), "request to the mirror");
        let answer = match request {
            Request::Allocate(request) => self.allocate(request).await,
            Request::Report(record) => self.keep_one(from, SyncRecord::Vendor(record)).await,
            Request::ReportDelta(delta) => self.report_delta(from, delta).await,
            Request::VendorOf(vendor) => self.vendor_of(vendor).await.map(Response::Page),
            Request::Proofs(vendors) => self.proofs(vendors).await.map(Response::Page),
            Request::SubmitFats(fats) => self.submit_fats(from, fats.into_vec()).await,
            Request::FatsOf(query) => self.fats_of(query).await.map(Response::Files),
            Request::Vendors { after } => self.vendors(after).await.map(Response::Page),
            Request::Heads(vendors) => Ok(Response::Heads(self.heads(&vendors))),
            Request::Since { log, cursor } => self.since(log, cursor).await.map(Response::Page),
            Request::Orders { vendor, log, cursor } => self.orders_of(vendor, log, cursor).await.map(Response::Page),
            Request::SubmitMove(moved) => self.submit_move(from, moved).await,
            Request::Validate(words) => self.validate(words.into_vec()).await,
            Request::Unused(unused) => self.unused(unused).await,
            Request::Cancel(cancel) => self.cancel(cancel).await,
            Request::Compare(compare) => self.compare(from, compare).await.map(Response::Compared),
            Request::Wanted(wanted) => self.wanted(wanted).await.map(Response::Page),
            Request::Digest => Ok(Response::Digest(self.digest())),
            Request::LeaseOf { vendor, lease } => {
                self.lease_of(vendor, lease).await.map(|evidence| Response::Lease(Box::new(evidence)))
            }
            _ => Err(Refusal::new(RefusalKind::WrongRole, "a mirror does not answer this")),
        };
        answer.unwrap_or_else(Response::Refused)
    }

    /// Digest of the table: equal for two mirrors exactly if they hold the same.
    #[must_use]
    pub fn digest(&self) -> TableDigest {
        self.writer.shared().state().digest()
    }

    /// Works until `cancel`: reads the other mirrors' logs and compares tables, publishes what is new here,
    /// and tells vendors of final FATs. A second call returns at once.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(queues) = queues else { return };
        let work = async {
            tokio::join!(
                self.keep_in_sync(),
                self.publish_news(queues.news),
                self.deliver_orders(queues.orders),
                self.watch_leases()
            )
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            _ = work => {}
        }
    }

    /// Runs `work` off the reactor, with at most as many others as there are cores but one.
    async fn off_reactor<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let failed = |_| Refusal::new(RefusalKind::Internal, "this mirror is shutting down");
        let _permit = self.cores.acquire().await.map_err(failed)?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Refusal::new(RefusalKind::Internal, format!("the mirror failed: {error}")))
    }

    async fn keep_one(&self, from: NodeId, record: SyncRecord) -> Result<Response, Refusal> {
        let mut admission = self.admit(from)?;
        let verified = self.off_reactor(move || verify(record)).await?;
        admission.note([&verified]);
        let record = verified?;
        self.keep(vec![record]).await?.pop().unwrap_or(Ok(())).map(|()| Response::Done)
    }

    /// Keeps records that their authors brought, and spreads what is new. One result for each record, in order.
    async fn keep(&self, records: Vec<Verified>) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        let asked = records.len();
        let outcomes = self.writer.keep(records, None).await?;
        self.spread(&outcomes, Origin::Author);
        Ok(outcomes.into_iter().take(asked).map(|outcome| outcome.kept.map(drop)).collect())
    }

    /// As [`Self::spread`] for what a vendor's delta made, which is published as the delta that it came as.
    fn spread_delta(&self, outcomes: &[Outcome], delta: VendorDelta) {
        self.spread(outcomes, Origin::Mirror);
        if let Some(Outcome { record, kept: Ok(Kept::New { position, .. }) }) = outcomes.first() {
            self.publish_delta(record, delta, *position);
        }
    }

    /// Does what follows from new records: addresses are learnt; what came from its author is published and its vendors told.
    fn spread(&self, outcomes: &[Outcome], origin: Origin) {
        for Outcome { record, kept } in outcomes {
            let Ok(Kept::New { position, tell }) = kept else { continue };
            match record {
                Verified::Vendor(vendor) => {
                    let addresses = vendor.head.addresses.iter().map(ToString::to_string);
                    self.net.book().learn_addresses(vendor.head.vendor, addresses);
                }
                Verified::Fat(fat) if origin == Origin::Author => self.order(fat.owner, fat.file, tell.clone()),
                Verified::Fat(_) | Verified::Move(..) | Verified::Proof(_) => {}
            }
            // Proofs are rare, and whoever has one has it from here or knows it.
            if origin == Origin::Author || matches!(record, Verified::Proof(_)) {
                self.publish(record, *position);
            }
        }
    }

    /// Has vendors told of a file's final FAT. What finds no room is picked up by the vendors' own polling.
    fn order(&self, owner: OwnerId, file: FileId, vendors: Vec<NodeId>) {
        if !vendors.is_empty() && self.orders.try_send(deliver::Order { owner, file, vendors }).is_err() {
            tracing::debug!("too many orders at once; vendors will ask for this one");
        }
    }

    async fn submit_fats(
        &self,
        from: NodeId,
        fats: Vec<Carried<fathom_protocol::fat::FinalFat>>,
    ) -> Result<Response, Refusal> {
        let mut admission = self.admit(from)?;
        let fats = fats.into_iter().map(SyncRecord::Fat).collect();
        let verified = self.off_reactor(move || sync::verify_all(fats)).await?;
        admission.note(&verified);
        let mut answers: Vec<Option<Refusal>> = Vec::with_capacity(verified.len());
        let mut good = Vec::new();
        let mut submission = Submission::default();
        for record in verified {
            match record.map_err(Refusal::from).and_then(|record| self.let_in(record, &mut submission)) {
                Ok(record) => {
                    good.push(record);
                    answers.push(None);
                }
                Err(refusal) => answers.push(Some(refusal)),
            }
        }
        let outcomes = self.writer.keep(good, None).await?;
        self.spread(&outcomes, Origin::Author);
        let mut kept = outcomes.into_iter();
        for answer in answers.iter_mut().filter(|answer| answer.is_none()) {
            *answer = kept.next().and_then(|outcome| match outcome.kept {
                Ok(_) => self.forked(&outcome.record),
                Err(refusal) => Some(refusal),
            });
        }
        debug_assert!(answers.len() <= FATS_PER_SUBMIT_MAX);
        Ok(Response::Submitted(fathom_protocol::codec::Bounded::first(answers)))
    }

    /// Lets a final FAT in, or refuses it. `submission` is what was let in of it before.
    fn let_in(&self, record: Verified, submission: &mut Submission) -> Result<Verified, Refusal> {
        if let Verified::Fat(fat) = &record {
            let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
            self.writer.shared().state().table.admit(fat, submission, &mut strangers, clock::now())?;
        }
        Ok(record)
    }

    /// What the author of a final FAT that was kept must know.
    fn forked(&self, record: &Verified) -> Option<Refusal> {
        let (owner, file) = record.key().file()?;
        let versions = self.writer.shared().state().table.versions(owner, file).count();
        (versions > 1).then(|| {
            let reason = "another device of yours stored this file at the same time; both versions are kept";
            Refusal::new(RefusalKind::Forked, reason)
        })
    }

    async fn submit_move(&self, from: NodeId, moved: CarriedMove) -> Result<Response, Refusal> {
        let mut admission = self.admit(from)?;
        let verified =
            self.off_reactor(move || moved.verify().map(|body| (body.clone(), Verified::Move(body, moved)))).await?;
        admission.note([&verified]);
        let (body, record) = verified?;
        let kept = self.keep(vec![record]).await?.pop().unwrap_or(Ok(()));
        if let Err(refusal) = &kept
            && refusal.kind == RefusalKind::Stale
        {
            self.order(body.owner, body.file, vec![body.to]);
        }
        kept.map(|()| Response::Done)
    }

    async fn validate(&self, words: Vec<Carried<Validation>>) -> Result<Response, Refusal> {
        let verified = move || words.into_iter().map(Carried::verify).collect::<Result<Vec<_>, _>>();
        for validation in self.off_reactor(verified).await?? {
            if self.writer.shared().state().table.vendor(validation.vendor).is_none() {
                return Err(Refusal::new(RefusalKind::NotFound, "this mirror does not know that vendor"));
            }
            let mut quality = self.quality.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = quality.entry(validation.vendor).or_default();
            counts.good = counts.good.saturating_add(validation.good.len() as u64);
            counts.bad = counts.bad.saturating_add(validation.bad.len() as u64);
        }
        Ok(Response::Done)
    }

    async fn cancel(&self, cancel: Carried<Cancel>) -> Result<Response, Refusal> {
        let cancel = self.off_reactor(move || cancel.verify()).await??;
        let (vendor, request) = (cancel.vendor, (cancel.authority, cancel.request));
        let answer = self.net.call(vendor, &Request::Cancel(cancel.into_carried()), PASS_ON).await?;
        if answer == Response::Done {
            // Its next head is seconds away, and others look for room now.
            self.writer.shared().state().market.withdrawn(vendor, request);
        }
        Ok(answer)
    }

    async fn unused(&self, unused: Carried<Unused>) -> Result<Response, Refusal> {
        let unused = self.off_reactor(move || unused.verify()).await??;
        let vendor = unused.vendor;
        self.net.call(vendor, &Request::Unused(unused.into_carried()), PASS_ON).await
    }
}
