//! Getting one chunk to all its columns: seal, send, and re-send just the copies that failed (figures 9 to 14).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::erasure::Code;
use fathom_protocol::fat::{Follows, Place, SALT_LEN};
use fathom_protocol::ids::{ChunkId, FileId, NodeId};
use fathom_protocol::seal::{chunk_salt, seal_chunk};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{AllocateRequest, Location, RefusalKind, Wants};

use super::chain::store_seconds;
use super::journal::{ChunkRecord, CopyRecord, PutRecord};
use super::placement::{Placement, Slot, check};
use super::send::{Outcome, SealedChunk};
use super::source::SourceFile;
use super::stock::Drawn;
use super::stripes::StripeRoom;
use super::{User, UserError, blocking, nonce};
use crate::clock;
use crate::control::results::Replaced;
use crate::control::{ControlEvent, EventSink};
use crate::net::Class;

/// Rounds of sending for one chunk in a row that bring nothing, before the put gives up. Each excludes the vendors that failed
/// in the ones before.
pub(super) const ROUNDS: usize = 6;
/// Vendors wanted for each copy, so that chunks spread and one that fails has a neighbour.
const WIDTH: u8 = 2;
/// Vendors wanted for each column of shards: there are many columns, and vendors that serve none are there to take the place of one
/// that fails.
const WIDTH_OF_SHARDS: u8 = 1;
/// Pause before a vendor that was busy is asked again.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(200);
const REQUEST_SECONDS: u64 = 60;
/// Bytes that are locked at a time for a column that ran out.
const REPLENISH_MAX: u64 = 256 << 20;
/// Warnings of one put about where copies lie.
const WARNINGS_MAX: usize = 16;

/// A file of a put while it is stored.
pub(super) struct PutFile {
    /// The source.
    pub source: SourceFile,
    /// Its identifier.
    pub file: FileId,
    /// Tag of its chunks.
    pub seq: u64,
    /// Key of its chunks.
    pub file_key: [u8; 32],
    /// Plaintext bytes of each chunk but the last.
    pub chunk_plain: u32,
    /// How parity is made of its chunks, if it is.
    pub code: Option<Code>,
    /// Vendors that hold an older version.
    pub old_holders: Vec<NodeId>,
    /// The versions that the put replaces.
    pub follows: Follows,
    /// Pieces with at least one copy, by index: chunks, and after them parity shards.
    pub chunks: Mutex<BTreeMap<u64, ChunkRecord>>,
}

impl PutFile {
    /// Number of chunks.
    pub(super) fn chunk_count(&self) -> u64 {
        self.source.size.div_ceil(u64::from(self.chunk_plain))
    }

    /// Plaintext length of piece `index`, bytes; 0 for parity.
    pub(super) fn plain_len(&self, index: u64) -> u32 {
        let left = self.source.size.saturating_sub(index.saturating_mul(u64::from(self.chunk_plain)));
        u32::try_from(left).unwrap_or(u32::MAX).min(self.chunk_plain)
    }
}

/// What came of sending a chunk once.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Whether a vendor was merely busy.
    pub(super) busy: bool,
    /// Whether a copy was stored, or it became known that a lease is full.
    pub(super) useful: bool,
    /// What the last vendor that refused said.
    pub(super) reason: String,
}

