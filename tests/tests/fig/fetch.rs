//! Figures 16 to 19: logging on, the path of a download, and its verification.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use fathom_tests::{
    Network, Scratch, User, assert_same_bytes, list, number, part_files, random_file, shared, small, text, tree,
};

use crate::{MIB, events, id};

/// Figure 16: a fresh node with nothing but the phrase lists every file with its duplicates, and gets
/// equal bytes.
#[test]
fn fig_16_user_logs_on_with_its_phrase() {
    let (net, scratch) = (shared(), Scratch::new());
    let (mut user, init) = User::made(net.invite(), &[]);
    let phrase = text(&init, "/phrase").to_owned();
    assert_eq!(phrase.split_whitespace().count(), 24);
    user.run();
    let source = scratch.join("source");
    random_file(source.join("one"), "fig_16-one", 2 * MIB);
    random_file(source.join("sub/two"), "fig_16-two", 70_000);
    random_file(source.join("sub/three"), "fig_16-three", 65_536);
    user.put(&source, "tree");
    let listed = user.ok(&["ls"]);
    drop(user);

    let mut fresh = User::idle(net.invite(), &["--no-phrase"]);
    fresh.fails(8, &["ls"]);
    let wrong = fresh.cli_stdin(&["recover"], &phrase.replacen(' ', " zebra ", 1));
    assert_eq!(wrong.code, 8, "{}", wrong.stdout);
    let recovered = fresh.cli_stdin(&["recover"], &format!("{phrase}\n"));
    assert_eq!(recovered.code, 0, "{} {}", recovered.stdout, recovered.stderr);
    assert_eq!(number(&recovered.json, "/files"), 3, "{}", recovered.stdout);
    assert_eq!(recovered.json["owner"], init["owner"]);
    fresh.run();
    assert_eq!(fresh.ok(&["ls"]), listed);
    assert!(list(&listed, "/files").iter().all(|file| number(file, "/copies") == 3), "{listed}");
    // Every duplicate is known: at least three vendors in three zones.
    let path = fresh.ok(&["path", "tree/one"]);
    let zones: BTreeSet<_> = list(&path, "/vendors").iter().map(|entry| text(entry, "/zone")).collect();
    assert_eq!(zones.len(), 3, "{path}");
    let out = scratch.join("out");
    fresh.get("tree", &out);
    assert_eq!(tree(&out), tree(&source));
}

/// Figure 16: what a node knows of a small file from its own put or get is asked for ahead of the mirrors' answer, and given only if
/// it is what they say.
#[test]
fn fig_16_a_small_file_that_another_device_replaced_is_fetched_as_it_is_now() {
    let (net, scratch) = (shared(), Scratch::new());
    let mut user = User::idle(net.invite(), &[]);
    user.run();
    let other = User::idle(net.invite(), &["--no-phrase"]);
    fs::copy(user.dir().join("user.key"), other.dir().join("user.key")).unwrap();
    let out = scratch.join("out");
    for turn in 0..3 {
        let (mine, theirs) = (scratch.join(format!("mine {turn}")), scratch.join(format!("theirs {turn}")));
        random_file(&mine, &format!("fig_16 mine {turn}"), 60_000);
        random_file(&theirs, &format!("fig_16 theirs {turn}"), 60_000);
        user.put(&mine, "note");
        user.get("note", &out);
        assert_same_bytes(&mine, &out);
        other.put(&theirs, "note");
        user.get("note", &out);
        assert_same_bytes(&theirs, &out);
    }
    other.ok(&["rm", "note"]);
    user.fails(3, &["get", "note", "-o", out.to_str().unwrap()]);
}

/// Figures 17 and 18: the ways to the vendors that hold the file are measured, the download comes from
/// several at once, and a vendor that is gone is not waited for.
#[test]
fn fig_17_download_path() {
    let net = Network::up(small(1, 3));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_17", 16 * MIB);
    user.put(&file, "fig_17");
    let out = net.scratch().join("out");
    let get = |out: &Path| fathom_tests::Job::start(user.dir(), &["get", "fig_17", "-o", out.to_str().unwrap()]).ok();
    let (all, answer) = get(&out);
    let order = list(events(&all, "path")[0], "/order");
    assert_eq!(order.len(), 3, "{order:?}");
    assert!(order.iter().all(|entry| entry["rtt_ms"].as_f64().is_some()), "{order:?}");
    assert!(answer["by_vendor"].as_object().unwrap().len() > 1, "{answer}");
    assert_eq!(list(&answer, "/failed_sources").len(), 0, "{answer}");
    assert_same_bytes(&file, &out);

    let first = net.name_of(text(&order[0], "/vendor"));
    net.kill(&first).unwrap();
    let (_, answer) = get(&net.scratch().join("again"));
    assert_same_bytes(&file, &net.scratch().join("again"));
    assert_eq!(answer["by_vendor"][id(&net, &first)].as_u64(), None, "{answer}");
}

/// Figure 19: what a vendor's devices damaged is never taken: the bytes come from another copy, and the
/// bad source is named. With all copies damaged the get fails and leaves no file.
#[test]
fn fig_19_download_is_verified() {
    let net = Network::up(small(1, 3));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_19", 4 * MIB);
    user.put(&file, "fig_19");
    damage(&net, "vendor-1");
    let bad = id(&net, "vendor-1");
    // The others are asked only when it has failed: it is the only one that answers at first.
    let out = net.scratch().join("out");
    let mut named = false;
    for _ in 0..5 {
        let answer = user.get("fig_19", &out);
        assert_same_bytes(&file, &out);
        fs::remove_file(&out).unwrap();
        named |= list(&answer, "/failed_sources").iter().any(|source| source["vendor"] == bad);
        let served = answer["by_vendor"][&bad].as_u64().unwrap_or(0);
        assert_eq!(served, 0, "{answer}");
    }
    assert!(named, "the damaged source was never named");
    damage(&net, "vendor-2");
    damage(&net, "vendor-3");
    let error = user.fails(7, &["get", "fig_19", "-o", out.to_str().unwrap()]);
    assert_eq!(text(&error, "/kind"), "integrity", "{error}");
    assert!(!out.exists());
}

/// Turns over one byte in the middle of each part that a vendor's devices hold.
fn damage(net: &Network, vendor: &str) {
    let node = net.node(vendor).unwrap();
    let parts: Vec<_> = node.devices.iter().flat_map(|device| part_files(device)).collect();
    assert!(!parts.is_empty(), "{vendor} holds nothing");
    for part in parts {
        let mut bytes = fs::read(&part).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(&part, bytes).unwrap();
    }
}
