//! Storage locked ahead: while small puts follow each other, room for the next ones is locked with that for one, so that none of
//! them waits for it. What nobody used for a few seconds is given back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use fathom_protocol::fat::Place;
use fathom_protocol::ids::NodeId;
use fathom_protocol::wire::Wants;

use super::chain::store_seconds;
use super::placement::{Placement, Slot, check};
use super::store::{Putting, lock};
use super::{User, UserError};
use crate::clock;

/// A put that begins within this time of the one before follows it.
const FOLLOWS: Duration = Duration::from_secs(2);
/// Bytes that are locked ahead for each copy.
const AHEAD: u64 = 16 << 20;
/// Puts of at most so many bytes are served from it.
const SMALL: u64 = 1 << 20;
/// What nobody used for so long is given back.
const IDLE: Duration = Duration::from_secs(5);
/// After vendors had no room to lock ahead, they are not asked again for so long.
const REFUSED: Duration = Duration::from_secs(30);
/// Room that its vendor holds for less than this is not used any more, milliseconds.
const HELD_MS: u64 = 30_000;

/// The storage that is locked ahead.
#[derive(Default)]
pub(super) struct Stock {
    state: Mutex<State>,
    /// One put fills it, the others then find it full.
    filling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    room: Placement,
    /// Copies that it has room for.
    copies: u8,
    /// When a put last drew from it, or could have.
    last: Option<Instant>,
    refused: Option<Instant>,
    /// Whether a task gives it back when it is idle.
    tended: bool,
}

/// What a put drew: one slot for each copy.
pub(super) struct Drawn {
    stock: Weak<User>,
    slots: Vec<Slot>,
    length: u64,
}

impl Drawn {
    /// Ends it: what `put` did not use of it can be used by others, unless its vendor failed or denied it.
    pub(super) fn end(mut self, put: &mut Placement) {
        let Some(user) = self.stock.upgrade() else { return };
        let mut state = lock(&user.stock.state);
        for slot in self.slots.drain(..) {
            // What is given back meanwhile, or failed, is for the put to give back.
            let shared =
                state.room.slots().iter().any(|other| (other.place, other.column) == (slot.place, slot.column));
            if shared && !put.failed().contains(&slot.place.vendor) {
                let left = put.take_room(slot.place, slot.column).min(self.length);
                state.room.settle(&slot, left, false);
            }
        }
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        let Some(user) = self.stock.upgrade() else { return };
        let mut state = lock(&user.stock.state);
        // A put that failed keeps its room in the journal, for its next attempt.
        self.slots.iter().for_each(|slot| state.room.settle(slot, 0, false));
    }
}

impl Stock {
    /// Notes that a small put begins. Returns whether it follows another one.
    fn begins(&self) -> bool {
        lock(&self.state).last.replace(Instant::now()).is_some_and(|last| last.elapsed() < FOLLOWS)
    }

    /// A vendor failed, or denied room: nothing more is drawn from what it holds, which lapses.
    pub(super) fn forget(&self, vendor: NodeId) {
        lock(&self.state).room.fail(vendor);
    }
}

impl User {
    /// Room of `length` bytes for each copy of a small put that follows another one, from what is locked ahead; none if there is
    /// no such room.
    pub(super) async fn draw(self: &Arc<Self>, put: &Putting, length: u64) -> Option<(Drawn, Vec<Slot>)> {
        if length > SMALL || put.wants != Wants::default() {
            return None;
        }
        let follows = self.stock.begins();
        if let Some(drawn) = self.draw_slots(put.copies, length) {
            return Some(drawn);
        }
        if !follows || lock(&self.stock.state).refused.is_some_and(|at| at.elapsed() < REFUSED) {
            return None;
        }
        let _one = self.stock.filling.lock().await;
        if let Some(drawn) = self.draw_slots(put.copies, length) {
            return Some(drawn);
        }
        self.give_back(self.empty_stock()).await;
        if let Err(error) = self.fill_stock(put).await {
            tracing::debug!(%error, "no storage was locked ahead");
            lock(&self.stock.state).refused = Some(Instant::now());
            return None;
        }
        let drawn = self.draw_slots(put.copies, length);
        if drawn.is_none() {
            // Vendors hold room for so short a time here that locking ahead is no use.
            lock(&self.stock.state).refused = Some(Instant::now());
            self.give_back(self.empty_stock()).await;
        }
        drawn
    }

    fn draw_slots(self: &Arc<Self>, copies: u8, length: u64) -> Option<(Drawn, Vec<Slot>)> {
        let mut state = lock(&self.stock.state);
        let held = clock::now().plus_ms(HELD_MS);
        let lapses = |slot: &Slot| slot.lease.peek().is_ok_and(|lease| lease.room_expires < held);
        if state.copies != copies || state.room.slots().iter().any(lapses) {
            return None;
        }
        let seconds = |vendor: NodeId, in_flight: u32| store_seconds(&self.net, vendor, in_flight, length);
        let (mut drawn, mut avoid) = (Drawn { stock: Arc::downgrade(self), slots: Vec::new(), length }, Vec::new());
        for column in 0..copies {
            let Some(slot) = state.room.take(column, length, &avoid, seconds) else {
                drawn.slots.drain(..).for_each(|slot| state.room.settle(&slot, length, false));
                // Dropping it locks the state, too.
                drop(state);
                return None;
            };
            avoid.push(slot.place.vendor);
            drawn.slots.push(slot);
        }
        let slots = drawn.slots.iter().map(|slot| slot.with_room(length)).collect();
        Some((drawn, slots))
    }

    async fn fill_stock(self: &Arc<Self>, put: &Putting) -> Result<(), UserError> {
        let request = self.request(put, (put.copies, put.width()), AHEAD, vec![self.net.me()], Vec::new())?;
        let provisional = self.allocate(request).await?;
        let slots = provisional.locations.iter().map(|location| check(location, self.owner().into()));
        let slots = slots.collect::<Result<Vec<Slot>, _>>()?;
        for slot in &slots {
            self.net.learn_head(&slot.head);
        }
        let mut state = lock(&self.stock.state);
        state.copies = put.copies;
        slots.into_iter().for_each(|slot| state.room.add(slot));
        if !std::mem::replace(&mut state.tended, true) {
            let user = Arc::downgrade(self);
            tokio::spawn(async move {
                while let Some(user) = user.upgrade() {
                    if user.tend_stock().await {
                        return;
                    }
                    drop(user);
                    tokio::time::sleep(IDLE / 4).await;
                }
            });
        }
        Ok(())
    }

    /// Gives the stock back if nobody used it for a while. Returns whether it did.
    async fn tend_stock(&self) -> bool {
        {
            let mut state = lock(&self.stock.state);
            if state.last.is_some_and(|last| last.elapsed() < IDLE) {
                return false;
            }
            state.tended = false;
        }
        self.give_back(self.empty_stock()).await;
        true
    }

    /// Takes everything out of the stock.
    pub(super) fn empty_stock(&self) -> BTreeMap<Place, u64> {
        let mut unused: BTreeMap<Place, u64> = BTreeMap::new();
        for (place, bytes) in std::mem::take(&mut lock(&self.stock.state).room).take_unused() {
            *unused.entry(place).or_default() += bytes;
        }
        unused
    }
}
