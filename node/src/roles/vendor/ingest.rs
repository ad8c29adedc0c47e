//! Chunks come in (figures 11 to 13): their headers are checked, their bytes are kept, hashed, stored and sent on, and the
//! answers of this vendor and of those behind it go back on the same stream. Chunks that come together are stored together; each
//! has its own answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fathom_overlay::{PeerStream, frame};
use fathom_protocol::clocks::Dated;
use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::fat::{Fate, Tag};
use fathom_protocol::header::{Arrived, HeaderError, Headers, Hop, Looked, consents_knowing};
use fathom_protocol::ids::LeaseId;
use fathom_protocol::limits::{ANSWER_BYTES_MAX, ANSWERS_BYTES_MAX, ANSWERS_MAX, FIRST_FRAME_BYTES_MAX};
use fathom_protocol::receipt::Receipt;
use fathom_protocol::sign::{Carried, RecordError, Signed, SignerId};
use fathom_protocol::wire::{ALIVE_EVERY_MS, ChunkAnswer, ChunkAnswers, Numbered, Refusal, RefusalKind};
use fathom_store::{ChunkEntry, ChunkState, ChunkTag, FatHealth};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::body::Body;
use super::keep::Keeping;
use super::links::OwnLink;
use super::{Vendor, fat_refusal, forward, lock, store_refusal};
use crate::clock;
use crate::net::SILENCE;

/// Longest time for a peer to send its headers (invariant 11).
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
/// Answers that wait for the stream: one of each vendor on the way about each chunk.
const ANSWERS_QUEUED: usize = ANSWERS_MAX;
/// How long and how far a refused body is read, so that its sender hears the refusal rather than a broken stream.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// What this vendor does with a chunk.
pub(super) enum Task {
    /// It has it already.
    Known,
    /// It does not take it. Vendors behind it may.
    Refused,
    /// It stores it.
    Store(Admission),
}

/// A chunk on its way through: what it is, and what is done with it.
type Taken = (Signed<Hop>, Task);

/// Headers that were admitted.
struct Admitted {
    taken: Vec<Taken>,
    /// What can be said at once.
    answers: Vec<Numbered>,
    /// The next vendor's hop, and the headers to send on.
    next: Option<(Signed<Hop>, Headers)>,
}

/// The answer about chunk `number`.
pub(super) fn about(number: usize, answer: ChunkAnswer) -> Numbered {
    // A stream has fewer chunks than a byte has values.
    Numbered { number: u8::try_from(number).unwrap_or(u8::MAX), answer }
}

/// Room taken in a lease for one chunk. Given back on drop, unless the chunk became durable.
pub(super) struct Admission {
    vendor: Arc<Vendor>,
    pub(super) lease: LeaseId,
    length: u64,
    open: bool,
}

