//! Figures 15b to 16: an overloaded vendor moves data away, and the user finds it where it is.

use fathom_testnet::{Spec, VendorOverride};
use fathom_tests::{Network, User, assert_same_bytes, list, number, random_file, set, small, wait_for};

use crate::{MIB, MIRRORS, id};

/// Figures 15b to 15e and 16: a vendor above its threshold moves chunks to a vendor that has room; the
/// mirrors lay the moves over the user's final FAT; the source erases; and a node of the same user that
/// knows nothing but the phrase gets every byte, from the new place.
#[test]
fn fig_15b_overloaded_vendor_migrates() {
    const SIZE: usize = 24 * MIB;
    const CAPACITY: u64 = 3 * (16 << 20);
    let overloaded = VendorOverride {
        device_quota: Some(16 << 20),
        set: set(&[("vendor.overload_percent", "40"), ("vendor.relief_percent", "25")]),
        ..VendorOverride::default()
    };
    let mut spec = Spec { zones: 3, ..small(3, 3) };
    spec.overrides.insert(1, overloaded);
    let roomy = spec.vendor(2);
    let mut net = Network::up(spec);
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_15b", SIZE);
    user.put(&file, "dir/file");
    let used = |net: &Network| number(&User::of(net, "vendor-1").ok(&["status"]), "/vendor/used");
    assert!(used(&net) * 100 >= CAPACITY * 40, "{}", used(&net));

    // Where it could go comes only now: the overload is real, and lasts until there is room.
    let zone = fathom_testnet::VendorSpec { zone: "zone-1".to_owned(), operator: "operator-4".to_owned(), ..roomy };
    net.add_vendor("vendor-4", &zone).unwrap();
    wait_for("the overloaded vendor is below its relief threshold and has erased", || {
        let status = User::of(&net, "vendor-1").ok(&["status"]);
        let devices: u64 = list(&status, "/vendor/devices").iter().map(|device| number(device, "/used")).sum();
        let relieved = number(&status, "/vendor/used") * 100 <= CAPACITY * 25 && devices * 100 <= CAPACITY * 26;
        (relieved && number(&status, "/vendor/migrations") > 0).then_some(()).ok_or(status.to_string())
    });
    wait_for("all mirrors know the moves", || {
        let fats = MIRRORS.map(|mirror| net.fat(mirror));
        fats.iter().all(|fat| number(fat, "/moves") > 0).then_some(()).ok_or(format!("{fats:?}"))
    });
    net.agree(&MIRRORS);

    let phrase = net.phrase("user-1").unwrap().to_owned();
    net.add_user("user-2", Some(&phrase), &[]).unwrap();
    let fresh = net.user("user-2");
    assert_eq!(fresh.names(), ["dir/file"]);
    let path = fresh.ok(&["path", "dir/file"]);
    assert_eq!(list(&path, "/vendors").len(), 4, "{path}");
    // Of the first places only the one that shed load is left.
    net.kill("vendor-2").unwrap();
    net.kill("vendor-3").unwrap();
    let out = net.scratch().join("out");
    let answer = fresh.get("dir/file", &out);
    assert_same_bytes(&file, &out);
    let from = |name: &str| answer["by_vendor"][id(&net, name)].as_u64().unwrap_or(0);
    assert!(from("vendor-4") > 0 && from("vendor-1") > 0, "{answer}");

    // A release reaches the new place too.
    net.start("vendor-2").unwrap();
    net.start("vendor-3").unwrap();
    fresh.ok(&["rm", "dir/file"]);
    net.await_empty(&MIRRORS);
}

/// What moves away is work in the background: of a capped uplink it takes its share, and arrives all the same.
#[test]
fn fig_15b_moves_keep_to_their_share_of_a_capped_uplink() {
    const CAP: u64 = 4_000_000;
    const SIZE: usize = 12 * MIB;
    let capped = [
        ("node.upload", "32 Mbit/s"),
        ("node.cap_local", "true"),
        ("vendor.overload_percent", "30"),
        ("vendor.relief_percent", "10"),
    ];
    let capped = VendorOverride { device_quota: Some(32 << 20), set: set(&capped), ..VendorOverride::default() };
    let mut spec = Spec { devices: 1, user_set: set(&[("user.copies", "1")]), ..small(1, 1) };
    spec.overrides.insert(1, capped);
    let mut net = Network::up(spec);
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_15b_share", SIZE);
    user.put(&file, "file");
    let roomy = fathom_testnet::VendorSpec { zone: "zone-2".to_owned(), ..small(1, 1).vendor(1) };
    net.add_vendor("vendor-2", &roomy).unwrap();
    let watch = fathom_testnet::Stopwatch::start();
    wait_for("the overloaded vendor is below its relief threshold", || {
        let status = User::of(&net, "vendor-1").ok(&["status"]);
        let relieved = number(&status, "/vendor/used") * 100 <= (32 << 20) * 10;
        relieved.then_some(()).ok_or(status.to_string())
    });
    let moved = (SIZE as u64 - (32 << 20) / 10) as f64;
    let share = moved / watch.elapsed().as_secs_f64() / CAP as f64;
    println!("{share:.2} of the cap");
    assert!(share <= 0.30, "{share} of the cap");
    let out = net.scratch().join("out");
    user.get("file", &out);
    assert_same_bytes(&file, &out);
}
