//! Signed records, mirrors and vendors to test with.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use fathom_overlay::{ConnectionCaps, Incoming, OverlayConfig};
use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::fat::{FinalFat, Tag, Use};
use fathom_protocol::head::{Address, Addresses, Characteristics, Label, VendorHead, VendorRecord};
use fathom_protocol::ids::{ChunkId, FileId, Hash, LeaseId, NetworkId, NodeId, OwnerId};
use fathom_protocol::ledger::{Ledger, Terms};
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::table::{Verified, verify};
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response, Roles, SyncRecord};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::net::book::PeerBook;
use crate::net::{Handler, Net, serve_rpc};
use crate::roles::all_before;
use crate::roles::mirror::{Mirror, MirrorSettings};

pub(super) const MIB: u64 = 1024 * 1024;

pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(super) fn node(key: &SigningKey) -> NodeId {
    NodeId(key.verifying_key().to_bytes())
}

pub(super) fn owner(key: &SigningKey) -> OwnerId {
    OwnerId(key.verifying_key().to_bytes())
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// A vendor's record with what its ledger holds.
pub(super) fn vendor_record(
    key: &SigningKey,
    seq: u64,
    zone: &str,
    ledger: &Ledger,
    addresses: Addresses,
) -> VendorRecord {
    let head = VendorHead {
        version: VERSION,
        vendor: node(key),
        epoch: 1,
        seq,
        prev: Hash([0; 32]),
        issued: clock::now(),
        capacity: ledger.capacity(),
        used: 0,
        root: ledger.root(),
        leases: ledger.leases().len() as u32,
        characteristics: Characteristics {
            zone: label(zone),
            operator: label(zone),
            media: label("ssd"),
            bandwidth_bytes_per_s: 0,
            up_since: UnixMs(0),
            load: 0,
            up_bytes_per_s: 0,
            down_bytes_per_s: 0,
            coordinate: None,
        },
        addresses,
        devices: Bounded::default(),
    };
    let leases = Bounded::first(ledger.leases().map(|lease| lease.carried().clone()));
    VendorRecord { head: Signed::sign(head, key).unwrap().into_carried(), leases }
}

/// A vendor without leases.
pub(super) fn plain_vendor(seed: u8, seq: u64) -> SyncRecord {
    let ledger = Ledger::open(key(seed), Terms::default(), MIB, Vec::new()).unwrap();
    SyncRecord::Vendor(vendor_record(&key(seed), seq, "zone", &ledger, Addresses::default()))
}

/// A final FAT of file `file` that uses `vendors`.
pub(super) fn fat(
    user: &SigningKey,
    file: u8,
    seq: u64,
    base: u64,
    vendors: &[NodeId],
    body: usize,
) -> Carried<FinalFat> {
    let uses = vendors.iter().map(|vendor| Use { vendor: *vendor, lease: LeaseId([1; 16]), bytes: 1, unused: 0 });
    let fat = FinalFat {
        version: VERSION,
        owner: owner(user),
        file: FileId([file; 16]),
        seq: Tag::new(seq, 0).0,
        base: Tag::new(base, 0).0,
        follows: all_before(Tag::new(seq, 0)),
        uses: Bounded::first(uses),
        frees: Bounded::default(),
        issued: clock::now(),
        order_expires: clock::now().plus_seconds(3600),
        body: Blob::new(vec![seq as u8; if vendors.is_empty() { 0 } else { body }]).unwrap(),
    };
    Signed::sign(fat, user).unwrap().into_carried()
}

/// A move of one chunk of `file` with tag `seq`.
pub(super) fn moved(
    user: &SigningKey,
    file: u8,
    seq: u64,
    chunk: u8,
    from: &SigningKey,
    to: &SigningKey,
) -> CarriedMove {
    moved_chunk(user, file, seq, ChunkId([chunk; 32]), from, to)
}

/// As [`moved`], of any chunk.
pub(super) fn moved_chunk(
    user: &SigningKey,
    file: u8,
    seq: u64,
    chunk: ChunkId,
    from: &SigningKey,
    to: &SigningKey,
) -> CarriedMove {
    let body = Move {
        version: VERSION,
        owner: owner(user),
        file: FileId([file; 16]),
        seq: Tag::new(seq, 0).0,
        chunk,
        length: 1,
        from: node(from),
        from_lease: LeaseId([1; 16]),
        to: node(to),
        to_lease: LeaseId([2; 16]),
        at: clock::now(),
    };
    CarriedMove::propose(&body, from).unwrap().cosign(to)
}

pub(super) fn checked(record: SyncRecord) -> Verified {
    verify(record).unwrap()
}

/// Waits until `done`, at most ten seconds.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An overlay on the loopback interface and the node's view of it.
pub(super) async fn start(seed: u8, roles: Roles, gossip: bool) -> (Net, Incoming) {
    let config = OverlayConfig {
        key_seed: [seed; 32],
        network: NetworkId([9; 16]),
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()],
        external: Vec::new(),
        gossip,
        limits: ConnectionCaps::default(),
    };
    let (overlay, incoming) = fathom_overlay::start(config).await.unwrap();
    (Net::new(overlay, key(seed), roles, PeerBook::default()), incoming)
}

