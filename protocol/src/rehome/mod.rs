//! The life of a move (figures 15b to 15e), as decisions: when a vendor has too much, which chunks go, what the answers of
//! mirrors and of the destination must say, what a restart makes of a move that was cut off, and when the source erases.
//!
//! Pure, and without a memory of its own but for [`Relief`]: the vendor's role keeps chunks, moves and times, carries out what
//! is decided here, and makes each step durable before the next one.
//!
//! ```text
//! source       Committed --receipt--> proposal on disk --cosigned, on disk--> --a mirror took it--> Leaving --hold--> erased
//! destination  Stored --cosigned, on disk--> Stored, unconfirmed --a mirror took it--> Committed
//! ```
//!
//! A source signs one move of a chunk out of a lease, and asks for the destination's signature under that one until it has an
//! answer: mirrors keep one of two, and the destination of the other would hold a copy that nobody ever lets go. For the
//! same reason the destination hands the move in as well: from then on final FATs that free the chunk reach it. If mirrors say
//! that the move is void, it lets the chunk lapse like one that no final FAT names.

mod custody;

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::Bounded;
use crate::head::Addresses;
use crate::header::{Hop, SplitPolicy};
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::lease::Lease;
use crate::limits::CHUNK_BYTES_MAX;
use crate::moves::Move;
use crate::receipt::Receipt;
use crate::seal::sealed_len;
use crate::sign::{Carried, SignerId};
use crate::tags;
use crate::time::UnixMs;
use crate::wire::{AllocateRequest, Location, Refusal, RefusalKind, Unused, Wants};

pub use custody::{
    CONFIRM_AFTER_MS, Confirmed, Open, Proposed, Submitted, confirmed, is_held_long_enough, is_of, may_cosign, open,
    proposed, submitted,
};

/// Bytes of one file that one request for storage moves, at most.
pub const BATCH_BYTES: u64 = 64 * 1024 * 1024;
/// Destinations that are asked for in vain before a batch waits for the next round.
pub const DESTINATIONS_TRIED: usize = 8;
/// After a round in which nothing could be moved, the next one waits so long, milliseconds; after each further one twice as long.
const PAUSE_MS: u64 = 5_000;
/// It waits no longer than that, milliseconds.
const PAUSE_MS_MAX: u64 = 160_000;
/// Largest sub-chunk at the destination, in bytes.
const PART_BYTES: u32 = 1024 * 1024;

/// When data moves away, in per cent of the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Stored share from which on chunks are moved away.
    pub overload_percent: u8,
    /// Stored share at which that ends.
    pub relief_percent: u8,
}

impl Thresholds {
    /// `percent` of a capacity, bytes.
    fn share(capacity: u64, percent: u8) -> u64 {
        u64::try_from(u128::from(capacity) * u128::from(percent) / 100).unwrap_or(u64::MAX)
    }

    /// Whether a vendor may take so much that its load is `after`: less than its overload, and, if data goes because the source is
    /// full, less than the source's share is now. Otherwise two vendors between the two thresholds would hand the same chunks to
    /// each other for ever; this way the fullest of them all only ever gets less full.
    #[must_use]
    pub fn fits(self, after: Load, source: Option<Load>) -> bool {
        let share = |load: Load, of: u64| u128::from(load.bytes) * u128::from(of);
        let below = share(after, 100) < u128::from(after.capacity) * u128::from(self.overload_percent);
        below && source.is_none_or(|source| share(after, source.capacity) < share(source, after.capacity))
    }
}

/// How full a vendor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Stored bytes, without those of chunks that leave already.
    pub bytes: u64,
    /// What its devices offer, bytes.
    pub capacity: u64,
}

/// Whether a vendor is moving data away for the space's sake: an overload lasts until the relief threshold is reached, also when a
/// round moves less than it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relief {
    relieving: bool,
}

impl Relief {
    /// After a start; `cut_off` if there are moves that the stop cut off: they are of a relief that was not at its end.
    #[must_use]
    pub fn resumed(cut_off: bool) -> Self {
        Self { relieving: cut_off }
    }

