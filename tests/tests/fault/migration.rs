//! The target of a migration dies (case 16).

use std::time::Duration;

use fathom_testnet::{Spec, Stopwatch, VendorSpec};
use fathom_tests::{LONG, Network, number, random_file, set, small, wait_for};

use crate::crafted::Client;
use crate::world::{assert_fetched, check, figure, parts, temporary};

const CHUNKS: usize = 24;
const BYTES: usize = CHUNKS << 20;
/// A sealed chunk: a tag for each 64 KiB.
const SEALED: u64 = (1 << 20) + 256;
/// Copies that the target may have stored while the source never heard of it, 4 on their way at each of two breaks. They
/// count against the lease and go with the file.
const UNHEARD: u64 = 2 * 4;

#[test]
fn fault_16_a_migration_whose_target_stops_and_dies_loses_nothing() {
    // One vendor with half of its space in use, which is too much for it; where to is not there yet.
    let source =
        set(&[("vendor.overload_percent", "40"), ("vendor.relief_percent", "5"), ("vendor.hold_seconds", "1")]);
    let spec = Spec {
        devices: 2,
        device_quota: BYTES as u64,
        vendor_set: source,
        user_set: set(&[("user.copies", "1")]),
        ..small(1, 1)
    };
    let mut net = Network::up(spec);
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fault 16", BYTES);
    user.put(&file, "file");
    let shadow = Client::of_user(&net, "user-1");
    let mirror = net.node("mirror-1").unwrap().clone();
    let target = VendorSpec {
        zone: "zone-2".to_owned(),
        operator: "operator-2".to_owned(),
        devices: 1,
        device_quota: 8 * BYTES as u64,
        device_reserve: Some(0),
        set: set(&[("vendor.report_seconds", "1"), ("vendor.overload_percent", "100")]),
    };
    net.add_vendor("vendor-2", &target).unwrap();

    let moving = |net: &Network, least: usize| {
        let target = net.node("vendor-2").unwrap();
        let watch = Stopwatch::start();
        // Looked at so often that few chunks can be over when it stops.
        while parts(target).len() + temporary(target).len() < least {
            assert!(watch.elapsed() < LONG, "no migration begins");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    moving(&net, 1);
    net.stop("vendor-2").unwrap();
    readable_where_not_moved(&net, &shadow, "stopped");
    net.cont("vendor-2").unwrap();
    let stored = parts(net.node("vendor-2").unwrap()).len();
    moving(&net, stored + 1);
    net.kill("vendor-2").unwrap();
    let moved = readable_where_not_moved(&net, &shadow, "dead");
    println!("{moved} of {CHUNKS} chunks had moved when the target died");

    net.start("vendor-2").unwrap();
    wait_for("every chunk is where the final FAT says", || {
        let copies = shadow.copies(&mirror);
        let lost = copies.iter().filter(|(vendor, chunk, length)| {
            let node = net.vendors().into_iter().find(|node| crate::crafted::id(node) == *vendor).unwrap();
            shadow.read(node, *chunk, *length).is_err()
        });
        let lost = lost.count();
        if lost == 0 { Ok(()) } else { Err(format!("{lost} are not")) }
    });
    wait_for("the source is relieved after all, and nothing is stored more often than the two breaks explain", || {
        let (source, target) = (figure(&net, "vendor-1", "used"), figure(&net, "vendor-2", "used"));
        let relieved = source * 100 < figure(&net, "vendor-1", "capacity") * 40;
        let copies = (source + target) / SEALED;
        let explained = (CHUNKS as u64..=CHUNKS as u64 + UNHEARD).contains(&copies);
        if relieved && explained { Ok(()) } else { Err(format!("{source} and {target} bytes, {copies} chunks")) }
    });
    assert!(number(&net.fat("mirror-1"), "/moves") > 0);
    assert_eq!(shadow.read_every_copy(&net), CHUNKS);
    assert_fetched(&net, &user, "file", &file);
    check(&net);
    user.ok(&["rm", "file"]);
    wait_for("every copy is erased with the file, those that nobody heard of too", || {
        let used = ["vendor-1", "vendor-2"].map(|vendor| figure(&net, vendor, "used"));
        let parts: usize = net.vendors().into_iter().map(|vendor| parts(vendor).len()).sum();
        if used == [0, 0] && parts == 0 { Ok(()) } else { Err(format!("{used:?}, {parts} parts")) }
    });
    check(&net);
}

/// While the target says nothing: every chunk without a move is served by the source. Returns how many have one.
fn readable_where_not_moved(net: &Network, shadow: &Client, how: &str) -> usize {
    let (mirror, source) = (net.node("mirror-1").unwrap(), net.node("vendor-1").unwrap());
    let copies = shadow.copies(mirror);
    assert_eq!(copies.len(), CHUNKS);
    let (here, moved): (Vec<_>, Vec<_>) =
        copies.iter().partition(|(vendor, _, _)| *vendor == crate::crafted::id(source));
    assert!(moved.len() < CHUNKS, "all had moved before the target was {how}");
    for (_, chunk, length) in here.into_iter().copied() {
        if let Err(refusal) = shadow.read(source, chunk, length) {
            panic!("with its target {how} the source does not serve {chunk}: {refusal:?}");
        }
    }
    moved.len()
}
