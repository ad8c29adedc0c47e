//! One value of every type that goes over the wire or onto a disk, the same in each run: fixed keys, times and nonces.
//! Golden bytes and the seeds of the fuzz targets are made from these.

use ed25519_dalek::SigningKey;
use fathom_protocol::codec::{Blob, Bounded, Text, encode};
use fathom_protocol::delta::VendorDelta;
use fathom_protocol::erasure::{Code, encode as encode_parity};
use fathom_protocol::fat::{ChunkRef, FileMeta, FinalFat, Follows, Lineage, Manifest, ParityRef, Place, Tag, Use};
use fathom_protocol::fork::{Dropped, ForkProof};
use fathom_protocol::head::{
    Address, Addresses, Characteristics, DeviceSummary, LeaseEvidence, VendorHead, VendorRecord, VerifiedVendor,
};
use fathom_protocol::header::{Header, Headers, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, DeviceId, FileId, Hash, LeaseId, NodeId, OwnerId};
use fathom_protocol::keys::{Phrase, UserKeys};
use fathom_protocol::lease::{Lease, LeaseState, Named};
use fathom_protocol::limits::FOLLOWS_MAX;
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::rebuild::{Rebuild, Source};
use fathom_protocol::receipt::{Receipt, ValidatedPart};
use fathom_protocol::root::{Entry, LeaseProof, LeaseRoot, lease_root};
use fathom_protocol::seal::seal_chunk;
use fathom_protocol::sign::{Record, Signed};
use fathom_protocol::table::{Key, MoveKey};
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{
    AllocateRequest, Cancel, FetchRequest, FetchRequests, LogCursor, OwnerQuery, PeerRecord, Refusal, RefusalKind,
    Renew, Roles, Unused, Validation, Wants,
};

mod messages;
pub use messages::{chunk_answers, fetch_answers, gossips, requests, responses, sync_records};

/// The moment at which all samples were made.
pub const NOW: UnixMs = UnixMs(1_800_000_000_000);
/// Capacity of a sample vendor, bytes.
pub const CAPACITY: u64 = 1 << 30;

/// A fixed signing key.
#[must_use]
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// The node of [`key`].
#[must_use]
pub fn node(number: u8) -> NodeId {
    NodeId(key(number).verifying_key().to_bytes())
}

/// The keys of the sample user.
#[must_use]
pub fn user() -> UserKeys {
    Phrase::from_entropy([7; 32]).user_keys()
}

/// Signs, which cannot fail for a sample.
#[must_use]
pub fn signed<T: Record>(value: T, key: &SigningKey) -> Signed<T> {
    Signed::sign(value, key).expect("a sample holds together")
}

/// A text within its bound.
#[must_use]
pub fn text<const MAX: usize>(text: &str) -> Text<MAX> {
    Text::new(text).expect("a sample is within its bound")
}

fn list<T, const MAX: usize>(values: Vec<T>) -> Bounded<T, MAX> {
    Bounded::new(values).expect("a sample is within its bound")
}

/// Two addresses of a node.
#[must_use]
pub fn addresses(number: u8) -> Addresses {
    let address = |host: u8| -> Address { text(&format!("/ip4/192.0.2.{host}/udp/4600/quic-v1")) };
    list(vec![address(number), address(number.wrapping_add(100))])
}

/// A lease of vendor `vendor` for the sample user.
#[must_use]
pub fn lease(vendor: u8, id: u8) -> Lease {
    Lease {
        version: VERSION,
        vendor: node(vendor),
        id: LeaseId([id; 16]),
        revision: 3,
        owner: user().owner(),
        authority: user().owner().into(),
        bytes: 1 << 20,
        used: 1 << 16,
        state: LeaseState::Locked,
        room_expires: NOW.plus_seconds(86_400),
        expires: NOW.plus_seconds(2_678_400),
        named: None,
    }
}