/// A put while it runs.
pub(super) struct Putting {
    /// Its name, under which the journal knows it.
    pub name: String,
    /// Columns: copies of each chunk, or shards of a stripe.
    pub copies: u8,
    /// How parity is made, if it is.
    pub code: Option<Code>,
    /// Bounds the stripes in memory.
    pub stripes: StripeRoom,
    /// Length of the longest piece: the unit of allocation.
    pub unit: u32,
    /// The files.
    pub files: Vec<PutFile>,
    /// Where copies go.
    pub placement: Mutex<Placement>,
    /// What of it comes from storage that was locked ahead.
    pub drawn: Mutex<Option<Drawn>>,
    /// The put as the journal has it.
    pub record: Mutex<PutRecord>,
    /// One replacement is looked for at a time; the others then find it.
    pub replacing: tokio::sync::Mutex<()>,
    /// What vendors must be like.
    pub wants: Wants,
    /// For measurements: vendors, by the first digits of their ids, through which chains go in this order.
    pub via: Vec<String>,
    /// Bytes that were locked for each copy at a time, if vendors let nobody hold more; 0 if all was locked at once.
    pub round: AtomicU64,
    /// What a person should know of where copies lie.
    pub warnings: Mutex<Vec<String>>,
    /// Copies that were replaced.
    pub replaced: Mutex<Vec<Replaced>>,
    /// Vendors that said that a lease has expired, and when: what they took before may be gone.
    pub lapsed: Mutex<BTreeMap<NodeId, UnixMs>>,
    /// Copies acknowledged by this run.
    pub sent: AtomicU64,
    /// Plaintext bytes whose chunks are complete.
    pub bytes_done: AtomicU64,
    /// Chunks that are complete.
    pub chunks_done: AtomicU64,
    /// Plaintext bytes in all.
    pub bytes_total: u64,
    /// Where to tell of progress.
    pub events: EventSink,
}

impl Putting {
    /// Vendors wanted for each column.
    pub(super) fn width(&self) -> u8 {
        if self.code.is_some() { WIDTH_OF_SHARDS } else { WIDTH }
    }

    /// Bytes of pieces that a column lacks.
    pub(super) fn needed(&self, column: u8) -> u64 {
        self.files.iter().map(|file| file.needed(column, self.copies)).sum()
    }

    /// Whether it has a single chunk, of which there is nothing to go on from before its receipts are there.
    pub(super) fn is_one_chunk(&self) -> bool {
        self.code.is_none() && self.files.iter().map(PutFile::chunk_count).sum::<u64>() <= 1
    }
}

