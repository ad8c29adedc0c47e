//! What a vendor tells of itself: what the real [`Reporter`] decides is carried out here, as the vendor's role does it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fathom_protocol::codec::{self, Bounded, Text};
use fathom_protocol::delta::{HeadId, VendorDelta};
use fathom_protocol::head::{Addresses, Characteristics, VendorHead, VerifiedVendor};
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::reporter::{Action, Event, Reporter, Seen, Untaken};
use fathom_protocol::sign::{Carried, Record, Signed};
use fathom_protocol::tags;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response};
use fathom_store::fat::HEAD_KEY;
use fathom_store::{FatError, LocalFat};

use super::{CHANGED, LOOK, REPORT, Vendor};
use crate::sim::mutation::Mutation;
use crate::sim::node::{Cx, Timer};

/// How often mirrors are looked for.
const LOOK_MS: u64 = 3_000;
/// Longest wait for a mirror's answer.
const MIRROR_MS: u64 = 2_000;

/// What a mirror was asked or told.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// For the newest head that it knows.
    Newest(NodeId),
    /// To take this head.
    Head(NodeId, HeadId),
    /// For this vendor's own record, leases and all.
    Record(NodeId),
}

/// The head's life as it is carried out.
#[derive(Debug)]
pub(in crate::sim) struct Life {
    reporter: Reporter,
    /// Records that deltas may build on, and the newest.
    kept: Vec<VerifiedVendor>,
    calls: BTreeMap<u64, Asked>,
    events: VecDeque<Event>,
    /// While leases are taken back nothing else is looked at.
    taking_back: bool,
    /// Mirrors that said what they know.
    heard: BTreeSet<NodeId>,
    /// True time of the timer that counts; one set earlier is void.
    timer: Option<u64>,
    /// Another node signs with this vendor's key, it seems.
    pub(super) elsewhere: bool,
}

impl Life {
    pub(super) fn read(fat: &LocalFat, now: UnixMs) -> Result<Self, FatError> {
        let head = match fat.kv(HEAD_KEY)? {
            None => HeadId { epoch: 1, seq: 0, hash: Hash([0; Hash::LEN]) },
            Some(bytes) => {
                let head: Carried<VendorHead> =
                    codec::decode(&bytes, 2 * VendorHead::BYTES_MAX).expect("its own head decodes");
                HeadId::of(&head.verify().expect("its own head is one"))
            }
        };
        Ok(Self {
            reporter: Reporter::new(head, now),
            kept: Vec::new(),
            calls: BTreeMap::new(),
            events: VecDeque::new(),
            taking_back: false,
            heard: BTreeSet::new(),
            timer: None,
            elsewhere: false,
        })
    }

    /// Whether a call is one of these.
    pub(super) fn awaits(&self, call: u64) -> bool {
        self.calls.contains_key(&call)
    }

    /// The newest head on disk.
    pub(in crate::sim) fn head(&self) -> HeadId {
        self.reporter.head()
    }
}

impl Vendor {
    /// Mirrors are looked for. The best ones are no others each time: which, chance says.
    pub(super) fn look(&mut self, cx: &mut Cx<'_>) {
        let mut mirrors: Vec<NodeId> = cx.known.mirrors.iter().map(|mirror| cx.id(*mirror)).collect();
        cx.random.shuffle(&mut mirrors);
        self.tell_reporter(cx, Event::Mirrors(mirrors));
        cx.wait(LOOK_MS, Timer::Every(LOOK));
    }

    /// Says that something changed which the head tells.
    pub(super) fn touch(&mut self, cx: &mut Cx<'_>) {
        if let Some(run) = &mut self.running
            && !run.dirty
        {
            run.dirty = true;
            cx.wait(1, Timer::Every(CHANGED));
        }
    }

    pub(super) fn changed(&mut self, cx: &mut Cx<'_>) {
        if let Some(run) = &mut self.running {
            run.dirty = false;
        }
        self.tell_reporter(cx, Event::Changed);
    }

