//! Plans give each copy what it needs, from vendors that have it, and keep copies apart as far as can be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fathom_protocol::allocate::{Avoid, Candidate, Names, Plan, Shortage, View, Want, plan};
use fathom_protocol::ids::NodeId;
use proptest::prelude::*;

/// A market of vendors, each with zone, operator, subnet (0: not known) and free bytes.
#[derive(Clone, Debug, Default)]
struct Rows(Vec<(u8, u8, u8, u64)>);

fn zone(number: u8) -> String {
    format!("zone {number}")
}

impl Rows {
    fn view(&self) -> View {
        let mut names = Names::default();
        let candidates = (1u16..).zip(&self.0).map(|(vendor, (z, operator, subnet, free))| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&vendor.to_be_bytes());
            let mut name = |kind: &str, number: u8| (number > 0).then(|| names.name(&format!("{kind} {number}")));
            let (operator, subnet) = (name("operator", *operator), name("subnet", *subnet));
            Candidate {
                vendor: NodeId(id),
                zone: names.name(&zone(*z)),
                operator,
                subnet,
                free: *free,
                load: 0,
                up_ms: 0,
                suspected: false,
                may_hold: false,
            }
        });
        View { candidates: candidates.collect(), unfit: 0, names: Arc::new(names) }
    }
}

fn want_of(copies: u8, bytes: u64) -> Want {
    Want { first: 0, copies, width: 1, bytes, unit: 10, seed: 1, avoid: Avoid::default() }
}

fn rows(vendors: std::ops::Range<usize>) -> impl Strategy<Value = Rows> {
    let free = prop_oneof![0..60u64, 0..800u64, Just(u64::MAX)];
    prop::collection::vec((1..5u8, 0..4u8, 0..4u8, free), vendors).prop_map(Rows)
}

fn want() -> impl Strategy<Value = Want> {
    let bytes = prop_oneof![1..3_000u64, Just(u64::MAX / 2)];
    (1..5u8, 1..6u8, bytes, 1..60u32, any::<u64>()).prop_map(|(copies, width, bytes, unit, seed)| Want {
        first: 0,
        copies,
        width,
        bytes,
        unit,
        seed,
        avoid: Avoid::default(),
    })
}

fn needed(want: &Want) -> u64 {
    want.bytes.div_ceil(u64::from(want.unit)) * u64::from(want.unit)
}

/// What no two columns of a plan share: zones, operators, subnets.
fn spread(plan: &Plan, view: &View) -> [bool; 3] {
    let by_vendor: BTreeMap<NodeId, &Candidate> = view.candidates.iter().map(|one| (one.vendor, one)).collect();
    let columns = plan.shares.iter().map(|share| (share.column, by_vendor[&share.vendor]));
    apart(&columns.collect::<Vec<_>>())
}

fn apart(placed: &[(u8, &Candidate)]) -> [bool; 3] {
    let pairs = || placed.iter().flat_map(|a| placed.iter().map(move |b| (a, b))).filter(|(a, b)| a.0 < b.0);
    [
        pairs().all(|(a, b)| a.1.zone != b.1.zone),
        pairs().all(|(a, b)| a.1.operator.is_none() || a.1.operator != b.1.operator),
        pairs().all(|(a, b)| a.1.subnet.is_none() || a.1.subnet != b.1.subnet),
    ]
}

/// Zones count before operators, operators before subnets; and all three before any two.
const ORDER: [[bool; 3]; 8] = [
    [true, true, true],
    [true, true, false],
    [true, false, true],
    [true, false, false],
    [false, true, true],
    [false, true, false],
    [false, false, true],
    [false, false, false],
];

fn grade(spread: [bool; 3]) -> usize {
    ORDER.iter().position(|one| *one == spread).unwrap()
}

