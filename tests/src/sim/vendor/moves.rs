//! Away with data when there is too much, as the vendor's role does it around the decisions of [`rehome`]: each step is durable
//! before the next, and a crash after any of them is gone on from.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::codec;
use fathom_protocol::header::Header;
use fathom_protocol::ids::{ChunkId, Hash, NodeId};
use fathom_protocol::limits::{ANSWER_BYTES_MAX, MIRRORS_TOLD_MAX};
use fathom_protocol::moves::{CarriedMove, MOVE_BYTES_MAX, Move};
use fathom_protocol::rehome::{
    self, Batch, Batches, Custody, DESTINATIONS_TRIED, HeldChunk, Load, Open, Pause, Relief, Room, may_leave,
};
use fathom_protocol::sign::Signed;
use fathom_protocol::tags;
use fathom_protocol::wire::{Cancel, ChunkAnswer, Location, Refusal, RefusalKind, Request, Response};
use fathom_store::{ChunkEntry, ChunkKey, ChunkState, FatError, LocalFat};

use super::{MOVE, Vendor, refusal};
use crate::sim::node::{Body, Cx, Timer};

/// How often it is looked whether anything must be moved or erased.
const LOOK_MS: u64 = 1_000;
/// How often moves that are open are gone on with.
pub(super) const AGAIN_MS: u64 = 5_000;
const ALLOCATE_MS: u64 = 4_000;
const SEND_MS: u64 = 6_000;
pub(super) const VENDOR_MS: u64 = 2_500;
pub(super) const MIRROR_MS: u64 = 2_000;
const GOOD_MS: u64 = 60_000;

/// What somebody was asked or sent.
#[derive(Debug)]
pub(super) enum Asked {
    Room,
    /// A chunk that goes to one of the rooms.
    Chunk(HeldChunk, usize),
    /// The destination's signature under a proposal that is on disk, of the round or of an earlier one.
    Cosign(ChunkKey, Box<Move>, Of),
    /// A mirror, about a move.
    Submit(ChunkKey),
}

/// Why a move is signed or handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// It is of the round.
    Round,
    /// It was open.
    Open,
    /// It brought a chunk here.
    Arrival,
}

/// A move that mirrors were shown.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) moved: CarriedMove,
    pub(super) waiting: usize,
    pub(super) answers: Vec<Result<(), Refusal>>,
    pub(super) of: Of,
}

/// What goes away together, batch by batch.
#[derive(Debug)]
struct Round {
    rest: Vec<Batch>,
    batch: Batch,
    nonce: Hash,
    /// Mirrors that can still be asked for room, and the one that is.
    mirrors: Vec<usize>,
    asking: usize,
    /// Vendors that may hold room in vain, and the mirror that asked them.
    held: Vec<(usize, NodeId)>,
    tried: usize,
    rooms: Vec<Room>,
    /// Bytes of each room that are used.
    taken: Vec<u64>,
    /// Chunks of the batch that are under way.
    pending: usize,
    moved: usize,
}

/// What a vendor has in memory of what it moves.
#[derive(Debug, Default)]
pub(super) struct Moving {
    relief: Relief,
    /// There may be moves that no mirror has taken yet.
    pub(super) open: bool,
    held_at: BTreeMap<ChunkKey, BTreeSet<NodeId>>,
    /// Chunks that leave: since when, by a clock that nobody sets, and their lengths.
    pub(super) leaving: BTreeMap<ChunkKey, (u64, u32)>,
    pause: Pause,
    next_round: u64,
    next_look: u64,
    /// Moves that both sides signed wait for mirrors: nothing else is moved.
    pub(super) held_up: bool,
    /// Chunks that were moved here, since it was last asked whether a mirror has the move.
    pub(super) unconfirmed: BTreeMap<ChunkKey, u64>,
    round: Option<Round>,
    pub(super) submissions: BTreeMap<ChunkKey, Submission>,
    pub(super) asked: BTreeMap<u64, Asked>,
}

pub(super) fn held(entry: &ChunkEntry) -> HeldChunk {
    let ChunkEntry { owner, file, seq, chunk, length, lease, .. } = *entry;
    HeldChunk { owner, file, seq, chunk, length, lease }
}

pub(super) fn key_of(chunk: &HeldChunk) -> ChunkKey {
    ChunkKey { owner: chunk.owner, chunk: chunk.chunk }
}

