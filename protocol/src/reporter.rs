//! The life of a vendor's head: what mirrors know of it, when a new one is signed, and to whom it is told.
//!
//! The core decides and its caller does: [`Reporter::handle`] takes an [`Event`] and the time and returns what to do. It
//! signs nothing itself. A head is made durable before it is sent (invariant 4), and `(epoch, seq)` only grows (invariant 2).
//!
//! ```text
//! ASKING ──mirrors know nothing newer──► REPORTING ◄──► signs, sends, asks again what refuses
//!    │                                       │
//!    └──a newer head──► TAKING BACK ─────────┘ in a new epoch
//!                            ▲               │
//!                            └─ older than this run ── a newer head ── of this very time ──► ELSEWHERE: signs nothing
//! ```
//! A vendor that starts does not know whether its disk is the newest it ever had, so it asks before it signs: one that was
//! restored from a backup would otherwise sign a number a second time, which proves it a liar. A newer head that appears while
//! it runs was signed by somebody else with its key; the one that notices stops, so that its key is not
//! proven to be two nodes'.

use std::collections::BTreeMap;

use crate::delta::HeadId;
use crate::ids::{Hash, NodeId};
use crate::limits::MIRRORS_TOLD_MAX;
use crate::time::UnixMs;

/// Changes within this time go into one head, in milliseconds.
pub const DEBOUNCE_MS: u64 = 200;
/// A head is signed anew after so long although nothing changed, in milliseconds.
pub const REFRESH_MS: u64 = 300_000;
/// How often a head that nobody acknowledged is sent again, and a mirror that did not answer is asked again, in milliseconds.
pub const RETRY_MS: u64 = 1_000;
/// How long the answers of all mirrors are waited for once half of them have answered, in milliseconds from the first on.
pub const ASK_MS: u64 = 2_500;
/// While less than half of the mirrors answer, so long, in milliseconds: one of them alone may be the one that was away, or lie.
pub const ALONE_MS: u64 = 60_000;
/// How often the leases of a vendor that runs on an older state are asked for before it goes on without them.
pub const READS_MAX: u32 = 8;
/// Epochs that one run begins, at most: more than that is two nodes outdoing each other.
pub const EPOCHS_MAX: u32 = 3;

/// A head of this vendor that a mirror showed, verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub head: HeadId,
    /// When it was signed, as it says.
    pub issued: UnixMs,
}

/// Why a mirror did not take a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// It knows a newer one, or another one with this number.
    Stale,
    /// It does not have the head that the change builds on.
    BaseMissing,
    /// It did not answer, or refused for another reason.
    Failed,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something that the head tells changed.
    Changed,
    /// The mirrors that are known, best first.
    Mirrors(Vec<NodeId>),
    /// A mirror's answer to [`Action::Ask`]: the newest head of this vendor there, if any.
    Known {
        /// Who answered.
        mirror: NodeId,
        /// What it knows.
        seen: Option<Seen>,
    },
    /// A mirror did not answer [`Action::Ask`].
    Unanswered(NodeId),
    /// [`Action::TakeBack`] is done, as far as it goes.
    TakenBack,
    /// The mirror of [`Action::TakeBack`] did not give the record; nothing was changed.
    Unread(NodeId),
    /// [`Action::Sign`] is done: this head is on disk.
    Signed(HeadId),
    /// It could not be signed or written.
    Unsigned,
    /// A mirror has this head on disk.
    Acked(NodeId, HeadId),
    /// A mirror did not take this head.
    Untaken(NodeId, HeadId, Untaken),
    /// The time of [`Action::SetTimer`] has come.
    Timer,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a mirror for the newest head of this vendor that it knows.
    Ask(NodeId),
    /// This vendor runs on an older state: take back the leases of its own record at `mirror`, as far as their data is here.
    TakeBack(NodeId),
    /// What is on disk is the newest this vendor ever had: what no entry names is left over from a crash.
    InStep,
    /// Sign a head with this number over what is so now, and write it to disk.
    Sign {
        /// Its epoch.
        epoch: u64,
        /// Its sequence number.
        seq: u64,
        /// Hash of the head before.
        prev: Hash,
    },
    /// Send the newest head: what changed since `base`, or all of it.
    Send {
        /// To whom.
        mirror: NodeId,
        /// What the mirror is known to have.
        base: Option<HeadId>,
    },
    /// Call with [`Event::Timer`] at this time; the one set last counts.
    SetTimer(UnixMs),
    /// Another node signs with this vendor's key. Nothing is signed any more until the vendor is started anew.
    Elsewhere,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    TakingBack { epoch: u64, prev: Hash },
    Reporting,
    Elsewhere,
}

