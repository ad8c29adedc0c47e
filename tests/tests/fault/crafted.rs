//! A peer made by hand: it speaks the network's protocols with its own node key and its own or a given user's keys, and
//! sends what no honest node would.

#[path = "crafted/fetch.rs"]
mod fetch;
#[path = "crafted/trap.rs"]
mod trap;

use std::time::{Duration, SystemTime};

use ed25519_dalek::SigningKey;
use fathom_bootstrap::NetworkDescriptor;
use fathom_overlay::{ConnectionCaps, Incoming, Overlay, OverlayConfig, PeerStream, Proto, frame};
use fathom_protocol::codec::{self, Bounded, decode, encode};
use fathom_protocol::fat::Tag;
use fathom_protocol::head::Addresses;
use fathom_protocol::header::{Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, FileId, Hash, NodeId, Signature};
use fathom_protocol::keys::{Phrase, UserKeys};
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::{ANSWERS_BYTES_MAX, FRAME_BYTES_MAX};
use fathom_protocol::receipt::Receipt;
use fathom_protocol::sign::{Carried, Record, Signed, sign_bytes};
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{
    AllocateRequest, ChunkAnswer, ChunkAnswers, Location, Refusal, RefusalKind, Request, Response, Wants,
};
use fathom_testnet::{Net, NodeHandle};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

pub(crate) use trap::Trap;

/// Longest wait for anything.
const SOON: Duration = Duration::from_secs(30);
/// Longest silence of who owes an answer: they say every half second that they are alive.
const SILENCE: Duration = Duration::from_secs(10);
/// How often something is asked of a node that was killed and restarted.
const ATTEMPTS: usize = 3;

/// The time now.
pub(crate) fn now() -> UnixMs {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("a clock past 1970");
    UnixMs(u64::try_from(since.as_millis()).expect("a clock before the year 500,000,000"))
}

/// A list of a bounded type; the tests make no longer ones.
pub(crate) fn bounded<T, const MAX: usize>(values: Vec<T>) -> Bounded<T, MAX> {
    Bounded::first(values)
}

/// 32 bytes that follow from a text.
pub(crate) fn seed(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// A node's key as it prints it.
pub(crate) fn id(node: &NodeHandle) -> NodeId {
    node.node.parse().expect("a node id")
}

/// The form of a signed record on the wire, for what honest code does not sign.
#[derive(Serialize)]
struct RawCarried {
    #[serde(with = "bytes")]
    body: Vec<u8>,
    signature: Signature,
}

mod bytes {
    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }
}

/// `value` signed by whatever key, however little it holds together.
pub(crate) fn forge<T: Record>(value: &T, key: &SigningKey) -> Carried<T>
where
    Carried<T>: for<'de> Deserialize<'de>,
{
    let body = encode(value);
    let signature = sign_bytes(T::LABEL, &body, key);
    let raw = encode(&RawCarried { body, signature });
    decode(&raw, FRAME_BYTES_MAX).expect("the form of a signed record")
}

/// A header whose parts nobody checked, of any number of hops.
#[derive(Serialize)]
pub(crate) struct RawHeader {
    /// The version.
    pub(crate) version: u16,
    /// The hops, the receiver's first.
    pub(crate) hops: Vec<Carried<Hop>>,
}

impl RawHeader {
    /// The bytes that open a stream with a header of this version over `hops`.
    pub(crate) fn of(hops: Vec<Carried<Hop>>) -> Vec<u8> {
        Self { version: VERSION, hops }.opening()
    }

    /// The bytes that open a stream with this header alone.
    pub(crate) fn opening(&self) -> Vec<u8> {
        encode(&[self])
    }
}

/// Somewhere to send a chunk: vendor, addresses and lease.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) vendor: NodeId,
    pub(crate) addresses: Addresses,
    pub(crate) lease: Carried<Lease>,
}

impl Slot {
    /// The lease as its vendor signed it.
    pub(crate) fn lease(&self) -> Lease {
        self.lease.peek().expect("a lease")
    }
}

impl From<Location> for Slot {
    fn from(location: Location) -> Self {
        let head = location.head.peek().expect("a head");
        Self { vendor: head.vendor, addresses: head.addresses, lease: location.lease }
    }
}

/// What came back on a chunk stream.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Receipts, as carried.
    pub(crate) receipts: Vec<Carried<Receipt>>,
    /// Refusals, by vendor.
    pub(crate) failed: Vec<(NodeId, Refusal)>,
    /// Whether the vendor said that it is done.
    pub(crate) done: bool,
}

impl Said {
    /// The kind of the one refusal that came, with no receipt.
    #[track_caller]
    pub(crate) fn refused(&self) -> RefusalKind {
        assert!(self.receipts.is_empty() && self.failed.len() == 1, "{self:?}");
        self.failed[0].1.kind
    }

