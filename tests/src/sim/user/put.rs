//! Storing a file: begin it or go on with it, lock storage, seal, send, receipts.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::catalogue::StoredFile;
use fathom_protocol::codec;
use fathom_protocol::fat::{Follows, Place, Tag};
use fathom_protocol::head::Addresses;
use fathom_protocol::header::{Header, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, FileId, Hash, NodeId, OwnerId};
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::ANSWER_BYTES_MAX;
use fathom_protocol::seal::{chunk_salt, seal_chunk, sealed_len};
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::tags;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{ChunkAnswer, Location, RefusalKind};

use super::claim::Claim;
use super::journal::{ChunkRecord, CopyRecord, FileRecord, PutRecord};
use super::stock::Drawn;
use super::stored::seen;
use super::{CHUNK_PLAIN, FLUSH, Op, REQUEST_SECONDS, Source, User, next_tag};
use crate::sim::node::{Body, Cx, Timer};

/// How often in a row a chunk is sent and brings nothing.
const TRIES_MAX: u8 = 4;
/// How often other vendors are looked for.
const CLAIMS_MAX: u8 = 6;
/// How often copies that grew old are sent again.
const RENEWALS: u8 = 3;
const CHAIN_MS: u64 = 6_000;

/// One locked location.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) column: u8,
    pub(super) place: Place,
    pub(super) lease: Carried<Lease>,
    /// Bytes that were locked for this put and are not spoken for.
    pub(super) room: u64,
    /// Room that we counted on and the vendor denied.
    denied: u64,
}

/// The slot of a location, if its records fit.
pub(super) fn slot_of(cx: &Cx<'_>, location: &Location, owner: OwnerId) -> Option<Slot> {
    let lease = location.lease.clone().verify().ok()?;
    let authorised = lease.owner == owner && lease.authority == SignerId::from(owner);
    if !authorised || location.granted > lease.room() || !cx.known.index.contains_key(&lease.vendor) {
        return None;
    }
    let place = Place { vendor: lease.vendor, lease: lease.id };
    let (column, room) = (location.column, location.granted);
    Some(Slot { column, place, lease: location.lease.clone(), room, denied: 0 })
}

/// One chunk on its way.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) record: ChunkRecord,
    sealed: Vec<u8>,
    /// The call under way; 0 if there is none.
    call: u64,
    /// Of the slots that it goes to: those that have not answered.
    waiting: Vec<usize>,
    tries: u8,
}

/// A put under way.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) name: &'static str,
    pub(super) file: FileId,
    pub(super) record: FileRecord,
    pub(super) plain: Vec<Vec<u8>>,
    pub(super) locations: PutRecord,
    pub(super) old_holders: BTreeSet<NodeId>,
    /// The versions that it takes the place of.
    pub(super) seen: Vec<(Tag, Hash)>,
    pub(super) follows: Follows,
    pub(super) chunks: Vec<Sending>,
    pub(super) failed: BTreeSet<NodeId>,
    pub(super) claim: Option<Claim>,
    /// What it drew from the storage that is locked ahead.
    pub(super) drawn: Drawn,
    slots: Vec<Slot>,
    /// Vendors that said that a lease has expired, and when: what they took before may be gone.
    lapsed: BTreeMap<NodeId, UnixMs>,
    claims: u8,
    renewals: u8,
}

