//! How one mirror stays equal to the others: whom it asks for what, when, and whom it stops listening to.
//!
//! ```text
//!            every poll, or on a hint       every few minutes; after the mirror was away; when its log is another
//!   idle ──────────────► read its log ──end──► compare tables ──► fetch what differs ──► idle
//!    ▲                     │  ▲                  │
//!    └── wait, longer each ◄──┴──── failed ──────┘
//! ```
//! [`Sync`] decides and does nothing: it takes an [`Event`] with the table, the time and random bytes, and returns
//! [`Action`]s, which the mirror (or a simulator) carries out. It holds no record. Time is in milliseconds of any clock that
//! does not jump; a node's wall clock orders nothing here.
//!
//! The rules for who carries actions out:
//! - [`Action::Ask`] is followed by one [`Event::Answered`] or [`Event::Failed`]; if neither comes in time it counts as failed.
//! - [`Action::Keep`] is followed by one [`Event::Kept`], after what was new is on disk.
//! - Both arise from [`Event::Tick`], [`Event::Mirrors`], `Answered`, `Failed` and `Kept` only; the other events at most move the
//!   next [`Action::Wake`] forward.
//! - Before anything that a peer brought by itself is verified, [`Sync::admits`] is asked. If it says yes, one
//!   [`Event::Gossip`] or [`Event::Checked`] follows.

mod event;
mod guard;

use std::collections::BTreeMap;

use crate::ids::{NodeId, SessionKey};
use crate::reconcile::{Session, Step};
use crate::table::Table;
use crate::wire::{Page, Request, Response, SyncRecord};
pub use event::{Action, Cursor, Event, Settings, Told, Verdict};
use guard::Guard;
pub use guard::{BAN_MS, FORGIVEN_MS};

/// Mirrors that are asked at once.
const AT_ONCE: usize = 8;
/// Longest wait for one answer, which may have megabytes.
const ANSWER_MS: u64 = 30_000;
/// A mirror that fails is asked again after twice as long each time, at most so long: a partition that heals is noticed soon.
const BACKOFF_MAX_MS: u64 = 10_000;
/// Hints at one mirror's news that are passed on: at most one in so long. A log is read no more often.
const HINT_GAP_MS: u64 = 200;
/// After another mirror's comparison showed a difference, this one compares too: when the other has taken what it lacked.
const AFTER_THEIRS_MS: u64 = 2_000;
/// Comparisons with one mirror are at least so far apart, however often its log or its table is another.
const COMPARE_GAP_MS: u64 = 5_000;
/// Pages of a log that bring nothing new before the mirror is left alone until the next poll.
const FRUITLESS_PAGES: u32 = 64;
/// What an answer that breaks the rules counts, in bad records.
const BROKEN: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct Sync {
    settings: Settings,
    cursors: BTreeMap<NodeId, Cursor>,
    peers: BTreeMap<NodeId, Peer>,
    guard: Guard,
    asks: u64,
    wake: Option<u64>,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Peer {
    doing: Option<Doing>,
    failures: u32,
    /// It could not be reached since it was last read to the end.
    away: bool,
    read_at: u64,
    compare_at: u64,
    /// There are news in its log.
    hinted: bool,
    hint_passed: u64,
    last_read: u64,
    last_compared: Option<u64>,
}

#[derive(Debug)]
struct Doing {
    ask: u64,
    until: u64,
    fruitless: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    Reading,
    Taking { cursor: Cursor, more: bool },
    Comparing { session: Session, then: Option<Cursor> },
    Fetching { session: Session, then: Option<Cursor> },
    Merging { session: Session, looked_at: u64, then: Option<Cursor> },
    Ending { cursor: Cursor },
}

/// What one call of [`Sync::handle`] works with.
struct Now<'a> {
    table: &'a Table,
    ms: u64,
    random: [u8; 16],
}

impl Sync {
    /// The core of a mirror that has read the others up to `cursors`.
    #[must_use]
    pub fn new(settings: Settings, cursors: BTreeMap<NodeId, Cursor>) -> Self {
        let guard = Guard::default();
        Self { settings, cursors, peers: BTreeMap::new(), guard, asks: 0, wake: None, actions: Vec::new() }
    }

    /// Whether something that `from` brought by itself may be verified now. If so, one [`Event::Gossip`] or
    /// [`Event::Checked`] must follow; if not, it is dropped or refused unseen.
    pub fn admits(&mut self, from: NodeId, now_ms: u64) -> bool {
        from == self.settings.me || self.guard.admits(from, now_ms)
    }

    /// Whether `peer` is banned.
    #[must_use]
    pub fn banned(&self, peer: NodeId, now_ms: u64) -> bool {
        self.guard.banned(peer, now_ms)
    }