    /// The one receipt that came, with no refusal.
    #[track_caller]
    pub(crate) fn stored(&self) -> &Carried<Receipt> {
        assert!(self.failed.is_empty() && self.receipts.len() == 1, "{self:?}");
        &self.receipts[0]
    }
}

/// The peer.
pub(crate) struct Client {
    pub(crate) keys: UserKeys,
    runtime: Runtime,
    overlay: Overlay,
    /// Kept, so that the overlay goes on.
    _incoming: Incoming,
}

impl Client {
    /// A peer of `net` with a node key and a user of its own, both following from `name`.
    pub(crate) fn new(net: &Net, name: &str) -> Self {
        Self::with_keys(net, name, Phrase::from_entropy(seed(&format!("user of {name}"))).user_keys())
    }

    /// A peer of `net` that speaks for the user of that phrase.
    pub(crate) fn of_user(net: &Net, user: &str) -> Self {
        let phrase = net.phrase(user).expect("the user's phrase");
        Self::with_keys(net, &format!("shadow of {user}"), Phrase::parse(phrase).expect("24 words").user_keys())
    }

    fn with_keys(net: &Net, name: &str, keys: UserKeys) -> Self {
        let network = NetworkDescriptor::parse(net.invite().expect("an invite")).expect("a descriptor").id();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let config = OverlayConfig {
            key_seed: seed(name),
            network,
            listen: Vec::new(),
            external: Vec::new(),
            gossip: false,
            limits: ConnectionCaps::default(),
        };
        let (overlay, incoming) = runtime.block_on(fathom_overlay::start(config)).expect("an overlay");
        Self { keys, runtime, overlay, _incoming: incoming }
    }

    /// A stream to `node`. The peer hears of it with the first bytes.
    pub(crate) async fn open(&self, node: &NodeHandle, proto: Proto) -> PeerStream {
        self.overlay.open(id(node), &node.addresses, proto, SOON).await.expect("a stream")
    }