pub(super) fn custody(entry: &ChunkEntry) -> Custody {
    match entry.state {
        ChunkState::Stored | ChunkState::Sent => Custody::Stored,
        ChunkState::Committed => Custody::Committed,
        ChunkState::Leaving { .. } => Custody::Leaving,
    }
}

pub(super) fn read_move(bytes: &[u8]) -> Option<CarriedMove> {
    codec::decode(bytes, MOVE_BYTES_MAX + 512).ok()
}

pub(super) fn silent() -> Refusal {
    refusal(RefusalKind::Silent, "no answer in time")
}

/// What is to be done about a move on disk.
pub(super) fn what_of(me: NodeId, entry: Option<&ChunkEntry>, moved: Option<&CarriedMove>) -> Open {
    let body = moved.and_then(|moved| Some((moved.proposal().ok()?, moved.verify().is_ok())));
    rehome::open(
        me,
        entry.map(|entry| (custody(entry), entry.lease)),
        body.as_ref().map(|(body, cosigned)| (body, *cosigned)),
    )
}

/// What there is of moves on disk: those that are open, chunks that leave, and moves whose chunk is gone.
#[derive(Default)]
pub(in crate::sim) struct OnDisk {
    /// With whether both sides signed.
    pub(in crate::sim) open: Vec<(ChunkKey, CarriedMove, bool)>,
    pub(in crate::sim) leaving: Vec<(ChunkKey, u32)>,
    /// Chunks that came here, and it is not known whether a mirror has their move.
    pub(in crate::sim) unconfirmed: Vec<ChunkKey>,
    gone: Vec<ChunkKey>,
}

impl OnDisk {
    pub(in crate::sim) fn read(me: NodeId, fat: &LocalFat) -> Result<Self, FatError> {
        let mut found = Self::default();
        for (key, bytes) in fat.moves()? {
            let entry = fat.chunk(key.owner, key.chunk)?;
            let moved = read_move(&bytes);
            match what_of(me, entry.as_ref(), moved.as_ref()) {
                Open::Propose => found.open.extend(moved.map(|moved| (key, moved, false))),
                Open::Submit => found.open.extend(moved.map(|moved| (key, moved, true))),
                Open::Confirm => found.unconfirmed.push(key),
                Open::Hold => found.leaving.push((key, entry.map_or(0, |entry| entry.length))),
                Open::Rests => {}
                Open::Forget => found.gone.push(key),
            }
        }
        Ok(found)
    }
}

impl Vendor {
    /// What a stop cut off is gone on with.
    pub(super) fn start_moving(&mut self, cx: &mut Cx<'_>) {
        let me = self.id();
        if let Some(run) = &mut self.running {
            let found = OnDisk::read(me, &run.fat).unwrap_or_default();
            run.moving.relief = Relief::resumed(!found.open.is_empty() || !found.leaving.is_empty());
            run.moving.open = true;
            run.moving.unconfirmed.extend(found.unconfirmed.into_iter().map(|key| (key, cx.at)));
        }
        cx.wait(LOOK_MS, Timer::Every(MOVE));
    }

    pub(super) fn look_at_load(&mut self, cx: &mut Cx<'_>) {
        cx.wait(LOOK_MS, Timer::Every(MOVE));
        let busy = |moving: &Moving| {
            let signs = moving.asked.values().any(|asked| matches!(asked, Asked::Cosign(..)));
            moving.round.is_some() || !moving.submissions.is_empty() || signs
        };
        if self.running.as_ref().is_none_or(|run| busy(&run.moving)) {
            return;
        }
        let _ = self.erase_left(cx);
        self.confirm(cx);
        let Some(run) = &mut self.running else { return };
        if run.moving.open && cx.at >= run.moving.next_look {
            (run.moving.open, run.moving.held_up) = (false, false);
            run.moving.next_look = cx.at + AGAIN_MS;
            return self.resume(cx);
        }
        if run.moving.held_up || cx.at < run.moving.next_round {
            return;
        }
        let leaving: u64 = run.moving.leaving.values().map(|(_, length)| u64::from(*length)).sum();
        let used: u64 = run.ledger.leases().map(|lease| lease.used).sum();
        let stays = used.saturating_sub(leaving);
        let load = Load { bytes: stays, capacity: run.ledger.capacity() };
        let excess = run.moving.relief.excess(load, cx.known.limits);
        if excess == 0 {
            run.moving.held_at.clear();
            return;
        }
        let rest = self.choose(excess, load).unwrap_or_default();
        self.next_batch(cx, rest, 0);
    }

