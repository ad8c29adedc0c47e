//! What is signed stays as it was signed.

use fathom_protocol::codec::{decode, encode};
use fathom_protocol::fat::Tag;
use fathom_protocol::head::VendorRecord;
use fathom_protocol::ids::LeaseId;
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::moves::CarriedMove;
use fathom_protocol::sign::{Carried, RecordError, Signed, SignerId, sign_bytes, verify_bytes};
use fathom_protocol::wire::Renew;
use fathom_tests::samples;
use proptest::prelude::*;

use crate::draw::Draw;

/// Whether `bytes` are still read as a lease that its vendor signed.
fn accepted(bytes: &[u8]) -> bool {
    decode::<Carried<Lease>>(bytes, FRAME_BYTES_MAX).is_ok_and(|lease| lease.verify().is_ok())
}

/// As for [`accepted`], for a move and both its signatures.
fn accepted_move(bytes: &[u8]) -> bool {
    decode::<CarriedMove>(bytes, FRAME_BYTES_MAX).is_ok_and(|moved| moved.verify().is_ok())
}

/// The vendor record in `bytes`, if all of it verifies.
fn accepted_vendor(bytes: &[u8]) -> Option<VendorRecord> {
    let record = decode::<VendorRecord>(bytes, FRAME_BYTES_MAX).ok()?;
    record.clone().verify().is_ok().then_some(record)
}

#[test]
fn every_flipped_bit_of_a_signed_lease_is_seen() {
    let bytes = encode(samples::signed(samples::lease(1, 1), &samples::key(1)).carried());
    assert!(accepted(&bytes));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!accepted(&flipped), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(!accepted(&bytes[..length]), "cut to {length}");
    }
}

proptest! {
    #![proptest_config(crate::config(128))]

    #[test]
    fn a_flipped_bit_or_a_cut_is_seen(seed: u64, at: prop::sample::Index, bit in 0..8u8, more: u8) {
        let mut draw = Draw::new(seed);
        let lease = encode(draw.lease().carried());
        let moved = encode(&draw.carried_move());
        let mut flipped = lease.clone();
        flipped[at.index(lease.len())] ^= 1 << bit;
        prop_assert!(!accepted(&flipped));
        prop_assert!(!accepted(&lease[..at.index(lease.len())]));
        prop_assert!(!accepted(&[&lease[..], &[more]].concat()));
        let mut flipped = moved.clone();
        flipped[at.index(moved.len())] ^= 1 << bit;
        prop_assert!(!accepted_move(&flipped));
    }

    /// The head's signature covers every lease, body and signature, though only the head's is verified.
    #[test]
    fn a_flipped_bit_in_a_vendor_record_is_seen(seed: u64, at: prop::sample::Index, bit in 0..8u8) {
        let record = Draw::new(seed).vendor_record();
        let mut bytes = encode(&record);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // CBOR has a few ways to write one value: what is accepted is the same record.
        prop_assert!(accepted_vendor(&bytes).is_none_or(|accepted| accepted == record));
    }

    /// A lease that is left out, added, or put elsewhere does not fit the root.
    #[test]
    fn leases_are_all_there_and_in_order(seed: u64, at: prop::sample::Index) {
        let record = Draw::new(seed).vendor_record();
        prop_assume!(record.leases.len() >= 2);
        let with = |edit: &dyn Fn(&mut Vec<Carried<Lease>>)| {
            let mut leases = record.leases.clone().into_vec();
            edit(&mut leases);
            VendorRecord { head: record.head.clone(), leases: fathom_protocol::codec::Bounded::new(leases).unwrap() }
        };
        let at = at.index(record.leases.len());
        let without = with(&|leases| { leases.remove(at); });
        prop_assert!(without.verify().is_err());
        let twice = with(&|leases| leases.insert(at, record.leases[at].clone()));
        prop_assert!(twice.verify().is_err());
        let swapped = with(&|leases| leases.rotate_left(1 + at % (record.leases.len() - 1)));
        prop_assert!(swapped.verify().is_err());
        let foreign = Draw::new(seed ^ 1).lease().into_carried();
        let exchanged = with(&|leases| leases[at] = foreign.clone());
        prop_assert!(exchanged.verify().is_err());
    }
}

/// A lease whose signature was exchanged under a valid head would be refused by the vendor that it is shown to.
#[test]
fn a_head_commits_to_the_signatures_of_its_leases() {
    let record = samples::vendor_record(1, 17);
    let lease = record.leases[0].clone().peek().unwrap();
    let good = encode(&record.leases[0]);
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    let damaged: Carried<Lease> = decode(&bad, FRAME_BYTES_MAX).unwrap();
    assert_eq!(damaged.peek().unwrap(), lease);
    let leases = vec![damaged, record.leases[1].clone()];
    let record = VendorRecord { head: record.head, leases: fathom_protocol::codec::Bounded::new(leases).unwrap() };
    assert!(matches!(record.verify(), Err(RecordError::Invalid(_))));
}