    /// Bytes to move away now; 0 if there is no overload.
    pub fn excess(&mut self, load: Load, limits: Thresholds) -> u64 {
        let Load { bytes: stays, capacity } = load;
        let relief = Thresholds::share(capacity, limits.relief_percent);
        let overload = Thresholds::share(capacity, limits.overload_percent);
        let overloaded = capacity > 0 && stays > 0 && stays >= overload;
        self.relieving = overloaded || (self.relieving && stays > relief);
        if self.relieving { stays.saturating_sub(relief).max(1) } else { 0 }
    }
}

/// How long to wait after rounds in which nothing could be moved: where no vendor has room, each request for it would have several
/// of them lock some, sign a head and take it back, all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    fruitless: u32,
}

impl Pause {
    /// A round moved so many chunks: milliseconds until the next one.
    pub fn after(&mut self, moved: usize) -> u64 {
        if moved > 0 {
            self.fruitless = 0;
            return 0;
        }
        let pause = PAUSE_MS.saturating_mul(1 << self.fruitless.min(16));
        self.fruitless += 1;
        pause.min(PAUSE_MS_MAX)
    }
}

/// A chunk as its vendor's local FAT has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldChunk {
    /// Whose it is.
    pub owner: OwnerId,
    /// Of which file.
    pub file: FileId,
    /// The tag under which it was stored.
    pub seq: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its length, bytes.
    pub length: u32,
    /// The lease whose room it takes.
    pub lease: LeaseId,
}

/// Where a chunk is in its life at a vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody {
    /// Received; no final FAT names it yet.
    Stored,
    /// A final FAT names it, or a move.
    Committed,
    /// A mirror has the move that took it away.
    Leaving,
}

/// Whether a chunk may be moved away. `moves_away`: whether the move that is stored of it, if any, leads away from here.
#[must_use]
pub fn may_leave(custody: Custody, moves_away: Option<bool>) -> bool {
    custody == Custody::Committed && moves_away != Some(true)
}

/// Chunks of one file that go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose they are.
    pub owner: OwnerId,
    /// Of which file.
    pub file: FileId,
    /// Never empty.
    pub chunks: Vec<HeldChunk>,
    /// Vendors that are no destination: they hold a copy, or are too full themselves.
    pub exclude: BTreeSet<NodeId>,
    /// The source's load, if they go because it is full.
    pub source: Option<Load>,
}

/// Batches, until so many bytes are chosen as shall go.
#[derive(Debug)]
pub struct Batches {
    excess: u64,
    source: Option<Load>,
    bytes: u64,
    by_file: BTreeMap<(OwnerId, FileId), Batch>,
}

impl Batches {
    /// None yet, of `excess` bytes that shall go; `source` is how full their vendor is, if they go because of that.
    #[must_use]
    pub fn new(excess: u64, source: Option<Load>) -> Self {
        Self { excess, source, bytes: 0, by_file: BTreeMap::new() }
    }

    /// Whether enough was chosen.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes >= self.excess
    }

    /// Chooses a chunk that may leave, unless enough was chosen, or enough of its file for one request.
    pub fn add(&mut self, chunk: HeldChunk) {
        if self.is_full() {
            return;
        }
        let source = self.source;
        let Batch { chunks, .. } = self.by_file.entry((chunk.owner, chunk.file)).or_insert_with(|| Batch {
            owner: chunk.owner,
            file: chunk.file,
            chunks: Vec::new(),
            exclude: BTreeSet::new(),
            source,
        });
        let held: u64 = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        if held + u64::from(chunk.length) <= BATCH_BYTES {
            self.bytes += u64::from(chunk.length);
            chunks.push(chunk);
        }
    }

    /// What was chosen.
    #[must_use]
    pub fn into_batches(self) -> Vec<Batch> {
        self.by_file.into_values().collect()
    }
}

impl Batch {
    /// The request for room for all of it, in the name of `me` for the file's owner.
    #[must_use]
    pub fn request(&self, me: NodeId, nonce: Hash, expires: UnixMs) -> AllocateRequest {
        let unit = self.chunks.iter().map(|chunk| chunk.length).max().unwrap_or(1).clamp(1, CHUNK_BYTES_MAX as u32);
        AllocateRequest {
            version: tags::VERSION,
            owner: self.owner,
            authority: me.into(),
            file: Some(self.file),
            copies: 1,
            width: 1,
            bytes: u64::from(unit) * self.chunks.len() as u64,
            unit,
            exclude: Bounded::first(self.exclude.iter().copied()),
            avoid_zones: Bounded::default(),
            wants: Wants::default(),
            nonce,
            expires,
        }
    }

