//! A user's device: stores, overwrites, removes, renews and reads a few files, one operation at a time, with real keys, real
//! sealing and real final FATs. Two devices may have one phrase and store one file at once; which version stays, one of them
//! chooses. It crashes at any moment and goes on from its journal; all else it reads from mirrors.

mod claim;
mod hand_in;
mod journal;
mod put;
mod stock;
mod stored;

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::catalogue::StoredFile;
use fathom_protocol::codec;
use fathom_protocol::fat::{Place, Tag};
use fathom_protocol::ids::{ChunkId, FileId, Hash, NodeId};
use fathom_protocol::keys::{Phrase, UserKeys};
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::seal::sealed_len;
use fathom_protocol::sign::Signed;
use fathom_protocol::tags;
use fathom_protocol::wire::{FetchRequest, Refusal, RefusalKind, Renew, Request, Response};

use super::disk::Disk;
use super::node::{ANSWER_MS, Body, Cx, Timer};
use hand_in::HandIn;
use journal::Journal;
use put::Put;
use stock::Stock;
use stored::{Look, Looked};

const NEXT: u8 = 0;
const RENEW: u8 = 1;
const AGAIN: u8 = 2;
const FLUSH: u8 = 3;
const RESUME: u8 = 4;
/// Storage that is locked ahead is looked at.
const STOCK: u8 = 5;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Requests are signed for so long, seconds.
const REQUEST_SECONDS: u64 = 60;
/// Plaintext of one chunk, bytes.
const CHUNK_PLAIN: u32 = 1_024;

/// What is to be stored: a file of the user's machine, which lies on a disk of its own.
#[derive(Clone, Debug)]
struct Source {
    /// Length, modification time and inode.
    identity: (u64, i128, u64),
    plain: Vec<Vec<u8>>,
}

/// What a device is about to do once it knows what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Put,
    Remove,
    Read,
}

#[derive(Debug)]
enum Op {
    Look(Want, &'static str, Box<Look>),
    Put(Box<Put>),
    HandIn(Box<HandIn>),
    Read { call: u64, vendor: usize, file: FileId, version: Hash, chunk: ChunkId },
}

/// A user's device.
pub(super) struct User {
    pub(super) keys: UserKeys,
    /// Under the journal.
    pub(super) disk: Disk,
    journal: Journal,
    sources: BTreeMap<&'static str, Source>,
    op: Option<Op>,
    /// A look at all files, whose leases are to be renewed.
    renewal: Option<Look>,
    /// Puts that a crash interrupted and that are gone on with.
    interrupted: Vec<&'static str>,
    /// Storage locked ahead; in memory only.
    stock: Stock,
    /// No new operation begins.
    pub(super) draining: bool,
    /// Milliseconds between operations, about.
    pace: u64,
    copies: u8,
}

/// The tag of the next final FAT. Writers are drawn at random and may be equal in one case of 65,536; here they never are.
fn next_tag(counter: u64, cx: &mut Cx<'_>) -> Tag {
    *cx.calls += 1;
    Tag::new(counter + 1, *cx.calls as u16)
}

impl User {
    /// A device of the user with this phrase.
    pub(super) fn new(phrase: [u8; 32], pace: u64, copies: u8) -> Self {
        let disk = Disk::new();
        let journal = Journal::open(&disk).expect("a journal on an empty disk opens");
        Self {
            keys: Phrase::from_entropy(phrase).user_keys(),
            disk,
            journal,
            sources: BTreeMap::new(),
            op: None,
            renewal: None,
            interrupted: Vec::new(),
            stock: Stock::default(),
            draining: false,
            pace,
            copies,
        }
    }

    pub(super) fn idle(&self) -> bool {
        self.op.is_none() && self.interrupted.is_empty()
    }

    /// What was in memory is gone; the journal is what the disk has. Returns the writes that were torn or lost.
    pub(super) fn crash(&mut self, random: &mut super::random::Random) -> Result<u64, String> {
        self.disk.kill();
        (self.op, self.renewal) = (None, None);
        self.stock = Stock::default();
        let (disk, harmed) = self.disk.after_crash(random);
        self.disk = disk;
        self.journal = Journal::open(&self.disk).map_err(|error| error.to_string())?;
        let pending = self.journal.pending().map_err(|error| error.to_string())?;
        self.interrupted = NAMES.into_iter().filter(|name| pending.iter().any(|noted| noted == name)).collect();
        Ok(harmed)
    }

