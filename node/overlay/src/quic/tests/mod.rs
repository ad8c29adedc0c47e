//! The transport against itself and, both ways, against libp2p's own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod addresses;
mod certificates;
mod compatible;
mod holes;
mod listening;
mod restart;

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use futures::future::{Either, select};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::Transport as _;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::identity::Keypair;
use libp2p::{PeerId, core};

use super::{Settings, Transport};
use crate::config::{ConnectionCaps, Tuning};

/// Long enough for a loaded machine; a test that passes ends far earlier.
const SOON: Duration = Duration::from_secs(30);
const V4: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const V6: &str = "/ip6/::1/udp/0/quic-v1";

type Connected = (PeerId, StreamMuxerBox);

/// Whose transport a side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Make {
    Ours,
    Libp2p,
}

/// Who dials and who listens: everybody with everybody, at least one of them ours.
const PAIRS: [(Make, Make); 3] = [(Make::Ours, Make::Ours), (Make::Ours, Make::Libp2p), (Make::Libp2p, Make::Ours)];

struct Side {
    transport: Boxed<Connected>,
    peer: PeerId,
}

impl Side {
    fn new(make: Make) -> Self {
        Self::tuned(make, Tuning::default())
    }

    fn tuned(make: Make, tuning: Tuning) -> Self {
        let keypair = Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        let transport = match make {
            Make::Ours => boxed(ours(&keypair, tuning)),
            Make::Libp2p => boxed(libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(&keypair))),
        };
        Self { transport, peer }
    }

    /// Listens on `address`. Returns the concrete one.
    async fn listen(&mut self, address: &str) -> Multiaddr {
        self.transport.listen_on(ListenerId::next(), address.parse().unwrap()).unwrap();
        loop {
            if let TransportEvent::NewAddress { listen_addr, .. } = within(self.transport.next()).await.unwrap() {
                return listen_addr;
            }
        }
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> impl Future<Output = std::io::Result<Connected>> + use<> {
        self.transport.dial(address, DialOpts { role, port_use }).unwrap()
    }

    /// Drives the transport, and nothing that it hears is wanted.
    async fn drive<T>(&mut self, until: impl Future<Output = T>) -> T {
        let until = std::pin::pin!(until);
        let transport = &mut self.transport;
        let idle = std::pin::pin!(async { while transport.next().await.is_some() {} });
        match select(until, idle).await {
            Either::Left((done, _)) => done,
            Either::Right(((), until)) => until.await,
        }
    }
}

fn ours(keypair: &Keypair, tuning: Tuning) -> Transport {
    Transport::new(Settings::new(keypair, &ConnectionCaps::default(), tuning).unwrap())
}

fn boxed<T, M>(transport: T) -> Boxed<Connected>
where
    T: core::Transport<Output = (PeerId, M)> + Send + Unpin + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
    T::Error: Send + Sync + 'static,
    M: core::muxing::StreamMuxer + Send + 'static,
    M::Substream: Send + 'static,
    M::Error: Send + Sync + 'static,
{
    transport.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

/// What came of a dial.
struct Meeting {
    dialer: Connected,
    listener: Connected,
    /// Where the listener saw the dialer.
    seen_at: Multiaddr,
}

/// `dialer` dials `listener` at `address`.
async fn meet(dialer: &mut Side, listener: &mut Side, address: Multiaddr, port_use: PortUse) -> Meeting {
    let dial = dialer.dial(address, Endpoint::Dialer, port_use);
    let arrival = async {
        loop {
            if let TransportEvent::Incoming { upgrade, send_back_addr, .. } = listener.transport.next().await.unwrap() {
                return (upgrade.await.unwrap(), send_back_addr);
            }
        }
    };
    let (dialer, (listener, seen_at)) = within(dialer.drive(futures::future::join(dial, arrival))).await;
    Meeting { dialer: dialer.unwrap(), listener, seen_at }
}

/// Two connected sides, on one address family.
async fn pair((dialer, listener): (Make, Make), address: &str) -> Meeting {
    let (mut dialer, mut listener) = (Side::new(dialer), Side::new(listener));
    let address = listener.listen(address).await;
    let meeting = meet(&mut dialer, &mut listener, address, PortUse::Reuse).await;
    // Who is reached is who was asked for, for both.
    assert_eq!((meeting.dialer.0, meeting.listener.0), (listener.peer, dialer.peer));
    // The sockets live as long as their connections.
    meeting
}

async fn open(muxer: &mut StreamMuxerBox) -> SubstreamBox {
    within(poll_fn(|cx| muxer.poll_outbound_unpin(cx))).await.unwrap()
}

async fn accept(muxer: &mut StreamMuxerBox) -> SubstreamBox {
    within(poll_fn(|cx| muxer.poll_inbound_unpin(cx))).await.unwrap()
}

/// Answers `streams` streams with what they bring.
async fn echo(mut muxer: StreamMuxerBox, streams: usize) -> StreamMuxerBox {
    let mut echoes = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let stream = accept(&mut muxer).await;
        echoes.spawn(async move {
            let (read, mut write) = stream.split();
            futures::io::copy(read, &mut write).await.unwrap();
            write.close().await.unwrap();
        });
    }
    while let Some(done) = within(echoes.join_next()).await {
        done.unwrap();
    }
    muxer
}

/// Bytes that differ from place to place.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends `sent` on a stream of its own and expects it back.
async fn call(stream: SubstreamBox, sent: Vec<u8>) {
    let (mut read, mut write) = stream.split();
    let mut back = Vec::new();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.close().await.unwrap();
        // As libp2p does.
        write.close().await.unwrap();
    };
    let ((), read) = within(futures::future::join(send, read.read_to_end(&mut back))).await;
    read.unwrap();
    assert!(back == sent, "{} bytes came back of {}", back.len(), sent.len());
}

/// Whether `future` has nothing to say yet.
async fn is_pending<T>(mut future: impl Future<Output = T> + Unpin) -> bool {
    poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut future).poll(cx).is_pending())).await
}
