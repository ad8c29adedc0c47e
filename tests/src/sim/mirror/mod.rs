//! A mirror: the real table, with what the mirror's role adds to it: one writer whose transactions are all or nothing, a log
//! of positions, answers, and orders to vendors.

mod allocate;
mod store;
mod sync;
mod witness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::delta::VendorDelta;
use fathom_protocol::fat::FinalFat;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::limits::{FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX};
use fathom_protocol::market::Market;
use fathom_protocol::reconcile::{self, Compared, Probe, WantedList};
use fathom_protocol::sign::Carried;
use fathom_protocol::sync::{Cursor, Event, Sync};
use fathom_protocol::table::{Key, Merged, Strangers, Submission, Suspicions, Table, Verified, verify};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{
    FilesPage, Gossip, LogCursor, OwnerQuery, Page, Refusal, RefusalKind, Request, Response, SyncRecord,
};

use super::mutation::Mutation;
use super::node::{Body, Cx, Timer};
use allocate::{Withdrawal, Work};
use store::{Change, Store};

/// Milliseconds that a stranger has for its first frame.
const FRAME_MS: u64 = 5_000;
const SYNC: u8 = 0;
const COMMIT: u8 = 1;
const ACCUSE: u8 = 3;
/// How often leases that vanished are looked at.
const ACCUSE_MS: u64 = 15_000;

/// A mirror.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) table: Table,
    pub(super) store: Store,
    strangers: Strangers,
    /// Leases that vanished from heads, until it is known why.
    suspicions: Suspicions,
    /// Its wall clock when it started, and the true time: what it measures from there, nobody can set.
    started: (UnixMs, u64),
    /// What allocation needs of each vendor's head, and what was offered since.
    market: Market,
    works: BTreeMap<u64, Work>,
    /// Withdrawals that vendors have not answered yet, by the call.
    withdrawals: BTreeMap<u64, Withdrawal>,
    next_work: u64,
    /// Decides what is asked of other mirrors; nothing before the start.
    sync: Option<Sync>,
    /// Calls that it asked for.
    asks: BTreeMap<u64, (NodeId, u64)>,
    /// Strangers' frames that are open, and the bytes each may still send.
    pub(super) frames: BTreeMap<u64, u64>,
    next_frame: u64,
    /// What a broken mirror answered for and did not write yet.
    unwritten: Vec<Change>,
}

impl Mirror {
    pub(super) fn new(log: Hash) -> Self {
        Self::open(Store::new(log))
    }

    fn open(store: Store) -> Self {
        let mut table = Table::default();
        for record in store.records.values() {
            let verified = verify(record.clone()).expect("what a mirror kept was verified");
            table.merge(&verified).expect("what a mirror kept, it keeps");
        }
        let market = Market::of(table.vendors().map(|known| &*known.head));
        Self {
            table,
            store,
            strangers: Strangers::default(),
            suspicions: Suspicions::default(),
            started: (UnixMs(0), 0),
            market,
            works: BTreeMap::new(),
            withdrawals: BTreeMap::new(),
            next_work: 0,
            sync: None,
            asks: BTreeMap::new(),
            frames: BTreeMap::new(),
            next_frame: 0,
            unwritten: Vec::new(),
        }
    }

    /// Everything that was not on disk is gone.
    pub(super) fn crash(&mut self) {
        *self = Self::open(std::mem::take(&mut self.store));
    }

    pub(super) fn start(&mut self, cx: &mut Cx<'_>) {
        self.begin_sync(cx);
        self.started = (cx.now, cx.at);
        self.suspicions.restore(self.store.suspicions.iter().cloned(), cx.now);
        cx.wait(ACCUSE_MS, Timer::Every(ACCUSE));
    }

