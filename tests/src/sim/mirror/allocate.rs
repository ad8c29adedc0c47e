//! Locking storage for a request: the real [`Allocation`] decides whom to ask among the real [`Market`], and each vendor
//! countersigns its part. What a request that failed left locked, its signer takes back through this mirror.
//!
//! [`Market`]: fathom_protocol::market::Market

use std::collections::BTreeMap;

use fathom_protocol::allocate::View;
use fathom_protocol::allocation::{Action, Allocation, Event, Part};
use fathom_protocol::codec::Bounded;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::market::Standing;
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::wire::{
    AllocateRequest, Cancel, Location, ProvisionalFat, Refusal, RefusalKind, Request, Response,
};

use super::{Mirror, refused};
use crate::sim::node::{Cx, Timer};

/// Longest wait for a vendor to which something is passed on, milliseconds.
const PASS_ON_MS: u64 = 1_500;

/// A request under way.
#[derive(Debug)]
pub(super) struct Work {
    from: usize,
    call: u64,
    request: Signed<AllocateRequest>,
    core: Allocation,
    /// Vendors that were asked, by the call.
    asked: BTreeMap<u64, NodeId>,
    /// The timer that counts; an earlier one is void.
    due: u64,
}

/// A withdrawal that was passed on to its vendor.
#[derive(Debug)]
pub(super) struct Withdrawal {
    from: usize,
    call: u64,
    vendor: NodeId,
    request: (SignerId, Hash),
}

impl Mirror {
    pub(super) fn allocate(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, request: Carried<AllocateRequest>) {
        let request = match request.verify() {
            Ok(request) => request,
            Err(error) => return cx.reply(from, call, &Response::Refused(error.into())),
        };
        if request.expires < cx.now {
            return cx.reply(from, call, &refused(RefusalKind::LeaseExpired, "the request has expired"));
        }
        let (core, actions) = Allocation::start((*request).clone(), cx.at, &self.market_for(cx, &request));
        let work = Work { from, call, request, core, asked: BTreeMap::new(), due: 0 };
        self.next_work += 1;
        self.carry_out(cx, self.next_work, work, actions);
    }

    fn market_for(&self, cx: &Cx<'_>, request: &AllocateRequest) -> View {
        self.market.view(&request.wants, cx.now, |vendor| Standing {
            barred: request.exclude.contains(&vendor) || self.table.quarantined(vendor).is_some(),
            suspected: false,
            may_hold: false,
            round_trip_us: None,
        })
    }

    pub(super) fn offered(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, response: Response) {
        let Some((id, vendor)) = self.asked_by(call) else { return };
        let lost = |refusal| Event::Refused { vendor, refusal };
        let event = match response {
            Response::Offered { lease, granted } if cx.id(from) == vendor => match lease.verify() {
                Ok(lease) => {
                    if let Some(work) = self.works.get(&id) {
                        self.market.offered(vendor, (work.request.authority, work.request.nonce), granted);
                    }
                    Event::Offered { vendor, lease: Box::new(lease), granted }
                }
                Err(error) => lost(error.into()),
            },
            Response::Refused(refusal) => lost(refusal),
            _ => lost(Refusal::new(RefusalKind::BadRequest, "not an offer")),
        };
        self.handle(cx, id, Some(call), event);
    }

    /// A call got no answer in time.
    pub(super) fn not_offered(&mut self, cx: &mut Cx<'_>, call: u64) {
        let Some((id, vendor)) = self.asked_by(call) else { return };
        let refusal = Refusal::new(RefusalKind::Silent, "no answer in time");
        self.handle(cx, id, Some(call), Event::Refused { vendor, refusal });
    }

    /// Passes a withdrawal on to the vendor that may hold room for the request.
    pub(super) fn cancel(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, cancel: Carried<Cancel>) {
        let cancel = match cancel.verify() {
            Ok(cancel) => cancel,
            Err(error) => return cx.reply(from, call, &Response::Refused(error.into())),
        };
        let (vendor, request) = (cancel.vendor, (cancel.authority, cancel.request));
        let Some(node) = cx.known.index.get(&vendor).copied() else {
            return cx.reply(from, call, &refused(RefusalKind::Unreachable, "this mirror does not know that vendor"));
        };
        let passed = cx.ask_within(node, &Request::Cancel(cancel.into_carried()), PASS_ON_MS);
        self.withdrawals.insert(passed, Withdrawal { from, call, vendor, request });
    }

    /// What the vendor said to a withdrawal, or that it said nothing; false if the call is none.
    pub(super) fn withdrawn(&mut self, cx: &mut Cx<'_>, call: u64, answer: Option<&Response>) -> bool {
        let Some(Withdrawal { from, call, vendor, request }) = self.withdrawals.remove(&call) else { return false };
        let silent = refused(RefusalKind::Silent, "no answer in time");
        let answer = answer.unwrap_or(&silent);
        if *answer == Response::Done {
            // Its next head is seconds away, and others look for room now.
            self.market.withdrawn(vendor, request);
        }
        cx.reply(from, call, answer);
        true
    }

    /// A timer of a request has come.
    pub(super) fn allocation_timer(&mut self, cx: &mut Cx<'_>, id: u64) {
        if self.works.get(&id).is_some_and(|work| work.due <= cx.at) {
            self.handle(cx, id, None, Event::Timer);
        }
    }

    fn asked_by(&self, call: u64) -> Option<(u64, NodeId)> {
        self.works.iter().find_map(|(id, work)| Some((*id, *work.asked.get(&call)?)))
    }

    fn handle(&mut self, cx: &mut Cx<'_>, id: u64, call: Option<u64>, event: Event) {
        let Some(mut work) = self.works.remove(&id) else { return };
        call.map(|call| work.asked.remove(&call));
        let actions = work.core.handle(event, cx.at, || self.market_for(cx, &work.request));
        self.carry_out(cx, id, work, actions);
    }

    fn carry_out(&mut self, cx: &mut Cx<'_>, id: u64, mut work: Work, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Ask { share, wait_ms } => {
                    let Some(node) = cx.known.index.get(&share.vendor).copied() else { continue };
                    let offer = Request::Offer { request: work.request.carried().clone(), bytes: share.bytes };
                    let call = cx.ask_within(node, &offer, wait_ms);
                    work.asked.insert(call, share.vendor);
                }
                Action::SetTimer { at_ms } => {
                    work.due = at_ms;
                    cx.wait(at_ms.saturating_sub(cx.at), Timer::Allocation(id));
                }
                Action::Done { parts, .. } => return cx.reply(work.from, work.call, &self.provisional(parts)),
                Action::Failed { refusal, asked } => {
                    let asked = Bounded::first(asked);
                    let short = !asked.is_empty();
                    let answer = if short { Response::Short { refusal, asked } } else { Response::Refused(refusal) };
                    return cx.reply(work.from, work.call, &answer);
                }
            }
        }
        self.works.insert(id, work);
    }

    fn provisional(&self, parts: Vec<Part>) -> Response {
        let located = parts.into_iter().filter_map(|part| {
            let head = self.table.vendor(part.lease.vendor)?.head.carried().clone();
            Some(Location { column: part.column, granted: part.granted, lease: part.lease.into_carried(), head })
        });
        Response::Provisional(ProvisionalFat { locations: Bounded::first(located), warnings: Bounded::default() })
    }
}
