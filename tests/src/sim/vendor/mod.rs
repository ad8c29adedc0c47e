//! A vendor: the real ledger over the real local FAT on a disk that can fail, with what the vendor's role adds to them:
//! whatever changes in the ledger is on disk before anybody hears of it.

mod chunks;
mod custody;
mod moves;
mod orders;
mod polling;
mod readopt;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use fathom_protocol::caught_up::CaughtUp;
use fathom_protocol::clocks::Clocks;
use fathom_protocol::codec;
use fathom_protocol::ids::{Hash, LeaseId, NodeId};
use fathom_protocol::lease::Lease;
use fathom_protocol::ledger::Ledger;
use fathom_protocol::limits::{FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Cancel, Refusal, RefusalKind, Request, Response};
use fathom_store::fat::FatTx;
use fathom_store::{ChunkKey, ChunkTag, FatConfig, FatError, LocalFat};

use super::disk::Disk;
use super::mutation::Mutation;
use super::node::{Body, Cx, Known, Timer};
use moves::Moving;
pub(super) use moves::OnDisk;
use readopt::{Backup, read_leases};
use report::Life;

pub(super) use readopt::Restore;

const FRAME_MS: u64 = 5_000;
const TICK: u8 = 0;
const SWEEP: u8 = 1;
/// What the reporter waits for.
const REPORT: u8 = 2;
const POLL: u8 = 3;
const SETTLE: u8 = 4;
/// Something changed that the head tells.
const CHANGED: u8 = 5;
/// Mirrors are looked for.
const LOOK: u8 = 6;
/// Whether there is too much here.
const MOVE: u8 = 7;
const TICK_MS: u64 = 2_000;
/// Name in the local FAT of the note that leases may be dated by a clock that was behind.
const DOUBTS_KEY: &str = "doubts";

/// A chain that a chunk goes along: who is told of receipts.
#[derive(Clone, Copy, Debug)]
struct Upstream {
    node: usize,
    call: u64,
}

/// A chunk on the devices, with what its parts' headers say of it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) tag: ChunkTag,
    pub(super) bytes: Vec<u8>,
}

/// What lies on the devices.
type Data = BTreeMap<ChunkKey, Part>;

/// A vendor.
#[derive(Debug)]
pub(super) struct Vendor {
    pub(super) key: SigningKey,
    pub(super) zone: String,
    pub(super) capacity: u64,
    pub(super) disk: Disk,
    /// What lies on its devices; written before the local FAT says so.
    pub(super) data: Data,
    /// The newest backup.
    pub(super) backup: Option<Backup>,
    /// Nothing, after a crash.
    pub(super) running: Option<Running>,
}

/// What a vendor has in memory while it runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) fat: LocalFat,
    pub(super) ledger: Ledger,
    pub(super) life: Life,
    persisted: BTreeMap<LeaseId, Option<u64>>,
    /// Whether it is noted on disk that dates are in doubt.
    doubts: bool,
    /// Grows with each change of the local FAT.
    pub(super) writes: u64,
    clocks: Clocks,
    /// True time at which it started: what it measures from there, nobody can set.
    started: u64,
    polls: BTreeMap<u64, usize>,
    chains: BTreeMap<u64, Upstream>,
    turn: usize,
    /// When each mirror's orders were read to their end.
    caught_up: CaughtUp,
    dirty: bool,
    /// Mirrors may know more than this disk: they were not asked yet, or leases are being taken back.
    out_of_step: bool,
    moving: Moving,
    pub(super) frames: BTreeMap<u64, u64>,
    next_frame: u64,
}

pub(super) fn refusal(kind: RefusalKind, reason: &str) -> Refusal {
    Refusal::new(kind, reason)
}

fn internal(error: &dyn std::fmt::Display) -> Refusal {
    refusal(RefusalKind::Internal, &error.to_string())
}

fn config() -> FatConfig {
    FatConfig { cache_bytes: 1 << 20, headroom_bytes: 0, check_on_open: false }
}

