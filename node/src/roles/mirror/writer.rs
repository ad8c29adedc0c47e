//! The one writer of the mirror's table and file. It takes whatever waits, merges it, writes it in one transaction and
//! only then answers: nothing is acknowledged before it is on disk, and a busy mirror pays one sync for many records.
//!
//! A failed write leaves a table that is ahead of the disk. It is then read from disk again before anything else is taken.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use fathom_protocol::codec;
use fathom_protocol::head::VerifiedVendor;
use fathom_protocol::ids::{FileId, Hash, NodeId, OwnerId};
use fathom_protocol::limits::FAT_USES_MAX;
use fathom_protocol::market::Market;
use fathom_protocol::table::{Key, Merged, Suspicion, Suspicions, Table, Verified};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Refusal, RefusalKind, TableDigest};
use tokio::sync::{mpsc, oneshot};

use crate::clock;

use super::store::{Also, Change, Content, RECORD_BYTES_MAX, Store, StoreError};

/// Batches of records that wait for the writer; who brings more waits.
const JOBS_QUEUED_MAX: usize = 1_024;
/// Batches that one transaction takes.
const JOBS_PER_COMMIT: usize = 512;
/// Bytes of records after which a transaction takes no further batch.
const COMMIT_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of signature, lengths and tags around one carried body, at most.
const AROUND: usize = 160;

/// What happened to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It was here.
    Known,
    /// It is on disk, at this position of the log.
    New {
        /// Its position.
        position: u64,
        /// Vendors that must see it, for a final FAT; the destination, for a move.
        tell: Vec<NodeId>,
    },
}

/// One record and what happened to it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) record: Verified,
    pub(super) kept: Result<Kept, Refusal>,
}

/// How far another mirror was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) mirror: NodeId,
    pub(super) log: Hash,
    pub(super) cursor: u64,
}

/// The table as it is in memory. Its lock is held for moments only, never across a write.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) table: Table,
    /// What vendors offer, for those who ask for storage.
    pub(super) market: Market,
    pub(super) also: Also,
    pub(super) cursors: BTreeMap<NodeId, (Hash, u64)>,
    /// Leases that vanished from heads, until it is known why.
    pub(super) suspicions: Suspicions,
    /// When a newer head of each vendor came here: ages by this node's clock, whatever the vendor's says.
    pub(super) heard: BTreeMap<NodeId, Instant>,
    digest: Option<TableDigest>,
}

impl State {
    fn replace(&mut self, content: Content, now: UnixMs) {
        self.market = Market::of(content.table.vendors().map(|vendor| &*vendor.head));
        self.table = content.table;
        self.also = content.also;
        self.cursors = content.cursors;
        self.suspicions = Suspicions::default();
        self.suspicions.restore(content.suspicions, now);
        self.digest = None;
    }

    /// Digest of the table; computed anew only after a change.
    pub(super) fn digest(&mut self) -> TableDigest {
        *self.digest.get_or_insert_with(|| self.table.digest())
    }
}

/// What the writer and its readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    state: Mutex<State>,
    /// The wall clock when this was opened, and when that was.
    opened: (UnixMs, Instant),
}

