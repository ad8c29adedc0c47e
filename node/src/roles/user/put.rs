//! Storing files: lock storage, choose the path, send every chunk, hand in the final FATs (figures 5 to 15).

mod hand_in;
mod outage;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fathom_protocol::fat::Tag;
use fathom_protocol::ids::{FileId, NodeId};
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Wants};
use futures::{StreamExt, TryStreamExt};

use super::catalogue::{Asked, StoredFile, next_tag};
use super::journal::{ChunkRecord, FileRecord, PutRecord};
use super::path::Heads;
use super::placement::{Placement, Slot, check};
use super::redundancy::Redundancy;
use super::source::{SourceFile, collect};
use super::store::{PutFile, Putting, lock, places};
use super::stripes::StripeRoom;
use super::{User, UserError, blocking, random};
use crate::clock;
use crate::control::results::PutResult;
use crate::control::{ControlEvent, EventSink};

pub(super) use hand_in::ORDER_SECONDS;

/// Longest wait for a vendor that failed earlier to show that it is back.
const LIVENESS: Duration = Duration::from_millis(700);

/// How often copies that grew old are sent again before a put gives up.
const RENEWALS: usize = 3;

/// A put that begins, or goes on.
struct Begun {
    put: Arc<Putting>,
    /// Files that the journal does not know yet.
    fresh: Vec<(FileId, FileRecord)>,
    /// Copies that an earlier run stored.
    resumed: u64,
}

/// The chunk's copies in the columns that this put has, as far as their receipts can be relied on.
fn within(mut chunk: ChunkRecord, columns: u8, trusted_ms: u64) -> ChunkRecord {
    let now = clock::now();
    chunk.copies.retain(|copy| copy.column < columns && now.since_ms(copy.acked) <= trusted_ms);
    chunk
}

/// Plaintext bytes and number of the chunks that have all their copies.
fn complete(files: &[PutFile], columns: u8) -> (u64, u64) {
    let mut complete = (0, 0);
    for file in files {
        let chunks = lock(&file.chunks);
        // Parity is none of the user's data.
        for (index, chunk) in chunks.iter().take_while(|(index, _)| **index < file.chunk_count()) {
            if chunk.copies.len() == file.columns(*index, columns).len() {
                complete.0 += u64::from(file.plain_len(*index));
                complete.1 += 1;
            }
        }
    }
    complete
}

impl User {
    /// Stores the file or tree at `path` under `name`. Interrupted, the same call goes on where it was.
    ///
    /// # Errors
    /// [`UserError`]; what was stored until then is kept for the next attempt.
    pub async fn put(
        self: &Arc<Self>,
        path: &Path,
        name: &str,
        redundancy: Option<Redundancy>,
        (wants, via): (Wants, Vec<String>),
        events: EventSink,
    ) -> Result<PutResult, UserError> {
        let began = Instant::now();
        let redundancy = redundancy.unwrap_or(self.settings.redundancy);
        redundancy.check()?;
        let (from, to) = (path.to_owned(), name.to_owned());
        let (sources, warnings) = blocking(move || collect(&from, &to)).await?;
        let _turn = self.turns.of_command(sources.iter().map(|source| self.keys.file_id(&source.name))).await;
        let stored = self.stored(&sources).await?;
        for file in stored.values() {
            file.settled()?;
        }
        let Begun { put, fresh, resumed } = self.begin(name, sources, redundancy, (wants, via, events), &stored)?;
        let mut result = PutResult {
            warnings,
            resumed_chunks: resumed,
            copies: redundancy.copies(),
            erasure: redundancy.code().map(|code| code.to_string()),
            ..PutResult::default()
        };
        self.lock_storage(&put).await?;
        // Before the first chunk goes out: with which key, under which tag, and where to.
        self.note(&put, fresh).await?;
        self.measure_ways(&put).await;
        self.store_lastingly(&put).await?;
        let handed = self.hand_in(&put).await?;
        result.mirrors_acked = handed.mirrors as u64;
        result.warnings.append(&mut lock(&put.warnings));
        if handed.forked > 0 {
            result.warnings.push(format!(
                "another device stored {} of these files at the same time; both versions are kept: `fathom ls` marks them, and `fathom fat resolve NAME` shows them and keeps one",
                handed.forked
            ));
        }
        result.files = put.files.len() as u64;
        result.bytes = put.bytes_total;
        result.chunks = put.files.iter().map(PutFile::chunk_count).sum();
        result.sent_chunks = put.sent.load(Ordering::Relaxed);
        result.replaced = std::mem::take(&mut *lock(&put.replaced));
        result.seconds = began.elapsed().as_secs_f64();
        Ok(result)
    }