impl Vendor {
    pub(super) fn new(key: SigningKey, zone: String, capacity: u64, known: &Known) -> Self {
        let disk = Disk::new();
        let mut vendor = Self { key, zone, capacity, disk, data: Data::new(), backup: None, running: None };
        vendor.open(known).expect("an empty disk opens");
        vendor
    }

    pub(super) fn id(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }

    /// Reads everything from disk, as the role does when it starts.
    pub(super) fn open(&mut self, known: &Known) -> Result<(), FatError> {
        let fat = LocalFat::open_in(Arc::new(self.disk.clone()), config())?;
        let leases = read_leases(&fat)?;
        let persisted = fat.leases()?.into_iter().map(|(id, _)| (id, None)).collect();
        let mut ledger =
            Ledger::open(self.key.clone(), known.terms, self.capacity, leases).expect("its own leases sign");
        let doubts = fat.kv(DOUBTS_KEY)?.is_some();
        if doubts {
            ledger.doubt_all();
        }
        let life = Life::read(&fat, UnixMs(0))?;
        self.running = Some(Running {
            fat,
            ledger,
            life,
            persisted,
            doubts,
            writes: 0,
            clocks: Clocks::default(),
            started: 0,
            polls: BTreeMap::new(),
            chains: BTreeMap::new(),
            turn: 0,
            caught_up: CaughtUp::default(),
            dirty: false,
            out_of_step: false,
            moving: Moving::default(),
            frames: BTreeMap::new(),
            next_frame: 0,
        });
        Ok(())
    }

    pub(super) fn start(&mut self, cx: &mut Cx<'_>) {
        if let Some(run) = &mut self.running {
            run.started = cx.at;
            run.out_of_step = run.life.head().seq > 0 || !self.data.is_empty();
            run.life = Life::read(&run.fat, cx.now).expect("a local FAT that opened is read");
        }
        let first = [500, TICK_MS, cx.known.terms.lock_ms / 8, 2_000].map(|bound| cx.random.within(1, bound));
        for (every, first) in [LOOK, TICK, SWEEP, POLL].into_iter().zip(first) {
            cx.wait(first, Timer::Every(every));
        }
        self.start_moving(cx);
    }