/// The head of vendor `vendor` over `leases`, which are ordered by identifier.
#[must_use]
pub fn head(vendor: u8, seq: u64, leases: &[Signed<Lease>]) -> VendorHead {
    VendorHead {
        version: VERSION,
        vendor: node(vendor),
        epoch: 2,
        seq,
        prev: Hash::of(b"the head before"),
        issued: NOW,
        capacity: CAPACITY,
        used: leases.iter().map(|lease| lease.used).sum(),
        root: lease_root(leases.iter().map(|lease| (lease.id, lease.carried().commitment(), lease.bytes))),
        leases: u32::try_from(leases.len()).expect("few leases"),
        characteristics: Characteristics {
            zone: text("north"),
            operator: text("ada"),
            media: text("ssd"),
            bandwidth_bytes_per_s: 125_000_000,
            up_since: UnixMs(1_799_999_000_000),
            load: 4,
        },
        addresses: addresses(vendor),
        devices: list(vec![DeviceSummary {
            id: DeviceId([vendor; 16]),
            capacity: CAPACITY,
            free: CAPACITY / 2,
            health: text("healthy"),
            write_bytes_per_s: 250_000_000,
            write_latency_us: 800,
        }]),
    }
}

/// A vendor with two leases.
#[must_use]
pub fn vendor_record(vendor: u8, seq: u64) -> VendorRecord {
    let leases = [signed(lease(vendor, 1), &key(vendor)), signed(lease(vendor, 2), &key(vendor))];
    let head = signed(head(vendor, seq, &leases), &key(vendor));
    VendorRecord { head: head.into_carried(), leases: list(leases.into_iter().map(Signed::into_carried).collect()) }
}

/// What changed from [`vendor_record`] 17 to a head 18 in which lease 1 is gone, lease 2 has grown and lease 3 is new.
#[must_use]
pub fn delta() -> VendorDelta {
    let old = vendor_record(1, 17).verify().expect("a sample holds together");
    let grown = Lease { bytes: 2 << 20, revision: 4, ..lease(1, 2) };
    let leases = [signed(grown, &key(1)), signed(lease(1, 3), &key(1))];
    let head = VendorHead { prev: old.head.hash(), ..head(1, 18, &leases) };
    let new = VerifiedVendor { head: signed(head, &key(1)), leases: leases.to_vec() };
    VendorDelta::between(&old, &new).expect("little changed")
}

/// The proof that vendor 1 signed two heads 17.
#[must_use]
pub fn twins() -> ForkProof {
    let one = signed(head(1, 17, &[]), &key(1));
    let two = signed(VendorHead { used: 5, ..head(1, 17, &[]) }, &key(1));
    ForkProof::twins(&one, &two).expect("they contradict each other")
}

/// The proof that vendor 1 dropped its lease 1 in head 18, although it had noted the sample final FAT in it.
#[must_use]
pub fn dropped() -> ForkProof {
    let fat = by_user(final_fat());
    let named = Some(Named { file: fat.file, fat: fat.hash() });
    let before = [signed(Lease { named, ..lease(1, 1) }, &key(1)), signed(lease(1, 2), &key(1))];
    let over = |seq, leases: &[Signed<Lease>]| {
        let vendor = VerifiedVendor { head: signed(head(1, seq, leases), &key(1)), leases: leases.to_vec() };
        vendor.evidence(LeaseId([1; 16]))
    };
    ForkProof::Dropped(Box::new(Dropped {
        older: over(17, &before),
        newer: over(18, &before[1..]),
        fat: fat.into_carried(),
    }))
}

/// The sample file.
#[must_use]
pub fn file() -> FileId {
    user().file_id("photos/summer.jpg")
}

/// The sample chunk: (key, index, salt, plaintext of two segments, of which the second is short).
#[must_use]
pub fn plain_chunk() -> ([u8; 32], u64, [u8; 8], Vec<u8>) {
    let plain = (0..65_536 + 1_000u32).map(|byte| (byte % 251) as u8).collect();
    ([9; 32], 5, [1, 2, 3, 4, 5, 6, 7, 8], plain)
}

/// The sample chunk, sealed.
#[must_use]
pub fn sealed_chunk() -> Vec<u8> {
    let (key, index, salt, plain) = plain_chunk();
    seal_chunk(&key, index, salt, &plain).expect("a sample has a chunk's length")
}

