//! A request for storage while it is served (figures 5 and 6): the mirror's side, as a state machine.
//!
//! The table only says where to ask; the vendor decides. One that refuses, or says nothing for [`OFFER_MS`], is replaced
//! within its column at once, until the time for the whole request is over. A vendor is asked once.
//!
//! Fed by [`Allocation::start`] and [`Allocation::handle`]; each returns [`Action`]s, and the last of them is
//! [`Action::Done`] or [`Action::Failed`], after which nothing more comes. Time is in milliseconds of any clock that only goes
//! forward. It keeps no view of the market: whoever runs it hands one in when it plans, so that a thousand requests at once
//! hold no thousand lists of vendors.

use std::collections::{BTreeMap, BTreeSet};

use crate::allocate::{Avoid, Candidate, Plan, Share, Shortage, View, Want, plan};
use crate::ids::NodeId;
use crate::lease::Lease;
use crate::limits::{ALLOCATE_ASKED_MAX, ALLOCATE_VENDORS_MAX, COPIES_MAX};
use crate::sign::Signed;
use crate::wire::{AllocateRequest, Refusal, RefusalKind};

/// Whether another mirror may answer where one refused with `kind`: it may also know of vendors that this one has not heard of.
#[must_use]
pub fn elsewhere(kind: RefusalKind) -> bool {
    matches!(
        kind,
        RefusalKind::Silent
            | RefusalKind::Unreachable
            | RefusalKind::WrongRole
            | RefusalKind::Internal
            | RefusalKind::Busy
            | RefusalKind::NoSpace
            | RefusalKind::TooFewVendors
    )
}

/// Longest wait for one vendor's offer, in milliseconds.
pub const OFFER_MS: u64 = 1_000;
/// Longest time for a whole request, in milliseconds, so that who asks hears within three seconds.
pub const ALL_MS: u64 = 2_500;
/// With less than this left, in milliseconds, no vendor is asked any more.
const ASK_MS_MIN: u64 = 100;
/// Vendors named in a refusal.
const NAMED_MAX: usize = 4;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A vendor countersigned. The lease was verified; whether it is what was asked for is looked at here.
    Offered {
        /// Who was asked.
        vendor: NodeId,
        /// Its lease.
        lease: Box<Signed<Lease>>,
        /// Bytes of its room that are for this request.
        granted: u64,
    },
    /// A vendor did not.
    Refused {
        /// Who was asked.
        vendor: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// The time of the last [`Action::SetTimer`] has come.
    Timer,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Ask a vendor to countersign, and wait for its answer so long.
    Ask {
        /// Whom, for how much.
        share: Share,
        /// Milliseconds.
        wait_ms: u64,
    },
    /// Wake this at this time; an earlier timer is void.
    SetTimer {
        /// When.
        at_ms: u64,
    },
    /// Everything is locked.
    Done {
        /// Where.
        parts: Vec<Part>,
        /// What could not be honoured, for people.
        warnings: Vec<String>,
    },
    /// It could not be.
    Failed {
        /// Why, with what was tried.
        refusal: Refusal,
        /// Vendors that may hold room for the request: whoever signed it gives that back by a
        /// [`Cancel`](crate::wire::Cancel).
        asked: Vec<NodeId>,
    },
}

/// One locked part.
#[derive(Debug)]
pub struct Part {
    /// Which copy, from 0.
    pub column: u8,
    /// Bytes of the lease's room.
    pub granted: u64,
    /// The lease.
    pub lease: Signed<Lease>,
}

/// Failure domains of a vendor, as texts: names may change between views.
#[derive(Clone, Debug)]
struct Spot {
    column: u8,
    zone: String,
    operator: Option<String>,
    subnet: Option<String>,
}

#[derive(Debug)]
struct Pending {
    share: Share,
    due: u64,
}

/// A request while it is served.
#[derive(Debug)]
pub struct Allocation {
    request: AllocateRequest,
    /// Bytes of each column: whole units.
    needed: u64,
    end: u64,
    pending: BTreeMap<NodeId, Pending>,
    asked: BTreeSet<NodeId>,
    failed: Vec<(NodeId, Refusal)>,
    /// Where shares are that were granted or may be.
    spots: BTreeMap<NodeId, Spot>,
    parts: Vec<Part>,
    warnings: Vec<String>,
    /// Why it fails, once the vendors that were asked have answered.
    failing: Option<(String, RefusalKind)>,
    over: bool,
}