    pub(super) fn timer(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        let Some(run) = &mut self.running else { return };
        match timer {
            Timer::Every(TICK) => {
                if self.redate(cx).is_ok() {
                    let _ = self.lapse(cx);
                }
                cx.wait(TICK_MS, Timer::Every(TICK));
            }
            Timer::Every(SWEEP) => {
                let _ = self.sweep(cx);
                cx.wait(cx.known.terms.lock_ms / 8, Timer::Every(SWEEP));
            }
            Timer::Every(LOOK) => self.look(cx),
            Timer::Every(CHANGED) => self.changed(cx),
            Timer::Every(POLL) => self.poll(cx),
            Timer::Every(MOVE) => self.look_at_load(cx),
            Timer::Every(SETTLE) => {
                let _ = self.durable(|_, _| Ok(()));
            }
            Timer::Every(_) => self.report_timer(cx),
            Timer::Call(call) => {
                run.polls.remove(&call);
                if !self.mirror_answered(cx, call, None) && !self.move_answered(cx, call, None) {
                    self.chain_silent(cx, call);
                }
            }
            Timer::Frame(frame) => {
                run.frames.remove(&frame);
            }
            Timer::Allocation(_) => {}
        }
    }

    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, from: usize, body: Body) {
        if self.running.is_none() {
            return;
        }
        match body {
            Body::Request { call, bytes } => {
                let answer = match codec::decode::<Request>(&bytes, FRAME_BYTES_MAX) {
                    Ok(request) => self.request(cx, request).unwrap_or_else(Response::Refused),
                    Err(_) => Response::Refused(refusal(RefusalKind::BadRequest, "malformed")),
                };
                if let Response::Offered { lease, .. } = &answer
                    && let Ok(lease) = lease.peek()
                {
                    cx.oracle.vendor_offered(cx.me, cx.at, &lease);
                }
                cx.reply(from, call, &answer);
            }
            Body::Response { call, bytes } => {
                if let Ok(response) = codec::decode::<Response>(&bytes, FRAME_BYTES_MAX) {
                    self.response(cx, from, call, response);
                }
            }
            Body::Chunk { call, header, bytes } => self.chunk(cx, from, call, &header, &bytes),
            Body::Answer { call, bytes } => {
                if !self.moved_chunk_answered(cx, call, &bytes) {
                    self.chain_answer(cx, call, bytes);
                }
            }
            Body::Fetch { call, bytes } => self.fetch(cx, from, call, &bytes),
            Body::Opened { length } => self.open_frame(cx, length),
            Body::Fetched { .. } | Body::Gossip { .. } => {}
        }
    }

    fn open_frame(&mut self, cx: &mut Cx<'_>, length: u64) {
        let max = if cx.known.broken(Mutation::StrangersUnbounded) { FRAME_BYTES_MAX } else { FIRST_FRAME_BYTES_MAX };
        let Some(run) = &mut self.running else { return };
        if length <= max as u64 {
            run.next_frame += 1;
            run.frames.insert(run.next_frame, length);
            cx.wait(FRAME_MS, Timer::Frame(run.next_frame));
        }
    }

    fn request(&mut self, cx: &mut Cx<'_>, request: Request) -> Result<Response, Refusal> {
        let dated = self.dating_clock(cx);
        match request {
            Request::Offer { request, bytes } => {
                if self.running.as_ref().is_some_and(|run| run.life.elsewhere) {
                    return Err(refusal(RefusalKind::Busy, "this vendor's key is in use at another node"));
                }
                self.in_step_or_busy()?;
                let request = request.verify()?;
                let fresh = LeaseId(cx.random.bytes());
                let asked = (request.authority, request.nonce);
                let until = request.expires.max(dated.at.plus_ms(cx.known.terms.offer_ms));
                cx.oracle.vendor_remembers(cx.me, dated.at);
                let (lease, granted) = self.account(cx, |ledger| ledger.offer(dated, &request, bytes, fresh))?;
                cx.oracle.vendor_granted(cx.me, asked, (lease.id, granted), until);
                Ok(Response::Offered { lease: lease.into_carried(), granted })
            }
            Request::Order(fats) => {
                let answers: Result<Vec<_>, _> = fats.into_iter().map(|fat| self.order(cx, fat)).collect();
                answers.map(|_| Response::Done)
            }
            Request::Cancel(cancel) => self.cancel(cx, cancel),
            Request::Cosign(moved) => self.cosign(cx, &moved),
            Request::Unused(unused) => {
                let unused = unused.verify()?;
                if unused.vendor != self.id() {
                    return Err(refusal(RefusalKind::NotAuthorised, "the lease is another vendor's"));
                }
                self.in_step_or_busy()?;
                cx.oracle.vendor_remembers(cx.me, dated.at);
                self.account(cx, |ledger| ledger.give_back(dated.at, &unused))?;
                Ok(Response::Done)
            }
            Request::Renew(renew) => {
                let renew = renew.verify()?;
                if renew.vendor != self.id() {
                    return Err(refusal(RefusalKind::NotAuthorised, "the lease is another vendor's"));
                }
                self.in_step_or_busy()?;
                let lease = self.account(cx, |ledger| ledger.renew(dated, &renew))?;
                cx.oracle.renewed(cx.me, renew.lease, cx.at);
                Ok(Response::Offered { lease: lease.into_carried(), granted: 0 })
            }
            _ => Err(refusal(RefusalKind::WrongRole, "a vendor does not answer this")),
        }
    }

    fn in_step_or_busy(&self) -> Result<(), Refusal> {
        let out = self.running.as_ref().is_some_and(|run| run.out_of_step);
        let busy = || refusal(RefusalKind::Busy, "this vendor asks mirrors whether its records are the newest");
        if out { Err(busy()) } else { Ok(()) }
    }

    /// Gives back what a request that was withdrawn still holds.
    fn cancel(&mut self, cx: &mut Cx<'_>, cancel: Carried<Cancel>) -> Result<Response, Refusal> {
        let cancel = cancel.verify()?;
        if cancel.vendor != self.id() {
            return Err(refusal(RefusalKind::NotAuthorised, "the request was withdrawn at another vendor"));
        }
        let request = (cancel.authority, cancel.request);
        let held = cx.oracle.held_for(cx.me, request);
        let room = |run: &Running| held.and_then(|lease| run.ledger.lease(lease).map(|lease| lease.room()));
        let before = self.running.as_ref().and_then(room).unwrap_or(0);
        if !cx.known.broken(Mutation::CancelForgotten) {
            self.account(cx, |ledger| ledger.cancel(&cancel))?;
        }
        let after = self.running.as_ref().and_then(room).unwrap_or(0);
        cx.injected.withdrawn += u64::from(after < before);
        cx.oracle.vendor_withdrew(cx.me, request, before, after);
        Ok(Response::Done)
    }

    fn response(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, response: Response) {
        let Some(run) = &mut self.running else { return };
        if run.polls.remove(&call).is_some() {
            if let Response::Page(page) = response {
                self.take_page(cx, from, page);
            }
        } else if run.life.awaits(call) {
            self.mirror_answered(cx, call, Some(response));
        } else {
            self.move_answered(cx, call, Some(response));
        }
    }

    /// Runs `edit` and writes every lease that is not on disk as the ledger has it, in one durable transaction.
    fn durable<T>(
        &mut self,
        edit: impl FnOnce(&mut FatTx<'_>, &mut Ledger) -> Result<T, FatError>,
    ) -> Result<T, Refusal> {
        let run = self.running.as_mut().ok_or_else(|| refusal(RefusalKind::Internal, "not running"))?;
        run.writes += 1;
        let (ledger, persisted, noted) = (&mut run.ledger, &run.persisted, &run.doubts);
        let written = run.fat.write(|tx| {
            let value = edit(tx, ledger)?;
            let mut gone: BTreeSet<LeaseId> = persisted.keys().copied().collect();
            let mut put = Vec::new();
            for lease in ledger.leases() {
                gone.remove(&lease.id);
                if persisted.get(&lease.id).copied().flatten() != Some(lease.revision) {
                    tx.put_lease(lease.id, &codec::encode(lease.carried()), lease.bytes)?;
                    put.push((lease.id, lease.revision));
                }
            }
            for id in &gone {
                tx.remove_lease(*id)?;
            }
            let doubts = ledger.doubts();
            match (*noted, doubts) {
                (false, true) => tx.put_kv(DOUBTS_KEY, &[])?,
                (true, false) => drop(tx.remove_kv(DOUBTS_KEY)?),
                _ => {}
            }
            Ok((value, put, gone, doubts))
        });
        let (value, put, gone, doubts) = written.map_err(|error| refusal(RefusalKind::Internal, &error.to_string()))?;
        run.persisted.extend(put.into_iter().map(|(id, revision)| (id, Some(revision))));
        run.persisted.retain(|id, _| !gone.contains(id));
        run.doubts = doubts;
        Ok(value)
    }

    /// Changes the ledger; the change is durable when this returns.
    fn account<T>(
        &mut self,
        cx: &mut Cx<'_>,
        edit: impl FnOnce(&mut Ledger) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let run = self.running.as_mut().ok_or_else(|| refusal(RefusalKind::Internal, "not running"))?;
        let leases = |ledger: &Ledger| -> Vec<(LeaseId, u64)> {
            ledger.leases().map(|lease| (lease.id, lease.revision)).collect()
        };
        let before = leases(&run.ledger);
        let value = edit(&mut run.ledger)?;
        // What came since is signed with it, as by the role's accounts.
        let written = |lease: &Signed<Lease>| run.persisted.get(&lease.id).copied().flatten() == Some(lease.revision);
        let unwritten = run.persisted.values().any(Option::is_none) || !run.ledger.leases().all(written);
        if before != leases(&run.ledger) || unwritten || run.ledger.doubts() != run.doubts {
            if cx.known.broken(Mutation::VendorAnswersEarly) {
                cx.wait(700, Timer::Every(SETTLE));
            } else {
                self.durable(|_, _| Ok(()))?;
            }
            self.touch(cx);
        }
        Ok(value)
    }
}

/// A cursor as the local FAT keeps it.
type Cursor = (Hash, u64);
