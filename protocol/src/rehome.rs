//! The life of a move (figures 15b to 15e), as decisions: when a vendor has too much, which chunks go, what the answers of
//! mirrors and of the destination must say, what a restart makes of a move that was cut off, and when the source erases.
//!
//! Pure, and without a memory of its own but for [`Relief`]: the vendor's role keeps chunks, moves and times, carries out what
//! is decided here, and makes each step durable before the next one.
//!
//! ```text
//! Committed --send, receipt, cosign--> Committed, move on disk --a mirror took it--> Leaving --hold time--> erased
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::Bounded;
use crate::head::Addresses;
use crate::header::{Hop, SplitPolicy};
use crate::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::lease::Lease;
use crate::limits::CHUNK_BYTES_MAX;
use crate::moves::Move;
use crate::mutations::{Line, without};
use crate::receipt::Receipt;
use crate::seal::sealed_len;
use crate::sign::{Carried, SignerId};
use crate::tags;
use crate::time::UnixMs;
use crate::wire::{AllocateRequest, Location, Refusal, RefusalKind, Unused, Wants};

/// Bytes of one file that one request for storage moves, at most.
pub const BATCH_BYTES: u64 = 64 * 1024 * 1024;
/// Destinations that are asked for in vain before a batch waits for the next round.
pub const DESTINATIONS_TRIED: usize = 8;
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

    /// Whether a vendor with this `capacity` stays below its overload when it holds `used` bytes.
    #[must_use]
    pub fn fits(self, used: u128, capacity: u64) -> bool {
        used * 100 < u128::from(capacity) * u128::from(self.overload_percent)
    }
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

    /// Bytes to move away now; 0 if there is no overload. `stays` are the stored bytes without those of chunks that leave already.
    pub fn excess(&mut self, stays: u64, capacity: u64, limits: Thresholds) -> u64 {
        let relief = Thresholds::share(capacity, limits.relief_percent);
        let overload = Thresholds::share(capacity, limits.overload_percent);
        let overloaded = capacity > 0 && stays > 0 && stays >= overload;
        self.relieving = overloaded || (self.relieving && stays > relief);
        if self.relieving { stays.saturating_sub(relief).max(1) } else { 0 }
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
    /// Vendors that are no destination: they hold a copy, or are near their own overload.
    pub exclude: BTreeSet<NodeId>,
}

/// Batches, until so many bytes are chosen as shall go.
#[derive(Debug)]
pub struct Batches {
    excess: u64,
    bytes: u64,
    by_file: BTreeMap<(OwnerId, FileId), Batch>,
}

