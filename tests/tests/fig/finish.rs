//! Figures 15 and 20 to 22: the final FAT, and the release of everything.

use fathom_testnet::Spec;
use fathom_tests::{Network, User, assert_same_bytes, list, number, part_files, random_file, small, text, wait_for};
use serde_json::Value;

use crate::{MIB, MIRRORS, id};

/// Figure 15: the final FAT is at the mirrors, what was locked and not used is free again, and the rest
/// is committed.
#[test]
fn fig_15_final_fat_is_checked_and_unused_released() {
    let net = Network::up(small(3, 6));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_15", 5 * MIB + 77);
    let answer = user.put(&file, "fig_15");
    assert_eq!(number(&answer, "/mirrors_acked"), 3, "{answer}");
    let owner = user.owner();
    for mirror in MIRRORS {
        wait_for(&format!("{mirror} has every lease as used"), || {
            let fat = net.fat(mirror);
            let leases = list(&fat, "/leases");
            let settled = |lease: &Value| {
                lease["owner"] == owner && lease["bytes"] == lease["used"] && lease["state"] == "committed"
            };
            let used: u64 = leases.iter().map(|lease| number(lease, "/used")).sum();
            let vendors = list(&fat, "/vendors").iter().all(|entry| entry["locked"] == entry["used"]);
            let right = leases.iter().all(settled) && used >= 3 * (5 * MIB as u64 + 77) && vendors;
            (right && number(&fat, "/files") == 1).then_some(()).ok_or_else(|| fat.to_string())
        });
    }
    net.agree(&MIRRORS);
}

/// Figure 20: the download's result reaches a mirror, which counts it for the vendors that served.
#[test]
fn fig_20_report_of_a_download_reaches_a_mirror() {
    let net = Network::up(small(3, 3));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_20", 3 * MIB);
    user.put(&file, "fig_20");
    let answer = user.get("fig_20", &net.scratch().join("out"));
    let served = answer["by_vendor"].as_object().unwrap();
    wait_for("a mirror has counted three good chunks", || {
        let mut good = 0;
        for mirror in MIRRORS {
            let fat = net.fat(mirror);
            let entries = list(&fat, "/vendors");
            good += entries
                .iter()
                .filter(|entry| served.contains_key(text(entry, "/vendor")))
                .map(|entry| entry["good"].as_u64().unwrap_or(0))
                .sum::<u64>();
        }
        (good >= 3).then_some(()).ok_or(format!("{good} of 3"))
    });
}

/// Figures 20 to 22: `get --release` and `rm` free the storage, the vendors erase, and the mirrors
/// agree; a vendor that is down meanwhile erases when it is back.
#[test]
fn fig_21_22_release_erases_everywhere() {
    let net = Network::up(Spec { users: 1, ..small(3, 4) });
    let user = net.user("user-1");
    let one = random_file(net.scratch().join("one"), "one", 3 * MIB);
    for number in 0..3 {
        random_file(net.scratch().join(format!("tree/{number}")), &number.to_string(), MIB / 2 + number);
    }
    user.put(&one, "one");
    user.put(&net.scratch().join("tree"), "tree");
    assert_eq!(user.names().len(), 4);
    let holders = user.ok(&["path", "tree"]);
    let absent = net.name_of(text(&holders, "/vendors/0/vendor"));
    assert!(held(&net, &absent) > 0);

    let out = net.scratch().join("out");
    let answer = user.ok(&["get", "one", "-o", out.to_str().unwrap(), "--release"]);
    assert_eq!(answer["released"], true, "{answer}");
    assert_same_bytes(&one, &out);
    net.kill(&absent).unwrap();
    let answer = user.ok(&["rm", "tree"]);
    assert_eq!(number(&answer, "/files"), 3, "{answer}");
    assert_eq!(user.names(), Vec::<String>::new());
    assert!(held(&net, &absent) > 0, "a dead vendor erased something");
    net.start(&absent).unwrap();
    net.await_empty(&MIRRORS);
    for mirror in MIRRORS {
        let fat = net.fat(mirror);
        assert!(crate::vendor(&fat, &id(&net, &absent)).is_some(), "{fat}");
    }
    user.fails(3, &["get", "one", "-o", out.to_str().unwrap()]);
}

/// Files on the devices of a vendor.
fn held(net: &Network, vendor: &str) -> usize {
    let node = net.node(vendor).unwrap();
    node.devices.iter().map(|device| part_files(device).len()).sum()
}

/// Figure 22: a file that is stored again under its name frees the old content.
#[test]
fn fig_22b_overwriting_a_name_frees_the_old_version() {
    let net = Network::up(small(1, 3));
    let user = net.user("user-1");
    let old = random_file(net.scratch().join("old"), "old", 4 * MIB);
    let new = random_file(net.scratch().join("new"), "new", MIB);
    user.put(&old, "name");
    user.put(&new, "name");
    assert_eq!(user.names(), ["name"]);
    let files = user.ok(&["ls"]);
    assert_eq!((number(&files, "/files/0/bytes"), number(&files, "/files/0/seq")), (MIB as u64, 2), "{files}");
    wait_for("only the new version is stored", || {
        let statuses: Vec<Value> =
            net.vendors().iter().map(|node| User::of(&net, &node.name).ok(&["status"])).collect();
        let one =
            |status: &Value| number(status, "/vendor/chunks") == 1 && number(status, "/vendor/locked") < 2 * MIB as u64;
        statuses.iter().all(one).then_some(()).ok_or(format!("{statuses:?}"))
    });
    let out = net.scratch().join("out");
    user.get("name", &out);
    assert_same_bytes(&new, &out);
    user.ok(&["rm", "name"]);
    net.await_empty(&["mirror-1"]);
}