/// Hop `position` of a route over `vendors`, for the sample chunk.
#[must_use]
pub fn hop(vendors: &[u8], position: usize) -> Hop {
    let vendor = vendors[position];
    let sealed = sealed_chunk();
    Hop {
        version: VERSION,
        owner: user().owner(),
        authority: user().owner().into(),
        file: file(),
        seq: TAG.0,
        chunk: ChunkId::of(&sealed),
        length: u32::try_from(sealed.len()).expect("a chunk's length"),
        expires: NOW.plus_seconds(600),
        position: u8::try_from(position).expect("few hops"),
        vendor: node(vendor),
        addresses: addresses(vendor),
        lease: signed(lease(vendor, 1), &key(vendor)).into_carried(),
        split: SplitPolicy { part_bytes_max: 1 << 20, parts_min: 2 },
        next: vendors.get(position + 1).map(|next| node(*next)),
    }
}

/// All hops of a route over `vendors`, signed by the sample user.
#[must_use]
pub fn hops(vendors: &[u8]) -> Vec<Signed<Hop>> {
    (0..vendors.len()).map(|position| signed(hop(vendors, position), user().signing())).collect()
}

/// A header over vendors 1 and 2.
#[must_use]
pub fn header() -> Header {
    Header::new(hops(&[1, 2])).expect("two hops")
}

/// A receipt of vendor 1 for the sample chunk in two parts.
#[must_use]
pub fn receipt() -> Receipt {
    let sealed = sealed_chunk();
    let half = sealed.len() / 2;
    let part = |device: u8, offset: usize, bytes: &[u8]| ValidatedPart {
        device: DeviceId([device; 16]),
        hash: Hash::of(bytes),
        offset: u32::try_from(offset).expect("a chunk's length"),
        length: u32::try_from(bytes.len()).expect("a chunk's length"),
    };
    Receipt {
        version: VERSION,
        vendor: node(1),
        owner: user().owner(),
        lease: LeaseId([1; 16]),
        file: file(),
        seq: TAG.0,
        chunk: ChunkId::of(&sealed),
        length: u32::try_from(sealed.len()).expect("a chunk's length"),
        parts: list(vec![part(1, 0, &sealed[..half]), part(2, half, &sealed[half..])]),
        stored: NOW,
    }
}

/// A manifest of one chunk with copies at vendors 1 and 2.
#[must_use]
pub fn manifest() -> Manifest {
    let place = |vendor: u8| Place { vendor: node(vendor), lease: LeaseId([1; 16]) };
    let (file_key, _, salt, plain) = plain_chunk();
    let meta = FileMeta {
        name: text("photos/summer.jpg"),
        size: plain.len() as u64,
        mode: 0o100_644,
        modified: UnixMs(1_790_000_000_000),
        chunk_plain: 1 << 20,
    };
    let chunk = ChunkRef { id: ChunkId::of(&sealed_chunk()), salt, copies: vec![0, 1] };
    Manifest::new(meta, file_key, vec![place(1), place(2)], 3, &[chunk]).expect("a sample holds together")
}

/// A manifest of two chunks in a stripe of 2+1, each shard at a vendor of its own.
#[must_use]
pub fn coded_manifest() -> Manifest {
    let place = |vendor: u8| Place { vendor: node(vendor), lease: LeaseId([1; 16]) };
    let meta = FileMeta {
        name: text("photos/winter.jpg"),
        size: 150_000,
        mode: 0o100_644,
        modified: UnixMs(1_790_000_000_000),
        chunk_plain: 75_000,
    };
    let code = Code::new(2, 1).expect("a code");
    let data = [ChunkId([21; 32]), ChunkId([22; 32])];
    let chunk = |(at, id): (usize, ChunkId)| ChunkRef { id, salt: [at as u8; 8], copies: vec![at as u16] };
    let chunks: Vec<ChunkRef> = data.into_iter().enumerate().map(chunk).collect();
    let parity = [ParityRef { id: ChunkId([23; 32]), place: Some(2) }];
    let places = vec![place(1), place(2), place(3)];
    Manifest::coded(meta, [9; 32], places, code, (&chunks, &parity)).expect("a sample holds together")
}

/// The parity of a stripe of 4+2 of which the last data shard is shorter, in a row.
#[must_use]
pub fn parity() -> Vec<u8> {
    let shard = |number: u8, length: usize| -> Vec<u8> {
        (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(number)).collect()
    };
    let data = [shard(1, 150), shard(2, 150), shard(3, 150), shard(4, 77)];
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    encode_parity(Code::new(4, 2).expect("a code"), &data).expect("a stripe").concat()
}