impl Shared {
    /// The time by a clock that nobody sets while this runs.
    pub(super) fn steady(&self) -> UnixMs {
        let (wall, since) = self.opened;
        wall.plus_ms(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The table, for a moment.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Job {
    records: Vec<Verified>,
    cursor: Option<Cursor>,
    /// Suspicions that were due until then were looked at.
    looked_at: Option<UnixMs>,
    reply: oneshot::Sender<Vec<Outcome>>,
}

/// The handle of the writer's thread. Dropping it ends the thread, after what it works on.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Opens the file at `path` and starts the thread. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let (store, content) = Store::open(path)?;
        Self::start(store, content).map_err(|source| StoreError::Io { path: path.to_owned(), source })
    }

    /// Starts the thread over an opened store.
    pub(super) fn start(store: Store, content: Content) -> std::io::Result<Self> {
        let mut state = State::default();
        let opened = (clock::now(), Instant::now());
        state.replace(content, opened.0);
        let shared = Arc::new(Shared { store, state: Mutex::new(state), opened });
        let (jobs, waiting) = mpsc::channel(JOBS_QUEUED_MAX);
        let task = Task { shared: Arc::clone(&shared), failed: false };
        let thread = std::thread::Builder::new().name("mirror-writer".to_owned()).spawn(move || task.run(waiting))?;
        Ok(Self { shared, jobs: Some(jobs), thread: Some(thread) })
    }

    /// What is shared with readers.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Merges `records` and keeps `cursor` with them. Returns, in order, once all that is new is on disk.
    ///
    /// # Errors
    /// A [`Refusal`] if the writer has ended. What a failed write refuses is in the outcomes.
    pub(super) async fn keep(&self, records: Vec<Verified>, cursor: Option<Cursor>) -> Result<Vec<Outcome>, Refusal> {
        self.queue(records, cursor, None).await
    }

    /// As [`Self::keep`] with the proofs that came of suspicions, of which those that were due until `looked_at` are forgotten.
    pub(super) async fn keep_proofs(&self, proofs: Vec<Verified>, looked_at: UnixMs) -> Result<Vec<Outcome>, Refusal> {
        self.queue(proofs, None, Some(looked_at)).await
    }

    async fn queue(
        &self,
        records: Vec<Verified>,
        cursor: Option<Cursor>,
        looked_at: Option<UnixMs>,
    ) -> Result<Vec<Outcome>, Refusal> {
        let ended = || Refusal::new(RefusalKind::Internal, "this mirror is shutting down");
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(Job { records, cursor, looked_at, reply }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the mirror's writer ended badly");
        }
    }
}

struct Task {
    shared: Arc<Shared>,
    /// Whether the last write failed and the table was not read from disk since.
    failed: bool,
}

/// What is to be written for a merged record.
enum Step {
    Keep {
        job: usize,
        at: usize,
        key: Key,
        demoted: Option<Key>,
        drops: Vec<Key>,
        tell: Vec<NodeId>,
    },
    Also {
        key: Key,
        vendors: Vec<NodeId>,
        again: bool,
    },
    /// A lease that a record leaves out.
    Suspect(Box<Suspicion>),
    /// A proof that a record of this job made together with what was known.
    Prove {
        job: usize,
        proof: Box<Verified>,
    },
}

impl Task {
    fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut bytes = size(&first);
            let mut jobs = vec![first];
            while jobs.len() < JOBS_PER_COMMIT && bytes < COMMIT_BYTES {
                let Ok(job) = waiting.try_recv() else { break };
                bytes += size(&job);
                jobs.push(job);
            }
            self.commit(jobs);
        }
    }

    fn commit(&mut self, mut jobs: Vec<Job>) {
        // Before anything is merged: the table must not run ahead of a disk that is known not to take it.
        if let Err(error) = self.shared.store.make_writable() {
            tracing::debug!(%error, "nothing is taken while the mirror's records cannot be written");
            return refuse_all(jobs);
        }
        if self.failed && !self.recover() {
            return refuse_all(jobs);
        }
        let (kept, steps) = self.merge(&jobs);
        match self.write(&jobs, &steps) {
            Ok(positions) => {
                let mut kept = kept;
                let mut positions = positions.into_iter();
                let mut proofs = Vec::new();
                for step in steps {
                    match step {
                        Step::Keep { job, at, tell, .. } => {
                            let position = positions.next().unwrap_or_default();
                            kept[job][at] = Ok(Kept::New { position, tell });
                        }
                        Step::Prove { job, proof } => proofs.push((job, proof)),
                        Step::Also { .. } | Step::Suspect(_) => {}
                    }
                }
                // Proofs are written last.
                let proofs: Vec<_> = proofs.into_iter().zip(positions).collect();
                for (at, (job, kept)) in jobs.drain(..).zip(kept).enumerate() {
                    let outcome = |(record, kept)| Outcome { record, kept };
                    let made = proofs.iter().filter(|((job, _), _)| *job == at).map(|((_, proof), position)| {
                        outcome((Verified::clone(proof), Ok(Kept::New { position: *position, tell: Vec::new() })))
                    });
                    let outcomes = job.records.into_iter().zip(kept).map(outcome).chain(made).collect();
                    // Who asked may have gone; what it brought is kept all the same.
                    let _ = job.reply.send(outcomes);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the mirror's records were not written; nothing of it was acknowledged");
                self.failed = true;
                self.recover();
                refuse_all(jobs);
            }
        }
    }

    /// Merges in memory. The results of new records are put in once they are written.
    fn merge(&self, jobs: &[Job]) -> (Vec<Vec<Result<Kept, Refusal>>>, Vec<Step>) {
        let mut steps = Vec::new();
        let mut state = self.shared.state();
        let now = Instant::now();
        let mut results = Vec::with_capacity(jobs.len());
        for (job, work) in jobs.iter().enumerate() {
            let mut kept = Vec::with_capacity(work.records.len());
            for (at, record) in work.records.iter().enumerate() {
                let found = suspect(&mut state, record, self.shared.steady());
                steps.extend(found.into_iter().map(|found| Step::Suspect(Box::new(found))));
                steps.extend(witness(&mut state, record).map(|proof| Step::Prove { job, proof: Box::new(proof) }));
                let mut merged = if encoded_max(record) > RECORD_BYTES_MAX {
                    Err(Refusal::new(RefusalKind::BadRequest, "the record is too large to be passed on"))
                } else {
                    state.table.merge(record)
                };
                let fork = match &merged {
                    Ok(Merged::Twin { key, demoted, .. }) => Some((*key, *demoted)),
                    _ => None,
                };
                match &mut merged {
                    Ok(Merged::New { drops, tell } | Merged::Twin { drops, tell, .. }) => {
                        state.digest = None;
                        if let Verified::Vendor(vendor) = record {
                            state.heard.insert(vendor.head.vendor, now);
                            state.market.note(&vendor.head);
                        }
                        let named = match record {
                            Verified::Fat(fat) => Some(((fat.owner, fat.file), fat.vendors())),
                            Verified::Move(moved, _) => Some(((moved.owner, moved.file), vec![moved.to])),
                            _ => None,
                        };
                        if let Some((file, named)) = named {
                            let others = tell.iter().copied().filter(|vendor| !named.contains(vendor)).collect();
                            steps.extend(also(&mut state, file, others, false));
                        }
                        for key in drops.iter() {
                            if let Key::Vendor(vendor) = key {
                                state.market.forget(*vendor);
                                state.heard.remove(vendor);
                            }
                        }
                        let (drops, tell) = (std::mem::take(drops), std::mem::take(tell));
                        let (key, demoted) = fork.unwrap_or((record.key(), None));
                        steps.push(Step::Keep { job, at, key, demoted, drops, tell });
                    }
                    Err(refusal) if matches!(refusal.kind, RefusalKind::Stale | RefusalKind::Conflict) => {
                        // The chunk was freed while it moved, or another mirror takes this move until it knows the other one: who
                        // has the chunk by it must see the final FAT that freed it, or that will.
                        if let Verified::Move(moved, _) = record {
                            steps.extend(also(&mut state, (moved.owner, moved.file), vec![moved.to], true));
                        }
                    }
                    _ => {}
                }
                kept.push(merged.map(|_| Kept::Known));
            }
            if let Some(cursor) = work.cursor {
                state.cursors.insert(cursor.mirror, (cursor.log, cursor.cursor));
            }
            results.push(kept);
        }
        (results, steps)
    }

    fn write(&self, jobs: &[Job], steps: &[Step]) -> Result<Vec<u64>, redb::Error> {
        let mut changes = Vec::new();
        for step in steps {
            match step {
                Step::Keep { job, at, key, demoted, drops, .. } => {
                    changes.extend(drops.iter().map(|key| Change::Drop { key: key.to_bytes() }));
                    if let Some(to) = demoted {
                        changes.push(Change::Rename { key: key.to_bytes(), to: to.to_bytes() });
                    }
                    let record = jobs[*job].records[*at].to_record();
                    changes.push(Change::Put { key: key.to_bytes(), record: codec::encode(&record) });
                }
                Step::Also { key, vendors, again } => {
                    changes.push(Change::Also { key: key.to_bytes(), vendors: vendors.clone(), again: *again })
                }
                Step::Suspect(suspicion) => changes.push(Change::Suspect(suspicion.clone())),
                Step::Prove { .. } => {}
            }
        }
        let proofs = steps.iter().filter_map(|step| match step {
            Step::Prove { proof, .. } => Some(proof),
            _ => None,
        });
        changes.extend(
            proofs.map(|proof| Change::Put { key: proof.key().to_bytes(), record: codec::encode(&proof.to_record()) }),
        );
        let cursors = jobs.iter().filter_map(|job| job.cursor);
        changes.extend(cursors.map(|Cursor { mirror, log, cursor }| Change::Cursor { mirror, log, cursor }));
        changes.extend(jobs.iter().filter_map(|job| job.looked_at).map(Change::LookedAt));
        if changes.is_empty() { Ok(Vec::new()) } else { self.shared.store.apply(&changes) }
    }

    /// Reads the table from disk after a failed write. Returns whether that went well.
    fn recover(&mut self) -> bool {
        match self.shared.store.reload() {
            Ok(content) => {
                self.shared.state().replace(content, self.shared.steady());
                self.failed = false;
            }
            Err(error) => {
                tracing::error!(%error, "the mirror's records cannot be read; nothing new is taken until they can")
            }
        }
        !self.failed
    }
}

