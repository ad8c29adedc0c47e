//! Figures 15b and 15c for the other threshold: a vendor that moves more bytes a second than it wants to.

use std::sync::atomic::{AtomicBool, Ordering};

use fathom_testnet::{NodeHandle, Spec, VendorOverride, VendorSpec};
use fathom_tests::{Network, User, assert_same_bytes, number, random_file, set, small, wait_for};

use crate::{MIB, MIRRORS, id};

/// What one get fetches: at the threshold of 1 MB/s it would take ten seconds.
const SIZE: usize = 10 * MIB;
/// Gets at once, so that each second sees bytes although commands start and end.
const READERS: usize = 2;

/// Fetches `name` again and again until `enough`.
fn read_on(user: &User, name: &str, net: &Network, reader: usize, enough: &AtomicBool) {
    let out = net.scratch().join(format!("out-{reader}"));
    while !enough.load(Ordering::Relaxed) {
        user.get(name, &out);
        std::fs::remove_file(&out).unwrap();
    }
}

/// A vendor that serves well above its `bandwidth_mb_per_s` for more than ten seconds moves chunks away though it has
/// plenty of space; the mirrors have the moves, and a node that knows nothing but the phrase gets every byte.
#[test]
fn fig_15b_bandwidth_overload_migrates() {
    // There is one vendor while the file is stored, so the load is all its own.
    let mut spec = Spec { user_set: set(&[("user.copies", "1")]), ..small(3, 1) };
    let threshold = set(&[("vendor.bandwidth_mb_per_s", "1")]);
    spec.overrides.insert(1, VendorOverride { set: threshold, ..VendorOverride::default() });
    let target = VendorSpec { set: spec.vendor_set.clone(), operator: "operator-2".to_owned(), ..spec.vendor(1) };
    let mut net = Network::up(spec);
    let file = random_file(net.scratch().join("file"), "fig_15b bandwidth", SIZE);
    net.user("user-1").put(&file, "file");
    net.add_vendor("vendor-2", &target).unwrap();
    let (user, source) = (net.user("user-1"), net.user("vendor-1"));
    let status = source.ok(&["status"]);
    assert_eq!(number(&status, "/vendor/migrations"), 0, "it moves data without load: {status}");
    assert!(number(&status, "/vendor/used") * 10 < number(&status, "/vendor/capacity"), "{status}");

    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (user, net, enough) = (&user, &net, &enough);
            scope.spawn(move || read_on(user, "file", net, reader, enough));
        }
        /// Ends the readers, also when the wait fails.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&enough);
        wait_for("the vendor with too many bytes a second moved chunks away", || {
            let status = source.ok(&["status"]);
            if number(&status, "/vendor/migrations") > 0 { Ok(()) } else { Err(status.to_string()) }
        });
    });
    wait_for("all mirrors know the moves", || {
        let fats = MIRRORS.map(|mirror| net.fat(mirror));
        fats.iter().all(|fat| number(fat, "/moves") > 0).then_some(()).ok_or(format!("{fats:?}"))
    });
    wait_for("what was moved is erased at its source", || {
        let used = |vendor: &NodeHandle| number(&User::of(&net, &vendor.name).ok(&["status"]), "/vendor/used");
        let sum: u64 = net.vendors().into_iter().map(used).sum();
        // Sealing adds some hundred bytes to a chunk; a chunk that is at both would add a mebibyte.
        if sum < (SIZE + MIB) as u64 { Ok(()) } else { Err(format!("{sum} bytes are in use")) }
    });
    net.agree(&MIRRORS);

    let phrase = net.phrase("user-1").unwrap().to_owned();
    net.add_user("user-2", Some(&phrase), &[]).unwrap();
    let out = net.scratch().join("out");
    let answer = net.user("user-2").get("file", &out);
    assert_same_bytes(&file, &out);
    assert!(answer["by_vendor"][id(&net, "vendor-2")].as_u64().unwrap_or(0) > 0, "{answer}");
}
