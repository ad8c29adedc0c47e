//! A user: stores, overwrites, removes, renews and reads a few files, one operation at a time, with real keys, real sealing
//! and real final FATs.

mod hand_in;
mod put;

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::codec;
use fathom_protocol::fat::{Place, Tag};
use fathom_protocol::ids::{ChunkId, FileId, NodeId};
use fathom_protocol::keys::{Phrase, UserKeys};
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::sign::Signed;
use fathom_protocol::tags;
use fathom_protocol::wire::{FetchRequest, Refusal, RefusalKind, Renew, Request, Response};

use super::node::{ANSWER_MS, Body, Cx, Timer};
use super::random::Random;
use hand_in::HandIn;
use put::Put;

const NEXT: u8 = 0;
const RENEW: u8 = 1;
const AGAIN: u8 = 2;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Requests are signed for so long, seconds.
const REQUEST_SECONDS: u64 = 60;
/// Plaintext of one chunk, bytes.
const CHUNK_PLAIN: u32 = 1_024;

/// A file as its user knows it.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) id: FileId,
    /// Highest number used, whether it was stored or not.
    pub(super) seq: u64,
    file_key: [u8; 32],
    /// Vendors that may hold something of it.
    pub(super) holders: BTreeSet<NodeId>,
    /// Where the stored version is: each chunk and its holders.
    pub(super) stored: Option<Vec<(ChunkId, u32, Vec<Place>)>>,
}

#[derive(Debug)]
enum Op {
    Put(Box<Put>),
    HandIn(Box<HandIn>),
    Read { call: u64, vendor: usize, file: FileId, chunk: ChunkId, seq: u64 },
}

/// A user.
pub(super) struct User {
    pub(super) keys: UserKeys,
    pub(super) files: BTreeMap<&'static str, File>,
    op: Option<Op>,
    /// No new operation begins.
    pub(super) draining: bool,
    /// Milliseconds between operations, about.
    pace: u64,
    copies: u8,
}

/// The tag after `seq`, of a writer by chance.
fn next_tag(seq: u64, writer: [u8; 2]) -> u64 {
    Tag::new(Tag(seq).counter() + 1, u16::from_le_bytes(writer)).0
}

impl User {
    pub(super) fn new(random: &mut Random, pace: u64, copies: u8) -> Self {
        let keys = Phrase::from_entropy(random.bytes()).user_keys();
        let files = NAMES.into_iter().map(|name| {
            let file = File {
                id: keys.file_id(name),
                seq: 0,
                file_key: random.bytes(),
                holders: BTreeSet::new(),
                stored: None,
            };
            (name, file)
        });
        Self { files: files.collect(), op: None, draining: false, pace, copies, keys }
    }

    pub(super) fn idle(&self) -> bool {
        self.op.is_none()
    }

    pub(super) fn start(&mut self, cx: &mut Cx<'_>) {
        let first = 1_500 + cx.random.below(self.pace);
        cx.wait(first, Timer::Every(NEXT));
        let first = cx.random.below(cx.known.terms.commit_ms / 8);
        cx.wait(first, Timer::Every(RENEW));
    }

    pub(super) fn timer(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        match timer {
            Timer::Every(NEXT) => {
                if self.op.is_none() && !self.draining {
                    self.begin(cx);
                }
                let next = 1 + cx.random.below(2 * self.pace);
                cx.wait(next, Timer::Every(NEXT));
            }
            Timer::Every(RENEW) => {
                self.renew(cx);
                cx.wait(cx.known.terms.commit_ms / 8, Timer::Every(RENEW));
            }
            Timer::Every(_) => self.hand_in_again(cx),
            Timer::Call(call) => self.silent(cx, call),
            Timer::Frame(_) | Timer::Allocation(_) => {}
        }
    }