/// How far one mirror is.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    acked: Option<HeadId>,
    in_flight: Option<HeadId>,
    /// The head that it did not take.
    failed: Option<HeadId>,
    /// A question is on its way, and one was answered.
    asked: bool,
    answered: bool,
    /// The head that it showed last, and how often it did not give the record.
    shown: Option<HeadId>,
    unread: u32,
    /// Not before this is it asked again, or told again what it did not take.
    retry: Option<UnixMs>,
}

/// The head's life.
#[derive(Debug)]
pub struct Reporter {
    /// When this run began.
    started: UnixMs,
    /// The newest head on disk; `seq` 0 if there is none.
    head: HeadId,
    phase: Phase,
    mirrors: BTreeMap<NodeId, Told>,
    /// The newest head of this vendor that a mirror showed.
    newest: Option<(Seen, NodeId)>,
    first_answer: Option<UnixMs>,
    signing: bool,
    /// Whether a head was signed in this run: only what is told is kept, and what an earlier run told is not.
    signed: bool,
    /// When the next head is signed.
    due: UnixMs,
    epochs: u32,
    /// How often the leases were asked for in vain.
    reads: u32,
    /// The epoch that begins with the next head, and the hash of the head before, until that head is on disk.
    begins: Option<(u64, Hash)>,
}

impl Reporter {
    /// A vendor that starts at `now` with the newest head on its disk; `seq` is 0 if it never signed one.
    #[must_use]
    pub fn new(head: HeadId, now: UnixMs) -> Self {
        Self {
            started: now,
            head,
            phase: Phase::Asking,
            mirrors: BTreeMap::new(),
            newest: None,
            first_answer: None,
            signing: false,
            signed: false,
            due: now,
            epochs: 0,
            reads: 0,
            begins: None,
        }
    }

    /// The newest head on disk.
    #[must_use]
    pub fn head(&self) -> HeadId {
        self.head
    }

