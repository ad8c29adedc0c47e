//! What the vendor tells of itself: devices to vendor (figures 1a to 1c), vendor to mirrors (figures 2 and 3).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fathom_protocol::codec::{self, Bounded, Text};
use fathom_protocol::delta::{HeadId, VendorDelta};
use fathom_protocol::head::{Addresses, Characteristics, DeviceSummary, VendorHead, VerifiedVendor};
use fathom_protocol::ids::{DeviceId, Hash, NodeId};
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::MIRRORS_TOLD_MAX;
use fathom_protocol::reporter::{Action, Event, Reporter, Seen, Untaken};
use fathom_protocol::sign::{Carried, Record, RecordError, Signed};
use fathom_protocol::tags;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response, SyncRecord};
use fathom_store::fat::HEAD_KEY;
use fathom_store::{DeviceReport, DeviceState, LocalFat};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::accounts::in_transaction;
use super::rebuild::EPOCH_KEY;
use super::{Vendor, VendorError, capacity, lock};
use crate::clock;

/// Mirrors that are told; the others hear from these.
pub(super) const MIRRORS_TOLD: usize = MIRRORS_TOLD_MAX;
/// Longest wait for a mirror's answer.
pub(super) const MIRROR_WAIT: Duration = Duration::from_secs(2);
/// How often mirrors are looked for while none is known, and while some are.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often a mirror that took a head is asked for a proof against this vendor, at most.
const PROOF_EVERY: Duration = Duration::from_secs(60);
/// Looks at a device that stay without an answer before it is opened anew.
const SUSPENDED_LOOKS: u32 = 2;

/// The newest head in the local FAT; if there is none, number 0 of the epoch to come: the first one, or after a rebuild the one
/// after that of the heads before, which may have said more.
pub(super) fn read_head(fat: &LocalFat) -> Result<HeadId, VendorError> {
    let Some(bytes) = fat.kv(HEAD_KEY)? else {
        let before = fat.kv(EPOCH_KEY)?.and_then(|value| Some(u64::from_be_bytes(value.try_into().ok()?)));
        let epoch = before.unwrap_or(0).saturating_add(1);
        return Ok(HeadId { epoch, seq: 0, hash: Hash([0; Hash::LEN]) });
    };
    let head: Carried<VendorHead> = codec::decode(&bytes, 2 * VendorHead::BYTES_MAX).map_err(RecordError::from)?;
    Ok(HeadId::of(&head.verify()?))
}

/// A head's number, and the hash of the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) prev: Hash,
}

impl Number {
    /// The number after `head`.
    #[cfg(test)]
    pub(super) fn after(head: HeadId) -> Self {
        Self { epoch: head.epoch, seq: head.seq + 1, prev: head.hash }
    }
}

fn is_away(reports: &[DeviceReport]) -> bool {
    reports.iter().any(|report| report.state == DeviceState::Suspended)
}

fn summary(report: &DeviceReport) -> DeviceSummary {
    DeviceSummary {
        id: report.id,
        capacity: report.quota,
        free: report.free,
        health: Text::cut(report.state.as_str()),
        write_bytes_per_s: report.write_bytes_per_s,
        write_latency_us: (report.latency_ms * 1000.0) as u64,
    }
}

impl Vendor {
    /// Signs a head over everything as it is now and makes it durable. Blocks.
    pub(super) fn sign_head(&self, addresses: Addresses, number: Number) -> Result<VerifiedVendor, Refusal> {
        let reports = self.devices.report();
        self.note_away(&reports);
        lock(&self.ledger).set_capacity(capacity(&reports));
        // Only now that its space counts again: before, the vendor would look too full and move chunks away.
        self.device_away.store(is_away(&reports), Ordering::Relaxed);
        let vendor = self.durable(|tx| {
            let (head, leases) = self.describe(number, addresses, &reports);
            let head = Signed::sign(head, self.net.key()).map_err(|error| in_transaction(&error.into()))?;
            tx.put_kv(HEAD_KEY, &codec::encode(head.carried()))?;
            Ok(VerifiedVendor { head, leases })
        })?;
        // Only one task signs heads, so none can have come between.
        *lock(&self.head) = HeadId::of(&vendor.head);
        Ok(vendor)
    }

    /// Notes that a device is away, before the capacity is without it.
    fn note_away(&self, reports: &[DeviceReport]) {
        if is_away(reports) {
            self.device_away.store(true, Ordering::Relaxed);
        }
    }

