//! A vendor's head, and the head with all its live leases: the unit in which mirrors hold and exchange the FAT.
//!
//! The head's root commits to all leases and to their sum ([`crate::root`]): whoever has them all sees whether one was left
//! out, and whoever has one lease and a [`LeaseProof`] sees that it is live without having the others.

use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::ids::{DeviceId, Hash, LeaseId, NodeId};
use crate::lease::Lease;
use crate::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, DEVICES_MAX, LABEL_BYTES_MAX, LEASES_MAX};
use crate::root::{Entry, LeaseProof, LeaseRoot, Standing, lease_root};
use crate::route::RATE_MAX;
use crate::route::coordinate::Coordinate;
use crate::sign::{Carried, RecordError, Signed, record};
use crate::tags;
use crate::time::UnixMs;

/// A zone, operator or medium.
pub type Label = Text<LABEL_BYTES_MAX>;
/// A multiaddress as text.
pub type Address = Text<ADDRESS_BYTES_MAX>;
/// The addresses of one node.
pub type Addresses = Bounded<Address, ADDRESSES_MAX>;

/// What one device of a vendor reported (figures 1a to 1c).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSummary {
    /// The device.
    pub id: DeviceId,
    /// Bytes its owner offers.
    pub capacity: u64,
    /// Bytes that it can still take.
    pub free: u64,
    /// Whether it works: "healthy", "suspended" or "failed".
    pub health: Label,
    /// Measured write speed, bytes per second; 0 if not yet measured.
    pub write_bytes_per_s: u64,
    /// Measured time of one durable write, microseconds; 0 if not yet measured.
    pub write_latency_us: u64,
}

fn is_zero(rate: &u64) -> bool {
    *rate == 0
}

/// How a vendor describes itself, for those who choose among vendors. What it does not know of its link is left out, as heads did of
/// before they said anything of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Characteristics {
    /// Failure domain that the operator names, such as a town.
    pub zone: Label,
    /// Who runs it.
    pub operator: Label,
    /// "hdd", "ssd" or "unknown".
    pub media: Label,
    /// Bytes per second that its devices write together, measured; 0 if not yet measured.
    pub bandwidth_bytes_per_s: u64,
    /// When this run of the vendor began.
    pub up_since: UnixMs,
    /// Transfers under way, in steps of 4.
    pub load: u32,
    /// The best rate at which it sent to others lately, bytes per second, at most [`RATE_MAX`]; 0 if its link was not the limit yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub up_bytes_per_s: u64,
    /// The best rate at which it received lately, bytes per second, at most [`RATE_MAX`]; 0 if not yet measured.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub down_bytes_per_s: u64,
    /// Where it is among the other nodes, as far as it has found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinate: Option<Coordinate>,
}

/// What a vendor has on offer, committed to by its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VendorHead {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who signs.
    pub vendor: NodeId,
    /// Raised when the vendor starts over from an older state.
    pub epoch: u64,
    /// Grows by one with each head of the epoch.
    pub seq: u64,
    /// Hash of the head before, or of nothing.
    pub prev: Hash,
    /// When it was signed. Shown as an age; orders nothing.
    pub issued: UnixMs,
    /// Bytes offered in all.
    pub capacity: u64,
    /// Bytes stored.
    pub used: u64,
    /// Commitment to all live leases.
    pub root: LeaseRoot,
    /// Number of live leases.
    pub leases: u32,
    /// Self-description.
    pub characteristics: Characteristics,
    /// Where to dial it.
    pub addresses: Addresses,
    /// Its devices.
    pub devices: Bounded<DeviceSummary, DEVICES_MAX>,
}

impl VendorHead {
    /// Bytes that no lease holds.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.root.sum)
    }

    /// What `proof` shows of the lease called `id` under this head.
    ///
    /// # Errors
    /// [`RecordError::Invalid`] if it is no proof of that.
    pub fn standing(&self, proof: &LeaseProof, id: LeaseId) -> Result<Standing, RecordError> {
        proof.verify(&self.root, self.leases, id)
    }
}

record!(
    VendorHead,
    tags::sign::HEAD,
    32 * 1024,
    vendor,
    fn check(&self) -> Result<(), RecordError> {
        if self.leases as usize > LEASES_MAX {
            return Err(RecordError::Invalid("a head counts more leases than a vendor may have"));
        }
        if self.root.sum > self.capacity {
            return Err(RecordError::Invalid("a vendor leased out more than its capacity"));
        }
        let traits = &self.characteristics;
        if traits.up_bytes_per_s > RATE_MAX || traits.down_bytes_per_s > RATE_MAX {
            return Err(RecordError::Invalid("a vendor claims a faster link than there is"));
        }
        if traits.coordinate.is_some_and(|coordinate| !coordinate.is_bounded()) {
            return Err(RecordError::Invalid("a vendor says that it is nowhere on earth"));
        }
        Ok(())
    }
);

