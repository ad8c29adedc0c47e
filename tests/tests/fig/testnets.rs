//! Local testnets as a script uses them: `fathom testnet ...` and its `--json`, from up to down.

use std::process::Command;
use std::time::Duration;

use fathom_tests::{Scratch, assert_same_bytes, binary, list, random_file, text};
use serde_json::Value;

use crate::KIB;

/// Runs `fathom --json --dir DIR ARGS`; its answer, after it ended well.
#[track_caller]
fn fathom(dir: &str, args: &[&str]) -> Value {
    let output = Command::new(binary()).args(["--json", "--dir", dir]).args(args).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{args:?}: {told} {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?} printed {told}: {error}"))
}

/// The state of a node in the answer of `testnet status`.
fn state(dir: &str, name: &str) -> String {
    let status = fathom(dir, &["testnet", "status"]);
    let node = list(&status, "/nodes").iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("{status}"));
    text(node, "/state").to_owned()
}

fn processes_of(dir: &str) -> Vec<String> {
    let ids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let command = |id: &String| std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let of_dir = |id: &String| String::from_utf8_lossy(&command(id)).contains(dir);
    ids.filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()) && of_dir(id)).collect()
}

#[test]
fn testnet_commands_serve_scripts_and_leave_no_process() {
    let scratch = Scratch::new();
    let dir = scratch.join("net");
    let net = dir.to_str().unwrap();
    let up =
        ["testnet", "up", "--mirrors", "1", "--vendors", "2", "--devices", "1", "--zones", "2", "--quota", "64MiB"];
    let nodes = fathom(net, &up);
    assert_eq!(list(&nodes, "/nodes").len(), 5, "{nodes}");
    assert!(list(&nodes, "/nodes").iter().all(|node| node["state"] == "running"), "{nodes}");

    let user = format!("{net}/user-1");
    let file = random_file(scratch.join("file"), "testnet", 100 * KIB);
    fathom(&user, &["put", file.to_str().unwrap(), "--as", "file", "--copies", "2"]);
    fathom(net, &["testnet", "stop", "vendor-1"]);
    assert_eq!(state(net, "vendor-1"), "stopped");
    fathom(net, &["testnet", "kill", "vendor-2"]);
    assert_eq!(state(net, "vendor-2"), "dead");
    fathom(net, &["testnet", "cont", "vendor-1"]);
    assert_eq!(state(net, "vendor-1"), "running");
    let out = scratch.join("out");
    fathom(&user, &["get", "file", "-o", out.to_str().unwrap()]);
    assert_same_bytes(&file, &out);
    fathom(net, &["testnet", "start", "vendor-2"]);
    assert_eq!(state(net, "vendor-2"), "running");

    assert!(!processes_of(net).is_empty());
    fathom(net, &["testnet", "down"]);
    let gone = || processes_of(net).is_empty();
    fathom_testnet::wait_until(Duration::from_secs(20), "every process of the network has ended", gone).unwrap();
}
