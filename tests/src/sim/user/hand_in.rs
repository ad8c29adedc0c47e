//! Handing in a final FAT: it counts as stored when min(3, mirrors) have it, or, if one does not answer, a majority of those.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::codec::{Blob, Bounded, Text};
use fathom_protocol::fat::{ChunkRef, FileMeta, FinalFat, Manifest, Place, Use};
use fathom_protocol::ids::{ChunkId, NodeId};
use fathom_protocol::sign::Signed;
use fathom_protocol::tags;
use fathom_protocol::wire::{RefusalKind, Request, Response};

use super::{AGAIN, CHUNK_PLAIN, Op, User, next_tag};
use crate::sim::mutation::Mutation;
use crate::sim::node::{Cx, Timer};

const FAT_COPIES: usize = 3;
const AGAIN_MS: u64 = 2_000;
const SUBMIT_MS: u64 = 3_000;

/// A final FAT on its way to mirrors.
#[derive(Debug)]
pub(super) struct HandIn {
    name: &'static str,
    fat: Signed<FinalFat>,
    stored: Option<Vec<(ChunkId, u32, Vec<Place>)>>,
    /// Vendors keep what no final FAT names for a while only: after this it may be gone, and the put has failed.
    until: u64,
    asked: BTreeMap<u64, usize>,
    acked: BTreeSet<usize>,
    rest: Vec<usize>,
}

impl User {
    /// The final FAT of the put that has all its receipts.
    pub(super) fn hand_in_put(&mut self, cx: &mut Cx<'_>) {
        let Some(Op::Put(put)) = self.op.take() else { return };
        let name = put.name;
        let mut places: Vec<Place> = Vec::new();
        let mut bytes: BTreeMap<Place, u64> = BTreeMap::new();
        let (mut chunks, mut stored) = (Vec::new(), Vec::new());
        let mut size = 0;
        for (chunk, plain) in put.chunks.iter().zip(&put.plain) {
            let length = fathom_protocol::seal::sealed_len(plain.len() as u32);
            let (mut copies, mut held) = (Vec::new(), Vec::new());
            for (vendor, lease) in &chunk.to {
                let lease = lease.peek().expect("a verified lease decodes").id;
                let place = Place { vendor: *vendor, lease };
                let at = places.iter().position(|known| *known == place).unwrap_or_else(|| {
                    places.push(place);
                    places.len() - 1
                });
                copies.push(at as u16);
                held.push(place);
                *bytes.entry(place).or_default() += u64::from(length);
            }
            size += plain.len() as u64;
            chunks.push(ChunkRef { id: chunk.id, salt: chunk.salt, copies });
            stored.push((chunk.id, length, held));
        }
        let file = &self.files[name];
        let meta = FileMeta { name: Text::cut(name), size, mode: 0o644, modified: cx.now, chunk_plain: CHUNK_PLAIN };
        let manifest = Manifest::new(meta, file.file_key, places, self.copies, &chunks).expect("a small manifest");
        let body = self.keys.seal_manifest(&manifest, put.file, put.seq, cx.random.bytes()).expect("it seals");
        let uses = put.granted.iter().map(|(place, granted)| {
            let used = bytes.get(place).copied().unwrap_or(0);
            Use { vendor: place.vendor, lease: place.lease, bytes: used, unused: granted.saturating_sub(used) }
        });
        let uses: Vec<Use> = uses.collect();
        let using: BTreeSet<NodeId> = uses.iter().map(|used| used.vendor).collect();
        let frees: Vec<NodeId> = file.holders.difference(&using).copied().collect();
        let fat = self.fat(cx, name, put.seq, uses, frees, body);
        let until = put.received.unwrap_or(cx.at) + cx.known.terms.lock_ms / 2;
        self.hand_in(cx, name, fat, until, Some(stored));
    }

    pub(super) fn remove(&mut self, cx: &mut Cx<'_>, name: &'static str) {
        let file = self.files.get_mut(name).expect("a known name");
        file.seq = next_tag(file.seq, cx.random.bytes());
        let (seq, frees) = (file.seq, file.holders.iter().copied().collect());
        cx.injected.removes += 1;
        let fat = self.fat(cx, name, seq, Vec::new(), frees, Blob::default());
        self.hand_in(cx, name, fat, u64::MAX, None);
    }

