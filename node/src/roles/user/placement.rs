//! Where the copies of a put's chunks go: the locked locations by column, how much room each has left, and which failed.

use std::collections::BTreeSet;

use fathom_protocol::fat::Place;
use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::NodeId;
use fathom_protocol::lease::Lease;
use fathom_protocol::route::chain::Link;
use fathom_protocol::sign::{Carried, RecordError, Signed, SignerId};
use fathom_protocol::wire::Location;

use crate::control::ProvisionalLocation;

/// One locked location.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Which copy it serves.
    pub column: u8,
    /// Vendor and lease.
    pub place: Place,
    /// The vendor's head.
    pub head: Signed<VendorHead>,
    /// The lease as the vendor signed it.
    pub lease: Carried<Lease>,
    /// Bytes that were locked for this put and are not spoken for.
    room: u64,
    /// Room that we counted on and the vendor denied: given back at the end, in case it is there after all.
    denied: u64,
    /// Chunks on their way there.
    in_flight: u32,
    /// Bytes of chunks with receipts.
    stored: u64,
    /// Whether its vendor once said that there is less room than we believed.
    exhausted: bool,
}

/// All locations of one put.
#[derive(Debug, Default)]
pub(super) struct Placement {
    slots: Vec<Slot>,
    failed: BTreeSet<NodeId>,
}

/// A location whose records do not fit the request.
pub(super) fn check(location: &Location, owner: SignerId) -> Result<Slot, RecordError> {
    let lease = location.lease.clone().verify()?;
    let head = location.head.clone().verify()?;
    if lease.vendor != head.vendor || SignerId::from(lease.owner) != owner || lease.authority != owner {
        return Err(RecordError::Invalid("a mirror answered with a lease for somebody else"));
    }
    if location.granted > lease.room() {
        return Err(RecordError::Invalid("a mirror promises more room than the lease has"));
    }
    Ok(Slot {
        column: location.column,
        place: Place { vendor: lease.vendor, lease: lease.id },
        head,
        lease: location.lease.clone(),
        room: location.granted,
        denied: 0,
        in_flight: 0,
        stored: 0,
        exhausted: false,
    })
}

impl Slot {
    /// The same location with so much room and nothing else known of it.
    pub(super) fn with_room(&self, room: u64) -> Self {
        Self { room, denied: 0, in_flight: 0, stored: 0, exhausted: false, ..self.clone() }
    }

    /// The location as the journal notes it.
    pub(super) fn location(&self) -> Location {
        let (column, granted) = (self.column, self.room);
        Location { column, granted, lease: self.lease.clone(), head: self.head.carried().clone() }
    }

    /// The location as a person sees it.
    pub(super) fn shown(&self) -> ProvisionalLocation {
        ProvisionalLocation {
            vendor: self.place.vendor.to_string(),
            zone: self.head.characteristics.zone.to_string(),
            lease: self.place.lease.to_string(),
            bytes: self.room,
        }
    }
}

impl Placement {
    /// Adds a location. A lease that is known already grew: its room adds up.
    pub(super) fn add(&mut self, slot: Slot) {
        match self.slots.iter_mut().find(|known| known.place == slot.place && known.column == slot.column) {
            Some(known) => {
                known.room += slot.room;
                known.lease = slot.lease;
            }
            None => self.slots.push(slot),
        }
    }

