//! Storage locked ahead, as the user's node does it: while puts follow each other, room for the next ones is locked with that for
//! one. What nobody used for a while is given back; what a crash leaves behind lapses.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::fat::Place;
use fathom_protocol::ids::NodeId;
use fathom_protocol::wire::Location;

use super::put::Slot;
use super::{Op, STOCK, User};
use crate::sim::node::{Cx, Timer};

/// A put that begins within so many milliseconds of the one before follows it.
const FOLLOWS_MS: u64 = 2_000;
/// Chunks for which room is locked ahead, for each copy.
pub(super) const AHEAD: u64 = 6;
/// What nobody used for so long is given back.
const IDLE_MS: u64 = 5_000;
/// After vendors had no room to lock ahead, they are not asked again for so long.
const REFUSED_MS: u64 = 10_000;
/// Room that its vendor holds for less than this is not used any more.
const HELD_MS: u64 = 5_000;

/// The storage that is locked ahead.
#[derive(Debug, Default)]
pub(super) struct Stock {
    room: Vec<(Slot, Location)>,
    failed: BTreeSet<NodeId>,
    /// When a put last drew from it, or could have.
    last: Option<u64>,
    refused: Option<u64>,
    tended: bool,
}

/// What a put drew: a slot for each copy, and how much of each.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    slots: Vec<(Place, u8)>,
    length: u64,
}

impl Stock {
    /// Notes that a put begins. Returns whether it follows another one.
    pub(super) fn begins(&mut self, at: u64) -> bool {
        self.last.replace(at).is_some_and(|last| at - last < FOLLOWS_MS)
    }

    /// Whether it is worth to ask for room ahead.
    pub(super) fn may_ask(&self, at: u64) -> bool {
        self.refused.is_none_or(|refused| at - refused >= REFUSED_MS)
    }

    pub(super) fn refused(&mut self, at: u64) {
        self.refused = Some(at);
    }

    /// A vendor failed, or denied room: nothing more is drawn from what it holds, which is given back or lapses.
    pub(super) fn forget(&mut self, vendor: NodeId) {
        self.failed.insert(vendor);
    }

    pub(super) fn add(&mut self, slot: Slot, location: Location) {
        match self.room.iter_mut().find(|(known, _)| (known.place, known.column) == (slot.place, slot.column)) {
            Some((known, noted)) => {
                known.room += slot.room;
                *noted = location;
            }
            None => self.room.push((slot, location)),
        }
    }

    /// Room of `length` bytes in each of `copies` columns, at different vendors.
    pub(super) fn draw(&mut self, cx: &Cx<'_>, copies: u8, length: u64) -> Option<(Drawn, Vec<Location>)> {
        let held = cx.now.plus_ms(HELD_MS);
        let lapses = |slot: &Slot| slot.lease.peek().is_ok_and(|lease| lease.room_expires < held);
        if self.room.iter().any(|(slot, _)| lapses(slot)) {
            return None;
        }
        let (mut chosen, mut avoid) = (Vec::new(), self.failed.clone());
        for column in 0..copies {
            let fits =
                |slot: &Slot| slot.column == column && slot.room >= length && !avoid.contains(&slot.place.vendor);
            let at = self.room.iter().position(|(slot, _)| fits(slot))?;
            avoid.insert(self.room[at].0.place.vendor);
            chosen.push(at);
        }
        let (mut drawn, mut locations) = (Drawn { slots: Vec::new(), length }, Vec::new());
        for at in chosen {
            let (slot, location) = &mut self.room[at];
            slot.room -= length;
            drawn.slots.push((slot.place, slot.column));
            locations.push(Location { column: slot.column, granted: length, ..location.clone() });
        }
        Some((drawn, locations))
    }

    /// What is given back when nobody needs it. Afterwards there is none.
    pub(super) fn empty(&mut self) -> BTreeMap<Place, u64> {
        self.failed.clear();
        let mut unused = BTreeMap::new();
        for (slot, _) in std::mem::take(&mut self.room) {
            if slot.room > 0 {
                *unused.entry(slot.place).or_default() += slot.room;
            }
        }
        unused
    }
}

impl User {
    /// What the put that is handed in did not use of what it drew can be used by others, unless its vendor failed or denied it.
    pub(super) fn end_draw(&mut self) {
        let Some(Op::Put(put)) = &mut self.op else { return };
        let Drawn { slots, length } = std::mem::take(&mut put.drawn);
        for (place, column) in slots {
            let shared = self.stock.room.iter_mut().find(|(slot, _)| (slot.place, slot.column) == (place, column));
            if let Some((slot, _)) = shared.filter(|_| !put.failed.contains(&place.vendor)) {
                slot.room += put.take_room(place, column).min(length);
            }
        }
    }

    /// Takes room of `length` bytes for each copy of the put from what is locked ahead, if there is so much.
    pub(super) fn draw(&mut self, cx: &mut Cx<'_>, length: u64) -> bool {
        let owner = self.keys.owner();
        let Some((drawn, mut locations)) = self.stock.draw(cx, self.copies, length) else { return false };
        let Some(Op::Put(put)) = &mut self.op else { return false };
        put.drawn = drawn;
        cx.injected.drawn += 1;
        for location in &locations {
            put.add_location(cx, location, owner);
        }
        put.locations.locations.append(&mut locations);
        if self.journal.begin(put.name, &put.locations, None).is_ok() {
            self.advance(cx);
        }
        true
    }

    /// Asks for room ahead, after what is left of it was given back.
    pub(super) fn fill_stock(&mut self, cx: &mut Cx<'_>) {
        let unused = self.stock.empty();
        self.give_back(cx, unused);
        self.claim(cx, (self.copies, AHEAD), Vec::new(), None);
        if let Some(Op::Put(put)) = &mut self.op
            && let Some(claim) = &mut put.claim
        {
            claim.ahead = true;
        }
    }

    /// There was no room to lock ahead: the put asks for its own.
    pub(super) fn not_stocked(&mut self, cx: &mut Cx<'_>) {
        self.stock.refused(cx.at);
        self.lock_own(cx);
    }

    /// Room came that was locked ahead: the put draws on it.
    pub(super) fn stocked(&mut self, cx: &mut Cx<'_>) {
        cx.injected.locked_ahead += 1;
        if !std::mem::replace(&mut self.stock.tended, true) {
            cx.wait(IDLE_MS / 4, Timer::Every(STOCK));
        }
        if !self.draw_first(cx) {
            // Vendors hold room for so short a time that locking ahead is no use.
            let unused = self.stock.empty();
            self.give_back(cx, unused);
            self.not_stocked(cx);
        }
    }

    /// Gives the stock back if nobody used it for a while.
    pub(super) fn tend_stock(&mut self, cx: &mut Cx<'_>) {
        if self.stock.last.is_some_and(|last| cx.at - last < IDLE_MS) {
            return cx.wait(IDLE_MS / 4, Timer::Every(STOCK));
        }
        self.stock.tended = false;
        let unused = self.stock.empty();
        cx.injected.returned_ahead += u64::from(!unused.is_empty());
        self.give_back(cx, unused);
    }
}
