//! The commitment of a head to all live leases: a Merkle-sum tree over a ring, and proofs of what is in it and what is not.
//!
//! Leases stand in the order of their identifiers, and each leaf names the identifier that follows its own; the last one's is
//! the first's. So one path proves that a lease is there, or that between two neighbours there is none. Whoever has
//! all leases can see that none was left out, and that together they stay within the capacity that was signed.
//!
//! ```text
//! empty: BLAKE3(0x02), sum 0
//! leaf:  BLAKE3(0x00, id[16], next id[16], commitment[32], bytes u64 le), sum bytes
//! node:  BLAKE3(0x01, left[32], left sum u64 le, right[32], right sum u64 le), sum left + right
//! an odd node at the end of a level moves up as it is
//! commitment: BLAKE3(lease body, lease signature[64])
//! ```
//! The tree's shape follows from the number of leases, which the head states too: a proof says only at which position its
//! leaf stands, and a path of another length or to another side does not verify.

use serde::{Deserialize, Serialize};

use crate::codec::Blob;
use crate::ids::{Hash, LeaseId};
use crate::limits::LEASE_PROOF_DEPTH_MAX;
use crate::sign::RecordError;
use crate::tags;

/// Bytes of one step of a path: a hash and a sum.
const STEP: usize = Hash::LEN + 8;
/// Bytes of the longest path.
const PATH_BYTES_MAX: usize = LEASE_PROOF_DEPTH_MAX * STEP;

/// Merkle-sum root over a vendor's live leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRoot {
    /// The commitment.
    pub hash: Hash,
    /// Sum of the bytes that all leases hold.
    pub sum: u64,
}

/// One leaf: a lease, and the one that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The lease.
    pub id: LeaseId,
    /// The next one in order; the first one's, if this is the last.
    pub next: LeaseId,
    /// Commitment to the signed lease, [`Carried::commitment`](crate::sign::Carried::commitment).
    pub commitment: Hash,
    /// Bytes that the lease holds.
    pub bytes: u64,
}

impl Leaf {
    fn node(&self) -> LeaseRoot {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[tags::root::LEAF]).update(&self.id.0).update(&self.next.0);
        hasher.update(&self.commitment.0).update(&self.bytes.to_le_bytes());
        LeaseRoot { hash: Hash(*hasher.finalize().as_bytes()), sum: self.bytes }
    }

    /// Whether `lease` would stand between this leaf and the next one. In a ring of one that is every other identifier.
    fn spans(&self, lease: LeaseId) -> bool {
        if self.id < self.next { self.id < lease && lease < self.next } else { lease > self.id || lease < self.next }
    }
}

fn parent(left: &LeaseRoot, right: &LeaseRoot) -> LeaseRoot {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[tags::root::NODE]);
    hasher.update(&left.hash.0).update(&left.sum.to_le_bytes());
    hasher.update(&right.hash.0).update(&right.sum.to_le_bytes());
    LeaseRoot { hash: Hash(*hasher.finalize().as_bytes()), sum: left.sum.saturating_add(right.sum) }
}

fn up(level: &[LeaseRoot]) -> Vec<LeaseRoot> {
    let pairs = level.chunks(2).map(|pair| match pair {
        [left, right] => parent(left, right),
        odd => odd[0],
    });
    pairs.collect()
}

fn empty() -> LeaseRoot {
    LeaseRoot { hash: Hash::of(&[tags::root::EMPTY]), sum: 0 }
}

/// What is committed to of each lease, in the order of identifiers: `(id, commitment to the signed lease, bytes held)`.
pub type Entry = (LeaseId, Hash, u64);

fn ring(entries: impl IntoIterator<Item = Entry>) -> Vec<Leaf> {
    let mut leaves: Vec<Leaf> =
        entries.into_iter().map(|(id, commitment, bytes)| Leaf { id, next: id, commitment, bytes }).collect();
    for at in 0..leaves.len() {
        leaves[at].next = leaves[(at + 1) % leaves.len()].id;
    }
    leaves
}