    pub(super) fn timer(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        match timer {
            Timer::Every(COMMIT) => {
                let changes = std::mem::take(&mut self.unwritten);
                self.store.apply(changes);
            }
            Timer::Every(ACCUSE) => {
                self.accuse(cx);
                cx.wait(ACCUSE_MS, Timer::Every(ACCUSE));
            }
            Timer::Every(which) => self.timer_of_sync(cx, which),
            Timer::Call(call) => {
                if !self.answered(cx, call, None) && !self.withdrawn(cx, call, None) {
                    self.not_offered(cx, call);
                }
            }
            Timer::Frame(frame) => {
                self.frames.remove(&frame);
            }
            Timer::Allocation(id) => self.allocation_timer(cx, id),
        }
    }

    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, from: usize, body: Body) {
        match body {
            Body::Request { call, bytes } => self.request(cx, from, call, &bytes),
            Body::Response { call, bytes } => {
                if let Ok(response) = codec::decode::<Response>(&bytes, FRAME_BYTES_MAX) {
                    self.response(cx, from, call, response);
                }
            }
            Body::Gossip { bytes } => self.hear(cx, from, &bytes),
            Body::Opened { length } => self.open_frame(cx, length),
            _ => {}
        }
    }

    /// A stranger announces a frame: as the binary's first frame, it may be short only, and must come soon.
    fn open_frame(&mut self, cx: &mut Cx<'_>, length: u64) {
        let max = if cx.known.broken(Mutation::StrangersUnbounded) { FRAME_BYTES_MAX } else { FIRST_FRAME_BYTES_MAX };
        if length > max as u64 {
            return;
        }
        self.next_frame += 1;
        self.frames.insert(self.next_frame, length);
        cx.wait(FRAME_MS, Timer::Frame(self.next_frame));
    }

    fn request(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, bytes: &[u8]) {
        let Ok(request) = codec::decode::<Request>(bytes, FRAME_BYTES_MAX) else {
            return cx.reply(from, call, &refused(RefusalKind::BadRequest, "malformed"));
        };
        let answer = match request {
            Request::Report(record) => self.report(cx, from, SyncRecord::Vendor(record)),
            Request::ReportDelta(delta) => self.report_delta(cx, from, delta),
            Request::Heads(vendors) => {
                let known = vendors.iter().filter_map(|vendor| self.table.vendor(*vendor));
                Response::Heads(Bounded::first(known.map(|vendor| vendor.head.carried().clone())))
            }
            Request::VendorOf(vendor) => {
                let records =
                    [Key::Vendor(vendor), Key::Proof(vendor)].map(|key| self.store.records.get(&key).cloned());
                Response::Page(self.page(cx, (records.into_iter().flatten().collect(), 0, false)))
            }
            Request::SubmitMove(moved) => self.report(cx, from, SyncRecord::Move(moved)),
            Request::SubmitFats(fats) => self.submit(cx, from, fats.into_vec()),
            Request::FatsOf(query) => match query.verify() {
                Ok(query) if query.mirror == cx.id(cx.me) => Response::Files(self.fats_of(&query)),
                Ok(_) => refused(RefusalKind::NotAuthorised, "signed for another mirror"),
                Err(error) => Response::Refused(error.into()),
            },
            Request::Since { log, cursor } => Response::Page(self.since(cx, log, cursor)),
            Request::Orders { vendor, log, cursor } => Response::Page(self.orders_of(cx, vendor, log, cursor)),
            Request::Compare(compare) => {
                let told = reconcile::answer(self.table.index(), &compare);
                if matches!(compare.probe, Probe::Root(_)) {
                    self.decide(cx, Event::Compared { by: cx.id(from), differ: told != Compared::Same });
                }
                Response::Compared(told)
            }
            Request::Wanted(wanted) => Response::Page(self.wanted(cx, &wanted)),
            Request::Allocate(request) => return self.allocate(cx, from, call, request),
            Request::Cancel(cancel) => return self.cancel(cx, from, call, cancel),
            Request::Digest => Response::Digest(self.table.digest()),
            _ => refused(RefusalKind::WrongRole, "a mirror does not answer this"),
        };
        cx.reply(from, call, &answer);
    }

    fn response(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, response: Response) {
        if self.asks.contains_key(&call) {
            self.answered(cx, call, Some(response));
        } else if !self.withdrawn(cx, call, Some(&response)) {
            self.offered(cx, from, call, response);
        }
    }

    fn report(&mut self, cx: &mut Cx<'_>, from: usize, record: SyncRecord) -> Response {
        let verified = match self.admitted(cx, from, record) {
            Some(Ok(verified)) => verified,
            Some(Err(error)) => return Response::Refused(error.into()),
            None => return refused(RefusalKind::NotAuthorised, "come back later"),
        };
        match self.keep(cx, vec![verified], None).remove(0) {
            Ok(_) => Response::Done,
            Err(refusal) => Response::Refused(refusal),
        }
    }

    fn submit(&mut self, cx: &mut Cx<'_>, from: usize, fats: Vec<Carried<FinalFat>>) -> Response {
        let mut results = Vec::new();
        for fat in fats {
            let result = match self.admitted(cx, from, SyncRecord::Fat(fat)) {
                Some(Err(error)) => Err(error.into()),
                None => Err(Refusal::new(RefusalKind::NotAuthorised, "come back later")),
                Some(Ok(Verified::Fat(fat))) => {
                    self.table.admit(&fat, &mut Submission::default(), &mut self.strangers, cx.now).and_then(|()| {
                        // Kept before the next one is looked at, so none is before another that is not in the table.
                        let (owner, file, seq) = (fat.owner, fat.file, fat.seq);
                        self.keep(cx, vec![Verified::Fat(fat)], None).remove(0)?;
                        cx.oracle.mirror_said_final(cx.me, owner, file, seq);
                        // What its author must know: another device stored the file at the same time.
                        let forked = self.table.versions(owner, file).count() > 1;
                        let forked = forked.then(|| Refusal::new(RefusalKind::Forked, "both versions are kept"));
                        forked.map_or(Ok(()), Err)
                    })
                }
                Some(Ok(_)) => Err(Refusal::new(RefusalKind::BadRequest, "not a final FAT")),
            };
            results.push(result.err());
        }
        Response::Submitted(Bounded::first(results))
    }

    /// Merges records and writes what is new with the cursor, all or nothing; then passes it on. Says which were new.
    fn keep(
        &mut self,
        cx: &mut Cx<'_>,
        records: Vec<Verified>,
        cursor: Option<(NodeId, Hash, u64)>,
    ) -> Vec<Result<bool, Refusal>> {
        let (results, fresh) = self.keep_only(cx, records, cursor);
        for record in fresh {
            cx.gossip(&Gossip::Record(Box::new(record)));
        }
        results
    }

    /// Merges the record that a delta made, and passes it on as the delta that it came as.
    fn keep_delta(&mut self, cx: &mut Cx<'_>, record: Verified, delta: VendorDelta) -> Result<bool, Refusal> {
        let (mut results, fresh) = self.keep_only(cx, vec![record], None);
        let mut delta = Some(delta);
        for record in fresh {
            let whole = |record| Gossip::Record(Box::new(record));
            cx.gossip(&match (record, delta.take()) {
                (SyncRecord::Vendor(_), Some(delta)) => Gossip::Delta(Box::new(delta)),
                (record, _) => whole(record),
            });
        }
        results.remove(0)
    }

    /// Merges records and writes what is new with the cursor, all or nothing. Returns which were new, and what is to be passed on.
    fn keep_only(
        &mut self,
        cx: &mut Cx<'_>,
        records: Vec<Verified>,
        cursor: Option<(NodeId, Hash, u64)>,
    ) -> (Vec<Result<bool, Refusal>>, Vec<SyncRecord>) {
        let mut changes = Vec::new();
        let (mut results, mut fresh, mut orders) = (Vec::new(), Vec::new(), Vec::new());
        let mut waiting: VecDeque<(Verified, bool)> = records.into_iter().map(|record| (record, true)).collect();
        while let Some((record, asked)) = waiting.pop_front() {
            changes.extend(self.suspect(cx, &record));
            // A twin of what is known is a proof against its signer.
            waiting.extend(self.table.twins(&record).map(|proof| (Verified::Proof(Box::new(proof)), false)));
            cx.oracle.mirror_took(cx.me, &record);
            let merged = self.table.merge(&record);
            let (key, demoted) = match &merged {
                Ok(Merged::Twin { key, demoted, .. }) => (*key, *demoted),
                _ => (record.key(), None),
            };
            match merged {
                Ok(Merged::New { drops, tell } | Merged::Twin { drops, tell, .. }) => {
                    if let Verified::Move(moved, carried) = &record {
                        cx.oracle.mirror_has_move(moved, carried.hash());
                        let others = tell.iter().copied().filter(|vendor| *vendor != moved.to).collect();
                        changes.push(Change::Also(Key::Fat(moved.owner, moved.file), others, false));
                    }
                    changes.extend(drops.into_iter().map(Change::Drop));
                    changes.extend(demoted.map(|to| Change::Demote(record.key(), to)));
                    changes.push(Change::Put(key, record.to_record()));
                    if let Verified::Vendor(vendor) = &record {
                        self.market.note(&vendor.head);
                    }
                    if let Verified::Fat(fat) = &record {
                        let named = fat.vendors();
                        let others: BTreeSet<NodeId> =
                            tell.iter().copied().filter(|vendor| !named.contains(vendor)).collect();
                        changes.push(Change::Also(record.key(), others, false));
                        orders.push((fat.carried().clone(), tell));
                    }
                    fresh.push(record.to_record());
                    results.extend(asked.then_some(Ok(true)));
                }
                Ok(Merged::Known) => results.extend(asked.then_some(Ok(false))),
                Err(refusal) => {
                    let void = matches!(refusal.kind, RefusalKind::Stale | RefusalKind::Conflict);
                    if let (Verified::Move(moved, _), true) = (&record, void) {
                        let file = Key::Fat(moved.owner, moved.file);
                        changes.push(Change::Also(file, [moved.to].into(), true));
                    }
                    results.extend(asked.then_some(Err(refusal)));
                }
            }
        }
        if let Some((mirror, log, next)) = cursor {
            changes.push(Change::Cursor(mirror, log, next));
        }
        if cx.known.broken(Mutation::MirrorAnswersEarly) {
            self.unwritten.extend(changes);
            cx.wait(400, Timer::Every(COMMIT));
        } else {
            self.store.apply(changes);
        }
        for (fat, vendors) in orders {
            for vendor in vendors {
                if let Some(node) = cx.known.index.get(&vendor) {
                    cx.tell(*node, &Request::Order(Bounded::first([fat.clone()])));
                }
            }
        }
        (results, fresh)
    }

    fn page(&self, cx: &Cx<'_>, (records, next, more): (Vec<SyncRecord>, u64, bool)) -> Page {
        Page { log: self.store.log, next, more, clock: cx.now, records: Bounded::first(records) }
    }

    /// The log after a cursor. Who read another log is told where this one ends, and compares tables instead.
    fn since(&self, cx: &Cx<'_>, log: Hash, cursor: u64) -> Page {
        let first = log == Cursor::NONE.log;
        if !first && (log != self.store.log || cursor >= self.store.next) {
            return self.page(cx, (Vec::new(), self.store.next - 1, false));
        }
        self.page(cx, self.store.after(if first { 0 } else { cursor }, |_| true))
    }

    fn orders_of(&self, cx: &Cx<'_>, vendor: NodeId, log: Hash, cursor: u64) -> Page {
        let cursor = if log == self.store.log && cursor < self.store.next { cursor } else { 0 };
        self.page(cx, self.store.after(cursor, |key| self.store.concerns(&self.table, vendor, key)))
    }

    fn wanted(&self, cx: &Cx<'_>, wanted: &WantedList) -> Page {
        let found = reconcile::wanted_keys(&self.table, wanted);
        let records = found.iter().flatten().filter_map(|key| self.store.records.get(key).cloned()).collect();
        self.page(cx, (records, found.len() as u64, found.len() < wanted.len()))
    }

    /// Everything about an owner's files, or about one of them; it fits one page here.
    fn fats_of(&self, query: &OwnerQuery) -> FilesPage {
        let keys = self.table.keys_of(query.owner, &query.files, None);
        let records: Vec<SyncRecord> = keys.filter_map(|key| self.store.records.get(&key).cloned()).collect();
        let cursor = LogCursor { log: self.store.log, position: self.store.next - 1 };
        FilesPage { cursor, whole: true, after: None, more: false, records: Bounded::first(records) }
    }
}

fn refused(kind: RefusalKind, reason: &str) -> Response {
    Response::Refused(Refusal::new(kind, reason))
}