    /// Speaks for room of `length` bytes in `column`, at a vendor that is not in `avoid`: one that
    /// did not fail lately, and has it first by `seconds`, which is given what is on its way there. Each success is followed by one
    /// [`Self::settle`].
    pub(super) fn take(
        &mut self,
        column: u8,
        length: u64,
        avoid: &[NodeId],
        seconds: impl Fn(NodeId, u32) -> f64,
    ) -> Option<Slot> {
        let failed = &self.failed;
        let best = self
            .slots
            .iter_mut()
            .filter(|slot| slot.column == column && slot.room >= length)
            .filter(|slot| !failed.contains(&slot.place.vendor) && !avoid.contains(&slot.place.vendor))
            .map(|slot| (seconds(slot.place.vendor, slot.in_flight), slot))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))?
            .1;
        best.room -= length;
        best.in_flight += 1;
        Some(best.clone())
    }

    /// Speaks for room of `length` bytes in each column that is `wanted`, at vendors that did not fail and are not in `avoid`, as `pick`
    /// chooses: it is given how many chunks are on their way at present, the vendors with what is on its way to each, and which of them
    /// serve each column. `None` if it does not, the first column as error that has no vendor. The slots are in the order of the chain.
    pub(super) fn take_chain(
        &mut self,
        wanted: &[u8],
        length: u64,
        avoid: &[NodeId],
        pick: impl FnOnce(u32, &[(NodeId, u32)], &[Vec<usize>]) -> Option<Vec<Link>>,
    ) -> Result<Option<Vec<Slot>>, u8> {
        let mut vendors: Vec<(NodeId, u32)> = Vec::new();
        let mut columns = Vec::with_capacity(wanted.len());
        for column in wanted {
            let mut nodes = Vec::new();
            let fit = self.working(*column).filter(|slot| slot.room >= length && !avoid.contains(&slot.place.vendor));
            for slot in fit {
                let known = vendors.iter().position(|(vendor, _)| *vendor == slot.place.vendor);
                let node = known.unwrap_or_else(|| {
                    vendors.push((slot.place.vendor, 0));
                    vendors.len() - 1
                });
                vendors[node].1 += slot.in_flight;
                nodes.push(node);
            }
            if nodes.is_empty() {
                return Err(*column);
            }
            columns.push(nodes);
        }
        let copies: u32 = self.slots.iter().map(|slot| slot.in_flight).sum();
        let chunks = copies.div_ceil(u32::try_from(wanted.len()).unwrap_or(1).max(1));
        let Some(chain) = pick(chunks, &vendors, &columns) else { return Ok(None) };
        let mut taken = Vec::with_capacity(chain.len());
        for Link { column, node } in chain {
            let (column, vendor) = (wanted[column], vendors[node].0);
            let fits = |slot: &&mut Slot| slot.column == column && slot.place.vendor == vendor && slot.room >= length;
            if let Some(slot) = self.slots.iter_mut().find(fits) {
                slot.room -= length;
                slot.in_flight += 1;
                taken.push(slot.clone());
            }
        }
        Ok(Some(taken))
    }

    /// Ends what [`Self::take`] began: the copy is stored, or its room is free again.
    pub(super) fn settle(&mut self, slot: &Slot, length: u64, stored: bool) {
        if let Some(known) = self.find(slot.place, slot.column) {
            known.in_flight = known.in_flight.saturating_sub(1);
            if stored {
                known.stored += length;
            } else {
                known.room += length;
            }
        }
    }

    /// Counts a copy that an earlier run stored.
    pub(super) fn resumed(&mut self, place: Place, column: u8, length: u64) {
        if let Some(known) = self.find(place, column) {
            known.room = known.room.saturating_sub(length);
            known.stored += length;
        }
    }

    /// The lease has no more room for us, whatever we believed. Returns whether that is news: a put that was interrupted left
    /// chunks behind whose receipts it never saw, so each of its leases may hold less than it knows.
    pub(super) fn exhaust(&mut self, slot: &Slot) -> bool {
        self.find(slot.place, slot.column).is_some_and(|known| {
            known.denied += std::mem::take(&mut known.room);
            !std::mem::replace(&mut known.exhausted, true)
        })
    }

    /// The vendor failed: nothing more goes there.
    pub(super) fn fail(&mut self, vendor: NodeId) {
        self.failed.insert(vendor);
    }

    /// Vendors that failed.
    pub(super) fn failed(&self) -> &BTreeSet<NodeId> {
        &self.failed
    }

    /// Room that is not spoken for in a column at vendors that work, bytes.
    pub(super) fn room(&self, column: u8) -> u64 {
        self.working(column).map(|slot| slot.room).sum()
    }

    /// Room that was locked in a column at vendors that failed, bytes: what a replacement should bring.
    pub(super) fn lost_room(&self, column: u8) -> u64 {
        self.slots
            .iter()
            .filter(|slot| slot.column == column && self.failed.contains(&slot.place.vendor))
            .map(|slot| slot.room + slot.stored)
            .sum()
    }

    /// Vendors that serve other columns than `column`, and their zones.
    pub(super) fn others(&self, column: u8) -> (Vec<NodeId>, Vec<String>) {
        let others = self.slots.iter().filter(|slot| slot.column != column);
        let working: Vec<&Slot> = others.filter(|slot| !self.failed.contains(&slot.place.vendor)).collect();
        let mut zones: Vec<String> = working.iter().map(|slot| slot.head.characteristics.zone.to_string()).collect();
        zones.sort();
        zones.dedup();
        (working.iter().map(|slot| slot.place.vendor).collect(), zones)
    }

    /// The locations with room left over, and how much: to be given back. Afterwards there is none.
    pub(super) fn take_unused(&mut self) -> Vec<(Place, u64)> {
        let unused = |slot: &mut Slot| (slot.place, std::mem::take(&mut slot.room) + std::mem::take(&mut slot.denied));
        self.slots.iter_mut().map(unused).filter(|(_, room)| *room > 0).collect()
    }

    /// The room left in one location, which has none afterwards.
    pub(super) fn take_room(&mut self, place: Place, column: u8) -> u64 {
        self.find(place, column).map_or(0, |slot| std::mem::take(&mut slot.room))
    }

    /// All locations.
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn working(&self, column: u8) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.column == column && !self.failed.contains(&slot.place.vendor))
    }

    fn find(&mut self, place: Place, column: u8) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.place == place && slot.column == column)
    }
}
