//! A vendor's head, and the head with all its live leases: the unit in which mirrors hold and exchange the FAT.
//!
//! The head's root is a Merkle-sum commitment: each leaf is one lease's commitment and bytes, each node the hash of its two
//! children and the sum of their bytes, in the order of lease identifiers. Whoever has all leases can see that none
//! was left out, and that together they stay within the capacity that was signed.
//!
//! ```text
//! empty: BLAKE3(0x02), sum 0        leaf: BLAKE3(0x00, commitment[32], bytes u64 le), sum bytes
//! node:  BLAKE3(0x01, left[32], left sum u64 le, right[32], right sum u64 le), sum left + right
//! an odd node at the end of a level moves up as it is
//! commitment: BLAKE3(lease body, lease signature[64])
//! ```

use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::ids::{DeviceId, Hash, LeaseId, NodeId};
use crate::lease::Lease;
use crate::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, DEVICES_MAX, LABEL_BYTES_MAX, LEASES_MAX};
use crate::sign::{Carried, RecordError, Signed, record};
use crate::tags;
use crate::time::UnixMs;

/// A zone, operator or medium.
pub type Label = Text<LABEL_BYTES_MAX>;
/// A multiaddress as text.
pub type Address = Text<ADDRESS_BYTES_MAX>;
/// The addresses of one node.
pub type Addresses = Bounded<Address, ADDRESSES_MAX>;

/// Merkle-sum root over a vendor's live leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRoot {
    /// The commitment.
    pub hash: Hash,
    /// Sum of the bytes that all leases hold.
    pub sum: u64,
}

/// The root over `leaves`, which are `(commitment to the signed lease, bytes held)` in the order of lease identifiers.
/// Saturates at 2^64 - 1 bytes.
#[must_use]
pub fn lease_root(leaves: impl IntoIterator<Item = (Hash, u64)>) -> LeaseRoot {
    let mut level: Vec<LeaseRoot> = leaves
        .into_iter()
        .map(|(hash, sum)| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[tags::root::LEAF]).update(&hash.0).update(&sum.to_le_bytes());
            LeaseRoot { hash: Hash(*hasher.finalize().as_bytes()), sum }
        })
        .collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update(&[tags::root::NODE]);
                    hasher.update(&left.hash.0).update(&left.sum.to_le_bytes());
                    hasher.update(&right.hash.0).update(&right.sum.to_le_bytes());
                    LeaseRoot { hash: Hash(*hasher.finalize().as_bytes()), sum: left.sum.saturating_add(right.sum) }
                }
                odd => odd[0],
            })
            .collect();
    }
    level.first().copied().unwrap_or_else(|| LeaseRoot { hash: Hash::of(&[tags::root::EMPTY]), sum: 0 })
}

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

/// How a vendor describes itself, for those who choose among vendors.
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
            leaves.push((commitment, lease.bytes));
            leases.push(lease);
        }
        if leases.len() != head.leases as usize || lease_root(leaves) != head.root {
            return Err(RecordError::Invalid("the leases are not those that the head commits to"));
        }
        Ok(VerifiedVendor { head, leases })
    }
}

impl VerifiedVendor {
    /// The record as it is sent.
    #[must_use]
    pub fn to_record(&self) -> VendorRecord {
        VendorRecord {
            head: self.head.carried().clone(),
            leases: Bounded::first(self.leases.iter().map(|lease| lease.carried().clone())),
        }
    }
}
