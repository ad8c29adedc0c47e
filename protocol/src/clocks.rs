//! The mirrors' clocks as a vendor hears them: their median is the second opinion without which nothing is reclaimed
//! (invariant 6), and without which no promise is dated.
//!
//! What was heard is carried on by a clock that only counts (`elapsed_ms`, milliseconds since any fixed moment, never set
//! back or forth), and never by the wall clock: where that one jumps, so would every mirror's clock as remembered here, and
//! the second opinion would be the first one again.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::time::UnixMs;

/// Mirrors whose clocks are remembered.
const REMEMBERED_MAX: usize = 64;

/// A mirror that was not heard for so long since the start counts no longer, milliseconds: else a network most of whose mirrors
/// are gone for good would never reclaim anything.
const AWAITED_MS: u64 = 10 * 60 * 1_000;
/// What a mirror's clock said is news for so long, milliseconds for each mirror that is known: they are asked in turn, two every
/// three seconds.
const FRESH_MS: u64 = 8_000;
/// How old what one of `known` mirrors said may be and still be news, milliseconds.
fn fresh_ms(known: usize) -> u64 {
    FRESH_MS.saturating_mul(known.max(1) as u64)
}

/// Promises are dated no further ahead of the wall clock than this, milliseconds: mirrors whose clocks lie must not tie up
/// space for good.
const AHEAD_MAX_MS: u64 = 90 * 24 * 60 * 60 * 1_000;

/// A time by which a promise is dated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The time.
    pub at: UnixMs,
    /// Whether the mirrors had a say in it. Else it is the wall clock's word alone, and that clock may be behind: the promise is
    /// dated anew once they were heard ([`Ledger::redate`](crate::ledger::Ledger::redate)).
    pub sure: bool,
}

impl From<UnixMs> for Dated {
    /// A time that is beyond doubt.
    fn from(at: UnixMs) -> Self {
        Self { at, sure: true }
    }
}

/// What the mirrors' clocks said, and when.
#[derive(Clone, Debug, Default)]
pub struct Clocks {
    heard: BTreeMap<NodeId, (UnixMs, u64)>,
}

impl Clocks {
    /// The time by which promises are dated, where the wall clock says `now`: the later of it and the mirrors' median. A promise
    /// dated by a clock that is behind would seem to have run out as soon as that clock is set right. At most 90 days ahead of `now`.
    ///
    /// A mirror that was not heard lately counts here as one that is ahead of all others: a promise may last too long, and must not
    /// end too early. What was heard earlier is remembered and not sure: of mirrors whose clocks were wrong one after the other, none
    /// may be wrong any more but in this vendor's memory.
    #[must_use]
    pub fn dating(&self, now: UnixMs, known: usize, elapsed_ms: u64) -> Dated {
        let (remembered, all) = self.clocks(known, elapsed_ms, u64::MAX);
        let (fresh, _) = self.clocks(known, elapsed_ms, fresh_ms(known));
        let (_, counted) = self.clocks(known, elapsed_ms, AWAITED_MS);
        let middle = |of: usize| of.checked_sub(1).map(|last| last / 2);
        let sure = middle(counted).and_then(|middle| fresh.get(middle).copied());
        let agreed = sure.or_else(|| middle(all).and_then(|middle| remembered.get(middle).copied()));
        let at = agreed.map_or(now, |agreed| agreed.clamp(now, now.plus_ms(AHEAD_MAX_MS)));
        Dated { at, sure: sure.is_some() }
    }

    /// A mirror's clock said `theirs` when `elapsed_ms` had passed here.
    pub fn heard(&mut self, mirror: NodeId, theirs: UnixMs, elapsed_ms: u64) {
        if self.heard.len() < REMEMBERED_MAX || self.heard.contains_key(&mirror) {
            self.heard.insert(mirror, (theirs, elapsed_ms));
        }
    }

    /// Whether `deadline` has passed by the wall clock, which says `now`, and by the mirrors' median; `None` where the one says
    /// so and the other is not known yet. Where there is no mirror, the wall clock is all there is.
    #[must_use]
    pub fn passed(&self, deadline: UnixMs, now: UnixMs, known: usize, elapsed_ms: u64) -> Option<bool> {
        if deadline >= now || known == 0 {
            return Some(deadline < now);
        }
        self.median(known, elapsed_ms).map(|agreed| deadline < agreed)
    }

