//! Repair by the owner: copies that their vendors no longer hold are made again at others, from the copies that are left, and
//! shards from the other shards of their stripe, by the vendors that are to have them.
//!
//! The ciphertext is copied as it is, under the tag of the final FAT that follows; what was there before lives on under its own
//! (`base` stays). A large file is repaired in steps, with a final FAT after each. Interrupted, a step starts over, and finds
//! the copies that it made: its tag follows from the node and the file. Copies that no final FAT comes to name lapse at their vendors.

mod pieces;
mod shards;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::fat::{Manifest, Piece, Place, Tag};
use fathom_protocol::ids::{ChunkId, FileId, NodeId};
use fathom_protocol::wire::{AllocateRequest, Refusal, RefusalKind, Wants};
use futures::StreamExt;

use super::catalogue::{Asked, FILES_AT_ONCE, open_manifest};
use super::chain::store_seconds;
use super::fetch::Sources;
use super::placement::{Placement, Slot, check};
use super::send::SealedChunk;
use super::store::lock;
use super::successor::Keep;
use super::survey::Gone;
use super::{StoredFile, User, UserError, nonce};
use crate::clock;
use crate::control::EventSink;
use crate::control::results::{RepairResult, Unrepaired};
use crate::net::Class;
use pieces::{broken, with_copies};

/// Rounds in a row that make no copy, before a file is given up for now.
const ROUNDS: usize = 3;
/// Vendors among which the copies of one step spread.
const WIDTH: u8 = 2;
/// Chunks under way at a time: repair leaves room for what its user waits for.
const IN_FLIGHT: usize = 2;
/// Bytes of copies that are made before a final FAT names them.
const STEP_BYTES: u64 = 1 << 30;
const REQUEST_SECONDS: u64 = 60;

/// A step of a repair while it runs.
struct Step<'a> {
    file: &'a StoredFile,
    manifest: &'a Manifest,
    /// Tag of the copies that are made.
    tag: Tag,
    placement: Mutex<Placement>,
    sources: Sources,
    /// Vendors that get no copy: this node, those that are given up, and those from which chunks of the file were moved away.
    barred: BTreeSet<NodeId>,
    /// What is missing of the file.
    missing: &'a BTreeSet<(ChunkId, Place)>,
    /// Shards that their new vendors made themselves.
    rebuilt: AtomicU64,
    /// Why the last copy was not made.
    reason: Mutex<Option<UserError>>,
}

/// A chunk of which copies are missing, or a shard.
struct Broken {
    /// Its number among the file's pieces.
    index: usize,
    /// Its stripe, if the file has parity.
    stripe: Option<u64>,
    /// Vendors that have other shards of the stripe, and are to have no second one.
    beside: BTreeSet<NodeId>,
    chunk: ChunkId,
    length: u32,
    /// Where it is still.
    good: Vec<Place>,
    /// Where this step brought it.
    made: Vec<Place>,
    /// Vendors that are given up and may have it still.
    given_up: Vec<NodeId>,
    /// Copies to be made.
    missing: usize,
}

impl Broken {
    /// Vendors that have a copy.
    fn copies(&self) -> BTreeSet<NodeId> {
        self.good.iter().chain(&self.made).map(|place| place.vendor).collect()
    }

    /// Vendors that are to have no other copy, or shard.
    fn holders(&self) -> BTreeSet<NodeId> {
        self.copies().into_iter().chain(self.beside.iter().copied()).collect()
    }
}

/// What came of a step.
struct Made {
    /// Copies that a final FAT names now.
    made: u64,
    /// Those of them that their vendors made.
    rebuilt: u64,
    /// Chunks that lack copies still.
    left: Vec<ChunkId>,
    /// Why.
    reason: Option<UserError>,
}

/// What a repair did to one file.
#[derive(Debug, Default)]
struct Mended {
    lost: u64,
    made: u64,
    rebuilt: u64,
}