    /// Hands in again what no mirror took yet.
    fn resume(&mut self, cx: &mut Cx<'_>) {
        let me = self.id();
        let Some(run) = &mut self.running else { return };
        let Ok(found) = OnDisk::read(me, &run.fat) else { return };
        for (key, length) in &found.leaving {
            run.moving.leaving.entry(*key).or_insert((cx.at, *length));
        }
        if !found.gone.is_empty() {
            let _ = self.durable(|tx, _| found.gone.iter().try_for_each(|key| tx.remove_move(key).map(drop)));
        }
        cx.injected.moves_resumed += found.open.len() as u64;
        for (key, moved, cosigned) in found.open {
            match (cosigned, moved.proposal()) {
                (true, _) => self.submit(cx, key, moved, Of::Open),
                (false, Ok(body)) => self.ask_to_sign(cx, key, moved, body, Of::Open),
                (false, Err(_)) => {}
            }
        }
    }

    /// Chunks to move; those that were to be moved to a vendor which has a copy are tried again, elsewhere, when there are no others.
    fn choose(&self, excess: u64, load: Load) -> Result<Vec<Batch>, FatError> {
        let Some(run) = &self.running else { return Ok(Vec::new()) };
        let held_at = &run.moving.held_at;
        let among = |wanted: &dyn Fn(&ChunkKey) -> bool| -> Result<Vec<Batch>, FatError> {
            let mut batches = Batches::new(excess, Some(load));
            for entry in run.fat.chunks_after(None, 4_096)? {
                let stored = run.fat.move_of(&entry.key())?.and_then(|bytes| read_move(&bytes));
                let away = stored.map(|moved| moved.proposal().is_ok_and(|moved: Move| moved.from == self.id()));
                if may_leave(custody(&entry), away) && wanted(&entry.key()) {
                    batches.add(held(&entry));
                }
            }
            Ok(batches.into_batches())
        };
        let untried = among(&|key| !held_at.contains_key(key))?;
        if !untried.is_empty() || held_at.is_empty() {
            return Ok(untried);
        }
        let mut again = among(&|key| held_at.contains_key(key))?;
        for batch in &mut again {
            let keys = batch.chunks.iter().map(key_of);
            batch.exclude = keys.filter_map(|key| held_at.get(&key)).flatten().copied().collect();
        }
        Ok(again)
    }

    fn next_batch(&mut self, cx: &mut Cx<'_>, mut rest: Vec<Batch>, moved: usize) {
        let me = self.id();
        let Some(run) = &mut self.running else { return };
        let Some(mut batch) = rest.pop() else {
            run.moving.round = None;
            run.moving.next_round = cx.at + run.moving.pause.after(moved);
            return;
        };
        batch.exclude.insert(me);
        run.moving.round = Some(Round {
            rest,
            batch,
            nonce: Hash(cx.random.bytes()),
            mirrors: Vec::new(),
            asking: 0,
            held: Vec::new(),
            tried: 0,
            rooms: Vec::new(),
            taken: Vec::new(),
            pending: 0,
            moved,
        });
        self.ask_for_room(cx);
    }

    /// Asks for room with a new request, of one mirror after the other.
    fn ask_for_room(&mut self, cx: &mut Cx<'_>) {
        let Some(round) = self.running.as_mut().and_then(|run| run.moving.round.as_mut()) else { return };
        round.nonce = Hash(cx.random.bytes());
        round.tried += 1;
        round.mirrors = cx.known.mirrors.clone();
        cx.random.shuffle(&mut round.mirrors);
        round.mirrors.truncate(MIRRORS_TOLD_MAX);
        self.ask_next_mirror(cx);
    }

