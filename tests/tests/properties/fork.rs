//! A proof against a vendor proves itself, an honest vendor cannot be accused, and mirrors agree on who is quarantined.

use fathom_protocol::codec::{Bounded, decode, encode};
use fathom_protocol::delta::{DeltaError, VendorDelta};
use fathom_protocol::fat::{FinalFat, Tag};
use fathom_protocol::fork::{Dropped, ForkProof, Offence};
use fathom_protocol::head::{VendorHead, VerifiedVendor};
use fathom_protocol::ids::LeaseId;
use fathom_protocol::lease::{Lease, Named};
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::sign::Signed;
use fathom_protocol::table::{DROPPED_GRACE_MS, Key, Merged, Suspicions, Table, Verified, verify};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{RefusalKind, SyncRecord};
use fathom_tests::samples::{self, NOW, key, node, signed};
use proptest::prelude::*;

fn by_user(fat: FinalFat) -> Signed<FinalFat> {
    signed(fat, samples::user().signing())
}

/// Vendor 1 with `leases` at a head of epoch 2.
fn vendor(seq: u64, leases: &[Signed<Lease>]) -> VerifiedVendor {
    VerifiedVendor { head: signed(samples::head(1, seq, leases), &key(1)), leases: leases.to_vec() }
}

fn id() -> LeaseId {
    LeaseId([1; 16])
}

/// Lease 1 in which the vendor noted `fat`.
fn noted(fat: &Signed<FinalFat>) -> Signed<Lease> {
    signed(Lease { named: Some(Named { file: fat.file, fat: fat.hash() }), ..samples::lease(1, 1) }, &key(1))
}

fn dropped(older: &VerifiedVendor, newer: &VerifiedVendor, fat: &Signed<FinalFat>) -> ForkProof {
    let (older, newer) = (older.evidence(id()), newer.evidence(id()));
    ForkProof::Dropped(Box::new(Dropped { older, newer, fat: fat.carried().clone() }))
}

fn record(proof: ForkProof) -> Verified {
    verify(SyncRecord::Proof(Box::new(proof))).unwrap()
}

fn fat_record(fat: &Signed<FinalFat>) -> Verified {
    Verified::Fat(fat.clone())
}

/// A move of a chunk of the sample file out of lease 1.
fn moved() -> Verified {
    let moved = CarriedMove::propose(&samples::move_body(), &key(1)).unwrap().cosign(&key(3));
    let body: Move = moved.verify().unwrap();
    Verified::Move(body, moved)
}

#[test]
fn fault_25_two_heads_with_one_number_prove_themselves() {
    let proof = samples::twins().verify().unwrap();
    assert_eq!((proof.vendor(), proof.offence()), (node(1), Offence::Twins));
    let ForkProof::Twins(a, b) = samples::twins() else { panic!("twins") };
    assert!(ForkProof::Twins(b.clone(), a.clone()).verify().is_err(), "one order only, so that one proof has one hash");
    assert!(ForkProof::Twins(a.clone(), a.clone()).verify().is_err());
    let other = |change: &dyn Fn(&mut VendorHead), signer| {
        let mut head = a.peek().unwrap();
        change(&mut head);
        let other = signed(head, &key(signer)).into_carried();
        let (a, b) = if a.hash() < other.hash() { (a.clone(), other) } else { (other, a.clone()) };
        ForkProof::Twins(a, b).verify().is_err()
    };
    assert!(other(&|head| head.seq += 1, 1) && other(&|head| head.epoch += 1, 1), "heads that follow each other");
    assert!(other(&|head| head.vendor = node(2), 2), "heads of two vendors");
}

#[test]
fn fault_26_a_dropped_lease_proves_itself() {
    let fat = by_user(samples::final_fat());
    let (older, newer) = (vendor(17, &[noted(&fat)]), vendor(18, &[]));
    let proof = dropped(&older, &newer, &fat).verify().unwrap();
    let offence = Offence::Dropped { owner: fat.owner, file: fat.file, lease: id(), seq: fat.seq, base: fat.base };
    assert_eq!((proof.vendor(), proof.offence()), (node(1), offence));
    let bytes = encode(proof.carried()).len();
    assert!(bytes < 4096, "the proof of a dropped lease has {bytes} bytes");
    println!("dropped: {bytes} bytes, twins: {} bytes", encode(&samples::twins()).len());
}

