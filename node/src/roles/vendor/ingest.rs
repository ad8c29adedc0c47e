//! A chunk comes in (figures 11 to 13): its header is checked, its bytes are kept, hashed, stored and sent on, and the
//! answers of this vendor and of those behind it go back on the same stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fathom_overlay::{PeerStream, frame};
use fathom_protocol::clocks::Dated;
use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::fat::{Fate, Tag};
use fathom_protocol::header::{Arrived, Header, HeaderError, Hop, consents_knowing};
use fathom_protocol::ids::{ChunkId, Hash, LeaseId};
use fathom_protocol::limits::{ANSWER_BYTES_MAX, HEADER_BYTES_MAX, HOPS_MAX};
use fathom_protocol::receipt::{Receipt, ValidatedPart};
use fathom_protocol::sign::{Carried, RecordError, Signed, SignerId};
use fathom_protocol::tags;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{ALIVE_EVERY_MS, ChunkAnswer, Refusal, RefusalKind};
use fathom_store::{ChunkEntry, ChunkState, ChunkTag, FatHealth, Inserted, SplitPolicy, StoredPart};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::body::Body;
use super::{Vendor, fat_refusal, forward, lock, store_refusal};
use crate::clock;
use crate::net::SILENCE;

/// Longest time for a peer to send a header (invariant 11).
const HEADER_WAIT: Duration = Duration::from_secs(5);
/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Longest time without a byte of a body that is on its way. Longer than [`SILENCE`]: a sender with a slow uplink and many chunks
/// in flight is no fault of anybody's.
const BODY_STALL: Duration = Duration::from_secs(5);
/// Bytes of a body per second, over all of its time, below which it is given up.
const BODY_BYTES_PER_S_MIN: u64 = 8 * 1024;
/// How long a body may be slower than that.
const SLOW_START: Duration = Duration::from_secs(10);
/// Answers that wait for the stream: one of each vendor on the way.
const ANSWERS_QUEUED: usize = HOPS_MAX;
/// How long and how far a refused body is read, so that its sender hears the refusal rather than a broken stream.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// What this vendor does with the chunk.
pub(super) enum Task {
    /// It has it already.
    Known,
    /// It stores it.
    Store(Admission),
}

/// Room taken in a lease for one chunk. Given back on drop, unless the chunk became durable.
pub(super) struct Admission {
    vendor: Arc<Vendor>,
    lease: LeaseId,
    length: u64,
    open: bool,
}

impl Admission {
    /// The chunk is durable and counted. Blocks if the lease's state changed.
    fn stored(mut self, dated: Dated) -> Result<(), Refusal> {
        self.open = false;
        let vendor = Arc::clone(&self.vendor);
        let changed = lock(&vendor.ledger).settle(dated, self.lease, self.length, true)?;
        if changed {
            vendor.settle_accounts()?;
        }
        vendor.touch();
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.open {
            // Giving room back changes no signature, so it cannot fail.
            let _ = lock(&self.vendor.ledger).settle(clock::now(), self.lease, self.length, false);
        }
    }
}

fn header_refusal(error: &HeaderError) -> Refusal {
    let kind = match error {
        HeaderError::Hop { error: RecordError::BadSignature, .. } | HeaderError::NoConsent(_) => {
            RefusalKind::NotAuthorised
        }
        HeaderError::Hop { error: RecordError::Version(_), .. } | HeaderError::Version(_) => RefusalKind::Version,
        HeaderError::Expired => RefusalKind::LeaseExpired,
        _ => RefusalKind::BadRequest,
    };
    Refusal::new(kind, error.to_string())
}

impl Vendor {
    /// Serves one inbound chunk stream to its end.
    pub async fn chunk(self: &Arc<Self>, stream: PeerStream) {
        let peer = stream.peer();
        let (mut reader, writer) = tokio::io::split(stream);
        let Ok(header) = frame::read_frame_within(&mut reader, HEADER_BYTES_MAX, HEADER_WAIT).await else { return };
        let (answers, queue) = mpsc::channel(ANSWERS_QUEUED);
        let admitted = async {
            let header: Header = codec::decode(&header, HEADER_BYTES_MAX)
                .map_err(|error| Refusal::new(RefusalKind::BadRequest, error.to_string()))?;
            let arrived =
                header.arrive_knowing(self.me, clock::now(), &self.familiar).map_err(|error| header_refusal(&error))?;
            let place = self.transfers.incoming(peer).await?;
            self.wait_for_step().await;
            let (task, receipt) = self.admit(&arrived.mine).await?;
            Ok::<_, Refusal>((arrived, place, task, receipt))
        };
        match admitted.await {
            Ok((arrived, _place, task, receipt)) => {
                if let Some(receipt) = receipt {
                    let _ = answers.send(ChunkAnswer::Receipt(receipt)).await;
                }
                tokio::join!(answer(writer, queue), self.take(&mut reader, arrived, task, answers));
            }
            Err(refusal) => {
                tracing::debug!(peer = %peer.short(), %refusal, "chunk refused");
                let _ = answers.send(ChunkAnswer::Failed { vendor: self.me, refusal }).await;
                drop(answers);
                answer(writer, queue).await;
                drain(&mut reader).await;
            }
        }
    }

