//! Locking storage for a request (figures 5 and 6): vendors are chosen from the table, and each countersigns its part.
//!
//! The table only says where to ask; the vendor decides. One that refuses or says nothing is replaced within its column, a
//! few times and within [`ALL`]. Offers that are not used lapse at their vendors, so a request that fails leaves nothing to undo.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use fathom_protocol::allocate::{Candidate, Plan, Share, Shortage, Want, plan};
use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::ids::NodeId;
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::ALLOCATE_VENDORS_MAX;
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::wire::{AllocateRequest, Location, ProvisionalFat, Refusal, RefusalKind, Request, Response};
use futures::future::join_all;

use super::Mirror;
use crate::clock;

/// Longest wait for one vendor's offer.
const OFFER: Duration = Duration::from_secs(1);
/// Longest time for a whole request, so that who asks hears within three seconds.
const ALL: Duration = Duration::from_millis(2_500);
/// Less than this left, and no vendor is asked any more.
const ROUND_MIN: Duration = Duration::from_millis(100);
/// How often missing bytes are asked of other vendors.
const ROUNDS_MAX: usize = 5;
/// A vendor whose head did not change here for so long is chosen last.
const QUIET: Duration = Duration::from_secs(120);
/// Vendors named in a refusal.
const NAMED_MAX: usize = 4;

/// What was locked at each vendor since its newest head here: the head does not count it yet.
#[derive(Debug, Default)]
pub(super) struct Offered(BTreeMap<NodeId, ((u64, u64), u64)>);

/// A request under way.
struct Work<'a> {
    mirror: &'a Mirror,
    request: Signed<AllocateRequest>,
    /// Bytes of each column: whole units.
    needed: u64,
    candidates: Vec<Candidate>,
    asked: BTreeSet<NodeId>,
    failed: Vec<(NodeId, Refusal)>,
    locations: Vec<Location>,
    warnings: Vec<String>,
}

impl Mirror {
    /// Locks storage for a request.
    ///
    /// # Errors
    /// A [`Refusal`]: not signed, expired, or `NoSpace` or `TooFewVendors` with what was tried.
    pub(super) async fn allocate(&self, request: Carried<AllocateRequest>) -> Result<ProvisionalFat, Refusal> {
        let end = Instant::now() + ALL;
        let request = self.off_reactor(move || request.verify()).await??;
        if request.expires < clock::now() {
            return Err(Refusal::new(RefusalKind::LeaseExpired, "the request for storage has expired; ask again"));
        }
        let by_owner = request.authority == SignerId::from(request.owner);
        if !by_owner && self.writer.shared().state().table.vendor(request.authority.node()).is_none() {
            let reason = "only a user, or a vendor that moves a user's data, can ask for storage";
            return Err(Refusal::new(RefusalKind::NotAuthorised, reason));
        }
        let unit = u64::from(request.unit);
        let needed = request.bytes.div_ceil(unit).saturating_mul(unit);
        let candidates = self.candidates(&request);
        let mut work = Work {
            mirror: self,
            request,
            needed,
            candidates,
            asked: BTreeSet::new(),
            failed: Vec::new(),
            locations: Vec::new(),
            warnings: Vec::new(),
        };
        work.run(end).await?;
        let locations = Bounded::new(work.locations).map_err(|_| {
            Refusal::new(RefusalKind::NoSpace, "the free storage lies at too many vendors; ask for less at a time")
        })?;
        let warnings = Bounded::first(work.warnings.iter().map(|warning| Text::cut(warning)));
        Ok(ProvisionalFat { locations, warnings })
    }

    /// Vendors that may be chosen for a request. Of a file that moves it is not known here which vendor holds which chunk, as
    /// its manifest is sealed: those that hold some of it come last, except for the asking vendor's own zone, where the same
    /// copy was spread. A destination that has the chunk says so.
    fn candidates(&self, request: &AllocateRequest) -> Vec<Candidate> {
        let state = self.writer.shared().state();
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let holders = request.file.map(|file| state.table.holders(request.owner, file)).unwrap_or_default();
        let asker = request.authority.node();
        let zone = state.table.vendor(asker).map(|vendor| vendor.head.characteristics.zone.clone());
        let barred = |vendor: &NodeId| request.exclude.contains(vendor) || *vendor == asker;
        let trusted = |vendor: &NodeId| state.table.quarantined(*vendor).is_none();
        let vendors =
            state.table.vendors().filter(|vendor| !barred(&vendor.head.vendor) && trusted(&vendor.head.vendor));
        vendors
            .map(|known| {
                let head = &known.head;
                let quiet = state.heard.get(&head.vendor).is_none_or(|heard| heard.elapsed() > QUIET);
                Candidate {
                    vendor: head.vendor,
                    zone: head.characteristics.zone.to_string(),
                    operator: head.characteristics.operator.to_string(),
                    free: head.free().saturating_sub(offered.since(head.vendor, (head.epoch, head.seq))),
                    load: head.characteristics.load,
                    suspected: quiet || self.net.book().behaviour(head.vendor).suspected,
                    may_hold: holders.contains(&head.vendor) && zone.as_ref() != Some(&head.characteristics.zone),
                }
            })
            .collect()
    }