/// An order to vendor 3 to make the parity shard of [`coded_manifest`] again.
#[must_use]
pub fn rebuild() -> Rebuild {
    let manifest = coded_manifest();
    let lengths = manifest.stripes().expect("it has parity").lengths(0);
    let piece = manifest.piece(2).expect("its parity");
    let hop = Hop { chunk: piece.id, length: piece.length, ..hop(&[3], 0) };
    let source = |at: u8| {
        let piece = manifest.piece(usize::from(at)).expect("its chunks");
        let vendor = at + 1;
        let fetch = FetchRequest { vendor: node(vendor), chunk: piece.id, offset: 0, length: piece.length, ..fetch() };
        Source {
            position: at,
            head: signed(head(vendor, 17, &[]), &key(vendor)).into_carried(),
            fetch: by_user(fetch).into_carried(),
        }
    };
    Rebuild {
        version: VERSION,
        owner: user().owner(),
        vendor: node(3),
        hop: by_user(hop).into_carried(),
        code: Code::new(2, 1).expect("a code"),
        lengths: list(lengths),
        position: 2,
        sources: list(vec![source(0), source(1)]),
        expires: NOW.plus_seconds(180),
    }
}

/// The sealed [`manifest`].
#[must_use]
pub fn sealed_manifest() -> Vec<u8> {
    user().seal_manifest(&manifest(), file(), 4, [3; 24]).expect("a sample is small").to_vec()
}

/// A final FAT with uses at vendors 1 and 2.
#[must_use]
pub fn final_fat() -> FinalFat {
    let bytes = sealed_chunk().len() as u64;
    let used = |vendor: u8| Use { vendor: node(vendor), lease: LeaseId([1; 16]), bytes, unused: 1_000 };
    FinalFat {
        version: VERSION,
        owner: user().owner(),
        file: file(),
        seq: TAG.0,
        base: TAG.0,
        follows: all_before(TAG),
        uses: list(vec![used(1), used(2)]),
        frees: list(vec![node(3)]),
        issued: NOW,
        order_expires: NOW.plus_seconds(86_400),
        body: Blob::new(sealed_manifest()).expect("a sample is small"),
    }
}

/// The tag of the samples.
const TAG: Tag = Tag::new(4, 0x1234);

/// A final FAT that releases the file.
#[must_use]
pub fn release() -> FinalFat {
    let frees = list(vec![node(1), node(2)]);
    let seq = Tag::new(5, 9).0;
    let follows = all_before(Tag(seq));
    FinalFat { seq, base: seq, follows, uses: Bounded::default(), frees, body: Blob::default(), ..final_fat() }
}

/// Every version with a lower counter, as one says that came after more than can be named.
#[must_use]
pub fn all_before(seq: Tag) -> Follows {
    let none = Follows::default();
    let last = |writer| Tag::new(seq.counter().saturating_sub(1), u16::MAX - writer);
    let named = (0..FOLLOWS_MAX as u16).filter(|_| seq.counter() > 0).map(last);
    Follows::all_of(named.map(|seq| Lineage { base: seq, seq, follows: &none }), None)
}

/// A move of the sample chunk from vendor 1 to vendor 3.
#[must_use]
pub fn move_body() -> Move {
    let sealed = sealed_chunk();
    Move {
        version: VERSION,
        owner: user().owner(),
        file: file(),
        seq: TAG.0,
        chunk: ChunkId::of(&sealed),
        length: u32::try_from(sealed.len()).expect("a chunk's length"),
        from: node(1),
        from_lease: LeaseId([1; 16]),
        to: node(3),
        to_lease: LeaseId([9; 16]),
        at: NOW,
    }
}

/// The move, signed by its source.
#[must_use]
pub fn proposed_move() -> CarriedMove {
    CarriedMove::propose(&move_body(), &key(1)).expect("the source's key")
}

/// The move, signed by both.
#[must_use]
pub fn cosigned_move() -> CarriedMove {
    proposed_move().cosign(&key(3))
}