/// Locks; a panic elsewhere does not spoil the data behind these locks, which hold no half-done change.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl User {
    /// Brings chunk `index` of file `at` to every column that lacks it.
    pub(super) async fn store_chunk(
        self: &Arc<Self>,
        put: &Arc<Putting>,
        at: usize,
        index: u64,
    ) -> Result<(), UserError> {
        let file = &put.files[at];
        let known = lock(&file.chunks).get(&index).cloned();
        let mut record =
            known.clone().unwrap_or(ChunkRecord { id: ChunkId([0; 32]), salt: [0; SALT_LEN], copies: Vec::new() });
        let columns = file.columns(index, put.copies);
        if self.missing(put, columns.clone(), &record).is_empty() {
            return Ok(());
        }
        let counted = record.copies.len() == usize::from(put.copies);
        let chunk = self.seal(put, at, index, &mut record, known.is_some()).await?;
        let mut round = Round::default();
        let mut fruitless = 0;
        while fruitless < ROUNDS {
            let missing = self.missing(put, columns.clone(), &record);
            if missing.is_empty() {
                break;
            }
            let length = chunk.bytes.len() as u64;
            let holders = record.copies.iter().map(|copy| copy.place.vendor);
            let chain = self.choose_chain(put, at, holders, &missing, length).await?;
            let outcome = match self.send_chain(&chunk, &chain).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    chain.iter().for_each(|slot| lock(&put.placement).settle(slot, length, false));
                    return Err(error);
                }
            };
            round = self.note_outcome(put, &chunk, &chain, &outcome, &mut record).await;
            fruitless = if round.useful { 0 } else { fruitless + 1 };
            if !record.copies.is_empty() {
                lock(&file.chunks).insert(index, record.clone());
                self.note_chunk(put, file.file, index, &record).await?;
            }
            if round.busy && fruitless < ROUNDS {
                tokio::time::sleep(BUSY_PAUSE * u32::try_from(fruitless + 1).unwrap_or(1)).await;
            }
        }
        if let Some(column) = self.missing(put, columns, &record).first() {
            let reason = format!("{ROUNDS} rounds of vendors failed, the last one because {}", round.reason);
            return Err(no_place(put, at, *column, reason));
        }
        // A chunk that was complete and lost a vendor was counted before.
        let plain_len = if counted { 0 } else { u64::from(file.plain_len(index)) };
        self.chunk_done(put, plain_len, &record).await;
        Ok(())
    }

    pub(super) async fn note_chunk(
        self: &Arc<Self>,
        put: &Putting,
        file: FileId,
        index: u64,
        record: &ChunkRecord,
    ) -> Result<(), UserError> {
        let (user, record, alone) = (Arc::clone(self), record.clone(), put.is_one_chunk());
        blocking(move || user.journal.chunk(file, index, record, alone)).await
    }

    pub(super) async fn chunk_done(&self, put: &Putting, plain_len: u64, record: &ChunkRecord) {
        let bytes = put.bytes_done.fetch_add(plain_len, Ordering::Relaxed) + plain_len;
        let chunks = put.chunks_done.fetch_add(u64::from(plain_len > 0), Ordering::Relaxed) + u64::from(plain_len > 0);
        put.events.progress(bytes, put.bytes_total, chunks);
        let vendors = record.copies.iter().map(|copy| copy.place.vendor.to_string()).collect();
        put.events.send(ControlEvent::Receipt { chunk: record.id.to_string(), vendors }).await;
    }

    /// Those of `columns` without a copy at a vendor that still works.
    pub(super) fn missing(&self, put: &Putting, columns: Range<u8>, record: &ChunkRecord) -> Vec<u8> {
        let placement = lock(&put.placement);
        let has = |column: u8| {
            record.copies.iter().any(|copy| copy.column == column && !placement.failed().contains(&copy.place.vendor))
        };
        columns.filter(|column| !has(*column)).collect()
    }

    /// Reads and seals the chunk. One that was sealed before must come out the same, else its source changed.
    async fn seal(
        &self,
        put: &Arc<Putting>,
        at: usize,
        index: u64,
        record: &mut ChunkRecord,
        sealed_before: bool,
    ) -> Result<SealedChunk, UserError> {
        let theirs = Arc::clone(put);
        let (bytes, id, salt) = blocking(move || {
            let file = &theirs.files[at];
            let plain = file.source.read(index * u64::from(file.chunk_plain), file.plain_len(index))?;
            let salt = chunk_salt(&file.file_key, index, &plain);
            let sealed = seal_chunk(&file.file_key, index, salt, &plain)?;
            let id = ChunkId::of(&sealed);
            Ok((sealed, id, salt))
        })
        .await?;
        let file = &put.files[at];
        if sealed_before && id != record.id {
            return Err(UserError::SourceChanged(file.source.path.clone()));
        }
        (record.id, record.salt) = (id, salt);
        Ok(SealedChunk { file: file.file, seq: file.seq, id, class: Class::Foreground, bytes: Arc::new(bytes) })
    }

    /// A slot for each column that is `wanted`, with room for so many bytes, at different vendors, none of which is one of `holders`.
    pub(super) async fn choose(
        &self,
        put: &Arc<Putting>,
        at: usize,
        holders: impl IntoIterator<Item = NodeId>,
        wanted: &[(u8, u64)],
    ) -> Result<Vec<Slot>, UserError> {
        let mut avoid: Vec<NodeId> = holders.into_iter().collect();
        let mut chosen: Vec<Slot> = Vec::with_capacity(wanted.len());
        for (column, length) in wanted {
            let taken = loop {
                let seconds = |vendor: NodeId, in_flight: u32| store_seconds(&self.net, vendor, in_flight, *length);
                let taken = lock(&put.placement).take(*column, *length, &avoid, seconds);
                match taken {
                    Some(slot) => break Ok(slot),
                    None => {
                        if let Err(error) = self.replenish(put, at, *column, *length, &avoid).await {
                            break Err(error);
                        }
                    }
                }
            };
            match taken {
                Ok(slot) => {
                    avoid.push(slot.place.vendor);
                    chosen.push(slot);
                }
                Err(error) => {
                    let taken = chosen.iter().zip(wanted);
                    taken.for_each(|(slot, (_, length))| lock(&put.placement).settle(slot, *length, false));
                    return Err(error);
                }
            }
        }
        Ok(chosen)
    }

    /// Books what the vendors said.
    pub(super) async fn note_outcome(
        &self,
        put: &Arc<Putting>,
        chunk: &SealedChunk,
        chain: &[Slot],
        outcome: &Outcome,
        record: &mut ChunkRecord,
    ) -> Round {
        let length = chunk.bytes.len() as u64;
        let mut round = Round::default();
        for slot in chain {
            let vendor = slot.place.vendor;
            let said = outcome.get(&vendor);
            // A vendor that had the chunk already may have it under another lease; then this room is still free.
            let filled = matches!(said, Some(Ok(receipt)) if receipt.lease == slot.place.lease);
            lock(&put.placement).settle(slot, length, filled);
            match said {
                Some(Ok(receipt)) => {
                    let place = Place { vendor, lease: receipt.lease };
                    record.copies.retain(|copy| copy.column != slot.column);
                    record.copies.push(CopyRecord { column: slot.column, place, acked: clock::now() });
                    put.sent.fetch_add(1, Ordering::Relaxed);
                    round.useful = true;
                }
                Some(Err(refusal)) => {
                    round.reason = refusal.to_string();
                    match refusal.kind {
                        RefusalKind::Busy => round.busy = true,
                        // Room that is not there is no fault: an earlier attempt whose receipt was lost may fill it.
                        RefusalKind::OverLease | RefusalKind::NoSpace => {
                            self.stock.forget(vendor);
                            round.useful |= lock(&put.placement).exhaust(slot);
                        }
                        RefusalKind::LeaseExpired | RefusalKind::UnknownLease => {
                            self.stock.forget(vendor);
                            lock(&put.lapsed).insert(vendor, clock::now());
                            round.useful |= lock(&put.placement).exhaust(slot);
                        }
                        RefusalKind::WrongHash | RefusalKind::WrongLength => {}
                        _ => {
                            self.stock.forget(vendor);
                            lock(&put.placement).fail(vendor);
                            let (chunk, vendor) = (chunk.id.to_string(), vendor.to_string());
                            let replaced = Replaced { chunk, vendor, reason: refusal.reason.to_string() };
                            let Replaced { chunk, vendor, reason } = replaced.clone();
                            lock(&put.replaced).push(replaced);
                            put.events.send(ControlEvent::Replaced { chunk, vendor, reason }).await;
                        }
                    }
                }
                None => {}
            }
        }
        round
    }

    /// Locks more room for a column whose vendors failed or are full, for a piece of `length` bytes and those that follow it.
    pub(super) async fn replenish(
        &self,
        put: &Arc<Putting>,
        at: usize,
        column: u8,
        length: u64,
        avoid: &[NodeId],
    ) -> Result<(), UserError> {
        let before = lock(&put.placement).room(column);
        let _one = put.replacing.lock().await;
        let (now, lost) = {
            let placement = lock(&put.placement);
            (placement.room(column), placement.lost_room(column))
        };
        if now > before && now >= length {
            return Ok(());
        }
        let (mut exclude, zones) = lock(&put.placement).others(column);
        exclude.extend(lock(&put.placement).failed().iter().copied());
        exclude.extend(avoid.iter().copied());
        // A copy on this node's own disks would be lost with it.
        exclude.push(self.net.me());
        exclude.sort_unstable();
        exclude.dedup();
        // What failed vendors held is wanted elsewhere; it is asked for once, since a growing room makes `now` exceed it.
        let round = put.round.load(Ordering::Relaxed);
        let needed = if round == 0 { put.needed(column) } else { 0 };
        let wanted = lost.max(needed).saturating_sub(now).max(round);
        let mut bytes = wanted.clamp(length, length.max(REPLENISH_MAX));
        let provisional = loop {
            let request = self.request(put, (1, 1), bytes, exclude.clone(), zones.clone())?;
            match self.allocate(request).await {
                Ok(provisional) => break provisional,
                Err(UserError::Refused(refusal)) if bytes > length && refusal.kind == RefusalKind::Unsealed => {
                    bytes = (bytes / 2).max(length);
                }
                Err(UserError::Refused(refusal)) if bytes > length && refusal.kind == RefusalKind::NoSpace => {
                    bytes = length;
                }
                Err(UserError::Refused(refusal)) => {
                    return Err(no_place(put, at, column, refusal.reason.to_string()));
                }
                Err(other) => return Err(other),
            }
        };
        self.warn(put, provisional.warnings.iter().map(ToString::to_string));
        self.add_locations(put, provisional.locations.into_vec(), Some(column)).await
    }

    /// Keeps warnings for the put's result, each once.
    pub(super) fn warn(&self, put: &Putting, warnings: impl IntoIterator<Item = String>) {
        let mut known = lock(&put.warnings);
        for warning in warnings {
            if known.len() < WARNINGS_MAX && !known.contains(&warning) {
                known.push(warning);
            }
        }
    }

    /// An allocation request in this user's name, for so many copies with so many vendors each.
    pub(super) fn request(
        &self,
        put: &Putting,
        (copies, width): (u8, u8),
        bytes: u64,
        exclude: Vec<NodeId>,
        avoid_zones: Vec<String>,
    ) -> Result<AllocateRequest, UserError> {
        Ok(AllocateRequest {
            version: fathom_protocol::tags::VERSION,
            owner: self.owner(),
            authority: self.owner().into(),
            file: None,
            copies,
            width,
            bytes,
            unit: put.unit,
            exclude: Bounded::first(exclude),
            avoid_zones: Bounded::first(avoid_zones.iter().map(|zone| Text::cut(zone))),
            wants: put.wants.clone(),
            nonce: nonce()?,
            expires: clock::now().plus_seconds(REQUEST_SECONDS),
        })
    }

    /// Takes locations of a provisional FAT into the placement and the journal, and shows them. `column` overrides theirs.
    pub(super) async fn add_locations(
        &self,
        put: &Arc<Putting>,
        mut locations: Vec<Location>,
        column: Option<u8>,
    ) -> Result<(), UserError> {
        let mut slots = Vec::with_capacity(locations.len());
        for location in &mut locations {
            location.column = column.unwrap_or(location.column);
            slots.push(check(location, self.owner().into())?);
        }
        self.add_slots(put, slots, locations).await;
        Ok(())
    }

    pub(super) async fn add_slots(&self, put: &Arc<Putting>, slots: Vec<Slot>, mut locations: Vec<Location>) {
        let shown = slots.iter().map(Slot::shown).collect();
        slots.into_iter().for_each(|slot| lock(&put.placement).add(slot));
        lock(&put.record).locations.append(&mut locations);
        put.events.send(ControlEvent::Provisional { locations: shown }).await;
    }
}

/// The error for a chunk or shard for which no vendor was found.
pub(super) fn no_place(put: &Putting, at: usize, column: u8, reason: String) -> UserError {
    let file = &put.files[at];
    let (name, column, code) = (file.source.name.clone(), usize::from(column) + 1, file.code);
    UserError::NoPlace { name, column, code, reason }
}

/// The places of a chunk's copies that count, in the order of columns.
pub(super) fn places(record: &ChunkRecord) -> Vec<Place> {
    let mut copies = record.copies.clone();
    copies.sort_unstable_by_key(|copy| copy.column);
    copies.into_iter().map(|copy| copy.place).collect()
}