/// A head and every lease that its root commits to, ordered by lease identifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VendorRecord {
    /// The head.
    pub head: Carried<VendorHead>,
    /// All live leases.
    pub leases: Bounded<Carried<Lease>, LEASES_MAX>,
}

/// A vendor record in which everything was verified against the head's signature.
#[derive(Clone, Debug)]
pub struct VerifiedVendor {
    /// The head.
    pub head: Signed<VendorHead>,
    /// All live leases, ordered by identifier.
    pub leases: Vec<Signed<Lease>>,
}

impl VendorRecord {
    /// Verifies the head's signature and that the leases are exactly those its root commits to. The leases are then
    /// attested by the head, so their own signatures need no check.
    ///
    /// # Errors
    /// [`RecordError`]: a bad head, a lease left out, added or changed, or more bytes leased than capacity.
    pub fn verify(self) -> Result<VerifiedVendor, RecordError> {
        let head = self.head.verify()?;
        let mut leases = Vec::new();
        let mut leaves = Vec::with_capacity(self.leases.len());
        let mut before: Option<LeaseId> = None;
        for lease in self.leases {
            let commitment = lease.commitment();
            let lease = lease.attested()?;
            if lease.vendor != head.vendor || before.is_some_and(|before| before >= lease.id) {
                return Err(RecordError::Invalid("a head comes with foreign or unordered leases"));
            }
            before = Some(lease.id);
            leaves.push((lease.id, commitment, lease.bytes));
            leases.push(lease);
        }
        if leases.len() != head.leases as usize || lease_root(leaves) != head.root {
            return Err(RecordError::Invalid("the leases are not those that the head commits to"));
        }
        Ok(VerifiedVendor { head, leases })
    }
}

/// One lease's standing at a vendor, with what proves it: a few hundred bytes instead of all leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEvidence {
    /// The head.
    pub head: Carried<VendorHead>,
    /// That the lease is live under that head, or that it is not.
    pub proof: LeaseProof,
    /// The lease, if it is live.
    pub lease: Option<Carried<Lease>>,
}

/// Evidence that was verified.
#[derive(Clone, Debug)]
pub struct VerifiedLease {
    /// The head, signed by its vendor.
    pub head: Signed<VendorHead>,
    /// The lease that the head commits to; none means that the vendor holds no such lease.
    pub lease: Option<Signed<Lease>>,
}

impl LeaseEvidence {
    /// Verifies the head's signature, and that it commits to the lease called `id` as shown here, or to none of that name.
    /// Without a `vendor` any vendor's will do, and that one vendor has none of that name shows nothing.
    ///
    /// # Errors
    /// [`RecordError`]: a bad head or one of another vendor, a proof of something else, or another lease than the proof is about.
    pub fn verify(self, vendor: Option<NodeId>, id: LeaseId) -> Result<VerifiedLease, RecordError> {
        let head = self.head.verify()?;
        if vendor.map_or(self.lease.is_none(), |vendor| vendor != head.vendor) {
            return Err(RecordError::Invalid("the evidence is about another vendor"));
        }
        let lease = match (head.standing(&self.proof, id)?, self.lease) {
            (Standing::Present { commitment, bytes }, Some(lease)) if lease.commitment() == commitment => {
                let lease = lease.attested()?;
                if (lease.vendor, lease.id, lease.bytes) != (head.vendor, id, bytes) {
                    return Err(RecordError::Invalid("the head commits to a lease of another name or length"));
                }
                Some(lease)
            }
            (Standing::Absent, None) => None,
            _ => return Err(RecordError::Invalid("the lease is not the one that the proof is about")),
        };
        Ok(VerifiedLease { head, lease })
    }
}

impl VerifiedVendor {
    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.leases.iter().map(|lease| (lease.id, lease.carried().commitment(), lease.bytes))
    }

    /// One lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<&Signed<Lease>> {
        self.leases.binary_search_by(|lease| lease.id.cmp(&id)).ok().map(|at| &self.leases[at])
    }

    /// Proof that the lease called `id` is live, or that it is not. Hashes all leases.
    #[must_use]
    pub fn prove(&self, id: LeaseId) -> LeaseProof {
        LeaseProof::new(self.entries(), id)
    }

    /// Head, proof and lease, for somebody who trusts only the vendor's signature.
    #[must_use]
    pub fn evidence(&self, id: LeaseId) -> LeaseEvidence {
        LeaseEvidence {
            head: self.head.carried().clone(),
            proof: self.prove(id),
            lease: self.lease(id).map(|lease| lease.carried().clone()),
        }
    }

    /// The record as it is sent.
    #[must_use]
    pub fn to_record(&self) -> VendorRecord {
        VendorRecord {
            head: self.head.carried().clone(),
            leases: Bounded::first(self.leases.iter().map(|lease| lease.carried().clone())),
        }
    }
}