    /// The reporter's timer, or one that is void.
    pub(super) fn report_timer(&mut self, cx: &mut Cx<'_>) {
        let Some(run) = &mut self.running else { return };
        if run.life.timer.is_some_and(|due| due <= cx.at) {
            run.life.timer = None;
            self.tell_reporter(cx, Event::Timer);
        }
    }

    /// Takes an event and does what follows from it.
    pub(super) fn tell_reporter(&mut self, cx: &mut Cx<'_>, event: Event) {
        let Some(run) = &mut self.running else { return };
        run.life.events.push_back(event);
        self.go_on(cx);
    }

    fn go_on(&mut self, cx: &mut Cx<'_>) {
        while let Some(run) = self.running.as_mut().filter(|run| !run.life.taking_back) {
            let Some(event) = run.life.events.pop_front() else { return };
            for action in run.life.reporter.handle(event, cx.now) {
                self.carry_out(cx, action);
            }
        }
    }

    fn carry_out(&mut self, cx: &mut Cx<'_>, action: Action) {
        match action {
            Action::Ask(mirror) if cx.known.broken(Mutation::SignsUnasked) => {
                self.next_event(Event::Known { mirror, seen: None });
            }
            Action::Ask(mirror) => {
                let newest = Request::Heads(Bounded::first([self.id()]));
                self.ask_mirror(cx, mirror, &newest, Asked::Newest(mirror));
            }
            Action::TakeBack(mirror) => {
                self.ask_mirror(cx, mirror, &Request::VendorOf(self.id()), Asked::Record(mirror));
                if let Some(run) = &mut self.running {
                    (run.life.taking_back, run.out_of_step) = (true, true);
                }
            }
            Action::InStep => {
                self.clear_leftovers();
                let heard = self.running.as_ref().map_or(0, |run| run.life.heard.len());
                cx.oracle.in_step(cx.me, heard);
            }
            Action::Sign { epoch, seq, prev } => {
                self.in_step(cx);
                let event = self.sign_head(cx, epoch, seq, prev).map_or(Event::Unsigned, Event::Signed);
                self.next_event(event);
            }
            Action::Send { mirror, base } => self.send_head(cx, mirror, base),
            Action::SetTimer(at) => {
                let Some(run) = &mut self.running else { return };
                let ms = at.since_ms(cx.now);
                run.life.timer = Some(cx.at + ms);
                cx.wait(ms, Timer::Every(REPORT));
            }
            Action::Elsewhere => {
                if let Some(run) = &mut self.running {
                    (run.life.elsewhere, run.out_of_step) = (true, false);
                }
                cx.oracle.elsewhere(cx.me, cx.known.byzantine[cx.me]);
            }
        }
    }

    /// Whatever there was to be learnt from mirrors is known.
    fn in_step(&mut self, cx: &mut Cx<'_>) {
        let out = self.running.as_mut().is_some_and(|run| std::mem::take(&mut run.out_of_step));
        if out && !cx.known.byzantine[cx.me] {
            cx.oracle.settled(cx.me, self);
        }
    }

    /// What follows from an action comes before all else.
    fn next_event(&mut self, event: Event) {
        if let Some(run) = &mut self.running {
            run.life.events.push_front(event);
        }
    }

    fn ask_mirror(&mut self, cx: &mut Cx<'_>, mirror: NodeId, request: &Request, asked: Asked) {
        let call = cx.ask_within(cx.known.index[&mirror], request, MIRROR_MS);
        if let Some(run) = &mut self.running {
            run.life.calls.insert(call, asked);
        }
    }

    /// Sends the newest head: what changed since `base` if that is little, else all of it.
    fn send_head(&mut self, cx: &mut Cx<'_>, mirror: NodeId, base: Option<HeadId>) {
        let Some(life) = self.running.as_ref().map(|run| &run.life) else { return };
        let Some(newest) = life.kept.last() else { return };
        let head = HeadId::of(&newest.head);
        let old = base.and_then(|base| life.kept.iter().find(|kept| HeadId::of(&kept.head) == base));
        let request = match old.and_then(|old| VendorDelta::between(old, newest)) {
            Some(delta) => {
                cx.injected.deltas += 1;
                Request::ReportDelta(delta)
            }
            None => {
                cx.injected.whole_heads += 1;
                Request::Report(newest.to_record())
            }
        };
        self.ask_mirror(cx, mirror, &request, Asked::Head(mirror, head));
    }