    /// The median of the clocks of `known` mirrors when `elapsed_ms` have passed; of an even number the earlier one. In the first
    /// ten minutes a mirror that was not heard counts as one that is behind all others, so that a minority of wrong clocks never has
    /// the last word because it was heard first; `None` where that leaves the median unknown.
    ///
    /// So does one that was not heard lately, for ten minutes more: of mirrors whose clocks were wrong one after the other, those that
    /// are right again may still be wrong in this vendor's memory. What they said is not forgotten: the earlier median holds.
    #[must_use]
    pub fn median(&self, known: usize, elapsed_ms: u64) -> Option<UnixMs> {
        let middle = |clocks: &[UnixMs], all: usize| {
            let behind = all.saturating_sub(clocks.len());
            clocks.get((all.checked_sub(1)? / 2).checked_sub(behind)?).copied()
        };
        let (remembered, all) = self.clocks(known, elapsed_ms, u64::MAX);
        let (fresh, _) = self.clocks(known, elapsed_ms, fresh_ms(known));
        let (_, counted) = self.clocks(known, elapsed_ms, AWAITED_MS);
        Some(middle(&remembered, all)?.min(middle(&fresh, counted)?))
    }

    /// What the clocks that were heard within the last `age_ms` say by now, in order, and how many there are with those that are
    /// awaited.
    fn clocks(&self, known: usize, elapsed_ms: u64, age_ms: u64) -> (Vec<UnixMs>, usize) {
        let awaited = if elapsed_ms < AWAITED_MS { known } else { 0 };
        let age = |at: u64| elapsed_ms.saturating_sub(at);
        let heard = self.heard.values().filter(|(_, at)| age(*at) <= age_ms);
        let mut clocks: Vec<UnixMs> = heard.map(|(theirs, at)| theirs.plus_ms(age(*at))).collect();
        clocks.sort_unstable();
        let all = awaited.max(clocks.len());
        (clocks, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    #[test]
    fn one_of_three_is_no_median_and_a_liar_moves_nothing() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.median(0, 0), None);
        clocks.heard(mirror(1), UnixMs(u64::MAX / 2), 0);
        assert_eq!(clocks.median(3, 5), None);
        clocks.heard(mirror(2), UnixMs(1_000), 10);
        assert_eq!(clocks.median(3, 15), Some(UnixMs(1_005)));
        clocks.heard(mirror(3), UnixMs(1_002), 10);
        assert_eq!(clocks.median(3, 20), Some(UnixMs(1_012)));
        // Two liars of five, heard first: the one honest clock that was heard says when.
        assert_eq!(clocks.median(5, 20), Some(UnixMs(1_010)));
        assert_eq!(clocks.median(6, 20), None);
    }

    #[test]
    fn mirrors_that_are_wrong_one_after_the_other_do_not_agree() {
        let (right, wrong) = (UnixMs(1_000), UnixMs(1_000_000));
        let mut clocks = Clocks::default();
        (1..=3).for_each(|number| clocks.heard(mirror(number), right, 0));
        // The second is wrong and is not heard while it is right again; then the third is wrong.
        clocks.heard(mirror(2), wrong, 10);
        let later = 10 + fresh_ms(3) + 1;
        clocks.heard(mirror(1), right.plus_ms(later), later);
        clocks.heard(mirror(3), wrong, later);
        assert_eq!(clocks.median(3, later), Some(right.plus_ms(later)));
        assert_eq!(clocks.passed(right.plus_ms(later), wrong, 3, later), Some(false));
        // Nor is there a last word while only the wrong one is heard.
        let silent = later + fresh_ms(3) + 1;
        clocks.heard(mirror(3), wrong, silent);
        assert_eq!(clocks.median(3, silent), None);
        // Two that are gone for good count no more, and what they said last still does.
        let gone = silent + AWAITED_MS;
        clocks.heard(mirror(3), right.plus_ms(gone), gone);
        assert_eq!(clocks.median(3, gone), Some(right.plus_ms(gone)));
    }

