//! Staying equal to the other mirrors: each reads the others' logs every few seconds, which is what converges, and
//! publishes what is new, which only makes it sooner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fathom_overlay::{GossipMessage, Verdict};
use fathom_protocol::codec;
use fathom_protocol::delta::VendorDelta;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::limits::GOSSIP_BYTES_MAX;
use fathom_protocol::sign::RecordError;
use fathom_protocol::table::{Verified, verify};
use fathom_protocol::wire::{Gossip, Page, Refusal, RefusalKind, Request, Response, SyncRecord};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::writer::{Cursor, Kept, encoded_max};
use super::{Mirror, Origin};

/// Gossip messages that wait to be published. Beyond that, others learn by reading this mirror's log.
pub(super) const NEWS_QUEUED_MAX: usize = 256;
/// Hints that another mirror has news.
pub(super) const HINTS_QUEUED_MAX: usize = 64;
/// Mirrors read at once.
const PULLS_AT_ONCE: usize = 8;
/// Longest wait for one page, which may have megabytes.
const PAGE_DEADLINE: Duration = Duration::from_secs(30);
/// A mirror that fails is asked again after twice as long each time, at most so long: a partition that heals is noticed soon.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Bytes that a gossip message adds around its record.
const AROUND: usize = 64;

/// When a mirror that failed is asked again.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Mirror {
    /// Reads the other mirrors for ever: at once, every `poll_seconds`, and when a hint comes.
    pub(super) async fn read_mirrors(self: &Arc<Self>, mut hints: mpsc::Receiver<NodeId>) {
        let period = Duration::from_secs(self.settings.poll_seconds.max(1));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut backoff: BTreeMap<NodeId, Backoff> = BTreeMap::new();
        let mut reading: BTreeSet<NodeId> = BTreeSet::new();
        let mut pulls = JoinSet::new();
        loop {
            let wanted = tokio::select! {
                biased;
                Some(done) = pulls.join_next() => {
                    if let Ok((mirror, well)) = done {
                        reading.remove(&mirror);
                        note(backoff.entry(mirror).or_default(), well, period);
                    } else {
                        // Which one failed is not known; to ask a mirror twice at once does no harm.
                        reading.clear();
                    }
                    continue;
                }
                Some(mirror) = hints.recv() => vec![mirror],
                _ = ticks.tick() => {
                    let now = Instant::now();
                    let mut due = self.net.book().mirrors();
                    backoff.retain(|mirror, _| due.contains(mirror));
                    due.retain(|mirror| backoff.get(mirror).and_then(|known| known.until).is_none_or(|until| until <= now));
                    due
                }
            };
            for mirror in wanted {
                if mirror != self.net.me() && pulls.len() < PULLS_AT_ONCE && reading.insert(mirror) {
                    let this = Arc::clone(self);
                    pulls.spawn(async move { (mirror, this.pull(mirror).await) });
                }
            }
        }
    }

    /// Reads a mirror's log to its end. Returns whether that went well.
    async fn pull(&self, mirror: NodeId) -> bool {
        match self.read_log(mirror).await {
            Ok(records) => {
                if records > 0 {
                    tracing::debug!(mirror = %mirror.short(), records, "read another mirror's log");
                }
                true
            }
            Err(refusal) => {
                tracing::debug!(mirror = %mirror.short(), %refusal, "another mirror's log was not read");
                false
            }
        }
    }

    async fn read_log(&self, mirror: NodeId) -> Result<usize, Refusal> {
        let mut read = 0;
        loop {
            let known = self.writer.shared().state().cursors.get(&mirror).copied();
            let (log, cursor) = known.unwrap_or((Hash([0; Hash::LEN]), 0));
            let answer = self.net.call(mirror, &Request::Since { log, cursor }, PAGE_DEADLINE).await?;
            let Response::Page(page) = answer else {
                return Err(Refusal::new(RefusalKind::BadRequest, "the mirror did not answer with a page"));
            };
            let (more, moved) = (page.more, (page.log, page.next) != (log, cursor));
            read += page.records.len();
            if moved {
                self.keep_page(mirror, page).await?;
            }
            if !more || !moved {
                return Ok(read);
            }
        }
    }

    /// Keeps a page and the cursor after it in one transaction.
    async fn keep_page(&self, mirror: NodeId, page: Page) -> Result<(), Refusal> {
        let cursor = Cursor { mirror, log: page.log, cursor: page.next };
        let all = self.verified(page.records.into_vec()).await?;
        let found = all.len();
        let good: Vec<Verified> = all.into_iter().filter_map(Result::ok).collect();
        if good.len() < found {
            tracing::warn!(mirror = %mirror.short(), records = found - good.len(), "another mirror holds records that do not verify");
        }
        let outcomes = self.writer.keep(good, Some(cursor)).await?;
        self.spread(&outcomes, Origin::Mirror);
        let failed = outcomes.into_iter().find_map(|outcome| match outcome.kept {
            Err(refusal) if refusal.kind == RefusalKind::Internal => Some(refusal),
            _ => None,
        });
        failed.map_or(Ok(()), Err)
    }

    /// Queues a new record for publication: itself if it is small, else a hint that this mirror has it.
    pub(super) fn publish(&self, record: &Verified, position: u64) {
        let small = encoded_max(record) + AROUND <= GOSSIP_BYTES_MAX;
        let message = if small {
            Gossip::Record(Box::new(record.to_record()))
        } else {
            Gossip::Grew { mirror: self.net.me(), cursor: position }
        };
        if self.news.try_send(codec::encode(&message)).is_err() {
            tracing::debug!("too much to publish at once; the other mirrors will read it");
        }
    }

    /// Queues a vendor's delta for publication if it is small, else a hint that this mirror has the record that it made.
    pub(super) fn publish_delta(&self, record: &Verified, delta: VendorDelta, position: u64) {
        let delta = codec::encode(&Gossip::Delta(Box::new(delta)));
        if delta.len() > GOSSIP_BYTES_MAX {
            return self.publish(record, position);
        }
        if self.news.try_send(delta).is_err() {
            tracing::debug!("too much to publish at once; the other mirrors will read it");
        }
    }

    /// Publishes for ever. That nobody listens, or takes it fast enough, is no failure: the log has it.
    pub(super) async fn publish_news(&self, mut news: mpsc::Receiver<Vec<u8>>) {
        while let Some(message) = news.recv().await {
            if let Err(error) = self.net.overlay().publish(message).await {
                tracing::debug!(%error, "not published");
            }
        }
    }

    /// Takes a gossip message; its verdict is reported once its record is on disk. Returns when there is room to work on it.
    pub async fn gossip(self: &Arc<Self>, message: GossipMessage) {
        let Ok(permit) = Arc::clone(&self.gossiping).acquire_owned().await else { return };
        let mirror = Arc::clone(self);
        tokio::spawn(async move {
            let verdict = mirror.judge(&message.bytes).await;
            mirror.net.overlay().report_gossip(message.id, verdict).await;
            drop(permit);
        });
    }

    /// What becomes of a gossip message, after its record is on disk.
    pub(super) async fn judge(&self, bytes: &[u8]) -> Verdict {
        match codec::decode::<Gossip>(bytes, GOSSIP_BYTES_MAX) {
            Ok(Gossip::Record(record)) => self.judge_record(*record).await,
            Ok(Gossip::Delta(delta)) => self.judge_delta(*delta).await,
            Ok(Gossip::Grew { mirror, cursor }) => self.judge_hint(mirror, cursor),
            Err(_) => Verdict::Reject,
        }
    }

    /// A delta whose base is not here is no fault of its sender: the record is read from a log.
    async fn judge_delta(&self, delta: VendorDelta) -> Verdict {
        match self.apply_delta(delta).await {
            Ok(record) => self.judge_verified(record).await,
            Err(refusal) if matches!(refusal.kind, RefusalKind::NotAuthorised | RefusalKind::BadRequest) => {
                Verdict::Reject
            }
            Err(_) => Verdict::Ignore,
        }
    }

    async fn judge_record(&self, record: SyncRecord) -> Verdict {
        let record = match self.off_reactor(move || verify(record)).await {
            Ok(Ok(record)) => record,
            // A newer node may speak a newer version; nobody is to blame.
            Ok(Err(RecordError::Version(_))) | Err(_) => return Verdict::Ignore,
            Ok(Err(_)) => return Verdict::Reject,
        };
        self.judge_verified(record).await
    }

    async fn judge_verified(&self, record: Verified) -> Verdict {
        let Ok(outcomes) = self.writer.keep(vec![record], None).await else { return Verdict::Ignore };
        self.spread(&outcomes, Origin::Mirror);
        match outcomes.first().map(|outcome| &outcome.kept) {
            Some(Ok(Kept::New { .. })) => Verdict::Accept,
            _ => Verdict::Ignore,
        }
    }

    /// A hint is not signed, so only one that names a known mirror and news of it goes on.
    fn judge_hint(&self, mirror: NodeId, cursor: u64) -> Verdict {
        let seen = self.writer.shared().state().cursors.get(&mirror).map_or(0, |(_, cursor)| *cursor);
        if mirror == self.net.me() || cursor <= seen || !self.net.book().mirrors().contains(&mirror) {
            return Verdict::Ignore;
        }
        // A full queue means that mirrors are being read already.
        let _ = self.hints.try_send(mirror);
        Verdict::Accept
    }
}

fn note(backoff: &mut Backoff, well: bool, period: Duration) {
    if well {
        *backoff = Backoff::default();
    } else {
        backoff.failures = backoff.failures.saturating_add(1);
        let wait = period.saturating_mul(1 << backoff.failures.min(8)).min(BACKOFF_MAX);
        backoff.until = Some(Instant::now() + wait);
    }
}
