//! Staying equal to the other mirrors: the real core decides, and what it says is carried out here.

use std::collections::VecDeque;

use fathom_protocol::codec;
use fathom_protocol::limits::GOSSIP_BYTES_MAX;
use fathom_protocol::sign::RecordError;
use fathom_protocol::sync::{Action, Cursor, Event, Settings, Sync, Told};
use fathom_protocol::table::{Verified, verify};
use fathom_protocol::wire::{Gossip, RefusalKind, Response, SyncRecord};

use super::{Mirror, SYNC};
use crate::sim::node::{Cx, Timer};

const POLL_MS: u64 = 3_000;
const COMPARE_MS: u64 = 20_000;
/// How often the known mirrors are looked at.
const LOOK_MS: u64 = 5_000;
const LOOK: u8 = 2;

/// A newer node may speak a newer version; nobody is to blame for that.
pub(super) fn is_bad<T>(result: &Result<T, RecordError>) -> bool {
    matches!(result, Err(error) if !matches!(error, RecordError::Version(_)))
}

impl Mirror {
    /// The core of a mirror that starts with what is on disk.
    pub(super) fn begin_sync(&mut self, cx: &mut Cx<'_>) {
        let settings = Settings { me: cx.id(cx.me), poll_ms: POLL_MS, compare_ms: COMPARE_MS };
        let cursors = self.store.cursors.iter();
        let cursors = cursors.map(|(mirror, (log, position))| (*mirror, Cursor { log: *log, position: *position }));
        self.sync = Some(Sync::new(settings, cursors.collect()));
        self.look(cx);
    }

    pub(super) fn timer_of_sync(&mut self, cx: &mut Cx<'_>, which: u8) {
        if which == LOOK {
            self.look(cx);
        } else {
            self.decide(cx, Event::Tick);
        }
    }

    fn look(&mut self, cx: &mut Cx<'_>) {
        let mirrors = cx.known.mirrors.iter().map(|mirror| cx.known.ids[*mirror]).collect();
        self.decide(cx, Event::Mirrors(mirrors));
        cx.wait(LOOK_MS, Timer::Every(LOOK));
    }

    /// Tells the core and carries out what it says, until it says no more.
    pub(super) fn decide(&mut self, cx: &mut Cx<'_>, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(sync) = &mut self.sync else { return };
            let random = cx.random.bytes();
            for action in sync.handle(event, &self.table, cx.at, random) {
                match action {
                    Action::Ask { peer, ask, request, within_ms } => {
                        let Some(node) = cx.known.index.get(&peer).copied() else { continue };
                        let call = cx.ask_within(node, &request, within_ms);
                        self.asks.insert(call, (peer, ask));
                    }
                    Action::Keep { peer, ask, records, cursor } => {
                        let results: Vec<Result<Verified, RecordError>> = records.into_iter().map(verify).collect();
                        let bad = results.iter().filter(|result| is_bad(result)).count();
                        let good: Vec<Verified> = results.into_iter().filter_map(Result::ok).collect();
                        let cursor = cursor.map(|cursor| (peer, cursor.log, cursor.position));
                        let new = self.keep(cx, good, cursor).iter().filter(|kept| **kept == Ok(true)).count();
                        events.push_back(Event::Kept { peer, ask, new, bad, stored: true });
                    }
                    Action::Wake { at_ms } => cx.wait(at_ms.saturating_sub(cx.at), Timer::Every(SYNC)),
                    Action::Ban { .. } | Action::Verdict(_) => {}
                }
            }
        }
    }

    /// An answer to what the core asked.
    pub(super) fn answered(&mut self, cx: &mut Cx<'_>, call: u64, response: Option<Response>) -> bool {
        let Some((peer, ask)) = self.asks.remove(&call) else { return false };
        let event = match response {
            None => Event::Failed { peer, ask, refused: false },
            Some(Response::Refused(refusal)) => {
                Event::Failed { peer, ask, refused: refusal.kind != RefusalKind::Silent }
            }
            Some(response) => Event::Answered { peer, ask, response },
        };
        self.decide(cx, event);
        true
    }

    /// Verifies what a peer brought by itself, if the core lets it.
    pub(super) fn admitted(
        &mut self,
        cx: &mut Cx<'_>,
        from: usize,
        record: SyncRecord,
    ) -> Option<Result<Verified, RecordError>> {
        let peer = cx.id(from);
        if !self.sync.as_mut()?.admits(peer, cx.at) {
            return None;
        }
        let result = verify(record);
        self.decide(cx, Event::Checked { from: peer, bad: usize::from(is_bad(&result)) });
        Some(result)
    }

    pub(super) fn hear(&mut self, cx: &mut Cx<'_>, from: usize, bytes: &[u8]) {
        let peer = cx.id(from);
        if !self.sync.as_mut().is_some_and(|sync| sync.admits(peer, cx.at)) {
            return;
        }
        let told = match codec::decode::<Gossip>(bytes, GOSSIP_BYTES_MAX) {
            Ok(Gossip::Record(record)) => match verify(*record) {
                Ok(verified) => match self.keep(cx, vec![verified], None).first() {
                    Some(Ok(true)) => Told::New,
                    _ => Told::Known,
                },
                Err(RecordError::Version(_)) => Told::Unclear,
                Err(_) => Told::Bad,
            },
            // The simulator's mirrors send each record by itself.
            Ok(Gossip::Records(_)) => Told::Unclear,
            Ok(Gossip::Delta(delta)) => self.hear_delta(cx, *delta),
            Ok(Gossip::Grew { mirror, cursor }) => Told::Hint { mirror, position: cursor },
            Err(_) => Told::Bad,
        };
        self.decide(cx, Event::Gossip { from: peer, told });
    }
}