/// Leases that a vendor's record that is about to be merged leaves out; they may yet turn out to have been released.
fn suspect(state: &mut State, record: &Verified, now: UnixMs) -> Vec<Suspicion> {
    let Verified::Vendor(vendor) = record else { return Vec::new() };
    state.suspicions.notice(&state.table, vendor, now)
}

/// The proof that a record that is about to be merged makes if it contradicts the head here. It is merged at once.
fn witness(state: &mut State, record: &Verified) -> Option<Verified> {
    let proof = Verified::Proof(Box::new(state.table.twins(record)?));
    let new = matches!(state.table.merge(&proof), Ok(Merged::New { .. }));
    if new {
        state.digest = None;
        tracing::warn!(proof = ?proof.key(), "a vendor signed two heads with one sequence number: it is quarantined");
    }
    new.then_some(proof)
}

/// Notes `vendors` that must see the final FAT of a file although it does not name them.
fn also(state: &mut State, (owner, file): (OwnerId, FileId), vendors: Vec<NodeId>, again: bool) -> Option<Step> {
    if vendors.is_empty() || state.table.fat(owner, file).is_none() {
        return None;
    }
    let known = state.also.entry((owner, file)).or_default();
    let room = FAT_USES_MAX.saturating_sub(known.len());
    let fresh: Vec<NodeId> = vendors.into_iter().filter(|vendor| !known.contains(vendor)).take(room).collect();
    known.extend(&fresh);
    (!fresh.is_empty()).then_some(Step::Also { key: Key::Fat(owner, file), vendors: fresh, again })
}

fn refuse_all(jobs: Vec<Job>) {
    let refusal = || Refusal::new(RefusalKind::Internal, "the mirror's disk failed; ask another mirror");
    for job in jobs {
        let outcomes = job.records.into_iter().map(|record| Outcome { record, kept: Err(refusal()) }).collect();
        let _ = job.reply.send(outcomes);
    }
}

fn size(job: &Job) -> usize {
    job.records.iter().map(encoded_max).sum()
}

/// At least the bytes of the encoded record: bodies, and what surrounds each.
pub(super) fn encoded_max(record: &Verified) -> usize {
    match record {
        Verified::Vendor(vendor) => vendor_max(vendor),
        Verified::Fat(fat) => fat.carried().body_len() + AROUND,
        Verified::Move(..) => fathom_protocol::moves::MOVE_BYTES_MAX + AROUND,
        Verified::Proof(proof) => codec::encode(proof.carried()).len() + AROUND,
    }
}

/// As [`encoded_max`], for a vendor's head and leases.
pub(super) fn vendor_max(vendor: &VerifiedVendor) -> usize {
    let leases: usize = vendor.leases.iter().map(|lease| lease.carried().body_len() + AROUND).sum();
    leases + vendor.head.carried().body_len() + AROUND
}
