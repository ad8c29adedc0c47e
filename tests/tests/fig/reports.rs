//! Figures 1 to 4: devices report to vendors, vendors to mirrors, and mirrors make one FAT of it.

use fathom_tests::{Network, Scratch, User, list, number, random_file, shared, small, text, wait_for, wait_until};

use crate::{MIB, MIRRORS, id, vendor};

/// Figures 1a to 1c: capacity, free space and health of each device reach its vendor, and change
/// when data comes.
#[test]
fn fig_01_devices_report_to_their_vendor() {
    let (net, scratch) = (shared(), Scratch::new());
    for node in net.with_role("vendor") {
        let devices = User::of(&net, &node.name).ok(&["device", "list"]);
        let devices = list(&devices, "/devices");
        let paths: Vec<_> = devices.iter().map(|device| text(device, "/path")).collect();
        let wanted: Vec<_> = node.devices.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(paths, wanted, "{}", node.name);
        for device in devices {
            assert_eq!(number(device, "/quota"), 256 << 20, "{device}");
            assert!(number(device, "/free") <= 256 << 20, "{device}");
            assert_eq!(text(device, "/state"), "healthy", "{device}");
        }
    }
    let used = |name: &str| -> u64 {
        let devices = User::of(&net, name).ok(&["device", "list"]);
        list(&devices, "/devices").iter().map(|device| number(device, "/used")).sum()
    };
    let user = net.user();
    let file = random_file(scratch.join("file"), "fig_01", 2 * MIB);
    let events = user.start_put(&file, "fig_01").ok().0;
    let receipts = crate::events(&events, "receipt");
    let holder = text(receipts[0], "/vendors/0");
    let name = net.name_of(holder);
    // Others use the network too: what is certain is that these bytes are there.
    wait_until("a vendor's devices report the bytes", || used(&name) >= MIB as u64);
    user.ok(&["rm", "fig_01"]);
}

/// Figures 2 and 3: every mirror knows each vendor's storage with its characteristics, and what
/// changes at a vendor reaches every mirror.
#[test]
fn fig_02_vendors_report_to_mirrors() {
    let (net, scratch) = (shared(), Scratch::new());
    for mirror in MIRRORS {
        let fat = net.fat(mirror);
        for node in net.with_role("vendor") {
            let entry = vendor(&fat, &node.node).unwrap_or_else(|| panic!("{mirror} lacks {}", node.name));
            assert_eq!(number(entry, "/capacity"), 3 * (256 << 20), "{entry}");
            assert_eq!(Some(text(entry, "/zone")), node.zone.as_deref());
            assert_eq!(text(entry, "/operator"), node.name.replace("vendor", "operator"));
            assert_eq!(number(entry, "/free") + number(entry, "/locked"), number(entry, "/capacity"), "{entry}");
            let devices = list(entry, "/devices");
            assert_eq!(devices.len(), 3, "{entry}");
            assert!(devices.iter().all(|device| number(device, "/capacity") == 256 << 20), "{entry}");
            assert!(!list(entry, "/addresses").is_empty(), "{entry}");
        }
    }
    let user = net.user();
    let before = net.fat("mirror-1");
    let file = random_file(scratch.join("file"), "fig_02", 2 * MIB);
    let events = user.start_put(&file, "fig_02").ok().0;
    let owner = user.owner();
    for holder in list(crate::events(&events, "receipt")[0], "/vendors") {
        let holder = holder.as_str().unwrap();
        for mirror in MIRRORS {
            wait_for(&format!("{mirror} knows what a vendor holds for the user"), || {
                let fat = net.fat(mirror);
                let used: u64 = list(&fat, "/leases")
                    .iter()
                    .filter(|lease| lease["vendor"] == holder && lease["owner"] == owner)
                    .map(|lease| number(lease, "/used"))
                    .sum();
                let seq = |fat| vendor(fat, holder).map(|entry| number(entry, "/seq"));
                (used > 0 && seq(&fat) > seq(&before)).then_some(()).ok_or_else(|| fat.to_string())
            });
        }
    }
    user.ok(&["rm", "fig_02"]);
}

/// Figures 4, 4a and 4b: all mirrors hold the same table, final FATs included, whichever of them was
/// told.
#[test]
fn fig_04_mirrors_compile_one_fat() {
    let net = Network::up(small(3, 3));
    let user = net.user("user-1");
    let empty = net.agree(&MIRRORS);
    for number in 0..3 {
        let name = format!("fig_04-{number}");
        let file = random_file(net.scratch().join(&name), &name, MIB / 2);
        user.put(&file, &name);
    }
    wait_for("every mirror has three final FATs", || {
        let fats = MIRRORS.map(|mirror| net.fat(mirror));
        fats.iter().all(|fat| number(fat, "/files") == 3).then_some(()).ok_or(format!("{fats:?}"))
    });
    assert_ne!(net.agree(&MIRRORS), empty);
    // A node that is no mirror may ask any of them.
    for mirror in MIRRORS {
        let asked = user.ok(&["fat", "--mirror", &id(&net, mirror)]);
        assert_eq!(text(&asked, "/mirror"), id(&net, mirror));
        assert_eq!(list(&asked, "/vendors").len(), 3);
    }
}

/// Figures 4a and 4b: a mirror that was away while the table changed, and one that joins later, reach
/// the same content.
#[test]
fn fig_04b_mirrors_that_were_away_or_are_new_catch_up() {
    let mut net = Network::up(small(3, 3));
    let user = net.user("user-1");
    let store = |name: &str| {
        let file = random_file(net.scratch().join(name), name, MIB / 2);
        user.put(&file, name)
    };
    store("before");
    net.kill("mirror-3").unwrap();
    let answer = store("while-away");
    assert!(number(&answer, "/mirrors_acked") >= 2, "{answer}");
    user.ok(&["rm", "before"]);
    net.start("mirror-3").unwrap();
    net.agree(&MIRRORS);
    assert_eq!(number(&net.fat("mirror-3"), "/files"), number(&net.fat("mirror-1"), "/files"));

    net.add_mirror("mirror-4", &fathom_tests::set(&[("mirror.poll_seconds", "1")])).unwrap();
    net.agree(&["mirror-1", "mirror-2", "mirror-3", "mirror-4"]);
    assert_eq!(number(&net.fat("mirror-4"), "/files"), number(&net.fat("mirror-1"), "/files"));
    // The others may go: these two know everything.
    net.kill("mirror-1").unwrap();
    net.kill("mirror-2").unwrap();
    let out = net.scratch().join("out");
    user.get("while-away", &out);
    fathom_tests::assert_same_bytes(&net.scratch().join("while-away"), &out);
    assert_eq!(user.names(), ["while-away"]);
}