impl Put {
    pub(super) fn awaits_storage(&self, call: u64) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.call == call)
    }

    /// Takes a location, if its records fit. A lease that is known grew: its room adds up.
    pub(super) fn add_location(&mut self, cx: &Cx<'_>, location: &Location, owner: OwnerId) -> bool {
        let Some(new) = slot_of(cx, location, owner) else { return false };
        match self.slots.iter_mut().find(|slot| slot.place == new.place && slot.column == location.column) {
            Some(slot) => {
                slot.room += new.room;
                slot.lease = new.lease;
            }
            None => self.slots.push(new),
        }
        true
    }

    /// The room left in one location, which has none afterwards.
    pub(super) fn take_room(&mut self, place: Place, column: u8) -> u64 {
        let slot = self.slots.iter_mut().find(|slot| (slot.place, slot.column) == (place, column));
        slot.map_or(0, |slot| std::mem::take(&mut slot.room))
    }

    /// Columns of a chunk without a copy at a vendor that still works.
    fn missing(&self, at: usize, copies: u8) -> Vec<u8> {
        let has = |column| {
            let mut copies = self.chunks[at].record.copies.iter();
            copies.any(|copy| copy.column == column && !self.failed.contains(&copy.place.vendor))
        };
        (0..copies).filter(|column| !has(*column)).collect()
    }

    /// A slot for each missing column; the column that has none otherwise, and whom its vendor must not be.
    fn choose(&self, at: usize, missing: &[u8]) -> Result<Vec<usize>, (u8, BTreeSet<NodeId>)> {
        let length = self.chunks[at].sealed.len() as u64;
        let mut avoid: BTreeSet<NodeId> = self.chunks[at].record.copies.iter().map(|copy| copy.place.vendor).collect();
        avoid.extend(&self.failed);
        let mut chosen = Vec::new();
        for column in missing {
            let fits =
                |slot: &Slot| slot.column == *column && slot.room >= length && !avoid.contains(&slot.place.vendor);
            let Some(slot) = self.slots.iter().position(fits) else {
                let others = self.slots.iter().filter(|slot| slot.column != *column).map(|slot| slot.place.vendor);
                avoid.extend(others);
                return Err((*column, avoid));
            };
            avoid.insert(self.slots[slot].place.vendor);
            chosen.push(slot);
        }
        Ok(chosen)
    }

    fn exhaust(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        slot.denied += std::mem::take(&mut slot.room);
    }

    /// The locations with room left over, and how much. Afterwards there is none.
    pub(super) fn take_unused(&mut self) -> BTreeMap<Place, u64> {
        let mut unused = BTreeMap::new();
        for slot in &mut self.slots {
            let room = std::mem::take(&mut slot.room) + std::mem::take(&mut slot.denied);
            if room > 0 {
                *unused.entry(slot.place).or_default() += room;
            }
        }
        unused
    }

    /// Forgets copies that their vendors may have let go: no final FAT names them yet. Returns whether there were any.
    fn drop_old(&mut self, now: UnixMs, trusted_ms: u64) -> bool {
        let mut dropped = false;
        for chunk in &mut self.chunks {
            let before = chunk.record.copies.len();
            chunk.record.copies.retain(|copy| {
                now.since_ms(copy.acked) <= trusted_ms
                    && self.lapsed.get(&copy.place.vendor).is_none_or(|lapsed| *lapsed < copy.acked)
            });
            dropped |= chunk.record.copies.len() < before;
        }
        dropped
    }
}

impl User {
    /// What is to be stored under a name now. While a put of it was interrupted, it mostly is what it was; it may also have changed
    /// without looking as if it had.
    fn source(&mut self, cx: &mut Cx<'_>, name: &'static str, noted: bool) -> Source {
        if let Some(source) = self.sources.get_mut(name).filter(|_| noted && cx.random.chance(800)) {
            if cx.random.chance(100) {
                let at = cx.random.index(source.plain.len());
                source.plain[at] = cx.random.vec(source.plain[at].len());
                cx.injected.changed_sources += 1;
            }
            return source.clone();
        }
        let chunks = cx.random.within(1, 3);
        let mut plain = Vec::new();
        for at in 0..chunks {
            let last = at + 1 == chunks;
            let length = if last { cx.random.within(1, u64::from(CHUNK_PLAIN)) } else { u64::from(CHUNK_PLAIN) };
            plain.push(cx.random.vec(length as usize));
        }
        let size = plain.iter().map(|plain| plain.len() as u64).sum();
        let source = Source { identity: (size, i128::from(cx.random.next()), 1), plain };
        self.sources.insert(name, source.clone());
        source
    }