    /// How far `mirror` was read.
    #[must_use]
    pub fn cursor(&self, mirror: NodeId) -> Option<Cursor> {
        self.cursors.get(&mirror).copied()
    }

    /// Takes an event. `table` is the mirror's table as it is now; `random` is drawn anew for each call.
    pub fn handle(&mut self, event: Event, table: &Table, now_ms: u64, random: [u8; 16]) -> Vec<Action> {
        let now = Now { table, ms: now_ms, random };
        match event {
            Event::Mirrors(mirrors) => self.mirrors(&mirrors, &now),
            Event::Tick => self.wake = None,
            Event::Answered { peer, ask, response } => self.answered(peer, ask, response, &now),
            Event::Failed { peer, ask, refused } => {
                if self.peer_doing(peer, ask).is_some() {
                    self.failed(peer, !refused, &now);
                }
            }
            Event::Kept { peer, ask, new, bad, stored } => self.kept(peer, ask, (new, bad, stored), &now),
            Event::Gossip { from, told } => {
                self.guard.checked(from);
                let verdict = self.judge(from, told, &now);
                self.actions.push(Action::Verdict(verdict));
                return self.done();
            }
            Event::Checked { from, bad } => {
                self.guard.checked(from);
                self.blame(from, bad, &now);
                return self.done();
            }
            Event::Compared { by, differ } => {
                self.compared(by, differ, &now);
                return self.done();
            }
        }
        self.begin(&now);
        self.done()
    }

    /// The actions so far, and when to be woken.
    fn done(&mut self) -> Vec<Action> {
        let full = self.peers.values().filter(|peer| peer.doing.is_some()).count() >= AT_ONCE;
        let due = self.peers.values().filter_map(|peer| match &peer.doing {
            Some(doing) => doing.what.asks().then_some(doing.until),
            None => (!full).then_some(peer.due()),
        });
        let next = due.min();
        if let Some(at_ms) = next
            && self.wake != next
        {
            self.wake = next;
            self.actions.push(Action::Wake { at_ms });
        }
        std::mem::take(&mut self.actions)
    }

    fn mirrors(&mut self, mirrors: &[NodeId], now: &Now<'_>) {
        self.peers.retain(|peer, _| mirrors.contains(peer));
        for mirror in mirrors.iter().filter(|mirror| **mirror != self.settings.me) {
            // The first comparison comes with the first look at the log: what happened meanwhile may be years of it.
            self.peers.entry(*mirror).or_insert_with(|| Peer::new(now.ms));
        }
    }

