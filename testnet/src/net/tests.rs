#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Process control, with a shell script standing in for the node.

use std::path::{Path, PathBuf};

use super::*;
use crate::Spec;

fn binary() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/node.sh")
}

fn small() -> Spec {
    Spec { mirrors: 1, vendors: 2, devices: 2, zones: 2, ..Spec::default() }
}

fn states(net: &Net) -> Vec<(String, ProcessState)> {
    net.status().into_iter().map(|line| (line.name, line.state)).collect()
}

#[test]
fn a_network_goes_up_is_disturbed_and_goes_down() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(&binary(), dir.path(), small()).unwrap();
    let names: Vec<_> = net.nodes().iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["bootstrap", "mirror-1", "vendor-1", "vendor-2", "user-1"]);
    assert!(states(&net).iter().all(|(_, state)| *state == ProcessState::Running));
    assert!(net.node("vendor-2").unwrap().devices[1].is_dir());
    assert_eq!(net.phrase("user-1"), Some("words of user-1"));
    assert_eq!(net.name_of("id-vendor-2"), "vendor-2");

    net.stop("vendor-1").unwrap();
    assert_eq!(net.state("vendor-1").unwrap(), ProcessState::Stopped);
    net.cont("vendor-1").unwrap();
    assert_eq!(net.state("vendor-1").unwrap(), ProcessState::Running);

    net.kill("vendor-1").unwrap();
    assert_eq!(net.state("vendor-1").unwrap(), ProcessState::Dead);
    assert!(net.stop("vendor-1").is_err());
    net.kill("vendor-1").unwrap();
    net.start("vendor-1").unwrap();
    assert!(matches!(net.start("vendor-1"), Err(TestnetError::Usage(_))));
    assert_eq!(net.terminate("mirror-1").unwrap(), Some(128 + 15));
    assert!(matches!(net.kill("vendor-9"), Err(TestnetError::NoSuchNode { .. })));

    net.stop("vendor-2").unwrap();
    assert!(net.down().unwrap().is_empty());
    assert!(states(&net).iter().all(|(_, state)| *state == ProcessState::Dead));
}

#[test]
fn a_dropped_network_leaves_no_process_and_one_left_running_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(&binary(), dir.path(), small()).unwrap();
    net.leave_running();
    drop(net);

    let other = Net::attach(dir.path()).unwrap();
    assert!(states(&other).iter().all(|(_, state)| *state == ProcessState::Running));
    assert!(matches!(Net::up(&binary(), dir.path(), small()), Err(TestnetError::Usage(_))));
    drop(other);

    let third = Net::attach(dir.path()).unwrap();
    assert!(states(&third).iter().all(|(_, state)| *state == ProcessState::Running));
    third.kill_on_drop.store(true, Ordering::SeqCst);
    drop(third);
    let dead = Net::attach(dir.path()).unwrap();
    assert!(states(&dead).iter().all(|(_, state)| *state == ProcessState::Dead));
}

#[test]
fn a_node_that_does_not_start_is_reported_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("fail-vendor-2"), "").unwrap();
    let error = Net::up(&binary(), dir.path(), small()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("vendor-2 ended before it was ready"), "{text}");
    assert!(text.contains("no luck today"), "{text}");
    let left = Net::attach(dir.path()).unwrap();
    assert!(states(&left).iter().all(|(_, state)| *state == ProcessState::Dead));
}

/// Keeps away: `down` waits for ever, or leaves a node that ignores SIGTERM behind.
#[test]
fn a_node_that_ignores_sigterm_is_killed_by_down() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("stubborn-user-1"), "").unwrap();
    let spec = Spec { vendors: 0, mirrors: 0, ..Spec::default() };
    let net = Net::up(&binary(), dir.path(), spec).unwrap();
    assert_eq!(net.down().unwrap(), ["user-1"]);
    assert_eq!(net.state("user-1").unwrap(), ProcessState::Dead);
}

#[test]
fn a_user_made_with_a_phrase_recovers_it_and_a_name_is_used_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::up(&binary(), dir.path(), small()).unwrap();
    net.add_user("user-2", Some("abandon art"), &[]).unwrap();
    let recovered = std::fs::read_to_string(net.node("user-2").unwrap().dir.join("recovered"));
    assert_eq!(recovered.unwrap(), "abandon art\n");
    assert!(matches!(net.add_user("user-2", None, &[]), Err(TestnetError::Usage(_))));
    let vendor = Spec::default().vendor(3);
    assert_eq!(net.add_vendor("vendor-3", &vendor).unwrap().zone.as_deref(), Some("zone-3"));
    let debug = format!("{net:?}");
    assert!(!debug.contains("abandon"), "a phrase is shown");
    let state = std::fs::read_to_string(dir.path().join("testnet.json")).unwrap();
    assert!(!state.contains("abandon") && !state.contains("words of"), "a phrase is saved");
}

#[test]
fn nodes_are_told_their_parent_only_when_they_should_end_with_it() {
    for (exit_with_parent, parent) in [(true, std::process::id().to_string()), (false, "nobody".to_owned())] {
        let dir = tempfile::tempdir().unwrap();
        let spec = Spec { exit_with_parent, vendors: 0, mirrors: 0, users: 0, ..Spec::default() };
        let net = Net::up(&binary(), dir.path(), spec).unwrap();
        let log = std::fs::read_to_string(net.node("bootstrap").unwrap().log_path()).unwrap();
        assert_eq!(log.trim(), format!("bootstrap runs for parent {parent}"));
    }
}

#[test]
fn a_directory_too_deep_for_a_socket_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(100));
    assert!(matches!(Net::up(&binary(), &deep, small()), Err(TestnetError::Usage(_))));
    assert!(!deep.exists());
}
