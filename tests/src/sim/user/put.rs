//! Storing a file: allocate, seal, send, receipts.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::fat::Place;
use fathom_protocol::head::Addresses;
use fathom_protocol::header::{Header, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, FileId, Hash, NodeId};
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::ANSWER_BYTES_MAX;
use fathom_protocol::seal::{chunk_salt, seal_chunk, sealed_len};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::tags;
use fathom_protocol::wire::{
    AllocateRequest, Cancel, ChunkAnswer, ProvisionalFat, RefusalKind, Request, Response, Wants,
};

use super::{CHUNK_PLAIN, Op, REQUEST_SECONDS, User, next_tag};
use crate::sim::node::{Body, Cx};

/// How often a chunk without all its receipts is sent again.
const TRIES_MAX: u8 = 4;
const CHAIN_MS: u64 = 6_000;
const ALLOCATE_MS: u64 = 4_000;

/// One chunk on its way.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) id: ChunkId,
    pub(super) salt: [u8; 8],
    sealed: Vec<u8>,
    /// The vendors of this chunk and their leases.
    pub(super) to: Vec<(NodeId, Carried<Lease>)>,
    receipts: BTreeSet<NodeId>,
    call: u64,
    tries: u8,
}

/// A put under way.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) name: &'static str,
    pub(super) file: FileId,
    pub(super) seq: u64,
    pub(super) plain: Vec<Vec<u8>>,
    request: Carried<AllocateRequest>,
    nonce: Hash,
    mirrors: Vec<usize>,
    asking: usize,
    /// Vendors that may hold room for the request, and the mirror that asked them.
    held: Vec<(usize, NodeId)>,
    allocating: u64,
    pub(super) chunks: Vec<Sending>,
    /// When the first receipt came.
    pub(super) received: Option<u64>,
    /// Bytes granted for this put, by lease.
    pub(super) granted: BTreeMap<Place, u64>,
}

/// Whether another mirror may do better after this refusal.
fn elsewhere(kind: RefusalKind) -> bool {
    matches!(
        kind,
        RefusalKind::Silent
            | RefusalKind::Unreachable
            | RefusalKind::WrongRole
            | RefusalKind::Internal
            | RefusalKind::Busy
            | RefusalKind::NoSpace
            | RefusalKind::TooFewVendors
    )
}

impl Put {
    pub(super) fn awaits(&self, call: u64) -> bool {
        self.allocating == call
    }
}

impl User {
    pub(super) fn put(&mut self, cx: &mut Cx<'_>, name: &'static str) {
        let chunks = cx.random.within(1, 3);
        let plain: Vec<Vec<u8>> = (0..chunks)
            .map(|at| {
                let last = at + 1 == chunks;
                let length = if last { cx.random.within(1, u64::from(CHUNK_PLAIN)) } else { u64::from(CHUNK_PLAIN) };
                cx.random.vec(length as usize)
            })
            .collect();
        let unit = sealed_len(CHUNK_PLAIN);
        let nonce = Hash(cx.random.bytes());
        let request = AllocateRequest {
            version: tags::VERSION,
            owner: self.keys.owner(),
            authority: self.keys.owner().into(),
            file: None,
            copies: self.copies,
            width: 1,
            bytes: chunks * u64::from(unit),
            unit,
            exclude: Bounded::default(),
            avoid_zones: Bounded::default(),
            wants: Wants::default(),
            nonce,
            expires: cx.now.plus_seconds(REQUEST_SECONDS),
        };
        let request = Signed::sign(request, self.keys.signing()).expect("a request signs").into_carried();
        let mut mirrors = cx.known.mirrors.clone();
        cx.random.shuffle(&mut mirrors);
        let file = self.files.get_mut(name).expect("a known name");
        file.seq = next_tag(file.seq, cx.random.bytes());
        cx.injected.puts += 1;
        let (id, seq) = (file.id, file.seq);
        self.op = Some(Op::Put(Box::new(Put {
            name,
            file: id,
            seq,
            plain,
            request,
            nonce,
            mirrors,
            asking: 0,
            held: Vec::new(),
            allocating: 0,
            chunks: Vec::new(),
            received: None,
            granted: BTreeMap::new(),
        })));
        self.ask_for_storage(cx, RefusalKind::Silent);
    }