/// What an owner, a mirror or a stranger might make up against an honest vendor.
#[test]
fn an_honest_vendor_cannot_be_accused() {
    let fat = by_user(samples::final_fat());
    let (older, newer) = (vendor(17, &[noted(&fat)]), vendor(18, &[]));
    let refused = |proof: ForkProof, why: &str| assert!(proof.verify().is_err(), "{why}");
    // The owner makes up a final FAT after the release, of this file or of another.
    let made_up = by_user(FinalFat { seq: Tag::new(9, 9).0, base: Tag::new(9, 9).0, ..samples::final_fat() });
    refused(dropped(&older, &newer, &made_up), "a final FAT that the vendor never noted");
    let other_file = by_user(FinalFat { file: samples::user().file_id("made up"), ..samples::final_fat() });
    refused(dropped(&older, &newer, &other_file), "a final FAT of another file");
    let mut stranger = samples::final_fat();
    stranger.owner = fathom_protocol::ids::OwnerId(node(9).0);
    refused(dropped(&older, &newer, &signed(stranger, &key(9))), "a final FAT of somebody else");
    let unused = by_user(FinalFat { uses: Bounded::default(), ..samples::final_fat() });
    refused(dropped(&vendor(17, &[noted(&unused)]), &newer, &unused), "a final FAT that does not use the lease");
    // The vendor said openly that it starts over, or gave the lease up in time, or never.
    let epoch = VendorHead { epoch: 3, seq: 1, ..(*newer.head).clone() };
    let epoch = VerifiedVendor { head: signed(epoch, &key(1)), leases: Vec::new() };
    refused(dropped(&older, &epoch, &fat), "another epoch");
    refused(dropped(&newer, &older, &fat), "in the other order");
    refused(dropped(&vendor(19, &[noted(&fat)]), &newer, &fat), "the lease came later");
    refused(dropped(&older, &vendor(18, &[noted(&fat)]), &fat), "the lease is still there");
    let past = Lease { expires: NOW, ..(*noted(&fat)).clone() };
    refused(dropped(&vendor(17, &[signed(past, &key(1))]), &newer, &fat), "an expired lease");
    let empty = Lease { used: 0, ..(*noted(&fat)).clone() };
    refused(dropped(&vendor(17, &[signed(empty, &key(1))]), &newer, &fat), "an empty lease");
    // A newer head of another vendor.
    let elsewhere = VerifiedVendor { head: signed(samples::head(2, 18, &[]), &key(2)), leases: Vec::new() };
    refused(dropped(&older, &elsewhere, &fat), "another vendor's head");
}

/// The proof is void with the release, in whatever order the two arrive, and stays void.
#[test]
fn a_release_or_a_move_clears_the_vendor() {
    let fat = by_user(samples::final_fat());
    let proof = record(dropped(&vendor(17, &[noted(&fat)]), &vendor(18, &[]), &fat));
    for clearing in [fat_record(&by_user(samples::release())), moved()] {
        let mut late = Table::default();
        late.merge(&fat_record(&fat)).unwrap();
        assert!(matches!(late.merge(&proof), Ok(Merged::New { .. })));
        assert!(late.quarantined(node(1)).is_some());
        let Ok(Merged::New { drops, .. }) = late.merge(&clearing) else { panic!("it is new") };
        assert_eq!(drops, [Key::Proof(node(1))]);
        assert!(late.quarantined(node(1)).is_none());
        assert_eq!(late.merge(&proof).unwrap_err().kind, RefusalKind::Stale);
        let mut early = Table::default();
        early.merge(&clearing).unwrap();
        assert!(early.merge(&proof).is_err());
        let _ = early.merge(&fat_record(&fat));
        assert_eq!(late.digest(), early.digest());
    }
}

