//! Custody that passes on: what the destination signs, what mirrors say of the move, and when the source erases.

use crate::fat::Fate;
use crate::ids::{LeaseId, NodeId};
use crate::moves::{CarriedMove, Move};
use crate::mutations::{Line, without};
use crate::sign::SignerId;
use crate::wire::{Refusal, RefusalKind, Response};

use super::{Custody, HeldChunk, refuse};

/// After a destination has signed a move, it leaves it to the source for so long to hand it in, milliseconds.
pub const CONFIRM_AFTER_MS: u64 = 30_000;

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

/// What follows from the destination's answer to a proposal.
#[derive(Clone, Debug)]
pub enum Proposed {
    /// It signed.
    Signed(CarriedMove),
    /// It never will: the proposal is forgotten, and the chunk stays.
    Refused(Refusal),
    /// Whether it signed is not known: it is asked again for the same.
    Waits(Refusal),
}

/// What follows from the destination's answer to the proposal of `body`.
#[must_use]
pub fn proposed(body: &Move, answer: Result<Response, Refusal>) -> Proposed {
    match answer {
        Ok(Response::Cosigned(moved)) if moved.verify().is_ok_and(|signed| signed == *body) => Proposed::Signed(moved),
        Err(refusal) | Ok(Response::Refused(refusal)) => match refusal.kind {
            RefusalKind::NotFound | RefusalKind::Conflict | RefusalKind::NotAuthorised => Proposed::Refused(refusal),
            _ => Proposed::Waits(refusal),
        },
        Ok(_) => Proposed::Waits(Refusal::new(RefusalKind::BadRequest, "the destination did not sign the move")),
    }
}

/// What is to be done about a move that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Away from here, and the destination may not have signed: it is asked.
    Propose,
    /// Away from here, and no mirror is known to have it: it is handed in.
    Submit,
    /// To here, and no mirror is known to have it: it is handed in [`CONFIRM_AFTER_MS`] later.
    Confirm,
    /// A mirror has it: the hold time begins anew after a start, so that no clock that jumps can cut it short.
    Hold,
    /// Nothing.
    Rests,
    /// Its chunk is gone: it is forgotten.
    Forget,
}

/// What is to be done at `me` about a move on disk of a chunk of which there is a copy here, in custody and under a lease; with the
/// move whether it has both signatures.
#[must_use]
pub fn open(me: NodeId, here: Option<(Custody, LeaseId)>, moved: Option<(&Move, bool)>) -> Open {
    let Some((custody, lease)) = here else { return Open::Forget };
    match (custody, moved) {
        (Custody::Leaving, _) => Open::Hold,
        // A disk that was put back may have the move of a copy that was here before this one.
        (_, Some((moved, _))) if !is_of(me, moved, lease) => Open::Forget,
        (Custody::Committed, Some((moved, true))) if moved.from == me => Open::Submit,
        (Custody::Committed, Some((moved, false))) if moved.from == me => Open::Propose,
        (Custody::Stored, Some((moved, true))) if moved.to == me => Open::Confirm,
        _ => Open::Rests,
    }
}

/// Whether a move takes the copy that `me` has under this lease away from there, or brought it.
#[must_use]
pub fn is_of(me: NodeId, moved: &Move, lease: LeaseId) -> bool {
    moved.from == me && moved.from_lease == lease || moved.to == me && moved.to_lease == lease
}

/// What becomes of a chunk at the destination once mirrors were asked about its move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It is kept as named by its owner's final FAT.
    Keep,
    /// The move is void, and forgotten: the chunk has the time of one that was just stored and that no final FAT names.
    Lapse,
    /// A final FAT let it go meanwhile: the move is forgotten, and the chunk has the time of one that is let go now, which whoever
    /// chose its version at the same moment counts on. When the final FAT came, nothing was known of this copy's right to be here.
    Lapses,
    /// Mirrors are asked again.
    Waits,
}

/// What becomes of a chunk at the destination, after mirrors answered `outcome`. `fates` is what each final FAT of its file that is
/// known there, and that no other follows, says of it.
#[must_use]
pub fn confirmed(outcome: &Submitted, fates: &[Fate]) -> Confirmed {
    match outcome {
        Submitted::Waits(_) => Confirmed::Waits,
        Submitted::Void(_) => Confirmed::Lapse,
        Submitted::Taken if fates.is_empty() || fates.iter().any(|fate| matches!(fate, Fate::Live | Fate::Other)) => {
            Confirmed::Keep
        }
        Submitted::Taken => Confirmed::Lapses,
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
    use crate::ids::{ChunkId, FileId, OwnerId};
    use crate::tags;
    use crate::time::UnixMs;

    #[test]
    fn a_move_does_not_bring_back_a_version_that_was_not_chosen() {
        let void = Submitted::Void(Refusal::new(RefusalKind::Stale, "released"));
        assert_eq!(confirmed(&Submitted::Taken, &[]), Confirmed::Keep);
        assert_eq!(confirmed(&Submitted::Taken, &[Fate::Live]), Confirmed::Keep);
        assert_eq!(confirmed(&Submitted::Taken, &[Fate::Lost]), Confirmed::Lapses);
        assert_eq!(confirmed(&Submitted::Taken, &[Fate::Lost, Fate::Live]), Confirmed::Keep, "not decided yet");
        assert_eq!(confirmed(&void, &[Fate::Live]), Confirmed::Lapse);
    }

    #[test]
    fn only_an_answer_ends_a_proposal() {
        let refused = |kind| Err(Refusal::new(kind, "no"));
        let moved = Move {
            version: tags::VERSION,
            owner: OwnerId([1; 32]),
            file: FileId([1; 16]),
            seq: 1 << 16,
            chunk: ChunkId([3; 32]),
            length: 10,
            from: NodeId([4; 32]),
            from_lease: LeaseId([2; 16]),
            to: NodeId([5; 32]),
            to_lease: LeaseId([6; 16]),
            at: UnixMs(1),
        };
        for kind in [RefusalKind::Silent, RefusalKind::Unreachable, RefusalKind::Internal, RefusalKind::Busy] {
            assert!(matches!(proposed(&moved, refused(kind)), Proposed::Waits(_)));
        }
        assert!(matches!(proposed(&moved, Ok(Response::Done)), Proposed::Waits(_)));
        assert!(matches!(proposed(&moved, refused(RefusalKind::NotFound)), Proposed::Refused(_)));
        let (source, destination) = (moved.from, moved.to);
        let (from, to) = (moved.from_lease, moved.to_lease);
        let at = |me, custody, cosigned| {
            let lease = if me == source { from } else { to };
            open(me, Some((custody, lease)), Some((&moved, cosigned)))
        };
        assert_eq!(at(source, Custody::Committed, false), Open::Propose);
        assert_eq!(at(source, Custody::Committed, true), Open::Submit);
        assert_eq!(at(source, Custody::Leaving, true), Open::Hold);
        assert_eq!(at(destination, Custody::Stored, true), Open::Confirm);
        assert_eq!(at(destination, Custody::Committed, true), Open::Rests);
        assert_eq!(open(source, None, Some((&moved, true))), Open::Forget);
        for (me, custody) in [(source, Custody::Committed), (destination, Custody::Stored)] {
            let another = open(me, Some((custody, LeaseId([9; 16]))), Some((&moved, true)));
            assert_eq!(another, Open::Forget, "the chunk came again, under another lease");
        }
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