    fn ask_for_storage(&mut self, cx: &mut Cx<'_>, last: RefusalKind) {
        let Some(Op::Put(put)) = &mut self.op else { return };
        let Some(mirror) = put.mirrors.pop().filter(|_| elsewhere(last)) else {
            self.withdraw(cx);
            return self.give_up(cx, last);
        };
        put.asking = mirror;
        put.allocating = cx.ask_within(mirror, &Request::Allocate(put.request.clone()), ALLOCATE_MS);
    }

    pub(super) fn allocated(&mut self, cx: &mut Cx<'_>, response: Response) {
        match response {
            Response::Provisional(fat) => {
                if let Some(Op::Put(put)) = &mut self.op {
                    // The same request asked at several mirrors locks a vendor's room once.
                    let heads = fat.locations.iter().filter_map(|location| Some(location.head.peek().ok()?.vendor));
                    let used: BTreeSet<NodeId> = heads.collect();
                    put.held.retain(|(_, vendor)| !used.contains(vendor));
                }
                self.withdraw(cx);
                self.send_chunks(cx, fat);
            }
            Response::Short { refusal, asked } => {
                if let Some(Op::Put(put)) = &mut self.op {
                    put.held.extend(asked.iter().map(|vendor| (put.asking, *vendor)));
                }
                self.ask_for_storage(cx, refusal.kind);
            }
            Response::Refused(refusal) => self.ask_for_storage(cx, refusal.kind),
            _ => self.give_up(cx, RefusalKind::BadRequest),
        }
    }

    /// Tells vendors, through the mirrors that asked them, that what they hold for the request is free. One that does not hear it
    /// holds it until it lapses.
    fn withdraw(&mut self, cx: &mut Cx<'_>) {
        let authority = self.keys.owner().into();
        let Some(Op::Put(put)) = &mut self.op else { return };
        for (mirror, vendor) in std::mem::take(&mut put.held) {
            let cancel = Cancel { version: tags::VERSION, authority, vendor, request: put.nonce };
            let cancel = Signed::sign(cancel, self.keys.signing()).expect("a withdrawal signs");
            cx.injected.cancels += 1;
            cx.tell(mirror, &Request::Cancel(cancel.into_carried()));
        }
    }

    fn send_chunks(&mut self, cx: &mut Cx<'_>, provisional: ProvisionalFat) {
        let owner = self.keys.owner();
        let Some(Op::Put(put)) = &mut self.op else { return };
        put.allocating = 0;
        let mut columns: BTreeMap<u8, Vec<(NodeId, Carried<Lease>, u64)>> = BTreeMap::new();
        for location in provisional.locations {
            // A mirror's word is checked: each lease must be its vendor's.
            let Ok(lease) = location.lease.clone().verify() else { return self.give_up(cx, RefusalKind::BadRequest) };
            if lease.owner != owner || !cx.known.index.contains_key(&lease.vendor) {
                return self.give_up(cx, RefusalKind::BadRequest);
            }
            put.granted.insert(Place { vendor: lease.vendor, lease: lease.id }, location.granted);
            let units = location.granted / u64::from(sealed_len(CHUNK_PLAIN));
            columns.entry(location.column).or_default().push((lease.vendor, location.lease, units));
        }
        let file_key = self.files[put.name].file_key;
        for (at, plain) in put.plain.iter().enumerate() {
            let mut to = Vec::new();
            for vendors in columns.values_mut() {
                let Some((vendor, lease, units)) = vendors.iter_mut().find(|(_, _, units)| *units > 0) else {
                    continue;
                };
                *units -= 1;
                to.push((*vendor, lease.clone()));
            }
            let salt = chunk_salt(&file_key, at as u64, plain);
            cx.oracle.sealed(file_key, at as u64, salt, plain);
            let sealed = seal_chunk(&file_key, at as u64, salt, plain).expect("a short chunk seals");
            let id = ChunkId::of(&sealed);
            put.chunks.push(Sending { id, salt, sealed, to, receipts: BTreeSet::new(), call: 0, tries: 0 });
        }
        let (holders, complete) = {
            let vendors: BTreeSet<NodeId> =
                put.chunks.iter().flat_map(|chunk| chunk.to.iter().map(|(vendor, _)| *vendor)).collect();
            (vendors, put.chunks.iter().all(|chunk| chunk.to.len() == usize::from(self.copies)))
        };
        let name = put.name;
        self.files.get_mut(name).expect("a known name").holders.extend(holders);
        if !complete {
            return self.give_up(cx, RefusalKind::NoSpace);
        }
        for at in 0..self.chunk_count() {
            self.send_chunk(cx, at);
        }
    }