    fn describe(
        &self,
        number: Number,
        addresses: Addresses,
        reports: &[DeviceReport],
    ) -> (VendorHead, Vec<Signed<Lease>>) {
        // Not by the wall clock alone: set back, it would have a lease that lapsed look like one that was dropped in its time.
        let issued = self.dating_clock().at;
        let own = self.tell_link();
        let ledger = lock(&self.ledger);
        let head = VendorHead {
            version: tags::VERSION,
            vendor: self.me,
            epoch: number.epoch,
            seq: number.seq,
            prev: number.prev,
            issued,
            capacity: ledger.capacity(),
            used: ledger.leases().map(|lease| lease.used).sum(),
            root: ledger.root(),
            leases: u32::try_from(ledger.leases().len()).unwrap_or(u32::MAX),
            characteristics: Characteristics {
                zone: Text::cut(&self.settings.zone),
                operator: Text::cut(&self.settings.operator),
                media: Text::cut("unknown"),
                bandwidth_bytes_per_s: reports.iter().map(|report| report.write_bytes_per_s).sum(),
                up_since: self.up_since,
                load: self.transfers.load(),
                up_bytes_per_s: own.up,
                down_bytes_per_s: own.down,
                coordinate: own.coordinate,
            },
            addresses,
            devices: Bounded::first(reports.iter().map(summary)),
        };
        (head, ledger.leases().cloned().collect())
    }

    /// Keeps the mirrors' knowledge of this vendor up to date: does what the [`Reporter`] decides.
    pub(super) async fn reporting(self: &Arc<Self>) {
        // One that never signed anything, and has nothing on its devices, has nothing to be reminded of.
        let before = lock(&self.head).seq > 0 || self.devices.report().iter().any(|report| report.parts > 0);
        self.out_of_step.send_replace(before);
        let mut life = Life {
            vendor: Arc::clone(self),
            reporter: Reporter::new(*lock(&self.head), self.up_since),
            kept: Vec::new(),
            calls: JoinSet::new(),
            proof_asked: None,
        };
        let (mut timer, mut look) = (None, Instant::now());
        loop {
            let event = tokio::select! {
                biased;
                Some(done) = life.calls.join_next() => match done {
                    Ok(event) => event,
                    Err(_) => continue,
                },
                () = self.changed.notified() => Event::Changed,
                () = sleep_until(timer.unwrap_or(look)), if timer.is_some() => {
                    timer = None;
                    Event::Timer
                }
                () = sleep_until(look) => {
                    let mirrors = self.net.book().mirrors();
                    look = Instant::now() + if mirrors.is_empty() { LOOK } else { LOOK_AGAIN };
                    Event::Mirrors(mirrors)
                }
            };
            if let Some(at) = life.handle(event).await {
                timer = Some(Instant::now() + Duration::from_millis(at.since_ms(clock::now())));
            }
        }
    }

    /// Asks the devices for their figures, and opens those anew that were away (figures 1a to 1c).
    pub(super) async fn watching_devices(self: &Arc<Self>) {
        let every = Duration::from_secs(self.settings.report_seconds.max(1));
        let mut known: BTreeMap<DeviceId, (DeviceState, u64)> = BTreeMap::new();
        let mut away: BTreeMap<DeviceId, u32> = BTreeMap::new();
        loop {
            let next = Instant::now() + every;
            if let Ok(reports) = self.blocking(|vendor| Ok(vendor.devices.report())).await {
                self.note_away(&reports);
                let now = reports.iter().map(|report| (report.id, (report.state, report.quota))).collect();
                // A device that only the newest head saw away is back, too.
                let back = self.device_away.load(Ordering::Relaxed) && !is_away(&reports);
                if known != now || back {
                    known = now;
                    self.touch();
                }
                let missing = reports.iter().filter(|report| report.state == DeviceState::Suspended);
                let missing: Vec<DeviceId> = missing.map(|report| report.id).collect();
                away.retain(|device, _| missing.contains(device));
                for device in missing {
                    let looks = away.entry(device).or_default();
                    *looks += 1;
                    if *looks >= SUSPENDED_LOOKS {
                        *looks = 0;
                        self.reopen(device, next).await;
                    }
                }
            }
            sleep_until(next).await;
        }
    }

    /// Looks at a device anew; not waited for beyond `until`.
    async fn reopen(self: &Arc<Self>, device: DeviceId, until: Instant) {
        let reopening = self.blocking(move |vendor| {
            match vendor.devices.reopen(device) {
                Ok(()) => {
                    tracing::info!(device = %device.short(), "device is back");
                    if let Err(error) = vendor.fat.finish_erases(&vendor.devices) {
                        tracing::warn!(%error, "erases of a device that is back were not finished");
                    }
                }
                Err(error) => tracing::debug!(device = %device.short(), %error, "device still away"),
            }
            Ok(())
        });
        let _ = timeout_at(until, reopening).await;
    }
}

/// The head's life as it is carried out.
struct Life {
    vendor: Arc<Vendor>,
    reporter: Reporter,
    /// Records that deltas may build on, and the newest.
    kept: Vec<Arc<VerifiedVendor>>,
    /// What mirrors were asked or told; each ends within [`MIRROR_WAIT`].
    calls: JoinSet<Event>,
    proof_asked: Option<Instant>,
}

