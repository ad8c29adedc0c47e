//! Handing in a final FAT, of a put, a removal or a choice among versions: it counts as stored when min(3, mirrors) have it, or,
//! if one does not answer, a majority of those.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::catalogue::StoredFile;
use fathom_protocol::codec::{Blob, Bounded, Text};
use fathom_protocol::fat::{ChunkRef, FileMeta, FinalFat, Follows, Manifest, Place, Tag, Use};
use fathom_protocol::ids::{FileId, Hash, NodeId};
use fathom_protocol::limits::FAT_BODY_BYTES_MAX;
use fathom_protocol::seal::sealed_len;
use fathom_protocol::sign::Signed;
use fathom_protocol::tags;
use fathom_protocol::wire::{RefusalKind, Request, Response, Unused};

use super::put::Put;
use super::stored::seen;
use super::{AGAIN, CHUNK_PLAIN, Op, User, next_tag};
use crate::sim::invariants::Stored;
use crate::sim::mutation::Mutation;
use crate::sim::node::{Cx, Timer};

const FAT_COPIES: usize = 3;
/// How long, and how often, a mirror is asked again that has not heard of the leases yet.
const HEADS_WAIT_MS: u64 = 8_000;
const HEADS_EVERY_MS: u64 = 700;
const SUBMIT_MS: u64 = 3_000;

/// What it is that is handed in.
#[derive(Debug)]
enum What {
    /// A put, and the room that no final FAT of it gives back.
    Put(&'static str, BTreeMap<Place, u64>),
    Removal,
    Choice,
}

/// A final FAT on its way to mirrors.
#[derive(Debug)]
pub(super) struct HandIn {
    what: What,
    fat: Signed<FinalFat>,
    /// Where its version lies; nothing if it releases the file.
    stored: Option<Stored>,
    asked: BTreeMap<u64, usize>,
    /// Mirrors that are asked again soon.
    early: Vec<usize>,
    until: u64,
    acked: BTreeSet<usize>,
    rest: Vec<usize>,
}

/// The public part of a final FAT.
struct Draft {
    file: FileId,
    seq: u64,
    base: u64,
    follows: Follows,
    uses: Vec<Use>,
    frees: BTreeSet<NodeId>,
    body: Blob<FAT_BODY_BYTES_MAX>,
}

/// Where the chunks of a manifest lie.
fn stored_at(manifest: &Manifest) -> Stored {
    let chunks = manifest.chunks().enumerate();
    chunks
        .map(|(at, chunk)| (chunk.id, sealed_len(manifest.plain_len(at)), manifest.places_of(&chunk).collect()))
        .collect()
}

/// What a file uses of each lease by its manifest, bytes.
fn used(manifest: &Manifest) -> BTreeMap<Place, u64> {
    let mut bytes = BTreeMap::new();
    for (_, length, places) in stored_at(manifest) {
        for place in places {
            *bytes.entry(place).or_default() += u64::from(length);
        }
    }
    bytes
}

/// What a manifest is about, wherever its copies are.
fn content(manifest: &Manifest) -> Hash {
    let mut bytes = manifest.file_key.to_vec();
    for chunk in manifest.chunks() {
        bytes.extend(chunk.id.0);
        bytes.extend(chunk.salt);
    }
    Hash::of(&bytes)
}

impl User {
    /// The final FAT of the put that has all its receipts.
    pub(super) fn hand_in_put(&mut self, cx: &mut Cx<'_>) {
        // What is handed in is what the journal goes on from, also if the power fails before a mirror has answered.
        if self.journal.flush().is_err() {
            return;
        }
        self.end_draw();
        let Some(Op::Put(mut put)) = self.op.take() else { return };
        let manifest = manifest_of(cx, &put, self.copies);
        let mut unused = put.take_unused();
        let uses = used(&manifest).into_iter().map(|(place, bytes)| {
            let unused = unused.remove(&place).unwrap_or(0);
            Use { vendor: place.vendor, lease: place.lease, bytes, unused }
        });
        let uses: Vec<Use> = uses.collect();
        let mut frees = std::mem::take(&mut put.old_holders);
        frees.extend(&put.failed);
        let seq = put.record.seq;
        let body = self.keys.seal_manifest(&manifest, put.file, seq, cx.random.bytes()).expect("it seals");
        let follows = std::mem::take(&mut put.follows);
        let draft = Draft { file: put.file, seq, base: seq, follows, uses, frees, body };
        self.hand_in(cx, What::Put(put.name, unused), draft, put.seen, Some(&manifest));
    }

