//! Locking storage for a request (figures 5 and 6): carries out what [`Allocation`] decides.
//!
//! It decides nothing itself: it hands in what this mirror knows of vendors, asks those that it is told to, and says what came
//! of it. A request that failed names the vendors that may hold room for it; whoever signed it takes that back, since a
//! mirror signs nothing for others.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::time::{Duration, Instant};

use fathom_protocol::allocate::{Share, View};
use fathom_protocol::allocation::{Action, Allocation, Event, Part};
use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::ids::NodeId;
use fathom_protocol::market::Standing;
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::wire::{AllocateRequest, Location, ProvisionalFat, Refusal, RefusalKind, Request, Response};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::Mirror;
use crate::clock;

/// A vendor whose head did not change here for so long is chosen last.
const QUIET: Duration = Duration::from_secs(120);

impl Mirror {
    /// Locks storage for a request.
    ///
    /// # Errors
    /// A [`Refusal`]: not signed, expired, or `NoSpace`, `Unsealed` or `TooFewVendors` with what was tried; a [`Response::Short`]
    /// if vendors may hold room for it.
    pub(super) async fn allocate(&self, request: Carried<AllocateRequest>) -> Result<Response, Refusal> {
        let began = Instant::now();
        let request = self.off_reactor(move || request.verify()).await??;
        if request.expires < clock::now() {
            return Err(Refusal::new(RefusalKind::LeaseExpired, "the request for storage has expired; ask again"));
        }
        let by_owner = request.authority == SignerId::from(request.owner);
        if !by_owner && self.writer.shared().state().table.vendor(request.authority.node()).is_none() {
            let reason = "only a user, or a vendor that moves a user's data, can ask for storage";
            return Err(Refusal::new(RefusalKind::NotAuthorised, reason));
        }
        let (mut work, mut actions) =
            Allocation::start((*request).clone(), elapsed_ms(began), &self.market_for(&request));
        let mut asked = FuturesUnordered::new();
        let mut timer = began;
        loop {
            for action in actions {
                match action {
                    Action::Ask { share, wait_ms } => {
                        asked.push(self.offer(&request, share, Duration::from_millis(wait_ms)));
                    }
                    Action::SetTimer { at_ms } => timer = began + Duration::from_millis(at_ms),
                    Action::Done { parts, warnings } => return self.provisional(parts, &warnings),
                    Action::Failed { refusal, asked } => {
                        tracing::debug!(%refusal, "storage was not locked");
                        let asked = Bounded::first(asked);
                        return if asked.is_empty() { Err(refusal) } else { Ok(Response::Short { refusal, asked }) };
                    }
                }
            }
            let event = tokio::select! {
                biased;
                Some(event) = asked.next() => event,
                () = tokio::time::sleep_until(timer.into()) => Event::Timer,
            };
            actions = work.handle(event, elapsed_ms(began), || self.market_for(&request));
        }
    }

    fn provisional(&self, parts: Vec<Part>, warnings: &[String]) -> Result<Response, Refusal> {
        let state = self.writer.shared().state();
        let located = parts.into_iter().map(|part| {
            let head = state.table.vendor(part.lease.vendor)?.head.carried().clone();
            Some(Location { column: part.column, granted: part.granted, lease: part.lease.into_carried(), head })
        });
        // A full table forgets vendors, rarely just then; and the core asks no more than fit.
        let gone = || Refusal::new(RefusalKind::Internal, "a vendor is not known any more");
        let located: Vec<Location> = located.collect::<Option<_>>().ok_or_else(gone)?;
        let locations = Bounded::first(located);
        let warnings = Bounded::first(warnings.iter().map(|warning| Text::cut(warning)));
        Ok(Response::Provisional(ProvisionalFat { locations, warnings }))
    }

    /// Vendors that may be chosen for a request. Of a file that moves it is not known here which vendor holds which chunk, as
    /// its manifest is sealed: those that hold some of it come last, except for the asking vendor's own zone, where the same
    /// copy was spread. A destination that has the chunk says so.
    pub(super) fn market_for(&self, request: &AllocateRequest) -> View {
        let noted = self.net.book().noted();
        let exclude: BTreeSet<NodeId> = request.exclude.iter().copied().collect();
        let asker = request.authority.node();
        let state = self.writer.shared().state();
        let holders = request.file.map(|file| state.table.holders(request.owner, file)).unwrap_or_default();
        let zone = |vendor| state.table.vendor(vendor).map(|known| &known.head.characteristics.zone);
        let near = zone(asker);
        // Both are in the order of nodes, and so are the questions.
        let mut noted = InOrder(noted.iter().map(|(node, behaviour)| (*node, behaviour)).peekable());
        let mut heard = InOrder(state.heard.iter().map(|(node, heard)| (*node, heard)).peekable());
        let now = Instant::now();
        let standing = |vendor: NodeId| {
            let behaviour = noted.of(vendor);
            let quiet = heard.of(vendor).is_none_or(|heard| now.saturating_duration_since(*heard) > QUIET);
            Standing {
                barred: vendor == asker || exclude.contains(&vendor) || state.table.quarantined(vendor).is_some(),
                suspected: quiet || behaviour.is_some_and(|behaviour| behaviour.suspected),
                may_hold: holders.contains(&vendor) && zone(vendor) != near,
                round_trip_us: behaviour
                    .and_then(|behaviour| behaviour.round_trip)
                    .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            }
        };
        state.market.view(&request.wants, clock::now(), standing)
    }

    /// Asks one vendor to countersign, and verifies that it did.
    async fn offer(&self, request: &Signed<AllocateRequest>, share: Share, wait: Duration) -> Event {
        let vendor = share.vendor;
        match self.offered(request, share, wait).await {
            Ok((lease, granted)) => Event::Offered { vendor, lease: Box::new(lease), granted },
            Err(refusal) => {
                tracing::debug!(vendor = %vendor.short(), %refusal, "no offer");
                Event::Refused { vendor, refusal }
            }
        }
    }

    async fn offered(
        &self,
        request: &Signed<AllocateRequest>,
        share: Share,
        wait: Duration,
    ) -> Result<(Signed<fathom_protocol::lease::Lease>, u64), Refusal> {
        let offer = Request::Offer { request: request.carried().clone(), bytes: share.bytes };
        let answer = self.net.call(share.vendor, &offer, wait).await?;
        let Response::Offered { lease, granted } = answer else {
            return Err(Refusal::new(RefusalKind::BadRequest, "the vendor did not answer with an offer"));
        };
        let lease = self.off_reactor(move || lease.verify()).await??;
        self.writer.shared().state().market.offered(share.vendor, (request.authority, request.nonce), granted);
        Ok((lease, granted))
    }
}

/// Values by ascending node, looked up in ascending order.
struct InOrder<I: Iterator>(Peekable<I>);

impl<V, I: Iterator<Item = (NodeId, V)>> InOrder<I> {
    fn of(&mut self, node: NodeId) -> Option<V> {
        while self.0.next_if(|(at, _)| *at < node).is_some() {}
        self.0.next_if(|(at, _)| *at == node).map(|(_, value)| value)
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
