//! `cargo run --release -p fathom-tests --bin bench-homes [TOPOLOGIES]`: real processes behind emulated home links. A user stores a file
//! through three vendors in each of the six orders, and in the one that it chooses. A Markdown table.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fathom_testnet::link::{Direction, LinkSpec};
use fathom_testnet::{Spec, Stopwatch};
use fathom_tests::routes::{Home, Topology};
use fathom_tests::{Network, random_file, set, small};

/// Bytes of the file.
const SIZE: usize = 12 << 20;
/// All orders of three.
const ORDERS: [[usize; 3]; 6] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];

/// The link of a home. Places are left out: what an access link adds is all that a mesh of such links can delay.
fn link(home: &Home, seed: u64) -> LinkSpec {
    let direction = |bytes_per_s: f64| {
        let delay = Duration::from_secs_f64(home.access_s / 2.0 + home.place[0] / 4.0);
        let mbit = (bytes_per_s / 125_000.0) as u64;
        Direction::of(mbit, delay, Duration::from_millis(60)).losing(home.loss / 2.0)
    };
    LinkSpec { forth: direction(home.down), back: direction(home.up), seed }
}

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(4);
    println!(
        "| topology | uplinks, Mbit/s | chosen | best order | of the best | mean order | worst | faster than the mean |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for seed in 1..=count {
        measure(seed);
    }
}

fn measure(seed: u64) {
    let topology = Topology::of(seed);
    // One vendor a column: the order is all that there is to choose.
    let homes: Vec<&Home> = [0, 1, 3, 5].map(|home| &topology.homes[home]).to_vec();
    let mut links = BTreeMap::from([("mirror-1".to_owned(), LinkSpec::default())]);
    links.insert("user-1".to_owned(), link(homes[0], seed));
    for (number, home) in homes.iter().enumerate().skip(1) {
        links.insert(format!("vendor-{number}"), link(home, seed + number as u64));
    }
    let net = Network::up(Spec { links, user_set: set(&[("user.copies", "3")]), ..small(1, 3) });
    let user = net.user("user-1");
    let seconds = |file: &Path, name: &str, via: Option<String>| {
        let clock = Stopwatch::start();
        let mut args = vec!["put", file.to_str().unwrap(), "--as", name];
        args.extend(via.as_deref().map(|via| ["--via", via]).into_iter().flatten());
        user.ok(&args);
        clock.elapsed().as_secs_f64()
    };
    let mut number = 0;
    let mut next = |via: Option<String>| {
        number += 1;
        let name = format!("file-{number}");
        let file = random_file(net.scratch().join(&name), &name, SIZE);
        seconds(&file, &name, via)
    };
    // What it learns from.
    next(None);
    let orders = ORDERS.map(|order| {
        let ids = order.map(|vendor| net.node(&format!("vendor-{vendor}")).unwrap().node.clone());
        next(Some(ids.join(",")))
    });
    let chosen = next(None);
    let best = orders.iter().copied().fold(f64::INFINITY, f64::min);
    let (mean, worst) = (orders.iter().sum::<f64>() / 6.0, orders.iter().copied().fold(0.0, f64::max));
    let ups: Vec<String> = homes.iter().map(|home| format!("{:.0}", home.up / 125_000.0)).collect();
    println!(
        "| {seed} | {} | {chosen:.1} s | {best:.1} s | {:.2} | {mean:.1} s | {worst:.1} s | {:.2} |",
        ups.join(", "),
        chosen / best,
        mean / chosen
    );
}
