//! Figures 5 to 8: asking for storage, the exclusive lock on it, and the way to it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use fathom_testnet::Spec;
use fathom_tests::{
    Network, Scratch, User, assert_same_bytes, list, number, random_file, set, shared, small, text, wait_for,
};
use serde_json::{Value, json};

use crate::{MIB, events, vendor};

/// Figures 5 and 5a: a user asks for storage, and a mirror answers with a provisional FAT: leases in
/// as many zones as there are to be copies, with room for everything.
#[test]
fn fig_05_user_asks_for_storage() {
    let (net, scratch, user) = {
        let net = shared();
        let user = net.user();
        (net, Scratch::new(), user)
    };
    let file = random_file(scratch.join("file"), "fig_05", 4 * MIB);
    let (all, answer) = user.start_put(&file, "fig_05").ok();
    let provisional = events(&all, "provisional");
    let locations = list(provisional[0], "/locations");
    let zones: BTreeSet<_> = locations.iter().map(|location| text(location, "/zone")).collect();
    assert_eq!(zones.len(), 3, "{locations:?}");
    let locked: u64 = locations.iter().map(|location| number(location, "/bytes")).sum();
    assert!(locked >= 3 * 4 * MIB as u64, "{locations:?}");
    assert_eq!((number(&answer, "/copies"), number(&answer, "/chunks")), (3, 4));
    assert_eq!(list(&answer, "/warnings").len(), 0, "{answer}");
    // It comes before any chunk is sent.
    let first = |kind: &str| all.iter().position(|event| event["event"] == kind).unwrap();
    assert!(first("provisional") < first("path") && first("path") < first("receipt"));
    drop(net);
}

/// Figure 6: what is locked for one user nobody else can get. Two users race for nearly all of the
/// capacity, in three copies: at most one gets it, who does not is refused and told what is missing, and the leases
/// never exceed the capacity.
#[test]
fn fig_06_locked_records_are_exclusive() {
    let spec = small(3, 3);
    // Two requests that cross may each hold a part of what the other needs: then both are refused, and what was offered
    // lapses. The default of two minutes is long for a test.
    let offers = [spec.vendor_set.clone(), set(&[("lease.offer_seconds", "10")])].concat();
    let net = Network::up(Spec { devices: 1, device_quota: 32 << 20, users: 2, vendor_set: offers, ..spec });
    let names = ["one", "two"];
    let files = names.map(|name| random_file(net.scratch().join(name), name, 20 * MIB));
    let users = ["user-1", "user-2"].map(|name| net.user(name));
    let winner = wait_for("one of two users gets the room", || {
        let jobs = [0, 1].map(|n| users[n].start_put(&files[n], names[n]));
        let ended = jobs.map(|job| {
            let (code, _, answer) = job.finish();
            (code, answer)
        });
        never_more_than_capacity(&net);
        for (_, answer) in ended.iter().filter(|(code, _)| *code != 0) {
            let error = &answer["error"];
            assert_eq!(text(error, "/kind"), "no_space", "{answer}");
            let message = text(error, "/message");
            assert!(message.contains("bytes") && message.contains("free"), "{message}");
            assert!(!text(error, "/hint").is_empty(), "{error}");
        }
        match [ended[0].0, ended[1].0] {
            [0, 4] => Ok(0),
            [4, 0] => Ok(1),
            [4, 4] => Err("both were refused".to_owned()),
            codes => panic!("{codes:?}: {ended:?}"),
        }
    });
    let loser = 1 - winner;
    users[loser].fails(4, &["put", files[loser].to_str().unwrap()]);
    // Freed, the same bytes can be locked by the other.
    users[winner].ok(&["rm", names[winner]]);
    wait_for("the room of the first is free", || {
        let fat = net.fat("mirror-1");
        let free = list(&fat, "/vendors").iter().all(|entry| number(entry, "/locked") == 0);
        free.then_some(()).ok_or_else(|| fat.to_string())
    });
    users[loser].put(&files[loser], names[loser]);
}

/// Figure 6 for the last extent of one vendor: of many users exactly one gets it.
#[test]
fn fig_06b_of_many_users_one_gets_the_last_extent() {
    const USERS: usize = 4;
    let spec = Spec { devices: 1, device_quota: 16 << 20, users: USERS, ..small(2, 1) };
    let net = Network::up(Spec { user_set: set(&[("user.copies", "1")]), ..spec });
    let file = random_file(net.scratch().join("file"), "fig_06b", 9 * MIB);
    let users: Vec<User> = (1..=USERS).map(|n| net.user(&format!("user-{n}"))).collect();
    let jobs: Vec<_> = users.iter().map(|user| user.start_put(&file, "fig_06b")).collect();
    let mut codes: Vec<_> = jobs.into_iter().map(|job| job.finish().0).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 4, 4, 4]);
    never_more_than_capacity(&net);
}

