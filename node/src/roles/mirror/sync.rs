//! Staying equal to the other mirrors. What is asked of whom and when, and who is listened to, [`Sync`] decides; here its
//! actions are carried out: calls, verification, writing, bans.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fathom_overlay::{GossipMessage, Verdict};
use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::delta::VendorDelta;
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::{BAD_RECORDS_MAX, GOSSIP_BYTES_MAX, GOSSIP_RECORDS_MAX};
use fathom_protocol::sign::RecordError;
use fathom_protocol::sync::{self, Action, Event, Sync, Told};
use fathom_protocol::table::{Identity, Verified, verify};
use fathom_protocol::wire::{Gossip, Refusal, RefusalKind, Request, SyncRecord};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::writer::{Cursor, Kept, encoded_max};
use super::{Mirror, Origin};

/// Gossip messages that wait to be published. Beyond that, others learn by reading this mirror's log.
pub(super) const NEWS_QUEUED_MAX: usize = 256;
/// How often is published, at most: what comes meanwhile goes together.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// How often the book is looked at for mirrors.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes that a gossip message adds around its record.
const AROUND: usize = 64;

/// What is to be published.
#[derive(Debug)]
pub(super) enum News {
    /// A record, and what it takes in a message at most, bytes.
    Record(Box<SyncRecord>, usize),
    /// A message as it is sent.
    Message(Vec<u8>),
}

/// The next message to be sent: records that follow each other go as one, as far as it holds them.
fn next_message(queued: &mut VecDeque<News>) -> Option<Vec<u8>> {
    let (mut records, mut bytes) = (Vec::new(), AROUND);
    while records.len() < GOSSIP_RECORDS_MAX {
        match queued.pop_front() {
            Some(News::Record(record, more)) if records.is_empty() || bytes + more <= GOSSIP_BYTES_MAX => {
                bytes += more;
                records.push(*record);
            }
            Some(News::Message(message)) if records.is_empty() => return Some(message),
            Some(other) => {
                queued.push_front(other);
                break;
            }
            None => break,
        }
    }
    match records.len() {
        0 => None,
        1 => records.pop().map(|record| codec::encode(&Gossip::Record(Box::new(record)))),
        _ => Some(codec::encode(&Gossip::Records(Bounded::first(records)))),
    }
}

/// The permission to verify what a peer brought. When it ends, the core hears what was found.
pub(super) struct Admission<'a> {
    mirror: &'a Mirror,
    from: NodeId,
    bad: usize,
}

impl Admission<'_> {
    /// Notes what did not verify and counts against the peer.
    pub(super) fn note<'r, T: 'r>(&mut self, results: impl IntoIterator<Item = &'r Result<T, RecordError>>) {
        self.bad += results.into_iter().filter(|result| is_bad(result)).count();
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.mirror.tell_core(Event::Checked { from: self.from, bad: self.bad });
    }
}

/// A newer node may speak a newer version; nobody is to blame for that.
fn is_bad<T>(result: &Result<T, RecordError>) -> bool {
    matches!(result, Err(error) if !matches!(error, RecordError::Version(_)))
}

/// Verifies records. After as many bad ones as end in a ban, the others are not looked at.
pub(super) fn verify_all(records: Vec<SyncRecord>) -> Vec<Result<Verified, RecordError>> {
    let mut bad = 0;
    let check = |record| {
        if bad >= BAD_RECORDS_MAX {
            return Err(RecordError::Invalid("too many records before it were not; it was not looked at"));
        }
        let result = verify(record);
        bad += u32::from(is_bad(&result));
        result
    };
    records.into_iter().map(check).collect()
}

impl Mirror {
    fn core(&self) -> std::sync::MutexGuard<'_, Sync> {
        self.sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn decide(&self, event: Event) -> Vec<Action> {
        let mut core = self.core();
        let state = self.writer.shared().state();
        core.handle(event, &state.table, self.now_ms(), rand::random())
    }