    fn fat(
        &self,
        cx: &mut Cx<'_>,
        name: &'static str,
        seq: u64,
        uses: Vec<Use>,
        frees: Vec<NodeId>,
        body: Blob<{ fathom_protocol::limits::FAT_BODY_BYTES_MAX }>,
    ) -> Signed<FinalFat> {
        let life = cx.known.terms.commit_ms + 2 * cx.known.terms.grace_ms;
        let fat = FinalFat {
            version: tags::VERSION,
            owner: self.keys.owner(),
            file: self.files[name].id,
            seq,
            base: seq,
            uses: Bounded::first(uses),
            frees: Bounded::first(frees),
            issued: cx.now,
            order_expires: cx.now.plus_ms(life),
            body,
        };
        let fat = Signed::sign(fat, self.keys.signing()).expect("a final FAT signs");
        cx.oracle.signed_fat(&fat);
        fat
    }

    fn hand_in(
        &mut self,
        cx: &mut Cx<'_>,
        name: &'static str,
        fat: Signed<FinalFat>,
        until: u64,
        stored: Option<Vec<(ChunkId, u32, Vec<Place>)>>,
    ) {
        let hand_in =
            HandIn { name, fat, stored, until, asked: BTreeMap::new(), acked: BTreeSet::new(), rest: Vec::new() };
        self.op = Some(Op::HandIn(Box::new(hand_in)));
        self.hand_in_again(cx);
    }

    /// Asks mirrors that did not acknowledge.
    pub(super) fn hand_in_again(&mut self, cx: &mut Cx<'_>) {
        let Some(Op::HandIn(work)) = &mut self.op else { return };
        if !work.asked.is_empty() {
            return;
        }
        if cx.at > work.until {
            return self.give_up(cx, RefusalKind::Silent);
        }
        work.rest = cx.known.mirrors.iter().copied().filter(|mirror| !work.acked.contains(mirror)).collect();
        cx.random.shuffle(&mut work.rest);
        let target = cx.known.mirrors.len().min(FAT_COPIES);
        for _ in work.acked.len()..target {
            work.ask_next(cx);
        }
    }

    pub(super) fn handed_in(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, response: Response) {
        let Some(Op::HandIn(work)) = &mut self.op else { return };
        if work.asked.remove(&call).is_none() {
            return;
        }
        match response {
            Response::Submitted(results) => match results.into_iter().flatten().next() {
                None => {
                    work.acked.insert(from);
                }
                Some(refusal) => return self.give_up(cx, refusal.kind),
            },
            Response::Refused(refusal) if refusal.kind != RefusalKind::Silent => {
                return self.give_up(cx, refusal.kind);
            }
            _ => work.ask_next(cx),
        }
        let target = cx.known.mirrors.len().min(FAT_COPIES);
        let needed = if cx.known.broken(Mutation::OneAcknowledgement) { 1 } else { target / 2 + 1 };
        let early = cx.known.broken(Mutation::OneAcknowledgement);
        let enough = work.acked.len() >= needed;
        if cx.at > work.until && (enough || work.asked.is_empty()) {
            return self.give_up(cx, RefusalKind::Silent);
        }
        if work.acked.len() >= target || enough && (early || work.asked.is_empty()) {
            self.stored(cx);
        } else if work.asked.is_empty() {
            cx.wait(AGAIN_MS, Timer::Every(AGAIN));
        }
    }

    /// The user is told that it is done.
    fn stored(&mut self, cx: &mut Cx<'_>) {
        let Some(Op::HandIn(work)) = self.op.take() else { return };
        let file = self.files.get_mut(work.name).expect("a known name");
        let (mirrors, byzantine) = (cx.known.mirrors.len(), &cx.known.byzantine);
        cx.oracle.acknowledged(mirrors, byzantine, &work.fat, work.stored.clone(), &work.acked);
        if work.stored.is_some() {
            file.file_key = cx.random.bytes();
        }
        file.holders = work.fat.uses.iter().map(|used| used.vendor).collect();
        file.stored = work.stored;
    }
}

impl HandIn {
    fn ask_next(&mut self, cx: &mut Cx<'_>) {
        if let Some(mirror) = self.rest.pop() {
            let request = Request::SubmitFats(Bounded::first([self.fat.carried().clone()]));
            let call = cx.ask_within(mirror, &request, SUBMIT_MS);
            self.asked.insert(call, mirror);
        }
    }
}
