//! One bulk stream from one node to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fathom_overlay::{Cipher, Congestion, ConnectionCaps, OverlayConfig, Proto, Tuning, start_tuned};
use fathom_protocol::ids::NetworkId;
use fathom_testnet::link::Front;
use futures::future::poll_fn;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, Transport as _};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};

const SOON: Duration = Duration::from_secs(30);
const WRITE_BYTES: usize = 256 * 1024;
const LISTEN: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// Whose transport, and how tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// libp2p's, with its defaults.
    Libp2p,
    /// Ours with quinn's CUBIC.
    Cubic,
    /// Ours with quinn's BBR.
    Bbr,
    /// Ours with ChaCha20.
    ChaCha20,
    /// Ours as it is.
    Ours,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Libp2p => "libp2p's QUIC",
            Self::Cubic => "ours with CUBIC",
            Self::Bbr => "ours with BBR",
            Self::ChaCha20 => "ours with ChaCha20",
            Self::Ours => "ours",
        }
    }

    fn tuning(self) -> Tuning {
        let mut tuning = Tuning::default();
        match self {
            Self::Cubic => tuning.congestion = Congestion::Cubic,
            Self::Bbr => tuning.congestion = Congestion::Bbr,
            Self::ChaCha20 => tuning.cipher = Cipher::ChaCha20,
            Self::Libp2p | Self::Ours => {}
        }
        tuning
    }
}

/// A stream that is written to as fast as it takes. It ends when dropped.
pub(crate) struct Flow {
    received: Arc<AtomicU64>,
    _front: Option<Front>,
    _end: DropGuard,
}

impl Flow {
    /// Connects two nodes, through `front` if there is one, and begins.
    pub(crate) async fn start(kind: Kind, front: Option<Front>) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let end = CancellationToken::new();
        match kind {
            Kind::Libp2p => libp2p(front.as_ref(), Arc::clone(&received), &end).await,
            kind => ours(kind.tuning(), front.as_ref(), Arc::clone(&received), &end).await,
        }
        Self { received, _front: front, _end: end.drop_guard() }
    }

    /// What arrives within `time`, and how long that was.
    pub(crate) async fn measure(&self, time: Duration) -> (u64, Duration) {
        let (begun, before) = (Instant::now(), self.received.load(Ordering::SeqCst));
        tokio::time::sleep(time).await;
        (self.received.load(Ordering::SeqCst) - before, begun.elapsed())
    }
}

/// CPU time of this process.
pub(crate) fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second; these begin with the third.
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn port(address: &str) -> u16 {
    address.split('/').nth(4).unwrap().parse().unwrap()
}

async fn ours(tuning: Tuning, front: Option<&Front>, received: Arc<AtomicU64>, end: &CancellationToken) {
    let config = |listen: Vec<String>| {
        let key_seed: [u8; 32] = std::array::from_fn(|_| rand::random());
        OverlayConfig {
            key_seed,
            network: NetworkId([1; 16]),
            listen,
            external: Vec::new(),
            gossip: false,
            limits: ConnectionCaps::default(),
        }
    };
    let (server, mut incoming) = start_tuned(config(vec![LISTEN.to_owned()]), tuning).await.unwrap();
    let (client, client_incoming) = start_tuned(config(Vec::new()), tuning).await.unwrap();
    let mut address = server.listen_addresses().await.remove(0);
    if let Some(front) = front {
        front.aim(port(&address));
        address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", front.port());
    }
    let peer = server.node();
    let ended = end.clone();
    tokio::spawn(async move {
        let _kept = server;
        let receive = async {
            let mut stream = incoming.streams.recv().await.unwrap().stream;
            let mut buffer = vec![0; WRITE_BYTES];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                received.fetch_add(length as u64, Ordering::SeqCst);
            }
        };
        tokio::select! { () = ended.cancelled() => {}, () = receive => {} }
    });
    let mut stream = client.open(peer, &[address], Proto::Chunk, SOON).await.unwrap();
    let ended = end.clone();
    tokio::spawn(async move {
        let _kept = (client, client_incoming);
        let bytes = vec![7; WRITE_BYTES];
        let send = async { while stream.write_all(&bytes).await.is_ok() {} };
        tokio::select! { () = ended.cancelled() => {}, () = send => {} }
    });
}

type Theirs = Boxed<(PeerId, StreamMuxerBox)>;

fn theirs() -> Theirs {
    let config = libp2p_quic::Config::new(&Keypair::generate_ed25519());
    libp2p_quic::tokio::Transport::new(config).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed()
}

async fn libp2p(front: Option<&Front>, received: Arc<AtomicU64>, end: &CancellationToken) {
    let (mut server, mut client) = (theirs(), theirs());
    server.listen_on(ListenerId::next(), LISTEN.parse().unwrap()).unwrap();
    let mut address: Multiaddr = match server.next().await.unwrap() {
        TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
        other => panic!("{other:?}"),
    };
    if let Some(front) = front {
        front.aim(port(&address.to_string()));
        address =
            Multiaddr::from(std::net::Ipv4Addr::LOCALHOST).with(Protocol::Udp(front.port())).with(Protocol::QuicV1);
    }
    let ended = end.clone();
    tokio::spawn(async move {
        let receive = async {
            let upgrade = loop {
                if let TransportEvent::Incoming { upgrade, .. } = server.next().await.unwrap() {
                    break upgrade;
                }
            };
            let (_, mut muxer) = upgrade.await.unwrap();
            let mut stream = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await.unwrap();
            let mut buffer = vec![0; WRITE_BYTES];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                received.fetch_add(length as u64, Ordering::SeqCst);
            }
        };
        tokio::select! { () = ended.cancelled() => {}, () = receive => {} }
    });
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    let (_, mut muxer) = client.dial(address, options).unwrap().await.unwrap();
    let ended = end.clone();
    tokio::spawn(async move {
        let _kept = client;
        let bytes = vec![7; WRITE_BYTES];
        let send = async {
            let mut stream = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await.unwrap();
            while stream.write_all(&bytes).await.is_ok() {}
        };
        tokio::select! { () = ended.cancelled() => {}, () = send => {} }
    });
}
