//! Runs the simulator over many seeds on all cores, and says what was injected and what broke.
//!
//! ```text
//! simulate [--seeds N] [--seed S] [--scenario NAME] [--mutation NAME] [--trace] [--json]
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use fathom_tests::sim::{Injected, Mutation, Options, Report, Scenario, run};

const HELP: &str = "\
Runs seeded histories of a whole network and checks its invariants after every step.

usage: simulate [options]
  --seeds N         how many seeds (default 100)
  --seed S          the first one; the others follow it (default: from the clock)
  --scenario NAME   storm (default), calm, parted, one-side-only, asymmetric, lossy, clocks, race, restores, drops,
                    twins, interrupted, moves, bursts,
                    away
  --mutation NAME   take a line away that keeps an invariant; most need --features mutations
  --trace           print every event; for one seed
  --json            print one report a line
";

struct Arguments {
    first: u64,
    seeds: u64,
    scenario: Scenario,
    mutation: Option<Mutation>,
    trace: bool,
    json: bool,
}

fn arguments() -> Result<Option<Arguments>, String> {
    let mut parsed = Arguments {
        first: SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs()),
        seeds: 100,
        scenario: Scenario::Storm,
        mutation: None,
        trace: false,
        json: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match word.as_str() {
            "--seeds" => parsed.seeds = number(value()?)?,
            "--seed" => parsed.first = number(value()?)?,
            "--scenario" => parsed.scenario = value()?.parse()?,
            "--mutation" => parsed.mutation = Some(value()?.parse()?),
            "--trace" => parsed.trace = true,
            "--json" => parsed.json = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("{other} is not known; see --help")),
        }
    }
    if let Some(mutation) = parsed.mutation.filter(|mutation| !mutation.is_built()) {
        return Err(format!("{mutation} is a line of the protocol; build with --features mutations"));
    }
    Ok(Some(parsed))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(reason) => {
            eprintln!("simulate: {reason}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let reports: Mutex<Vec<Report>> = Mutex::default();
    let threads = if arguments.trace { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= arguments.seeds {
                        return;
                    }
                    let Arguments { first, scenario, mutation, trace, .. } = arguments;
                    let report = run(&Options { seed: first.wrapping_add(at), scenario, mutation, trace });
                    if arguments.json {
                        println!("{}", serde_json::to_string(&report).unwrap());
                    } else if let Some(failure) = report.failure() {
                        println!("{failure}\n");
                    }
                    reports.lock().unwrap().push(report);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap();
    let failed = reports.iter().filter(|report| report.violation.is_some()).count();
    if !arguments.json {
        summary(&reports, failed, started.elapsed().as_secs_f64());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(reports: &[Report], failed: usize, seconds: f64) {
    let mut all = Injected::default();
    let (mut events, mut virtual_ms, mut slowest) = (0, 0, 0);
    for report in reports {
        all.add(&report.injected);
        events += report.events;
        virtual_ms += report.virtual_ms;
        slowest = slowest.max(report.converged_after_ms);
    }
    println!("{} seeds in {seconds:.1} s, {failed} failed", reports.len());
    println!("  {events} events, {:.1} virtual hours", virtual_ms as f64 / 3_600_000.0);
    println!("  quiet at most {:.1} s after the last fault", slowest as f64 / 1_000.0);
    let counts = serde_json::to_value(&all).unwrap();
    for (name, count) in counts.as_object().unwrap() {
        println!("  {:>10} {}", count, name.replace('_', " "));
    }
}