/// The announcement of node 4.
#[must_use]
pub fn peer() -> PeerRecord {
    PeerRecord {
        version: VERSION,
        node: node(4),
        roles: Roles { mirror: true, vendor: false, user: false, bootstrap: true },
        addresses: addresses(4),
        issued: NOW,
    }
}

/// A request for two copies.
#[must_use]
pub fn allocate() -> AllocateRequest {
    AllocateRequest {
        version: VERSION,
        owner: user().owner(),
        authority: user().owner().into(),
        file: Some(file()),
        copies: 2,
        width: 2,
        bytes: 8 << 20,
        unit: 4_195_328,
        exclude: list(vec![node(6)]),
        avoid_zones: list(vec![text("south")]),
        wants: Wants {
            zones: list(vec![text("home"), text("attic")]),
            media: Some(text("ssd")),
            bandwidth_min: 50_000_000,
            latency_us_max: 20_000,
        },
        nonce: Hash::of(b"allocate"),
        expires: NOW.plus_seconds(60),
    }
}

/// A query for all files.
#[must_use]
pub fn query() -> OwnerQuery {
    OwnerQuery {
        version: VERSION,
        owner: user().owner(),
        mirror: node(4),
        files: Bounded::default(),
        since: Some(LogCursor { log: Hash::of(b"log"), position: 13 }),
        after: Some(Blob::new(Key::Fat(user().owner(), file()).to_bytes()).expect("a key is short")),
        expires: NOW.plus_seconds(60),
    }
}

/// The word on a download.
#[must_use]
pub fn validation() -> Validation {
    Validation {
        version: VERSION,
        owner: user().owner(),
        vendor: node(1),
        good: list(vec![ChunkId::of(b"good")]),
        bad: list(vec![ChunkId::of(b"bad")]),
        at: NOW,
    }
}

/// A withdrawal of [`allocate`].
#[must_use]
pub fn cancel() -> Cancel {
    Cancel { version: VERSION, authority: user().owner().into(), vendor: node(1), request: Hash::of(b"allocate") }
}

/// Room given back.
#[must_use]
pub fn unused() -> Unused {
    Unused {
        version: VERSION,
        authority: user().owner().into(),
        vendor: node(1),
        lease: LeaseId([1; 16]),
        bytes: 1_000,
        nonce: Hash::of(b"unused"),
    }
}

/// A renewal.
#[must_use]
pub fn renew() -> Renew {
    Renew {
        version: VERSION,
        owner: user().owner(),
        vendor: node(1),
        lease: LeaseId([1; 16]),
        expires: NOW.plus_seconds(60),
    }
}

/// A request for a range of the sample chunk.
#[must_use]
pub fn fetch() -> FetchRequest {
    FetchRequest {
        version: VERSION,
        owner: user().owner(),
        vendor: node(1),
        chunk: ChunkId::of(&sealed_chunk()),
        offset: 65_552,
        length: 1_016,
        expires: NOW.plus_seconds(60),
    }
}

/// A refusal.
#[must_use]
pub fn refusal() -> Refusal {
    Refusal::new(RefusalKind::OverLease, "the chunk has 2 bytes, the lease has room for 1")
}

pub(crate) fn by_user<T: Record>(value: T) -> Signed<T> {
    signed(value, user().signing())
}

/// Every refusal kind.
pub const REFUSAL_KINDS: [RefusalKind; 21] = [
    RefusalKind::BadRequest,
    RefusalKind::NotAuthorised,
    RefusalKind::Version,
    RefusalKind::OverLease,
    RefusalKind::LeaseExpired,
    RefusalKind::UnknownLease,
    RefusalKind::WrongLength,
    RefusalKind::WrongHash,
    RefusalKind::NoSpace,
    RefusalKind::Unsealed,
    RefusalKind::TooFewVendors,
    RefusalKind::Busy,
    RefusalKind::Silent,
    RefusalKind::Unreachable,
    RefusalKind::NotFound,
    RefusalKind::Corrupt,
    RefusalKind::Stale,
    RefusalKind::Conflict,
    RefusalKind::Forked,
    RefusalKind::WrongRole,
    RefusalKind::Internal,
];

/// Every lease state.
pub const LEASE_STATES: [LeaseState; 4] =
    [LeaseState::Offered, LeaseState::Locked, LeaseState::Committed, LeaseState::Grace];