/// Has two nodes know each other, and connects them.
pub(super) async fn acquaint(a: &Net, b: &Net) {
    a.book().learn(b.announcement().await.unwrap());
    b.book().learn(a.announcement().await.unwrap());
    a.overlay().connect(b.me(), &a.book().addresses(b.me()), Duration::from_secs(5)).await.unwrap();
}

struct Answers(Arc<Mirror>);

impl Handler for Answers {
    async fn handle(&self, from: NodeId, request: Request) -> Response {
        self.0.handle(from, request).await
    }
}

/// A mirror that runs. It stops when dropped.
pub(super) struct TestMirror {
    pub(super) mirror: Arc<Mirror>,
    pub(super) net: Net,
    pub(super) dir: TempDir,
    cancel: CancellationToken,
}

impl Drop for TestMirror {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl TestMirror {
    pub(super) async fn start(seed: u8, poll_seconds: u64, gossip: bool) -> Self {
        Self::start_in(TempDir::new().unwrap(), seed, poll_seconds, gossip).await
    }

    async fn start_in(dir: TempDir, seed: u8, poll_seconds: u64, gossip: bool) -> Self {
        let this = Self::open(dir, seed, poll_seconds, gossip).await;
        tokio::spawn(Arc::clone(&this.mirror).run(this.cancel.clone()));
        this
    }

    /// A mirror that answers and takes gossip; its own work is not started.
    pub(super) async fn open(dir: TempDir, seed: u8, poll_seconds: u64, gossip: bool) -> Self {
        let (net, mut incoming) = start(seed, Roles { mirror: true, ..Roles::default() }, gossip).await;
        let mirror =
            Mirror::open(dir.path(), net.clone(), &MirrorSettings { poll_seconds, ..MirrorSettings::default() })
                .unwrap();
        let answers = Arc::new(Answers(Arc::clone(&mirror)));
        let taking = Arc::clone(&mirror);
        tokio::spawn(async move {
            while let Some(inbound) = incoming.streams.recv().await {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move { serve_rpc(inbound.stream, &*answers).await });
            }
        });
        tokio::spawn(async move {
            while let Some(message) = incoming.gossip.recv().await {
                taking.gossip(message).await;
            }
        });
        Self { mirror, net, dir, cancel: CancellationToken::new() }
    }

    pub(super) async fn ask(&self, request: Request) -> Response {
        self.mirror.handle(NodeId([0; 32]), request).await
    }

    pub(super) async fn submit(&self, fat: Carried<FinalFat>) -> Option<Refusal> {
        match self.ask(Request::SubmitFats(Bounded::first([fat]))).await {
            Response::Submitted(answers) => answers[0].clone(),
            other => panic!("unexpected answer {other:?}"),
        }
    }