    /// Finds the chunk here, or takes room for it.
    pub(super) async fn admit(
        self: &Arc<Self>,
        hop: &Signed<Hop>,
    ) -> Result<(Task, Option<Carried<Receipt>>), Refusal> {
        let hop = hop.clone();
        self.blocking(move |vendor| {
            let lease = consents_knowing(&hop, &vendor.familiar).map_err(Refusal::from)?;
            // A local FAT from a backup may name chunks that are not here, under leases that are no more.
            vendor.in_step_or_busy()?;
            if let Some(entry) = vendor.fat.chunk(hop.owner, hop.chunk).map_err(|error| fat_refusal(&error))? {
                let receipt = vendor.receipt_of(&entry)?;
                vendor.hold_on(&entry, is_owners(&hop))?;
                return Ok((Task::Known, Some(receipt)));
            }
            let (owner, file) = (hop.owner, hop.file);
            let known = vendor.fat.versions_of(owner, file).map_err(|error| fat_refusal(&error))?;
            if known.iter().any(|known| known.lineage().fate(Tag(hop.seq)) == Fate::Past) {
                return Err(Refusal::new(
                    RefusalKind::Stale,
                    "a newer final FAT has replaced the version of this chunk",
                ));
            }
            let now = vendor.dating_clock().at;
            lock(&vendor.ledger).admit(now, &hop, lease.id).map_err(|refusal| match refusal.kind {
                // This vendor signed the lease, so one that is unknown by now has lapsed.
                RefusalKind::UnknownLease if lease.room_expires < now => {
                    Refusal::new(RefusalKind::LeaseExpired, "the lease's room has expired; ask for storage again")
                }
                _ => refusal,
            })?;
            let length = u64::from(hop.length);
            Ok((Task::Store(Admission { vendor: Arc::clone(vendor), lease: lease.id, length, open: true }), None))
        })
        .await
    }

    /// Reads the body, stores it, and sends it on.
    async fn take(
        self: &Arc<Self>,
        reader: &mut ReadHalf<PeerStream>,
        arrived: Arrived,
        task: Task,
        answers: mpsc::Sender<ChunkAnswer>,
    ) {
        let Arrived { mine, next, rest } = arrived;
        let body = Body::expecting(mine.length);
        let own = async {
            let stored = match read_body(reader, &body, &mine).await {
                Ok(bytes) => {
                    self.transfers.count(bytes.len());
                    self.keep(task, mine, bytes).await
                }
                Err(refusal) => {
                    body.fail();
                    // A chunk that is here already stays good, whatever became of its repetition.
                    if matches!(task, Task::Known) { Ok(None) } else { Err(refusal) }
                }
            };
            let own = match stored {
                Ok(None) => return,
                Ok(Some(receipt)) => ChunkAnswer::Receipt(receipt),
                Err(refusal) => ChunkAnswer::Failed { vendor: self.me, refusal },
            };
            let _ = answers.send(own).await;
        };
        let onward = async {
            if let Some(next) = &next {
                forward::send(&self.net, next, &rest, &body, &answers).await;
            }
        };
        tokio::join!(own, onward);
    }

    /// Stores a whole body; no receipt if it was answered before.
    async fn keep(
        self: &Arc<Self>,
        task: Task,
        hop: Signed<Hop>,
        bytes: Bytes,
    ) -> Result<Option<Carried<Receipt>>, Refusal> {
        match task {
            Task::Known => Ok(None),
            Task::Store(admission) => {
                self.blocking(move |vendor| vendor.store(admission, &hop, &bytes)).await.map(Some)
            }
        }
    }

