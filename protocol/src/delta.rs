//! What changed at a vendor between two of its heads: what it tells mirrors instead of all its leases.
//!
//! A delta is believed no more than a whole record: whoever has the base lays it over the leases there and sees whether
//! they are those that the new head commits to. Mirrors keep and exchange whole records; deltas are only on the way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::Bounded;
use crate::head::{VendorHead, VendorRecord, VerifiedVendor};
use crate::ids::{Hash, LeaseId};
use crate::lease::Lease;
use crate::limits::DELTA_LEASES_MAX;
use crate::sign::{Carried, RecordError, Signed};

/// Which head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadId {
    /// Its epoch.
    pub epoch: u64,
    /// Its sequence number.
    pub seq: u64,
    /// BLAKE3 of its body.
    pub hash: Hash,
}

impl HeadId {
    /// The identity of a signed head.
    #[must_use]
    pub fn of(head: &Signed<VendorHead>) -> Self {
        Self { epoch: head.epoch, seq: head.seq, hash: head.hash() }
    }

    /// What heads are ordered by.
    #[must_use]
    pub fn height(&self) -> (u64, u64) {
        (self.epoch, self.seq)
    }
}

/// A head, and how its leases differ from those of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VendorDelta {
    /// The new head.
    pub head: Carried<VendorHead>,
    /// The head that this builds on.
    pub base: HeadId,
    /// Leases that are new or changed, ordered by identifier.
    pub changed: Bounded<Carried<Lease>, DELTA_LEASES_MAX>,
    /// Leases that are gone, ordered by identifier.
    pub gone: Bounded<LeaseId, DELTA_LEASES_MAX>,
}

/// Why a delta was not laid over what is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// Another head is known than the one it builds on: the whole record is needed.
    #[error("the head that this change builds on is not the one known here")]
    Base,
    /// It is not valid, whatever is known.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl VendorDelta {
    /// How `new` differs from `old`; none if it differs too much, or is of another epoch.
    #[must_use]
    pub fn between(old: &VerifiedVendor, new: &VerifiedVendor) -> Option<Self> {
        if old.head.vendor != new.head.vendor || old.head.epoch != new.head.epoch {
            return None;
        }
        let same =
            |lease: &&Signed<Lease>| old.lease(lease.id).is_some_and(|before| before.carried() == lease.carried());
        let changed = new.leases.iter().filter(|lease| !same(lease)).map(|lease| lease.carried().clone());
        let gone = old.leases.iter().map(|lease| lease.id).filter(|id| new.lease(*id).is_none());
        Some(Self {
            head: new.head.carried().clone(),
            base: HeadId::of(&old.head),
            changed: Bounded::new(changed.collect()).ok()?,
            gone: Bounded::new(gone.collect()).ok()?,
        })
    }

    /// Lays this over `known`, verifies the head and that the leases are now exactly those that it commits to. Over the head
    /// itself it is what is known.
    ///
    /// # Errors
    /// [`DeltaError`]; nothing was changed.
    pub fn apply(self, known: &VerifiedVendor) -> Result<VerifiedVendor, DeltaError> {
        if self.head.hash() == known.head.hash() {
            return Ok(known.clone());
        }
        if self.base != HeadId::of(&known.head) {
            return Err(DeltaError::Base);
        }
        let mut leases: BTreeMap<LeaseId, Carried<Lease>> =
            known.leases.iter().map(|lease| (lease.id, lease.carried().clone())).collect();
        for id in &self.gone {
            leases.remove(id);
        }
        for lease in self.changed {
            leases.insert(lease.peek()?.id, lease);
        }
        let leases = Bounded::new(leases.into_values().collect())
            .map_err(|_| RecordError::Invalid("a vendor with more leases than it may have"))?;
        Ok(VendorRecord { head: self.head, leases }.verify()?)
    }
}