    fn begin(&mut self, cx: &mut Cx<'_>) {
        let name = NAMES[cx.random.index(NAMES.len())];
        let stored = self.files[name].stored.is_some();
        match cx.random.below(10) {
            0..=1 if stored => self.remove(cx, name),
            2..=5 if stored => self.read(cx, name),
            _ => self.put(cx, name),
        }
    }

    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, from: usize, body: Body) {
        match body {
            Body::Response { call, bytes } => {
                if let Ok(response) = codec::decode::<Response>(&bytes, FRAME_BYTES_MAX) {
                    self.response(cx, from, call, response);
                }
            }
            Body::Answer { call, bytes } => self.chunk_answer(cx, call, &bytes),
            Body::Fetched { call, bytes } => self.fetched(cx, call, bytes),
            _ => {}
        }
    }

    fn response(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, response: Response) {
        match &mut self.op {
            Some(Op::Put(put)) if put.awaits(call) => self.allocated(cx, response),
            Some(Op::HandIn(_)) => self.handed_in(cx, from, call, response),
            _ => {}
        }
    }

    fn silent(&mut self, cx: &mut Cx<'_>, call: u64) {
        match &mut self.op {
            Some(Op::Put(put)) if put.awaits(call) => {
                self.allocated(cx, Response::Refused(Refusal::new(RefusalKind::Silent, "no answer")));
            }
            Some(Op::Put(_)) => self.chunk_ended(cx, call),
            Some(Op::HandIn(_)) => {
                let silent = Refusal::new(RefusalKind::Silent, "no answer");
                self.handed_in(cx, cx.me, call, Response::Refused(silent));
            }
            Some(Op::Read { call: waiting, .. }) if *waiting == call => self.op = None,
            _ => {}
        }
    }

    /// Ends the operation: it was refused, and the user was told so.
    fn give_up(&mut self, cx: &mut Cx<'_>, kind: RefusalKind) {
        match kind {
            RefusalKind::Silent => cx.injected.abandoned += 1,
            _ => cx.injected.refused += 1,
        }
        self.op = None;
    }

    fn renew(&mut self, cx: &mut Cx<'_>) {
        let mut places: BTreeSet<Place> = BTreeSet::new();
        for file in self.files.values() {
            places.extend(file.stored.iter().flatten().flat_map(|(_, _, places)| places.iter().copied()));
        }
        for place in places {
            let renew = Renew {
                version: tags::VERSION,
                owner: self.keys.owner(),
                vendor: place.vendor,
                lease: place.lease,
                expires: cx.now.plus_seconds(REQUEST_SECONDS),
            };
            let renew = Signed::sign(renew, self.keys.signing()).expect("a renewal signs");
            cx.injected.renewals += 1;
            cx.tell(cx.known.index[&place.vendor], &Request::Renew(renew.into_carried()));
        }
    }

    /// Fetches one chunk from one of its holders: who gave a receipt must have it.
    fn read(&mut self, cx: &mut Cx<'_>, name: &'static str) {
        let file = &self.files[name];
        let Some(stored) = file.stored.as_ref().filter(|chunks| !chunks.is_empty()) else { return };
        let (chunk, length, places) = &stored[cx.random.index(stored.len())];
        let place = places[cx.random.index(places.len())];
        let request = FetchRequest {
            version: tags::VERSION,
            owner: self.keys.owner(),
            vendor: place.vendor,
            chunk: *chunk,
            offset: 0,
            length: *length,
            expires: cx.now.plus_seconds(REQUEST_SECONDS),
        };
        let request = Signed::sign(request, self.keys.signing()).expect("a request signs");
        let vendor = cx.known.index[&place.vendor];
        let call = cx.number(ANSWER_MS);
        cx.injected.reads += 1;
        self.op = Some(Op::Read { call, vendor, file: file.id, chunk: *chunk, seq: file.seq });
        cx.send(vendor, Body::Fetch { call, bytes: codec::encode(request.carried()) });
    }

    fn fetched(&mut self, cx: &mut Cx<'_>, call: u64, bytes: Option<Vec<u8>>) {
        if let Some(Op::Read { call: waiting, vendor, file, chunk, seq }) = self.op
            && waiting == call
        {
            let good = bytes.is_some_and(|bytes| ChunkId::of(&bytes) == chunk);
            cx.oracle.read(vendor, (self.keys.owner(), file, seq), chunk, good);
            self.op = None;
        }
    }
}