    pub(super) fn start(&mut self, cx: &mut Cx<'_>) {
        let first = 1_500 + cx.random.below(self.pace);
        cx.wait(first, Timer::Every(NEXT));
        let first = cx.random.below(cx.known.terms.commit_ms / 8);
        cx.wait(first, Timer::Every(RENEW));
        if !self.interrupted.is_empty() {
            let first = cx.random.within(100, 3_000);
            cx.wait(first, Timer::Every(RESUME));
        }
    }

    pub(super) fn timer(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        match timer {
            Timer::Every(NEXT) => {
                if self.idle() && !self.draining {
                    self.begin(cx);
                }
                // Puts that follow each other quickly.
                let bursts = cx.known.bursts && cx.random.chance(800);
                let next = 1 + cx.random.below(if bursts { 400 } else { 2 * self.pace });
                cx.wait(next, Timer::Every(NEXT));
            }
            Timer::Every(RENEW) => {
                self.renewal = Some(Look::begin(cx, &self.keys, None));
                cx.wait(cx.known.terms.commit_ms / 8, Timer::Every(RENEW));
            }
            Timer::Every(FLUSH) => drop(self.journal.flush()),
            Timer::Every(RESUME) => self.resume(cx),
            Timer::Every(STOCK) => self.tend_stock(cx),
            Timer::Every(_) => self.hand_in_again(cx),
            Timer::Call(call) => self.silent(cx, call),
            Timer::Frame(_) | Timer::Allocation(_) => {}
        }
    }

    fn begin(&mut self, cx: &mut Cx<'_>) {
        let name = NAMES[cx.random.index(NAMES.len())];
        let want = match cx.random.below(10) {
            0..=1 => Want::Remove,
            2..=5 => Want::Read,
            _ => Want::Put,
        };
        self.look(cx, want, name);
    }

    /// Puts the file `name` if nothing else goes on.
    pub(super) fn put_now(&mut self, cx: &mut Cx<'_>, name: usize) {
        if self.idle() && !self.draining {
            self.look(cx, Want::Put, NAMES[name % NAMES.len()]);
        }
    }

    /// Goes on with puts that a crash interrupted, one after the other.
    fn resume(&mut self, cx: &mut Cx<'_>) {
        if self.op.is_none()
            && let Some(name) = self.interrupted.pop()
        {
            self.look(cx, Want::Put, name);
        }
        if !self.interrupted.is_empty() {
            cx.wait(1_000, Timer::Every(RESUME));
        }
    }

    fn look(&mut self, cx: &mut Cx<'_>, want: Want, name: &'static str) {
        let look = Look::begin(cx, &self.keys, Some(self.keys.file_id(name)));
        self.op = Some(Op::Look(want, name, Box::new(look)));
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
        if self.renewal.as_ref().is_some_and(|look| look.awaits(call)) {
            return self.renewed(cx, call, Some(response));
        }
        match &mut self.op {
            Some(Op::Look(_, _, look)) if look.awaits(call) => self.looked(cx, call, Some(response)),
            Some(Op::Put(put)) if put.awaits_storage(call) => self.allocated(cx, response),
            Some(Op::HandIn(_)) => self.handed_in(cx, from, call, response),
            _ => {}
        }
    }

    fn silent(&mut self, cx: &mut Cx<'_>, call: u64) {
        if self.renewal.as_ref().is_some_and(|look| look.awaits(call)) {
            return self.renewed(cx, call, None);
        }
        let silent = || Response::Refused(Refusal::new(RefusalKind::Silent, "no answer"));
        match &mut self.op {
            Some(Op::Look(_, _, look)) if look.awaits(call) => self.looked(cx, call, None),
            Some(Op::Put(put)) if put.awaits_storage(call) => self.allocated(cx, silent()),
            Some(Op::Put(_)) => self.chunk_ended(cx, call),
            Some(Op::HandIn(_)) => self.handed_in(cx, cx.me, call, silent()),
            Some(Op::Read { call: waiting, .. }) if *waiting == call => self.op = None,
            _ => {}
        }
    }

