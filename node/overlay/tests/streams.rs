//! Streams: what is sent arrives, nothing is lost in bursts, caps hold.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{LISTEN, MAX, SOON, config, node, serve_echo, until};
use fathom_overlay::{ConnectionCaps, FrameError, OverlayError, Proto, read_frame, read_frame_within, write_frame};
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_stream_echoes_and_knows_its_ends() {
    let server = node(config(1)).await;
    let client = node(config(2)).await;
    let (server_id, client_id, addresses) = (server.id(), client.id(), server.addresses.clone());
    let mut incoming = server.incoming;
    for proto in Proto::ALL {
        let mut near = client.overlay.open(server_id, &addresses, proto, SOON).await.unwrap();
        assert_eq!(near.peer(), server_id);
        assert!(addresses[0].starts_with(near.remote_address()));
        // Larger than the stream's window, so that flow control takes part.
        for length in [1, 65_536, 12 << 20] {
            let message = vec![proto as u8 + 1; length];
            let far = async {
                let mut inbound = incoming.streams.recv().await.unwrap();
                assert_eq!((inbound.peer, inbound.proto), (client_id, proto));
                assert_eq!(inbound.remote_address, inbound.stream.remote_address());
                assert!(inbound.remote_address.starts_with("/ip4/127.0.0.1/udp/"));
                let frame = read_frame(&mut inbound.stream, 12 << 20).await.unwrap();
                write_frame(&mut inbound.stream, &frame).await.unwrap();
                // Kept until the client has read the answer.
                let end = read_frame_within(&mut inbound.stream, MAX, SOON).await;
                assert_eq!(end, Err(FrameError::Closed));
            };
            let here = async {
                write_frame(&mut near, &message).await.unwrap();
                assert_eq!(read_frame(&mut near, 12 << 20).await.unwrap(), message);
                near.shutdown().await.unwrap();
                near = client.overlay.open(server_id, &[], proto, SOON).await.unwrap();
            };
            tokio::time::timeout(SOON, async { tokio::join!(far, here) }).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rpc_returns_the_answer_and_types_its_failures() {
    let server = node(config(1)).await;
    let client = node(config(2)).await;
    let (id, addresses) = (server.id(), server.addresses.clone());
    let mut incoming = server.incoming;
    tokio::spawn(async move {
        while let Some(mut inbound) = incoming.streams.recv().await {
            let request = read_frame(&mut inbound.stream, MAX).await.unwrap();
            match request.as_slice() {
                b"end" => drop(inbound),
                b"half" => inbound.stream.write_all(&[0, 0, 0, 9, 1]).await.unwrap(),
                b"long" => write_frame(&mut inbound.stream, &[1; 101]).await.unwrap(),
                b"hang" => drop(tokio::spawn(async {
                    tokio::time::sleep(SOON).await;
                    drop(inbound)
                })),
                other => write_frame(&mut inbound.stream, other).await.unwrap(),
            }
        }
    });
    let rpc = |request: &'static [u8], deadline| client.overlay.rpc(id, &addresses, request, 100, deadline);
    assert_eq!(rpc(b"hello", SOON).await.unwrap(), b"hello");
    let frame = |error| Err(OverlayError::Frame { peer: id, error });
    assert_eq!(rpc(b"end", SOON).await, frame(FrameError::Closed));
    assert_eq!(rpc(b"half", SOON).await, frame(FrameError::Truncated));
    assert_eq!(rpc(b"long", SOON).await, frame(FrameError::TooLong { length: 101, max: 100 }));
    let short = Duration::from_millis(200);
    assert_eq!(rpc(b"hang", short).await, Err(OverlayError::Timeout { peer: id, after: short }));
    assert_eq!(rpc(b"", SOON).await, frame(FrameError::Empty));
}

/// Keeps away: libp2p-stream lost 55 of 128 streams that 8 peers opened at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_8_peers_with_64_streams_each_loses_none() {
    const PEERS: u8 = 8;
    const STREAMS: usize = 64;
    // A queue far smaller than the burst, and a taker who is slow at first.
    let limits = ConnectionCaps { inbound_queue: 4, ..ConnectionCaps::default() };
    let server = node(fathom_overlay::OverlayConfig { limits, ..config(1) }).await;
    let (id, addresses) = (server.id(), server.addresses.clone());
    let served = Arc::new(AtomicUsize::new(0));
    let mut incoming = server.incoming;
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        while let Some(inbound) = incoming.streams.recv().await {
            if count.fetch_add(1, Ordering::Relaxed) < 50 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::spawn(common::echo(inbound.stream));
        }
    });
    let mut peers = Vec::new();
    for seed in 0..PEERS {
        peers.push(node(config(100 + seed)).await);
    }
    let mut calls = tokio::task::JoinSet::new();
    for peer in &peers {
        for i in 0..STREAMS {
            let (overlay, addresses) = (peer.overlay.clone(), addresses.clone());
            calls.spawn(async move {
                let request = vec![i as u8; 1000];
                let answer = overlay.rpc(id, &addresses, &request, MAX, SOON).await;
                assert_eq!(answer.as_ref(), Ok(&request));
            });
        }
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(served.load(Ordering::Relaxed), usize::from(PEERS) * STREAMS);
    assert_eq!(server.overlay.inbound_reset(), 0);
}

/// The taker takes nothing for a while: openers wait instead of being reset, also beyond the peer's share.
#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_share_wait_until_others_end() {
    let limits = ConnectionCaps { inbound_streams_per_peer: 4, inbound_backlog: 64, ..ConnectionCaps::default() };
    let server = node(fathom_overlay::OverlayConfig { limits, ..config(1) }).await;
    let client = node(config(2)).await;
    let (id, addresses) = (server.id(), server.addresses.clone());
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..60_u8 {
        let (overlay, addresses) = (client.overlay.clone(), addresses.clone());
        calls.spawn(async move { overlay.rpc(id, &addresses, &[i; 10], MAX, SOON).await.unwrap() });
    }
    let mut incoming = server.incoming;
    let mut held = Vec::new();
    while held.len() < 4 {
        held.push(incoming.streams.recv().await.unwrap());
    }
    // The share is used up, so that nothing more comes until one of the four is dropped.
    assert!(tokio::time::timeout(Duration::from_millis(200), incoming.streams.recv()).await.is_err());
    for inbound in held {
        tokio::spawn(common::echo(inbound.stream));
    }
    serve_echo(incoming);
    let mut done = 0;
    while let Some(call) = calls.join_next().await {
        call.unwrap();
        done += 1;
    }
    assert_eq!((done, server.overlay.inbound_reset()), (60, 0));
}

