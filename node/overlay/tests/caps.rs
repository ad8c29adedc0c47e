//! Bandwidth caps, measured as bytes of UDP payload at a port in front of the other side, so with everything that QUIC adds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Node, SOON, config, node, until};
use fathom_overlay::{Overlay, PeerStream, Proto, RateCaps, read_frame, write_frame};
use fathom_testnet::link::{Direction, Front, Link, LinkSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;

const MS: Duration = Duration::from_millis(1);
/// 5 Mbit/s.
const CAP: u64 = 625_000;
const PIECE: usize = 64 * 1024;
/// What the caps are about.
const WINDOW: Duration = Duration::from_secs(10);

fn caps(upload: Option<u64>, download: Option<u64>) -> RateCaps {
    RateCaps { upload, download, local: true, background_percent: 25 }
}

/// A home's line of 200 Mbit/s and 30 ms.
fn link() -> Link {
    let direction = Direction::of(200, 15 * MS, 50 * MS);
    Link::new(LinkSpec::both(direction, 1)).unwrap()
}

/// A peer behind the link, which sends for ever to who says "send", takes for ever from who says "take", and repeats what else
/// it is told.
struct Peer {
    node: Arc<Overlay>,
    front: Front,
    _serves: AbortOnDropHandle<()>,
}

async fn peer(seed: u8, link: &Link) -> Peer {
    let Node { overlay, mut incoming, addresses } = node(config(seed)).await;
    let front = link.front().unwrap();
    front.aim(addresses[0].split('/').nth(4).unwrap().parse().unwrap());
    let serve = async move {
        while let Some(inbound) = incoming.streams.recv().await {
            tokio::spawn(serve(inbound.stream));
        }
    };
    Peer { node: Arc::new(overlay), front, _serves: AbortOnDropHandle::new(tokio::spawn(serve)) }
}

async fn serve(mut stream: PeerStream) {
    let mut bytes = vec![0; PIECE];
    while let Ok(said) = read_frame(&mut stream, common::MAX).await {
        match &said[..] {
            b"send" => while stream.write_all(&bytes).await.is_ok() {},
            b"take" => while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {},
            _ => {
                let _ = write_frame(&mut stream, &said).await;
            }
        }
    }
}

impl Peer {
    fn address(&self) -> Vec<String> {
        vec![format!("/ip4/127.0.0.1/udp/{}/quic-v1", self.front.port())]
    }

    async fn stream(&self, from: &Overlay, proto: Proto, word: &[u8]) -> PeerStream {
        let mut stream = from.open(self.node.node(), &self.address(), proto, SOON).await.unwrap();
        write_frame(&mut stream, word).await.unwrap();
        stream
    }

    /// Bytes that came from, and went to, whoever is in front.
    fn passed(&self) -> (u64, u64) {
        (self.front.sent().values().sum(), self.front.returned().values().sum())
    }
}

/// Writes to, or reads from, `stream` for ever.
fn busy(mut stream: PeerStream, sends: bool) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut bytes = vec![0; PIECE];
        while match sends {
            true => stream.write_all(&bytes).await.is_ok(),
            false => stream.read(&mut bytes).await.is_ok_and(|read| read > 0),
        } {}
    }))
}

/// Bytes per second that passed all peers' fronts, there and back: the most of any window, and the mean.
async fn measure(peers: &[Peer], time: Duration) -> [(f64, f64); 2] {
    let begun = Instant::now();
    let mut samples: Vec<(f64, [u64; 2])> = Vec::new();
    while begun.elapsed() < time {
        let passed = peers.iter().map(Peer::passed).fold([0, 0], |[a, b], (up, down)| [a + up, b + down]);
        samples.push((begun.elapsed().as_secs_f64(), passed));
        tokio::time::sleep(50 * MS).await;
    }
    [0, 1].map(|way| {
        let rate = |(begin, before): &(f64, [u64; 2]), (end, after): &(f64, [u64; 2])| {
            (after[way] - before[way]) as f64 / (end - begin)
        };
        let windows = samples.iter().enumerate().filter_map(|(at, first)| {
            let last = samples[at..].iter().find(|(end, _)| *end >= first.0 + WINDOW.as_secs_f64())?;
            Some(rate(first, last))
        });
        let most = windows.fold(0.0, f64::max);
        (most, rate(&samples[0], samples.last().unwrap()))
    })
}

