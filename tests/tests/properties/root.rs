//! A root commits to every lease, and each lease is provably there or provably not.

use fathom_protocol::codec::{decode, encode};
use fathom_protocol::head::{LeaseEvidence, VendorRecord};
use fathom_protocol::ids::{Hash, LeaseId};
use fathom_protocol::limits::{LEASE_PROOF_DEPTH_MAX, LEASES_MAX};
use fathom_protocol::root::{Entry, LeaseProof, LeaseRoot, Standing, lease_root};
use fathom_tests::samples::{entries, evidence, lease_id, node, root_of, vendor_record};
use proptest::prelude::*;

const ROOM: usize = 1 << 16;

fn present((_, commitment, bytes): Entry) -> Standing {
    Standing::Present { commitment, bytes }
}

proptest! {
    #![proptest_config(crate::config(96))]

    /// Any change to any leaf changes the root, and so does any change of their number or order.
    #[test]
    fn any_change_changes_the_root(
        leaves in prop::collection::btree_map(any::<u32>(), (any::<[u8; 32]>(), 0..1u64 << 40), 0..20),
        at: prop::sample::Index,
        bit in 0..256usize,
        more in 1..1u64 << 40,
    ) {
        let leaves: Vec<Entry> = leaves.into_iter().map(|(id, (hash, bytes))| (lease_id(id), Hash(hash), bytes)).collect();
        let root = lease_root(leaves.iter().copied());
        prop_assert_eq!(root.sum, leaves.iter().map(|(_, _, bytes)| bytes).sum::<u64>());
        let changed = |edit: &dyn Fn(&mut Vec<Entry>)| {
            let mut changed = leaves.clone();
            edit(&mut changed);
            (changed != leaves).then(|| lease_root(changed).hash)
        };
        prop_assert_ne!(changed(&|leaves| leaves.push((LeaseId([0xff; 16]), Hash([0; 32]), 0))), Some(root.hash));
        if leaves.is_empty() {
            return Ok(());
        }
        let at = at.index(leaves.len());
        prop_assert_ne!(changed(&|leaves| leaves[at].1.0[bit / 8] ^= 1 << (bit % 8)), Some(root.hash));
        prop_assert_ne!(changed(&|leaves| leaves[at].0.0[bit / 16] ^= 1 << (bit % 8)), Some(root.hash));
        prop_assert_ne!(changed(&|leaves| leaves[at].2 += more), Some(root.hash));
        prop_assert_ne!(changed(&|leaves| { leaves.remove(at); }), Some(root.hash));
        prop_assert_ne!(changed(&|leaves| leaves.swap(0, at)), Some(root.hash));
    }

    /// Every identifier is provably there or provably not, and not both.
    #[test]
    fn every_lease_is_provably_there_or_provably_not(
        count in 0..70u16,
        asked in prop_oneof![0..160u32, any::<u32>()],
        claimed: u32,
    ) {
        let all: Vec<Entry> = entries(count).collect();
        let (root, leases) = (root_of(count), u32::from(count));
        for id in [lease_id(asked), LeaseId([0xff; 16]), LeaseId([0; 16])] {
            let proof = LeaseProof::new(entries(count), id);
            let known = all.iter().find(|entry| entry.0 == id).copied();
            prop_assert_eq!(proof.verify(&root, leases, id), Ok(known.map_or(Standing::Absent, present)));
            // A proof about one identifier says nothing false about another.
            if let Ok(standing) = proof.verify(&root, leases, lease_id(claimed)) {
                let known = all.iter().find(|entry| entry.0 == lease_id(claimed)).copied();
                prop_assert_eq!(standing, known.map_or(Standing::Absent, present));
            }
        }
    }

    /// A changed byte, another position, number of leases or sum: what still verifies says the same.
    #[test]
    fn a_damaged_proof_proves_nothing(
        count in 1..70u16,
        asked in 0..160u32,
        at: prop::sample::Index,
        bit in 0..8u8,
        position: u32,
        other in 0..80u32,
        more in 1..u64::MAX,
    ) {
        let (root, leases, id) = (root_of(count), u32::from(count), lease_id(asked));
        let proof = LeaseProof::new(entries(count), id);
        let truth = proof.verify(&root, leases, id).unwrap();
        let mut bytes = encode(&proof);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = decode::<LeaseProof>(&bytes, ROOM) {
            prop_assert!(changed == proof || changed.verify(&root, leases, id).is_err(), "byte {}", at);
        }
        for position in [position, position % 80] {
            let mut moved = proof.clone();
            moved.position = position;
            prop_assert!(position == proof.position || moved.verify(&root, leases, id).is_err());
        }
        let mut elsewhere = proof.clone();
        if let Some(leaf) = &mut elsewhere.leaf {
            leaf.bytes = leaf.bytes.wrapping_add(more);
        }
        prop_assert!(elsewhere.verify(&root, leases, id).is_err());
        let wrong = LeaseRoot { sum: root.sum.wrapping_add(more), ..root };
        prop_assert!(proof.verify(&wrong, leases, id).is_err());
        prop_assert!(proof.verify(&root_of(count + 1), leases + 1, id).is_err());
        let mut none = proof.clone();
        none.leaf = None;
        prop_assert!(none.verify(&root, leases, id).is_err());
        // With another number of leases the tree has another shape, unless the path has the same turns in it.
        if let Ok(standing) = proof.verify(&root, other, id) {
            prop_assert_eq!(standing, truth);
        }
    }
}