    /// Begins what is due, and gives up what takes too long.
    fn begin(&mut self, now: &Now<'_>) {
        let late = |peer: &Peer| peer.doing.as_ref().is_some_and(|doing| doing.what.asks() && doing.until <= now.ms);
        let given_up: Vec<NodeId> = self.peers.iter().filter(|(_, peer)| late(peer)).map(|(peer, _)| *peer).collect();
        for peer in given_up {
            self.failed(peer, true, now);
        }
        let running = self.peers.values().filter(|peer| peer.doing.is_some()).count();
        let due = |(id, peer): &(&NodeId, &Peer)| {
            peer.doing.is_none() && peer.due() <= now.ms && !self.guard.banned(**id, now.ms)
        };
        // Who waits longest comes first.
        let mut waiting: Vec<(u64, NodeId)> =
            self.peers.iter().filter(due).map(|(id, peer)| (peer.due(), *id)).collect();
        waiting.sort_unstable();
        for (_, peer) in waiting.into_iter().take(AT_ONCE.saturating_sub(running)) {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.hinted = false;
                known.last_read = now.ms;
            }
            self.read(peer, 0, now);
        }
        // A banned mirror is looked at again when its ban is over.
        for (id, peer) in &mut self.peers {
            if peer.doing.is_none() && self.guard.banned(*id, now.ms) {
                peer.wait_until(now.ms.saturating_add(BACKOFF_MAX_MS));
            }
        }
    }

    fn ask(&mut self, peer: NodeId, request: Request, what: What, fruitless: u32, now: &Now<'_>) {
        self.asks += 1;
        let ask = self.asks;
        if let Some(known) = self.peers.get_mut(&peer) {
            known.doing = Some(Doing { ask, until: now.ms.saturating_add(ANSWER_MS), fruitless, what });
            self.actions.push(Action::Ask { peer, ask, request, within_ms: ANSWER_MS });
        }
    }

    fn keep(&mut self, peer: NodeId, records: Vec<SyncRecord>, cursor: Option<Cursor>, what: What, fruitless: u32) {
        self.asks += 1;
        let ask = self.asks;
        if let Some(known) = self.peers.get_mut(&peer) {
            known.doing = Some(Doing { ask, until: u64::MAX, fruitless, what });
            self.actions.push(Action::Keep { peer, ask, records, cursor });
        }
    }

    fn read(&mut self, peer: NodeId, fruitless: u32, now: &Now<'_>) {
        let Cursor { log, position } = self.cursor(peer).unwrap_or(Cursor::NONE);
        self.ask(peer, Request::Since { log, cursor: position }, What::Reading, fruitless, now);
    }

    /// Takes what `peer` is doing, if it is about `ask`.
    fn take_doing(&mut self, peer: NodeId, ask: u64) -> Option<Doing> {
        self.peer_doing(peer, ask)?;
        self.peers.get_mut(&peer)?.doing.take()
    }

    fn peer_doing(&self, peer: NodeId, ask: u64) -> Option<&Doing> {
        self.peers.get(&peer)?.doing.as_ref().filter(|doing| doing.ask == ask)
    }

    fn answered(&mut self, peer: NodeId, ask: u64, response: Response, now: &Now<'_>) {
        let Some(Doing { what, fruitless, .. }) = self.take_doing(peer, ask) else { return };
        match (what, response) {
            (What::Reading, Response::Page(page)) => self.page(peer, page, fruitless, now),
            (What::Comparing { mut session, then }, Response::Compared(told)) => match session.told(now.table, &told) {
                Ok(()) => self.step(peer, session, then, now),
                Err(_) => self.broken(peer, now),
            },
            (What::Fetching { session, then }, Response::Page(page)) => {
                let looked_at = page.next;
                let what = What::Merging { session, looked_at, then };
                self.keep(peer, page.records.into_vec(), None, what, fruitless);
            }
            (_, Response::Refused(_)) => self.failed(peer, false, now),
            _ => self.broken(peer, now),
        }
    }

    fn page(&mut self, peer: NodeId, page: Page, fruitless: u32, now: &Now<'_>) {
        let read = Cursor { log: page.log, position: page.next };
        match self.cursor(peer) {
            Some(known) if known == read => self.end_of_log(peer, now),
            // Another log, or one that became shorter: to read all of it again would bring little that is new.
            Some(known) if known.log != read.log || known.position > read.position => {
                self.compare(peer, Some(read), now)
            }
            None if read.position == 0 => self.end_of_log(peer, now),
            _ => {
                let what = What::Taking { cursor: read, more: page.more };
                self.keep(peer, page.records.into_vec(), Some(read), what, fruitless);
            }
        }
    }

    fn kept(&mut self, peer: NodeId, ask: u64, (new, bad, stored): (usize, usize, bool), now: &Now<'_>) {
        let Some(Doing { what, fruitless, .. }) = self.take_doing(peer, ask) else { return };
        self.blame(peer, bad, now);
        if !stored || self.guard.banned(peer, now.ms) {
            return self.failed(peer, false, now);
        }
        let fruitless = if new == 0 { fruitless.saturating_add(1) } else { 0 };
        match what {
            What::Taking { cursor, more } => {
                self.cursors.insert(peer, cursor);
                match more {
                    true if fruitless < FRUITLESS_PAGES => self.read(peer, fruitless, now),
                    true => self.finished(peer, now),
                    false => self.end_of_log(peer, now),
                }
            }
            What::Merging { mut session, looked_at, then } => match session.fetched(looked_at, new) {
                Ok(()) => self.step(peer, session, then, now),
                Err(_) => self.broken(peer, now),
            },
            What::Ending { cursor } => {
                self.cursors.insert(peer, cursor);
                self.finished_comparing(peer, now);
            }
            What::Reading | What::Comparing { .. } | What::Fetching { .. } => self.finished(peer, now),
        }
    }

    fn end_of_log(&mut self, peer: NodeId, now: &Now<'_>) {
        let Some(known) = self.peers.get(&peer) else { return };
        if known.away || known.compare_at <= now.ms { self.compare(peer, None, now) } else { self.finished(peer, now) }
    }

    /// Compares tables; afterwards the log counts as read up to `then`, if that is given.
    fn compare(&mut self, peer: NodeId, then: Option<Cursor>, now: &Now<'_>) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let too_soon = known.last_compared.is_some_and(|last| now.ms < last.saturating_add(COMPARE_GAP_MS));
        if too_soon {
            let last = known.last_compared.unwrap_or(now.ms);
            known.compare_at = last.saturating_add(COMPARE_GAP_MS);
            return self.finished(peer, now);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&now.random).update(&self.asks.to_le_bytes());
        let key = SessionKey::from_slice(&hasher.finalize().as_bytes()[..SessionKey::LEN]);
        let session = Session::new(key.unwrap_or(SessionKey(now.random)));
        self.step(peer, session, then, now);
    }

    fn step(&mut self, peer: NodeId, mut session: Session, then: Option<Cursor>, now: &Now<'_>) {
        match session.next(now.table.index()) {
            Step::Ask(compare) => self.ask(peer, Request::Compare(compare), What::Comparing { session, then }, 0, now),
            Step::Fetch(wanted) => self.ask(peer, Request::Wanted(wanted), What::Fetching { session, then }, 0, now),
            Step::Done => match then {
                Some(cursor) => self.keep(peer, Vec::new(), Some(cursor), What::Ending { cursor }, 0),
                None => self.finished_comparing(peer, now),
            },
        }
    }

    fn finished_comparing(&mut self, peer: NodeId, now: &Now<'_>) {
        let next = self.next_comparison(now);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.last_compared = Some(now.ms);
            known.compare_at = next;
            known.away = false;
        }
        self.finished(peer, now);
    }

    fn next_comparison(&self, now: &Now<'_>) -> u64 {
        let every = self.settings.compare_ms;
        let jitter = u64::from(now.random[0]) * (every / 2) / 255;
        now.ms.saturating_add(every - every / 4).saturating_add(jitter)
    }

    fn finished(&mut self, peer: NodeId, now: &Now<'_>) {
        let poll = self.settings.poll_ms;
        if let Some(known) = self.peers.get_mut(&peer) {
            known.failures = 0;
            known.doing = None;
            known.read_at = if known.hinted { known.hint_due(now.ms) } else { now.ms.saturating_add(poll) };
        }
    }

    fn failed(&mut self, peer: NodeId, away: bool, now: &Now<'_>) {
        let poll = self.settings.poll_ms;
        if let Some(known) = self.peers.get_mut(&peer) {
            known.doing = None;
            known.away |= away;
            known.failures = known.failures.saturating_add(1);
            let wait = poll.saturating_mul(1 << known.failures.min(8)).min(BACKOFF_MAX_MS);
            known.wait_until(now.ms.saturating_add(wait));
        }
    }

    fn broken(&mut self, peer: NodeId, now: &Now<'_>) {
        self.blame(peer, BROKEN, now);
        self.failed(peer, false, now);
    }

    fn blame(&mut self, peer: NodeId, bad: usize, now: &Now<'_>) {
        if peer != self.settings.me
            && let Some(ms) = self.guard.blame(peer, bad, now.ms)
        {
            self.actions.push(Action::Ban { peer, ms });
        }
    }

    fn judge(&mut self, from: NodeId, told: Told, now: &Now<'_>) -> Verdict {
        match told {
            Told::Bad => {
                self.blame(from, 1, now);
                Verdict::Reject
            }
            Told::New => Verdict::Accept,
            Told::Unclear | Told::Known => Verdict::Ignore,
            Told::Hint { mirror, position } => self.hint(mirror, position, now),
        }
    }

    /// A hint is not signed, so only one that names a known mirror and news of it goes on, and not too many.
    fn hint(&mut self, mirror: NodeId, position: u64, now: &Now<'_>) -> Verdict {
        let seen = self.cursor(mirror).map_or(0, |cursor| cursor.position);
        let Some(known) = self.peers.get_mut(&mirror).filter(|_| position > seen) else { return Verdict::Ignore };
        if known.doing.is_some() {
            known.hinted = true;
        } else if known.failures == 0 {
            known.read_at = known.read_at.min(known.hint_due(now.ms));
        }
        if known.hint_passed > now.ms {
            return Verdict::Ignore;
        }
        known.hint_passed = now.ms.saturating_add(HINT_GAP_MS);
        Verdict::Accept
    }

    fn compared(&mut self, by: NodeId, differ: bool, now: &Now<'_>) {
        if let Some(known) = self.peers.get_mut(&by).filter(|_| differ) {
            let soon = now.ms.saturating_add(AFTER_THEIRS_MS + u64::from(now.random[1]) * 4);
            let earliest = known.last_compared.map_or(0, |last| last.saturating_add(COMPARE_GAP_MS));
            known.compare_at = known.compare_at.min(soon.max(earliest));
        }
    }
}

impl Peer {
    fn new(now: u64) -> Self {
        Self {
            doing: None,
            failures: 0,
            away: false,
            read_at: now,
            compare_at: now,
            hinted: false,
            hint_passed: 0,
            last_read: now,
            last_compared: None,
        }
    }

    fn due(&self) -> u64 {
        self.read_at.min(self.compare_at)
    }

    fn wait_until(&mut self, at: u64) {
        self.read_at = at;
        self.compare_at = self.compare_at.max(at);
    }

    /// When a hinted log is read.
    fn hint_due(&self, now: u64) -> u64 {
        now.max(self.last_read.saturating_add(HINT_GAP_MS))
    }
}

impl What {
    /// Whether it waits for the peer, and not for this mirror's disk.
    fn asks(&self) -> bool {
        matches!(self, Self::Reading | Self::Comparing { .. } | Self::Fetching { .. })
    }
}