/// The root over `entries`, which are in the order of lease identifiers. Saturates at 2^64 - 1 bytes.
#[must_use]
pub fn lease_root(entries: impl IntoIterator<Item = Entry>) -> LeaseRoot {
    let mut level: Vec<LeaseRoot> = ring(entries).iter().map(Leaf::node).collect();
    while level.len() > 1 {
        level = up(&level);
    }
    level.first().copied().unwrap_or_else(empty)
}

/// What a proof shows of a lease under a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is live.
    Present {
        /// Commitment to the signed lease, [`Carried::commitment`](crate::sign::Carried::commitment).
        commitment: Hash,
        /// Bytes that it holds.
        bytes: u64,
    },
    /// There is no such lease: it was released, or never made.
    Absent,
}

/// Proof that a lease is among those that a root commits to, or that it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseProof {
    /// The lease's leaf, or the one before the place where it would stand; none where there is no lease at all.
    pub leaf: Option<Leaf>,
    /// Position of the leaf, from 0.
    pub position: u32,
    /// The siblings from the leaf up: 32 bytes of hash and the sum as u64 little-endian each.
    path: Blob<PATH_BYTES_MAX>,
}

impl LeaseProof {
    /// The proof for `lease` under the root over `entries`, which are in the order of lease identifiers.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Entry>, lease: LeaseId) -> Self {
        let leaves = ring(entries);
        let at = match leaves.binary_search_by(|leaf| leaf.id.cmp(&lease)) {
            Ok(at) => at,
            // Before the first stands the last.
            Err(after) => after.checked_sub(1).unwrap_or(leaves.len().saturating_sub(1)),
        };
        let mut level: Vec<LeaseRoot> = leaves.iter().map(Leaf::node).collect();
        let (mut path, mut position) = (Vec::new(), at);
        while level.len() > 1 {
            if let Some(sibling) = level.get(position ^ 1) {
                path.extend_from_slice(&sibling.hash.0);
                path.extend_from_slice(&sibling.sum.to_le_bytes());
            }
            level = up(&level);
            position /= 2;
        }
        // More leases than a head may have give a path that does not verify.
        let path = Blob::new(path).unwrap_or_default();
        Self { leaf: leaves.get(at).copied(), position: u32::try_from(at).unwrap_or(u32::MAX), path }
    }

    /// What this proves of `lease` under `root` over `leases` leases, both as a signed head states them.
    ///
    /// # Errors
    /// [`RecordError::Invalid`]: it is a proof of something else, or of nothing.
    pub fn verify(&self, root: &LeaseRoot, leases: u32, lease: LeaseId) -> Result<Standing, RecordError> {
        const WRONG: RecordError = RecordError::Invalid("the proof does not fit the head");
        let Some(leaf) = self.leaf else {
            let nothing = leases == 0 && self.position == 0 && self.path.is_empty() && *root == empty();
            return if nothing { Ok(Standing::Absent) } else { Err(WRONG) };
        };
        if self.position >= leases || !self.path.len().is_multiple_of(STEP) {
            return Err(WRONG);
        }
        let mut steps = self.path.chunks_exact(STEP).map(|step| {
            let (hash, sum) = step.split_at(Hash::LEN);
            Some(LeaseRoot { hash: Hash::from_slice(hash)?, sum: u64::from_le_bytes(sum.try_into().ok()?) })
        });
        let (mut node, mut position, mut width) = (leaf.node(), self.position, leases);
        while width > 1 {
            let alone = position == width - 1 && width % 2 == 1;
            if !alone {
                let sibling = steps.next().flatten().ok_or(WRONG)?;
                node = if position % 2 == 0 { parent(&node, &sibling) } else { parent(&sibling, &node) };
            }
            position /= 2;
            width = width.div_ceil(2);
        }
        if steps.next().is_some() || node != *root {
            return Err(WRONG);
        }
        if leaf.id == lease {
            return Ok(Standing::Present { commitment: leaf.commitment, bytes: leaf.bytes });
        }
        if leaf.spans(lease) { Ok(Standing::Absent) } else { Err(WRONG) }
    }
}