fn check(plan: &Plan, view: &View, want: &Want) -> Result<(), TestCaseError> {
    let unit = u64::from(want.unit);
    let by_vendor: BTreeMap<NodeId, &Candidate> = view.candidates.iter().map(|one| (one.vendor, one)).collect();
    let mut vendors = BTreeSet::new();
    let mut columns: BTreeMap<u8, u64> = BTreeMap::new();
    for share in &plan.shares {
        let candidate = by_vendor[&share.vendor];
        prop_assert!(share.bytes > 0 && share.bytes % unit == 0 && share.bytes <= candidate.free);
        prop_assert!(vendors.insert(share.vendor), "one vendor serves one share");
        prop_assert!(share.column < want.copies);
        *columns.entry(share.column).or_default() += share.bytes;
    }
    prop_assert_eq!(columns.len(), usize::from(want.copies));
    for bytes in columns.values() {
        prop_assert_eq!(*bytes, needed(want));
    }
    let shared = spread(plan, view).iter().filter(|apart| !**apart).count();
    prop_assert_eq!(plan.warnings.len(), shared, "{:?}", plan.warnings);
    Ok(())
}

/// The best grade of all ways to deal the vendors out, if any is enough.
fn brute_force(view: &View, want: &Want) -> Option<usize> {
    let unit = u64::from(want.unit);
    let all = &view.candidates;
    let ways = (u64::from(want.copies) + 1).pow(all.len() as u32);
    let mut best = None;
    for way in 0..ways {
        let mut rest = way;
        let mut placed = Vec::new();
        let mut room = vec![0u64; usize::from(want.copies)];
        for one in all {
            let column = (rest % (u64::from(want.copies) + 1)) as u8;
            rest /= u64::from(want.copies) + 1;
            if column > 0 && one.free >= unit {
                let sum = &mut room[usize::from(column) - 1];
                *sum = sum.saturating_add(one.free / unit * unit);
                placed.push((column, one));
            }
        }
        if room.iter().all(|room| *room >= needed(want)) {
            let grade = grade(apart(&placed));
            best = Some(best.map_or(grade, |best: usize| best.min(grade)));
        }
    }
    best
}

/// Groups of vendors that have room for a whole copy on their own.
fn able(view: &View, want: &Want, group: impl Fn(&Candidate) -> String) -> usize {
    let unit = u64::from(want.unit);
    let mut groups: BTreeMap<String, u64> = BTreeMap::new();
    for candidate in &view.candidates {
        let free = groups.entry(group(candidate)).or_default();
        *free = free.saturating_add(candidate.free / unit * unit);
    }
    groups.values().filter(|free| **free >= needed(want)).count()
}

