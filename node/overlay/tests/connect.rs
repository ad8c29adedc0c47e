//! Connecting: deadlines hold, failures are typed, strangers and impostors are refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::{MAX, Node, SOON, config, node, serve_echo, until};
use fathom_overlay::{ConnectionCaps, OverlayConfig, OverlayError, Proto, start};
use fathom_protocol::ids::{NetworkId, NodeId};

/// Beyond a deadline, what a busy machine may add.
const SLACK: Duration = Duration::from_millis(1500);

/// An address at which nothing answers; the socket keeps the port as long as it lives.
fn silent() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", socket.local_addr().unwrap().port());
    (socket, address)
}

async fn stranger() -> NodeId {
    start(OverlayConfig { listen: Vec::new(), ..config(99) }).await.unwrap().0.node()
}

/// Keeps away: opening a stream to a peer that is not there hangs for ever.
#[tokio::test(flavor = "multi_thread")]
async fn open_ends_within_the_deadline_at_dead_and_silent_addresses() {
    let client = node(config(2)).await;
    let peer = stranger().await;
    let (kept, silent_address) = silent();
    let (freed, dead_address) = silent();
    drop(freed);
    let after = Duration::from_millis(700);
    for address in [silent_address, dead_address] {
        let begun = Instant::now();
        let error = client.overlay.open(peer, &[address], Proto::Rpc, after).await.unwrap_err();
        assert!(begun.elapsed() < after + SLACK, "{:?}", begun.elapsed());
        assert_eq!(error, OverlayError::Timeout { peer, after });
    }
    // Given time, the dial itself gives up: a handshake takes 5 s at most.
    let (_kept, address) = silent();
    let error = client.overlay.connect(peer, std::slice::from_ref(&address), SOON).await.unwrap_err();
    assert!(matches!(&error, OverlayError::Unreachable { reason, .. } if reason.contains(&address)), "{error}");
    drop(kept);
}