    /// Makes the chunk and its place in the local FAT durable, then signs for it. Blocks.
    pub(super) fn store(&self, admission: Admission, hop: &Hop, bytes: &[u8]) -> Result<Carried<Receipt>, Refusal> {
        if ChunkId::of(bytes) != hop.chunk {
            return Err(Refusal::new(RefusalKind::WrongHash, "the bytes are not the chunk that was announced"));
        }
        let _storing = self.storing.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lease = admission.lease;
        let tag = ChunkTag { owner: hop.owner, chunk: hop.chunk, file: hop.file, seq: hop.seq, lease };
        let split = SplitPolicy { part_bytes_max: hop.split.part_bytes_max, parts_min: hop.split.parts_min };
        let parts = self.devices.store_chunk(&tag, bytes, split).map_err(|error| store_refusal(&error))?;
        let dated = self.dating_clock();
        let insert = || {
            let receipt = self.sign_receipt(&tag, bytes, &parts, dated.at)?;
            let mut entry = ChunkEntry::stored(&tag, hop.length, parts.clone(), codec::encode(&receipt), dated.at);
            entry.state = ChunkState::arrived(is_owners(hop));
            let inserted = self.fat.insert_chunk(&entry, None, None).map_err(|error| fat_refusal(&error))?;
            Ok::<_, Refusal>((receipt, inserted))
        };
        match insert() {
            Ok((receipt, Inserted::New)) => {
                admission.stored(dated)?;
                Ok(receipt)
            }
            Ok((_, Inserted::AlreadyThere(entry))) => {
                self.take_back(&parts);
                self.receipt_of(&entry)
            }
            Err(refusal) => {
                if self.is_without(&tag) {
                    self.take_back(&parts);
                }
                Err(refusal)
            }
        }
    }

    /// Whether the local FAT surely has no entry of a chunk. A commit that failed may have reached the disk all the same, and then
    /// the entry needs its parts; parts that no entry names are removed at the next start.
    fn is_without(&self, tag: &ChunkTag) -> bool {
        matches!(self.fat.chunk(tag.owner, tag.chunk), Ok(None))
    }

    fn take_back(&self, parts: &[StoredPart]) {
        for (part, error) in self.devices.remove_parts(parts) {
            tracing::warn!(device = %part.device.short(), %error, "a part of a chunk that was not kept stays until the next start");
        }
    }

    fn sign_receipt(
        &self,
        tag: &ChunkTag,
        bytes: &[u8],
        parts: &[StoredPart],
        stored: UnixMs,
    ) -> Result<Carried<Receipt>, Refusal> {
        let validated = |part: &StoredPart| {
            let payload = bytes.get(part.offset as usize..(part.offset + part.length) as usize).unwrap_or_default();
            ValidatedPart { device: part.device, hash: Hash::of(payload), offset: part.offset, length: part.length }
        };
        let receipt = Receipt {
            version: tags::VERSION,
            vendor: self.me,
            owner: tag.owner,
            lease: tag.lease,
            file: tag.file,
            seq: tag.seq,
            chunk: tag.chunk,
            length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            parts: Bounded::first(parts.iter().map(validated)),
            stored,
        };
        Ok(Signed::sign(receipt, self.net.key())?.into_carried())
    }

    /// Whoever sends a chunk again relies on it again: one that no final FAT names is kept for as long as a new one. If that is its
    /// owner, its final FAT means this copy, whatever becomes of the move that brought it. Blocks.
    fn hold_on(&self, entry: &ChunkEntry, from_owner: bool) -> Result<(), Refusal> {
        if !entry.state.lapses() {
            return Ok(());
        }
        let (key, dated) = (entry.key(), self.dating_clock());
        let named = entry.state == ChunkState::Sent && from_owner;
        if named || dated.at.since_ms(entry.stored_at) > self.settings.terms.lock_ms / 8 {
            self.durable(|tx| {
                if named {
                    tx.set_state(&key, ChunkState::Stored)?;
                }
                tx.set_stored_at(&key, dated.at)
            })?;
        }
        // A crash may have come between the chunk and its lease's prolongation: then the lease would lapse under it.
        if lock(&self.ledger).settle(dated, entry.lease, 0, true)? {
            self.settle_accounts()?;
        }
        Ok(())
    }