/// A mirror that sees a lease vanish waits for the release before it makes the proof.
#[test]
fn fault_26_a_mirror_makes_the_proof_after_a_grace() {
    let fat = by_user(samples::final_fat());
    let (older, newer) = (vendor(17, &[noted(&fat)]), vendor(18, &[]));
    let late = NOW.plus_ms(DROPPED_GRACE_MS);
    for released in [false, true] {
        let (mut table, mut suspicions) = (Table::default(), Suspicions::default());
        table.merge(&fat_record(&fat)).unwrap();
        table.merge(&Verified::Vendor(older.clone())).unwrap();
        suspicions.notice(&table, &newer, NOW);
        table.merge(&Verified::Vendor(newer.clone())).unwrap();
        assert!(suspicions.due(&table, NOW).is_empty(), "the release may be on its way");
        if released {
            table.merge(&fat_record(&by_user(samples::release()))).unwrap();
            assert!(suspicions.due(&table, late).is_empty());
            continue;
        }
        let mut due = suspicions.due(&table, late);
        assert_eq!(due.len(), 1);
        let proof = due.remove(0).prove(fat.carried().clone()).unwrap();
        assert!(matches!(table.merge(&Verified::Proof(Box::new(proof))), Ok(Merged::New { .. })));
        assert!(table.quarantined(node(1)).is_some());
    }
    // Nothing vanishes where the mirror knows the release, or a new epoch began.
    let (mut table, mut suspicions) = (Table::default(), Suspicions::default());
    table.merge(&Verified::Vendor(older.clone())).unwrap();
    table.merge(&fat_record(&by_user(samples::release()))).unwrap();
    suspicions.notice(&table, &newer, NOW);
    assert!(suspicions.due(&table, late).is_empty());
}

/// Keeps away: a mirror that was away, or whose clock was set right between two runs, accused a vendor before it had heard of
/// the releases that it had missed.
#[test]
fn fault_26_after_a_restart_the_whole_grace_is_waited_for() {
    let fat = by_user(samples::final_fat());
    let (older, newer) = (vendor(17, &[noted(&fat)]), vendor(18, &[]));
    let mut table = Table::default();
    table.merge(&fat_record(&fat)).unwrap();
    table.merge(&Verified::Vendor(older)).unwrap();
    let noted = Suspicions::default().notice(&table, &newer, NOW);
    table.merge(&Verified::Vendor(newer)).unwrap();
    for started in [NOW.plus_ms(10 * DROPPED_GRACE_MS), UnixMs(NOW.0 - 10 * DROPPED_GRACE_MS)] {
        let mut suspicions = Suspicions::default();
        suspicions.restore(noted.clone(), started);
        assert!(suspicions.due(&table, started.plus_ms(DROPPED_GRACE_MS - 1)).is_empty());
        assert_eq!(suspicions.due(&table, started.plus_ms(DROPPED_GRACE_MS)).len(), 1);
    }
}

/// Once, a lease was missed only if the final FAT that the vendor had noted in it came first among those of a fork.
#[test]
fn fault_26_a_lease_of_any_version_is_missed() {
    let mine = by_user(samples::final_fat());
    let yours = twin();
    for named in [&mine, &yours] {
        let (older, newer) = (vendor(17, &[noted(named)]), vendor(18, &[]));
        let (mut table, mut suspicions) = (Table::default(), Suspicions::default());
        for record in [fat_record(&mine), fat_record(&yours), Verified::Vendor(older)] {
            table.merge(&record).unwrap();
        }
        assert_eq!(suspicions.notice(&table, &newer, NOW).len(), 1);
        table.merge(&Verified::Vendor(newer)).unwrap();
        let due = suspicions.due(&table, NOW.plus_ms(DROPPED_GRACE_MS));
        let proof = due[0].prove(named.carried().clone()).unwrap();
        assert!(matches!(table.merge(&Verified::Proof(Box::new(proof))), Ok(Merged::New { .. })));
        // A version more says nothing of the lease; the choice of one does, and takes both along.
        let third = by_user(FinalFat { issued: NOW.plus_ms(9), ..samples::final_fat() });
        assert!(matches!(table.merge(&fat_record(&third)), Ok(Merged::Twin { .. })));
        assert!(table.quarantined(node(1)).is_some());
        let Ok(Merged::New { drops, .. }) = table.merge(&fat_record(&by_user(samples::release()))) else {
            panic!("a release is new")
        };
        assert_eq!(drops.iter().filter(|key| matches!(key, Key::Twin(..))).count(), 2);
        assert!(drops.contains(&Key::Proof(node(1))) && table.quarantined(node(1)).is_none());
    }
}