proptest! {
    #![proptest_config(crate::config(2_000))]

    #[test]
    fn a_plan_is_sufficient_or_says_what_is_missing(rows in rows(0..14), want in want(), suspects in any::<u16>()) {
        let copies = usize::from(want.copies);
        let mut view = rows.view();
        for (at, one) in view.candidates.iter_mut().enumerate() {
            (one.suspected, one.load) = (suspects >> at & 1 == 1, u32::from(suspects) >> at & 3);
        }
        let roomy = view.candidates.iter().filter(|one| one.free >= u64::from(want.unit)).count();
        let planned = plan(&view, &want);
        // The same answer whatever the order in which a mirror's table lists them.
        let mut reversed = view.clone();
        reversed.candidates.reverse();
        prop_assert_eq!(&plan(&reversed, &want), &planned);
        let zones = able(&view, &want, |one| format!("{:?}", one.zone));
        match planned {
            Ok(plan) => {
                check(&plan, &view, &want)?;
                prop_assert!(zones < copies || spread(&plan, &view)[0], "there were zones enough: {:?}", plan.warnings);
            }
            Err(Shortage::Vendors { vendors, .. }) => prop_assert!(vendors == roomy && vendors < copies),
            Err(Shortage::Space { copy, needed: bytes, free, .. }) => {
                prop_assert!(free < bytes && bytes == needed(&want) && (1..=want.copies).contains(&copy));
                prop_assert!(roomy >= copies);
                let alone = able(&view, &want, |one| one.vendor.to_string());
                prop_assert!(alone < copies && zones < copies, "{alone} vendors and {zones} zones had room enough");
            }
        }
    }

    /// A width is honoured while the vendors of a column have room.
    #[test]
    fn a_copy_is_spread_over_as_many_vendors_as_were_asked(vendors in 1..8usize, width in 1..8u8, units in 8..40u64) {
        let view = Rows(vec![(1, 1, 0, 1_000); vendors]).view();
        let plan = plan(&view, &Want { width, ..want_of(1, units * 10) }).unwrap();
        prop_assert_eq!(plan.shares.len(), usize::from(width).min(vendors));
        let bytes = || plan.shares.iter().map(|share| share.bytes);
        prop_assert!(bytes().max().unwrap() - bytes().min().unwrap() <= 10, "{:?}", plan.shares);
    }

    /// Of many vendors that can each hold a copy, the zones and operators are matched: as many copies are kept apart in both as
    /// can be at all.
    #[test]
    fn zones_and_operators_are_matched_whenever_they_can_be(
        edges in prop::collection::vec((1..7u8, 1..7u8), 1..60), copies in 1..7u8, seed in any::<u64>(),
    ) {
        let view = Rows(edges.iter().map(|(zone, operator)| (*zone, *operator, 0, 100)).collect()).view();
        prop_assume!(view.candidates.len() >= usize::from(copies));
        let plan = plan(&view, &Want { seed, ..want_of(copies, 50) }).unwrap();
        // By König and Hall: the size of a largest matching is the least, over sets of zones, of the zones outside of the set
        // and the operators that the set reaches.
        let matching = (0..1u32 << 6).map(|set| {
            let inside = |zone: u8| set >> (zone - 1) & 1 == 1;
            let there: BTreeSet<u8> = edges.iter().map(|(zone, _)| *zone).collect();
            let reached: BTreeSet<u8> = edges.iter().filter(|(zone, _)| inside(*zone)).map(|(_, to)| *to).collect();
            there.iter().filter(|zone| !inside(**zone)).count() + reached.len()
        });
        let both = { let [zones, operators, _] = spread(&plan, &view); zones && operators };
        prop_assert_eq!(both, matching.min().unwrap() >= usize::from(copies));
    }
}

proptest! {
    #![proptest_config(crate::config(300))]

    /// Whatever can be kept apart is, where a brute search can say so.
    #[test]
    fn a_spread_is_found_whenever_there_is_one(rows in rows(0..7), want in want(), copies in 1..4u8) {
        let want = Want { copies, width: 1, bytes: want.bytes.min(600), ..want };
        let view = rows.view();
        let best = brute_force(&view, &want);
        match plan(&view, &want) {
            Ok(plan) => prop_assert_eq!(Some(grade(spread(&plan, &view))), best, "{:?}", plan),
            Err(shortage) => prop_assert_eq!(best, None, "{}", shortage),
        }
    }
}

#[test]
fn the_suspected_and_the_avoided_come_last() {
    let mut view = Rows(vec![(1, 1, 0, 1_000), (2, 2, 0, 100), (3, 3, 0, 100)]).view();
    view.candidates[0].suspected = true;
    let ids: Vec<NodeId> = view.candidates.iter().map(|one| one.vendor).collect();
    let avoid = Avoid { zones: vec![view.candidates[1].zone], ..Avoid::default() };
    for seed in 0..50 {
        let avoiding = Want { seed, avoid: avoid.clone(), ..want_of(1, 50) };
        assert_eq!(plan(&view, &avoiding).unwrap().shares[0].vendor, ids[2]);
        assert_ne!(plan(&view, &Want { seed, ..want_of(1, 50) }).unwrap().shares[0].vendor, ids[0]);
    }
    // Yet rather those than none.
    assert_eq!(plan(&view, &want_of(3, 50)).unwrap().shares.len(), 3);
}

/// A vendor that is suspected is taken where copies else share a zone.
#[test]
fn a_spread_is_worth_a_suspected_vendor() {
    let mut view = Rows(vec![(1, 1, 0, 100), (1, 2, 0, 100), (2, 3, 0, 100)]).view();
    view.candidates[2].suspected = true;
    assert!(plan(&view, &want_of(2, 50)).unwrap().warnings.is_empty());
}