    fn chunk_count(&self) -> usize {
        if let Some(Op::Put(put)) = &self.op { put.chunks.len() } else { 0 }
    }

    fn send_chunk(&mut self, cx: &mut Cx<'_>, at: usize) {
        let owner = self.keys.owner();
        let signing = self.keys.signing().clone();
        let Some(Op::Put(put)) = &mut self.op else { return };
        let (file, seq) = (put.file, put.seq);
        let chunk = &mut put.chunks[at];
        let to: Vec<&(NodeId, Carried<Lease>)> =
            chunk.to.iter().filter(|(vendor, _)| !chunk.receipts.contains(vendor)).collect();
        let mut hops = Vec::new();
        for (position, (vendor, lease)) in to.iter().enumerate() {
            let hop = Hop {
                version: tags::VERSION,
                owner,
                authority: owner.into(),
                file,
                seq,
                chunk: chunk.id,
                length: chunk.sealed.len() as u32,
                expires: cx.now.plus_seconds(REQUEST_SECONDS),
                position: position as u8,
                vendor: *vendor,
                addresses: Addresses::default(),
                lease: lease.clone(),
                split: SplitPolicy { part_bytes_max: 1 << 20, parts_min: 1 },
                next: to.get(position + 1).map(|(vendor, _)| *vendor),
            };
            hops.push(Signed::sign(hop, &signing).expect("a hop signs"));
        }
        let first = cx.known.index[&to[0].0];
        let header = codec::encode(&Header::new(hops).expect("few hops"));
        chunk.tries += 1;
        chunk.call = cx.number(CHAIN_MS);
        let body = Body::Chunk { call: chunk.call, header, bytes: chunk.sealed.clone() };
        cx.send(first, body);
    }

    pub(super) fn chunk_answer(&mut self, cx: &mut Cx<'_>, call: u64, bytes: &[u8]) {
        let owner = self.keys.owner();
        let Some(Op::Put(put)) = &mut self.op else { return };
        let (file, seq) = (put.file, put.seq);
        let Some(chunk) = put.chunks.iter_mut().find(|chunk| chunk.call == call) else { return };
        let Ok(ChunkAnswer::Receipt(receipt)) = codec::decode::<ChunkAnswer>(bytes, ANSWER_BYTES_MAX) else { return };
        let Ok(receipt) = receipt.verify() else { return };
        let mine = (receipt.owner, receipt.file, receipt.seq, receipt.chunk) == (owner, file, seq, chunk.id);
        if mine && chunk.to.iter().any(|(vendor, _)| *vendor == receipt.vendor) {
            chunk.receipts.insert(receipt.vendor);
            put.received.get_or_insert(cx.at);
        }
        if put.chunks.iter().all(|chunk| chunk.receipts.len() == chunk.to.len()) {
            self.hand_in_put(cx);
        }
    }

    /// A chunk had its time: what has no receipt is sent again.
    pub(super) fn chunk_ended(&mut self, cx: &mut Cx<'_>, call: u64) {
        let Some(Op::Put(put)) = &mut self.op else { return };
        let Some(at) = put.chunks.iter().position(|chunk| chunk.call == call) else { return };
        let chunk = &put.chunks[at];
        if chunk.receipts.len() == chunk.to.len() {
            return;
        }
        if chunk.tries >= TRIES_MAX {
            return self.give_up(cx, RefusalKind::Silent);
        }
        self.send_chunk(cx, at);
    }
}