impl User {
    /// Renews all leases of this user, finds copies that are gone, and makes those of the files called `names`, or of all
    /// files, again at other vendors. `without` are vendors that the user gives up, by the first digits of their ids: what they
    /// have is copied elsewhere.
    ///
    /// # Errors
    /// [`UserError`] if files or mirrors cannot be read, or if not exactly one vendor of this user is meant. What could not be
    /// repaired is in the result.
    pub async fn repair(
        self: &Arc<Self>,
        names: &[String],
        without: &[String],
        events: EventSink,
    ) -> Result<RepairResult, UserError> {
        let mut files: Option<Vec<FileId>> = None;
        for name in names {
            let found = self.find(name).await?.into_iter().map(|file| file.file);
            files.get_or_insert_default().extend(found);
        }
        let mut claims = self.claims().await?;
        let used: BTreeSet<NodeId> = claims.keys().map(|place| place.vendor).collect();
        let given_up = without.iter().map(|prefix| one_vendor(prefix, &used)).collect::<Result<Vec<_>, _>>()?;
        claims.retain(|place, _| !given_up.contains(&place.vendor));
        let leases = claims.len() as u64;
        self.heads(used.clone()).await?;
        let survey = self.survey(claims).await;
        let mut gone = survey.gone;
        gone.extend(self.proven(&used).await);
        gone.vendors.extend(given_up);
        let mut result = self.mend_all(files, &gone, &events).await?;
        (result.leases, result.unanswered) = (leases, survey.open.len() as u64);
        Ok(result)
    }

    /// Makes what is `gone` of `files`, or of all files, again.
    pub(super) async fn mend_all(
        self: &Arc<Self>,
        files: Option<Vec<FileId>>,
        gone: &Gone,
        events: &EventSink,
    ) -> Result<RepairResult, UserError> {
        let _one_at_a_time = self.mending.lock().await;
        let files = match files {
            Some(files) => files,
            None => self.list().await?.files.into_iter().map(|line| line.file).collect(),
        };
        let mut result = RepairResult { files: files.len() as u64, ..RepairResult::default() };
        if gone.is_empty() {
            return Ok(result);
        }
        for some in files.chunks(FILES_AT_ONCE) {
            for file in self.load(some.to_vec()).await?.into_values() {
                if !file.places().iter().any(|place| gone.concerns(*place)) {
                    continue;
                }
                let mut mended = Mended::default();
                let done = self.mend(file.file, gone, &mut mended, events).await;
                result.lost_copies += mended.lost;
                result.made_copies += mended.made;
                result.made_by_vendors += mended.rebuilt;
                let name = || file.manifest().map(|manifest| manifest.name.to_string()).unwrap_or_default();
                match done {
                    Ok(()) => result.repaired += u64::from(mended.made > 0),
                    Err(error) => {
                        tracing::warn!(name = name(), %error, "a file was not repaired");
                        result.failed.push(Unrepaired { name: name(), reason: error.to_string() });
                    }
                }
            }
        }
        Ok(result)
    }

    /// Repairs one file, step by step. A chunk that cannot be repaired does not keep the others from it.
    async fn mend(
        self: &Arc<Self>,
        file: FileId,
        gone: &Gone,
        mended: &mut Mended,
        events: &EventSink,
    ) -> Result<(), UserError> {
        // Not as the catalogue has it: a chunk that was moved since is missing where it was.
        let Some(mut file) = self.newest(file).await? else { return Ok(()) };
        let Some(manifest) = file.settled()?.manifest() else { return Ok(()) };
        let missing = self.missing_copies(manifest, gone).await;
        let mut hopeless: BTreeSet<ChunkId> = BTreeSet::new();
        let mut reason = None;
        loop {
            let Some(manifest) = file.settled()?.manifest() else { return Ok(()) };
            let mut broken = broken(manifest, &missing, gone);
            if mended.lost == 0 {
                mended.lost = broken.iter().map(|broken| broken.missing as u64).sum();
            }
            broken.retain(|broken| !hopeless.contains(&broken.chunk));
            if broken.is_empty() {
                return reason.map_or(Ok(()), Err);
            }
            let (name, chunks) = (manifest.name.as_str(), broken.len());
            events.note(format!("{name}: copies of {chunks} chunks are gone, and are made again")).await;
            let step = self.mend_step(&file, manifest, broken, gone, &missing).await?;
            mended.made += step.made;
            mended.rebuilt += step.rebuilt;
            hopeless.extend(step.left);
            match step.reason {
                // Without room the next chunks fare no better.
                Some(error) if step.made == 0 && !matches!(error, UserError::ChunkLost { .. }) => return Err(error),
                other => reason = reason.or(other),
            }
            if step.made > 0 {
                let newest = self.newest(file.file).await?;
                file = newest.ok_or_else(|| UserError::NotFound(name.to_owned()))?;
            }
        }
    }