/// No window of 10 s has more than 5 % beyond the cap. What is below it is the machine's business here; the figures are in
/// docs/performance.md.
fn holds(what: &str, (most, mean): (f64, f64)) {
    println!("{what}: most {:.3} mean {:.3} of the cap", most / CAP as f64, mean / CAP as f64);
    assert!(most <= 1.05 * CAP as f64, "{what}: {most}");
    let least = if std::env::var_os("FATHOM_STRICT_CAPS").is_some() { 0.95 } else { 0.6 };
    assert!(mean >= least * CAP as f64, "{what}: {mean}");
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold_for_one_connection() {
    let link = link();
    let peers = [peer(2, &link).await];
    let me = node(config(1)).await;
    me.overlay.limit(caps(Some(CAP), Some(CAP)));
    let _up = busy(peers[0].stream(&me.overlay, Proto::Chunk, b"take").await, true);
    let _down = busy(peers[0].stream(&me.overlay, Proto::Fetch, b"send").await, false);
    let [up, down] = measure(&peers, Duration::from_secs(14)).await;
    holds("up", up);
    holds("down", down);
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold_for_many_connections() {
    let link = link();
    let mut peers = Vec::new();
    for seed in 2..10 {
        peers.push(peer(seed, &link).await);
    }
    let me = node(config(1)).await;
    me.overlay.limit(caps(Some(CAP), Some(CAP)));
    let mut flows = Vec::new();
    for peer in &peers {
        flows.push(busy(peer.stream(&me.overlay, Proto::Chunk, b"take").await, true));
        flows.push(busy(peer.stream(&me.overlay, Proto::Fetch, b"send").await, false));
    }
    let [up, down] = measure(&peers, Duration::from_secs(14)).await;
    holds("up", up);
    holds("down", down);
}

/// Bulk in both directions at the caps; requests are still answered, over the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_while_bulk_fills_the_caps() {
    let link = link();
    let peers = [peer(2, &link).await, peer(3, &link).await];
    let me = node(config(1)).await;
    me.overlay.limit(caps(Some(CAP), Some(CAP)));
    let mut flows = Vec::new();
    for peer in &peers {
        for _ in 0..4 {
            flows.push(busy(peer.stream(&me.overlay, Proto::Chunk, b"take").await, true));
            flows.push(busy(peer.stream(&me.overlay, Proto::Fetch, b"send").await, false));
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = me.overlay.rpc(peers[0].node.node(), &peers[0].address(), b"ping", common::MAX, SOON).await;
        assert_eq!(answer.unwrap(), b"ping");
        times.push(begun.elapsed());
    }
    times.sort();
    println!("median {:?}, longest {:?}", times[10], times[19]);
    // Behind the bulk that waits it would take the 10 MB that a connection keeps, which are 16 s.
    assert!(times[10] < Duration::from_secs(2), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_network_is_exempt_unless_asked() {
    let link = Link::new(LinkSpec::default()).unwrap();
    let peers = [peer(2, &link).await];
    let me = node(config(1)).await;
    me.overlay.limit(RateCaps { local: false, ..caps(Some(20_000), Some(20_000)) });
    let _up = busy(peers[0].stream(&me.overlay, Proto::Chunk, b"take").await, true);
    let _down = busy(peers[0].stream(&me.overlay, Proto::Fetch, b"send").await, false);
    // That would take minutes.
    until("much has passed", || async { peers[0].passed().0 > 5_000_000 && peers[0].passed().1 > 5_000_000 }).await;
    assert_eq!(me.overlay.rates().uploaded, 0, "nor is it counted");
    me.overlay.limit(caps(Some(20_000), None));
    until("it is counted", || async { me.overlay.rates().uploaded > 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn background_streams_keep_to_their_share_and_yield() {
    let link = link();
    let peers = [peer(2, &link).await, peer(3, &link).await];
    let me = node(config(1)).await;
    me.overlay.limit(caps(Some(CAP), None));
    let background = peers[0].stream(&me.overlay, Proto::Chunk, b"take").await;
    let _background = busy(me.overlay.in_background(background), true);
    let [(most, mean), _] = measure(&peers, Duration::from_secs(11)).await;
    println!("alone {mean}, most {most}");
    assert!(most <= 0.30 * CAP as f64 && mean >= 0.1 * CAP as f64, "alone it has a quarter: {most}, {mean}");
    let before = peers[0].passed().0;
    let begun = Instant::now();
    let _foreground = busy(peers[1].stream(&me.overlay, Proto::Chunk, b"take").await, true);
    let [(most, _), _] = measure(&peers, Duration::from_secs(11)).await;
    let beside = (peers[0].passed().0 - before) as f64 / begun.elapsed().as_secs_f64();
    println!("beside {beside}");
    assert!(most <= 1.05 * CAP as f64, "{most}");
    assert!(beside <= 0.16 * CAP as f64, "beside a put it has less than its share: {beside}");
    assert!(beside > 10_000.0, "and it is not cut off: {beside}");
}