impl Life {
    /// Takes an event and does what follows from it. Returns when to look again, if that changed.
    async fn handle(&mut self, event: Event) -> Option<UnixMs> {
        let mut events = VecDeque::from([event]);
        let mut timer = None;
        while let Some(event) = events.pop_front() {
            if let Event::Acked(mirror, _) = event {
                self.ask_for_proof(mirror);
            }
            for action in self.reporter.handle(event, clock::now()) {
                match action {
                    Action::Ask(mirror) => self.ask(mirror),
                    Action::TakeBack(mirror) => events.extend([self.vendor.take_back_leases(mirror).await]),
                    Action::InStep => self.vendor.clear_leftovers().await,
                    Action::Sign { epoch, seq, prev } => {
                        self.vendor.in_step();
                        events.push_back(self.sign(Number { epoch, seq, prev }).await);
                    }
                    Action::Send { mirror, base } => self.send(mirror, base),
                    Action::SetTimer(at) => timer = Some(at),
                    Action::Elsewhere => self.vendor.stop_signing(),
                }
            }
        }
        timer
    }

    async fn sign(&mut self, number: Number) -> Event {
        let addresses = self.vendor.net.addresses().await;
        match self.vendor.blocking(move |vendor| vendor.sign_head(addresses, number)).await {
            Ok(signed) => {
                let head = HeadId::of(&signed.head);
                let needed: Vec<HeadId> = self.reporter.needed().collect();
                self.kept.retain(|kept| needed.contains(&HeadId::of(&kept.head)));
                self.kept.push(Arc::new(signed));
                Event::Signed(head)
            }
            Err(refusal) => {
                tracing::error!(%refusal, "the head was not signed");
                Event::Unsigned
            }
        }
    }

    /// Asks a mirror for the newest head of this vendor there.
    fn ask(&mut self, mirror: NodeId) {
        let vendor = Arc::clone(&self.vendor);
        self.calls.spawn(async move {
            let request = Request::Heads(Bounded::first([vendor.me]));
            let heads = match vendor.net.call(mirror, &request, MIRROR_WAIT).await {
                Ok(Response::Heads(heads)) => heads,
                _ => return Event::Unanswered(mirror),
            };
            let own = heads.into_iter().filter_map(|head| head.verify().ok()).find(|head| head.vendor == vendor.me);
            Event::Known { mirror, seen: own.map(|head| Seen { head: HeadId::of(&head), issued: head.issued }) }
        });
    }

    /// Sends the newest head: what changed since `base` if that is little, else all of it.
    fn send(&mut self, mirror: NodeId, base: Option<HeadId>) {
        let Some(newest) = self.kept.last().cloned() else { return };
        let old = base.and_then(|base| self.kept.iter().find(|kept| HeadId::of(&kept.head) == base).cloned());
        let vendor = Arc::clone(&self.vendor);
        self.calls.spawn(async move {
            let head = HeadId::of(&newest.head);
            let request = match old.and_then(|old| VendorDelta::between(&old, &newest)) {
                Some(delta) => Request::ReportDelta(delta),
                None => Request::Report(newest.to_record()),
            };
            let untaken = |why| Event::Untaken(mirror, head, why);
            match vendor.net.call(mirror, &request, MIRROR_WAIT).await {
                Ok(Response::Done) => Event::Acked(mirror, head),
                Ok(other) => {
                    tracing::warn!(mirror = %mirror.short(), ?other, "a mirror answered a head strangely");
                    untaken(Untaken::Failed)
                }
                Err(refusal) => {
                    tracing::debug!(mirror = %mirror.short(), %refusal, "head not taken");
                    untaken(match refusal.kind {
                        RefusalKind::Stale | RefusalKind::Conflict => Untaken::Stale,
                        RefusalKind::NotFound => Untaken::BaseMissing,
                        _ => Untaken::Failed,
                    })
                }
            }
        });
    }

    /// Asks now and then whether there is a proof against this vendor, so that its operator hears of it.
    fn ask_for_proof(&mut self, mirror: NodeId) {
        if self.proof_asked.is_some_and(|at| at.elapsed() < PROOF_EVERY) {
            return;
        }
        self.proof_asked = Some(Instant::now());
        let vendor = Arc::clone(&self.vendor);
        tokio::spawn(async move {
            let request = Request::Proofs(Bounded::first([vendor.me]));
            let Ok(Response::Page(page)) = vendor.net.call(mirror, &request, MIRROR_WAIT).await else { return };
            let proofs = page.records.into_iter().filter_map(|record| match record {
                SyncRecord::Proof(proof) => proof.verify().ok(),
                _ => None,
            });
            let own = proofs.filter(|proof| proof.vendor() == vendor.me).map(|proof| proof.offence()).next();
            if let Some(offence) = own {
                tracing::error!("mirrors hold a proof against this vendor: {}", offence.explain());
            }
            *lock(&vendor.proven) = own;
        });
    }
}
