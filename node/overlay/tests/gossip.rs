//! Gossip: reaches all who subscribe, and nothing is passed on that was not accepted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Node, SOON, config, node, until};
use fathom_overlay::{OverlayConfig, OverlayError, Verdict};
use fathom_protocol::limits::GOSSIP_BYTES_MAX;

async fn mirror(seed: u8) -> Node {
    node(OverlayConfig { gossip: true, ..config(seed) }).await
}

/// Publishes until a subscriber is known: subscriptions travel after the connection.
async fn publish(node: &Node, bytes: &[u8]) {
    let end = Instant::now() + SOON;
    while let Err(error) = node.overlay.publish(bytes.to_vec()).await {
        assert_eq!(error, OverlayError::GossipNoPeers);
        assert!(Instant::now() < end, "nobody subscribes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn receive(node: &mut Node, verdict: Verdict) -> Vec<u8> {
    let message = tokio::time::timeout(SOON, node.incoming.gossip.recv()).await.expect("a message").unwrap();
    node.overlay.report_gossip(message.id, verdict).await;
    message.bytes
}

/// A chain, so that each message has to be passed on; the publisher is no subscriber.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_4_of_4_and_a_rejected_one_is_not_passed_on() {
    let publisher = node(config(10)).await;
    let mut mirrors = Vec::new();
    for seed in 1..=4 {
        mirrors.push(mirror(seed).await);
    }
    publisher.overlay.connect(mirrors[0].id(), &mirrors[0].addresses, SOON).await.unwrap();
    for i in 1..4 {
        mirrors[i].overlay.connect(mirrors[i - 1].id(), &mirrors[i - 1].addresses, SOON).await.unwrap();
    }
    // The mesh exists once a message has gone the whole way; then each message must arrive exactly once, in its turn.
    let begun = Instant::now();
    let mut round = 0_u32;
    while mirrors[3].incoming.gossip.is_empty() {
        assert!(begun.elapsed() < SOON, "no mesh");
        round += 1;
        publish(&publisher, &[&b"warm"[..], &round.to_be_bytes()].concat()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        for mirror in &mut mirrors[..3] {
            while let Ok(message) = mirror.incoming.gossip.try_recv() {
                mirror.overlay.report_gossip(message.id, Verdict::Accept).await;
            }
        }
    }
    println!("the chain meshed in {:?}", begun.elapsed());

    let largest = vec![7; GOSSIP_BYTES_MAX];
    for message in [b"good".to_vec(), largest] {
        publish(&publisher, &message).await;
        for (i, mirror) in mirrors.iter_mut().enumerate() {
            while receive(mirror, Verdict::Accept).await != message {
                assert!(i > 0 || message == b"good", "only warm-up precedes");
            }
        }
    }

    publish(&publisher, b"forged").await;
    assert_eq!(receive(&mut mirrors[0], Verdict::Accept).await, b"forged");
    assert_eq!(receive(&mut mirrors[1], Verdict::Reject).await, b"forged");
    // What comes next overtakes nothing: had the forgery been passed on, it would have come first.
    publish(&publisher, b"after").await;
    assert_eq!(receive(&mut mirrors[0], Verdict::Accept).await, b"after");
    assert_eq!(receive(&mut mirrors[1], Verdict::Accept).await, b"after");
    assert_eq!(receive(&mut mirrors[2], Verdict::Accept).await, b"after");
    assert_eq!(receive(&mut mirrors[3], Verdict::Accept).await, b"after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_network_hears_within_a_second_or_so() {
    let mut one = mirror(1).await;
    let two = mirror(2).await;
    two.overlay.connect(one.id(), &one.addresses, SOON).await.unwrap();
    let begun = Instant::now();
    publish(&two, b"hint").await;
    assert_eq!(receive(&mut one, Verdict::Accept).await, b"hint");
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_errors_are_typed() {
    let alone = mirror(1).await;
    assert_eq!(alone.overlay.publish(vec![1]).await, Err(OverlayError::GossipNoPeers));
    let too_long = OverlayError::GossipTooLong { bytes: GOSSIP_BYTES_MAX + 1, max: GOSSIP_BYTES_MAX };
    assert_eq!(alone.overlay.publish(vec![1; GOSSIP_BYTES_MAX + 1]).await, Err(too_long));
    assert!(matches!(alone.overlay.publish(Vec::new()).await, Err(OverlayError::Gossip { .. })));
}

/// Who does not subscribe gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn others_are_left_in_peace() {
    let mut one = mirror(1).await;
    let two = mirror(2).await;
    let other = node(config(3)).await;
    two.overlay.connect(one.id(), &one.addresses, SOON).await.unwrap();
    other.overlay.connect(two.id(), &two.addresses, SOON).await.unwrap();
    let id = other.id();
    until("they are connected", || async { two.overlay.connected().await.iter().any(|(peer, _)| *peer == id) }).await;
    publish(&two, b"hint").await;
    assert_eq!(receive(&mut one, Verdict::Accept).await, b"hint");
    let mut incoming = other.incoming;
    assert!(incoming.gossip.try_recv().is_err());
}