    /// It is known what is stored, or no mirror answers.
    fn looked(&mut self, cx: &mut Cx<'_>, call: u64, response: Option<Response>) {
        let Some(Op::Look(want, name, look)) = &mut self.op else { return };
        let (want, name) = (*want, *name);
        let stored = match look.answered(cx, &self.keys, call, response) {
            Looked::Waiting => return,
            Looked::Failed => return self.give_up(cx, RefusalKind::Silent),
            Looked::Files(mut files) => files.remove(&self.keys.file_id(name)),
        };
        self.op = None;
        match stored {
            Some(stored) if want == Want::Read && stored.newest().is_some() => self.read(cx, &stored),
            // A person is told that there are several versions, and mostly chooses one.
            Some(stored) if stored.is_forked() && cx.random.chance(600) => {
                let version = cx.random.index(stored.versions.len());
                self.resolve(cx, &stored, version);
            }
            Some(stored) if stored.is_forked() => self.give_up(cx, RefusalKind::Forked),
            Some(stored) if want == Want::Remove && stored.newest().is_some() => self.remove(cx, &stored),
            stored => self.put(cx, name, stored.as_ref()),
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

    /// All files are known: their leases are prolonged.
    fn renewed(&mut self, cx: &mut Cx<'_>, call: u64, response: Option<Response>) {
        let Some(look) = &mut self.renewal else { return };
        let files = match look.answered(cx, &self.keys, call, response) {
            Looked::Waiting => return,
            Looked::Failed => BTreeMap::new(),
            Looked::Files(files) => files,
        };
        self.renewal = None;
        let places: BTreeSet<Place> = files.values().flat_map(StoredFile::places).collect();
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
            self.tell_vendor(cx, place.vendor, &Request::Renew(renew.into_carried()));
        }
    }

    fn tell_vendor(&self, cx: &mut Cx<'_>, vendor: NodeId, request: &Request) {
        // A device that lies may name vendors that there are not.
        if let Some(node) = cx.known.index.get(&vendor).copied() {
            cx.tell(node, request);
        }
    }

    /// Fetches one chunk from one of its holders: who gave a receipt must have it.
    fn read(&mut self, cx: &mut Cx<'_>, stored: &StoredFile) {
        let (Some(version), Some(manifest)) = (stored.newest(), stored.manifest()) else { return };
        let at = cx.random.index(manifest.chunk_count());
        let Some(chunk) = manifest.chunk(at) else { return };
        let places: Vec<Place> = manifest.places_of(&chunk).collect();
        if places.is_empty() {
            return;
        }
        let place = places[cx.random.index(places.len())];
        let request = FetchRequest {
            version: tags::VERSION,
            owner: self.keys.owner(),
            vendor: place.vendor,
            chunk: chunk.id,
            offset: 0,
            length: sealed_len(manifest.plain_len(at)),
            expires: cx.now.plus_seconds(REQUEST_SECONDS),
        };
        let request = Signed::sign(request, self.keys.signing()).expect("a request signs");
        let Some(vendor) = cx.known.index.get(&place.vendor).copied() else { return };
        let call = cx.number(ANSWER_MS);
        cx.injected.reads += 1;
        self.op = Some(Op::Read { call, vendor, file: stored.file, version: version.fat.hash(), chunk: chunk.id });
        cx.send(vendor, Body::Fetch { call, bytes: codec::encode(request.carried()) });
    }

    fn fetched(&mut self, cx: &mut Cx<'_>, call: u64, bytes: Option<Vec<u8>>) {
        if let Some(Op::Read { call: waiting, vendor, file, version, chunk }) = self.op
            && waiting == call
        {
            let good = bytes.is_some_and(|bytes| ChunkId::of(&bytes) == chunk);
            cx.oracle.read(call, vendor, (self.keys.owner(), file), version, chunk, good);
            self.op = None;
        }
    }
}
