#![allow(clippy::unwrap_used, clippy::expect_used)]

use fathom_protocol::ids::NetworkId;

use super::*;
use crate::config::ConnectionCaps;

const SOON: Duration = Duration::from_secs(20);
const NETWORK: NetworkId = NetworkId([3; 16]);

fn config(seed: u8) -> OverlayConfig {
    OverlayConfig {
        key_seed: [seed; 32],
        network: NETWORK,
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()],
        external: Vec::new(),
        gossip: false,
        limits: ConnectionCaps::default(),
    }
}

/// A peer of the same network that speaks another version of one kind of stream: that kind is refused with its name,
/// also when many opens are under way at once, and the others work.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_of_stream_that_the_peer_does_not_speak_is_a_typed_error() {
    let names = Names::of(NETWORK).with_later(Proto::Rpc);
    let (server, mut incoming) = start_named(&config(1), crate::Tuning::default(), Arc::new(names)).unwrap();
    let (client, _kept) = start(config(2)).await.unwrap();
    let (id, addresses) = (server.node(), server.listen_addresses().await);
    let unsupported = OverlayError::Unsupported { peer: id, proto: Proto::Rpc };
    let calls = (0..20).map(|_| client.rpc(id, &addresses, b"x", 10, SOON));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer, Err(unsupported.clone()));
    }
    let error = client.open(id, &[], Proto::Rpc, SOON).await.unwrap_err();
    assert_eq!(error, unsupported);
    let mut stream = client.open(id, &[], Proto::Chunk, SOON).await.unwrap();
    write_frame(&mut stream, b"chunk").await.unwrap();
    let inbound = timeout(SOON, incoming.streams.recv()).await.unwrap().unwrap();
    assert_eq!(inbound.proto, Proto::Chunk);
}
