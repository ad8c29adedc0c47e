//! Figures 9 to 13: headers, the way of a chunk from vendor to vendor, and its parts on devices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use fathom_testnet::link::{Front, Link, LinkSpec};
use fathom_testnet::{Spec, VendorOverride};
use fathom_tests::{
    Network, Scratch, User, assert_same_bytes, list, number, part_files, random_file, set, shared, small,
    temporary_files, text, wait_for,
};

use crate::{KIB, MIB, events, id};

/// Figures 9 and 10: each chunk has its own header, which says where it goes and where it is re-sent
/// for duplication: as many vendors as copies were asked, in different zones, and not the same ones
/// for every chunk.
#[test]
fn fig_09_headers_say_where_each_chunk_goes() {
    let (net, scratch) = (shared(), Scratch::new());
    let user = net.user();
    let file = random_file(scratch.join("file"), "fig_09", 6 * MIB);
    for copies in [1, 2, 3] {
        let name = format!("fig_09-{copies}");
        let copies_text = copies.to_string();
        let args = ["put", file.to_str().unwrap(), "--as", &name, "--copies", &copies_text];
        let (all, answer) = fathom_tests::Job::start(user.dir(), &args).ok();
        assert_eq!(number(&answer, "/sent_chunks"), 6 * copies as u64, "{answer}");
        let receipts = events(&all, "receipt");
        let chunks: BTreeSet<_> = receipts.iter().map(|receipt| text(receipt, "/chunk")).collect();
        assert_eq!(chunks.len(), 6);
        let mut chains = BTreeSet::new();
        for receipt in receipts {
            let vendors: BTreeSet<_> =
                list(receipt, "/vendors").iter().map(|vendor| vendor.as_str().unwrap().to_owned()).collect();
            let zones: BTreeSet<_> = vendors.iter().map(|vendor| net.zone(vendor)).collect();
            assert_eq!((vendors.len(), zones.len()), (copies, copies), "{receipt}");
            chains.insert(vendors);
        }
        assert!(chains.len() > 1, "all chunks of {name} went the same way: {chains:?}");
        user.ok(&["rm", &name]);
    }
}

/// Figures 11 and 12: a chunk goes from vendor to vendor. The user sends it once; each vendor sends it
/// on. Seen in the bytes: every vendor is reached only through a relay that counts who sends what.
#[test]
fn fig_11_chunks_hop_by_hop() {
    const VENDORS: usize = 3;
    let link = Link::new(LinkSpec::default()).unwrap();
    let fronts: Vec<Front> = (0..VENDORS).map(|_| link.front().unwrap()).collect();
    let mut spec = Spec { zones: VENDORS, ..small(1, VENDORS) };
    for (number, front) in (1..).zip(&fronts) {
        // As many as a record may carry: there is no place left for the address behind the relay.
        let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", front.port());
        let addresses = vec![address; 8].join(",");
        let other = VendorOverride { set: set(&[("node.external", &addresses)]), ..VendorOverride::default() };
        spec.overrides.insert(number, other);
    }
    let net = Network::up(spec);
    let mut names = BTreeMap::new();
    for (vendor, front) in net.vendors().into_iter().zip(&fronts) {
        let port = port(vendor.addresses.last().unwrap());
        front.aim(port);
        names.insert(port, vendor.name.clone());
    }
    let user = net.user("user-1");
    let user_port = port(net.node("user-1").unwrap().address());
    names.insert(user_port, "user-1".to_owned());

    let file = random_file(net.scratch().join("file"), "fig_11", MIB);
    let chunk = MIB as u64;
    user.put(&file, "warm-up");
    let flows = || -> BTreeMap<(String, String), u64> {
        let mut flows = BTreeMap::new();
        let named = |port| names.get(&port).cloned().unwrap_or(format!("port {port}"));
        for (vendor, front) in net.vendors().into_iter().zip(&fronts) {
            for (from, bytes) in front.sent() {
                *flows.entry((named(from), vendor.name.clone())).or_default() += bytes;
            }
            // Two vendors have one connection, whichever of them opened it: the other sends the opposite way.
            for (to, bytes) in front.returned() {
                *flows.entry((vendor.name.clone(), named(to))).or_default() += bytes;
            }
        }
        flows
    };
    let before = flows();
    let (all, answer) = user.start_put(&file, "fig_11").ok();
    assert_eq!((number(&answer, "/chunks"), number(&answer, "/sent_chunks")), (1, 3), "{answer}");
    assert_eq!(list(events(&all, "receipt")[0], "/vendors").len(), VENDORS);
    // Who sent a chunk to whom.
    let sent = |hop: &(String, String), bytes: u64| bytes - before.get(hop).copied().unwrap_or(0);
    let hops: Vec<(String, String)> =
        flows().into_iter().filter(|(hop, bytes)| sent(hop, *bytes) > chunk / 2).map(|(hop, _)| hop).collect();
    let from_user = hops.iter().filter(|(from, _)| from == "user-1").count();
    assert_eq!((from_user, hops.len()), (1, VENDORS), "{hops:?}");
    // A chain: each vendor gets it once, and each sender sends it once.
    let to: BTreeSet<_> = hops.iter().map(|(_, to)| to).collect();
    let from: BTreeSet<_> = hops.iter().map(|(from, _)| from).collect();
    assert_eq!((to.len(), from.len()), (VENDORS, VENDORS), "{hops:?}");
}