    fn ask_next_mirror(&mut self, cx: &mut Cx<'_>) {
        let me = self.id();
        let Some(run) = &mut self.running else { return };
        let Some(round) = &mut run.moving.round else { return };
        let Some(mirror) = round.mirrors.pop() else {
            self.withdraw(cx, &BTreeSet::new());
            return self.batch_ended(cx);
        };
        round.asking = mirror;
        let request = round.batch.request(me, round.nonce, cx.now.plus_ms(GOOD_MS));
        let request = Signed::sign(request, &self.key).expect("its own request signs").into_carried();
        let call = cx.ask_within(mirror, &Request::Allocate(request), ALLOCATE_MS);
        run.moving.asked.insert(call, Asked::Room);
    }

    /// What failed mirrors locked in vain is given back, unless it was locked for the request that was granted as well.
    fn withdraw(&mut self, cx: &mut Cx<'_>, used: &BTreeSet<NodeId>) {
        let authority = self.id().into();
        let Some(round) = self.running.as_mut().and_then(|run| run.moving.round.as_mut()) else { return };
        for (mirror, vendor) in std::mem::take(&mut round.held) {
            if !used.contains(&vendor) {
                let cancel = Cancel { version: tags::VERSION, authority, vendor, request: round.nonce };
                let cancel = Signed::sign(cancel, &self.key).expect("its own withdrawal signs");
                cx.tell(mirror, &Request::Cancel(cancel.into_carried()));
            }
        }
    }

    pub(super) fn room_answered(&mut self, cx: &mut Cx<'_>, response: Response) {
        let Some(round) = self.running.as_mut().and_then(|run| run.moving.round.as_mut()) else { return };
        match response {
            Response::Provisional(fat) => {
                let used = fat.locations.iter().filter_map(|location| Some(location.head.peek().ok()?.vendor));
                let used: BTreeSet<NodeId> = used.collect();
                self.withdraw(cx, &used);
                self.roomy(cx, fat.locations.into_vec());
            }
            Response::Short { asked, .. } => {
                let mirror = round.asking;
                round.held.extend(asked.iter().map(|vendor| (mirror, *vendor)));
                self.ask_next_mirror(cx);
            }
            _ => self.ask_next_mirror(cx),
        }
    }

    /// There is room: vendors that are near their own overload get theirs back, and the chunks go to the others.
    fn roomy(&mut self, cx: &mut Cx<'_>, locations: Vec<Location>) {
        let me = self.id();
        let Some(round) = self.running.as_mut().and_then(|run| run.moving.round.as_mut()) else { return };
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for location in locations {
            let known = location.head.peek().is_ok_and(|head| cx.known.index.contains_key(&head.vendor));
            if let Some((room, fits)) = round.batch.accept(me, location, cx.known.limits).filter(|_| known) {
                if fits { good.push(room) } else { bad.push(room) }
            }
        }
        if good.is_empty() && !bad.is_empty() && round.tried < DESTINATIONS_TRIED {
            round.batch.exclude.extend(bad.iter().map(|room| room.vendor));
            self.return_room(cx, &bad, &vec![0; bad.len()]);
            return self.ask_for_room(cx);
        }
        let (dealt, taken) = round.batch.deal(&good);
        (round.rooms, round.taken, round.pending) = (good, taken, dealt.len());
        self.return_room(cx, &bad, &vec![0; bad.len()]);
        if dealt.is_empty() {
            return self.batch_ended(cx);
        }
        for (chunk, at) in dealt {
            self.send_chunk(cx, chunk, at);
        }
    }

    fn return_room(&mut self, cx: &mut Cx<'_>, rooms: &[Room], taken: &[u64]) {
        for (room, taken) in rooms.iter().zip(taken) {
            if let Some(unused) = room.unused(self.id(), *taken, Hash(cx.random.bytes())) {
                let unused = Signed::sign(unused, &self.key).expect("it signs");
                cx.tell(cx.known.index[&room.vendor], &Request::Unused(unused.into_carried()));
            }
        }
    }