impl Admission {
    /// The chunk is durable and counted. Blocks if the lease's state changed.
    pub(super) fn stored(mut self, dated: Dated) -> Result<(), Refusal> {
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
    /// Serves one inbound stream of chunks to its end.
    pub async fn chunk(self: &Arc<Self>, stream: PeerStream) {
        let peer = stream.peer();
        let (mut reader, writer) = tokio::io::split(stream);
        let Ok(opening) = frame::read_frame_within(&mut reader, FIRST_FRAME_BYTES_MAX, HEADER_WAIT).await else {
            return;
        };
        let (answers, queue) = mpsc::channel(ANSWERS_QUEUED);
        let mut count = 1;
        let admitted = async {
            let headers: Headers = codec::decode(&opening, FIRST_FRAME_BYTES_MAX)
                .map_err(|error| Refusal::new(RefusalKind::BadRequest, error.to_string()))?;
            count = headers.len().max(1);
            let looked = Looked::at(headers, self.me, clock::now()).map_err(|error| header_refusal(&error))?;
            let place = self.transfers.incoming(peer).await?;
            self.wait_for_step().await;
            let admitted = self.blocking(move |vendor| vendor.admit_all(looked)).await?;
            Ok::<_, Refusal>((admitted, place))
        };
        match admitted.await {
            Ok((admitted, _place)) if admitted.taken.iter().any(|(_, task)| !matches!(task, Task::Refused)) => {
                let Admitted { taken, answers: known, next } = admitted;
                for answer in known {
                    let _ = answers.send(answer).await;
                }
                tokio::join!(answer(writer, queue), self.take(&mut reader, taken, next, answers));
            }
            refused => {
                let refused = match refused {
                    Ok((admitted, _)) => admitted.answers,
                    Err(refusal) => {
                        let failed = || ChunkAnswer::Failed { vendor: self.me, refusal: refusal.clone() };
                        (0..count).map(|number| about(number, failed())).collect()
                    }
                };
                tracing::debug!(peer = %peer.short(), ?refused, "chunks refused");
                for answer in refused {
                    let _ = answers.send(answer).await;
                }
                drop(answers);
                answer(writer, queue).await;
                drain(&mut reader).await;
            }
        }
    }

    /// Verifies headers, and finds each chunk here or takes room for it. Blocks.
    ///
    /// # Errors
    /// The refusal of all: one of the headers is not what it should be.
    fn admit_all(self: &Arc<Self>, looked: Looked) -> Result<Admitted, Refusal> {
        let arrived = looked.verify(&self.familiar).map_err(|error| header_refusal(&error))?;
        let mut admitted = Admitted { taken: Vec::with_capacity(arrived.len()), answers: Vec::new(), next: None };
        let mut rests = Vec::with_capacity(arrived.len());
        for (number, Arrived { mine, next, rest }) in arrived.into_iter().enumerate() {
            let task = match self.admit(&mine) {
                Ok((task, receipt)) => {
                    let receipt = receipt.map(|receipt| about(number, ChunkAnswer::Receipt(receipt)));
                    admitted.answers.extend(receipt);
                    task
                }
                Err(refusal) => {
                    admitted.answers.push(about(number, ChunkAnswer::Failed { vendor: self.me, refusal }));
                    Task::Refused
                }
            };
            admitted.taken.push((mine, task));
            rests.push(rest);
            if let Some(next) = next {
                admitted.next.get_or_insert((next, Headers::default()));
            }
        }
        if let Some((_, headers)) = &mut admitted.next {
            *headers = Bounded::first(rests);
        }
        Ok(admitted)
    }

    /// Finds the chunk here, or takes room for it.
    pub(super) fn admit(self: &Arc<Self>, hop: &Signed<Hop>) -> Result<(Task, Option<Carried<Receipt>>), Refusal> {
        let lease = consents_knowing(hop, &self.familiar).map_err(Refusal::from)?;
        // A local FAT from a backup may name chunks that are not here, under leases that are no more.
        self.in_step_or_busy()?;
        if let Some(entry) = self.fat.chunk(hop.owner, hop.chunk).map_err(|error| fat_refusal(&error))? {
            let receipt = self.receipt_of(&entry)?;
            self.hold_on(&entry, is_owners(hop))?;
            return Ok((Task::Known, Some(receipt)));
        }
        let (owner, file) = (hop.owner, hop.file);
        let known = self.fat.versions_of(owner, file).map_err(|error| fat_refusal(&error))?;
        if known.iter().any(|known| known.lineage().fate(Tag(hop.seq)) == Fate::Past) {
            return Err(Refusal::new(RefusalKind::Stale, "a newer final FAT has replaced the version of this chunk"));
        }
        let now = self.dating_clock().at;
        lock(&self.ledger).admit(now, hop, lease.id).map_err(|refusal| match refusal.kind {
            // This vendor signed the lease, so one that is unknown by now has lapsed.
            RefusalKind::UnknownLease if lease.room_expires < now => {
                Refusal::new(RefusalKind::LeaseExpired, "the lease's room has expired; ask for storage again")
            }
            _ => refusal,
        })?;
        let length = u64::from(hop.length);
        Ok((Task::Store(Admission { vendor: Arc::clone(self), lease: lease.id, length, open: true }), None))
    }

    /// Reads the bodies, stores them, and sends them on.
    async fn take(
        self: &Arc<Self>,
        reader: &mut ReadHalf<PeerStream>,
        taken: Vec<Taken>,
        next: Option<(Signed<Hop>, Headers)>,
        answers: mpsc::Sender<Numbered>,
    ) {
        // At most a chunk's bytes, as was seen before.
        let length = taken.iter().map(|(hop, _)| hop.length).sum();
        let body = Body::expecting(length);
        let own = async {
            let said = match read_body(reader, &body, length, &self.link).await {
                Ok(bytes) => {
                    self.transfers.count(bytes.len());
                    self.keep(taken, &bytes).await
                }
                Err(refusal) => {
                    body.fail();
                    // A chunk that is here already stays good, whatever became of its repetition.
                    let stored = |task: &Task| matches!(task, Task::Store(_));
                    let failed = || ChunkAnswer::Failed { vendor: self.me, refusal: refusal.clone() };
                    let each = taken.iter().enumerate().filter(|(_, (_, task))| stored(task));
                    each.map(|(number, _)| about(number, failed())).collect()
                }
            };
            for answer in said {
                let _ = answers.send(answer).await;
            }
        };
        let onward = async {
            if let Some((next, headers)) = &next {
                forward::send(&self.net, next, headers, &body, &answers).await;
            }
        };
        tokio::join!(own, onward);
    }

    /// Stores whole bodies; nothing is said of those that were answered before.
    async fn keep(self: &Arc<Self>, taken: Vec<Taken>, bytes: &Bytes) -> Vec<Numbered> {
        let mut from = 0;
        let mut keeping = Vec::with_capacity(taken.len());
        for (number, (hop, task)) in taken.into_iter().enumerate() {
            let to = from + hop.length as usize;
            if let Task::Store(admission) = task {
                keeping.push(Keeping { number, admission, hop, bytes: bytes.slice(from..to) });
            }
            from = to;
        }
        if keeping.is_empty() {
            return Vec::new();
        }
        let numbers: Vec<usize> = keeping.iter().map(|keeping| keeping.number).collect();
        let stored = self.blocking(move |vendor| Ok(vendor.store(keeping))).await;
        stored.unwrap_or_else(|refusal| {
            let failed = || ChunkAnswer::Failed { vendor: self.me, refusal: refusal.clone() };
            numbers.into_iter().map(|number| about(number, failed())).collect()
        })
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
    pub(super) fn receipt_of(&self, entry: &ChunkEntry) -> Result<Carried<Receipt>, Refusal> {
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
        self.devices.read_chunk(&entry.parts).map_err(|error| store_refusal(&error))?;
        let tag =
            ChunkTag { owner: entry.owner, chunk: entry.chunk, file: entry.file, seq: entry.seq, lease: entry.lease };
        let receipt = self.sign_receipt(&tag, entry.length, &entry.parts, entry.stored_at)?;
        self.durable(|tx| tx.set_receipt(&entry.key(), &codec::encode(&receipt)))?;
        Ok(receipt)
    }
}

/// Whether a chunk comes from its owner, and not from a vendor that moves it.
pub(super) fn is_owners(hop: &Hop) -> bool {
    hop.authority == SignerId::from(hop.owner)
}

/// Reads exactly so many bytes. The last ones are passed on only when it is sure that none follow.
async fn read_body(
    reader: &mut ReadHalf<PeerStream>,
    body: &Body,
    length: u32,
    link: &OwnLink,
) -> Result<Bytes, Refusal> {
    let wrong =
        |what: &str| Err(Refusal::new(RefusalKind::WrongLength, format!("{length} bytes were announced and {what}")));
    let length = length as usize;
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
        link.received(read.len());
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

/// Writes answers as they come, those that wait in one frame, signs of life between them, and `Done` after the last.
async fn answer(mut writer: WriteHalf<PeerStream>, mut answers: mpsc::Receiver<Numbered>) {
    let (mut listening, mut kept) = (true, None);
    loop {
        let next = match kept.take() {
            Some(kept) => Ok(Some(kept)),
            None => tokio::time::timeout(Duration::from_millis(ALIVE_EVERY_MS), answers.recv()).await,
        };
        let (frame, last) = match next {
            Ok(Some(first)) => {
                let mut length = codec::encode(&first).len();
                let mut several = vec![first];
                while let Ok(more) = answers.try_recv() {
                    length += codec::encode(&more).len();
                    // With what precedes them in the frame.
                    if several.len() == ANSWERS_MAX || length + 16 > ANSWERS_BYTES_MAX {
                        kept = Some(more);
                        break;
                    }
                    several.push(more);
                }
                (several, false)
            }
            Ok(None) => (vec![about(0, ChunkAnswer::Done)], true),
            Err(_) => (vec![about(0, ChunkAnswer::Alive)], false),
        };
        // Nobody may be listening any more: the chunk is stored all the same, and the queue must not fill up.
        let frame = codec::encode(&ChunkAnswers::first(frame));
        listening = listening && frame::write_frame_within(&mut writer, &frame, SILENCE).await.is_ok();
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