/// The draw is by what vendors offer, and by the request's seed: not everybody is sent to the same one.
#[test]
fn equals_are_drawn_and_the_better_drawn_more_often() {
    let mut view = Rows(vec![(1, 0, 0, 1_000); 4]).view();
    (view.candidates[0].free, view.candidates[1].load) = (100, 48);
    view.candidates[2].up_ms = 7 * 86_400_000;
    let ids: Vec<NodeId> = view.candidates.iter().map(|one| one.vendor).collect();
    let mut drawn: BTreeMap<NodeId, u32> = BTreeMap::new();
    for seed in 0..4_000 {
        *drawn.entry(plan(&view, &Want { seed, ..want_of(1, 50) }).unwrap().shares[0].vendor).or_default() += 1;
    }
    let [tight, busy, steady, plain] = [0, 1, 2, 3].map(|at: usize| drawn[&ids[at]]);
    assert!(steady > 2 * plain && plain > 2 * busy && plain > 2 * tight && tight.min(busy) > 50, "{drawn:?}");
}

#[test]
fn what_is_missing_is_said() {
    let said = |rows: Vec<(u8, u8, u8, u64)>, copies| plan(&Rows(rows).view(), &want_of(copies, 50)).unwrap().warnings;
    assert_eq!(
        said(vec![(1, 1, 0, 100), (1, 2, 0, 100), (2, 3, 0, 100)], 3),
        ["3 copies in 3 zones need one more zone; there are zone 1 and zone 2"]
    );
    assert_eq!(
        said(vec![(1, 1, 0, 100), (1, 1, 0, 100)], 2),
        [
            "2 copies in 2 zones need one more zone; there is zone 1",
            "2 copies at 2 operators need one more operator; there is operator 1"
        ]
    );
    assert_eq!(
        said(vec![(1, 0, 0, 100), (1, 0, 0, 100), (2, 0, 0, 40)], 2),
        ["2 copies in 2 zones need one more zone with 50 bytes free; with so much there is zone 1"]
    );
    assert_eq!(
        said(vec![(1, 0, 7, 100), (2, 0, 7, 100)], 2),
        ["2 copies in 2 subnets need one more subnet; there is subnet 7"]
    );
    // What is not stated is not shared.
    assert_eq!(said(vec![(1, 0, 0, 100), (2, 0, 0, 100)], 2), [""; 0]);
    let view = Rows(vec![(1, 1, 0, 100)]).view();
    let avoid = Avoid { zones: vec![view.candidates[0].zone], ..Avoid::default() };
    let warnings = plan(&view, &Want { avoid, ..want_of(1, 50) }).unwrap().warnings;
    assert_eq!(
        warnings,
        ["a copy shares the zone zone 1 with another, as no other zones have room: losing it may lose both"]
    );
    let shortage = plan(&View { unfit: 4, ..view }, &want_of(2, 50)).unwrap_err().to_string();
    assert!(
        shortage.contains("2 vendors with room, and there are 1 (4 more are not what was asked for)"),
        "{shortage}"
    );
}

/// Once, the two busiest zones, being large, came last and went to one copy, and the other was told that there is no space.
#[test]
fn zones_are_dealt_out_so_that_all_copies_fit() {
    let mut view = Rows(vec![(1, 0, 0, 50), (2, 0, 0, 50), (3, 0, 0, 100)]).view();
    view.candidates[2].load = 9;
    assert!(plan(&view, &want_of(2, 100)).unwrap().warnings.is_empty());
}

/// Once, two vendors that claim 2^64 - 1 free bytes each overflowed the sum.
#[test]
fn absurd_claims_do_not_overflow() {
    let view = Rows(vec![(1, 1, 0, u64::MAX), (2, 1, 0, u64::MAX)]).view();
    assert!(plan(&view, &want_of(1, 100)).is_ok());
    // Rounded up to whole units this does not fit a number.
    assert!(matches!(plan(&view, &want_of(1, u64::MAX)), Err(Shortage::Space { copy: 1, .. })));
}
