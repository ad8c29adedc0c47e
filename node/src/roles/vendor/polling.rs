//! Orders that were missed while this vendor was away: it asks mirrors for the final FATs that concern it, and learns
//! their clocks on the way.
//!
//! How far each mirror was asked is kept in the local FAT under `orders/`, then the mirror's id as 64 hexadecimal digits: CBOR
//! of `[log, cursor]`. One that cannot be read counts as none, and the mirror is asked from the start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::clocks::Dated;
use fathom_protocol::codec;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Page, Request, Response, SyncRecord};

use super::report::MIRROR_WAIT;
use super::returns::Return;
use super::{Vendor, fat_refusal, lock};
use crate::clock;

/// How often mirrors are asked.
const POLL: Duration = Duration::from_secs(3);
/// How often a mirror is looked for while none is known.
const LOOK: Duration = Duration::from_millis(500);
/// Mirrors asked each time.
const MIRRORS_ASKED: usize = 2;
/// Pages taken from one mirror before the next one has its turn.
const PAGES_AT_ONCE: usize = 64;
/// Largest cursor as stored, in bytes.
const CURSOR_BYTES_MAX: usize = 128;

/// What the names of cursors in the local FAT begin with.
pub(super) const ORDERS_PREFIX: &str = "orders/";

type Cursor = (Hash, u64);

fn cursor_key(mirror: NodeId) -> String {
    format!("{ORDERS_PREFIX}{mirror}")
}

impl Vendor {
    /// Asks mirrors for orders, for as long as the vendor runs.
    pub(super) async fn polling(self: &Arc<Self>) {
        let mut returns: BTreeMap<NodeId, Return> = BTreeMap::new();
        let mut turn = 0;
        loop {
            let mirrors = self.net.book().mirrors();
            let wait = if mirrors.is_empty() { LOOK } else { POLL };
            for index in 0..mirrors.len().min(MIRRORS_ASKED) {
                // The best mirror each time, and one of the others in turn: an order may be at one mirror only.
                let at = if index == 0 { 0 } else { 1 + turn % (mirrors.len() - 1) };
                let returned = returns.entry(mirrors[at]).or_default();
                self.poll(mirrors[at], returned).await;
                self.give_back(mirrors[at], returned).await;
            }
            returns.retain(|mirror, _| mirrors.contains(mirror));
            turn += 1;
            tokio::time::sleep(wait).await;
        }
    }

    async fn poll(self: &Arc<Self>, mirror: NodeId, returned: &mut Return) {
        for _ in 0..PAGES_AT_ONCE {
            let cursor = self.blocking(move |vendor| vendor.cursor(mirror)).await.unwrap_or((Hash([0; Hash::LEN]), 0));
            let request = Request::Orders { vendor: self.me, log: cursor.0, cursor: cursor.1 };
            let page = match self.net.call(mirror, &request, MIRROR_WAIT).await {
                Ok(Response::Page(page)) => page,
                Ok(_) => return,
                Err(refusal) => {
                    tracing::debug!(mirror = %mirror.short(), %refusal, "no orders heard");
                    return;
                }
            };
            self.note_clock(mirror, page.clock);
            if self.is_out_of_step() {
                // Leases and chunks that these orders are about may not be known here yet: they are read again.
                return;
            }
            returned.heard(&page);
            let (more, next) = (page.more, (page.log, page.next));
            if next != cursor || !page.records.is_empty() {
                let taken = self.blocking(move |vendor| vendor.take_orders(mirror, page)).await;
                if let Err(refusal) = taken {
                    tracing::warn!(mirror = %mirror.short(), %refusal, "orders not taken; they are asked for again");
                    return;
                }
            }
            if !more || next == cursor {
                self.note_caught_up(mirror);
                return;
            }
        }
    }

    pub(super) fn cursor(&self, mirror: NodeId) -> Result<Cursor, fathom_protocol::wire::Refusal> {
        let stored = self.fat.kv(&cursor_key(mirror)).map_err(|error| fat_refusal(&error))?;
        Ok(stored.and_then(|bytes| codec::decode(&bytes, CURSOR_BYTES_MAX).ok()).unwrap_or((Hash([0; Hash::LEN]), 0)))
    }

    /// Acts on a page, then remembers that it did. Blocks.
    pub(super) fn take_orders(&self, mirror: NodeId, page: Page) -> Result<(), fathom_protocol::wire::Refusal> {
        use fathom_protocol::wire::RefusalKind::{Internal, NoSpace};
        let fats = page.records.into_iter().filter_map(|record| match record {
            SyncRecord::Fat(fat) => Some(fat),
            _ => None,
        });
        for refusal in self.order(fats.collect()).into_iter().filter_map(Result::err) {
            if matches!(refusal.kind, Internal | NoSpace) {
                return Err(refusal);
            }
            tracing::debug!(%refusal, "order not acted on");
        }
        let cursor: Cursor = (page.log, page.next);
        let pairs = [(cursor_key(mirror), codec::encode(&cursor))];
        let pairs: Vec<(&str, &[u8])> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        self.fat.put_many(&pairs).map_err(|error| fat_refusal(&error))
    }

    /// Notes what a mirror's clock says.
    pub(super) fn note_clock(&self, mirror: NodeId, theirs: UnixMs) {
        let elapsed = self.elapsed_ms();
        lock(&self.clocks).heard(mirror, theirs, elapsed);
    }

    /// Notes that a mirror's orders were read to their end.
    pub(super) fn note_caught_up(&self, mirror: NodeId) {
        let elapsed = self.elapsed_ms();
        lock(&self.caught_up).heard(mirror, elapsed);
    }

    /// Whether enough mirrors' orders were read to their end a moment ago: before that, a chunk may be named by a final FAT that is
    /// not known here yet.
    pub(super) fn has_caught_up(&self) -> bool {
        lock(&self.caught_up).is_enough(self.net.book().mirrors().len(), self.elapsed_ms())
    }

    /// Milliseconds that this vendor has been running, by a clock that nobody can set.
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The median of the mirrors' clocks, once enough of them were heard.
    pub(super) fn agreed_clock(&self) -> Option<UnixMs> {
        lock(&self.clocks).median(self.net.book().mirrors().len(), self.elapsed_ms())
    }

    /// Whether a deadline has passed by both clocks, see [`fathom_protocol::clocks::Clocks::passed`].
    pub(super) fn has_passed(&self, deadline: UnixMs) -> Option<bool> {
        lock(&self.clocks).passed(deadline, clock::now(), self.net.book().mirrors().len(), self.elapsed_ms())
    }

    /// The time by which promises are dated.
    pub(super) fn dating_clock(&self) -> Dated {
        lock(&self.clocks).dating(clock::now(), self.net.book().mirrors().len(), self.elapsed_ms())
    }
}
