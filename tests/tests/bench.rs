//! `fathom bench`, with amounts so small that its figures mean nothing: what it measures, what it writes, and what it leaves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use fathom_tests::{Scratch, binary, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const WORKS: [&str; 18] = [
    "idle",
    "floor_chain",
    "put_large",
    "floor_single",
    "get_large",
    "floor_disk",
    "put_small",
    "get_small",
    "put_tree",
    "get_tree",
    "latency_put",
    "latency_get",
    "resume",
    "put_erasure",
    "get_erasure",
    "put_stopped",
    "get_stopped",
    "remove",
];

/// `fathom --dir DIR bench ARGS`, its history in that directory.
fn bench(dir: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.arg("--dir").arg(dir).arg("bench").arg("--history").arg(dir.join("history.jsonl")).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ended_well(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{} {}", text(&output.stdout), text(&output.stderr));
    output
}

/// The directories of nodes that are left.
fn left(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("fathom-bench-")).collect()
}

/// Processes with a command line that names `dir`.
fn processes_of(dir: &Path) -> usize {
    let dir = dir.to_str().unwrap();
    let commands =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    commands.filter(|command| text(command).contains(dir)).count()
}

#[track_caller]
fn assert_summary(report: &Value, work: &str, unit: &str) {
    let summary = &report[work][unit];
    let [median, min, max] = ["median", "min", "max"].map(|key| summary[key].as_f64().unwrap_or(f64::NAN));
    assert!(min <= median && median <= max && max > 0.0, "{work} {unit}: {summary}");
    assert_eq!(summary["n"], 1, "{work} {unit}");
}

#[test]
fn every_work_gives_its_figures_and_nothing_is_left() {
    let scratch = Scratch::new();
    let (json, out) = (scratch.join("bench.json"), scratch.join("out"));
    let args = [
        "--runs",
        "1",
        "--size",
        "32MiB",
        "--files",
        "16",
        "--operations",
        "4",
        "--out",
        out.to_str().unwrap(),
        "--json",
    ];
    let mut args = args.to_vec();
    args.push(json.to_str().unwrap());
    ended_well(bench(scratch.path(), &args));

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    for work in WORKS {
        assert!(report[work].is_object(), "no {work} in {report}");
    }
    for work in
        ["put_large", "get_large", "floor_chain", "floor_single", "put_small", "get_small", "put_tree", "get_tree"]
            .into_iter()
            .chain(["put_erasure", "get_erasure"])
    {
        for unit in ["mb_per_s", "cpu_s_per_gb", "rss_peak_mib"] {
            assert_summary(&report, work, unit);
        }
    }
    for work in ["put_small", "get_small", "latency_put", "latency_get"] {
        for unit in ["ops_per_s", "p50_ms", "p99_ms"] {
            assert_summary(&report, work, unit);
        }
    }
    assert_summary(&report, "floor_disk", "mb_per_s");
    assert_summary(&report, "idle", "rss_mib");
    assert_eq!((&report["resume"]["extra_s"]["n"], &report["resume"]["sent_again_mb"]["n"]), (&1.into(), &1.into()));
    let stopped = [&report["put_stopped"]["extra_s"], &report["get_stopped"]["extra_s"]];
    assert!(stopped.iter().all(|extra| extra["n"] == 1), "{stopped:?}");
    assert_summary(&report, "remove", "freed_s");
    assert_summary(&report["ratios"], "put_large/floor_chain", "mb_per_s");
    assert_eq!(report["run"]["parameters"]["size"], 32 << 20);

    let markdown = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(markdown.contains("| put_large | ") && markdown.contains("](throughput.svg)"), "{markdown}");
    assert!(std::fs::read_to_string(out.join("throughput.svg")).unwrap().contains("put_large"));
    let history = std::fs::read_to_string(scratch.join("history.jsonl")).unwrap();
    let line: Value = serde_json::from_str(history.trim_end()).unwrap();
    assert_eq!(line, report);
    assert_eq!((left(scratch.path()), processes_of(scratch.path())), (Vec::new(), 0));
}

#[test]
fn a_run_is_compared_with_the_last_one() {
    let scratch = Scratch::new();
    let small = ["--runs", "2", "--size", "1MiB", "--work", "floor_disk,floor_single", "--json"];
    let first: Value = serde_json::from_slice(&ended_well(bench(scratch.path(), &small)).stdout).unwrap();
    assert_eq!(first["floor_single"]["mb_per_s"]["n"], 2);
    assert!(first.get("put_large").is_none());

    let compared = ended_well(bench(scratch.path(), &[&small[..6], &["--compare", "last"]].concat()));
    let told = text(&compared.stdout);
    assert!(told.contains("Compared with ") && told.contains("now/then"), "{told}");
    assert_eq!(std::fs::read_to_string(scratch.join("history.jsonl")).unwrap().lines().count(), 2);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    let scratch = Scratch::new();
    for (args, code) in [
        (&["--work", "put_nothing"][..], 2),
        (&["--work", "everything"], 2),
        (&["--vendors", "2"], 2),
        (&["--compare", "last"], 2),
        (&["--size", "1000000TiB"], 4),
    ] {
        let output = bench(scratch.path(), args).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

/// Keeps away: Ctrl-C in the middle leaves nodes that go on, or gigabytes in the directory for temporary files.
#[test]
fn an_interrupt_leaves_neither_processes_nor_files() {
    let scratch = Scratch::new();
    let child = bench(scratch.path(), &["--runs", "1000", "--size", "1MiB", "--work", "put_large,get_large"]);
    let runs = || left(scratch.path()).first().map(|name| scratch.join(name).join("run-1/net/testnet.json"));
    wait_until("its network starts", || runs().is_some_and(|state| state.exists()));
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert_eq!((left(scratch.path()), processes_of(scratch.path())), (Vec::new(), 0));
    assert!(!scratch.join("history.jsonl").exists());
}