    /// Releases a file.
    pub(super) fn remove(&mut self, cx: &mut Cx<'_>, stored: &StoredFile) {
        cx.injected.removes += 1;
        self.release(cx, What::Removal, stored);
    }

    fn release(&mut self, cx: &mut Cx<'_>, what: What, stored: &StoredFile) {
        let seq = next_tag(stored.counter(), cx).0;
        let (file, frees) = (stored.file, stored.holders().into_iter().collect());
        let follows = stored.follows(None);
        let draft = Draft { file, seq, base: seq, follows, uses: Vec::new(), frees, body: Blob::default() };
        self.hand_in(cx, what, draft, seen(stored), None);
    }

    /// Keeps one version of a file that two devices stored at once: its chunks stay where they are, under their tags.
    pub(super) fn resolve(&mut self, cx: &mut Cx<'_>, stored: &StoredFile, version: usize) {
        let chosen = &stored.versions[version];
        let Some(now) = &chosen.manifest else { return self.release(cx, What::Choice, stored) };
        let Ok(manifest) = self.keys.open_manifest(&chosen.fat.body, stored.file, chosen.fat.seq) else { return };
        let holders: BTreeSet<NodeId> = now.used_places().into_iter().map(|place| place.vendor).collect();
        let uses = used(&manifest).into_iter().map(|(place, bytes)| Use {
            vendor: place.vendor,
            lease: place.lease,
            bytes,
            unused: 0,
        });
        let uses: Vec<Use> = uses.collect();
        let frees = stored.holders().into_iter().filter(|holder| !holders.contains(holder)).collect();
        let seq = next_tag(stored.counter(), cx).0;
        let body = self.keys.seal_manifest(&manifest, stored.file, seq, cx.random.bytes()).expect("it seals");
        let follows = stored.follows(Some(chosen.fat.tag()));
        let draft = Draft { file: stored.file, seq, base: chosen.fat.base, follows, uses, frees, body };
        let places = now.clone();
        self.hand_in(cx, What::Choice, draft, seen(stored), Some(&places));
    }

    fn hand_in(
        &mut self,
        cx: &mut Cx<'_>,
        what: What,
        mut draft: Draft,
        seen: Vec<(Tag, Hash)>,
        manifest: Option<&Manifest>,
    ) {
        draft.frees.retain(|vendor| !draft.uses.iter().any(|used| used.vendor == *vendor));
        let life = cx.known.terms.commit_ms + 2 * cx.known.terms.grace_ms;
        let fat = FinalFat {
            version: tags::VERSION,
            owner: self.keys.owner(),
            file: draft.file,
            seq: draft.seq,
            base: draft.base,
            follows: draft.follows,
            uses: Bounded::first(draft.uses),
            frees: Bounded::first(draft.frees),
            issued: cx.now,
            order_expires: cx.now.plus_ms(life),
            body: draft.body,
        };
        let fat = Signed::sign(fat, self.keys.signing()).expect("a final FAT signs");
        cx.oracle.signed_fat(&fat, cx.at, Some(manifest.map_or(Hash([0; Hash::LEN]), content)), &seen);
        let mut rest = cx.known.mirrors.clone();
        cx.random.shuffle(&mut rest);
        let mut work = HandIn {
            what,
            fat,
            stored: manifest.map(stored_at),
            asked: BTreeMap::new(),
            early: Vec::new(),
            until: cx.at + HEADS_WAIT_MS,
            acked: BTreeSet::new(),
            rest,
        };
        for _ in 0..work.rest.len().min(FAT_COPIES) {
            work.ask_next(cx);
        }
        self.op = Some(Op::HandIn(Box::new(work)));
    }

    /// Asks mirrors again that had not heard of the leases.
    pub(super) fn hand_in_again(&mut self, cx: &mut Cx<'_>) {
        let Some(Op::HandIn(work)) = &mut self.op else { return };
        for mirror in std::mem::take(&mut work.early) {
            work.ask(cx, mirror);
        }
    }

