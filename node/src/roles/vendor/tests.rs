//! The vendor over real overlays on loopback, with a user that only knows the protocol and a mirror that only relays.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bundle;
mod chain;
mod disk;
mod faults;
mod fetch;
mod golden;
mod migration;
mod mirror;
mod orders;
mod readopt;
mod rebuild;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use fathom_overlay::{ConnectionCaps, OverlayConfig, PeerStream, Proto, frame};
use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::header::{Header, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, FileId, Hash, NetworkId, NodeId, OwnerId};
use fathom_protocol::lease::Lease;
use fathom_protocol::ledger::Terms;
use fathom_protocol::limits::ANSWERS_BYTES_MAX;
use fathom_protocol::receipt::Receipt;
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::tags;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{
    AllocateRequest, ChunkAnswer, ChunkAnswers, Numbered, Refusal, RefusalKind, Request, Response, Roles, Wants,
};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::{Vendor, VendorSettings};
use crate::clock;
use crate::net::book::PeerBook;
use crate::net::{Handler, Net, serve_rpc};

const MIB: u64 = 1024 * 1024;
const WAIT: Duration = Duration::from_secs(10);

/// What a node of these tests does with what comes in.
#[derive(Clone)]
enum Role {
    Vendor(Arc<Vendor>),
    Mirror(Arc<mirror::TestMirror>),
    /// Takes streams and says nothing.
    Mute,
    /// Closes streams.
    None,
}

impl Handler for Role {
    async fn handle(&self, from: NodeId, request: Request) -> Response {
        match self {
            Self::Vendor(vendor) => vendor.handle(from, request).await,
            Self::Mirror(mirror) => mirror.handle(request).await,
            Self::Mute | Self::None => std::future::pending().await,
        }
    }
}

/// One node.
struct Peer {
    net: Net,
    streams: Arc<AtomicUsize>,
    cancel: CancellationToken,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// Bytes that differ with `seed`.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u64).wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ seed).collect()
}

/// Starts a node; `make` gives what it does.
async fn peer(seed: u8, roles: Roles, make: impl FnOnce(&Net) -> Role) -> Peer {
    let config = OverlayConfig {
        key_seed: [seed; 32],
        network: NetworkId([9; 16]),
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()],
        external: Vec::new(),
        gossip: false,
        limits: ConnectionCaps::default(),
    };
    let (overlay, mut incoming) = fathom_overlay::start(config).await.unwrap();
    let net = Net::new(overlay, key(seed), roles, PeerBook::default());
    let role = make(&net);
    let (streams, cancel) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let (count, stop) = (Arc::clone(&streams), cancel.clone());
    tokio::spawn(async move {
        let mut held: Vec<PeerStream> = Vec::new();
        loop {
            let inbound = tokio::select! {
                () = stop.cancelled() => return,
                inbound = incoming.streams.recv() => inbound,
            };
            let Some(inbound) = inbound else { return };
            count.fetch_add(1, Ordering::SeqCst);
            let (role, proto, stream) = (role.clone(), inbound.proto, inbound.stream);
            match role {
                Role::Mute => held.push(stream),
                Role::None => {}
                role => {
                    tokio::spawn(async move {
                        match (&role, proto) {
                            (_, Proto::Rpc) => drop(serve_rpc(stream, &role).await),
                            (Role::Vendor(vendor), Proto::Chunk) => vendor.chunk(stream).await,
                            (Role::Vendor(vendor), Proto::Fetch) => vendor.fetch(stream).await,
                            _ => {}
                        }
                    });
                }
            }
        }
    });
    Peer { net, streams, cancel }
}

fn settings(devices: Vec<(PathBuf, u64, u64)>) -> VendorSettings {
    VendorSettings {
        zone: "test".to_owned(),
        operator: "nobody".to_owned(),
        report_seconds: 1,
        hold_seconds: 1,
        overload_percent: 90,
        relief_percent: 80,
        bandwidth_mb_per_s: 0,
        devices,
        terms: Terms { unsealed_percent: 100, ..Terms::default() },
    }
}

impl Vendor {
    /// Signs the next head, whatever mirrors know.
    fn next_head(&self, addresses: fathom_protocol::head::Addresses) -> fathom_protocol::head::VerifiedVendor {
        let before = *super::lock(&self.head);
        self.sign_head(addresses, super::report::Number::after(before)).unwrap()
    }
}

/// A vendor with one device of 64 MiB. It does nothing by itself unless [`TestVendor::run`] is called.
struct TestVendor {
    peer: Peer,
    vendor: Arc<Vendor>,
    dir: tempfile::TempDir,
}

impl TestVendor {
    async fn start(seed: u8) -> Self {
        Self::with(seed, 64 * MIB, |_| {}).await
    }