    /// The receipt of a chunk that is here. One that a rebuild lost is signed anew over the bytes as they are. Blocks.
    fn receipt_of(&self, entry: &ChunkEntry) -> Result<Carried<Receipt>, Refusal> {
        // After a sync that failed, what is read may never reach the disk.
        if let FatHealth::Failed { reason } = self.fat.health() {
            let reason =
                format!("the local FAT's disk failed ({reason}); this vendor signs nothing until it is restarted");
            return Err(Refusal::new(RefusalKind::Internal, reason));
        }
        if matches!(entry.state, ChunkState::Leaving { .. }) {
            return Err(Refusal::new(
                RefusalKind::Conflict,
                "this chunk was moved to another vendor and leaves this one",
            ));
        }
        if !entry.receipt.is_empty() {
            return codec::decode(&entry.receipt, ANSWER_BYTES_MAX)
                .map_err(|error| Refusal::new(RefusalKind::Internal, format!("a stored receipt is damaged: {error}")));
        }
        let bytes = self.devices.read_chunk(&entry.parts).map_err(|error| store_refusal(&error))?;
        let tag =
            ChunkTag { owner: entry.owner, chunk: entry.chunk, file: entry.file, seq: entry.seq, lease: entry.lease };
        let receipt = self.sign_receipt(&tag, &bytes, &entry.parts, entry.stored_at)?;
        self.durable(|tx| tx.set_receipt(&entry.key(), &codec::encode(&receipt)))?;
        Ok(receipt)
    }
}

/// Whether a chunk comes from its owner, and not from a vendor that moves it.
fn is_owners(hop: &Hop) -> bool {
    hop.authority == SignerId::from(hop.owner)
}

/// Reads exactly the chunk. The last bytes are passed on only when it is sure that none follow them.
async fn read_body(reader: &mut ReadHalf<PeerStream>, body: &Body, hop: &Hop) -> Result<Bytes, Refusal> {
    let wrong = |what: &str| {
        Err(Refusal::new(RefusalKind::WrongLength, format!("{} bytes were announced and {what}", hop.length)))
    };
    let length = hop.length as usize;
    let started = Instant::now();
    // Set to zero once: a stream sets what is not, and each read fills but a little of it.
    let (mut had, mut buffer) = (0, vec![0; READ_BYTES.min(length + 1)]);
    loop {
        let room = READ_BYTES.min(length + 1 - had);
        let read = match tokio::time::timeout(BODY_STALL, reader.read(&mut buffer[..room])).await {
            Ok(Ok(0)) => return wrong(&format!("{had} came")),
            Ok(Ok(read)) => &buffer[..read],
            Ok(Err(error)) => return wrong(&format!("the stream broke after {had}: {error}")),
            Err(_) => return wrong(&format!("nothing more came after {had} of them")),
        };
        had += read.len();
        if had > length {
            return wrong("more came");
        }
        if had == length {
            let mut more = [0];
            // Without waiting: a sender that is done keeps its stream open for the answers.
            if let Ok(Ok(1..)) = tokio::time::timeout(Duration::ZERO, reader.read(&mut more)).await {
                return wrong("more came");
            }
            return Ok(body.finish(read));
        }
        body.append(read);
        let due = started.elapsed().saturating_sub(SLOW_START).as_secs() * BODY_BYTES_PER_S_MIN;
        if (had as u64) < due {
            return wrong(&format!("only {had} came in {} s", started.elapsed().as_secs()));
        }
    }
}

/// Writes answers as they come, signs of life between them, and `Done` after the last.
async fn answer(mut writer: WriteHalf<PeerStream>, mut answers: mpsc::Receiver<ChunkAnswer>) {
    let mut listening = true;
    loop {
        let next = tokio::time::timeout(Duration::from_millis(ALIVE_EVERY_MS), answers.recv()).await;
        let (answer, last) = match next {
            Ok(Some(answer)) => (answer, false),
            Ok(None) => (ChunkAnswer::Done, true),
            Err(_) => (ChunkAnswer::Alive, false),
        };
        // Nobody may be listening any more: the chunk is stored all the same, and the queue must not fill up.
        listening = listening && frame::write_frame_within(&mut writer, &codec::encode(&answer), SILENCE).await.is_ok();
        if last {
            let _ = tokio::time::timeout(SILENCE, writer.shutdown()).await;
            return;
        }
    }
}

/// Reads on for a moment, and forgets.
async fn drain(reader: &mut ReadHalf<PeerStream>) {
    let reading = async {
        let mut bytes = vec![0; READ_BYTES / 4];
        while let Ok(1..) = reader.read(&mut bytes).await {}
    };
    let _ = tokio::time::timeout(DRAIN_WAIT, reading).await;
}
