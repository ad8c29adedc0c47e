//! Overlays on loopback for the tests. Tests wait for conditions, each with a deadline, never for a time to pass.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;
use std::time::{Duration, Instant};

use fathom_overlay::{ConnectionCaps, Incoming, Overlay, OverlayConfig, PeerStream, read_frame, start, write_frame};
use fathom_protocol::ids::{NetworkId, NodeId};

/// Long enough for a loaded machine; a test that passes ends far earlier.
pub const SOON: Duration = Duration::from_secs(20);
pub const NETWORK: NetworkId = NetworkId([0x11; 16]);
pub const LISTEN: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
pub const MAX: usize = 1024 * 1024;

pub struct Node {
    pub overlay: Overlay,
    pub incoming: Incoming,
    pub addresses: Vec<String>,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.overlay.node()
    }
}

pub fn config(seed: u8) -> OverlayConfig {
    OverlayConfig {
        key_seed: [seed; 32],
        network: NETWORK,
        listen: vec![LISTEN.to_owned()],
        external: Vec::new(),
        gossip: false,
        limits: ConnectionCaps::default(),
    }
}

pub async fn node(config: OverlayConfig) -> Node {
    let (overlay, incoming) = start(config).await.expect("start");
    let addresses = overlay.listen_addresses().await;
    Node { overlay, incoming, addresses }
}

/// Waits until `condition` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let end = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers each frame of `stream` with the same frame until it ends.
pub async fn echo(mut stream: PeerStream) {
    while let Ok(frame) = read_frame(&mut stream, MAX).await {
        if write_frame(&mut stream, &frame).await.is_err() {
            return;
        }
    }
}

/// Echoes all inbound streams for ever.
pub fn serve_echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(inbound) = incoming.streams.recv().await {
            tokio::spawn(echo(inbound.stream));
        }
    });
}