    async fn with(seed: u8, quota: u64, change: impl FnOnce(&mut VendorSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(vec![(dir.path().join("device"), quota, 0)]);
        change(&mut settings);
        Self::open(seed, dir, settings).await
    }

    async fn open(seed: u8, dir: tempfile::TempDir, settings: VendorSettings) -> Self {
        let mut made = None;
        let roles = Roles { vendor: true, ..Roles::default() };
        let peer = peer(seed, roles, |net| {
            let vendor = Vendor::open(dir.path(), net.clone(), settings).unwrap();
            made = Some(Arc::clone(&vendor));
            Role::Vendor(vendor)
        })
        .await;
        Self { peer, vendor: made.unwrap(), dir }
    }

    /// Stops the vendor wherever it is, and opens it anew on what is on disk.
    async fn restart(self, seed: u8) -> Self {
        let (dir, settings) = self.stop().await;
        Self::open(seed, dir, settings).await
    }

    /// Stops the vendor wherever it is.
    async fn stop(self) -> (tempfile::TempDir, VendorSettings) {
        let Self { peer, vendor, dir } = self;
        peer.cancel.cancel();
        peer.net.overlay().shutdown().await;
        drop(peer);
        let settings = vendor.settings.clone();
        let weak = Arc::downgrade(&vendor);
        drop(vendor);
        eventually("the vendor is dropped", || weak.upgrade().is_none()).await;
        // Whoever dropped it last may be closing its files still.
        let fat = std::fs::File::options().read(true).write(true).open(dir.path().join("local-fat.redb")).unwrap();
        eventually("its files are closed", || fat.try_lock().is_ok()).await;
        (dir, settings)
    }

    fn run(&self) {
        tokio::spawn(Arc::clone(&self.vendor).run(self.peer.cancel.clone()));
    }

    fn node(&self) -> NodeId {
        self.peer.net.me()
    }

    /// Stored chunks, parts on devices, bytes used and held by leases, as the status tells them.
    fn counts(&self) -> (u64, u64, u64, u64) {
        let status = self.vendor.status();
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        let parts = status["devices"].as_array().unwrap().iter().map(|device| number(&device["parts"])).sum();
        (number(&status["chunks"]), parts, number(&status["used"]), number(&status["locked"]))
    }

    /// Parts on the device, those being written and those in packs included.
    fn files(&self) -> usize {
        let device = self.dir.path().join("device");
        let count = |dir: PathBuf| std::fs::read_dir(dir).unwrap().count();
        let parts = std::fs::read_dir(device.join("parts")).unwrap();
        let packed = std::fs::read_dir(device.join("packs")).unwrap().map(|pack| {
            let pack = std::fs::read(pack.unwrap().path()).unwrap_or_default();
            pack.chunks(4096).filter(|block| block.starts_with(b"FPAK")).count()
        });
        packed.sum::<usize>() + parts.map(|dir| count(dir.unwrap().path())).sum::<usize>() + count(device.join("tmp"))
    }
}

/// A user with its own node.
struct TestUser {
    peer: Peer,
    key: SigningKey,
}

/// A vendor with a lease there, as the next place of a chain.
struct Stop {
    vendor: NodeId,
    addresses: fathom_protocol::head::Addresses,
    lease: Carried<Lease>,
}

const FILE: FileId = FileId([5; 16]);

impl TestUser {
    async fn start(seed: u8) -> Self {
        Self { peer: peer(seed, Roles { user: true, ..Roles::default() }, |_| Role::None).await, key: key(seed) }
    }

    fn owner(&self) -> OwnerId {
        OwnerId(self.key.verifying_key().to_bytes())
    }

    async fn know(&self, net: &Net) {
        let addresses: Vec<String> = net.addresses().await.iter().map(ToString::to_string).collect();
        self.peer.net.book().learn_addresses(net.me(), addresses);
    }