    /// Tells the core of something that is no answer to its questions, and does what follows. Returns the verdict, for gossip.
    pub(super) fn tell_core(&self, event: Event) -> Option<sync::Verdict> {
        let mut verdict = None;
        for action in self.decide(event) {
            match action {
                Action::Verdict(decided) => verdict = Some(decided),
                Action::Ban { peer, ms } => self.ban(peer, ms),
                Action::Wake { .. } => self.wake.notify_one(),
                // The core asks and keeps only where its answers go.
                Action::Ask { .. } | Action::Keep { .. } => {}
            }
        }
        verdict
    }

    fn ban(&self, peer: NodeId, ms: u64) {
        tracing::warn!(peer = %peer.short(), minutes = ms / 60_000, "a peer brings records that do not verify, and is refused for a while");
        let overlay = self.net.overlay().clone();
        tokio::spawn(async move { overlay.ban(peer, Duration::from_millis(ms)).await });
    }

    /// The permission to verify what `from` brought.
    ///
    /// # Errors
    /// A [`Refusal`] if it is banned, or if much of what it brought is still being verified.
    pub(super) fn admit(&self, from: NodeId) -> Result<Admission<'_>, Refusal> {
        let (mut core, now) = (self.core(), self.now_ms());
        if core.admits(from, now) {
            return Ok(Admission { mirror: self, from, bad: 0 });
        }
        Err(match core.banned(from, now) {
            true => Refusal::new(RefusalKind::NotAuthorised, "you brought records that do not verify; come back later"),
            false => Refusal::new(RefusalKind::Busy, "what you brought before is still being verified"),
        })
    }

    /// Works for ever: reads the other mirrors' logs and compares tables, as the core says.
    pub(super) async fn keep_in_sync(self: &Arc<Self>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut work: JoinSet<Event> = JoinSet::new();
        let mut about: HashMap<Id, (NodeId, u64)> = HashMap::new();
        let mut wake = Instant::now();
        loop {
            let event = tokio::select! {
                biased;
                Some(done) = work.join_next_with_id() => match done {
                    Ok((id, event)) => {
                        about.remove(&id);
                        event
                    }
                    Err(error) => match about.remove(&error.id()) {
                        Some((peer, ask)) => Event::Failed { peer, ask, refused: true },
                        None => Event::Tick,
                    },
                },
                () = self.wake.notified() => Event::Tick,
                () = tokio::time::sleep_until(wake) => {
                    wake += Duration::from_secs(24 * 3600);
                    Event::Tick
                }
                _ = look.tick() => Event::Mirrors(self.net.book().mirrors()),
            };
            for action in self.decide(event) {
                let this = Arc::clone(self);
                let (peer, ask) = match &action {
                    Action::Ask { peer, ask, .. } | Action::Keep { peer, ask, .. } => (*peer, *ask),
                    Action::Wake { at_ms } => {
                        wake = self.started + Duration::from_millis(*at_ms);
                        continue;
                    }
                    Action::Ban { peer, ms } => {
                        self.ban(*peer, *ms);
                        continue;
                    }
                    Action::Verdict(_) => continue,
                };
                let id = work.spawn(async move { this.carry_out(action).await }).id();
                about.insert(id, (peer, ask));
            }
        }
    }

    async fn carry_out(&self, action: Action) -> Event {
        match action {
            Action::Ask { peer, ask, request, within_ms } => self.ask(peer, ask, request, within_ms).await,
            Action::Keep { peer, ask, records, cursor } => self.keep_brought(peer, ask, records, cursor).await,
            Action::Verdict(_) | Action::Ban { .. } | Action::Wake { .. } => Event::Tick,
        }
    }

    async fn ask(&self, peer: NodeId, ask: u64, request: Request, within_ms: u64) -> Event {
        match self.net.call(peer, &request, Duration::from_millis(within_ms)).await {
            Ok(response) => Event::Answered { peer, ask, response },
            Err(refusal) => {
                tracing::debug!(mirror = %peer.short(), %refusal, "another mirror did not answer");
                let refused = !matches!(refusal.kind, RefusalKind::Unreachable | RefusalKind::Silent);
                Event::Failed { peer, ask, refused }
            }
        }
    }

    /// Verifies what of `records` is not here. One result for each of those. Most of what mirrors tell each other comes twice: as
    /// gossip, and when logs are read.
    async fn verify_new(&self, mut records: Vec<SyncRecord>) -> Result<Vec<Result<Verified, RecordError>>, Refusal> {
        let shared = Arc::clone(self.writer.shared());
        self.off_reactor(move || {
            let identities: Vec<Option<Identity>> = records.iter().map(Identity::of).collect();
            let mut known = {
                let state = shared.state();
                let known = |identity: &Option<Identity>| identity.as_ref().is_some_and(|one| state.table.has(one));
                identities.iter().map(known).collect::<Vec<_>>().into_iter()
            };
            records.retain(|_| !known.next().unwrap_or(false));
            verify_all(records)
        })
        .await
    }

    /// Keeps what another mirror brought, and the cursor after it, in one transaction.
    async fn keep_brought(
        &self,
        peer: NodeId,
        ask: u64,
        records: Vec<SyncRecord>,
        cursor: Option<sync::Cursor>,
    ) -> Event {
        let failed = |bad| Event::Kept { peer, ask, new: 0, bad, stored: false };
        let Ok(results) = self.verify_new(records).await else { return failed(0) };
        let bad = results.iter().filter(|result| is_bad(result)).count();
        if bad > 0 {
            tracing::warn!(mirror = %peer.short(), records = bad, "another mirror holds records that do not verify");
        }
        let cursor = cursor.map(|cursor| Cursor { mirror: peer, log: cursor.log, cursor: cursor.position });
        let good: Vec<Verified> = results.into_iter().filter_map(Result::ok).collect();
        let Ok(outcomes) = self.writer.keep(good, cursor).await else { return failed(bad) };
        self.spread(&outcomes, Origin::Mirror);
        let new = outcomes.iter().filter(|outcome| matches!(outcome.kept, Ok(Kept::New { .. }))).count();
        let lost = |kept: &Result<Kept, Refusal>| matches!(kept, Err(refusal) if refusal.kind == RefusalKind::Internal);
        let stored = !outcomes.iter().any(|outcome| lost(&outcome.kept));
        if new > 0 {
            tracing::debug!(mirror = %peer.short(), new, "learnt from another mirror");
        }
        Event::Kept { peer, ask, new, bad, stored }
    }

    /// Queues a new record for publication: itself if it is small, else a hint that this mirror has it.
    pub(super) fn publish(&self, record: &Verified, position: u64) {
        let bytes = encoded_max(record) + AROUND;
        let news = if bytes <= GOSSIP_BYTES_MAX {
            News::Record(Box::new(record.to_record()), bytes)
        } else {
            News::Message(codec::encode(&Gossip::Grew { mirror: self.net.me(), cursor: position }))
        };
        if self.news.try_send(news).is_err() {
            tracing::debug!("too much to publish at once; the other mirrors will read it");
        }
    }

    /// Queues a vendor's delta for publication if it is small, else a hint that this mirror has the record that it made.
    pub(super) fn publish_delta(&self, record: &Verified, delta: VendorDelta, position: u64) {
        let delta = codec::encode(&Gossip::Delta(Box::new(delta)));
        if delta.len() > GOSSIP_BYTES_MAX {
            return self.publish(record, position);
        }
        if self.news.try_send(News::Message(delta)).is_err() {
            tracing::debug!("too much to publish at once; the other mirrors will read it");
        }
    }

    /// Publishes for ever. That nobody listens, or takes it fast enough, is no failure: the log has it. Each message is signed,
    /// sent to every mirror and verified there, so records that come soon after each other go as one.
    pub(super) async fn publish_news(&self, mut news: mpsc::Receiver<News>) {
        let (mut queued, mut due) = (VecDeque::new(), Instant::now());
        while let Some(first) = news.recv().await {
            queued.push_back(first);
            // What comes alone goes at once.
            tokio::time::sleep_until(due).await;
            while queued.len() < GOSSIP_RECORDS_MAX
                && let Ok(next) = news.try_recv()
            {
                queued.push_back(next);
            }
            while let Some(message) = next_message(&mut queued) {
                if let Err(error) = self.net.overlay().publish(message).await {
                    tracing::debug!(%error, "not published");
                }
            }
            due = Instant::now() + PUBLISH_EVERY;
        }
    }

    /// Takes a gossip message; its verdict is reported once its record is on disk. Returns when there is room to work on it.
    pub async fn gossip(self: &Arc<Self>, message: GossipMessage) {
        let now = self.now_ms();
        if !self.core().admits(message.source, now) {
            return self.net.overlay().report_gossip(message.id, Verdict::Ignore).await;
        }
        let Ok(permit) = Arc::clone(&self.gossiping).acquire_owned().await else { return };
        let mirror = Arc::clone(self);
        tokio::spawn(async move {
            let verdict = mirror.judge(message.source, &message.bytes).await;
            mirror.net.overlay().report_gossip(message.id, verdict).await;
            drop(permit);
        });
    }

    /// What becomes of a gossip message that `from` passed on, after its record is on disk.
    pub(super) async fn judge(&self, from: NodeId, bytes: &[u8]) -> Verdict {
        let told = match codec::decode::<Gossip>(bytes, GOSSIP_BYTES_MAX) {
            // What a peer sent before it was banned is not looked at any more.
            _ if self.core().banned(from, self.now_ms()) => Told::Unclear,
            Ok(Gossip::Record(record)) => self.take_gossip(vec![*record]).await,
            Ok(Gossip::Records(records)) => self.take_gossip(records.into_vec()).await,
            Ok(Gossip::Delta(delta)) => self.take_delta(*delta).await,
            Ok(Gossip::Grew { mirror, cursor }) => Told::Hint { mirror, position: cursor },
            Err(_) => Told::Bad,
        };
        match self.tell_core(Event::Gossip { from, told }) {
            Some(sync::Verdict::Accept) => Verdict::Accept,
            Some(sync::Verdict::Reject) => Verdict::Reject,
            Some(sync::Verdict::Ignore) | None => Verdict::Ignore,
        }
    }

    /// One record that is bad spoils the message: whoever passed it on had verified them all.
    async fn take_gossip(&self, records: Vec<SyncRecord>) -> Told {
        let Ok(results) = self.verify_new(records).await else { return Told::Unclear };
        if results.iter().any(is_bad) {
            return Told::Bad;
        }
        let unclear = results.iter().any(Result::is_err);
        match self.keep_gossip(results.into_iter().filter_map(Result::ok).collect()).await {
            Told::Known if unclear => Told::Unclear,
            told => told,
        }
    }

    /// A delta whose base is not here is no fault of its sender: the record is read from a log.
    async fn take_delta(&self, delta: VendorDelta) -> Told {
        match self.apply_delta(delta).await {
            Ok(Ok(record)) => self.keep_gossip(vec![record]).await,
            Ok(result) if is_bad(&result) => Told::Bad,
            Ok(Err(_)) | Err(_) => Told::Unclear,
        }
    }

    async fn keep_gossip(&self, records: Vec<Verified>) -> Told {
        if records.is_empty() {
            return Told::Known;
        }
        let Ok(outcomes) = self.writer.keep(records, None).await else { return Told::Unclear };
        self.spread(&outcomes, Origin::Mirror);
        match outcomes.iter().any(|outcome| matches!(outcome.kept, Ok(Kept::New { .. }))) {
            true => Told::New,
            false => Told::Known,
        }
    }
}
