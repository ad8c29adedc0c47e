//! Locking storage for a request: vendors are chosen from the table, and each countersigns its part.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::allocate::{Candidate, Share, Want, plan};
use fathom_protocol::codec::Bounded;
use fathom_protocol::ids::NodeId;
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::wire::{AllocateRequest, Location, ProvisionalFat, RefusalKind, Request, Response};

use super::{Mirror, refused};
use crate::sim::node::Cx;

const OFFER_MS: u64 = 1_000;
const ROUNDS_MAX: u8 = 3;

/// A request under way.
#[derive(Debug)]
pub(super) struct Work {
    from: usize,
    call: u64,
    request: Signed<AllocateRequest>,
    asked: BTreeSet<NodeId>,
    pending: BTreeMap<u64, Share>,
    locations: Vec<Location>,
    missing: Vec<(u8, u64)>,
    rounds: u8,
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
        let want = Want {
            copies: request.copies,
            width: request.width,
            bytes: request.bytes,
            unit: request.unit,
            avoid_zones: Vec::new(),
        };
        let shares = match plan(self.candidates(&request, &BTreeSet::new()), &want) {
            Ok(plan) => plan.shares,
            Err(shortage) => return cx.reply(from, call, &refused(RefusalKind::NoSpace, &shortage.to_string())),
        };
        let mut work = Work {
            from,
            call,
            request,
            asked: BTreeSet::new(),
            pending: BTreeMap::new(),
            locations: Vec::new(),
            missing: Vec::new(),
            rounds: 0,
        };
        work.ask(cx, shares);
        self.next_work += 1;
        self.works.insert(self.next_work, work);
    }

    fn candidates(&self, request: &AllocateRequest, asked: &BTreeSet<NodeId>) -> Vec<Candidate> {
        let open = |vendor: &NodeId| !asked.contains(vendor) && !request.exclude.contains(vendor);
        let vendors = self.table.vendors().filter(|vendor| open(&vendor.head.vendor));
        vendors
            .map(|known| Candidate {
                vendor: known.head.vendor,
                zone: known.head.characteristics.zone.to_string(),
                operator: known.head.characteristics.operator.to_string(),
                free: known.head.free(),
                load: known.head.characteristics.load,
                suspected: false,
                may_hold: false,
            })
            .collect()
    }

    pub(super) fn offered(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, response: Response) {
        let Some((id, share)) = self.share(call) else { return };
        let Some(mut work) = self.works.remove(&id) else { return };
        let head = self.table.vendor(share.vendor).map(|vendor| vendor.head.carried().clone());
        match (response, head) {
            (Response::Offered { lease, granted }, Some(head)) if cx.id(from) == share.vendor => match lease.verify() {
                Ok(lease) if fits(&lease, &work.request, share.vendor, granted) => {
                    let lease = lease.into_carried();
                    work.locations.push(Location { column: share.column, granted, lease, head });
                }
                _ => work.missing.push((share.column, share.bytes)),
            },
            _ => work.missing.push((share.column, share.bytes)),
        }
        work.pending.remove(&call);
        self.advance(cx, id, work);
    }

    pub(super) fn not_offered(&mut self, cx: &mut Cx<'_>, call: u64) {
        let Some((id, share)) = self.share(call) else { return };
        let Some(mut work) = self.works.remove(&id) else { return };
        work.pending.remove(&call);
        work.missing.push((share.column, share.bytes));
        self.advance(cx, id, work);
    }

    fn share(&self, call: u64) -> Option<(u64, Share)> {
        self.works.iter().find_map(|(id, work)| Some((*id, *work.pending.get(&call)?)))
    }

    fn advance(&mut self, cx: &mut Cx<'_>, id: u64, mut work: Work) {
        if work.pending.is_empty() && !work.missing.is_empty() && work.rounds < ROUNDS_MAX {
            work.rounds += 1;
            let mut shares = Vec::new();
            let mut asked = work.asked.clone();
            for (column, bytes) in std::mem::take(&mut work.missing) {
                let want = Want { copies: 1, width: 1, bytes, unit: work.request.unit, avoid_zones: Vec::new() };
                match plan(self.candidates(&work.request, &asked), &want) {
                    Ok(plan) => {
                        asked.extend(plan.shares.iter().map(|share| share.vendor));
                        shares.extend(plan.shares.into_iter().map(|share| Share { column, ..share }));
                    }
                    Err(_) => work.missing.push((column, bytes)),
                }
            }
            if work.missing.is_empty() {
                work.ask(cx, shares);
            }
        }
        if !work.pending.is_empty() {
            self.works.insert(id, work);
            return;
        }
        let answer = match Bounded::new(work.locations) {
            Ok(locations) if work.missing.is_empty() => {
                Response::Provisional(ProvisionalFat { locations, warnings: Bounded::default() })
            }
            _ => refused(RefusalKind::NoSpace, "the vendors asked did not lock storage"),
        };
        cx.reply(work.from, work.call, &answer);
    }
}

impl Work {
    fn ask(&mut self, cx: &mut Cx<'_>, shares: Vec<Share>) {
        for share in shares {
            self.asked.insert(share.vendor);
            let Some(node) = cx.known.index.get(&share.vendor).copied() else { continue };
            let offer = Request::Offer { request: self.request.carried().clone(), bytes: share.bytes };
            let call = cx.ask_within(node, &offer, OFFER_MS);
            self.pending.insert(call, share);
        }
    }
}

fn fits(lease: &fathom_protocol::lease::Lease, request: &AllocateRequest, vendor: NodeId, granted: u64) -> bool {
    lease.vendor == vendor
        && lease.owner == request.owner
        && lease.authority == request.authority
        && granted > 0
        && granted <= lease.bytes
}