/// Small files that follow each other do not each wait for storage: room for many is locked at once, and what is not used is given
/// back when no more come.
#[test]
fn small_files_that_follow_each_other_share_storage_that_is_locked_ahead() {
    let net = Network::up(small(3, 3));
    let user = net.user("user-1");
    let files: Vec<_> =
        (0..6).map(|n| random_file(net.scratch().join(format!("{n}")), &format!("ahead {n}"), 5_000)).collect();
    let seen = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let puts = scope.spawn(|| {
            while !seen.load(Ordering::Relaxed) {
                let put =
                    |(n, path)| format!("{}\n", json!({ "command": "put", "path": path, "name": format!("{n}") }));
                let lines: String = files.iter().enumerate().map(put).collect();
                user.cli_stdin(&["batch", "--jobs", "2"], &lines).ok().unwrap();
            }
        });
        wait_for("much more is locked than is used", || {
            let fat = net.fat("mirror-1");
            let ahead = |entry: &Value| number(entry, "/locked") > number(entry, "/used") + 8 * MIB as u64;
            list(&fat, "/vendors").iter().all(ahead).then_some(()).ok_or_else(|| fat.to_string())
        });
        seen.store(true, Ordering::Relaxed);
        puts.join().unwrap();
    });
    wait_for("what nobody uses is given back", || {
        let fat = net.fat("mirror-1");
        let settled = |lease: &Value| lease["bytes"] == lease["used"] && lease["state"] == "committed";
        list(&fat, "/leases").iter().all(settled).then_some(()).ok_or_else(|| fat.to_string())
    });
    for (n, file) in files.iter().enumerate() {
        let back = net.scratch().join(format!("{n}.back"));
        user.get(&format!("{n}"), &back);
        assert_same_bytes(file, &back);
    }
}

/// In every mirror's table.
fn never_more_than_capacity(net: &Network) {
    for mirror in net.with_role("mirror") {
        let fat = net.fat(&mirror.name);
        for entry in list(&fat, "/vendors") {
            let of_it = |lease: &&Value| lease["vendor"] == entry["vendor"];
            let leases: u64 = list(&fat, "/leases").iter().filter(of_it).map(|lease| number(lease, "/bytes")).sum();
            assert_eq!(leases, number(entry, "/locked"), "{fat}");
            assert!(leases <= number(entry, "/capacity"), "{fat}");
        }
    }
}

/// Figures 7 and 8: the way to each vendor is measured, and the order follows from the figures.
#[test]
fn fig_07_path_is_measured() {
    let (net, scratch) = (shared(), Scratch::new());
    let user = net.user();
    let path = user.ok(&["path"]);
    let vendors = list(&path, "/vendors");
    assert_eq!(vendors.len(), 6, "{path}");
    for entry in vendors {
        assert!(entry["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 5_000.0), "{entry}");
        assert_eq!(number(entry, "/hops"), 1);
        assert!(entry["uptime"].as_f64().is_some_and(|share| share > 0.0 && share <= 1.0), "{entry}");
        assert_eq!(net.zone(text(entry, "/vendor")), text(entry, "/zone"));
    }
    assert!(in_order(vendors), "{path}");

    let file = random_file(scratch.join("file"), "fig_07", MIB);
    let all = user.start_put(&file, "fig_07").ok().0;
    let order = list(events(&all, "path")[0], "/order");
    assert!(order.len() >= 3 && in_order(order), "{order:?}");
    assert!(order.iter().all(|entry| entry["rtt_ms"].as_f64().is_some()), "{order:?}");

    // For fetching, those that hold the file are compared.
    let path = user.ok(&["path", "fig_07"]);
    let receipt = events(&all, "receipt")[0].clone();
    let holders: BTreeSet<_> = list(&receipt, "/vendors").iter().filter_map(Value::as_str).collect();
    let compared: BTreeSet<_> = list(&path, "/vendors").iter().map(|entry| text(entry, "/vendor")).collect();
    assert_eq!(compared, holders);
}

/// Figure 7: a vendor that says nothing is found out by the measurement and comes last.
#[test]
fn fig_07b_silent_vendor_comes_last() {
    let net = Network::up(Spec { user_set: set(&[("user.copies", "2")]), ..small(1, 3) });
    let user: User = net.user("user-1");
    net.stop("vendor-2").unwrap();
    let path = user.ok(&["path"]);
    let silent = vendor(&path, &crate::id(&net, "vendor-2")).unwrap();
    assert_eq!(silent["chosen"], false, "{path}");
    assert_eq!(list(&path, "/vendors").last(), Some(silent), "{path}");
    net.cont("vendor-2").unwrap();
    wait_for("the vendor is chosen again", || {
        let path = user.ok(&["path"]);
        let all = list(&path, "/vendors").iter().all(|entry| entry["chosen"] == true);
        all.then_some(()).ok_or(path.to_string())
    });
}

fn in_order(entries: &[Value]) -> bool {
    let scores: Vec<f64> = entries.iter().filter_map(|entry| entry["score"].as_f64()).collect();
    scores.len() == entries.len() && scores.is_sorted()
}
