//! The simulator can fail: for each invariant of the design, and for what must be free again (0), one line that keeps it is taken
//! away, and within 200 seeds the simulator must say that this very one is broken. With the line in place the same seeds keep every promise.
//!
//! Built with `--features mutations` only, which no build of the node has.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fathom_tests::sim::{Mutation, Options, run};

/// Seeds within which each missing line must be seen.
const SEEDS: u64 = 200;
const THREADS: usize = 4;

/// The lowest seeds that were looked at, up to one that saw the line missing.
fn caught(mutation: Mutation) -> Result<u64, String> {
    let next = AtomicU64::new(1);
    let found: Mutex<Option<u64>> = Mutex::default();
    let others: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS || found.lock().unwrap().is_some() {
                        return;
                    }
                    let report = run(&Options { mutation: Some(mutation), ..Options::seed(seed) });
                    match report.violation {
                        Some(violation) if violation.invariant == mutation.invariant() => {
                            let mut found = found.lock().unwrap();
                            *found = Some(found.map_or(seed, |before| before.min(seed)));
                        }
                        Some(violation) => others.lock().unwrap().push(format!("seed {seed}: {violation}")),
                        None => {}
                    }
                }
            });
        }
    });
    found.into_inner().unwrap().ok_or_else(|| format!("seen otherwise: {:?}", others.into_inner().unwrap()))
}

#[test]
fn every_missing_line_is_seen_within_200_seeds() {
    let mut unseen = Vec::new();
    for mutation in Mutation::ALL {
        match caught(mutation) {
            Ok(seed) => {
                println!("invariant {:>2}: {mutation} is seen by seed {seed}", mutation.invariant());
                let whole = run(&Options::seed(seed));
                assert!(whole.violation.is_none(), "without a mutation: {}", whole.failure().unwrap());
            }
            Err(others) => unseen.push(format!("{mutation} (invariant {}): {others}", mutation.invariant())),
        }
    }
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
}

#[test]
fn every_invariant_and_the_room_that_is_free_again_has_a_mutation() {
    let mut invariants: Vec<u8> = Mutation::ALL.iter().map(|mutation| mutation.invariant()).collect();
    invariants.dedup();
    assert_eq!(invariants, (0..=12).collect::<Vec<u8>>());
}