    /// The copies of a file that are gone, by chunk and place.
    async fn missing_copies(&self, manifest: &Manifest, gone: &Gone) -> BTreeSet<(ChunkId, Place)> {
        let mut missing = BTreeSet::new();
        let mut doubtful: BTreeMap<Place, Vec<(ChunkId, u32)>> = BTreeMap::new();
        for piece in manifest.pieces() {
            for place in manifest.places_of_piece(&piece) {
                if gone.has(place) {
                    missing.insert((piece.id, place));
                } else if gone.short.contains(&place) {
                    doubtful.entry(place).or_default().push((piece.id, piece.length));
                }
            }
        }
        for (place, chunks) in doubtful {
            missing.extend(self.missing_at(place.vendor, chunks).await.into_iter().map(|chunk| (chunk, place)));
        }
        missing
    }

    /// Makes copies of so many chunks as one final FAT is to name, and hands that in.
    async fn mend_step(
        self: &Arc<Self>,
        file: &StoredFile,
        manifest: &Manifest,
        broken: Vec<Broken>,
        gone: &Gone,
        missing: &BTreeSet<(ChunkId, Place)>,
    ) -> Result<Made, UserError> {
        let me = self.net.me();
        let moved = file.moves.iter().map(|moved| moved.from);
        let leases = gone.leases.iter().map(|place| place.vendor);
        let sources = Sources::of_class(Class::Background);
        sources.last(gone.vendors.iter().copied());
        let step = Step {
            file,
            manifest,
            // Of this node and this number: a repair that starts over meets the copies that it made before.
            tag: Tag::new(file.counter() + 1, u16::from_le_bytes([me.0[0], me.0[1]])),
            placement: Mutex::default(),
            sources,
            barred: gone.vendors.iter().copied().chain(moved).chain(leases).chain([me]).collect(),
            missing,
            rebuilt: AtomicU64::new(0),
            reason: Mutex::new(None),
        };
        let mut bytes = 0;
        let mut chunks: Vec<Broken> = broken
            .into_iter()
            .take_while(|broken| {
                let first = bytes == 0;
                bytes += u64::from(broken.length) * broken.missing as u64;
                first || bytes <= STEP_BYTES
            })
            .collect();
        let wanted: usize = chunks.iter().map(|chunk| chunk.missing).sum();
        let mut fruitless = 0;
        while fruitless < ROUNDS && chunks.iter().any(|chunk| chunk.missing > 0) {
            let made = self.mend_round(&step, &mut chunks).await;
            fruitless = if made > 0 { 0 } else { fruitless + 1 };
        }
        let made = (wanted - chunks.iter().map(|chunk| chunk.missing).sum::<usize>()) as u64;
        if made > 0 {
            self.hand_in_repair(&step, &chunks, missing).await?;
        }
        lock(&self.used).extend(lock(&step.placement).slots().iter().map(|slot| (slot.place.vendor, slot.head.epoch)));
        let unused = lock(&step.placement).take_unused();
        self.give_back(unused.into_iter().collect()).await;
        let left: Vec<ChunkId> = chunks.iter().filter(|chunk| chunk.missing > 0).map(|chunk| chunk.chunk).collect();
        let reason = lock(&step.reason).take().filter(|_| !left.is_empty());
        let rebuilt = step.rebuilt.load(Ordering::Relaxed).min(made);
        Ok(Made { made, rebuilt, left, reason })
    }