    /// Begins a put, or goes on with one, as the journal and the mirrors know it.
    pub(super) fn put(&mut self, cx: &mut Cx<'_>, name: &'static str, stored: Option<&StoredFile>) {
        let file = self.keys.file_id(name);
        let noted = self.journal.file(file).ok().flatten();
        let source = self.source(cx, name, noted.is_some());
        let next = next_tag(stored.map_or(0, StoredFile::counter), cx);
        let goes_on =
            |record: &FileRecord| record.source == source.identity && Tag(record.seq).counter() == next.counter();
        let (record, fresh) = match noted.filter(goes_on) {
            Some(record) => (record, false),
            None => {
                let file_key = cx.random.bytes();
                let put = name.to_owned();
                (FileRecord { put, source: source.identity, chunk_plain: CHUNK_PLAIN, file_key, seq: next.0 }, true)
            }
        };
        let locations = self.journal.put(name).ok().flatten().unwrap_or_default();
        let known = if fresh { Vec::new() } else { self.journal.chunks(file).unwrap_or_default() };
        if self.journal.begin(name, &locations, fresh.then_some((file, &record))).is_err() {
            return;
        }
        cx.injected.puts += 1;
        cx.injected.resumes += u64::from(!fresh);
        let mut put = Put {
            name,
            file,
            plain: source.plain,
            old_holders: stored.map(StoredFile::holders).unwrap_or_default().into_iter().collect(),
            seen: stored.map(seen).unwrap_or_default(),
            follows: stored.map(|stored| stored.follows(None)).unwrap_or_default(),
            chunks: Vec::new(),
            failed: BTreeSet::new(),
            claim: None,
            drawn: Drawn::default(),
            slots: Vec::new(),
            lapsed: BTreeMap::new(),
            claims: 0,
            renewals: 0,
            locations,
            record,
        };
        if !self.open_put(cx, &mut put, known) {
            // A person is told that the file changed, and stores it as it is from then on.
            self.sources.remove(name);
            return self.give_up(cx, RefusalKind::Conflict);
        }
        self.op = Some(Op::Put(Box::new(put)));
        self.lock_storage(cx);
    }

    /// Seals the chunks and takes what an earlier run locked, less what it filled. False if a chunk that was sealed before comes out
    /// otherwise: its source changed.
    fn open_put(&self, cx: &mut Cx<'_>, put: &mut Put, known: Vec<(u64, ChunkRecord)>) -> bool {
        for location in put.locations.locations.clone() {
            put.add_location(cx, &location, self.keys.owner());
        }
        let mut known: BTreeMap<u64, ChunkRecord> = known.into_iter().collect();
        let trusted = cx.known.terms.lock_ms / 2;
        let file_key = put.record.file_key;
        for (at, plain) in put.plain.iter().enumerate() {
            let salt = chunk_salt(&file_key, at as u64, plain);
            cx.oracle.sealed(file_key, at as u64, salt, plain);
            let sealed = seal_chunk(&file_key, at as u64, salt, plain).expect("a short chunk seals");
            let id = ChunkId::of(&sealed);
            let before = known.remove(&(at as u64));
            if before.as_ref().is_some_and(|record| record.id != id) {
                return false;
            }
            let mut copies = before.map(|record| record.copies).unwrap_or_default();
            copies.retain(|copy| copy.column < self.copies && cx.now.since_ms(copy.acked) <= trusted);
            for copy in &copies {
                let slot = put.slots.iter_mut().find(|slot| slot.place == copy.place && slot.column == copy.column);
                slot.into_iter().for_each(|slot| slot.room = slot.room.saturating_sub(sealed.len() as u64));
            }
            let record = ChunkRecord { id, salt, copies };
            put.chunks.push(Sending { record, sealed, call: 0, waiting: Vec::new(), tries: 0 });
        }
        true
    }

    /// Chunks of the put without all their copies.
    fn unsent(&self) -> u64 {
        let Some(Op::Put(put)) = &self.op else { return 0 };
        (0..put.chunks.len()).filter(|at| !put.missing(*at, self.copies).is_empty()).count() as u64
    }