    /// A mirror's answer, or none in time. Returns whether it was asked by this.
    pub(super) fn mirror_answered(&mut self, cx: &mut Cx<'_>, call: u64, response: Option<Response>) -> bool {
        let me = self.id();
        let Some(asked) = self.running.as_mut().and_then(|run| run.life.calls.remove(&call)) else { return false };
        if let (Asked::Newest(mirror), Some(Response::Heads(_)), Some(run)) = (asked, &response, &mut self.running) {
            run.life.heard.insert(mirror);
        }
        let event = match (asked, response) {
            (Asked::Newest(mirror), Some(Response::Heads(heads))) => {
                let mut heads = heads.into_iter().filter_map(|head| head.verify().ok());
                let own = heads.find(|head| head.vendor == me);
                Event::Known { mirror, seen: own.map(|head| Seen { head: HeadId::of(&head), issued: head.issued }) }
            }
            (Asked::Newest(mirror), _) => Event::Unanswered(mirror),
            (Asked::Head(mirror, head), Some(Response::Done)) => Event::Acked(mirror, head),
            (Asked::Head(mirror, head), Some(Response::Refused(refusal))) => {
                let why = match refusal.kind {
                    RefusalKind::Stale | RefusalKind::Conflict => Untaken::Stale,
                    RefusalKind::NotFound => Untaken::BaseMissing,
                    _ => Untaken::Failed,
                };
                cx.injected.bases_missing += u64::from(why == Untaken::BaseMissing);
                Event::Untaken(mirror, head, why)
            }
            (Asked::Head(mirror, head), _) => Event::Untaken(mirror, head, Untaken::Failed),
            (Asked::Record(mirror), response) => {
                let event = self.take_back(cx, mirror, response);
                self.next_event(event);
                if let Some(run) = &mut self.running {
                    run.life.taking_back = false;
                }
                self.go_on(cx);
                return true;
            }
        };
        self.tell_reporter(cx, event);
        true
    }

    /// Signs a head over everything as it is now and makes it durable.
    fn sign_head(&mut self, cx: &mut Cx<'_>, epoch: u64, seq: u64, prev: Hash) -> Result<HeadId, Refusal> {
        let (id, zone, key) = (self.id(), self.zone.clone(), self.key.clone());
        // Not by the wall clock alone: set back, it would have a lease that lapsed look like one that was dropped in its time.
        let issued = self.dating_clock(cx).at;
        let signed = self.durable(|tx, ledger| {
            let head = VendorHead {
                version: tags::VERSION,
                vendor: id,
                epoch,
                seq,
                prev,
                issued,
                capacity: ledger.capacity(),
                used: ledger.leases().map(|lease| lease.used).sum(),
                root: ledger.root(),
                leases: ledger.leases().len() as u32,
                characteristics: Characteristics {
                    zone: Text::cut(&zone),
                    operator: Text::cut(&zone),
                    media: Text::cut("unknown"),
                    bandwidth_bytes_per_s: 0,
                    up_since: issued,
                    load: 0,
                    up_bytes_per_s: 0,
                    down_bytes_per_s: 0,
                    coordinate: None,
                },
                addresses: Addresses::default(),
                devices: Bounded::default(),
            };
            let head = Signed::sign(head, &key).map_err(|error| FatError::Refused(error.to_string()))?;
            tx.put_kv(HEAD_KEY, &codec::encode(head.carried()))?;
            Ok(VerifiedVendor { head, leases: ledger.leases().cloned().collect() })
        })?;
        let head = HeadId::of(&signed.head);
        cx.oracle.signed(head.hash);
        cx.oracle.vendor_signed(cx.me, epoch, seq);
        if let Some(run) = &mut self.running {
            let needed: Vec<HeadId> = run.life.reporter.needed().collect();
            run.life.kept.retain(|kept| needed.contains(&HeadId::of(&kept.head)));
            run.life.kept.push(signed);
        }
        Ok(head)
    }
}
