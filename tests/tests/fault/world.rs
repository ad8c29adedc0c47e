//! What holds after every fault, and small helpers of several tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fathom_testnet::{CliOutput, Net, NodeHandle, ProcessState};
use fathom_tests::{
    Network, User, assert_same_bytes, list, number, part_count, part_files, temporary_files, text, wait_for,
};
use serde_json::Value;

/// What no node may ever take, in KiB.
const RESIDENT_KIB_MAX: u64 = 512 * 1024;

/// What must hold after every fault: no panic, no vendor leased out beyond its capacity, and no node above its memory.
#[track_caller]
pub(crate) fn check(net: &Net) {
    for node in net.nodes() {
        let log = std::fs::read_to_string(node.log_path()).unwrap_or_default();
        let panic = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(panic, None, "{} panicked", node.name);
    }
    for line in net.status() {
        if let (ProcessState::Running | ProcessState::Stopped, Some(pid)) = (line.state, line.pid) {
            let peak = kib(pid, "VmHWM");
            assert!(peak < RESIDENT_KIB_MAX, "{} took {peak} KiB", line.name);
        }
    }
    for mirror in net.with_role("mirror") {
        if net.state(&mirror.name).unwrap() == ProcessState::Running {
            check_leases(&User::of(net, &mirror.name).ok(&["fat"]));
        }
    }
}

/// The leases of each vendor sum up to what its head says, which is within its capacity.
#[track_caller]
fn check_leases(fat: &Value) {
    let mut leased: BTreeMap<&str, u64> = BTreeMap::new();
    for lease in list(fat, "/leases") {
        *leased.entry(text(lease, "/vendor")).or_default() += number(lease, "/bytes");
    }
    for vendor in list(fat, "/vendors") {
        let sum = leased.get(text(vendor, "/vendor")).copied().unwrap_or(0);
        assert!(sum <= number(vendor, "/capacity"), "{vendor} leased out {sum}");
        assert_eq!(sum, number(vendor, "/locked"), "{vendor}");
    }
}

/// A figure of `/proc/PID/status`, in KiB.
#[track_caller]
pub(crate) fn kib(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process");
    let line = status.lines().find(|line| line.starts_with(key)).expect("the figure");
    line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a number")
}

/// Process id of a node.
#[track_caller]
pub(crate) fn pid(net: &Net, name: &str) -> u32 {
    net.status().into_iter().find(|line| line.name == name).and_then(|line| line.pid).expect("a running node")
}

/// A figure of a vendor's status, such as `used`.
#[track_caller]
pub(crate) fn figure(net: &Net, vendor: &str, key: &str) -> u64 {
    number(&User::of(net, vendor).ok(&["status"]), &format!("/vendor/{key}"))
}

/// Bytes that all vendors have in use together.
#[track_caller]
pub(crate) fn used_by_all(net: &Network) -> u64 {
    net.vendors().iter().map(|vendor| figure(net, &vendor.name, "used")).sum()
}

/// Fetches `name`, which must succeed and give the bytes of `source`. Returns what the command answered.
#[track_caller]
pub(crate) fn assert_fetched(net: &Network, user: &User, name: &str, source: &Path) -> Value {
    let copy = net.scratch().join("copy");
    let answer = user.get(name, &copy);
    assert_same_bytes(source, &copy);
    answer
}

/// Fetches `name` to `copy` until that succeeds, as `what` says; then it has the bytes of `source`.
#[track_caller]
pub(crate) fn await_fetched(what: &str, user: &User, name: &str, copy: &Path, source: &Path) {
    wait_for(what, || {
        let output = user.cli(&["get", name, "-o", copy.to_str().unwrap()]);
        if output.code == 0 { Ok(()) } else { Err(output.stdout) }
    });
    assert_same_bytes(source, copy);
}

/// All part files of a vendor, by path.
pub(crate) fn parts(vendor: &NodeHandle) -> Vec<PathBuf> {
    vendor.devices.iter().flat_map(|device| part_files(device)).collect()
}

/// How many parts a vendor has, those in packs included.
pub(crate) fn parts_held(vendor: &NodeHandle) -> usize {
    vendor.devices.iter().map(|device| part_count(device)).sum()
}

/// All temporary files of a vendor.
pub(crate) fn temporary(vendor: &NodeHandle) -> Vec<PathBuf> {
    vendor.devices.iter().flat_map(|device| temporary_files(device)).collect()
}

/// The typed error of a command that failed: its kind, which fits the exit code.
#[track_caller]
pub(crate) fn typed(code: i32, answer: &Value) -> String {
    let kind = text(answer, "/error/kind").to_owned();
    let expected = match kind.as_str() {
        "other" => 1,
        "usage" => 2,
        "not_found" => 3,
        "no_space" => 4,
        "network" => 5,
        "interrupted" => 6,
        "integrity" => 7,
        "permission" => 8,
        _ => panic!("unknown kind of error: {answer}"),
    };
    assert_eq!(code, expected, "{answer}");
    assert!(!text(answer, "/error/message").is_empty(), "{answer}");
    kind
}

/// As [`typed`], for a finished command, which must not have panicked either.
#[track_caller]
pub(crate) fn typed_output(output: &CliOutput) -> String {
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    typed(output.code, &output.json)
}

/// Numbers that follow from a seed (splitmix64, Steele and others, 2014).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A number below `bound`.
    pub(crate) fn roll(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The seeds of a test with rounds.
pub(crate) fn seeds(rounds: u64) -> impl Iterator<Item = u64> {
    let read = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (first, rounds) = (read("FATHOM_FAULT_SEED", 1), read("FATHOM_FAULT_ROUNDS", rounds));
    first..first + rounds
}
