//! Figures 16 to 19: logging on, the path of a download, and its verification.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use fathom_testnet::Spec;
use fathom_tests::{
    Network, Scratch, User, assert_same_bytes, list, number, part_files, random_file, set, shared, small, text, tree,
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
    let damaged = ["vendor-1", "vendor-2"].map(|vendor| {
        damage(&net, vendor);
        id(&net, vendor)
    });
    // Whom a get asks first is decided by what was measured: sooner or later that is one of the two.
    let out = net.scratch().join("out");
    fathom_tests::wait_for("a damaged source is named", || {
        let answer = user.get("fig_19", &out);
        assert_same_bytes(&file, &out);
        fs::remove_file(&out).unwrap();
        for bad in &damaged {
            assert_eq!(answer["by_vendor"][bad].as_u64().unwrap_or(0), 0, "{answer}");
        }
        let failed = list(&answer, "/failed_sources");
        let named = failed.iter().any(|source| damaged.iter().any(|bad| source["vendor"] == *bad));
        if named { Ok(()) } else { Err(answer.to_string()) }
    });
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

/// A range of a file asks one vendor for each chunk that it touches, and for the segments in question only; the bytes are those of the
/// file wherever it begins and ends, and whoever serves them.
#[test]
fn fig_19_a_range_is_fetched_without_the_rest() {
    const SEALED_SEGMENT: u64 = 65_536 + 16;
    let net = Network::up(small(1, 3));
    let user = net.user("user-1");
    let length = 12 * MIB + 77;
    let file = random_file(net.scratch().join("file"), "fig_19_range", length);
    user.put(&file, "range");
    let whole = fs::read(&file).unwrap();
    let out = net.scratch().join("out");
    let get = |range: &str| {
        let answer = user.ok(&["get", "range", "--range", range, "-o", out.to_str().unwrap()]);
        (answer, fs::read(&out).unwrap())
    };
    let one = 11 * MIB + 5;
    let (answer, bytes) = get(&format!("{one}-{one}"));
    assert_eq!(bytes, whole[one..=one]);
    assert_eq!((number(&answer, "/requests"), number(&answer, "/fetched")), (1, SEALED_SEGMENT), "{answer}");
    for (first, last) in [(0, 0), (65_535, 65_536), (MIB - 1, MIB), (MIB / 2, 3 * MIB + 1), (length - 1, length - 1)] {
        let (answer, bytes) = get(&format!("{first}-{last}"));
        assert!(bytes == whole[first..=last], "{first}-{last}: {answer}");
        assert!(number(&answer, "/fetched") <= ((last - first) as u64 / 65_536 + 2) * SEALED_SEGMENT, "{answer}");
    }
    let (answer, bytes) = get(&format!("{}-", length - 100));
    assert_eq!((bytes.len() as u64, number(&answer, "/size")), (100, length as u64));
    assert_eq!(get(&format!("{}-{}", length - 3, u64::MAX)).1, whole[length - 3..]);
    // What it asks others: the mirror for news, and one vendor. What goes on in the background can only add to that.
    let streams = || number(&user.ok(&["status"]), "/traffic/streams");
    let least = |work: &dyn Fn()| {
        let count = || {
            let before = streams();
            work();
            streams() - before
        };
        (0..5).map(|_| count()).min().unwrap()
    };
    let idle = least(&|| {});
    let asked = least(&|| drop(get("0-0"))).saturating_sub(idle);
    assert_eq!(asked, 2, "questions for a byte");
    user.fails(3, &["get", "range", "--range", &format!("{length}-")]);
    user.fails(3, &["get", "nothing", "--range", "0-1"]);

    // To stdout, from one vendor that is left.
    net.kill("vendor-1").unwrap();
    net.kill("vendor-2").unwrap();
    let dir = user.dir().to_str().unwrap();
    let told = std::process::Command::new(fathom_tests::binary())
        .args(["--dir", dir, "get", "range", "--range", "100-299", "-o", "-"])
        .output()
        .unwrap();
    assert!(told.status.success() && told.stdout == whole[100..300], "{told:?}");
}

/// The same of a file in shards, also while so many vendors are gone that every chunk of theirs has to be made of the others.
#[test]
fn fig_19_a_range_of_a_file_in_shards_is_fetched_with_vendors_gone() {
    let net = Network::up(Spec { user_set: set(&[("user.erasure", "4+2")]), ..small(1, 6) });
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_19_shards", 9 * MIB + 1);
    user.put(&file, "shards");
    let whole = fs::read(&file).unwrap();
    let out = net.scratch().join("out");
    let read = |first: usize, last: usize| {
        let range = format!("{first}-{last}");
        let answer = user.ok(&["get", "shards", "--range", &range, "-o", out.to_str().unwrap()]);
        assert!(fs::read(&out).unwrap() == whole[first..=last], "{range}: {answer}");
        answer
    };
    let answer = read(5 * MIB, 5 * MIB);
    assert_eq!(number(&answer, "/requests"), 1, "{answer}");
    net.kill("vendor-1").unwrap();
    net.kill("vendor-2").unwrap();
    for at in (0..9).map(|mib| mib * MIB + 3) {
        read(at, at + 70_000);
    }
    read(0, 9 * MIB);
}