impl Allocation {
    /// Plans a verified request over the vendors of `view` and asks them.
    pub fn start(request: AllocateRequest, now: u64, view: &View) -> (Self, Vec<Action>) {
        let unit = u64::from(request.unit);
        let mut this = Self {
            needed: request.bytes.div_ceil(unit).saturating_mul(unit),
            request,
            end: now.saturating_add(ALL_MS),
            pending: BTreeMap::new(),
            asked: BTreeSet::new(),
            failed: Vec::new(),
            spots: BTreeMap::new(),
            parts: Vec::new(),
            warnings: Vec::new(),
            failing: None,
            over: false,
        };
        let copies = this.request.copies;
        let width = usize::from(this.request.width).min(ALLOCATE_VENDORS_MAX / usize::from(copies));
        let width = u8::try_from(width).unwrap_or(u8::MAX);
        let mut actions = Vec::new();
        match this.plan(view, 0, copies, width, this.request.bytes) {
            Ok(plan) => this.ask(plan, now, view, &mut actions),
            Err(shortage) => {
                let kind = match shortage {
                    Shortage::Vendors { .. } => RefusalKind::TooFewVendors,
                    Shortage::Space { .. } => RefusalKind::NoSpace,
                };
                this.fail(shortage.to_string(), kind, &mut actions);
            }
        }
        this.conclude(&mut actions);
        (this, actions)
    }