    /// The room of a location that is what was asked for, and whether its vendor may take so much, see [`Thresholds::fits`].
    #[must_use]
    pub fn accept(&self, me: NodeId, location: Location, limits: Thresholds) -> Option<(Room, bool)> {
        let lease = location.lease.verify().ok()?;
        let head = location.head.verify().ok()?;
        let wanted = lease.owner == self.owner && lease.authority == SignerId::from(me);
        if !wanted || lease.vendor == me || head.vendor != lease.vendor {
            return None;
        }
        let after = Load { bytes: head.used.saturating_add(location.granted), capacity: head.capacity };
        let fits = limits.fits(after, self.source);
        let room = Room {
            vendor: lease.vendor,
            id: lease.id,
            addresses: head.addresses.clone(),
            granted: location.granted.min(lease.room()),
            lease: lease.into_carried(),
        };
        Some((room, fits))
    }

    /// Deals the chunks out to `rooms`, as far as they reach. Returns each chunk with its room's place, and the bytes that each
    /// room is used for.
    #[must_use]
    pub fn deal(&self, rooms: &[Room]) -> (Vec<(HeldChunk, usize)>, Vec<u64>) {
        let (mut dealt, mut taken) = (Vec::new(), vec![0; rooms.len()]);
        for chunk in &self.chunks {
            let length = u64::from(chunk.length);
            if let Some(at) = (0..rooms.len()).find(|at| taken[*at] + length <= rooms[*at].granted) {
                taken[at] += length;
                dealt.push((*chunk, at));
            }
        }
        (dealt, taken)
    }
}

/// Room at another vendor.
#[derive(Clone, Debug)]
pub struct Room {
    /// The destination.
    pub vendor: NodeId,
    /// Where to dial it.
    pub addresses: Addresses,
    /// Bytes that were granted.
    pub granted: u64,
    id: LeaseId,
    lease: Carried<Lease>,
}

impl Room {
    /// The hop that takes a chunk there.
    #[must_use]
    pub fn hop(&self, me: NodeId, chunk: &HeldChunk, expires: UnixMs) -> Hop {
        Hop {
            version: tags::VERSION,
            owner: chunk.owner,
            authority: me.into(),
            file: chunk.file,
            seq: chunk.seq,
            chunk: chunk.chunk,
            length: chunk.length,
            expires,
            position: 0,
            vendor: self.vendor,
            addresses: self.addresses.clone(),
            lease: self.lease.clone(),
            split: SplitPolicy { part_bytes_max: sealed_len(PART_BYTES), parts_min: 1 },
            next: None,
        }
    }

    /// Whether a verified receipt is for the chunk that was sent there.
    ///
    /// # Errors
    /// A [`Refusal`]: `Conflict` if the destination has the chunk under another lease, so that a copy would be lost by the
    /// move, and `BadRequest` otherwise.
    pub fn check(&self, chunk: &HeldChunk, receipt: &Receipt) -> Result<(), Refusal> {
        let wanted = (self.vendor, chunk.owner, chunk.chunk, chunk.length, chunk.file, chunk.seq);
        let found = (receipt.vendor, receipt.owner, receipt.chunk, receipt.length, receipt.file, receipt.seq);
        if wanted != found {
            return refuse(RefusalKind::BadRequest, "the receipt is not for the chunk that was moved");
        }
        if receipt.lease != self.id {
            // It answered with the receipt it gave to the chunk's owner.
            return refuse(RefusalKind::Conflict, "the destination holds a copy of this chunk");
        }
        Ok(())
    }

    /// The move of a chunk there.
    #[must_use]
    pub fn proposal(&self, me: NodeId, chunk: &HeldChunk, at: UnixMs) -> Move {
        Move {
            version: tags::VERSION,
            owner: chunk.owner,
            file: chunk.file,
            seq: chunk.seq,
            chunk: chunk.chunk,
            length: chunk.length,
            from: me,
            from_lease: chunk.lease,
            to: self.vendor,
            to_lease: self.id,
            at,
        }
    }