    /// What is stored under the names of the sources.
    async fn stored(self: &Arc<Self>, sources: &[SourceFile]) -> Result<BTreeMap<FileId, StoredFile>, UserError> {
        if let [one] = sources {
            let found = self.newest(self.keys.file_id(&one.name)).await?;
            return Ok(found.into_iter().map(|file| (file.file, file)).collect());
        }
        // Brings the catalogue on this machine up to date; it knows released files, too.
        self.current().await?;
        self.load(sources.iter().map(|source| self.keys.file_id(&source.name)).collect()).await
    }

    /// Matches the sources with what the journal and the mirrors know.
    fn begin(
        self: &Arc<Self>,
        name: &str,
        sources: Vec<SourceFile>,
        redundancy: Redundancy,
        (wants, via, events): (Wants, Vec<String>, EventSink),
        catalogue: &BTreeMap<FileId, StoredFile>,
    ) -> Result<Begun, UserError> {
        let bytes_total = sources.iter().map(|source| source.size).sum();
        let (columns, code) = (redundancy.columns(), redundancy.code());
        let mut files = Vec::with_capacity(sources.len());
        let mut fresh = Vec::new();
        let mut resumed = 0;
        for source in sources {
            let file = self.keys.file_id(&source.name);
            let stored = catalogue.get(&file);
            let next = next_tag(stored.map_or(0, StoredFile::counter), random()?);
            let noted = self.journal.file(file)?;
            let record = match noted {
                Some(record)
                    if (record.source, record.code) == (source.identity, code)
                        && Tag(record.seq).counter() == next.counter() =>
                {
                    record
                }
                // Chunks of a put that was given up carry its tag: no final FAT will name them, and they lapse.
                _ => {
                    let record = FileRecord {
                        put: name.to_owned(),
                        source: source.identity,
                        chunk_plain: redundancy.chunk_plain(source.size),
                        code,
                        file_key: random()?,
                        seq: next.0,
                    };
                    fresh.push((file, record.clone()));
                    record
                }
            };
            let chunks: BTreeMap<u64, _> = match fresh.last() {
                Some((newest, _)) if *newest == file => BTreeMap::new(),
                _ => self
                    .journal
                    .chunks(file)?
                    .into_iter()
                    .map(|(index, chunk)| (index, within(chunk, columns, self.settings.trusted_ms)))
                    .collect(),
            };
            resumed += chunks.values().map(|chunk| chunk.copies.len() as u64).sum::<u64>();
            files.push(PutFile {
                source,
                file,
                seq: record.seq,
                file_key: record.file_key,
                chunk_plain: record.chunk_plain,
                code,
                old_holders: stored.map(StoredFile::holders).unwrap_or_default(),
                follows: stored.map(|stored| stored.follows(None)).unwrap_or_default(),
                chunks: Mutex::new(chunks),
            });
        }
        // The first piece of a file is as long as any chunk, and the last one as any parity shard of a file with several stripes.
        let longest =
            |file: &PutFile| file.stripes().map_or(file.piece_len(0), |stripes| stripes.len(stripes.chunks()));
        let unit = files.iter().filter(|file| file.source.size > 0).map(longest).max().unwrap_or(1);
        let record = self.journal.put(name)?.unwrap_or_default();
        let complete = complete(&files, columns);
        let put = Arc::new(Putting {
            name: name.to_owned(),
            copies: columns,
            code,
            stripes: StripeRoom::new(self.settings.in_flight, columns, unit),
            unit: unit.max(1),
            placement: Mutex::new(self.known_placement(&record, &files)),
            record: Mutex::new(record),
            files,
            replacing: tokio::sync::Mutex::new(()),
            wants,
            via,
            drawn: Mutex::default(),
            round: AtomicU64::new(0),
            warnings: Mutex::default(),
            replaced: Mutex::default(),
            lapsed: Mutex::default(),
            sent: AtomicU64::new(0),
            bytes_done: AtomicU64::new(complete.0),
            chunks_done: AtomicU64::new(complete.1),
            bytes_total,
            events,
        });
        Ok(Begun { put, fresh, resumed })
    }