    /// Tries to make one more copy of every chunk that lacks one. Returns how many it made.
    async fn mend_round(self: &Arc<Self>, step: &Step<'_>, chunks: &mut [Broken]) -> usize {
        let mut groups: BTreeMap<BTreeSet<NodeId>, Vec<usize>> = BTreeMap::new();
        let mut stripes = BTreeSet::new();
        for (at, chunk) in chunks.iter().enumerate().filter(|(_, chunk)| chunk.missing > 0) {
            // Of several shards of one stripe the next one must know where the first one went.
            if chunk.stripe.is_some_and(|stripe| !stripes.insert(stripe)) {
                continue;
            }
            groups.entry(chunk.holders()).or_default().push(at);
        }
        let mut made = 0;
        for (holders, members) in groups {
            let bytes = members.iter().map(|at| u64::from(chunks[*at].length)).sum();
            let unit = members.iter().map(|at| chunks[*at].length).max().unwrap_or(1);
            if let Err(error) = self.lock_for_repair(step, &holders, bytes, unit).await {
                *lock(&step.reason) = Some(error);
                continue;
            }
            let shared: &[Broken] = chunks;
            let copies: Vec<(usize, Result<Option<Place>, UserError>)> = futures::stream::iter(members)
                .map(|at| async move { (at, self.copy(step, &shared[at]).await) })
                .buffer_unordered(IN_FLIGHT)
                .collect()
                .await;
            for (at, copied) in copies {
                match copied {
                    Ok(Some(place)) => {
                        chunks[at].made.push(place);
                        chunks[at].missing -= 1;
                        made += 1;
                        let stripe = chunks[at].stripe;
                        for other in chunks.iter_mut().filter(|other| stripe.is_some() && other.stripe == stripe) {
                            other.beside.insert(place.vendor);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => *lock(&step.reason) = Some(error),
                }
            }
        }
        made
    }

    /// Locks room for copies of chunks that `holders` have.
    async fn lock_for_repair(
        &self,
        step: &Step<'_>,
        holders: &BTreeSet<NodeId>,
        mut bytes: u64,
        unit: u32,
    ) -> Result<(), UserError> {
        let heads = self.heads(holders.clone()).await?;
        let zones: BTreeSet<String> = heads.values().map(|head| head.characteristics.zone.to_string()).collect();
        let exclude: BTreeSet<NodeId> =
            holders.iter().chain(&step.barred).chain(lock(&step.placement).failed()).copied().collect();
        let provisional = loop {
            let request = AllocateRequest {
                version: fathom_protocol::tags::VERSION,
                owner: self.owner(),
                authority: self.owner().into(),
                file: None,
                copies: 1,
                width: WIDTH,
                bytes,
                unit,
                exclude: Bounded::first(exclude.iter().copied()),
                avoid_zones: Bounded::first(zones.iter().map(|zone| Text::cut(zone))),
                wants: Wants::default(),
                nonce: nonce()?,
                expires: clock::now().plus_seconds(REQUEST_SECONDS),
            };
            match self.allocate(request).await {
                Err(UserError::Refused(refusal))
                    if matches!(refusal.kind, RefusalKind::Unsealed | RefusalKind::NoSpace)
                        && bytes > u64::from(unit) =>
                {
                    bytes = (bytes / 2).max(u64::from(unit));
                }
                other => break other?,
            }
        };
        for location in provisional.locations {
            let mut slot = check(&location, self.owner().into())?;
            slot.column = 0;
            lock(&step.placement).add(slot);
        }
        Ok(())
    }

    /// Makes one copy of a chunk. `None`: there was no room, or its vendor failed, and another may do.
    async fn copy(self: &Arc<Self>, step: &Step<'_>, broken: &Broken) -> Result<Option<Place>, UserError> {
        let avoid: Vec<NodeId> = broken.holders().into_iter().chain(step.barred.iter().copied()).collect();
        let length = u64::from(broken.length);
        let taken = lock(&step.placement)
            .take(0, length, &avoid, |vendor, in_flight| store_seconds(&self.net, vendor, in_flight, length));
        let Some(slot) = taken else { return Ok(None) };
        let copied = self.copy_to(step, broken, &slot).await;
        let filled = matches!(&copied, Ok(Some(place)) if *place == slot.place);
        lock(&step.placement).settle(&slot, length, filled);
        copied
    }

    async fn copy_to(
        self: &Arc<Self>,
        step: &Step<'_>,
        broken: &Broken,
        slot: &Slot,
    ) -> Result<Option<Place>, UserError> {
        match self.order_shard(step, broken, slot).await {
            Ok(Some(place)) => return Ok(Some(place)),
            Ok(None) => {}
            Err(UserError::Refused(refusal)) => {
                refused(step, slot, refusal);
                return Ok(None);
            }
            Err(other) => return Err(other),
        }
        let bytes = self.bytes_of(step, broken).await?;
        let chunk = SealedChunk {
            file: step.file.file,
            seq: step.tag.0,
            id: broken.chunk,
            class: Class::Background,
            bytes: Arc::new(bytes),
        };
        let vendor = slot.place.vendor;
        let mut outcome = self.send_chain(&chunk, std::slice::from_ref(slot)).await?;
        match outcome.remove(&vendor) {
            Some(Ok(receipt)) => Ok(Some(Place { vendor, lease: receipt.lease })),
            Some(Err(refusal)) => {
                refused(step, slot, refusal);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Hands in the final FAT that names the copies that were made, unless the file was written meanwhile: then they lapse.
    async fn hand_in_repair(
        self: &Arc<Self>,
        step: &Step<'_>,
        chunks: &[Broken],
        missing: &BTreeSet<(ChunkId, Place)>,
    ) -> Result<(), UserError> {
        let written = format!("{} was written while it was repaired", step.manifest.name);
        let changed = || UserError::from(Refusal::new(RefusalKind::Conflict, written.clone()));
        let _turn = self.turns.of_repair(step.file.file).ok_or_else(changed)?;
        let newest = self.newest(step.file.file).await?.ok_or_else(changed)?;
        if newest.is_forked() || newest.counter() != step.file.counter() {
            return Err(changed());
        }
        let version = step.file.newest().ok_or_else(changed)?;
        let named = open_manifest(&self.keys, &version.fat)?;
        let manifest = with_copies(&named, step.manifest, chunks, missing)?;
        let there = |piece: Piece| {
            let places = step.manifest.places_of_piece(&piece).filter(|place| !missing.contains(&(piece.id, *place)));
            places.map(|place| place.vendor).collect::<Vec<_>>()
        };
        let keep = Keep {
            manifest: &manifest,
            fat: &version.fat,
            holders: step.manifest.pieces().flat_map(there).collect(),
            failed: lock(&step.placement).failed().iter().copied().collect(),
        };
        let fat = self.successor(step.file, step.tag, Some(&keep))?;
        self.submit(vec![fat]).await.map(drop)
    }
}

/// The one of `used` whose id begins with `prefix`.
fn one_vendor(prefix: &str, used: &BTreeSet<NodeId>) -> Result<NodeId, UserError> {
    let lower = prefix.to_ascii_lowercase();
    let mut found = used.iter().filter(|vendor| vendor.to_string().starts_with(&lower));
    match (found.next(), found.next()) {
        (Some(vendor), None) => Ok(*vendor),
        (first, _) => Err(UserError::WhichVendor { prefix: prefix.to_owned(), several: first.is_some() }),
    }
}

/// Books that a vendor did not take a copy.
fn refused(step: &Step<'_>, slot: &Slot, refusal: Refusal) {
    match refusal.kind {
        RefusalKind::Busy => {}
        RefusalKind::OverLease | RefusalKind::NoSpace | RefusalKind::LeaseExpired | RefusalKind::UnknownLease => {
            lock(&step.placement).exhaust(slot);
        }
        _ => lock(&step.placement).fail(slot.place.vendor),
    }
    *lock(&step.reason) = Some(refusal.into());
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
