//! What the transport makes of links: how much of one it fills, what another flow gets beside it, and what it costs.
//!
//! `cargo bench -p fathom-overlay --bench links` prints the tables of docs/performance.md; `-- alone`, `-- shared` and
//! `-- loopback` one of them. `FATHOM_BENCH_SECONDS` is how long each flow is measured (15). Links are emulated in this process,
//! so an idle machine is needed, of which the emulated links take about half a core each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod flow;

use std::time::Duration;

use fathom_testnet::link::{Direction, Front, Link, LinkSpec};

use flow::{Flow, Kind};

const MS: Duration = Duration::from_millis(1);
const MBIT_PER_S: u64 = 100;
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// Bytes of a datagram's payload that are neither headers nor QUIC's: what a flow can carry of a link.
const USABLE: f64 = 0.95;
const RUNS: u64 = 3;
/// Before a flow is measured, so that its start is not.
const WARM_UP: Duration = Duration::from_secs(5);

fn seconds() -> Duration {
    Duration::from_secs(std::env::var("FATHOM_BENCH_SECONDS").map_or(15, |text| text.parse().unwrap()))
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if wants("alone") {
        runtime.block_on(alone());
    }
    if wants("shared") {
        runtime.block_on(shared());
    }
    if wants("loopback") {
        runtime.block_on(loopback());
    }
}

/// A link of 100 Mbit/s and 40 ms, whose queue takes `queue` to empty.
fn link(queue: Duration, loss: f64, seed: u64) -> Link {
    let forth = Direction::of(MBIT_PER_S, ROUND_TRIP / 2, queue);
    Link::new(LinkSpec { forth: forth.losing(loss), back: forth.losing(loss), seed }).unwrap()
}

fn front(link: &Link) -> Front {
    link.front().unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Share of what the link can carry.
fn share(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / (MBIT_PER_S as f64 * 125_000.0)
}

async fn alone() {
    println!("| share of the link, one flow | libp2p | CUBIC | BBR | ours |\n|---|---|---|---|---|");
    for loss in [0.0, 0.001, 0.01, 0.02] {
        let mut cells = Vec::new();
        for kind in [Kind::Libp2p, Kind::Cubic, Kind::Bbr, Kind::Ours] {
            let mut shares = Vec::new();
            for run in 0..RUNS {
                let link = link(ROUND_TRIP, loss, run);
                let flow = Flow::start(kind, Some(front(&link))).await;
                tokio::time::sleep(WARM_UP).await;
                let (bytes, time) = flow.measure(seconds()).await;
                shares.push(share(bytes, time));
            }
            cells.push(format!("{:.2}", median(shares)));
        }
        println!("| {} % loss | {} |", loss * 100.0, cells.join(" | "));
    }
    println!("\nQUIC and its headers leave {USABLE} of the link at most.\n");
}

async fn shared() {
    println!(
        "| what each gets beside CUBIC, queue of | BBR | ours | CUBIC | ours beside ours |\n|---|---|---|---|---|"
    );
    for queue in [10 * MS, 40 * MS, 120 * MS] {
        let mut cells = Vec::new();
        for (one, other) in
            [(Kind::Bbr, Kind::Cubic), (Kind::Ours, Kind::Cubic), (Kind::Cubic, Kind::Cubic), (Kind::Ours, Kind::Ours)]
        {
            let (mut ones, mut others) = (Vec::new(), Vec::new());
            for run in 0..RUNS {
                let link = link(queue, 0.0, run);
                // In turn, the one or the other is there first.
                let (first, second) = if run % 2 == 0 { (one, other) } else { (other, one) };
                let first = Flow::start(first, Some(front(&link))).await;
                tokio::time::sleep(WARM_UP).await;
                let second = Flow::start(second, Some(front(&link))).await;
                tokio::time::sleep(3 * WARM_UP).await;
                let (first, second) = tokio::join!(first.measure(2 * seconds()), second.measure(2 * seconds()));
                let (first, second) = (share(first.0, first.1), share(second.0, second.1));
                let (one, other) = if run % 2 == 0 { (first, second) } else { (second, first) };
                ones.push(one);
                others.push(other);
            }
            cells.push(format!("{:.2} : {:.2}", mean(&ones), mean(&others)));
        }
        println!("| {} ms | {} |", queue.as_millis(), cells.join(" | "));
    }
    println!();
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

async fn loopback() {
    println!("| loopback, one connection | MB/s | CPU s/GB, both ends |\n|---|---|---|");
    let kinds = [Kind::Libp2p, Kind::ChaCha20, Kind::Cubic, Kind::Ours];
    let mut results = vec![(Vec::new(), Vec::new()); kinds.len()];
    for _ in 0..RUNS {
        // Interleaved, so that what else the machine does hits all alike.
        for (kind, (rates, costs)) in kinds.iter().zip(&mut results) {
            let flow = Flow::start(*kind, None).await;
            tokio::time::sleep(MS * 500).await;
            let cpu = flow::cpu();
            let (bytes, time) = flow.measure(seconds() / 3).await;
            let gb = bytes as f64 / 1e9;
            rates.push(gb * 1000.0 / time.as_secs_f64());
            costs.push((flow::cpu() - cpu).as_secs_f64() / gb);
        }
    }
    for (kind, (rates, costs)) in kinds.iter().zip(results) {
        println!("| {} | {:.0} | {:.1} |", kind.name(), median(rates), median(costs));
    }
}
