//! Orders that were missed, read from mirrors in turn, and what their clocks say.

use fathom_protocol::clocks::Dated;
use fathom_protocol::codec;
use fathom_protocol::ids::Hash;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Page, RefusalKind, Request, SyncRecord};

use super::{Cursor, POLL, Vendor};
use crate::sim::node::{Cx, Timer};

const POLL_MS: u64 = 4_000;
const MIRRORS_ASKED: usize = 2;
/// What the names of cursors in the local FAT begin with.
pub(super) const ORDERS_PREFIX: &str = "orders/";

impl Vendor {
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
            if run.out_of_step {
                return;
            }
        }
        if next == before && page.records.is_empty() {
            self.caught_up(cx, mirror);
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
            self.caught_up(cx, mirror);
        }
    }

    fn caught_up(&mut self, cx: &Cx<'_>, mirror: usize) {
        if let Some(run) = &mut self.running {
            run.caught_up.heard(cx.known.ids[mirror], cx.at - run.started);
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
    format!("{ORDERS_PREFIX}{mirror}")
}