#[test]
fn a_signature_for_one_purpose_serves_no_other() {
    let key = samples::key(1);
    let signer = SignerId::from(samples::node(1));
    let signature = sign_bytes("fathom 1 lease", b"body", &key);
    assert!(verify_bytes("fathom 1 lease", b"body", signer, &signature).is_ok());
    assert!(verify_bytes("fathom 1 move", b"body", signer, &signature).is_err());
    assert!(verify_bytes("fathom 1 lease", b"bodz", signer, &signature).is_err());
    assert!(verify_bytes("fathom 1 lease", b"body", samples::node(2).into(), &signature).is_err());
    // The point of order 1 verifies any signature under a lenient check.
    let mut small = [0; 32];
    small[0] = 1;
    let forged = fathom_protocol::ids::Signature([&small[..], &[0; 32]].concat().try_into().unwrap());
    let nobody = SignerId(fathom_protocol::ids::OwnerId(small));
    assert!(verify_bytes("fathom 1 lease", b"body", nobody, &forged).is_err());
}

#[test]
fn nobody_signs_for_another() {
    let lease = samples::lease(1, 1);
    assert_eq!(Signed::sign(lease, &samples::key(2)).unwrap_err(), RecordError::BadSignature);
    assert!(CarriedMove::propose(&samples::move_body(), &samples::key(3)).is_err());
    // A move that its destination did not sign, or that somebody else signed for it.
    assert!(samples::proposed_move().verify().is_err());
    assert!(samples::proposed_move().cosign(&samples::key(2)).verify().is_err());
    let home = fathom_protocol::moves::Move { to: samples::node(1), ..samples::move_body() };
    assert!(CarriedMove::propose(&home, &samples::key(1)).unwrap().proposal().is_err());
}

/// What contradicts itself is refused although it is signed.
#[test]
fn contradictions_are_not_signed_and_not_accepted() {
    let key = samples::key(1);
    let lease = Lease { used: 2, bytes: 1, ..samples::lease(1, 1) };
    assert!(matches!(Signed::sign(lease, &key), Err(RecordError::Invalid(_))));
    let head = samples::head(1, 1, &[]);
    let over = fathom_protocol::head::VendorHead { capacity: 1, root: samples::root_of(2), ..head };
    assert!(matches!(Signed::sign(over, &key), Err(RecordError::Invalid(_))));
    let user = samples::user();
    let fat = samples::final_fat();
    let past = fathom_protocol::fat::FinalFat { base: Tag::new(5, 0).0, ..fat.clone() };
    assert!(matches!(Signed::sign(past, user.signing()), Err(RecordError::Invalid(_))));
    // Of its own counter, and another device's.
    let other = fathom_protocol::fat::FinalFat { base: fat.seq - 1, ..fat.clone() };
    assert!(matches!(Signed::sign(other, user.signing()), Err(RecordError::Invalid(_))));
    // Without a manifest it is a release, which uses nothing and leaves no tag; an empty file has one, and uses nothing.
    let half = fathom_protocol::fat::FinalFat { body: Default::default(), ..fat.clone() };
    assert!(matches!(Signed::sign(half, user.signing()), Err(RecordError::Invalid(_))));
    let left = fathom_protocol::fat::FinalFat { base: Tag::new(4, 0).0, ..samples::release() };
    assert!(matches!(Signed::sign(left, user.signing()), Err(RecordError::Invalid(_))));
    let empty = fathom_protocol::fat::FinalFat { uses: Default::default(), ..fat };
    assert!(Signed::sign(empty, user.signing()).is_ok_and(|fat| !fat.is_release()));
    let mut receipt = samples::receipt();
    receipt.length += 1;
    assert!(matches!(Signed::sign(receipt, &key), Err(RecordError::Invalid(_))));
    for length in [0, fathom_protocol::limits::CHUNK_BYTES_MAX as u32 + 1] {
        let hop = fathom_protocol::header::Hop { length, ..samples::hop(&[1], 0) };
        assert!(matches!(Signed::sign(hop, user.signing()), Err(RecordError::Invalid(_))));
    }
    let renew = Renew { lease: LeaseId([2; 16]), ..samples::renew() };
    assert!(Signed::sign(renew, user.signing()).is_ok());
}
