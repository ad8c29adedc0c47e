//! Plans give each copy what it needs, from vendors that have it, and keep copies apart.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::allocate::{Candidate, Plan, Shortage, Want, plan};
use fathom_protocol::ids::NodeId;
use proptest::prelude::*;

fn candidate(vendor: u8, zone: u8, operator: u8, free: u64) -> Candidate {
    Candidate {
        vendor: NodeId([vendor; 32]),
        zone: format!("zone {zone}"),
        operator: format!("operator {operator}"),
        free,
        load: 0,
        suspected: false,
        may_hold: false,
    }
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let free = prop_oneof![0..60u64, 0..800u64, Just(u64::MAX)];
    let one = (1..5u8, 1..4u8, free, 0..3u32, any::<bool>());
    prop::collection::vec(one, 0..14).prop_map(|all| {
        all.into_iter()
            .zip(1..)
            .map(|((zone, operator, free, load, suspected), vendor)| Candidate {
                load,
                suspected,
                may_hold: false,
                ..candidate(vendor, zone, operator, free)
            })
            .collect()
    })
}

fn want() -> impl Strategy<Value = Want> {
    let bytes = prop_oneof![1..3_000u64, Just(u64::MAX / 2)];
    (1..5u8, 1..6u8, bytes, 1..60u32, prop::collection::vec(1..5u8, 0..2)).prop_map(
        |(copies, width, bytes, unit, avoid)| Want {
            copies,
            width,
            bytes,
            unit,
            avoid_zones: avoid.into_iter().map(|zone| format!("zone {zone}")).collect(),
        },
    )
}

fn needed(want: &Want) -> u64 {
    want.bytes.div_ceil(u64::from(want.unit)) * u64::from(want.unit)
}

fn check(plan: &Plan, candidates: &[Candidate], want: &Want) -> Result<(), TestCaseError> {
    let unit = u64::from(want.unit);
    let by_vendor: BTreeMap<NodeId, &Candidate> =
        candidates.iter().map(|candidate| (candidate.vendor, candidate)).collect();
    let mut vendors = BTreeSet::new();
    let mut columns: BTreeMap<u8, u64> = BTreeMap::new();
    let mut zones: BTreeMap<&str, BTreeSet<u8>> = BTreeMap::new();
    for share in &plan.shares {
        let candidate = by_vendor[&share.vendor];
        prop_assert!(share.bytes > 0 && share.bytes % unit == 0 && share.bytes <= candidate.free);
        prop_assert!(vendors.insert(share.vendor), "one vendor serves one share");
        prop_assert!(share.column < want.copies);
        *columns.entry(share.column).or_default() += share.bytes;
        zones.entry(&candidate.zone).or_default().insert(share.column);
    }
    prop_assert_eq!(columns.len(), usize::from(want.copies));
    for bytes in columns.values() {
        prop_assert_eq!(*bytes, needed(want));
    }
    if plan.warnings.is_empty() {
        prop_assert!(zones.values().all(|columns| columns.len() == 1), "copies share a zone and nobody is told");
    }
    Ok(())
}

/// Groups of vendors that have room for a whole copy on their own.
fn able(candidates: &[Candidate], want: &Want, group: impl Fn(&Candidate) -> String) -> usize {
    let unit = u64::from(want.unit);
    let mut groups: BTreeMap<String, u64> = BTreeMap::new();
    for candidate in candidates {
        let free = groups.entry(group(candidate)).or_default();
        *free = free.saturating_add(candidate.free / unit * unit);
    }
    groups.values().filter(|free| **free >= needed(want)).count()
}