    fn send_chunk(&mut self, cx: &mut Cx<'_>, chunk: HeldChunk, at: usize) {
        let me = self.id();
        let bytes = self.data.get(&key_of(&chunk)).map(|part| part.bytes.clone());
        let Some(run) = &mut self.running else { return };
        let Some(round) = &run.moving.round else { return };
        let there = run.fat.chunk(chunk.owner, chunk.chunk).is_ok_and(|entry| entry.is_some());
        let Some(bytes) = bytes.filter(|bytes| there && ChunkId::of(bytes) == chunk.chunk) else {
            return self.not_moved(cx, &chunk, at, refusal(RefusalKind::NotFound, "erased meanwhile"));
        };
        let room = &round.rooms[at];
        let hop = Signed::sign(room.hop(me, &chunk, cx.now.plus_ms(GOOD_MS)), &self.key).expect("its own hop signs");
        let header = codec::encode(&Header::new(vec![hop]).expect("one hop"));
        let call = cx.number(SEND_MS);
        run.moving.asked.insert(call, Asked::Chunk(chunk, at));
        cx.send(cx.known.index[&room.vendor], Body::Chunk { call, header, bytes });
    }

    /// Whether a chunk's answer is of a move; it is dealt with then.
    pub(super) fn moved_chunk_answered(&mut self, cx: &mut Cx<'_>, call: u64, bytes: &[u8]) -> bool {
        let Some(run) = &mut self.running else { return false };
        if !matches!(run.moving.asked.get(&call), Some(Asked::Chunk(..))) {
            return false;
        }
        let answer = match codec::decode::<ChunkAnswer>(bytes, ANSWER_BYTES_MAX) {
            Ok(ChunkAnswer::Receipt(receipt)) => receipt.verify().map_err(Refusal::from),
            Ok(ChunkAnswer::Failed { refusal, .. }) => Err(refusal),
            _ => return true,
        };
        let Some(Asked::Chunk(chunk, at)) = run.moving.asked.remove(&call) else { return true };
        let Some(round) = &run.moving.round else { return true };
        let checked = answer.and_then(|receipt| round.rooms[at].check(&chunk, &receipt));
        match checked {
            Ok(()) => self.propose(cx, chunk, at),
            Err(refusal) => self.not_moved(cx, &chunk, at, refusal),
        }
        true
    }

    /// Signs the move; on disk before the destination is asked: there never is a second one.
    fn propose(&mut self, cx: &mut Cx<'_>, chunk: HeldChunk, at: usize) {
        let me = self.id();
        let Some(round) = self.running.as_ref().and_then(|run| run.moving.round.as_ref()) else { return };
        let body = round.rooms[at].proposal(me, &chunk, cx.now);
        let proposal = CarriedMove::propose(&body, &self.key).expect("its own move signs");
        let (key, record) = (key_of(&chunk), codec::encode(&proposal));
        if self.durable(|tx, _| tx.put_move(&key, &record)).is_err() {
            return self.moved_or_not(cx, false);
        }
        self.ask_to_sign(cx, key, proposal, body, Of::Round);
    }

    fn ask_to_sign(&mut self, cx: &mut Cx<'_>, key: ChunkKey, proposal: CarriedMove, body: Move, of: Of) {
        let (Some(run), Some(to)) = (&mut self.running, cx.known.index.get(&body.to).copied()) else { return };
        let call = cx.ask_within(to, &Request::Cosign(proposal), VENDOR_MS);
        run.moving.asked.insert(call, Asked::Cosign(key, Box::new(body), of));
    }

    /// A chunk stays: its room was not filled and goes back with the rest.
    pub(super) fn not_moved(&mut self, cx: &mut Cx<'_>, chunk: &HeldChunk, at: usize, refusal: Refusal) {
        let Some(run) = &mut self.running else { return };
        let Some(round) = &mut run.moving.round else { return };
        round.taken[at] = round.taken[at].saturating_sub(u64::from(chunk.length));
        if refusal.kind == RefusalKind::Conflict {
            run.moving.held_at.entry(key_of(chunk)).or_default().insert(round.rooms[at].vendor);
        }
        self.moved_or_not(cx, false);
    }

    pub(super) fn moved_or_not(&mut self, cx: &mut Cx<'_>, moved: bool) {
        let Some(round) = self.running.as_mut().and_then(|run| run.moving.round.as_mut()) else { return };
        round.moved += usize::from(moved);
        round.pending = round.pending.saturating_sub(1);
        if round.pending == 0 {
            self.batch_ended(cx);
        }
    }

    fn batch_ended(&mut self, cx: &mut Cx<'_>) {
        let Some(round) = self.running.as_mut().and_then(|run| run.moving.round.take()) else { return };
        self.return_room(cx, &round.rooms, &round.taken);
        self.next_batch(cx, round.rest, round.moved);
    }
}