#[test]
fn a_root_sum_saturates_and_exceeds_any_capacity() {
    let leaf = |id: u8, bytes| (LeaseId([id; 16]), Hash([id; 32]), bytes);
    assert_eq!(lease_root([leaf(1, u64::MAX), leaf(2, 1)]).sum, u64::MAX);
}

/// The sizes that the documents name. 16,384 is what a vendor may have.
#[test]
fn a_proof_is_a_few_hundred_bytes() {
    for (count, depth, bytes_max) in [(0u16, 0, 32), (1, 0, 160), (100, 7, 440), (16_384, 14, 720)] {
        let all: Vec<Entry> = entries(count).collect();
        let root = lease_root(all.iter().copied());
        for asked in [0, 1, 2, 33, u32::from(count), 2 * u32::from(count)] {
            let proof = LeaseProof::new(all.iter().copied(), lease_id(asked));
            assert!(proof.verify(&root, u32::from(count), lease_id(asked)).is_ok(), "lease {asked} of {count}");
            let bytes = encode(&proof).len();
            assert!(bytes <= bytes_max, "a proof under {count} leases has {bytes} bytes");
            assert!(bytes >= depth * 40, "the path is {depth} steps long");
            if asked == 33 {
                println!("{count} leases: {bytes} bytes");
            }
        }
    }
    assert_eq!(LEASES_MAX.next_power_of_two().trailing_zeros() as usize, LEASE_PROOF_DEPTH_MAX);
}

#[test]
fn evidence_shows_a_lease_and_none_and_cannot_be_bent() {
    let lease = |id| LeaseId([id; 16]);
    let shown = evidence(2).verify(Some(node(1)), lease(2)).unwrap();
    assert_eq!(shown.lease.unwrap().id, lease(2));
    assert!(evidence(2).verify(None, lease(2)).unwrap().lease.is_some());
    assert!(evidence(3).verify(Some(node(1)), lease(3)).unwrap().lease.is_none());
    // That one vendor has none says nothing of the others.
    assert!(evidence(3).verify(None, lease(3)).is_err());
    assert!(evidence(2).verify(Some(node(2)), lease(2)).is_err());
    assert!(evidence(2).verify(Some(node(1)), lease(1)).is_err());
    let hidden = LeaseEvidence { lease: None, ..evidence(2) };
    assert!(hidden.verify(Some(node(1)), lease(2)).is_err());
    let other = LeaseEvidence { lease: evidence(1).lease, ..evidence(2) };
    assert!(other.verify(Some(node(1)), lease(2)).is_err());
    let older = LeaseEvidence { head: vendor_record(1, 16).head, ..evidence(2) };
    assert!(older.verify(Some(node(1)), lease(2)).is_ok(), "the same leases under another head");
    let empty = LeaseEvidence { proof: LeaseProof::new([], lease(2)), lease: None, ..evidence(2) };
    assert!(empty.verify(Some(node(1)), lease(2)).is_err());
}

/// A mirror that leaves a lease out of a page is seen, whichever it leaves out.
#[test]
fn fault_28_a_lease_left_out_does_not_fit_the_root() {
    let record = vendor_record(1, 17);
    for at in 0..record.leases.len() {
        let mut leases = record.leases.clone().into_vec();
        leases.remove(at);
        let leases = fathom_protocol::codec::Bounded::new(leases).unwrap();
        assert!(VendorRecord { head: record.head.clone(), leases }.verify().is_err());
    }
}