proptest! {
    #![proptest_config(crate::config(2_000))]

    #[test]
    fn a_plan_is_sufficient_or_says_what_is_missing(candidates in candidates(), want in want()) {
        let copies = usize::from(want.copies);
        let roomy = candidates.iter().filter(|candidate| candidate.free >= u64::from(want.unit)).count();
        let planned = plan(candidates.clone(), &want);
        // The same answer whatever the order in which a mirror's table lists them.
        prop_assert_eq!(&plan(candidates.iter().rev().cloned().collect(), &want), &planned);
        match planned {
            Ok(plan) => {
                check(&plan, &candidates, &want)?;
                if able(&candidates, &want, |candidate| candidate.zone.clone()) >= copies {
                    prop_assert!(plan.warnings.is_empty(), "there were zones enough: {:?}", plan.warnings);
                }
            }
            Err(Shortage::Vendors { vendors, .. }) => prop_assert!(vendors == roomy && vendors < copies),
            Err(Shortage::Space { copy, needed: bytes, free }) => {
                prop_assert!(free < bytes && bytes == needed(&want) && (1..=want.copies).contains(&copy));
                prop_assert!(roomy >= copies);
                let alone = able(&candidates, &want, |candidate| candidate.vendor.to_string());
                let zones = able(&candidates, &want, |candidate| candidate.zone.clone());
                prop_assert!(alone < copies && zones < copies, "{alone} vendors and {zones} zones had room enough");
            }
        }
    }

    /// A width is honoured while the vendors of a column have room.
    #[test]
    fn a_copy_is_spread_over_as_many_vendors_as_were_asked(vendors in 1..8u8, width in 1..8u8, units in 8..40u64) {
        let candidates: Vec<Candidate> = (1..=vendors).map(|vendor| candidate(vendor, 1, 1, 1_000)).collect();
        let want = Want { copies: 1, width, bytes: units * 10, unit: 10, avoid_zones: Vec::new() };
        let plan = plan(candidates, &want).unwrap();
        prop_assert_eq!(plan.shares.len(), usize::from(width.min(vendors)));
        let (least, most) = (plan.shares.iter().map(|share| share.bytes).min(), plan.shares.iter().map(|share| share.bytes).max());
        prop_assert!(most.unwrap() - least.unwrap() <= 10, "{:?}", plan.shares);
    }
}

fn want_of(copies: u8, bytes: u64) -> Want {
    Want { copies, width: 1, bytes, unit: 10, avoid_zones: Vec::new() }
}

#[test]
fn the_suspected_and_the_avoided_come_last() {
    let mut suspected = candidate(1, 1, 1, 1_000);
    suspected.suspected = true;
    let all = vec![suspected, candidate(2, 2, 2, 100), candidate(3, 3, 3, 100)];
    let first = |want: &Want| plan(all.clone(), want).unwrap().shares[0].vendor;
    assert_eq!(first(&want_of(1, 50)), NodeId([2; 32]));
    let avoiding = Want { avoid_zones: vec!["zone 2".into()], ..want_of(1, 50) };
    assert_eq!(first(&avoiding), NodeId([3; 32]));
    // Yet rather those than none.
    assert_eq!(plan(all, &want_of(3, 50)).unwrap().shares.len(), 3);
}

#[test]
fn copies_in_one_zone_are_told() {
    let all = vec![candidate(1, 1, 1, 100), candidate(2, 1, 2, 100)];
    let plan = plan(all, &want_of(2, 50)).unwrap();
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].contains("zone"), "{}", plan.warnings[0]);
}

/// Once, the two busiest zones, being large, came last and went to one copy, and the other was told that there is no space.
#[test]
fn zones_are_dealt_out_so_that_all_copies_fit() {
    let busy = |vendor, free| Candidate { load: 9, ..candidate(vendor, vendor, 1, free) };
    let all = vec![candidate(1, 1, 1, 50), candidate(2, 2, 1, 50), busy(3, 100)];
    let plan = plan(all, &want_of(2, 100)).unwrap();
    assert!(plan.warnings.is_empty());
}

/// Once, two vendors that claim 2^64 - 1 free bytes each overflowed the sum.
#[test]
fn absurd_claims_do_not_overflow() {
    let all = vec![candidate(1, 1, 1, u64::MAX), candidate(2, 1, 1, u64::MAX)];
    assert!(plan(all.clone(), &want_of(1, 100)).is_ok());
    // Rounded up to whole units this does not fit a number.
    assert!(matches!(plan(all, &want_of(1, u64::MAX)), Err(Shortage::Space { copy: 1, .. })));
}
