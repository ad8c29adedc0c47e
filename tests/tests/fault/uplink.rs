//! Slow uplinks, and none: the caps of a user's node, and a put during which its connection goes away.

use std::time::Duration;

use fathom_testnet::{Spec, Stopwatch};
use fathom_tests::{Network, number, random_file, set, small};

use crate::world::{assert_fetched, check};

const MIB: usize = 1 << 20;

fn note(event: &serde_json::Value, text: &str) -> bool {
    event["event"] == "note" && event["text"].as_str().is_some_and(|told| told.contains(text))
}

/// The chain does the copying: what a user with a slow line sends is its file, whatever the number of copies.
#[test]
fn a_put_with_three_copies_over_a_capped_uplink_sends_each_byte_once() {
    const CAP: usize = 2_500_000;
    let spec = Spec {
        user_set: set(&[("node.upload", "20 Mbit/s"), ("node.cap_local", "true"), ("user.copies", "3")]),
        ..small(1, 4)
    };
    let net = Network::up(spec);
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "uplink", 8 * MIB);
    let before = number(&user.ok(&["status"]), "/traffic/upload/bytes");
    let watch = Stopwatch::start();
    let answer = user.put(&file, "file");
    let took = watch.elapsed().as_secs_f64();
    assert_eq!(answer["copies"], 3);
    let status = user.ok(&["status"]);
    assert_eq!(number(&status, "/traffic/upload/cap"), CAP as u64);
    assert!(status.pointer("/traffic/download/cap").is_none() && status.pointer("/traffic/until").is_none());
    let sent = (number(&status, "/traffic/upload/bytes") - before) as f64;
    println!("{sent} bytes for a file of {} in {took:.1} s", 8 * MIB);
    assert!(sent <= 1.1 * (8 * MIB) as f64, "{sent} bytes were sent");
    assert!(took >= 0.95 * (8 * MIB) as f64 / CAP as f64, "faster than the cap: {took} s");
    assert_fetched(&net, &user, "file", &file);
    check(&net);
}

/// To the user's node it is the same whether its own line is cut or everybody else is silent. Offers lapse meanwhile, several
/// times over, as they do in an hour with the usual times.
#[test]
fn a_put_whose_connection_goes_away_waits_and_goes_on() {
    let mut spec = Spec {
        user_set: set(&[("node.upload", "40 Mbit/s"), ("node.cap_local", "true"), ("user.in_flight", "2")]),
        ..small(1, 4)
    };
    spec.vendor_set.extend(set(&[("lease.offer_seconds", "2")]));
    let net = Network::up(spec);
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "outage", 24 * MIB);
    let mut put = user.start_put(&file, "file");
    put.until(20);
    let others: Vec<String> =
        net.nodes().iter().map(|node| node.name.clone()).filter(|name| name != "user-1").collect();
    others.iter().for_each(|name| net.stop(name).unwrap());
    let mut waits = false;
    while !waits {
        waits = note(&put.event().expect("the put waits"), "waiting for the connection");
    }
    std::thread::sleep(Duration::from_secs(8));
    others.iter().for_each(|name| net.cont(name).unwrap());
    let (events, answer) = put.ok();
    assert!(events.iter().any(|event| note(event, "the connection is back")), "{events:?}");
    // Of 24 chunks with 3 copies each, those that were on their way are the only ones sent twice.
    let sent = number(&answer, "/sent_chunks");
    assert!((72..=80).contains(&sent), "{answer}");
    assert_fetched(&net, &user, "file", &file);
    check(&net);
}
