//! Who brought records that do not verify, and who is refused for that.
//!
//! No honest node ever sends one: authors sign what they send, and mirrors pass on only what they verified. What is merely old,
//! known, in conflict or of a version that is not spoken here counts for nothing. A few are forgiven all the same, one every
//! [`FORGIVEN_MS`], so that a fault of memory or disk somewhere does not end in a ban.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::limits::{BAD_RECORDS_MAX, BANS_MAX, CHECKING_PER_PEER_MAX, MARKS_MAX};

/// One bad record is forgiven after so long.
pub const FORGIVEN_MS: u64 = 10_000;
/// The first ban's length; each further one of a peer is twice as long.
pub const BAN_MS: u64 = 600_000;
/// Bans double so often.
const DOUBLED_MAX: u32 = 6;

#[derive(Debug, Default)]
struct Mark {
    bad: u32,
    /// Up to when bad records were forgiven.
    forgiven: u64,
    checking: u32,
    bans: u32,
}

impl Mark {
    fn forgive(&mut self, now: u64) {
        let steps = now.saturating_sub(self.forgiven) / FORGIVEN_MS;
        self.bad = self.bad.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX));
        self.forgiven = if self.bad == 0 { now } else { self.forgiven + steps * FORGIVEN_MS };
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Guard {
    marks: BTreeMap<NodeId, Mark>,
    bans: BTreeMap<NodeId, u64>,
}

impl Guard {
    pub(super) fn banned(&self, peer: NodeId, now: u64) -> bool {
        self.bans.get(&peer).is_some_and(|end| *end > now)
    }

    /// Whether a message of `peer` may be verified. If so, [`Guard::checked`] follows.
    pub(super) fn admits(&mut self, peer: NodeId, now: u64) -> bool {
        if self.banned(peer, now) {
            return false;
        }
        let Some(mark) = self.mark(peer, now) else { return false };
        let room = mark.checking < CHECKING_PER_PEER_MAX;
        mark.checking += u32::from(room);
        room
    }

    pub(super) fn checked(&mut self, peer: NodeId) {
        if let Some(mark) = self.marks.get_mut(&peer) {
            mark.checking = mark.checking.saturating_sub(1);
        }
    }

    /// Notes bad records. Returns for how long the peer is banned, if it is from now on.
    pub(super) fn blame(&mut self, peer: NodeId, bad: usize, now: u64) -> Option<u64> {
        if bad == 0 || self.banned(peer, now) {
            return None;
        }
        let mark = self.mark(peer, now)?;
        mark.forgive(now);
        mark.bad = mark.bad.saturating_add(u32::try_from(bad).unwrap_or(u32::MAX));
        if mark.bad < BAD_RECORDS_MAX {
            return None;
        }
        mark.bad = 0;
        let length = BAN_MS << mark.bans.min(DOUBLED_MAX);
        mark.bans = mark.bans.saturating_add(1);
        self.bans.retain(|_, end| *end > now);
        if self.bans.len() >= BANS_MAX
            && let Some(first) = self.bans.iter().min_by_key(|(_, end)| **end).map(|(peer, _)| *peer)
        {
            self.bans.remove(&first);
        }
        self.bans.insert(peer, now.saturating_add(length));
        Some(length)
    }

    /// The mark of a peer. There is none if too many peers are at work, which the overlay's caps keep far away.
    fn mark(&mut self, peer: NodeId, now: u64) -> Option<&mut Mark> {
        if !self.marks.contains_key(&peer) && self.marks.len() >= MARKS_MAX {
            let least =
                self.marks.iter().filter(|(_, mark)| mark.checking == 0).min_by_key(|(_, mark)| (mark.bans, mark.bad));
            let least = least.map(|(peer, _)| *peer)?;
            self.marks.remove(&least);
        }
        let fresh = || Mark { forgiven: now, ..Mark::default() };
        Some(self.marks.entry(peer).or_insert_with(fresh))
    }
}
