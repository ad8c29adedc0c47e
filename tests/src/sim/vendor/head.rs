//! What a vendor tells of itself, and what it hears from mirrors.

use fathom_protocol::clocks::Dated;
use fathom_protocol::codec::{self, Bounded, Text};
use fathom_protocol::head::{Addresses, Characteristics, VendorHead, VendorRecord};
use fathom_protocol::ids::Hash;
use fathom_protocol::sign::{Carried, Record, Signed};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Page, Refusal, RefusalKind, Request, Response, SyncRecord};
use fathom_protocol::{limits, tags};
use fathom_store::fat::HEAD_KEY;
use fathom_store::{FatError, LocalFat};

use super::{Cursor, POLL, Vendor};
use crate::sim::node::{Cx, Timer};

/// Changes within this time go into one head.
pub(super) const DEBOUNCE_MS: u64 = 300;
/// The timer of a head that is due.
pub(super) const DUE: u8 = 5;
const REFRESH_MS: u64 = 60_000;
const RETRY_MS: u64 = 1_500;
const RETRY: u8 = 6;
const POLL_MS: u64 = 4_000;
const MIRRORS_TOLD: usize = 3;
const MIRRORS_ASKED: usize = 2;

/// The newest head.
#[derive(Clone, Debug)]
pub(in crate::sim) struct HeadState {
    pub(in crate::sim) epoch: u64,
    pub(in crate::sim) seq: u64,
    hash: Hash,
    record: Option<VendorRecord>,
    acknowledged: bool,
}

impl HeadState {
    pub(super) fn read(fat: &LocalFat) -> Result<Self, FatError> {
        let none = Self { epoch: 1, seq: 0, hash: Hash([0; Hash::LEN]), record: None, acknowledged: true };
        let Some(bytes) = fat.kv(HEAD_KEY)? else { return Ok(none) };
        let head: Carried<VendorHead> = codec::decode(&bytes, 2 * VendorHead::BYTES_MAX).expect("its own head decodes");
        let hash = head.hash();
        let head = head.peek().expect("its own head is one");
        Ok(Self { epoch: head.epoch, seq: head.seq, hash, ..none })
    }
}

impl Vendor {
    /// Signs a head if one is due or `refresh` asks for it, and sends it.
    pub(super) fn report(&mut self, cx: &mut Cx<'_>, refresh: bool) {
        let Some(run) = &mut self.running else { return };
        if refresh {
            cx.wait(REFRESH_MS, Timer::Every(super::HEAD));
        }
        if refresh || run.dirty {
            run.dirty = false;
            if self.sign_head(cx).is_err() {
                return;
            }
        }
        self.tell_mirrors(cx);
    }

    fn sign_head(&mut self, cx: &mut Cx<'_>) -> Result<(), Refusal> {
        let (id, zone, key, now) = (self.id(), self.zone.clone(), self.key.clone(), cx.now);
        let Some(before) = self.running.as_ref().map(|run| run.head.clone()) else { return Ok(()) };
        let record = self.durable(|tx, ledger| {
            let head = VendorHead {
                version: tags::VERSION,
                vendor: id,
                epoch: before.epoch,
                seq: before.seq + 1,
                prev: before.hash,
                issued: now,
                capacity: ledger.capacity(),
                used: ledger.leases().map(|lease| lease.used).sum(),
                root: ledger.root(),
                leases: ledger.leases().len() as u32,
                characteristics: Characteristics {
                    zone: Text::cut(&zone),
                    operator: Text::cut(&zone),
                    media: Text::cut("unknown"),
                    bandwidth_bytes_per_s: 0,
                    up_since: now,
                    load: 0,
                },
                addresses: Addresses::default(),
                devices: Bounded::default(),
            };
            let head = Signed::sign(head, &key).map_err(|error| FatError::Refused(error.to_string()))?;
            tx.put_kv(HEAD_KEY, &codec::encode(head.carried()))?;
            let leases: Bounded<_, { limits::LEASES_MAX }> =
                Bounded::first(ledger.leases().map(|lease| lease.carried().clone()));
            Ok(VendorRecord { head: head.into_carried(), leases })
        })?;
        cx.oracle.signed(record.head.hash());
        cx.oracle.vendor_signed(cx.me, before.epoch, before.seq + 1);
        if let Some(run) = &mut self.running {
            run.head = HeadState {
                epoch: before.epoch,
                seq: before.seq + 1,
                hash: record.head.hash(),
                record: Some(record),
                acknowledged: false,
            };
        }
        Ok(())
    }