/// A peer that is stopped after it was connected: the connection is noticed to be dead by QUIC's silence limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stops_is_noticed() {
    let client = node(config(2)).await;
    // A runtime of its own that stops being driven is a process under SIGSTOP: its sockets stay, nobody reads them.
    let (runtime, server) = node_in_a_process(config(1)).await;
    let (id, addresses) = (server.id(), server.addresses.clone());
    client.overlay.connect(id, &addresses, SOON).await.unwrap();
    let (hold, held) = std::sync::mpsc::sync_channel::<()>(1);
    runtime.spawn(async move { held.recv() });
    let begun = Instant::now();
    until("the silence is noticed", || async { client.overlay.connected().await.is_empty() }).await;
    assert!(begun.elapsed() < Duration::from_secs(6 + 4), "{:?}", begun.elapsed());
    drop(hold);
    runtime.shutdown_background();
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_destinations_are_refused_at_once() {
    let client = node(config(2)).await;
    let peer = stranger().await;
    let error = client.overlay.open(peer, &[], Proto::Rpc, SOON).await.unwrap_err();
    assert_eq!(error, OverlayError::NoAddress { peer });
    let refused = client.overlay.connect(peer, &["/ip4/1.2.3.4/tcp/1".to_owned()], SOON).await;
    assert!(matches!(refused, Err(OverlayError::InvalidAddress { .. })), "{refused:?}");
    assert_eq!(client.overlay.connect(client.id(), &client.addresses, SOON).await, Err(OverlayError::ToSelf));
    let mut no_point = [0; 32];
    no_point[0] = 2;
    let no_node = NodeId(no_point);
    assert_eq!(client.overlay.connect(no_node, &[], SOON).await, Err(OverlayError::InvalidNode(no_node)));
    let unnamed = client.overlay.connect_address("/ip4/127.0.0.1/udp/1/quic-v1", SOON).await;
    assert!(matches!(unnamed, Err(OverlayError::InvalidAddress { .. })), "{unnamed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_another_network_cannot_open_streams() {
    let ours = node(config(1)).await;
    let theirs = node(OverlayConfig { network: NetworkId([0x22; 16]), ..config(2) }).await;
    for proto in Proto::ALL {
        let error = theirs.overlay.open(ours.id(), &ours.addresses, proto, SOON).await.unwrap_err();
        assert_eq!(error, OverlayError::WrongNetwork { peer: ours.id() });
    }
    let error = ours.overlay.open(theirs.id(), &theirs.addresses, Proto::Rpc, SOON).await.unwrap_err();
    assert_eq!(error, OverlayError::WrongNetwork { peer: theirs.id() });
    assert!(ours.overlay.connected().await.is_empty() && theirs.overlay.connected().await.is_empty());
    let mut incoming = ours.incoming;
    assert!(incoming.streams.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_address_is_refused_and_does_not_hide_the_right_one() {
    let client = node(config(2)).await;
    let wanted = node(config(3)).await;
    let other = node(config(4)).await;
    let plain = |address: &String| address.split("/p2p/").next().unwrap().to_owned();
    let wrong = OverlayError::WrongPeer { expected: wanted.id(), found: other.overlay.peer_id() };
    // The address says itself that it is another's, or only the handshake shows it.
    for address in [other.addresses[0].clone(), plain(&other.addresses[0])] {
        let refused = client.overlay.connect(wanted.id(), &[address], SOON).await;
        assert_eq!(refused, Err(wrong.clone()));
    }
    let both = [plain(&other.addresses[0]), plain(&wanted.addresses[0])];
    client.overlay.connect(wanted.id(), &both, SOON).await.unwrap();
    assert_eq!(client.overlay.connect_address(&other.addresses[0], SOON).await, Ok(other.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_at_once_share_one_dial() {
    let server = node(config(1)).await;
    // More than one connection would be refused.
    let limits = ConnectionCaps { connections_per_peer: 1, pending_outbound: 1, ..ConnectionCaps::default() };
    let client = node(OverlayConfig { limits, ..config(2) }).await;
    let (id, addresses) = (server.id(), server.addresses.clone());
    serve_echo(server.incoming);
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..50_u8 {
        let (overlay, addresses) = (client.overlay.clone(), addresses.clone());
        calls.spawn(async move {
            let answer = overlay.rpc(id, &addresses, &[i; 3], MAX, SOON).await;
            assert_eq!(answer, Ok(vec![i; 3]));
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

/// A caller with a good address neither fails with nor waits for the dial of one who has a dead address.
#[tokio::test(flavor = "multi_thread")]
async fn a_good_address_is_tried_beside_the_dial_of_a_dead_one() {
    let server = node(config(1)).await;
    let client = node(config(2)).await;
    let (_kept, dead) = silent();
    let dead = [dead];
    let begun = Instant::now();
    let first = client.overlay.connect(server.id(), &dead, SOON);
    let second = client.overlay.connect(server.id(), &server.addresses, SOON);
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first, second), (Ok(()), Ok(())));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_closes_and_refuses_until_it_ends() {
    let server = node(config(1)).await;
    let client = node(config(2)).await;
    let (id, banned) = (server.id(), client.id());
    client.overlay.connect(id, &server.addresses, SOON).await.unwrap();
    let length = Duration::from_secs(2);
    let begun = Instant::now();
    server.overlay.ban(banned, length).await;
    until("the connection is closed", || async { client.overlay.connected().await.is_empty() }).await;
    let refused = server.overlay.connect(banned, &client.addresses, SOON).await;
    assert_eq!(refused, Err(OverlayError::Banned { peer: banned }));
    let refused = client.overlay.connect(id, &server.addresses, SOON).await;
    if begun.elapsed() < length {
        assert_eq!(refused, Err(OverlayError::ConnectionLost { peer: id }));
    }
    until("the ban is over", || async { client.overlay.connect(id, &server.addresses, SOON).await.is_ok() }).await;
    assert!(begun.elapsed() >= length);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_caps_hold() {
    let limits = ConnectionCaps { connections: 2, ..ConnectionCaps::default() };
    let server = node(OverlayConfig { limits, ..config(1) }).await;
    let mut connected = 0;
    let mut kept = Vec::new();
    for seed in 10..14 {
        let client = node(config(seed)).await;
        connected += usize::from(client.overlay.connect(server.id(), &server.addresses, SOON).await.is_ok());
        kept.push(client);
    }
    assert_eq!(connected, 2);
    let outbound = server.overlay.connect(kept[3].id(), &kept[3].addresses, SOON).await;
    assert_eq!(outbound, Err(OverlayError::Busy { peer: kept[3].id() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialing_at_once_is_connected() {
    let one = node(config(1)).await;
    let two = node(config(2)).await;
    let (a, b) = tokio::join!(
        one.overlay.connect(two.id(), &two.addresses, SOON),
        two.overlay.connect(one.id(), &one.addresses, SOON),
    );
    a.unwrap();
    b.unwrap();
    let (one_id, two_id) = (one.id(), two.id());
    serve_echo(one.incoming);
    serve_echo(two.incoming);
    assert_eq!(one.overlay.rpc(two_id, &[], b"x", MAX, SOON).await.unwrap(), b"x");
    assert_eq!(two.overlay.rpc(one_id, &[], b"x", MAX, SOON).await.unwrap(), b"x");
}

/// Starts a node in a runtime of its own, which can be stopped like a process.
async fn node_in_a_process(config: OverlayConfig) -> (tokio::runtime::Runtime, Node) {
    let process = move || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let node = runtime.block_on(node(config));
        (runtime, node)
    };
    tokio::task::spawn_blocking(process).await.unwrap()
}

/// A node that is killed says no goodbye, and when it restarts with its key and port it does not answer on the
/// connection of its former life. Keeps away: it is out of reach until that connection times out after 6 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_and_restarted_peer_is_reached_again() {
    let (runtime, server) = node_in_a_process(config(1)).await;
    let client = node(config(2)).await;
    let (id, addresses) = (server.id(), server.addresses.clone());
    client.overlay.connect(id, &addresses, SOON).await.unwrap();
    runtime.shutdown_background();
    let listen = vec![addresses[0].split("/p2p/").next().unwrap().to_owned()];
    let config = OverlayConfig { listen, ..config(1) };
    until("the port is free again", || async {
        let port = config.listen[0].split('/').nth(4).unwrap();
        UdpSocket::bind(format!("127.0.0.1:{port}")).is_ok()
    })
    .await;
    let again = node(config).await;
    assert_eq!(again.addresses, addresses);
    serve_echo(again.incoming);
    let begun = Instant::now();
    let short = Duration::from_millis(500);
    until("it answers", || async { client.overlay.rpc(id, &addresses, b"hi", MAX, short).await.is_ok() }).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_concrete_and_external_ones_come_first() {
    let external = "/dns4/node.example/udp/4600/quic-v1".to_owned();
    let listen = vec!["/ip4/0.0.0.0/udp/0/quic-v1".to_owned()];
    let node = node(OverlayConfig { listen, external: vec![external.clone()], ..config(1) }).await;
    let suffix = format!("/p2p/{}", node.overlay.peer_id());
    assert_eq!(node.addresses[0], external + &suffix);
    assert!(node.addresses.len() > 1);
    for address in &node.addresses {
        assert!(address.ends_with(&suffix) && !address.contains("0.0.0.0") && !address.contains("udp/0/"), "{address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_listen_address_is_a_typed_error() {
    for bad in ["nonsense", "/ip4/127.0.0.1/tcp/0"] {
        let error = start(OverlayConfig { listen: vec![bad.to_owned()], ..config(1) }).await.unwrap_err();
        assert!(matches!(error, OverlayError::InvalidAddress { .. }), "{error}");
    }
    let (taken, address) = silent();
    let error = start(OverlayConfig { listen: vec![address], ..config(1) }).await.unwrap_err();
    assert!(matches!(error, OverlayError::Listen { .. }), "{error}");
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_everything_fails_at_once() {
    let server = node(config(1)).await;
    let client = node(config(2)).await;
    client.overlay.connect(server.id(), &server.addresses, SOON).await.unwrap();
    let begun = Instant::now();
    client.overlay.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(client.overlay.connect(server.id(), &server.addresses, SOON).await, Err(OverlayError::Stopped));
    assert_eq!(client.overlay.publish(vec![1]).await, Err(OverlayError::Stopped));
    assert!(client.overlay.connected().await.is_empty());
    let mut incoming = client.incoming;
    assert!(incoming.streams.recv().await.is_none());
}
