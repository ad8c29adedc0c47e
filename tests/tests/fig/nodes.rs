//! Nodes as they are run at home: without the node that founded the network, with a disk unplugged, and with all roles in one.

use fathom_testnet::{Spec, Stopwatch, VendorOverride, VendorSpec};
use fathom_tests::{Network, User, assert_same_bytes, list, number, random_file, set, small, text, wait_for};
use serde_json::Value;

use crate::{MIB, MIRRORS, id};

/// The node of `user` reaches every mirror of [`MIRRORS`].
fn reaches_all(user: &User) {
    wait_for("every mirror is reached", || {
        let status = user.ok(&["status"]);
        let mirrors = list(&status, "/mirrors");
        let reached = mirrors.iter().filter(|mirror| mirror["reachable"] == true).count();
        if reached == MIRRORS.len() { Ok(()) } else { Err(status.to_string()) }
    });
}

/// Once nodes know each other, the bootstrap node is not needed: each finds its way back after a restart, and newcomers
/// enter by the invite of any node.
#[test]
fn peers_find_each_other_without_the_bootstrap_node() {
    let net = Network::up(Spec { bootstrap: true, ..small(3, 3) });
    let user = net.user("user-1");
    let before = random_file(net.scratch().join("before"), "bootstrap before", 3 * MIB);
    user.put(&before, "before");
    net.agree(&MIRRORS);
    net.kill("bootstrap").unwrap();

    // One without a chance to write anything, two in order.
    net.kill("mirror-2").unwrap();
    net.start("mirror-2").unwrap();
    net.agree(&MIRRORS);
    for name in ["vendor-1", "user-1"] {
        net.terminate(name).unwrap();
        net.start(name).unwrap();
    }
    reaches_all(&user);
    let copy = net.scratch().join("copy");
    user.get("before", &copy);
    assert_same_bytes(&before, &copy);
    let after = random_file(net.scratch().join("after"), "bootstrap after", 3 * MIB);
    let answer = user.put(&after, "after");
    assert_eq!(number(&answer, "/mirrors_acked"), 3, "{answer}");
    let path = user.ok(&["path", "after"]);
    assert!(crate::vendor(&path, &id(&net, "vendor-1")).is_some(), "the restarted vendor has no copy: {path}");
    user.get("after", &copy);
    assert_same_bytes(&after, &copy);
    net.agree(&MIRRORS);

    let invite = net.user("mirror-2").ok(&["invite"]);
    let newcomer = User::running(text(&invite, "/invite"), &[]);
    reaches_all(&newcomer);
    newcomer.put(&before, "newcomer");
    newcomer.get("newcomer", &copy);
    assert_same_bytes(&before, &copy);
    net.agree(&MIRRORS);
}

/// The states of a vendor's devices by the last part of their path, as `device list` says.
fn states(vendor: &User) -> Vec<(String, String)> {
    let answer = vendor.ok(&["device", "list"]);
    let state = |device: &Value| {
        let name = text(device, "/path").rsplit('/').next().unwrap_or_default().to_owned();
        (name, text(device, "/state").to_owned())
    };
    list(&answer, "/devices").iter().map(state).collect()
}

/// Waits until `disk-1` has this state, and the others are healthy.
fn await_state(vendor: &User, state: &str) {
    wait_for(&format!("the first device is {state}"), || {
        let all = states(vendor);
        let fit = |(name, now): &(String, String)| now == if name == "disk-1" { state } else { "healthy" };
        if all.iter().all(fit) { Ok(()) } else { Err(format!("{all:?}")) }
    });
}

/// Looks at the vendor for several of its reports: no chunk is moved away.
fn moves_nothing(vendor: &User, when: &str) {
    let watch = Stopwatch::start();
    while watch.elapsed().as_secs() < 4 {
        let status = vendor.ok(&["status"]);
        assert_eq!(number(&status, "/vendor/migrations"), 0, "{when}: {status}");
    }
}