    /// What gives back the room of which `taken` bytes are used; none if all of it is.
    #[must_use]
    pub fn unused(&self, me: NodeId, taken: u64, nonce: Hash) -> Option<Unused> {
        let bytes = self.granted.saturating_sub(taken);
        let unused =
            Unused { version: tags::VERSION, authority: me.into(), vendor: self.vendor, lease: self.id, bytes, nonce };
        (bytes > 0).then_some(unused)
    }
}

fn refuse<T>(kind: RefusalKind, reason: &str) -> Result<T, Refusal> {
    Err(Refusal::new(kind, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Thresholds = Thresholds { overload_percent: 90, relief_percent: 70 };

    fn chunk(file: u8, number: u8, length: u32) -> HeldChunk {
        HeldChunk {
            owner: OwnerId([1; 32]),
            file: FileId([file; 16]),
            seq: 1 << 16,
            chunk: ChunkId([number; 32]),
            length,
            lease: LeaseId([2; 16]),
        }
    }

    #[test]
    fn an_overload_lasts_until_the_relief() {
        let mut relief = Relief::default();
        assert_eq!(relief.excess(Load { bytes: 899, capacity: 1_000 }, LIMITS), 0);
        assert_eq!(relief.excess(Load { bytes: 900, capacity: 1_000 }, LIMITS), 200);
        assert_eq!(
            relief.excess(Load { bytes: 750, capacity: 1_000 }, LIMITS),
            50,
            "below the overload, and not yet at the relief"
        );
        assert_eq!(relief.excess(Load { bytes: 700, capacity: 1_000 }, LIMITS), 0);
        assert_eq!(relief.excess(Load { bytes: 750, capacity: 1_000 }, LIMITS), 0, "it is over");
        assert_eq!(
            Relief::resumed(true).excess(Load { bytes: 750, capacity: 1_000 }, LIMITS),
            50,
            "a stop ends no relief"
        );
        assert_eq!(
            relief.excess(Load { bytes: u64::MAX, capacity: u64::MAX }, LIMITS),
            u64::MAX - Thresholds::share(u64::MAX, 70)
        );
        assert_eq!(relief.excess(Load { bytes: 0, capacity: 0 }, LIMITS), 0);
    }

    /// Keeps away: two vendors that are both above the relief and below the overload hand chunks to each other for ever.
    #[test]
    fn what_was_moved_does_not_come_back() {
        let load = |bytes| Load { bytes, capacity: 1_000 };
        for (source, there) in
            (0..1_000).step_by(7).flat_map(|source| (0..1_000).step_by(11).map(move |to| (source, to)))
        {
            let fits = |from: u64, to: u64| LIMITS.fits(load(to + 10), Some(load(from)));
            if source >= 10 && fits(source, there) {
                assert!(!fits(there + 10, source - 10), "from {source} to {there} and back");
            }
        }
        assert!(LIMITS.fits(load(889), Some(load(900))) && !LIMITS.fits(load(900), Some(load(950))));
        assert!(LIMITS.fits(load(500), None), "where traffic is the reason, it does not matter who is fuller");
        let small = Load { bytes: 50, capacity: 100 };
        assert!(LIMITS.fits(load(499), Some(small)) && !LIMITS.fits(load(500), Some(small)));
    }

    #[test]
    fn files_go_whole_until_enough_is_chosen() {
        let mut batches = Batches::new(25, None);
        for (file, number) in [(1, 1), (2, 2), (1, 3), (2, 4)] {
            batches.add(chunk(file, number, 10));
        }
        assert!(batches.is_full());
        let chosen: Vec<usize> = batches.into_batches().iter().map(|batch| batch.chunks.len()).collect();
        assert_eq!(chosen, [2, 1]);
    }

    #[test]
    fn only_what_a_final_fat_or_a_move_brought_leaves_and_only_once() {
        assert!(may_leave(Custody::Committed, None) && may_leave(Custody::Committed, Some(false)));
        assert!(!may_leave(Custody::Committed, Some(true)), "its move is under way");
        assert!(!may_leave(Custody::Stored, None) && !may_leave(Custody::Leaving, Some(true)));
    }

    #[test]
    fn rounds_that_move_nothing_become_rare() {
        let mut pause = Pause::default();
        let waits: Vec<u64> = (0..7).map(|_| pause.after(0)).collect();
        assert_eq!(waits, [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 160_000]);
        assert_eq!((pause.after(1), pause.after(0)), (0, 5_000));
    }
}
