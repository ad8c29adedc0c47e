//! Whether a vendor has read the orders of so many mirrors lately that it knows what every stored final FAT says.
//!
//! A final FAT counts as stored once a majority of up to three mirrors has it, and mirrors that are cut off from each other do not
//! tell it on. Whoever only reaches the others would find a chunk unnamed that is named, and erase it.

use std::collections::BTreeMap;

use crate::ids::NodeId;

/// Orders read so long ago are news no more, milliseconds. Long enough to ask enough mirrors in turn, and far less than the time
/// between the last moment at which a user relies on a receipt and the one at which its chunk lapses.
pub const NEWS_MS: u64 = 20_000;
/// Mirrors that are enough, however many there are.
const MIRRORS_MAX: usize = 3;

/// When each mirror's orders were read to their end.
#[derive(Debug, Default)]
pub struct CaughtUp(BTreeMap<NodeId, u64>);

impl CaughtUp {
    /// The orders of a mirror were read to their end when `elapsed_ms` had passed, by a clock that nobody can set.
    pub fn heard(&mut self, mirror: NodeId, elapsed_ms: u64) {
        self.0.retain(|_, at| elapsed_ms.saturating_sub(*at) <= NEWS_MS);
        self.0.insert(mirror, elapsed_ms);
    }

    /// Whether enough of `known` mirrors were heard lately: with up to four, one of them has every final FAT that is stored.
    #[must_use]
    pub fn is_enough(&self, known: usize, elapsed_ms: u64) -> bool {
        let lately = self.0.values().filter(|at| elapsed_ms.saturating_sub(**at) <= NEWS_MS).count();
        // So many have it at least.
        let stored = known.min(3) / 2 + 1;
        lately >= (known + 1).saturating_sub(stored).clamp(1, MIRRORS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_those_that_were_heard_has_what_is_stored() {
        for (known, wanted) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (50, 3)] {
            let mut caught_up = CaughtUp::default();
            for heard in 0..wanted {
                assert!(!caught_up.is_enough(known, 10), "{heard} of {known}");
                // The same one again is no other one.
                caught_up.heard(NodeId([heard; NodeId::LEN]), 5);
                caught_up.heard(NodeId([heard; NodeId::LEN]), 10);
            }
            assert!(caught_up.is_enough(known, 10 + NEWS_MS) && !caught_up.is_enough(known, 11 + NEWS_MS));
        }
    }
}