    async fn note(self: &Arc<Self>, put: &Arc<Putting>, fresh: Vec<(FileId, FileRecord)>) -> Result<(), UserError> {
        let (user, name, record) = (Arc::clone(self), put.name.clone(), lock(&put.record).clone());
        let wait = !put.is_one_chunk();
        blocking(move || user.journal.begin(&name, &record, &fresh, wait)).await
    }

    /// The storage that an earlier run locked, less what it filled. What has expired since shows when it is used.
    fn known_placement(&self, record: &PutRecord, files: &[PutFile]) -> Placement {
        let mut placement = Placement::default();
        for location in &record.locations {
            if let Ok(slot) = check(location, self.owner().into()) {
                placement.add(slot);
            }
        }
        for file in files {
            for (index, chunk) in lock(&file.chunks).iter() {
                for copy in &chunk.copies {
                    placement.resumed(copy.place, copy.column, u64::from(file.piece_len(*index)));
                }
            }
        }
        placement
    }

    /// Locks what is still needed (figures 5 and 6), or takes it from what is locked ahead. If vendors let nobody hold so much that
    /// is not filled, a part of it is locked, and the rest as that fills.
    async fn lock_storage(self: &Arc<Self>, put: &Arc<Putting>) -> Result<(), UserError> {
        let needs = (0..put.copies).map(|column| (column, put.needed(column)));
        let short = needs.filter(|(column, needed)| lock(&put.placement).room(*column) < *needed);
        let short: Vec<(u8, u64)> = short.collect();
        let Some(needed) = short.iter().map(|(_, needed)| *needed).max() else { return Ok(()) };
        if !lock(&put.placement).slots().is_empty() {
            // Columns that an earlier run began keep to vendors of their own.
            for (column, _) in short {
                self.replenish(put, 0, column, u64::from(put.unit), &[]).await?;
            }
            return Ok(());
        }
        if let Some((drawn, slots)) = self.draw(put, needed).await {
            *lock(&put.drawn) = Some(drawn);
            let locations = slots.iter().map(Slot::location).collect();
            self.add_slots(put, slots, locations).await;
        } else {
            let mut bytes = needed;
            let provisional = loop {
                let request = self.request(put, (put.copies, put.width()), bytes, vec![self.net.me()], Vec::new())?;
                match self.allocate(request).await {
                    Err(UserError::Refused(refusal))
                        if refusal.kind == RefusalKind::Unsealed && bytes > u64::from(put.unit) =>
                    {
                        bytes = (bytes / 2).max(u64::from(put.unit));
                        put.round.store(bytes, Ordering::Relaxed);
                    }
                    other => break other?,
                }
            };
            self.warn(put, provisional.warnings.iter().map(ToString::to_string));
            self.add_locations(put, provisional.locations.into_vec(), None).await?;
        }
        Ok(())
    }

    /// Measures the ways to the storage that is locked (figures 7 and 8).
    async fn measure_ways(&self, put: &Putting) {
        let heads: Heads =
            lock(&put.placement).slots().iter().map(|slot| (slot.place.vendor, slot.head.clone())).collect();
        heads.values().for_each(|head| self.net.learn_head(head));
        self.net.probe_uncertain(heads.keys().copied()).await;
        let columns: Vec<Vec<NodeId>> = {
            let placement = lock(&put.placement);
            let of = |column: u8| placement.slots().iter().filter(move |slot| slot.column == column);
            (0..put.copies).map(|column| of(column).map(|slot| slot.place.vendor).collect()).collect()
        };
        let (order, _) = self.store_order(&heads, put.code.is_none().then_some(&columns[..]));
        put.events.send(ControlEvent::Path { order }).await;
    }

