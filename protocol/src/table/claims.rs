//! What final FATs and moves claim of each lease, kept as they come and go, so that a submission is checked against all files of
//! its owner at the price of its own uses.
//!
//! A file claims what each of its versions uses. A move takes its chunk from the claim on the lease that it left and adds it to the
//! one that it came to, if a version that is known has the chunk: one that arrives before its final FAT counts once that is here,
//! and one of a version that was not chosen no more. So the claims of a lease by its owner never exceed the lease while
//! everybody keeps their word.

use std::collections::BTreeMap;

use crate::fat::{Fate, Lineage, Tag, Use};
use crate::ids::{FileId, LeaseId, NodeId, OwnerId};
use crate::moves::Move;

use super::fats::FatEntry;
use super::{MoveKey, Table};

/// What one file claims: bytes by vendor and lease.
pub(super) type Shares = BTreeMap<(NodeId, LeaseId), i128>;

/// The claims of all files.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// By [`name`]; none that is 0.
    leases: BTreeMap<[u8; 16], i128>,
    /// How many of them each vendor has; none that has 0.
    vendors: BTreeMap<NodeId, u32>,
}

/// A lease and who claims it, in a fifth of the bytes: what a stranger claims of a lease is not its owner's claim.
fn name(owner: OwnerId, vendor: NodeId, lease: LeaseId) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&owner.0).update(&vendor.0).update(&lease.0);
    let hash = hasher.finalize();
    std::array::from_fn(|at| hash.as_bytes()[at])
}

impl Claims {
    fn of(&self, owner: OwnerId, vendor: NodeId, lease: LeaseId) -> i128 {
        self.leases.get(&name(owner, vendor, lease)).copied().unwrap_or(0)
    }

    fn uses(&self, vendor: NodeId) -> bool {
        self.vendors.contains_key(&vendor)
    }

    /// Returns whether the vendor came to be in use by this, or ceased to be.
    fn add(&mut self, owner: OwnerId, vendor: NodeId, lease: LeaseId, bytes: i128) -> bool {
        if bytes == 0 {
            return false;
        }
        let name = name(owner, vendor, lease);
        let claim = self.leases.entry(name).or_default();
        let before = *claim;
        *claim += bytes;
        if before != 0 && *claim != 0 {
            return false;
        }
        let count = self.vendors.entry(vendor).or_default();
        if before == 0 {
            *count += 1;
            return *count == 1;
        }
        self.leases.remove(&name);
        *count -= 1;
        let last = *count == 0;
        if last {
            self.vendors.remove(&vendor);
        }
        last
    }
}

/// What these versions and moves of one file claim.
pub(super) fn shares<'a>(
    versions: impl Iterator<Item = (Lineage<'a>, &'a [Use])>,
    moves: impl Iterator<Item = &'a Move>,
) -> Shares {
    let mut shares = Shares::new();
    let mut lineages = Vec::new();
    for (lineage, uses) in versions {
        lineages.push(lineage);
        for used in uses {
            *shares.entry((used.vendor, used.lease)).or_default() += i128::from(used.bytes);
        }
    }
    for moved in moves.filter(|moved| counts(moved, &lineages)) {
        *shares.entry((moved.from, moved.from_lease)).or_default() -= i128::from(moved.length);
        *shares.entry((moved.to, moved.to_lease)).or_default() += i128::from(moved.length);
    }
    shares
}

/// Whether a version has a move's chunk, and none replaced it.
fn counts(moved: &Move, versions: &[Lineage<'_>]) -> bool {
    let said = |fate| versions.iter().any(|version| version.fate(Tag(moved.seq)) == fate);
    said(Fate::Live) && !said(Fate::Past)
}

impl Table {
    /// What a file claims now.
    pub(super) fn shares_of(&self, owner: OwnerId, file: FileId) -> Shares {
        let versions = self.versions(owner, file).map(|version| (version.lineage(), &version.uses[..]));
        shares(versions, self.moves_of(owner, file).map(|(_, moved)| moved))
    }

    /// Books what a file claims now in place of what it claimed `before`.
    pub(super) fn reclaim(&mut self, owner: OwnerId, file: FileId, before: &Shares) {
        let mut change = self.shares_of(owner, file);
        for (at, bytes) in before {
            *change.entry(*at).or_default() -= bytes;
        }
        for ((vendor, lease), bytes) in change {
            self.claim(owner, vendor, lease, bytes);
        }
    }

    fn claim(&mut self, owner: OwnerId, vendor: NodeId, lease: LeaseId, bytes: i128) {
        if self.claims.add(owner, vendor, lease, bytes) {
            self.lodge(vendor);
        }
    }

    /// Books a move in place of the one `before` of the same chunk out of the same lease.
    pub(super) fn reclaim_move(&mut self, key: &MoveKey, before: Option<&Move>, now: &Move) {
        let versions: Vec<Lineage<'_>> = self.versions(key.owner, key.file).map(FatEntry::lineage).collect();
        let mut sides: Vec<(&Move, i128)> = before.map(|before| (before, -1)).into_iter().chain([(now, 1)]).collect();
        sides.retain(|(moved, _)| counts(moved, &versions));
        for (moved, sign) in sides {
            let bytes = sign * i128::from(moved.length);
            self.claim(key.owner, moved.from, moved.from_lease, -bytes);
            self.claim(key.owner, moved.to, moved.to_lease, bytes);
        }
    }

    /// Bytes that all final FATs and moves of `owner` together claim of a lease.
    #[must_use]
    pub fn claimed(&self, owner: OwnerId, vendor: NodeId, lease: LeaseId) -> i128 {
        self.claims.of(owner, vendor, lease)
    }

    /// Whether a final FAT or a move says that data is at this vendor.
    #[must_use]
    pub fn in_use(&self, vendor: NodeId) -> bool {
        self.claims.uses(vendor)
    }
}
