//! Proofs against a vendor: what it signed and must not have signed. Each proves itself, whoever brings it (invariant 10).
//!
//! **Twins**: two heads with one `(epoch, seq)`. A vendor writes each head to disk before it shows it, so two of them mean two
//! nodes with one key, or a lie.
//!
//! **Dropped**: a lease that the vendor's head has, and a later head of the same epoch has not, although it had not expired
//! and the final FAT that the vendor itself noted in the lease ([`Named`](crate::lease::Named)) still uses it. The note is
//! what keeps an owner from accusing an honest vendor with a final FAT made up afterwards. Across epochs nothing is
//! proven: a vendor that lost its memory says so by a new epoch.
//!
//! Whether a dropped lease was released meanwhile cannot be seen from the proof: see [`Table`](crate::table::Table), which holds
//! it void once it knows the release.

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::fat::FinalFat;
use crate::head::{LeaseEvidence, VendorHead, VerifiedLease};
use crate::ids::{FileId, Hash, LeaseId, NodeId, OwnerId};
use crate::sign::{Carried, RecordError, Signed};

/// A proof as it is carried: believed by nobody until it is verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForkProof {
    /// Two heads with one epoch and sequence number, the one with the smaller hash first.
    Twins(Carried<VendorHead>, Carried<VendorHead>),
    /// A lease that vanished without release or expiry.
    Dropped(Box<Dropped>),
}

/// The records that show that a lease vanished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The head with the lease.
    pub older: LeaseEvidence,
    /// The head without it.
    pub newer: LeaseEvidence,
    /// The final FAT that uses it, as the vendor noted it in the lease.
    pub fat: Carried<FinalFat>,
}

/// What is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// Two heads with one epoch and sequence number.
    Twins,
    /// A lease in use was dropped.
    Dropped {
        /// Whose data was under it.
        owner: OwnerId,
        /// Which file.
        file: FileId,
        /// The lease.
        lease: LeaseId,
        /// Sequence number of the final FAT that uses it.
        seq: u64,
        /// Oldest live tag of that final FAT.
        base: u64,
    },
}

impl Offence {
    /// The name in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Twins => "twins",
            Self::Dropped { .. } => "dropped",
        }
    }

    /// What happened and what its operator can do, for people.
    #[must_use]
    pub fn explain(&self) -> String {
        match self {
            Self::Twins => "two nodes ran with this vendor's key at the same time and contradicted each other. Run only one \
                            node with a key; this vendor gets no new data under it. Make a new node with `fathom init` and \
                            keep this one running until its users have moved their data"
                .to_owned(),
            Self::Dropped { lease, .. } => format!(
                "this vendor gave up the lease {lease} although a user's file is stored under it. It gets no new data until \
                 the user has stored the file elsewhere or released it. If the vendor was restored from a backup, start it \
                 again so that it can take its leases back"
            ),
        }
    }
}

/// A proof that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedProof {
    vendor: NodeId,
    offence: Offence,
    hash: Hash,
    proof: ForkProof,
}

fn invalid<T>(why: &'static str) -> Result<T, RecordError> {
    Err(RecordError::Invalid(why))
}

impl ForkProof {
    /// The proof that one vendor signed these two heads, or none if they do not contradict each other.
    #[must_use]
    pub fn twins(a: &Signed<VendorHead>, b: &Signed<VendorHead>) -> Option<Self> {
        let same = a.vendor == b.vendor && (a.epoch, a.seq) == (b.epoch, b.seq);
        let (a, b) = if a.hash() <= b.hash() { (a, b) } else { (b, a) };
        (same && a.hash() != b.hash()).then(|| Self::Twins(a.carried().clone(), b.carried().clone()))
    }

    /// Verifies every signature in it, and that what was signed must not have been.
    ///
    /// # Errors
    /// [`RecordError`]: it proves nothing.
    pub fn verify(self) -> Result<VerifiedProof, RecordError> {
        let (vendor, offence) = match &self {
            Self::Twins(a, b) => (check_twins(a, b)?, Offence::Twins),
            Self::Dropped(dropped) => check_dropped(dropped)?,
        };
        let hash = Hash::of(&codec::encode(&self));
        Ok(VerifiedProof { vendor, offence, hash, proof: self })
    }
}

fn check_twins(a: &Carried<VendorHead>, b: &Carried<VendorHead>) -> Result<NodeId, RecordError> {
    if a.hash() >= b.hash() {
        return invalid("a proof names one head twice, or its heads in the wrong order");
    }
    let (a, b) = (a.clone().verify()?, b.clone().verify()?);
    if a.vendor != b.vendor || (a.epoch, a.seq) != (b.epoch, b.seq) {
        return invalid("two heads do not contradict each other");
    }
    Ok(a.vendor)
}

fn check_dropped(dropped: &Dropped) -> Result<(NodeId, Offence), RecordError> {
    let Dropped { older, newer, fat } = dropped;
    // Cheapest first: what contradicts itself is refused before a signature is looked at.
    let Some(id) = older.lease.as_ref().map(Carried::peek).transpose()?.map(|lease| lease.id) else {
        return invalid("a proof of a dropped lease comes without the lease");
    };
    let VerifiedLease { head: before, lease: Some(lease) } = older.clone().verify(None, id)? else {
        return invalid("a proof of a dropped lease comes without the lease");
    };
    let after = newer.clone().verify(Some(before.vendor), id)?;
    if after.lease.is_some() || before.epoch != after.head.epoch || before.seq >= after.head.seq {
        return invalid("the lease was not dropped within one epoch");
    }
    if lease.used == 0 || lease.expires <= after.head.issued {
        return invalid("the lease was empty, or had expired");
    }
    let fat = fat.clone().verify()?;
    let named = lease.named.is_some_and(|named| named.fat == fat.hash() && named.file == fat.file);
    let uses = fat.uses.iter().any(|used| (used.vendor, used.lease) == (before.vendor, id) && used.bytes > 0);
    if fat.owner != lease.owner || !named || !uses {
        return invalid("the final FAT is not the one that the vendor noted in the lease");
    }
    let offence = Offence::Dropped { owner: fat.owner, file: fat.file, lease: id, seq: fat.seq, base: fat.base };
    Ok((before.vendor, offence))
}

impl VerifiedProof {
    /// Against whom.
    #[must_use]
    pub fn vendor(&self) -> NodeId {
        self.vendor
    }

    /// What is proven.
    #[must_use]
    pub fn offence(&self) -> Offence {
        self.offence
    }

    /// BLAKE3 of the proof as it is sent: its identity.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The proof as it is sent.
    #[must_use]
    pub fn carried(&self) -> &ForkProof {
        &self.proof
    }
}