    /// Runs `work` to its end.
    #[track_caller]
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(SOON * 2, work).await };
        self.runtime.block_on(limited).expect("an end within a minute")
    }

    /// Sends `message` on a stream of its own, and gives the first answer that `last` takes, with what follows it still in
    /// the stream. A connection to a process that was killed since is made anew.
    async fn talk<T>(
        &self,
        node: &NodeHandle,
        proto: Proto,
        message: &[u8],
        last: impl Fn(&[u8]) -> Option<T>,
    ) -> (T, PeerStream) {
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let mut stream = self.open(node, proto).await;
            let mut talk = frame::write_frame_within(&mut stream, message, SILENCE).await;
            while talk.is_ok() {
                match frame::read_frame_within(&mut stream, FRAME_BYTES_MAX, SILENCE).await {
                    Ok(answer) => {
                        if let Some(last) = last(&answer) {
                            return (last, stream);
                        }
                    }
                    Err(error) => talk = Err(error),
                }
            }
            failed = talk.err();
            self.overlay.disconnect(id(node)).await;
        }
        panic!("{} does not answer: {failed:?}", node.name);
    }

    /// Asks `node` one thing.
    pub(crate) async fn ask(&self, node: &NodeHandle, request: &Request) -> Response {
        let last = |answer: &[u8]| {
            let answer: Response = decode(answer, FRAME_BYTES_MAX).expect("a response");
            (answer != Response::Alive).then_some(answer)
        };
        self.talk(node, Proto::Rpc, &encode(request), last).await.0
    }

    /// As [`Client::ask`], from outside.
    #[track_caller]
    pub(crate) fn call(&self, node: &NodeHandle, request: &Request) -> Response {
        self.run(self.ask(node, request))
    }

    /// A request for one copy of exactly `bytes` bytes at one vendor.
    pub(crate) fn allocation(&self, bytes: u64, nonce: &str, exclude: Vec<NodeId>) -> AllocateRequest {
        AllocateRequest {
            version: VERSION,
            owner: self.keys.owner(),
            authority: self.keys.owner().into(),
            file: None,
            copies: 1,
            width: 1,
            bytes,
            unit: 1,
            exclude: bounded(exclude),
            avoid_zones: Bounded::default(),
            wants: Wants::default(),
            nonce: Hash(seed(nonce)),
            expires: now().plus_seconds(60),
        }
    }

    /// Locks exactly `bytes` at `vendor`, through a mirror of `net`. Asks again while the vendor is busy or its head
    /// is on its way.
    #[track_caller]
    pub(crate) fn lock(&self, net: &Net, vendor: &NodeHandle, bytes: u64) -> Slot {
        let mirror = net.with_role("mirror").next().expect("a mirror");
        let others = net.with_role("vendor").filter(|other| other.name != vendor.name).map(id).collect();
        let request = self.allocation(bytes, &format!("{} {bytes} {}", vendor.name, now().0), others);
        let request = Signed::sign(request, self.keys.signing()).expect("a request").into_carried();
        match self.call(mirror, &Request::Allocate(request)) {
            Response::Provisional(fat) => {
                let mut locations = fat.locations.into_vec();
                assert_eq!(locations.len(), 1, "{locations:?}");
                locations.remove(0).into()
            }
            other => panic!("no storage at {}: {other:?}", vendor.name),
        }
    }

    /// An honest hop for `chunk` to `slot`.
    pub(crate) fn hop(&self, chunk: &[u8], position: usize, slot: &Slot, next: Option<&Slot>) -> Hop {
        Hop {
            version: VERSION,
            owner: self.keys.owner(),
            authority: self.keys.owner().into(),
            file: FileId([1; 16]),
            seq: Tag::new(1, 0).0,
            chunk: ChunkId::of(chunk),
            length: u32::try_from(chunk.len()).expect("a chunk's length"),
            expires: now().plus_seconds(600),
            position: u8::try_from(position).expect("few hops"),
            vendor: slot.vendor,
            addresses: slot.addresses.clone(),
            lease: slot.lease.clone(),
            split: SplitPolicy { part_bytes_max: 1 << 20, parts_min: 2 },
            next: next.map(|next| next.vendor),
        }
    }

    /// The hops of an honest header along `chain`.
    pub(crate) fn hops(&self, chunk: &[u8], chain: &[&Slot]) -> Vec<Hop> {
        let hop = |(at, slot): (usize, &&Slot)| self.hop(chunk, at, slot, chain.get(at + 1).copied());
        chain.iter().enumerate().map(hop).collect()
    }

    /// `hops` as this user signs them.
    pub(crate) fn signed(&self, hops: &[Hop]) -> Vec<Carried<Hop>> {
        hops.iter().map(|hop| forge(hop, self.keys.signing())).collect()
    }

    /// An honest header along `chain`.
    pub(crate) fn header(&self, chunk: &[u8], chain: &[&Slot]) -> Vec<u8> {
        RawHeader::of(self.signed(&self.hops(chunk, chain)))
    }

    /// Sends `header` and `body` in one piece to `node`, and hears it out. With `end` the stream ends after the body.
    pub(crate) async fn send(&self, node: &NodeHandle, header: &[u8], body: &[u8], end: bool) -> Said {
        let mut message = u32::try_from(header.len()).expect("a header").to_be_bytes().to_vec();
        message.extend_from_slice(header);
        message.extend_from_slice(body);
        self.send_raw(node, &message, end).await
    }

    /// Sends any bytes on a chunk stream, and hears it out.
    pub(crate) async fn send_raw(&self, node: &NodeHandle, message: &[u8], end: bool) -> Said {
        let (mut reader, mut writer) = tokio::io::split(self.open(node, Proto::Chunk).await);
        let sending = async {
            // A refusal may come before all was taken; the answers say why.
            let _ = writer.write_all(message).await;
            let _ = writer.flush().await;
            if end {
                let _ = writer.shutdown().await;
            }
            writer
        };
        let hearing = async {
            let mut said = Said::default();
            while !said.done
                && let Ok(frame) = frame::read_frame_within(&mut reader, ANSWERS_BYTES_MAX, SOON).await
            {
                for numbered in decode::<ChunkAnswers>(&frame, ANSWERS_BYTES_MAX).expect("answers") {
                    match numbered.answer {
                        ChunkAnswer::Alive => {}
                        ChunkAnswer::Receipt(receipt) => said.receipts.push(receipt),
                        ChunkAnswer::Failed { vendor, refusal } => said.failed.push((vendor, refusal)),
                        ChunkAnswer::Done => said.done = true,
                    }
                }
            }
            said
        };
        // The writer lives until the last answer: dropping it would reset what is under way.
        let (_writer, said) = tokio::join!(sending, hearing);
        said
    }

    /// As [`Client::send`] with an honest body, from outside.
    #[track_caller]
    pub(crate) fn store(&self, node: &NodeHandle, header: &[u8], body: &[u8]) -> Said {
        self.run(self.send(node, header, body, false))
    }
}

#[test]
fn a_forged_record_is_one_that_an_honest_node_would_sign_alike() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let lease = Lease { vendor: NodeId(key.verifying_key().to_bytes()), ..fathom_tests::samples::lease(1, 1) };
    let honest = Signed::sign(lease.clone(), &key).unwrap();
    assert_eq!(codec::encode(&forge(&lease, &key)), codec::encode(honest.carried()));
}
