//! How much of a mirror's memory vendors may take, and who goes without when there is not enough.
//!
//! Anybody may offer storage, and a head costs a key and a signature, so their number must have a bound. What is counted is
//! an estimate of the bytes that a vendor's record takes ([`weight`]). Where they do not all fit:
//!
//! - A vendor that a final FAT or a move names, with data there, is never put out. It puts out others, until it fits.
//! - Of the rest, whoever has the smaller *lot* stays: a hash of its identifier, which nobody but its maker could choose.
//! - Who does not fit is refused, and may ask again. A known vendor whose newer record does not fit keeps the older one here.
//!
//! Mirrors that hold the same final FATs and exchange their records come to hold the same vendors, whatever came first, as
//! long as those in use fit: whichever vendor is first, in this order, among those that only one of two mirrors has, finds
//! room at the other, since those before it are there too and left it room here. What is put out for it comes after it, so each
//! exchange moves both forward in one order of all sets, and none of them goes back and forth. Among vendors in use nobody gives
//! way: a file's data is not made unreachable by whoever signs more of them, at the price that such mirrors may differ.

use std::collections::BTreeSet;

use crate::head::VerifiedVendor;
use crate::ids::NodeId;
use crate::lease::Lease;
use crate::limits::{VENDOR_BYTES_MAX, VENDOR_BYTES_MIN};
use crate::sign::Signed;
use crate::wire::{Refusal, RefusalKind};

use super::{Key, Table};

/// What a lease's entry in its owner's account takes at most, in bytes.
const ACCOUNT: usize = 96;

/// Who stays first; the identifier tells apart what the hash does not.
type Lot = ([u8; 16], NodeId);

fn lot(vendor: NodeId) -> Lot {
    let hash = blake3::hash(&vendor.0);
    (std::array::from_fn(|at| hash.as_bytes()[at]), vendor)
}

/// The vendors' part of the memory.
#[derive(Debug)]
pub(super) struct Room {
    max: u64,
    taken: u64,
    /// Those that may be put out, the first one last.
    idle: BTreeSet<Lot>,
}

impl Default for Room {
    fn default() -> Self {
        Self { max: VENDOR_BYTES_MAX, taken: 0, idle: BTreeSet::new() }
    }
}

/// What a vendor's record counts, in bytes: about what it takes, decoded and as it was signed; at least
/// [`VENDOR_BYTES_MIN`], since every request for storage looks at each vendor.
#[must_use]
pub fn weight(vendor: &VerifiedVendor) -> u64 {
    let lease = |lease: &Signed<Lease>| size_of::<Signed<Lease>>() + lease.carried().body_len() + ACCOUNT;
    let leases: usize = vendor.leases.iter().map(lease).sum();
    let head = 3 * vendor.head.carried().body_len() as u64;
    head.max(VENDOR_BYTES_MIN) + leases as u64
}

impl Table {
    /// A table in which vendors may take `bytes` rather than [`VENDOR_BYTES_MAX`].
    #[must_use]
    pub fn with_vendor_bytes(bytes: u64) -> Self {
        Self { room: Room { max: bytes, ..Room::default() }, ..Self::default() }
    }

    /// Puts a verified record in the place of the vendor's older one, and puts out whom it displaces.
    ///
    /// # Errors
    /// `Busy` if there is no room for it; the table is as it was.
    pub(super) fn house(&mut self, vendor: &VerifiedVendor) -> Result<Vec<Key>, Refusal> {
        let id = vendor.head.vendor;
        let before = self.vendors.get(&id).map_or(0, weight);
        let taken = self.room.taken - before + weight(vendor);
        let mut excess = taken.saturating_sub(self.room.max);
        let mut out = Vec::new();
        let in_use = self.in_use(id);
        for other in self.room.idle.iter().rev().filter(|other| other.1 != id) {
            if excess == 0 || (!in_use && *other < lot(id)) {
                break;
            }
            excess = excess.saturating_sub(self.vendors.get(&other.1).map_or(0, weight));
            out.push(other.1);
        }
        if excess > 0 {
            return Err(Refusal::new(RefusalKind::Busy, "this mirror keeps as many vendors as it can"));
        }
        self.room.taken = taken;
        for other in &out {
            self.put_out(*other);
        }
        let before = self.vendors.insert(id, vendor.clone());
        self.account_leases(before.as_ref(), Some(vendor));
        self.lodge(id);
        Ok(out.into_iter().map(Key::Vendor).collect())
    }

    fn put_out(&mut self, vendor: NodeId) {
        if let Some(gone) = self.vendors.remove(&vendor) {
            self.room.taken -= weight(&gone);
            self.account_leases(Some(&gone), None);
        }
        self.room.idle.remove(&lot(vendor));
    }

    /// Notes whether a vendor may be put out, after that or the vendor itself came to be.
    pub(super) fn lodge(&mut self, vendor: NodeId) {
        if !self.vendors.contains_key(&vendor) {
            return;
        }
        if self.in_use(vendor) {
            self.room.idle.remove(&lot(vendor));
        } else {
            self.room.idle.insert(lot(vendor));
        }
    }

    /// Bytes that the vendors count, see [`weight`].
    #[must_use]
    pub fn vendor_bytes(&self) -> u64 {
        self.room.taken
    }
}