    fn tell_mirrors(&mut self, cx: &mut Cx<'_>) {
        let known = cx.known;
        let Some(run) = &mut self.running else { return };
        let Some(record) = run.head.record.clone().filter(|_| !run.head.acknowledged) else { return };
        let sent = (run.head.epoch, run.head.seq);
        // The best ones are no others each time: which, chance says.
        let mut mirrors = known.mirrors.clone();
        cx.random.shuffle(&mut mirrors);
        for mirror in mirrors.into_iter().take(MIRRORS_TOLD) {
            let call = cx.ask(mirror, &Request::Report(record.clone()));
            run.reports.insert(call, sent);
        }
        cx.wait(RETRY_MS, Timer::Every(RETRY));
    }

    pub(super) fn reported(&mut self, cx: &mut Cx<'_>, sent: (u64, u64), response: Response) {
        let Some(run) = &mut self.running else { return };
        let newest = sent == (run.head.epoch, run.head.seq);
        match response {
            Response::Done if newest => run.head.acknowledged = true,
            Response::Refused(refusal)
                if newest && matches!(refusal.kind, RefusalKind::Stale | RefusalKind::Conflict) =>
            {
                // This vendor runs on an older state, and says so by a new epoch.
                run.head.epoch += 1;
                run.head.seq = 0;
                run.head.record = None;
                self.touch(cx);
            }
            _ => {}
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Cx<'_>) {
        let known = cx.known;
        let turn = self.running.as_ref().map_or(0, |run| run.turn);
        for index in 0..known.mirrors.len().min(MIRRORS_ASKED) {
            let at = if index == 0 { 0 } else { 1 + turn % (known.mirrors.len() - 1) };
            self.poll_one(cx, known.mirrors[at]);
        }
        if let Some(run) = &mut self.running {
            run.turn += 1;
        }
        cx.wait(POLL_MS, Timer::Every(POLL));
    }

    fn poll_one(&mut self, cx: &mut Cx<'_>, mirror: usize) {
        let vendor = self.id();
        let (log, cursor) = self.cursor(mirror);
        let call = cx.ask(mirror, &Request::Orders { vendor, log, cursor });
        if let Some(run) = &mut self.running {
            run.polls.insert(call, mirror);
        }
    }

    fn cursor(&self, mirror: usize) -> Cursor {
        let stored = self.running.as_ref().and_then(|run| run.fat.kv(&cursor_key(mirror)).ok().flatten());
        stored.and_then(|bytes| codec::decode(&bytes, 128).ok()).unwrap_or((Hash([0; Hash::LEN]), 0))
    }

    pub(super) fn take_page(&mut self, cx: &mut Cx<'_>, mirror: usize, page: Page) {
        let before = self.cursor(mirror);
        let next: Cursor = (page.log, page.next);
        if let Some(run) = &mut self.running {
            run.clocks.heard(cx.known.ids[mirror], page.clock, cx.at - run.started);
        }
        if next == before && page.records.is_empty() {
            self.caught_up(cx);
            return;
        }
        for record in page.records {
            if let SyncRecord::Fat(fat) = record
                && let Err(refusal) = self.order(cx, fat)
                && matches!(refusal.kind, RefusalKind::Internal | RefusalKind::NoSpace)
            {
                return;
            }
        }
        let kept = self.durable(|tx, _| tx.put_kv(&cursor_key(mirror), &codec::encode(&next)));
        if kept.is_ok() && page.more && next != before {
            self.poll_one(cx, mirror);
        } else if kept.is_ok() {
            self.caught_up(cx);
        }
    }

    fn caught_up(&mut self, cx: &Cx<'_>) {
        if let Some(run) = &mut self.running {
            run.caught_up = Some(cx.at);
        }
    }

    /// The median of the mirrors' clocks, once enough of them were heard.
    pub(super) fn agreed_clock(&self, cx: &Cx<'_>) -> Option<UnixMs> {
        self.running.as_ref()?.clocks.median(cx.known.mirrors.len(), cx.at - self.running.as_ref()?.started)
    }

    /// Whether a deadline has passed by both clocks.
    pub(super) fn has_passed(&self, cx: &Cx<'_>, deadline: UnixMs) -> Option<bool> {
        let run = self.running.as_ref()?;
        run.clocks.passed(deadline, cx.now, cx.known.mirrors.len(), cx.at - run.started)
    }

    /// The time by which promises are dated.
    pub(super) fn dating_clock(&self, cx: &Cx<'_>) -> Dated {
        let Some(run) = &self.running else { return Dated { at: cx.now, sure: false } };
        run.clocks.dating(cx.now, cx.known.mirrors.len(), cx.at - run.started)
    }
}

fn cursor_key(mirror: usize) -> String {
    format!("orders/{mirror}")
}