    /// Heads that deltas may build on, and the newest: what of older ones is kept can be forgotten.
    pub fn needed(&self) -> impl Iterator<Item = HeadId> + '_ {
        let told = self.mirrors.values().flat_map(|told| [told.acked, told.in_flight]).flatten();
        told.chain([self.head])
    }

    /// Takes an event.
    pub fn handle(&mut self, event: Event, now: UnixMs) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Changed => self.due = self.due.min(now.plus_ms(DEBOUNCE_MS)),
            Event::Mirrors(mirrors) => self.meet(&mirrors),
            Event::Known { mirror, seen } => self.learn(mirror, seen, now, &mut actions),
            Event::Unanswered(mirror) => {
                self.told(mirror, |told| (told.asked, told.retry) = (false, Some(now.plus_ms(RETRY_MS))));
            }
            Event::TakenBack => self.taken_back(&mut actions),
            Event::Unread(mirror) => self.unread(mirror, now, &mut actions),
            Event::Signed(head) if head.height() > self.head.height() => {
                (self.head, self.signing, self.signed, self.begins) = (head, false, true, None);
                self.due = now.plus_ms(REFRESH_MS);
            }
            Event::Signed(_) | Event::Unsigned => {
                (self.signing, self.due) = (false, now.plus_ms(RETRY_MS));
            }
            Event::Acked(mirror, head) => self.told(mirror, |told| {
                (told.acked, told.failed, told.retry) = (Some(head), None, None);
                told.in_flight = told.in_flight.filter(|flying| *flying != head);
            }),
            Event::Untaken(mirror, head, why) => self.untaken(mirror, head, why, now, &mut actions),
            Event::Timer => {}
        }
        self.go_on(now, &mut actions);
        actions
    }

    fn told(&mut self, mirror: NodeId, change: impl FnOnce(&mut Told)) {
        if let Some(told) = self.mirrors.get_mut(&mirror) {
            change(told);
        }
    }

    /// The best mirrors are told. Those that take heads stay, so that they can be told what changed; the others are replaced.
    fn meet(&mut self, mirrors: &[NodeId]) {
        let before = std::mem::take(&mut self.mirrors);
        let sound = |mirror: &&NodeId| before.get(mirror).is_some_and(|told| told.failed.is_none());
        let mut chosen: Vec<NodeId> = mirrors.iter().filter(sound).take(MIRRORS_TOLD_MAX).copied().collect();
        for mirror in mirrors {
            if chosen.len() < MIRRORS_TOLD_MAX && !chosen.contains(mirror) {
                chosen.push(*mirror);
            }
        }
        let told = |mirror: NodeId| (mirror, before.get(&mirror).copied().unwrap_or_default());
        self.mirrors = chosen.into_iter().map(told).collect();
    }

    fn learn(&mut self, mirror: NodeId, seen: Option<Seen>, now: UnixMs, actions: &mut Vec<Action>) {
        self.told(mirror, |told| {
            (told.asked, told.answered, told.retry) = (false, true, None);
            told.shown = seen.map(|seen| seen.head);
        });
        self.first_answer.get_or_insert(now);
        let Some(seen) = seen else { return };
        if self.newest.is_none_or(|(newest, _)| newest.head.height() < seen.head.height()) {
            self.newest = Some((seen, mirror));
        }
        if self.phase != Phase::Reporting {
            return;
        }
        // What an epoch that is about to begin leaves behind is known.
        let left = self.begins.is_some_and(|(epoch, _)| seen.head.epoch < epoch);
        let foreign = !left && seen.head.height() > self.head.height()
            || (seen.head.height() == self.head.height() && seen.head.hash != self.head.hash);
        if foreign && !self.signing {
            self.overtaken(seen, mirror, actions);
        }
    }

    /// A mirror has a head of this vendor that is not from this disk.
    fn overtaken(&mut self, seen: Seen, mirror: NodeId, actions: &mut Vec<Action>) {
        let meanwhile = self.phase == Phase::Reporting && seen.issued >= self.started;
        let twin = seen.head.height() == self.head.height();
        if meanwhile || twin || self.epochs >= EPOCHS_MAX {
            self.phase = Phase::Elsewhere;
            actions.push(Action::Elsewhere);
            return;
        }
        self.epochs += 1;
        let epoch = seen.head.epoch.saturating_add(1).max(self.head.epoch);
        self.phase = Phase::TakingBack { epoch, prev: seen.head.hash };
        // Of those that know more than the disk, the one that failed least often, then the one that knows most.
        let more = |told: &Told| told.shown.filter(|head| head.height() > self.head.height() || self.head.seq == 0);
        let rank =
            |(mirror, told): (&NodeId, &Told)| Some((told.unread, std::cmp::Reverse(more(told)?.height()), *mirror));
        let best = self.mirrors.iter().filter_map(rank).min();
        actions.push(Action::TakeBack(best.map_or(mirror, |(_, _, best)| best)));
    }

    fn taken_back(&mut self, actions: &mut Vec<Action>) {
        if let Phase::TakingBack { epoch, prev } = self.phase {
            (self.phase, self.reads, self.begins) = (Phase::Reporting, 0, Some((epoch, prev)));
            self.sign_next(actions);
        }
    }

    /// One lost answer must not cost a vendor its leases: mirrors are asked anew, and another one gives the record.
    fn unread(&mut self, mirror: NodeId, now: UnixMs, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::TakingBack { .. }) {
            return;
        }
        self.reads += 1;
        if self.reads >= READS_MAX {
            return self.taken_back(actions);
        }
        self.told(mirror, |told| told.unread += 1);
        (self.phase, self.first_answer) = (Phase::Asking, None);
        self.epochs -= 1;
        for told in self.mirrors.values_mut() {
            (told.asked, told.answered, told.retry) = (false, false, Some(now.plus_ms(RETRY_MS)));
        }
    }

    fn untaken(&mut self, mirror: NodeId, head: HeadId, why: Untaken, now: UnixMs, actions: &mut Vec<Action>) {
        let mut ask = false;
        self.told(mirror, |told| {
            told.in_flight = told.in_flight.filter(|flying| *flying != head);
            if why == Untaken::BaseMissing {
                told.acked = None;
                return;
            }
            (told.failed, told.retry) = (Some(head), Some(now.plus_ms(RETRY_MS)));
            ask = why == Untaken::Stale && !told.asked;
            told.asked |= ask;
        });
        if ask && self.phase == Phase::Reporting {
            actions.push(Action::Ask(mirror));
        }
    }

    /// Signs the head that comes next. One of a new epoch that could not be signed is tried again as such: the number after the
    /// one on disk was given away before.
    fn sign_next(&mut self, actions: &mut Vec<Action>) {
        self.signing = true;
        actions.push(match self.begins {
            Some((epoch, prev)) => Action::Sign { epoch, seq: 1, prev },
            None => {
                let HeadId { epoch, seq, hash } = self.head;
                Action::Sign { epoch, seq: seq.saturating_add(1), prev: hash }
            }
        });
    }

    /// Does what is due, and sets the timer for what will be.
    fn go_on(&mut self, now: UnixMs, actions: &mut Vec<Action>) {
        // A clock that was set back must not silence the vendor.
        self.due = self.due.min(now.plus_ms(REFRESH_MS));
        self.first_answer = self.first_answer.map(|first| first.min(now));
        for told in self.mirrors.values_mut() {
            told.retry = told.retry.map(|retry| retry.min(now.plus_ms(RETRY_MS)));
        }
        match self.phase {
            Phase::Asking => self.ask(now, actions),
            Phase::Reporting => {
                if !self.signing && self.due <= now {
                    self.sign_next(actions);
                }
                self.send(now, actions);
            }
            Phase::TakingBack { .. } | Phase::Elsewhere => {}
        }
        if let Some(next) = self.next(now) {
            actions.push(Action::SetTimer(next.max(now.plus_ms(1))));
        }
    }

    /// When to look again.
    fn next(&self, now: UnixMs) -> Option<UnixMs> {
        let retries = || self.mirrors.values().filter_map(|told| told.retry);
        match self.phase {
            Phase::Asking => retries().chain(self.first_answer.map(|first| first.plus_ms(self.patience_ms()))).min(),
            Phase::Reporting => {
                let due = (!self.signing).then_some(self.due);
                let retries = retries().filter(|_| !self.heard());
                due.into_iter().chain(retries.filter(|retry| *retry > now)).min()
            }
            Phase::TakingBack { .. } | Phase::Elsewhere => None,
        }
    }

    /// How long after the first answer the others are waited for, in milliseconds.
    fn patience_ms(&self) -> u64 {
        let (answered, all) = (self.mirrors.values().filter(|told| told.answered).count(), self.mirrors.len());
        if answered == all {
            0
        } else if 2 * answered >= all {
            ASK_MS
        } else {
            ALONE_MS
        }
    }

    fn ask(&mut self, now: UnixMs, actions: &mut Vec<Action>) {
        for (mirror, told) in &mut self.mirrors {
            if !told.asked && !told.answered && told.retry.is_none_or(|retry| retry <= now) {
                (told.asked, told.retry) = (true, None);
                actions.push(Action::Ask(*mirror));
            }
        }
        let Some(first) = self.first_answer else { return };
        if now < first.plus_ms(self.patience_ms()) {
            return;
        }
        for told in self.mirrors.values_mut() {
            // Who has not answered may be told all the same.
            (told.asked, told.retry) = (false, None);
        }
        match self.newest {
            // A local FAT that was made anew has signed nothing yet, and may miss leases that mirrors remember.
            Some((seen, mirror)) if seen.head.height() > self.head.height() || self.head.seq == 0 => {
                self.overtaken(seen, mirror, actions);
            }
            Some((seen, mirror)) if seen.head.height() == self.head.height() && seen.head.hash != self.head.hash => {
                self.overtaken(seen, mirror, actions);
            }
            _ => {
                self.phase = Phase::Reporting;
                actions.push(Action::InStep);
                self.due = now;
                self.sign_next(actions);
            }
        }
    }

    fn send(&mut self, now: UnixMs, actions: &mut Vec<Action>) {
        if self.signing || !self.signed {
            return;
        }
        let newest = self.head;
        let heard = self.heard();
        for (mirror, told) in &mut self.mirrors {
            let waits = told.failed == Some(newest) && (heard || told.retry.is_some_and(|retry| now < retry));
            if told.acked == Some(newest) || told.in_flight.is_some() || told.asked || waits {
                continue;
            }
            (told.in_flight, told.retry) = (Some(newest), None);
            let base = told.acked.filter(|acked| acked.epoch == newest.epoch);
            actions.push(Action::Send { mirror: *mirror, base });
        }
    }

    /// Whether a mirror has the newest head. One is enough: who failed is told with the next head.
    fn heard(&self) -> bool {
        self.mirrors.values().any(|told| told.acked == Some(self.head))
    }
}
