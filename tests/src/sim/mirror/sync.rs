//! Staying equal to the other mirrors.

use fathom_protocol::codec;
use fathom_protocol::ids::Hash;
use fathom_protocol::limits::GOSSIP_BYTES_MAX;
use fathom_protocol::table::{Verified, verify};
use fathom_protocol::wire::{Gossip, Page, Request};

use super::{Mirror, SYNC};
use crate::sim::node::{Cx, Timer};

const EVERY_MS: u64 = 3_000;

impl Mirror {
    pub(super) fn read_mirrors(&mut self, cx: &mut Cx<'_>) {
        let (known, me) = (cx.known, cx.me);
        for mirror in known.mirrors.iter().copied().filter(|mirror| *mirror != me) {
            self.pull(cx, mirror);
        }
        cx.wait(EVERY_MS, Timer::Every(SYNC));
    }

    fn pull(&mut self, cx: &mut Cx<'_>, mirror: usize) {
        let (log, cursor) = self.store.cursors.get(&cx.id(mirror)).copied().unwrap_or((Hash([0; Hash::LEN]), 0));
        let call = cx.ask(mirror, &Request::Since { log, cursor });
        self.pulls.insert(call, mirror);
    }

    pub(super) fn keep_page(&mut self, cx: &mut Cx<'_>, mirror: usize, page: Page) {
        let id = cx.id(mirror);
        let before = self.store.cursors.get(&id).copied();
        let (more, cursor) = (page.more, (page.log, page.next));
        let good: Vec<Verified> = page.records.into_iter().filter_map(|record| verify(record).ok()).collect();
        self.keep(cx, good, Some((id, cursor.0, cursor.1)));
        if more && before != Some(cursor) {
            self.pull(cx, mirror);
        }
    }

    pub(super) fn hear(&mut self, cx: &mut Cx<'_>, bytes: &[u8]) {
        if let Ok(Gossip::Record(record)) = codec::decode::<Gossip>(bytes, GOSSIP_BYTES_MAX)
            && let Ok(verified) = verify(*record)
        {
            self.keep(cx, vec![verified], None);
        }
    }
}