/// What another device of the user stored at the same moment as the sample.
fn twin() -> Signed<FinalFat> {
    by_user(FinalFat { issued: NOW.plus_ms(1), ..samples::final_fat() })
}

/// Every record that bears on who is quarantined.
fn records() -> Vec<Verified> {
    let fat = by_user(samples::final_fat());
    vec![
        fat_record(&twin()),
        record(dropped(&vendor(17, &[noted(&twin())]), &vendor(18, &[]), &twin())),
        Verified::Vendor(vendor(17, &[noted(&fat)])),
        Verified::Vendor(vendor(18, &[])),
        fat_record(&fat),
        fat_record(&by_user(samples::release())),
        moved(),
        record(samples::dropped()),
        record(dropped(&vendor(17, &[noted(&fat)]), &vendor(18, &[]), &fat)),
        record(samples::twins()),
    ]
}

proptest! {
    #![proptest_config(crate::config(128))]

    /// Whatever the order, twice or not: the same table, and the same vendors in quarantine.
    #[test]
    fn proofs_merge_alike_in_any_order(
        chosen in prop::collection::vec(any::<bool>(), 10),
        shuffle in prop::collection::vec(any::<u32>(), 10),
    ) {
        let records: Vec<Verified> =
            records().into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(record, _)| record).collect();
        let mut order: Vec<usize> = (0..records.len()).collect();
        order.sort_by_key(|at| shuffle[*at]);
        let (mut first, mut second) = (Table::default(), Table::default());
        for record in &records {
            let _ = first.merge(record);
        }
        // The second hears everything again, as by a reconciliation.
        for at in order.iter().chain(&order) {
            let _ = second.merge(&records[*at]);
        }
        for record in &records {
            let _ = first.merge(record);
        }
        prop_assert_eq!(first.digest(), second.digest());
        prop_assert_eq!(first.index().digest(), second.index().digest());
        prop_assert_eq!(first.index().len(), second.index().len());
        prop_assert_eq!(first.quarantined(node(1)), second.quarantined(node(1)));
    }

    /// A changed byte proves nothing else: what still verifies accuses the same vendor of the same.
    #[test]
    fn a_damaged_proof_accuses_nobody_else(twins: bool, at: prop::sample::Index, bit in 0..8u8) {
        let proof = if twins { samples::twins() } else { samples::dropped() };
        let mut bytes = encode(&proof);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = decode::<ForkProof>(&bytes, FRAME_BYTES_MAX) && changed != proof {
            prop_assert!(changed.verify().is_err(), "byte {}", at);
        }
    }

    /// A delta brings whoever has its base to the whole record, and nobody else anywhere.
    #[test]
    fn a_delta_makes_the_whole_record(
        before in prop::collection::btree_map(1..40u8, 0..4u64, 0..12),
        after in prop::collection::btree_map(1..40u8, 0..4u64, 0..12),
        at: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let leases = |ids: &std::collections::BTreeMap<u8, u64>| -> Vec<Signed<Lease>> {
            ids.iter().map(|(id, more)| signed(Lease { revision: *more, ..samples::lease(1, *id) }, &key(1))).collect()
        };
        let (old, new) = (vendor(17, &leases(&before)), vendor(18, &leases(&after)));
        let delta = VendorDelta::between(&old, &new).unwrap();
        prop_assert!(delta.changed.len() <= after.len() && delta.gone.len() <= before.len());
        let made = delta.clone().apply(&old).unwrap();
        prop_assert_eq!(made.to_record(), new.to_record());
        prop_assert_eq!(delta.clone().apply(&made).unwrap().to_record(), new.to_record(), "twice is once");
        let elsewhere = vendor(16, &leases(&before));
        prop_assert_eq!(delta.clone().apply(&elsewhere).unwrap_err(), DeltaError::Base);
        let mut bytes = encode(&delta);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = decode::<VendorDelta>(&bytes, FRAME_BYTES_MAX)
            && let Ok(made) = changed.apply(&old)
        {
            prop_assert_eq!(made.to_record(), new.to_record());
        }
    }
}

#[test]
fn a_proof_needs_its_lease() {
    let ForkProof::Dropped(mut dropped) = samples::dropped() else { panic!("dropped") };
    dropped.older.lease = None;
    assert!(ForkProof::Dropped(dropped).verify().is_err());
}
