//! `cargo run --release -p fathom-tests --bin bench-routes [TOPOLOGIES]`: what the chosen ways take compared with the best and with
//! random ones, over seeded topologies of homes, in simulated time. A Markdown table.
#![allow(clippy::print_stdout)]

use fathom_tests::routes::compare;

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(24);
    println!(
        "| topology | best way | chosen: third put | of the best | random: mean | median | faster than random | first put, rates \
         announced | first put, nothing known |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let (mut worst, mut faster) = (0.0_f64, Vec::new());
    for seed in 1..=count {
        let it = compare(seed);
        let (of_best, gain) = (it.later / it.best, it.mean / it.later);
        println!(
            "| {seed} | {:.1} s | {:.1} s | {of_best:.2} | {:.1} s | {:.1} s | {gain:.2} | {:.1} s | {:.1} s |",
            it.best, it.later, it.mean, it.median, it.announced, it.unknown
        );
        worst = worst.max(of_best);
        faster.push(gain);
    }
    faster.sort_by(f64::total_cmp);
    let mean = faster.iter().sum::<f64>() / faster.len().max(1) as f64;
    let median = faster.get(faster.len() / 2).copied().unwrap_or_default();
    println!(
        "\nAt worst {worst:.2} of the best way; {mean:.2} times as fast as a random one on average, {median:.2} in the median."
    );
}