    async fn store_all(self: &Arc<Self>, put: &Arc<Putting>) -> Result<(), UserError> {
        let each =
            |(at, file): (usize, &PutFile)| (0..file.job_count()).map(move |index| (at, index)).collect::<Vec<_>>();
        let jobs = put.files.iter().enumerate().flat_map(each);
        let jobs: Vec<(usize, u64)> = jobs.collect();
        futures::stream::iter(jobs)
            .map(|(at, index)| {
                let (user, put) = (Arc::clone(self), Arc::clone(put));
                // A task of its own, so that sealing and sending of several chunks use several cores; aborted with this future.
                let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
                    match put.files[at].stripes() {
                        Some(stripes) => user.store_stripe(&put, at, stripes, index).await,
                        None => user.store_chunk(&put, at, index).await,
                    }
                }));
                async move {
                    task.await.map_err(|error| UserError::Internal(format!("a chunk's task ended early: {error}")))?
                }
            })
            .buffer_unordered(self.settings.in_flight.max(1))
            .try_collect::<()>()
            .await?;
        for file in &put.files {
            file.source.check_unchanged()?;
        }
        Ok(())
    }

    /// Sends copies again that their vendors may have let go: no final FAT names them yet, and this user, or its machine, may
    /// have slept past their leases. A vendor that still has one answers with its receipt and holds it for as long anew.
    async fn renew_old(self: &Arc<Self>, put: &Arc<Putting>) -> Result<(), UserError> {
        for _ in 0..RENEWALS {
            if !self.drop_old(put) {
                return Ok(());
            }
            put.events.note("storage was locked too long ago to be relied on; its copies are sent again").await;
            self.store_all(put).await?;
        }
        match self.drop_old(put) {
            false => Ok(()),
            true => {
                Err(Refusal::new(RefusalKind::LeaseExpired, "the locked storage expired before everything was stored")
                    .into())
            }
        }
    }

    /// Forgets copies that [`Self::renew_old`] is about; whether there were any.
    fn drop_old(&self, put: &Putting) -> bool {
        let (now, lapsed) = (clock::now(), lock(&put.lapsed).clone());
        let mut dropped = false;
        for file in &put.files {
            for (index, chunk) in lock(&file.chunks).iter_mut() {
                let before = chunk.copies.len();
                chunk.copies.retain(|copy| {
                    now.since_ms(copy.acked) <= self.settings.trusted_ms
                        && lapsed.get(&copy.place.vendor).is_none_or(|lapsed| *lapsed < copy.acked)
                });
                if chunk.copies.len() < before {
                    dropped = true;
                    if before == file.columns(*index, put.copies).len() && *index < file.chunk_count() {
                        put.bytes_done.fetch_sub(u64::from(file.plain_len(*index)), Ordering::Relaxed);
                        put.chunks_done.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            }
        }
        dropped
    }

    /// A vendor that failed may hold receipted copies. If it is not back by now, they are stored elsewhere (figure 14).
    async fn replace_dead(self: &Arc<Self>, put: &Arc<Putting>) -> Result<(), UserError> {
        let used: std::collections::BTreeSet<NodeId> = put
            .files
            .iter()
            .flat_map(|file| lock(&file.chunks).values().flat_map(places).map(|place| place.vendor).collect::<Vec<_>>())
            .collect();
        let suspects: Vec<NodeId> =
            used.into_iter().filter(|vendor| self.net.book().behaviour(*vendor).suspected).collect();
        let asked = suspects.into_iter().map(|vendor| async move {
            let answer = self.net.call(vendor, &Request::Ping, LIVENESS).await;
            answer.is_err().then_some(vendor)
        });
        for dead in futures::future::join_all(asked).await.into_iter().flatten() {
            lock(&put.placement).fail(dead);
        }
        let lacks = |file: &PutFile, (index, chunk): (&u64, &ChunkRecord)| {
            !self.missing(put, file.columns(*index, put.copies), chunk).is_empty()
        };
        if put.files.iter().any(|file| lock(&file.chunks).iter().any(|chunk| lacks(file, chunk))) {
            put.events.note("a vendor that took copies is gone; they are stored again elsewhere").await;
            self.store_all(put).await?;
        }
        Ok(())
    }
}