    /// Asks one vendor to countersign, and verifies that it did.
    async fn offer(
        &self,
        request: &Signed<AllocateRequest>,
        share: Share,
        wait: Duration,
    ) -> Result<Location, Refusal> {
        let offer = Request::Offer { request: request.carried().clone(), bytes: share.bytes };
        let answer = self.net.call(share.vendor, &offer, wait).await?;
        let Response::Offered { lease, granted } = answer else {
            return Err(Refusal::new(RefusalKind::BadRequest, "the vendor did not answer with an offer"));
        };
        let lease = self.off_reactor(move || lease.verify()).await??;
        if !fits(&lease, request, share.vendor, granted) {
            return Err(Refusal::new(RefusalKind::BadRequest, "the vendor offered a lease for something else"));
        }
        let state = self.writer.shared().state();
        let Some(known) = state.table.vendor(share.vendor) else {
            return Err(Refusal::new(RefusalKind::NotFound, "the vendor is not known any more"));
        };
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        offered.add(share.vendor, (known.head.epoch, known.head.seq), granted);
        let head = known.head.carried().clone();
        Ok(Location { column: share.column, granted, lease: lease.into_carried(), head })
    }
}

fn fits(lease: &Lease, request: &AllocateRequest, vendor: NodeId, granted: u64) -> bool {
    lease.vendor == vendor
        && lease.owner == request.owner
        && lease.authority == request.authority
        && granted > 0
        && granted <= lease.bytes
}

impl Offered {
    fn since(&mut self, vendor: NodeId, head: (u64, u64)) -> u64 {
        match self.0.get(&vendor) {
            Some((at, bytes)) if *at == head => *bytes,
            Some(_) => {
                self.0.remove(&vendor);
                0
            }
            None => 0,
        }
    }

    fn add(&mut self, vendor: NodeId, head: (u64, u64), bytes: u64) {
        let before = self.since(vendor, head);
        self.0.insert(vendor, (head, before.saturating_add(bytes)));
    }
}