    /// Locks what is still needed, or takes it from what is locked ahead.
    fn lock_storage(&mut self, cx: &mut Cx<'_>) {
        let unsent = self.unsent();
        let Some(Op::Put(put)) = &self.op else { return };
        let needed = unsent * u64::from(sealed_len(CHUNK_PLAIN));
        let room =
            |column| -> u64 { put.slots.iter().filter(|slot| slot.column == column).map(|slot| slot.room).sum() };
        if needed == 0 || (0..self.copies).all(|column| room(column) >= needed) {
            return self.advance(cx);
        }
        let follows = cx.known.bursts && self.stock.begins(cx.at);
        if cx.known.bursts && self.draw(cx, needed) {
            return;
        }
        if follows && self.stock.may_ask(cx.at) { self.fill_stock(cx) } else { self.lock_own(cx) }
    }

    /// Locks storage for this put alone.
    pub(super) fn lock_own(&mut self, cx: &mut Cx<'_>) {
        let unsent = self.unsent();
        self.claim(cx, (self.copies, unsent), Vec::new(), None);
    }

    /// Draws on the room ahead that just came.
    pub(super) fn draw_first(&mut self, cx: &mut Cx<'_>) -> bool {
        let needed = self.unsent() * u64::from(sealed_len(CHUNK_PLAIN));
        self.draw(cx, needed)
    }

    /// Sends what has no receipt and is not on its way; hands in once everything is stored.
    pub(super) fn advance(&mut self, cx: &mut Cx<'_>) {
        let mut at = 0;
        loop {
            let Some(Op::Put(put)) = &self.op else { return };
            if put.claim.is_some() {
                return;
            }
            if at == put.chunks.len() {
                break;
            }
            let missing = put.missing(at, self.copies);
            if put.chunks[at].call == 0 && !missing.is_empty() {
                if put.chunks[at].tries >= TRIES_MAX {
                    return self.give_up(cx, RefusalKind::Silent);
                }
                match put.choose(at, &missing) {
                    Ok(chain) => self.send_chunk(cx, at, chain),
                    Err((column, avoid)) => return self.replenish(cx, column, avoid),
                }
            }
            at += 1;
        }
        let Some(Op::Put(put)) = &mut self.op else { return };
        if put.chunks.iter().any(|chunk| chunk.call != 0) {
            return;
        }
        if !put.drop_old(cx.now, cx.known.terms.lock_ms / 2) {
            return self.hand_in_put(cx);
        }
        put.renewals += 1;
        if put.renewals > RENEWALS {
            return self.give_up(cx, RefusalKind::LeaseExpired);
        }
        self.advance(cx);
    }

    /// Locks room for a column whose vendors failed or are full.
    fn replenish(&mut self, cx: &mut Cx<'_>, column: u8, exclude: BTreeSet<NodeId>) {
        let Some(Op::Put(put)) = &mut self.op else { return };
        put.claims += 1;
        if put.claims > CLAIMS_MAX {
            return self.give_up(cx, RefusalKind::NoSpace);
        }
        self.claim(cx, (1, 1), exclude.into_iter().collect(), Some(column));
    }

    fn send_chunk(&mut self, cx: &mut Cx<'_>, at: usize, chain: Vec<usize>) {
        let owner = self.keys.owner();
        let Some(Op::Put(put)) = &mut self.op else { return };
        let (file, seq) = (put.file, put.record.seq);
        let chunk = &mut put.chunks[at];
        let mut hops = Vec::new();
        for (position, slot) in chain.iter().enumerate() {
            put.slots[*slot].room -= chunk.sealed.len() as u64;
            let hop = Hop {
                version: tags::VERSION,
                owner,
                authority: owner.into(),
                file,
                seq,
                chunk: chunk.record.id,
                length: chunk.sealed.len() as u32,
                expires: cx.now.plus_seconds(REQUEST_SECONDS),
                position: position as u8,
                vendor: put.slots[*slot].place.vendor,
                addresses: Addresses::default(),
                lease: put.slots[*slot].lease.clone(),
                split: SplitPolicy { part_bytes_max: 1 << 20, parts_min: 1 },
                next: chain.get(position + 1).map(|slot| put.slots[*slot].place.vendor),
            };
            hops.push(Signed::sign(hop, self.keys.signing()).expect("a hop signs"));
        }
        let first = cx.known.index[&put.slots[chain[0]].place.vendor];
        let header = codec::encode(&Header::new(hops).expect("few hops"));
        chunk.tries += 1;
        chunk.waiting = chain;
        chunk.call = cx.number(CHAIN_MS);
        cx.send(first, Body::Chunk { call: chunk.call, header, bytes: chunk.sealed.clone() });
    }