impl Batches {
    /// None yet, of `excess` bytes that shall go.
    #[must_use]
    pub fn new(excess: u64) -> Self {
        Self { excess, bytes: 0, by_file: BTreeMap::new() }
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
        let Batch { chunks, .. } = self.by_file.entry((chunk.owner, chunk.file)).or_insert_with(|| Batch {
            owner: chunk.owner,
            file: chunk.file,
            chunks: Vec::new(),
            exclude: BTreeSet::new(),
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

    /// The room of a location that is what was asked for, and whether its vendor stays below the share at which vendors move
    /// data away.
    #[must_use]
    pub fn accept(&self, me: NodeId, location: Location, limits: Thresholds) -> Option<(Room, bool)> {
        let lease = location.lease.verify().ok()?;
        let head = location.head.verify().ok()?;
        let wanted = lease.owner == self.owner && lease.authority == SignerId::from(me);
        if !wanted || lease.vendor == me || head.vendor != lease.vendor {
            return None;
        }
        let fits = limits.fits(u128::from(head.used) + u128::from(location.granted), head.capacity);
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

/// Whether the destination `me` may sign a move: the chunk is here as the move says, stored by its source. `authority` is who may
/// fill the lease that the move names, if it is here.
///
/// # Errors
/// A [`Refusal`]: `NotAuthorised`, `NotFound` or `Conflict`.
pub fn may_cosign(
    me: NodeId,
    moved: &Move,
    here: Option<(HeldChunk, Custody)>,
    authority: Option<SignerId>,
) -> Result<(), Refusal> {
    if moved.to != me {
        return refuse(RefusalKind::NotAuthorised, "the move goes to another vendor");
    }
    let Some((held, custody)) = here else {
        return refuse(RefusalKind::NotFound, "the moved chunk is not here");
    };
    let wanted = (moved.owner, moved.chunk, moved.file, moved.seq, moved.length, moved.to_lease);
    if (held.owner, held.chunk, held.file, held.seq, held.length, held.lease) != wanted {
        return refuse(RefusalKind::Conflict, "the chunk here is not the one of the move");
    }
    if custody == Custody::Leaving {
        return refuse(RefusalKind::Conflict, "the chunk leaves this vendor itself");
    }
    if authority != Some(SignerId::from(moved.from)) {
        return refuse(RefusalKind::NotAuthorised, "the lease was not filled by the source of the move");
    }
    Ok(())
}

/// What follows from the answers of the mirrors that a move was handed in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// One has it.
    Taken,
    /// The file was released, or the chunk left by another move.
    Void(Refusal),
    /// It is handed in again later.
    Waits(Refusal),
}

/// What follows from the answers of all mirrors that were asked.
#[must_use]
pub fn submitted(answers: impl IntoIterator<Item = Result<(), Refusal>>) -> Submitted {
    let mut last = Refusal::new(RefusalKind::Unreachable, "no mirror is known");
    let mut taken = without(Line::MirrorHasMove);
    for answer in answers {
        match answer {
            Ok(()) => taken = true,
            Err(refusal) => last = refusal,
        }
    }
    match last.kind {
        _ if taken => Submitted::Taken,
        RefusalKind::Stale | RefusalKind::Conflict => Submitted::Void(last),
        _ => Submitted::Waits(last),
    }
}

/// What a restart makes of a move that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Away from here, and no mirror is known to have it: it is handed in again.
    Submit,
    /// A mirror has it: the hold time begins anew, so that no clock that jumps can cut it short.
    Hold,
    /// Of a chunk that came here: nothing is to be done.
    Rests,
    /// Its chunk is gone, or it was damaged on disk.
    Forget,
}

/// What a restart of `me` makes of the move `moved` of a chunk that is here in `custody`.
#[must_use]
pub fn reopened(me: NodeId, custody: Option<Custody>, moved: Option<&Move>) -> Open {
    match (custody, moved) {
        (None, _) => Open::Forget,
        (Some(Custody::Leaving), _) => Open::Hold,
        (Some(Custody::Committed), Some(moved)) if moved.from == me => Open::Submit,
        (Some(_), _) => Open::Rests,
    }
}

/// Whether a chunk that leaves may be erased: it was held for `hold_ms` since the source knows that a mirror has the move. `held_ms`
/// is measured by a clock that nobody can set.
#[must_use]
pub fn is_held_long_enough(held_ms: u64, hold_ms: u64) -> bool {
    held_ms >= hold_ms || without(Line::HoldTime)
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
        assert_eq!(relief.excess(899, 1_000, LIMITS), 0);
        assert_eq!(relief.excess(900, 1_000, LIMITS), 200);
        assert_eq!(relief.excess(750, 1_000, LIMITS), 50, "below the overload, and not yet at the relief");
        assert_eq!(relief.excess(700, 1_000, LIMITS), 0);
        assert_eq!(relief.excess(750, 1_000, LIMITS), 0, "it is over");
        assert_eq!(Relief::resumed(true).excess(750, 1_000, LIMITS), 50, "a stop ends no relief");
        assert_eq!(relief.excess(u64::MAX, u64::MAX, LIMITS), u64::MAX - Thresholds::share(u64::MAX, 70));
        assert_eq!(relief.excess(0, 0, LIMITS), 0);
    }

    #[test]
    fn files_go_whole_until_enough_is_chosen() {
        let mut batches = Batches::new(25);
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
    fn one_mirror_that_has_the_move_is_enough_and_none_is_not() {
        let refused = |kind| Err(Refusal::new(kind, "no"));
        let stale = refused(RefusalKind::Stale);
        assert_eq!(submitted([stale.clone(), Ok(())]), Submitted::Taken);
        assert!(matches!(submitted([refused(RefusalKind::Silent), stale]), Submitted::Void(_)));
        assert!(matches!(submitted([refused(RefusalKind::Silent)]), Submitted::Waits(_)));
        assert!(matches!(submitted([]), Submitted::Waits(_)));
    }
}