    /// Locks `bytes` at a vendor.
    async fn lock(&self, at: &TestVendor, bytes: u64) -> Stop {
        self.know(&at.peer.net).await;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).unwrap();
        let request = AllocateRequest {
            version: tags::VERSION,
            owner: self.owner(),
            authority: self.owner().into(),
            file: None,
            copies: 1,
            width: 1,
            bytes,
            unit: 1,
            exclude: Bounded::default(),
            avoid_zones: Bounded::default(),
            wants: Wants::default(),
            nonce: Hash(nonce),
            expires: clock::now().plus_seconds(60),
        };
        let request = Signed::sign(request, &self.key).unwrap().into_carried();
        let offer = Request::Offer { request, bytes };
        match self.peer.net.call(at.node(), &offer, WAIT).await.unwrap() {
            Response::Offered { lease, granted } => {
                assert_eq!(granted, bytes);
                Stop { vendor: at.node(), addresses: at.peer.net.addresses().await, lease }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The hops for `body` along `stops`, for the first final FAT.
    fn hops(&self, body: &[u8], stops: &[&Stop]) -> Vec<Hop> {
        let hop = |(position, stop): (usize, &&Stop)| Hop {
            version: tags::VERSION,
            owner: self.owner(),
            authority: self.owner().into(),
            file: FILE,
            seq: fathom_protocol::fat::Tag::new(1, 0).0,
            chunk: ChunkId::of(body),
            length: u32::try_from(body.len()).unwrap(),
            expires: clock::now().plus_seconds(60),
            position: u8::try_from(position).unwrap(),
            vendor: stop.vendor,
            addresses: stop.addresses.clone(),
            lease: stop.lease.clone(),
            split: SplitPolicy { part_bytes_max: 1 << 20, parts_min: 1 },
            next: stops.get(position + 1).map(|next| next.vendor),
        };
        stops.iter().enumerate().map(hop).collect()
    }

    fn sign(&self, hops: Vec<Hop>) -> Header {
        Header::new(hops.into_iter().map(|hop| Signed::sign(hop, &self.key).unwrap()).collect()).unwrap()
    }

    fn header(&self, body: &[u8], stops: &[&Stop]) -> Header {
        self.sign(self.hops(body, stops))
    }

    async fn send(&self, to: NodeId, header: &Header, body: &[u8]) -> Vec<ChunkAnswer> {
        self.send_raw(to, &codec::encode(header), body, false).await
    }

    /// Sends a header's bytes and a body, and returns what came back but for signs of life. With `end` the stream ends
    /// after the body.
    async fn send_raw(&self, to: NodeId, header: &[u8], body: &[u8], end: bool) -> Vec<ChunkAnswer> {
        // A list of one: CBOR's array of one element is the byte 0x81 before it.
        self.send_opening(to, &[&[0x81], header].concat(), body, end)
            .await
            .into_iter()
            .map(|said| said.answer)
            .collect()
    }

    /// Sends several chunks on one stream.
    async fn send_many(&self, to: NodeId, headers: Vec<Header>, body: &[u8]) -> Vec<Numbered> {
        self.send_opening(to, &codec::encode(&headers), body, false).await
    }

    async fn send_opening(&self, to: NodeId, opening: &[u8], body: &[u8], end: bool) -> Vec<Numbered> {
        let stream = self.peer.net.open(to, Proto::Chunk).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        // In one task with the reading: before a stream's name is agreed on, its two halves share one waker.
        let sending = async {
            frame::write_frame(&mut writer, opening).await?;
            writer.write_all(body).await?;
            writer.flush().await?;
            if end {
                writer.shutdown().await?;
            }
            Ok::<_, fathom_overlay::FrameError>(())
        };
        let receiving = async {
            let mut answers = Vec::new();
            loop {
                let frame = frame::read_frame_within(&mut reader, ANSWERS_BYTES_MAX, WAIT).await.unwrap();
                for said in codec::decode::<ChunkAnswers>(&frame, ANSWERS_BYTES_MAX).unwrap() {
                    match said.answer {
                        ChunkAnswer::Alive => {}
                        ChunkAnswer::Done => return answers,
                        _ => answers.push(said),
                    }
                }
            }
        };
        tokio::pin!(sending, receiving);
        tokio::select! {
            // A refused body may not be taken to its end.
            answers = &mut receiving => answers,
            _ = &mut sending => receiving.await,
        }
    }

    /// Stores a chunk at one vendor, with room locked for it.
    async fn store(&self, at: &TestVendor, body: &[u8]) -> Signed<Receipt> {
        let stop = self.lock(at, body.len() as u64).await;
        let answers = self.send(at.node(), &self.header(body, &[&stop]), body).await;
        receipts(&answers).remove(0)
    }
}

/// The verified receipts among answers.
fn receipts(answers: &[ChunkAnswer]) -> Vec<Signed<Receipt>> {
    let receipt = |answer: &ChunkAnswer| match answer {
        ChunkAnswer::Receipt(receipt) => Some(receipt.clone().verify().unwrap()),
        _ => None,
    };
    answers.iter().filter_map(receipt).collect()
}

/// Who failed and how, among answers.
fn failures(answers: &[ChunkAnswer]) -> Vec<(NodeId, RefusalKind)> {
    let failure = |answer: &ChunkAnswer| match answer {
        ChunkAnswer::Failed { vendor, refusal } => Some((*vendor, refusal.kind)),
        _ => None,
    };
    answers.iter().filter_map(failure).collect()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Refusal>) -> RefusalKind {
    result.unwrap_err().kind
}

/// Waits until `done`.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within 20 s: {what}");
}

fn hour() -> UnixMs {
    clock::now().plus_seconds(3600)
}