    pub(super) fn chunk_answer(&mut self, cx: &mut Cx<'_>, call: u64, bytes: &[u8]) {
        let owner = self.keys.owner();
        let Some(Op::Put(put)) = &mut self.op else { return };
        let (file, seq) = (put.file, put.record.seq);
        let Some(at) = put.chunks.iter().position(|chunk| chunk.call == call) else { return };
        let Ok(answer) = codec::decode::<ChunkAnswer>(bytes, ANSWER_BYTES_MAX) else { return };
        let verified = match answer {
            ChunkAnswer::Receipt(receipt) => match receipt.verify() {
                Ok(receipt) => Ok(receipt),
                Err(_) => return,
            },
            ChunkAnswer::Failed { vendor, refusal } => Err((vendor, refusal.kind)),
            ChunkAnswer::Alive | ChunkAnswer::Done => return,
        };
        let vendor = verified.as_ref().map_or_else(|(vendor, _)| *vendor, |receipt| receipt.vendor);
        let slots = &put.slots;
        let chunk = &mut put.chunks[at];
        let Some(place) = chunk.waiting.iter().position(|slot| slots[*slot].place.vendor == vendor) else { return };
        let slot = chunk.waiting[place];
        let length = chunk.sealed.len() as u64;
        match verified {
            Ok(receipt) => {
                if (receipt.owner, receipt.file, receipt.seq, receipt.chunk) != (owner, file, seq, chunk.record.id) {
                    return;
                }
                chunk.waiting.remove(place);
                chunk.tries = 0;
                // A vendor that had the chunk already may have it under another lease; then this room is still free.
                if receipt.lease != put.slots[slot].place.lease {
                    put.slots[slot].room += length;
                }
                let column = put.slots[slot].column;
                chunk.record.copies.retain(|copy| copy.column != column);
                let place = Place { vendor, lease: receipt.lease };
                chunk.record.copies.push(CopyRecord { column, place, acked: cx.now });
                let record = chunk.record.clone();
                if self.journal.chunk(file, at as u64, record) {
                    let soon = cx.random.within(1, 60);
                    cx.wait(soon, Timer::Every(FLUSH));
                }
            }
            Err((_, kind)) => {
                chunk.waiting.remove(place);
                put.slots[slot].room += length;
                if !matches!(kind, RefusalKind::Busy | RefusalKind::WrongHash | RefusalKind::WrongLength) {
                    self.stock.forget(vendor);
                }
                match kind {
                    RefusalKind::OverLease | RefusalKind::NoSpace => put.exhaust(slot),
                    RefusalKind::LeaseExpired | RefusalKind::UnknownLease => {
                        put.lapsed.insert(vendor, cx.now);
                        put.exhaust(slot);
                    }
                    RefusalKind::Busy | RefusalKind::WrongHash | RefusalKind::WrongLength => {}
                    _ => drop(put.failed.insert(vendor)),
                }
            }
        }
        if put.chunks[at].waiting.is_empty() {
            put.chunks[at].call = 0;
            self.advance(cx);
        }
    }

    /// A chunk had its time: what has no receipt is sent again.
    pub(super) fn chunk_ended(&mut self, cx: &mut Cx<'_>, call: u64) {
        let Some(Op::Put(put)) = &mut self.op else { return };
        let Some(at) = put.chunks.iter().position(|chunk| chunk.call == call) else { return };
        let chunk = &mut put.chunks[at];
        chunk.call = 0;
        for slot in std::mem::take(&mut chunk.waiting) {
            put.slots[slot].room += chunk.sealed.len() as u64;
        }
        self.advance(cx);
    }
}
