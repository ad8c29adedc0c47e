//! The core that chooses ways: no choice is worse than any other that was to be had, nothing that others say leaves the bounds, and over
//! topologies of homes the chosen ways are as good as the best ones.

use fathom_protocol::ids::NodeId;
use fathom_protocol::route::chain::{choose, seconds};
use fathom_protocol::route::coordinate::{Coordinate, PLACE_US_MAX, Position};
use fathom_protocol::route::rates::Experience;
use fathom_protocol::route::{End, RATE_MAX};
use fathom_tests::routes::{all_ways, compare};
use proptest::prelude::*;

fn end() -> impl Strategy<Value = End> {
    let rate = || prop::option::of(1e4..1e9_f64);
    (rate(), rate(), rate(), 0.0..0.1_f64, 0.5..1.0_f64, 0..64_u32, 0..8_u32, any::<bool>()).prop_map(
        |(up, down, disk, loss, answered, load, in_flight, suspected)| End {
            up,
            down,
            disk,
            loss,
            answered,
            load,
            in_flight,
            suspected,
        },
    )
}

/// Anything that a double can be.
fn wild() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY), Just(0.0), 1.0..1e7_f64]
}

fn coordinate() -> impl Strategy<Value = Coordinate> {
    let place = || prop_oneof![any::<i32>(), -PLACE_US_MAX..=PLACE_US_MAX];
    (place(), place(), place(), any::<u32>(), any::<u32>()).prop_map(|(x, y, z, height, error)| Coordinate {
        place: [x, y, z],
        height,
        error,
    })
}

/// All orders of all choices of one node for each of three columns of two.
fn every_chain() -> Vec<Vec<usize>> {
    let topology = fathom_tests::routes::Topology::of(0);
    all_ways(&topology).into_iter().map(|way| way.into_iter().map(|home| home - 1).collect()).collect()
}

proptest! {
    #[test]
    fn no_chain_is_better_than_the_chosen_one(
        source in end(),
        nodes in prop::collection::vec(end(), 6),
        away in prop::collection::vec(0.001..0.3_f64, 42),
        bytes in 1..8_000_000_u64,
    ) {
        let round_trip = |from: Option<usize>, to: usize| away[from.map_or(0, |from| from + 1) * 6 + to];
        let columns = vec![vec![0, 1], vec![2, 3], vec![4, 5]];
        let choice = choose(&source, &nodes, &columns, round_trip, bytes).unwrap();
        prop_assert!(choice.seconds.is_finite());
        for way in every_chain() {
            let ends: Vec<End> = way.iter().map(|node| nodes[*node]).collect();
            let took = seconds(&source, &ends, |from, to| round_trip(from.map(|from| way[from]), way[to]), bytes);
            prop_assert!(choice.seconds <= took * 1.000_001, "{choice:?} and {way:?} in {took}");
        }
    }

    #[test]
    fn long_chains_are_chosen_within_bounds_and_whole(nodes in prop::collection::vec(end(), 16)) {
        let columns: Vec<Vec<usize>> = (0..8).map(|column| vec![2 * column, 2 * column + 1]).collect();
        let choice = choose(&End::default(), &nodes, &columns, |_, _| 0.05, 4 << 20).unwrap();
        let mut columns: Vec<usize> = choice.chain.iter().map(|link| link.column).collect();
        columns.sort_unstable();
        prop_assert_eq!(columns, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn coordinates_stay_bounded_whatever_is_said(
        samples in prop::collection::vec((wild(), coordinate(), any::<u64>()), 1..200),
    ) {
        let mut position = Position::default();
        for (round_trip, other, chance) in samples {
            position.sample(round_trip, &other, chance);
            prop_assert!(position.coordinate().is_bounded());
            let apart = position.coordinate().round_trip_us(&Position::default().coordinate());
            prop_assert!(apart.is_finite() && apart >= 0.0);
        }
    }

    #[test]
    fn what_is_learnt_is_a_rate_whatever_the_times(
        hops in prop::collection::vec((1..6_u8, any::<u64>(), any::<u64>()), 1..100),
    ) {
        let node = |number: u8| NodeId([number; NodeId::LEN]);
        let mut experience = Experience::default();
        for (vendor, now, round_trip) in hops {
            let mut sending = experience.begin(vec![node(0), node(vendor), node(6)], 4 << 20, now);
            experience.arrived(&mut sending, node(6), now.wrapping_add(round_trip), round_trip / 4);
            experience.arrived(&mut sending, node(vendor), now, 0);
            experience.end(sending, now);
        }
        for number in 0..7 {
            for rate in [experience.up(node(number), 0), experience.down(node(number), 0)].into_iter().flatten() {
                prop_assert!(rate.is_finite() && rate > 0.0 && rate <= RATE_MAX as f64, "{rate}");
            }
        }
    }
}

/// The table in docs/performance.md has more of them.
#[test]
fn over_homes_the_chosen_ways_are_as_good_as_the_best() {
    let (mut faster, count) = (0.0, 8);
    for seed in 1..=count {
        let it = compare(seed);
        assert!(it.later <= 1.15 * it.best, "topology {seed}: {it:?}");
        faster += it.mean / it.later;
    }
    assert!(faster / f64::from(count as u32) >= 1.5, "{faster} in {count}");
}