/// A disk that is unplugged makes the rest of its vendor look too full. That is no reason to move anything: other
/// vendors serve meanwhile, and when the disk is back it is used as before.
#[test]
fn an_unplugged_disk_is_waited_for_and_nothing_is_moved() {
    const SIZE: usize = 24 * MIB;
    const OVERLOAD: u64 = 56;
    let mut spec = Spec { zones: 3, ..small(3, 3) };
    let limits = set(&[("vendor.overload_percent", "56"), ("vendor.relief_percent", "30")]);
    let narrow = VendorOverride { device_quota: Some(16 << 20), set: limits, ..VendorOverride::default() };
    spec.overrides.insert(1, narrow);
    let roomy = VendorSpec { zone: "zone-1".to_owned(), operator: "operator-4".to_owned(), ..spec.vendor(2) };
    let mut net = Network::up(spec);
    let file = random_file(net.scratch().join("file"), "unplugged", SIZE);
    net.user("user-1").put(&file, "file");
    // Where chunks could go if they had to.
    net.add_vendor("vendor-4", &roomy).unwrap();
    let (user, vendor) = (net.user("user-1"), net.user("vendor-1"));
    let full = |status: &Value| number(status, "/vendor/used") * 100 >= number(status, "/vendor/capacity") * OVERLOAD;
    let status = vendor.ok(&["status"]);
    assert!(number(&status, "/vendor/used") >= SIZE as u64 && !full(&status), "{status}");

    let disk = net.node("vendor-1").unwrap().devices[0].clone();
    let drawer = disk.with_file_name("drawer");
    let copy = net.scratch().join("copy");
    for round in 1..=3 {
        std::fs::rename(&disk, &drawer).unwrap();
        await_state(&vendor, "suspended");
        wait_for("the vendor looks too full without its disk", || {
            let status = vendor.ok(&["status"]);
            if full(&status) { Ok(()) } else { Err(status.to_string()) }
        });
        if round == 1 {
            moves_nothing(&vendor, "unplugged");
            let answer = user.get("file", &copy);
            assert_same_bytes(&file, &copy);
            let others = ["vendor-2", "vendor-3"].map(|name| answer["by_vendor"][id(&net, name)].as_u64().unwrap_or(0));
            assert!(others.iter().sum::<u64>() > 0, "{answer}");
        }
        std::fs::rename(&drawer, &disk).unwrap();
        await_state(&vendor, "healthy");
        moves_nothing(&vendor, "plugged in again");
    }
    assert!(!full(&vendor.ok(&["status"])));

    let second = random_file(net.scratch().join("second"), "plugged in", 2 * MIB);
    user.put(&second, "second");
    user.get("second", &copy);
    assert_same_bytes(&second, &copy);
    // Every chunk of the file is readable at the vendor that had lost a disk for a while.
    net.kill("vendor-2").unwrap();
    net.kill("vendor-3").unwrap();
    let answer = user.get("file", &copy);
    assert_same_bytes(&file, &copy);
    assert!(answer["by_vendor"][id(&net, "vendor-1")].as_u64().unwrap_or(0) >= SIZE as u64, "{answer}");
}

/// One node that is vendor, mirror and user: it stores and fetches like any other, and never keeps its own copies.
#[test]
fn a_node_with_all_roles_stores_elsewhere_and_serves_others() {
    let net = Network::up(Spec { zones: 2, ..small(2, 2) });
    let device = net.scratch().join("all-roles-disk");
    let device = format!("{}:{}:0", device.to_str().unwrap(), 256 << 20);
    let args = ["--role", "vendor,mirror", "--zone", "zone-3", "--operator", "operator-3", "--device", &device];
    let more = ["--set", "vendor.report_seconds=1", "--set", "mirror.poll_seconds=1", "--set", "user.copies=2"];
    let all = User::running(net.invite().unwrap(), &[&args[..], &more[..]].concat());
    let me = text(&all.ok(&["status"]), "/node").to_owned();
    let vendors = [me.clone(), id(&net, "vendor-1"), id(&net, "vendor-2")];
    wait_for("all mirrors, its own too, list all vendors", || {
        let fats = [net.fat("mirror-1"), net.fat("mirror-2"), all.ok(&["fat", "--mirror", &me])];
        let offers = |fat: &Value, id: &str| crate::vendor(fat, id).is_some_and(|one| number(one, "/capacity") > 0);
        let lists = |fat: &Value| vendors.iter().all(|vendor| offers(fat, vendor));
        if fats.iter().all(lists) { Ok(()) } else { Err(format!("{fats:?}")) }
    });

    let file = random_file(net.scratch().join("file"), "all roles", 6 * MIB);
    let answer = all.put(&file, "file");
    assert_eq!(number(&answer, "/mirrors_acked"), 3, "{answer}");
    let path = all.ok(&["path", "file"]);
    assert_eq!(list(&path, "/vendors").len(), 2, "{path}");
    assert!(crate::vendor(&path, &me).is_none(), "it keeps its own copies: {path}");
    let copy = net.scratch().join("copy");
    all.get("file", &copy);
    assert_same_bytes(&file, &copy);
    // A third copy could only lie with itself.
    all.fails(4, &["put", file.to_str().unwrap(), "--as", "third", "--copies", "3"]);
    let status = all.ok(&["status"]);
    assert_eq!((number(&status, "/vendor/used"), number(&status, "/vendor/chunks")), (0, 0), "{status}");

    // For somebody else it is a vendor like the others.
    let user = net.user("user-1");
    user.put(&file, "theirs");
    let path = user.ok(&["path", "theirs"]);
    assert_eq!(list(&path, "/vendors").len(), 3, "{path}");
    assert!(crate::vendor(&path, &me).is_some(), "{path}");
    assert!(number(&all.ok(&["status"]), "/vendor/used") >= 6 * MIB as u64);
    net.kill("vendor-1").unwrap();
    net.kill("vendor-2").unwrap();
    user.get("theirs", &copy);
    assert_same_bytes(&file, &copy);
    wait_for("it has the same FAT as the other mirrors", || {
        let own = all.ok(&["fat", "--digest"]);
        let others = ["mirror-1", "mirror-2"].map(|mirror| User::of(&net, mirror).ok(&["fat", "--digest"]));
        if others.iter().all(|other| *other == own) { Ok(()) } else { Err(format!("{own} {others:?}")) }
    });
}