/// The UDP port of a multiaddress.
fn port(address: &str) -> u16 {
    let (_, rest) = address.split_once("/udp/").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

/// Figure 12a: a vendor splits each chunk as its header says over its devices, and what it staged is
/// gone once the parts are validated.
#[test]
fn fig_12_vendor_splits_over_devices() {
    const PART: u64 = 256 * KIB as u64;
    let part = PART.to_string();
    let net = Network::up(Spec { user_set: set(&[("user.part_bytes", &part)]), ..small(1, 3) });
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_12", 4 * MIB);
    user.put(&file, "fig_12");
    for node in net.vendors() {
        let status = User::of(&net, &node.name).ok(&["status"]);
        assert_eq!(number(&status, "/vendor/chunks"), 4, "{status}");
        for (device, reported) in node.devices.iter().zip(list(&status, "/vendor/devices")) {
            let parts = part_files(device);
            // 4 chunks in at least 4 parts each, over 3 devices.
            assert!(parts.len() >= 4, "{}: {parts:?}", node.name);
            assert_eq!(parts.len() as u64, number(reported, "/parts"), "{reported}");
            let sizes: Vec<u64> = parts.iter().map(|part| fs::metadata(part).unwrap().len()).collect();
            assert!(sizes.iter().all(|size| *size <= PART + 4096), "{sizes:?}");
            assert_eq!(sizes.iter().sum::<u64>(), number(reported, "/used"), "{reported}");
            assert!(temporary_files(device).is_empty(), "{}", node.name);
        }
        let used: u64 = list(&status, "/vendor/devices").iter().map(|device| number(device, "/used")).sum();
        assert!(used >= 4 * MIB as u64, "{status}");
    }
}

/// Figure 13: a device that takes nothing costs no copy: its vendor gives the part to another of its
/// devices, and tells the state of the failed one.
#[test]
fn fig_13_failing_device_is_passed_over() {
    let net = Network::up(small(1, 3));
    let user = net.user("user-1");
    let node = net.node("vendor-2").unwrap();
    let broken = &node.devices[0];
    // Nothing can be written where a file stands in for the directory of what is being written.
    fs::remove_dir(broken.join("tmp")).unwrap();
    fs::write(broken.join("tmp"), "").unwrap();
    let file = random_file(net.scratch().join("file"), "fig_13", 6 * MIB);
    let answer = user.put(&file, "fig_13");
    assert_eq!(list(&answer, "/replaced").len(), 0, "{answer}");
    let status = User::of(&net, "vendor-2").ok(&["status"]);
    assert_eq!(number(&status, "/vendor/chunks"), 6, "{status}");
    let devices = list(&status, "/vendor/devices");
    assert_ne!(text(&devices[0], "/state"), "healthy", "{status}");
    assert_eq!(part_files(broken).len(), 0);
    assert!(node.devices[1..].iter().all(|device| !part_files(device).is_empty()));
    // Its mirrors hear of it.
    wait_for("the mirror knows that a device failed", || {
        let fat = net.fat("mirror-1");
        let entry = crate::vendor(&fat, &node.node).unwrap().clone();
        let health: Vec<_> = list(&entry, "/devices").iter().map(|device| text(device, "/health")).collect();
        health.contains(&text(&devices[0], "/state")).then_some(()).ok_or(entry.to_string())
    });
    // Only that vendor is left to fetch from.
    net.kill("vendor-1").unwrap();
    net.kill("vendor-3").unwrap();
    let out = net.scratch().join("out");
    let answer = user.get("fig_13", &out);
    assert_same_bytes(&file, &out);
    assert!(number(&answer["by_vendor"], &format!("/{}", id(&net, "vendor-2"))) >= 6 * MIB as u64, "{answer}");
}