    #[test]
    fn a_clock_that_is_behind_dates_nothing() {
        let mut clocks = Clocks::default();
        let unsure = Dated { at: UnixMs(3), sure: false };
        assert_eq!(clocks.dating(UnixMs(3), 0, 10), unsure);
        assert_eq!(clocks.dating(UnixMs(3), 1, 10), unsure);
        clocks.heard(mirror(1), UnixMs(900), 10);
        assert_eq!(clocks.dating(UnixMs(3), 1, 20), UnixMs(910).into());
        assert_eq!(clocks.dating(UnixMs(1_000), 1, 20), UnixMs(1_000).into());
        clocks.heard(mirror(1), UnixMs(u64::MAX), 30);
        assert_eq!(clocks.dating(UnixMs(1_000), 1, 40), UnixMs(1_000 + AHEAD_MAX_MS).into());
    }

    #[test]
    fn a_mirror_that_is_behind_and_was_heard_first_dates_nothing_too_early() {
        let mut clocks = Clocks::default();
        clocks.heard(mirror(1), UnixMs(5), 0);
        assert_eq!(clocks.dating(UnixMs(3), 3, 0), Dated { at: UnixMs(3), sure: false });
        clocks.heard(mirror(2), UnixMs(1_000), 0);
        assert_eq!(
            clocks.median(3, 0),
            Some(UnixMs(5)),
            "nothing is reclaimed by a clock that only one mirror bears out"
        );
        assert_eq!(clocks.dating(UnixMs(3), 3, 0), UnixMs(1_000).into());
        clocks.heard(mirror(3), UnixMs(1_001), 0);
        assert_eq!(clocks.dating(UnixMs(3), 3, 0), UnixMs(1_000).into());
        assert_eq!(clocks.median(3, 0), Some(UnixMs(1_000)));
    }

    #[test]
    fn what_is_only_remembered_dates_nothing_for_sure() {
        let mut clocks = Clocks::default();
        // Two of three were behind, one after the other, and were heard then.
        clocks.heard(mirror(1), UnixMs(5), 0);
        clocks.heard(mirror(3), UnixMs(1_000_000), 30_000);
        clocks.heard(mirror(2), UnixMs(7), 30_000);
        assert_eq!(
            clocks.dating(UnixMs(3), 3, 31_000),
            UnixMs(1_001_000).into(),
            "what the first said long ago is no vote"
        );
        assert!(!clocks.dating(UnixMs(3), 3, 60_000).sure, "nobody was heard lately");
        // One that is gone for good is waited for no longer than at the start.
        clocks.heard(mirror(1), UnixMs(2_000_000), AWAITED_MS + 40_000);
        clocks.heard(mirror(3), UnixMs(2_000_000), AWAITED_MS + 40_000);
        assert_eq!(clocks.dating(UnixMs(3), 3, AWAITED_MS + 40_000), UnixMs(2_000_000).into());
    }

    #[test]
    fn one_mirror_is_enough_where_there_is_one_and_gone_ones_are_awaited_for_a_while() {
        let mut clocks = Clocks::default();
        clocks.heard(mirror(1), UnixMs(1_000), 0);
        assert_eq!(clocks.median(1, 0), Some(UnixMs(1_000)));
        assert_eq!(clocks.median(2, AWAITED_MS - 1), None);
        assert_eq!(clocks.median(5, AWAITED_MS), None, "and that one is heard no more either");
        clocks.heard(mirror(1), UnixMs(1_000 + AWAITED_MS), AWAITED_MS);
        assert_eq!(clocks.median(5, AWAITED_MS), Some(UnixMs(1_000 + AWAITED_MS)));
    }

    #[test]
    fn a_deadline_has_passed_only_by_both_clocks() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.passed(UnixMs(5), UnixMs(9), 0, 0), Some(true));
        assert_eq!(clocks.passed(UnixMs(5), UnixMs(9), 1, 0), None);
        clocks.heard(mirror(1), UnixMs(4), 0);
        assert_eq!(clocks.passed(UnixMs(5), UnixMs(9), 1, 0), Some(false));
        assert_eq!(clocks.passed(UnixMs(5), UnixMs(9), 1, 2), Some(true));
        assert_eq!(clocks.passed(UnixMs(5), UnixMs(3), 1, 2), Some(false));
    }
}