/// A peer that opens streams and abandons them faster than they are taken: the backlog is bounded, the rest is reset
/// and counted, and the node still serves others.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_resets_and_counts() {
    let limits = ConnectionCaps { inbound_queue: 1, inbound_backlog: 2, ..ConnectionCaps::default() };
    let server = node(fathom_overlay::OverlayConfig { limits, ..config(1) }).await;
    let client = node(config(2)).await;
    let (id, addresses) = (server.id(), server.addresses.clone());
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = client.overlay.open(id, &addresses, Proto::Chunk, SOON).await.unwrap();
        // One that is reset may be so before it was written to.
        let _ = write_frame(&mut stream, b"x").await;
        streams.push(stream);
    }
    // One in the queue and two in the backlog.
    until("17 are reset", || async { server.overlay.inbound_reset() == 17 }).await;
    serve_echo(server.incoming);
    let mut answered = 0;
    for stream in &mut streams {
        answered += usize::from(read_frame_within(stream, MAX, SOON).await.is_ok());
    }
    assert_eq!(answered, 3);
    let other = node(config(3)).await;
    assert_eq!(other.overlay.rpc(id, &addresses, b"hi", MAX, SOON).await.unwrap(), b"hi");
}

/// A receiver that drops its end makes the sender's writes fail, and the sender that drops makes a body short.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_end_is_noticed_by_the_other() {
    let server = node(config(1)).await;
    let client = node(config(2)).await;
    let (id, addresses) = (server.id(), server.addresses.clone());
    let mut incoming = server.incoming;

    let mut near = client.overlay.open(id, &addresses, Proto::Chunk, SOON).await.unwrap();
    write_frame(&mut near, b"begin").await.unwrap();
    drop(incoming.streams.recv().await.unwrap());
    let failed = tokio::time::timeout(SOON, async { while near.write_all(&[0; 65536]).await.is_ok() {} });
    failed.await.expect("writes fail");

    let mut near = client.overlay.open(id, &addresses, Proto::Chunk, SOON).await.unwrap();
    near.write_all(&[0, 0, 1, 0, 9, 9]).await.unwrap();
    near.flush().await.unwrap();
    let mut far = incoming.streams.recv().await.unwrap();
    drop(near);
    assert_eq!(read_frame_within(&mut far.stream, MAX, SOON).await, Err(FrameError::Truncated));
}

/// A node behind a firewall: those it dials can open streams to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_dials_is_reached_over_its_own_connection() {
    let server = node(config(1)).await;
    let dialer = node(fathom_overlay::OverlayConfig { listen: Vec::new(), ..config(2) }).await;
    assert!(dialer.addresses.is_empty());
    assert_eq!(server.addresses.len(), 1, "{LISTEN} is one interface");
    dialer.overlay.connect(server.id(), &server.addresses, SOON).await.unwrap();
    let id = dialer.id();
    until("the server knows the dialer", || async {
        server.overlay.connected().await.iter().any(|(peer, _)| *peer == id)
    })
    .await;
    serve_echo(dialer.incoming);
    assert_eq!(server.overlay.rpc(id, &[], b"hi", MAX, SOON).await.unwrap(), b"hi");
}