    /// The bytes that are wanted for each copy, in whole units.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.needed
    }

    /// Takes what happened. `view` is called for the vendors there are now, if others must be asked.
    pub fn handle(&mut self, event: Event, now: u64, view: impl FnOnce() -> View) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.over {
            return actions;
        }
        match event {
            Event::Offered { vendor, lease, granted } => {
                // An answer that comes too late is void here: its column asks elsewhere already.
                let Some(pending) = self.pending.remove(&vendor) else { return actions };
                if self.fits(&lease, vendor, granted) {
                    self.parts.push(Part { column: pending.share.column, granted, lease: *lease });
                } else {
                    let reason = "the vendor offered a lease for something else";
                    self.lost(vendor, Refusal::new(RefusalKind::BadRequest, reason));
                }
            }
            Event::Refused { vendor, refusal } => {
                if self.pending.remove(&vendor).is_none() {
                    return actions;
                }
                self.lost(vendor, refusal);
            }
            Event::Timer => {
                let due = |(vendor, pending): (&NodeId, &Pending)| (pending.due <= now).then_some(*vendor);
                let late: Vec<NodeId> = self.pending.iter().filter_map(due).collect();
                for vendor in late {
                    self.pending.remove(&vendor);
                    self.lost(vendor, Refusal::new(RefusalKind::Silent, "no answer in time"));
                }
            }
        }
        if self.failing.is_none() {
            self.go_on(now, view, &mut actions);
        }
        self.conclude(&mut actions);
        actions
    }

    fn lost(&mut self, vendor: NodeId, refusal: Refusal) {
        self.spots.remove(&vendor);
        self.failed.push((vendor, refusal));
    }

    fn fits(&self, lease: &Lease, vendor: NodeId, granted: u64) -> bool {
        lease.vendor == vendor
            && lease.owner == self.request.owner
            && lease.authority == self.request.authority
            && granted > 0
            && granted <= lease.bytes
    }

    /// Asks others for what columns miss.
    fn go_on(&mut self, now: u64, view: impl FnOnce() -> View, actions: &mut Vec<Action>) {
        let columns = (0..self.request.copies).map(|column| (column, self.missing(column)));
        let missing: Vec<(u8, u64)> = columns.filter(|(_, bytes)| *bytes > 0).collect();
        if missing.is_empty() {
            return;
        }
        if now.saturating_add(ASK_MS_MIN) > self.end {
            let reason = "the vendors asked did not answer in time";
            return self.fail(reason.to_owned(), RefusalKind::TooFewVendors, actions);
        }
        let mut view = view();
        for (column, bytes) in missing {
            view.candidates.retain(|candidate| !self.asked.contains(&candidate.vendor));
            let Ok(plan) = self.plan(&view, column, 1, 1, bytes) else {
                let free = view.candidates.iter().fold(0, |sum: u64, one| sum.saturating_add(one.free));
                let copy = u32::from(column) + 1;
                let reason = format!("copy {copy} still needs {bytes} bytes and the vendors left have {free} free");
                return self.fail(reason, self.failure_kind(), actions);
            };
            self.ask(plan, now, &view, actions);
        }
    }

    /// Bytes of a column that are neither granted nor asked for.
    fn missing(&self, column: u8) -> u64 {
        let granted = self.parts.iter().filter(|part| part.column == column).map(|part| part.granted);
        let asked = self.pending.values().filter(|pending| pending.share.column == column);
        let there = granted.chain(asked.map(|pending| pending.share.bytes)).fold(0, u64::saturating_add);
        self.needed.saturating_sub(there)
    }

    /// A plan for `copies` columns from `first` on, clear of where the others are.
    fn plan(&self, view: &View, first: u8, copies: u8, width: u8, bytes: u64) -> Result<Plan, Shortage> {
        let others = || self.spots.values().filter(|spot| !(first..first + copies).contains(&spot.column));
        let find = |text: &String| view.names.find(text);
        let zones = self.request.avoid_zones.iter().filter_map(|zone| view.names.find(zone.as_str()));
        let avoid = Avoid {
            zones: zones.chain(others().filter_map(|spot| find(&spot.zone))).collect(),
            operators: others().filter_map(|spot| spot.operator.as_ref().and_then(find)).collect(),
            subnets: others().filter_map(|spot| spot.subnet.as_ref().and_then(find)).collect(),
        };
        let [a, b, c, d, e, f, g, h, ..] = self.request.nonce.0;
        // Each replacement is drawn anew.
        let seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]).wrapping_add(self.asked.len() as u64);
        plan(view, &Want { first, copies, width, bytes, unit: self.request.unit, seed, avoid })
    }

    fn ask(&mut self, plan: Plan, now: u64, view: &View, actions: &mut Vec<Action>) {
        let Plan { shares, warnings } = plan;
        let new = warnings.into_iter().filter(|warning| !self.warnings.contains(warning)).collect::<Vec<_>>();
        self.warnings.extend(new);
        self.warnings.truncate(COPIES_MAX);
        if self.asked.len() + shares.len() > ALLOCATE_ASKED_MAX
            || self.spots.len() + shares.len() > ALLOCATE_VENDORS_MAX
        {
            let reason = "the free storage lies at too many vendors; ask for less at a time";
            return self.fail(reason.to_owned(), RefusalKind::NoSpace, actions);
        }
        let wait_ms = OFFER_MS.min(self.end.saturating_sub(now));
        let by_vendor: BTreeMap<NodeId, &Candidate> = view.candidates.iter().map(|one| (one.vendor, one)).collect();
        for share in shares {
            self.asked.insert(share.vendor);
            if let Some(one) = by_vendor.get(&share.vendor) {
                let text = |name| view.names.raw(name).to_owned();
                let spot = Spot {
                    column: share.column,
                    zone: text(one.zone),
                    operator: one.operator.map(text),
                    subnet: one.subnet.map(text),
                };
                self.spots.insert(share.vendor, spot);
            }
            self.pending.insert(share.vendor, Pending { share, due: now.saturating_add(wait_ms) });
            actions.push(Action::Ask { share, wait_ms });
        }
    }

    /// Gives the request up. Vendors that were asked are still heard: what they locked is to be given back.
    fn fail(&mut self, reason: String, kind: RefusalKind, actions: &mut Vec<Action>) {
        for action in std::mem::take(actions) {
            match action {
                // Those of this very step need not be asked.
                Action::Ask { share, .. } => {
                    self.pending.remove(&share.vendor);
                    self.asked.remove(&share.vendor);
                }
                other => actions.push(other),
            }
        }
        self.failing = Some((reason, kind));
    }

    /// Ends if no answer is due any more, and else waits.
    fn conclude(&mut self, actions: &mut Vec<Action>) {
        if let Some(at_ms) = self.pending.values().map(|pending| pending.due).min() {
            return actions.push(Action::SetTimer { at_ms });
        }
        self.over = true;
        let Some((mut reason, kind)) = self.failing.take() else {
            let (parts, warnings) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.warnings));
            return actions.push(Action::Done { parts, warnings });
        };
        if !self.failed.is_empty() {
            let (failed, asked) = (self.failed.len(), self.asked.len());
            reason.push_str(&format!("; {failed} of {asked} vendors asked did not lock storage: "));
            let named = self.failed.iter().take(NAMED_MAX);
            let named: Vec<String> = named.map(|(vendor, refusal)| format!("{}: {refusal}", vendor.short())).collect();
            reason.push_str(&named.join("; "));
        }
        // A vendor that was not heard may have locked all the same; one that said no has not.
        let refused = |vendor: &NodeId| self.failed.iter().any(|(failed, why)| failed == vendor && !unheard(why.kind));
        let asked = self.asked.iter().copied().filter(|vendor| !refused(vendor)).collect();
        actions.push(Action::Failed { refusal: Refusal::new(kind, reason), asked });
    }

    /// Whether it was space or vendors that lacked, or that somebody holds too much, from what the vendors said.
    fn failure_kind(&self) -> RefusalKind {
        let kinds = || self.failed.iter().map(|(_, refusal)| refusal.kind);
        if kinds().any(|kind| kind == RefusalKind::Unsealed) {
            RefusalKind::Unsealed
        } else if !self.failed.is_empty() && kinds().all(unheard) {
            RefusalKind::TooFewVendors
        } else {
            RefusalKind::NoSpace
        }
    }
}

fn unheard(kind: RefusalKind) -> bool {
    matches!(kind, RefusalKind::Silent | RefusalKind::Unreachable)
}