/// What a root over `count` leases commits to; their identifiers are odd.
pub fn entries(count: u16) -> impl Iterator<Item = Entry> {
    (0..count).map(|at| (lease_id(2 * u32::from(at) + 1), Hash::of(&at.to_le_bytes()), u64::from(at) + 1))
}

/// A lease's identifier, in the order of `number`.
#[must_use]
pub fn lease_id(number: u32) -> LeaseId {
    LeaseId((u128::from(number) << 64).to_be_bytes())
}

/// The root over [`entries`].
#[must_use]
pub fn root_of(count: u16) -> LeaseRoot {
    lease_root(entries(count))
}

/// Evidence that vendor 1 has its lease 2, and that it has no lease 3.
#[must_use]
pub fn evidence(lease: u8) -> LeaseEvidence {
    vendor_record(1, 17).verify().expect("a sample holds together").evidence(LeaseId([lease; 16]))
}

fn table_keys() -> Vec<(&'static str, Key)> {
    let moved = MoveKey {
        owner: OwnerId([2; 32]),
        file: FileId([3; 16]),
        chunk: ChunkId([4; 32]),
        from_lease: LeaseId([5; 16]),
    };
    vec![
        ("key_vendor", Key::Vendor(NodeId([1; 32]))),
        ("key_fat", Key::Fat(OwnerId([2; 32]), FileId([3; 16]))),
        ("key_move", Key::Move(moved)),
        ("key_proof", Key::Proof(NodeId([1; 32]))),
        ("key_twin", Key::Twin(OwnerId([2; 32]), FileId([3; 16]), Hash([7; 32]))),
    ]
}

/// Everything that has golden bytes: a name and the bytes.
#[must_use]
pub fn golden() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(&str, Vec<u8>)> = vec![
        ("lease", encode(&signed(lease(1, 1), &key(1)))),
        ("vendor_head", encode(&signed(head(1, 17, &[]), &key(1)))),
        ("vendor_record", encode(&vendor_record(1, 17))),
        ("hop", encode(&hops(&[1])[0])),
        ("header", encode(&header())),
        ("headers", encode(&Headers::first([header(), header()]))),
        ("receipt", encode(&signed(receipt(), &key(1)))),
        ("final_fat", encode(&by_user(final_fat()))),
        ("final_fat_release", encode(&by_user(release()))),
        ("move_proposed", encode(&proposed_move())),
        ("move_cosigned", encode(&cosigned_move())),
        ("peer", encode(&signed(peer(), &key(4)))),
        ("allocate", encode(&by_user(allocate()))),
        ("owner_query", encode(&by_user(query()))),
        ("validation", encode(&by_user(validation()))),
        ("unused", encode(&by_user(unused()))),
        ("renew", encode(&by_user(renew()))),
        ("fetch_request", encode(&by_user(fetch()))),
        ("fetch_requests", encode(&FetchRequests::first([by_user(fetch()).into_carried()]))),
        ("chunk_answers", encode(&messages::chunk_answers_frame())),
        ("manifest", encode(&manifest())),
        ("manifest_coded", encode(&coded_manifest())),
        ("parity_4_2", parity()),
        ("rebuild", encode(&by_user(rebuild()))),
        ("manifest_sealed", sealed_manifest()),
        ("chunk_sealed", sealed_chunk()),
        ("user_keys", [&user().owner().0[..], &user().file_id("a/b").0].concat()),
        ("refusal_kinds", encode(&REFUSAL_KINDS)),
        ("lease_states", encode(&LEASE_STATES)),
    ];
    all.extend(requests().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(responses().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(chunk_answers().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(fetch_answers().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(gossips().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(sync_records().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(table_keys().iter().map(|(name, key)| (*name, key.to_bytes())));
    let mut all: Vec<(String, Vec<u8>)> = all.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    for count in [0, 1, 2, 3, 5] {
        let root = root_of(count);
        all.push((format!("lease_root_{count}"), [&root.hash.0[..], &root.sum.to_le_bytes()].concat()));
        let proof = LeaseProof::new(entries(count), lease_id(4));
        all.push((format!("lease_proof_{count}"), encode(&proof)));
    }
    all
}
