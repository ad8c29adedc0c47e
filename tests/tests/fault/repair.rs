//! Copies that vendors lost are made again by their owner's node (case 26, and what a vendor that lost its disk costs).

use ed25519_dalek::SigningKey;
use fathom_protocol::head::VendorHead;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{Request, Response, SyncRecord};
use fathom_testnet::{NodeHandle, Spec};
use fathom_tests::{Network, User, list, number, random_file, set, small, text, wait_for};

use crate::crafted::{Client, id};
use crate::world::{assert_fetched, check, figure, parts};

/// Plaintext bytes of a chunk of a file below 64 MiB.
const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 12;
const COPIES: usize = 2;

/// A network whose users' nodes look every second for what was lost, where `check` says so.
fn network(check: &str) -> Network {
    let user = [("user.copies", "2"), ("user.check_seconds", check)];
    Network::up(Spec { devices: 1, user_set: set(&user), ..small(3, 5) })
}

/// The vendor that holds most.
fn fullest(net: &Network) -> NodeHandle {
    let vendors = net.vendors();
    let fullest = vendors.into_iter().max_by_key(|vendor| figure(net, &vendor.name, "chunks"));
    fullest.expect("a vendor").clone()
}

/// Its disk died: the local FAT is gone, and of the parts every `keep`-th is left (none with 0).
pub(crate) fn lose_disk(net: &Network, vendor: &NodeHandle, keep: usize) {
    net.kill(&vendor.name).unwrap();
    std::fs::remove_file(vendor.dir.join("vendor/local-fat.redb")).unwrap();
    for (at, part) in parts(vendor).into_iter().enumerate() {
        if keep == 0 || at % keep > 0 {
            std::fs::remove_file(part).unwrap();
        }
    }
    net.start(&vendor.name).unwrap();
}

/// Waits until every copy of the file is where its final FAT says; then the file can be fetched.
fn await_whole(net: &Network, user: &User, source: &std::path::Path) {
    let shadow = Client::of_user(net, "user-1");
    wait_for("every copy is where the final FAT says", || match shadow.every_copy(net)? {
        copies if copies == COPIES * CHUNKS => Ok(()),
        copies => Err(format!("{copies} copies")),
    });
    assert_fetched(net, user, "file", source);
}

/// Keeps away: a vendor's disk dies, nobody makes its copies again, and the next disk that dies takes the last ones along.
#[test]
fn fault_26_copies_of_a_vendor_that_lost_its_disk_are_made_again_without_being_asked() {
    let net = network("1");
    let user = net.user("user-1");
    let source = random_file(net.scratch().join("source"), "fault 26", CHUNKS * CHUNK);
    user.put(&source, "file");
    // All of one vendor's copies, then some of another's.
    for keep in [0, 2] {
        let victim = fullest(&net);
        lose_disk(&net, &victim, keep);
        println!("{} lost its disk", victim.name);
        await_whole(&net, &user, &source);
    }
    check(&net);
}

/// The node's key of `vendor`, of which this test is in possession as a thief, or a second node, would be.
fn key_of(vendor: &NodeHandle) -> SigningKey {
    let line = std::fs::read_to_string(vendor.dir.join("node.key")).unwrap();
    let digits = line.split_whitespace().nth(1).unwrap();
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
    SigningKey::from_bytes(&std::array::from_fn(byte))
}

#[test]
fn fault_26_a_proof_against_a_vendor_starts_the_repair_of_what_it_holds() {
    let net = network("1");
    let user = net.user("user-1");
    let source = random_file(net.scratch().join("source"), "fault 26 proof", CHUNKS * CHUNK);
    user.put(&source, "file");
    let culprit = fullest(&net);
    let crafted = Client::new(&net, "thief");
    let mirror = net.node("mirror-1").unwrap();
    // Its newest head, signed a second time with another content under the same number.
    wait_for("the mirrors have a proof", || {
        let Response::Page(page) = crafted.call(mirror, &Request::VendorOf(id(&culprit))) else { panic!("no record") };
        let Some(SyncRecord::Vendor(mut record)) = page.records.into_iter().next() else { panic!("no record") };
        let head = record.head.peek().unwrap();
        let twin = VendorHead { used: head.used / 2, ..head };
        record.head = Signed::sign(twin, &key_of(&culprit)).unwrap().into_carried();
        crafted.call(mirror, &Request::Report(record));
        let fat = User::of(&net, "mirror-1").ok(&["fat"]);
        match list(&fat, "/vendors").iter().any(|vendor| !vendor["quarantined"].is_null()) {
            true => Ok(()),
            false => Err("no proof yet".to_owned()),
        }
    });
    wait_for("what it held is elsewhere, and it is empty", || match figure(&net, &culprit.name, "chunks") {
        0 => Ok(()),
        left => Err(format!("{left} chunks are there")),
    });
    await_whole(&net, &user, &source);
    check(&net);
}

#[test]
fn fault_26_a_vendor_that_does_not_come_back_is_given_up_by_its_user() {
    let net = network("3600");
    let user = net.user("user-1");
    let source = random_file(net.scratch().join("source"), "fault 26 dead", CHUNKS * CHUNK);
    user.put(&source, "file");
    let sound = user.ok(&["repair"]);
    assert_eq!((number(&sound, "/lost_copies"), number(&sound, "/unanswered")), (0, 0), "{sound}");
    let dead = fullest(&net);
    let held = figure(&net, &dead.name, "chunks");
    net.kill(&dead.name).unwrap();
    let silent = user.ok(&["repair"]);
    assert_eq!(number(&silent, "/lost_copies"), 0, "silence is no loss: {silent}");
    assert!(number(&silent, "/unanswered") > 0, "{silent}");
    let repaired = user.ok(&["repair", "file", "--without", &dead.node[..8]]);
    assert_eq!(number(&repaired, "/lost_copies"), held, "{repaired}");
    assert_eq!(number(&repaired, "/made_copies"), held, "{repaired}");
    assert!(list(&repaired, "/failed").is_empty(), "{repaired}");
    await_whole(&net, &user, &source);
    // It comes back after all: what it has is no longer needed there.
    net.start(&dead.name).unwrap();
    wait_for("it erases what was copied elsewhere", || match figure(&net, &dead.name, "chunks") {
        0 => Ok(()),
        left => Err(format!("{left} chunks")),
    });
    // With a copy at every vendor there is no other to take the place of one.
    user.ok(&["put", source.to_str().unwrap(), "--as", "everywhere", "--copies", "5"]);
    let left = user.cli(&["repair", "everywhere", "--without", &dead.node]);
    assert_eq!(left.code, 1, "{}", left.stdout);
    assert_eq!((number(&left.json, "/lost_copies"), number(&left.json, "/made_copies")), (CHUNKS as u64, 0));
    assert_eq!(text(&left.json, "/failed/0/name"), "everywhere", "{}", left.stdout);
    let wrong = user.fails(2, &["repair", "--without", "nobody"]);
    assert!(text(&wrong, "/hint").contains("fathom fat"), "{wrong}");
    check(&net);
}