impl Work<'_> {
    async fn run(&mut self, end: Instant) -> Result<(), Refusal> {
        let Plan { mut shares, warnings } = self.first_plan()?;
        self.warnings = warnings;
        for _ in 0..ROUNDS_MAX {
            let left = end.saturating_duration_since(Instant::now());
            if left < ROUND_MIN {
                break;
            }
            self.ask(&shares, left.min(OFFER)).await;
            shares = self.replan(&shares)?;
            if shares.is_empty() {
                return Ok(());
            }
        }
        Err(self.shortage("the vendors asked did not answer in time".to_owned(), RefusalKind::TooFewVendors))
    }

    /// The first choice: without suspected vendors if that is as good.
    fn first_plan(&self) -> Result<Plan, Refusal> {
        let width = usize::from(self.request.width).min(ALLOCATE_VENDORS_MAX / usize::from(self.request.copies));
        let want = Want {
            copies: self.request.copies,
            width: u8::try_from(width).unwrap_or(u8::MAX),
            bytes: self.request.bytes,
            unit: self.request.unit,
            avoid_zones: self.avoided(),
        };
        let sound = self.candidates.iter().filter(|candidate| !candidate.suspected).cloned().collect();
        let sound = plan(sound, &want);
        if let Ok(sound) = &sound
            && sound.warnings.is_empty()
        {
            return Ok(sound.clone());
        }
        match (sound, plan(self.candidates.clone(), &want)) {
            (Ok(sound), Ok(any)) if any.warnings.len() >= sound.warnings.len() => Ok(sound),
            (_, Ok(any)) | (Ok(any), Err(_)) => Ok(any),
            (_, Err(shortage)) => {
                let kind = match shortage {
                    Shortage::Vendors { .. } => RefusalKind::TooFewVendors,
                    Shortage::Space { .. } => RefusalKind::NoSpace,
                };
                Err(self.shortage(shortage.to_string(), kind))
            }
        }
    }

    async fn ask(&mut self, shares: &[Share], wait: Duration) {
        self.asked.extend(shares.iter().map(|share| share.vendor));
        let (mirror, request) = (self.mirror, &self.request);
        let answers = join_all(shares.iter().map(|share| mirror.offer(request, *share, wait))).await;
        for (share, answer) in shares.iter().zip(answers) {
            match answer {
                Ok(location) => self.locations.push(location),
                Err(refusal) => {
                    tracing::debug!(vendor = %share.vendor.short(), %refusal, "no offer");
                    self.failed.push((share.vendor, refusal));
                }
            }
        }
    }

    /// Shares for what each column still misses, of vendors that were not asked; none if nothing is missing.
    fn replan(&mut self, before: &[Share]) -> Result<Vec<Share>, Refusal> {
        let mut shares: Vec<Share> = Vec::new();
        for column in 0..self.request.copies {
            let here = self.locations.iter().filter(|location| location.column == column);
            let granted: u64 = here.map(|location| location.granted).fold(0, u64::saturating_add);
            let missing = self.needed.saturating_sub(granted);
            if missing == 0 {
                continue;
            }
            let open = |candidate: &&Candidate| {
                !self.asked.contains(&candidate.vendor) && shares.iter().all(|share| share.vendor != candidate.vendor)
            };
            let candidates: Vec<Candidate> = self.candidates.iter().filter(open).cloned().collect();
            let taken = self.zones_of_others(column, before, &shares);
            let want = Want {
                copies: 1,
                width: 1,
                bytes: missing,
                unit: self.request.unit,
                avoid_zones: [taken.clone(), self.avoided()].concat(),
            };
            let free: u64 = candidates.iter().map(|candidate| candidate.free).fold(0, u64::saturating_add);
            let Ok(Plan { shares: found, .. }) = plan(candidates, &want) else {
                let copy = u32::from(column) + 1;
                let reason = format!("copy {copy} still needs {missing} bytes and the vendors left have {free} free");
                return Err(self.shortage(reason, self.failure_kind()));
            };
            if let Some(zone) =
                found.iter().filter_map(|share| self.zone(share.vendor)).find(|zone| taken.contains(zone))
            {
                self.warnings.push(format!(
                    "copy {} shares the zone {zone} with another: a zone that fails takes more than one copy",
                    u32::from(column) + 1
                ));
            }
            // The plan was for one column, and calls it the first.
            shares.extend(found.into_iter().map(|share| Share { column, ..share }));
        }
        Ok(shares)
    }

    fn zone(&self, vendor: NodeId) -> Option<String> {
        self.candidates.iter().find(|candidate| candidate.vendor == vendor).map(|candidate| candidate.zone.clone())
    }

    /// Zones in which other columns have, or are about to have, a share.
    fn zones_of_others(&self, column: u8, before: &[Share], now: &[Share]) -> Vec<String> {
        let held = |vendor: &NodeId| self.failed.iter().all(|(failed, _)| failed != vendor);
        let earlier = before.iter().filter(|share| held(&share.vendor)).map(|share| (share.column, share.vendor));
        let located =
            self.locations.iter().filter_map(|location| Some((location.column, location.lease.peek().ok()?.vendor)));
        let all = earlier.chain(located).chain(now.iter().map(|share| (share.column, share.vendor)));
        all.filter(|(other, _)| *other != column).filter_map(|(_, vendor)| self.zone(vendor)).collect()
    }

    fn avoided(&self) -> Vec<String> {
        self.request.avoid_zones.iter().map(ToString::to_string).collect()
    }

    /// Whether it was space or vendors that lacked, from what the vendors said.
    fn failure_kind(&self) -> RefusalKind {
        let unheard = |kind| matches!(kind, RefusalKind::Silent | RefusalKind::Unreachable);
        let all_unheard = !self.failed.is_empty() && self.failed.iter().all(|(_, refusal)| unheard(refusal.kind));
        if all_unheard { RefusalKind::TooFewVendors } else { RefusalKind::NoSpace }
    }

    /// The refusal, with what was tried.
    fn shortage(&self, mut reason: String, kind: RefusalKind) -> Refusal {
        if !self.failed.is_empty() {
            reason.push_str(&format!(
                "; {} of {} vendors asked did not lock storage: ",
                self.failed.len(),
                self.asked.len()
            ));
            let named = self.failed.iter().take(NAMED_MAX);
            let named: Vec<String> = named.map(|(vendor, refusal)| format!("{}: {refusal}", vendor.short())).collect();
            reason.push_str(&named.join("; "));
        }
        Refusal::new(kind, reason)
    }
}
