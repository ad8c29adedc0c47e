//! What the vendor tells of itself: devices to vendor (figures 1a to 1c), vendor to mirrors (figures 2 and 3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fathom_protocol::codec::{self, Bounded, Text};
use fathom_protocol::head::{Addresses, Characteristics, DeviceSummary, VendorHead, VendorRecord};
use fathom_protocol::ids::{DeviceId, Hash, NodeId};
use fathom_protocol::lease::Lease;
use fathom_protocol::sign::{Carried, Record, RecordError, Signed};
use fathom_protocol::tags;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response};
use fathom_store::fat::HEAD_KEY;
use fathom_store::{DeviceReport, DeviceState, LocalFat};
use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::accounts::in_transaction;
use super::{Vendor, VendorError, capacity, lock};

/// Mirrors that are told; the others hear from these.
pub(super) const MIRRORS_TOLD: usize = 3;
/// Longest wait for a mirror's answer.
pub(super) const MIRROR_WAIT: Duration = Duration::from_secs(2);
/// Changes within this time go into one head.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// A head is signed anew after so long although nothing changed.
const REFRESH: Duration = Duration::from_secs(300);
/// How often a head that nobody acknowledged is sent again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a mirror is looked for while none is known.
const LOOK: Duration = Duration::from_millis(250);
/// Looks at a device that stay without an answer before it is opened anew.
const SUSPENDED_LOOKS: u32 = 2;

/// The newest head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadState {
    epoch: u64,
    seq: u64,
    hash: Hash,
    issued: UnixMs,
}

impl HeadState {
    /// When it was signed.
    pub(super) fn issued(&self) -> UnixMs {
        self.issued
    }

    /// The state in the local FAT.
    pub(super) fn read(fat: &LocalFat) -> Result<Self, VendorError> {
        let Some(bytes) = fat.kv(HEAD_KEY)? else {
            return Ok(Self { epoch: 1, seq: 0, hash: Hash([0; Hash::LEN]), issued: UnixMs(0) });
        };
        let head: Carried<VendorHead> = codec::decode(&bytes, 2 * VendorHead::BYTES_MAX).map_err(RecordError::from)?;
        let head = head.verify()?;
        Ok(Self { epoch: head.epoch, seq: head.seq, hash: head.hash(), issued: head.issued })
    }

    /// Whether no head was ever signed over this local FAT.
    pub(super) fn is_new(&self) -> bool {
        self.seq == 0
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
    pub(super) fn sign_head(&self, addresses: Addresses) -> Result<VendorRecord, Refusal> {
        let reports = self.devices.report();
        self.note_away(&reports);
        lock(&self.ledger).set_capacity(capacity(&reports));
        // Only now that its space counts again: before, the vendor would look too full and move chunks away.
        self.device_away.store(is_away(&reports), Ordering::Relaxed);
        let (record, next) = self.durable(|tx| {
            let before = *lock(&self.head);
            let (head, leases) = self.describe(before, addresses, &reports);
            let head = Signed::sign(head, self.net.key()).map_err(|error| in_transaction(&error.into()))?;
            tx.put_kv(HEAD_KEY, &codec::encode(head.carried()))?;
            let next = HeadState { epoch: head.epoch, seq: head.seq, hash: head.hash(), issued: head.issued };
            Ok((VendorRecord { head: head.into_carried(), leases }, next))
        })?;
        // Only one task signs heads, so none can have come between.
        *lock(&self.head) = next;
        Ok(record)
    }

    /// Notes that a device is away, before the capacity is without it.
    fn note_away(&self, reports: &[DeviceReport]) {
        if is_away(reports) {
            self.device_away.store(true, Ordering::Relaxed);
        }
    }

    fn describe(
        &self,
        before: HeadState,
        addresses: Addresses,
        reports: &[DeviceReport],
    ) -> (VendorHead, Bounded<Carried<Lease>, { fathom_protocol::limits::LEASES_MAX }>) {
        let ledger = lock(&self.ledger);
        let head = VendorHead {
            version: tags::VERSION,
            vendor: self.me,
            epoch: before.epoch,
            seq: before.seq + 1,
            prev: before.hash,
            issued: self.stamp_clock(),
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
            },
            addresses,
            devices: Bounded::first(reports.iter().map(summary)),
        };
        let leases = Bounded::first(ledger.leases().map(|lease| lease.carried().clone()));
        (head, leases)
    }

    /// Keeps the mirrors' knowledge of this vendor up to date.
    pub(super) async fn reporting(self: &Arc<Self>) {
        loop {
            let addresses = self.net.addresses().await;
            let signed = self.blocking(move |vendor| vendor.sign_head(addresses)).await;
            let refresh = Instant::now() + REFRESH;
            let mut acknowledged = match &signed {
                Ok(record) => self.tell_mirrors(record).await,
                Err(refusal) => {
                    tracing::error!(%refusal, "the head was not signed");
                    false
                }
            };
            loop {
                let retry = if self.net.book().mirrors().is_empty() { LOOK } else { RETRY };
                tokio::select! {
                    biased;
                    () = self.changed.notified() => {
                        sleep(DEBOUNCE).await;
                        break;
                    }
                    () = sleep_until(refresh) => break,
                    () = sleep(retry), if !acknowledged => match &signed {
                        Ok(record) => acknowledged = self.tell_mirrors(record).await,
                        Err(_) => break,
                    },
                }
            }
        }
    }

    /// Sends a head to the best mirrors; whether one acknowledged it.
    async fn tell_mirrors(&self, record: &VendorRecord) -> bool {
        let mirrors: Vec<NodeId> = self.net.book().mirrors().into_iter().take(MIRRORS_TOLD).collect();
        let request = Request::Report(record.clone());
        let asked = mirrors.iter().map(|mirror| self.net.call(*mirror, &request, MIRROR_WAIT));
        let mut acknowledged = false;
        for (mirror, answer) in mirrors.iter().zip(join_all(asked).await) {
            match answer {
                Ok(Response::Done) => acknowledged = true,
                Ok(other) => tracing::warn!(mirror = %mirror.short(), ?other, "a mirror answered a head strangely"),
                Err(refusal) => {
                    tracing::debug!(mirror = %mirror.short(), %refusal, "head not taken");
                    if matches!(refusal.kind, RefusalKind::Stale | RefusalKind::Conflict) {
                        self.start_over(record);
                    }
                }
            }
        }
        acknowledged
    }

    /// A mirror knows a newer head than the newest that was signed here: this vendor runs on an older state, and says so by
    /// a new epoch.
    fn start_over(&self, refused: &VendorRecord) {
        let mut head = lock(&self.head);
        if refused.head.hash() == head.hash {
            head.epoch += 1;
            head.seq = 0;
            tracing::warn!(epoch = head.epoch, "mirrors know a newer head than this vendor: a new epoch begins");
            drop(head);
            self.touch();
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
