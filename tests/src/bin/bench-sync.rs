//! Prints what it costs two mirrors to compare their tables, as the tables of `docs/fat.md`. Bytes are the same in each run; times and
//! memory are of this machine.
//!
//! `cargo run --release -p fathom-tests --bin bench-sync`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use fathom_protocol::ids::{FileId, Hash, OwnerId};
use fathom_protocol::table::Key;
use fathom_protocol::table::index::Index;
use fathom_tests::sync_bytes::{Mirrors, idle_log_bytes};

/// Resident bytes of this process; 0 where `/proc` does not tell.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn index() {
    let owner = |number: u32| OwnerId(*blake3::hash(&(number % 10_000).to_le_bytes()).as_bytes());
    let key = |number: u32| {
        let mut file = [0; 16];
        file[..4].copy_from_slice(&number.to_le_bytes());
        Key::Fat(owner(number), FileId(file))
    };
    let (before, begun) = (resident(), Instant::now());
    let mut index = Index::default();
    (0..1_000_000).for_each(|number| index.put(&key(number), Hash([1; 32])));
    let (filled, begun) = (begun.elapsed(), Instant::now());
    let _ = index.digest();
    let (digested, begun) = (begun.elapsed(), Instant::now());
    for number in 0..1_000 {
        index.put(&key(number), Hash([2; 32]));
        let _ = index.digest();
    }
    let changed = begun.elapsed() / 1_000;
    let megabytes = resident().saturating_sub(before) / 1_000_000;
    println!(
        "Index of 10^6 final FATs: {megabytes} MB; filled in {filled:.2?}, digested in {digested:.2?}, then {changed:.1?} for each change with a new digest."
    );
}

fn main() {
    index();
    println!(
        "\n| leases | owners | changed | bytes, asked by who is behind | bytes, asked by who is ahead | rounds | records | their bytes |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
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
    println!("\nA look at a log without news: {} bytes.", idle_log_bytes());
}