    /// A copy of its file as it is now, as a crash would leave it.
    pub(super) fn copy(&self) -> std::path::PathBuf {
        let copy = self.dir.path().join("copy.redb");
        std::fs::copy(self.file(), &copy).unwrap();
        copy
    }

    pub(super) fn file(&self) -> std::path::PathBuf {
        file_in(self.dir.path())
    }
}

pub(super) fn file_in(dir: &Path) -> std::path::PathBuf {
    dir.join("mirror").join("fat.redb")
}

pub(super) fn kind(response: &Response) -> Option<RefusalKind> {
    match response {
        Response::Refused(refusal) | Response::Short { refusal, .. } => Some(refusal.kind),
        _ => None,
    }
}

pub(super) fn records(response: Response) -> Vec<SyncRecord> {
    match response {
        Response::Page(page) => page.records.into_vec(),
        other => panic!("not a page: {other:?}"),
    }
}

/// A vendor that answers offers from a ledger and notes the orders that it is given.
pub(super) struct FakeVendor {
    pub(super) answers: Arc<Ledgered>,
    /// Ends with the vendor.
    _net: Net,
}

pub(super) struct Ledgered {
    pub(super) ledger: Mutex<Ledger>,
    pub(super) orders: Mutex<Vec<Carried<FinalFat>>>,
    leases: AtomicU64,
}

impl Handler for Ledgered {
    async fn handle(&self, _: NodeId, request: Request) -> Response {
        match request {
            Request::Offer { request, bytes } => {
                let request = request.verify().unwrap();
                let count = self.leases.fetch_add(1, Ordering::Relaxed);
                let fresh = LeaseId(u128::from(count).to_be_bytes());
                match self.ledger.lock().unwrap().offer(clock::now(), &request, bytes, fresh) {
                    Ok((lease, granted)) => Response::Offered { lease: lease.into_carried(), granted },
                    Err(refusal) => Response::Refused(refusal),
                }
            }
            Request::Order(fats) => {
                self.orders.lock().unwrap().extend(fats);
                Response::Done
            }
            Request::Cancel(cancel) => {
                self.ledger.lock().unwrap().cancel(&cancel.verify().unwrap()).unwrap();
                Response::Done
            }
            Request::Unused(unused) => {
                let unused = unused.verify().unwrap();
                match self.ledger.lock().unwrap().give_back(clock::now(), &unused) {
                    Ok(_) => Response::Done,
                    Err(refusal) => Response::Refused(refusal),
                }
            }
            _ => Response::Refused(Refusal::new(RefusalKind::WrongRole, "a vendor")),
        }
    }
}

impl FakeVendor {
    /// A vendor in a zone with `capacity` bytes; one that is silent takes streams and says nothing. Reports to `mirror`.
    pub(super) async fn start(seed: u8, zone: &str, capacity: u64, silent: bool, mirror: &TestMirror) -> Self {
        let (net, mut incoming) = start(seed, Roles { vendor: true, ..Roles::default() }, false).await;
        let ledger = Ledger::open(key(seed), Terms::default(), capacity, Vec::new()).unwrap();
        let addresses = net.addresses().await;
        assert!(addresses.iter().all(|address| Address::new(address.as_str()).is_ok()) && !addresses.is_empty());
        let report = vendor_record(&key(seed), 1, zone, &ledger, addresses);
        let leases = AtomicU64::new(0);
        let answers = Arc::new(Ledgered { ledger: Mutex::new(ledger), orders: Mutex::default(), leases });
        let serving = Arc::clone(&answers);
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Some(inbound) = incoming.streams.recv().await {
                if silent {
                    held.push(inbound.stream);
                    continue;
                }
                let serving = Arc::clone(&serving);
                tokio::spawn(async move { serve_rpc(inbound.stream, &*serving).await });
            }
        });
        assert_eq!(mirror.ask(Request::Report(report)).await, Response::Done);
        Self { answers, _net: net }
    }
}
