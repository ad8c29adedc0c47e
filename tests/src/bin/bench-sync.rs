//! Prints what it costs two mirrors to compare their tables, as the table of `docs/fat.md`. The bytes are the same in each run.
//!
//! `cargo run --release -p fathom-tests --bin bench-sync`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use fathom_tests::sync_bytes::{Mirrors, idle_log_bytes};

fn main() {
    println!(
        "| leases | owners | changed | bytes, asked by who is behind | bytes, asked by who is ahead | rounds | records | their bytes |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let begun = Instant::now();
    for (leases, owners) in [(10_000, 100), (100_000, 1_000), (1_000_000, 10_000), (10_000, 10_000)] {
        for changed in [0, 10, 100] {
            let mirrors = Mirrors::new(leases, owners, changed);
            let (behind, ahead) = (mirrors.behind_asks(), mirrors.ahead_asks());
            println!(
                "| {leases} | {owners} | {changed} | {} | {} | {} | {} | {} |",
                behind.bytes, ahead.bytes, behind.rounds, behind.records, behind.record_bytes
            );
        }
    }
    println!(
        "\nA look at a log without news: {} bytes. Took {:.1} s.",
        idle_log_bytes(),
        begun.elapsed().as_secs_f64()
    );
}
