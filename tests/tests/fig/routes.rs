//! Figures 7, 8, 17 and 18 over links as homes have them: the way is chosen by what the links carry. Nodes are real processes, the
//! links between them are emulated.

use std::collections::BTreeMap;
use std::time::Duration;

use fathom_testnet::Spec;
use fathom_testnet::link::{Direction, LinkSpec};
use fathom_tests::{Network, assert_same_bytes, list, random_file, set, small};

use crate::{MIB, id, vendor};

const MS: Duration = Duration::from_millis(1);
/// The vendor whose uplink is slow. It is the nearest one, so that by distance alone it would be the first.
const SLOW: &str = "vendor-3";
const SLOW_MBIT: u64 = 8;
const FAST_MBIT: u64 = 100;

/// A link of so many Mbit/s down and up, which adds `delay` each way.
fn home(down: u64, up: u64, delay: Duration, seed: u64) -> LinkSpec {
    LinkSpec { forth: Direction::of(down, delay, 50 * MS), back: Direction::of(up, delay, 50 * MS), seed }
}

/// A mirror, a user, and three vendors of which one sends slowly.
fn homes() -> Network {
    let links = BTreeMap::from([
        ("mirror-1".to_owned(), home(1_000, 1_000, 5 * MS, 1)),
        ("user-1".to_owned(), home(FAST_MBIT, FAST_MBIT, 2 * MS, 2)),
        ("vendor-1".to_owned(), home(FAST_MBIT, FAST_MBIT, 12 * MS, 3)),
        ("vendor-2".to_owned(), home(FAST_MBIT, FAST_MBIT, 12 * MS, 4)),
        (SLOW.to_owned(), home(FAST_MBIT, SLOW_MBIT, 2 * MS, 5)),
    ]);
    let user_set = set(&[("user.copies", "3"), ("user.in_flight", "4")]);
    Network::up(Spec { links, user_set, ..small(1, 3) })
}

/// Bytes that the node called `name` has sent.
fn sent(net: &Network, name: &str) -> u64 {
    net.link_counts(name).unwrap().1.passed_bytes
}

/// A vendor whose uplink is slow is put where it need not send on: once that was seen, next to nothing leaves it while a file is stored
/// there. A download takes from it no more than it can give in its time.
#[test]
fn fig_08_a_slow_uplink_goes_last_and_fig_18_a_slow_source_gives_its_share() {
    let net = homes();
    let user = net.user("user-1");
    let first = random_file(net.scratch().join("first"), "fig_08 first", 4 * MIB);
    user.put(&first, "first");
    let path = user.ok(&["path"]);
    let slow = vendor(&path, &id(&net, SLOW)).unwrap();
    assert_eq!(slow["place"], 3, "{path}");
    let fast = slow["up_bytes_per_s"].as_u64().is_some_and(|rate| rate > 2 * SLOW_MBIT * 125_000);
    assert!(!fast, "{path}");
    assert!(path["chain_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{path}");

    let size = 24 * MIB;
    let file = random_file(net.scratch().join("file"), "fig_08 file", size);
    let before = ["vendor-1", "vendor-2", SLOW].map(|name| sent(&net, name));
    user.put(&file, "file");
    let after = ["vendor-1", "vendor-2", SLOW].map(|name| sent(&net, name));
    let bytes: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert!(bytes[2] < size as u64 / 4, "the slow one sent on: {bytes:?}");
    assert!(bytes[0] + bytes[1] > size as u64, "each of the others but the last sends all of it on: {bytes:?}");

    let before = sent(&net, SLOW);
    let out = net.scratch().join("out");
    let answer = user.get("file", &out);
    assert_same_bytes(&file, &out);
    let given = |name: &str| answer["by_vendor"][id(&net, name)].as_u64().unwrap_or(0);
    assert!(given(SLOW) < size as u64 / 4, "{answer}");
    assert!(sent(&net, SLOW) - before < size as u64 / 2, "it was asked for more than it could give: {answer}");
    assert!(given("vendor-1") > 0 && given("vendor-2") > 0, "{answer}");
    assert!(list(&answer, "/failed_sources").is_empty(), "{answer}");
}