    pub(super) fn handed_in(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, response: Response) {
        let Some(Op::HandIn(work)) = &mut self.op else { return };
        if work.asked.remove(&call).is_none() {
            return;
        }
        match response {
            Response::Submitted(results) => {
                let mut kinds = results.into_iter().flatten().map(|refusal| refusal.kind);
                match kinds.find(|kind| *kind != RefusalKind::Forked) {
                    None => drop(work.acked.insert(from)),
                    Some(RefusalKind::Busy | RefusalKind::OverLease) if cx.at < work.until => {
                        work.early.push(from);
                        cx.wait(HEADS_EVERY_MS, Timer::Every(AGAIN));
                    }
                    Some(kind) => return self.give_up(cx, kind),
                }
            }
            _ => work.ask_next(cx),
        }
        let target = cx.known.mirrors.len().min(FAT_COPIES);
        let early = cx.known.broken(Mutation::OneAcknowledgement);
        let needed = if early { 1 } else { target / 2 + 1 };
        let enough = work.acked.len() >= needed;
        let ended = work.asked.is_empty() && work.early.is_empty();
        if work.acked.len() >= target || enough && (early || ended) {
            self.stored(cx);
        } else if ended {
            self.give_up(cx, RefusalKind::Silent);
        }
    }

    /// The user is told that it is done.
    fn stored(&mut self, cx: &mut Cx<'_>) {
        let Some(Op::HandIn(work)) = &mut self.op else { return };
        if let What::Put(name, _) = &work.what
            && self.journal.end(name, work.fat.file).is_err()
        {
            return;
        }
        let Some(Op::HandIn(work)) = self.op.take() else { return };
        let (mirrors, byzantine) = (cx.known.mirrors.len(), &cx.known.byzantine);
        let forked = cx.oracle.acknowledged(mirrors, byzantine, &work.fat, work.stored, &work.acked);
        cx.injected.forks += u64::from(forked);
        match work.what {
            What::Put(_, unused) => self.give_back(cx, unused),
            What::Choice => cx.injected.resolutions += 1,
            What::Removal => {}
        }
    }

    /// Gives room back that the final FAT could not carry. What is not heard expires.
    pub(super) fn give_back(&self, cx: &mut Cx<'_>, unused: BTreeMap<Place, u64>) {
        for (place, bytes) in unused {
            let unused = Unused {
                version: tags::VERSION,
                authority: self.keys.owner().into(),
                vendor: place.vendor,
                lease: place.lease,
                bytes,
                nonce: Hash(cx.random.bytes()),
            };
            let unused = Signed::sign(unused, self.keys.signing()).expect("it signs");
            cx.tell(cx.known.index[&place.vendor], &Request::Unused(unused.into_carried()));
        }
    }
}

fn manifest_of(cx: &Cx<'_>, put: &Put, copies: u8) -> Manifest {
    let mut places: Vec<Place> = Vec::new();
    let mut chunks = Vec::new();
    for chunk in &put.chunks {
        let mut held = chunk.record.copies.clone();
        held.sort_unstable_by_key(|copy| copy.column);
        let mut indices = Vec::new();
        for copy in held {
            let at = places.iter().position(|known| *known == copy.place).unwrap_or_else(|| {
                places.push(copy.place);
                places.len() - 1
            });
            indices.push(at as u16);
        }
        chunks.push(ChunkRef { id: chunk.record.id, salt: chunk.record.salt, copies: indices });
    }
    let size = put.plain.iter().map(|plain| plain.len() as u64).sum();
    let meta = FileMeta { name: Text::cut(put.name), size, mode: 0o644, modified: cx.now, chunk_plain: CHUNK_PLAIN };
    Manifest::new(meta, put.record.file_key, places, copies, &chunks).expect("a small manifest")
}

impl HandIn {
    fn ask_next(&mut self, cx: &mut Cx<'_>) {
        if let Some(mirror) = self.rest.pop() {
            self.ask(cx, mirror);
        }
    }

    fn ask(&mut self, cx: &mut Cx<'_>, mirror: usize) {
        let request = Request::SubmitFats(Bounded::first([self.fat.carried().clone()]));
        let call = cx.ask_within(mirror, &request, SUBMIT_MS);
        self.asked.insert(call, mirror);
    }
}
