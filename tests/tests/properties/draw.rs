//! Arbitrary values of every wire type from one number, so that a failing case is replayed by that number alone.

use ed25519_dalek::SigningKey;
use fathom_protocol::codec::{Blob, Bounded, Text};
use fathom_protocol::delta::{HeadId, VendorDelta};
use fathom_protocol::erasure::Code;
use fathom_protocol::fat::{FinalFat, Follows, Lineage, Tag, Use};
use fathom_protocol::fork::{Dropped, ForkProof};
use fathom_protocol::head::{Addresses, Characteristics, DeviceSummary, LeaseEvidence, VendorHead, VendorRecord};
use fathom_protocol::header::{Header, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, DeviceId, FileId, Fingerprint, Hash, LeaseId, NodeId, OwnerId, SessionKey};
use fathom_protocol::lease::{Lease, Named};
use fathom_protocol::limits::{CHUNK_BYTES_MAX, HOPS_MAX, KEY_BYTES_MAX, LEASES_MAX, SHARDS_MAX};
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::rebuild::{Rebuild, Source};
use fathom_protocol::receipt::{Receipt, ValidatedPart};
use fathom_protocol::reconcile::{Ask, Below, Compare, Compared, Probe, Wanted};
use fathom_protocol::root::{LeaseProof, lease_root};
use fathom_protocol::sign::{Carried, Record, Signed};
use fathom_protocol::table::index::Prefix;
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{
    AllocateRequest, Cancel, ChunkAnswer, FetchAnswer, FetchRequest, FilesPage, Gossip, Location, LogCursor,
    OwnerQuery, Page, PeerRecord, ProvisionalFat, Refusal, Renew, Request, Response, Roles, SyncRecord, TableDigest,
    Unused, Validation, Wants,
};
use fathom_tests::samples::{LEASE_STATES, REFUSAL_KINDS, key, lease_id};

/// A stream of arbitrary values: splitmix64, or in `full` mode the longest value of each kind.
pub(crate) struct Draw {
    state: u64,
    full: bool,
}

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, full: false }
    }

    /// Every list and text at its limit, every number at its greatest.
    pub(crate) fn full() -> Self {
        Self { state: 1, full: true }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if self.full { end - 1 } else { self.next() % end }
    }

    fn number(&mut self) -> u64 {
        if self.full {
            return u64::MAX;
        }
        let all = self.next();
        match all % 5 {
            0 => 0,
            1 => u64::MAX,
            2 => all >> 60,
            3 => all >> 32,
            _ => all,
        }
    }

    fn small(&mut self) -> u32 {
        self.number() as u32
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        // High bytes, so that a byte that were written as a number would take two.
        std::array::from_fn(|_| if self.full { 0xff } else { self.next() as u8 })
    }

    fn time(&mut self) -> UnixMs {
        UnixMs(self.number())
    }

    fn length(&mut self, max: usize, usual: usize) -> usize {
        if self.full {
            return max;
        }
        match self.next() % 8 {
            0 => 0,
            1 if max <= 512 => max,
            _ => (self.next() as usize) % (usual.min(max) + 1),
        }
    }

    fn text<const MAX: usize>(&mut self) -> Text<MAX> {
        let length = self.length(MAX, 40);
        Text::cut(&(0..length).map(|_| if self.below(9) == 7 { 'é' } else { 'z' }).collect::<String>())
    }

    fn list<T, const MAX: usize>(&mut self, mut value: impl FnMut(&mut Self) -> T) -> Bounded<T, MAX> {
        let length = self.length(MAX, 4);
        Bounded::new((0..length).map(|_| value(self)).collect()).unwrap()
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.flag() { Some(value(self)) } else { None }
    }

    /// One of eight keys.
    pub(crate) fn key(&mut self) -> SigningKey {
        key(self.below(8) as u8 + 1)
    }

    fn node_of(key: &SigningKey) -> NodeId {
        NodeId(key.verifying_key().to_bytes())
    }

    fn owner_of(key: &SigningKey) -> OwnerId {
        OwnerId(key.verifying_key().to_bytes())
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.bytes())
    }

    fn owner(&mut self) -> OwnerId {
        OwnerId(self.bytes())
    }

    fn hash(&mut self) -> Hash {
        Hash(self.bytes())
    }

    fn addresses(&mut self) -> Addresses {
        self.list(Self::text)
    }

    pub(crate) fn sign<T: Record>(value: T, key: &SigningKey) -> Signed<T> {
        Signed::sign(value, key).unwrap()
    }

    pub(crate) fn lease_of(&mut self, vendor: NodeId) -> Lease {
        let bytes = self.number();
        Lease {
            version: VERSION,
            vendor,
            id: LeaseId(self.bytes()),
            revision: self.number(),
            owner: self.owner(),
            authority: self.owner().into(),
            bytes,
            used: if bytes == 0 { 0 } else { self.below(bytes) },
            state: LEASE_STATES[if self.full { 2 } else { self.below(4) as usize }],
            room_expires: self.time(),
            expires: self.time(),
            named: self.maybe(|draw| Named { file: FileId(draw.bytes()), fat: draw.hash() }),
        }
    }

    pub(crate) fn lease(&mut self) -> Signed<Lease> {
        let key = self.key();
        Self::sign(self.lease_of(Self::node_of(&key)), &key)
    }

    fn head_over(&mut self, key: &SigningKey, leases: &[Signed<Lease>]) -> VendorHead {
        VendorHead {
            version: VERSION,
            vendor: Self::node_of(key),
            epoch: self.number(),
            seq: self.number(),
            prev: self.hash(),
            issued: self.time(),
            capacity: u64::MAX,
            used: self.number(),
            root: lease_root(leases.iter().map(|lease| (lease.id, lease.carried().commitment(), lease.bytes))),
            leases: leases.len() as u32,
            characteristics: Characteristics {
                zone: self.text(),
                operator: self.text(),
                media: self.text(),
                bandwidth_bytes_per_s: self.number(),
                up_since: self.time(),
                load: self.small(),
            },
            addresses: self.addresses(),
            devices: self.list(|draw| DeviceSummary {
                id: DeviceId(draw.bytes()),
                capacity: draw.number(),
                free: draw.number(),
                health: draw.text(),
                write_bytes_per_s: draw.number(),
                write_latency_us: draw.number(),
            }),
        }
    }

    pub(crate) fn head(&mut self) -> Signed<VendorHead> {
        let key = self.key();
        Self::sign(self.head_over(&key, &[]), &key)
    }

    pub(crate) fn vendor_record(&mut self) -> VendorRecord {
        let key = self.key();
        let count = self.length(LEASES_MAX, 5);
        let mut leases: Vec<Signed<Lease>> = (0..count)
            .map(|index| {
                let mut lease = self.lease_of(Self::node_of(&key));
                lease.id.0[..8].copy_from_slice(&(index as u64).to_be_bytes());
                Self::sign(lease, &key)
            })
            .collect();
        leases.sort_by_key(|lease| lease.id);
        let head = Self::sign(self.head_over(&key, &leases), &key);
        let leases = Bounded::new(leases.into_iter().map(Signed::into_carried).collect()).unwrap();
        VendorRecord { head: head.into_carried(), leases }
    }

    pub(crate) fn hop(&mut self) -> Signed<Hop> {
        let key = self.key();
        let hop = Hop {
            version: VERSION,
            owner: self.owner(),
            authority: Self::owner_of(&key).into(),
            file: FileId(self.bytes()),
            seq: self.number(),
            chunk: ChunkId(self.bytes()),
            length: self.below(CHUNK_BYTES_MAX as u64) as u32 + 1,
            expires: self.time(),
            position: self.number() as u8,
            vendor: self.node(),
            addresses: self.addresses(),
            lease: self.lease().into_carried(),
            split: SplitPolicy { part_bytes_max: self.small(), parts_min: self.number() as u8 },
            next: self.maybe(Self::node),
        };
        Self::sign(hop, &key)
    }

    pub(crate) fn header(&mut self) -> Header {
        let count = self.length(HOPS_MAX, HOPS_MAX);
        Header::new((0..count).map(|_| self.hop()).collect()).unwrap()
    }

    pub(crate) fn receipt(&mut self) -> Signed<Receipt> {
        let key = self.key();
        let mut end = 0;
        let parts: Bounded<ValidatedPart, _> = self.list(|draw| {
            let offset = end;
            let length = draw.below(1 << 25) as u32;
            end += length;
            ValidatedPart { device: DeviceId(draw.bytes()), hash: draw.hash(), offset, length }
        });
        let receipt = Receipt {
            version: VERSION,
            vendor: Self::node_of(&key),
            owner: self.owner(),
            lease: LeaseId(self.bytes()),
            file: FileId(self.bytes()),
            seq: self.number(),
            chunk: ChunkId(self.bytes()),
            length: end,
            parts,
            stored: self.time(),
        };
        Self::sign(receipt, &key)
    }

    pub(crate) fn final_fat(&mut self) -> Signed<FinalFat> {
        let key = self.key();
        let seq = self.number();
        let body = self.length(fathom_protocol::limits::FAT_BODY_BYTES_MAX, 300);
        let released = body == 0;
        let uses: Bounded<Use, _> = self.list(|draw| Use {
            vendor: draw.node(),
            lease: LeaseId(draw.bytes()),
            bytes: draw.number(),
            unused: draw.number(),
        });
        let uses = if released { Bounded::default() } else { uses };
        let fat = FinalFat {
            version: VERSION,
            owner: Self::owner_of(&key),
            file: FileId(self.bytes()),
            seq,
            base: match Tag(seq).counter() {
                counter if !released && counter > 0 => Tag::new(self.below(counter), self.number() as u16).0,
                _ => seq,
            },
            follows: self.follows(Tag(seq)),
            uses,
            frees: self.list(Self::node),
            issued: self.time(),
            order_expires: self.time(),
            body: Blob::new(vec![0xa5; body]).unwrap(),
        };
        Self::sign(fat, &key)
    }

    fn follows(&mut self, seq: Tag) -> Follows {
        let none = Follows::default();
        let before: Vec<Tag> =
            (0..self.below(20)).map(|_| Tag::new(self.below(seq.counter().max(1)), self.number() as u16)).collect();
        let before = before.into_iter().filter(|tag| tag.counter() < seq.counter());
        Follows::all_of(before.map(|seq| Lineage { base: seq, seq, follows: &none }), None)
    }

    pub(crate) fn carried_move(&mut self) -> CarriedMove {
        let from = key(1 + self.below(4) as u8);
        let to = key(5 + self.below(4) as u8);
        let body = Move {
            version: VERSION,
            owner: self.owner(),
            file: FileId(self.bytes()),
            seq: self.number(),
            chunk: ChunkId(self.bytes()),
            length: self.small(),
            from: Self::node_of(&from),
            from_lease: LeaseId(self.bytes()),
            to: Self::node_of(&to),
            to_lease: LeaseId(self.bytes()),
            at: self.time(),
        };
        CarriedMove::propose(&body, &from).unwrap().cosign(&to)
    }

    pub(crate) fn peer(&mut self) -> Signed<PeerRecord> {
        let key = self.key();
        let roles = Roles { mirror: self.flag(), vendor: self.flag(), user: self.flag(), bootstrap: self.flag() };
        let peer = PeerRecord {
            version: VERSION,
            node: Self::node_of(&key),
            roles,
            addresses: self.addresses(),
            issued: self.time(),
        };
        Self::sign(peer, &key)
    }

    pub(crate) fn allocate(&mut self) -> Signed<AllocateRequest> {
        let key = self.key();
        let request = AllocateRequest {
            version: VERSION,
            owner: self.owner(),
            authority: Self::owner_of(&key).into(),
            file: self.maybe(|draw| FileId(draw.bytes())),
            copies: self.below(SHARDS_MAX as u64) as u8 + 1,
            width: self.below(255) as u8 + 1,
            bytes: self.number().max(1),
            unit: self.small().max(1),
            exclude: self.list(Self::node),
            avoid_zones: self.list(Self::text),
            wants: Wants {
                zones: self.list(Self::text),
                media: self.maybe(Self::text),
                bandwidth_min: self.number(),
                latency_us_max: self.small(),
            },
            nonce: self.hash(),
            expires: self.time(),
        };
        Self::sign(request, &key)
    }

    pub(crate) fn query(&mut self) -> Signed<OwnerQuery> {
        let key = self.key();
        let query = OwnerQuery {
            version: VERSION,
            owner: Self::owner_of(&key),
            mirror: self.node(),
            files: self.list(|draw| FileId(draw.bytes())),
            since: self.maybe(Self::log_cursor),
            after: self.maybe(|draw| draw.key_bytes()),
            expires: self.time(),
        };
        Self::sign(query, &key)
    }

    fn log_cursor(&mut self) -> LogCursor {
        LogCursor { log: self.hash(), position: self.number() }
    }

    fn key_bytes(&mut self) -> Blob<KEY_BYTES_MAX> {
        let length = self.length(KEY_BYTES_MAX, 49);
        Blob::new(vec![0xff; length]).unwrap()
    }

    pub(crate) fn validation(&mut self) -> Signed<Validation> {
        let key = self.key();
        let validation = Validation {
            version: VERSION,
            owner: Self::owner_of(&key),
            vendor: self.node(),
            good: self.list(|draw| ChunkId(draw.bytes())),
            bad: self.list(|draw| ChunkId(draw.bytes())),
            at: self.time(),
        };
        Self::sign(validation, &key)
    }

    pub(crate) fn cancel(&mut self) -> Signed<Cancel> {
        let key = self.key();
        let authority = Self::owner_of(&key).into();
        let cancel = Cancel { version: VERSION, authority, vendor: self.node(), request: self.hash() };
        Self::sign(cancel, &key)
    }

    pub(crate) fn unused(&mut self) -> Signed<Unused> {
        let key = self.key();
        let unused = Unused {
            version: VERSION,
            authority: Self::owner_of(&key).into(),
            vendor: self.node(),
            lease: LeaseId(self.bytes()),
            bytes: self.number(),
            nonce: self.hash(),
        };
        Self::sign(unused, &key)
    }

    pub(crate) fn renew(&mut self) -> Signed<Renew> {
        let key = self.key();
        let renew = Renew {
            version: VERSION,
            owner: Self::owner_of(&key),
            vendor: self.node(),
            lease: LeaseId(self.bytes()),
            expires: self.time(),
        };
        Self::sign(renew, &key)
    }

    pub(crate) fn fetch(&mut self) -> Signed<FetchRequest> {
        let key = self.key();
        let fetch = FetchRequest {
            version: VERSION,
            owner: Self::owner_of(&key),
            vendor: self.node(),
            chunk: ChunkId(self.bytes()),
            offset: self.small(),
            length: self.small(),
            expires: self.time(),
        };
        Self::sign(fetch, &key)
    }

    pub(crate) fn refusal(&mut self) -> Refusal {
        Refusal { kind: REFUSAL_KINDS[self.below(REFUSAL_KINDS.len() as u64) as usize], reason: self.text() }
    }

    pub(crate) fn sync_record(&mut self, kind: u64) -> SyncRecord {
        match kind % 5 {
            0 => SyncRecord::Vendor(self.vendor_record()),
            1 => SyncRecord::Fat(self.final_fat().into_carried()),
            2 => SyncRecord::Move(self.carried_move()),
            3 => SyncRecord::Proof(Box::new(ForkProof::Twins(self.head().into_carried(), self.head().into_carried()))),
            _ => SyncRecord::Proof(Box::new(ForkProof::Dropped(Box::new(Dropped {
                older: self.evidence(),
                newer: self.evidence(),
                fat: self.final_fat().into_carried(),
            })))),
        }
    }

    /// Changes of leases that may not fit the head: what a peer may send.
    fn delta(&mut self) -> VendorDelta {
        VendorDelta {
            head: self.head().into_carried(),
            base: HeadId { epoch: self.number(), seq: self.number(), hash: self.hash() },
            changed: self.list(|draw| draw.lease().into_carried()),
            gone: self.list(|draw| LeaseId(draw.bytes())),
        }
    }

    pub(crate) fn request(&mut self, kind: u64) -> Request {
        match kind % 26 {
            0 => Request::Ping,
            1 => Request::Announce(self.peer().into_carried()),
            2 => Request::Report(self.vendor_record()),
            3 => Request::Allocate(self.allocate().into_carried()),
            4 => Request::Offer { request: self.allocate().into_carried(), bytes: self.number() },
            5 => Request::SubmitFats(self.list(|draw| draw.final_fat().into_carried())),
            6 => Request::FatsOf(self.query().into_carried()),
            7 => Request::Vendors { after: self.maybe(Self::node) },
            8 => Request::Since { log: self.hash(), cursor: self.number() },
            9 => Request::Orders { vendor: self.node(), log: self.hash(), cursor: self.number() },
            10 => Request::Order(self.list(|draw| draw.final_fat().into_carried())),
            11 => Request::Cosign(self.carried_move()),
            12 => Request::SubmitMove(self.carried_move()),
            13 => Request::Validate(self.list(|draw| draw.validation().into_carried())),
            14 => Request::Unused(self.unused().into_carried()),
            15 => Request::Renew(self.renew().into_carried()),
            23 => Request::Cancel(self.cancel().into_carried()),
            16 => Request::Compare(self.compare()),
            17 => Request::Wanted(self.list(|draw| {
                let height = draw.maybe(|draw| (draw.number(), draw.number()));
                Wanted(draw.number(), draw.small(), height)
            })),
            22 => Request::LeaseOf { vendor: self.maybe(Self::node), lease: LeaseId(self.bytes()) },
            21 => Request::Heads(self.list(Self::node)),
            18 => Request::VendorOf(self.node()),
            19 => Request::Proofs(self.list(Self::node)),
            20 => Request::ReportDelta(self.delta()),
            24 => Request::Rebuild(Box::new(self.rebuild().into_carried())),
            _ => Request::Digest,
        }
    }

    pub(crate) fn rebuild(&mut self) -> Signed<Rebuild> {
        let key = self.key();
        let data = self.below(14) as u8 + 2;
        let code = Code::new(data, self.below(16 - u64::from(data)) as u8 + 1).unwrap();
        let lengths: Vec<u32> = (0..self.below(u64::from(data)) + 1).map(|_| self.small().max(1)).collect();
        let sources: Vec<Source> = (0..lengths.len() + self.below(16 - lengths.len() as u64 + 1) as usize)
            .map(|_| Source {
                position: self.small() as u8,
                head: self.head().into_carried(),
                fetch: self.fetch().into_carried(),
            })
            .collect();
        let order = Rebuild {
            version: VERSION,
            owner: Self::owner_of(&key),
            vendor: self.node(),
            hop: self.hop().into_carried(),
            code,
            lengths: Bounded::first(lengths),
            position: self.small() as u8,
            sources: Bounded::first(sources),
            expires: self.time(),
        };
        Self::sign(order, &key)
    }

    fn compare(&mut self) -> Compare {
        let session = SessionKey(self.bytes());
        let probe = match self.below(3) {
            0 => Probe::Root(Fingerprint(self.bytes())),
            _ => Probe::Parts(
                self.list(|draw| Ask { prefix: Prefix::new(draw.below(17) as u8, draw.number()), skip: draw.small() }),
            ),
        };
        Compare { session, probe }
    }

    fn blob<const MAX: usize>(&mut self) -> Blob<MAX> {
        let length = self.length(MAX, 200);
        Blob::new((0..length).map(|_| self.bytes::<1>()[0]).collect()).unwrap()
    }

    fn compared(&mut self) -> Compared {
        match self.below(3) {
            0 => Compared::Same,
            _ => Compared::Below(self.list(|draw| match draw.below(2) {
                0 => Below::Parts(draw.blob()),
                _ => Below::Entries(draw.blob(), draw.flag()),
            })),
        }
    }

    fn location(&mut self) -> Location {
        Location {
            column: self.number() as u8,
            granted: self.number(),
            lease: self.lease().into_carried(),
            head: self.head().into_carried(),
        }
    }

    pub(crate) fn response(&mut self, kind: u64) -> Response {
        match kind % 16 {
            0 => Response::Alive,
            1 => Response::Done,
            2 => Response::Peers(self.list(|draw| -> Carried<PeerRecord> { draw.peer().into_carried() })),
            3 => Response::Provisional(ProvisionalFat {
                locations: self.list(Self::location),
                warnings: self.list(Self::text),
            }),
            13 => Response::Short { refusal: self.refusal(), asked: self.list(Self::node) },
            4 => Response::Offered { lease: self.lease().into_carried(), granted: self.number() },
            5 => Response::Submitted(self.list(|draw| draw.maybe(Self::refusal))),
            6 => Response::Page(Page {
                log: self.hash(),
                next: self.number(),
                more: self.flag(),
                clock: self.time(),
                records: self.list(|draw| {
                    let kind = draw.next();
                    draw.sync_record(kind)
                }),
            }),
            12 => Response::Files(FilesPage {
                cursor: self.log_cursor(),
                whole: self.flag(),
                after: self.maybe(|draw| draw.key_bytes()),
                more: self.flag(),
                records: self.list(|draw| {
                    let kind = draw.next();
                    draw.sync_record(kind)
                }),
            }),
            9 => Response::Heads(self.list(|draw| -> Carried<VendorHead> { draw.head().into_carried() })),
            7 => Response::Cosigned(self.carried_move()),
            8 => Response::Digest(TableDigest {
                digest: self.hash(),
                heads: self.number(),
                leases: self.number(),
                files: self.number(),
                moves: self.number(),
                proofs: self.number(),
            }),
            10 => Response::Compared(self.compared()),
            11 => Response::Lease(Box::new(self.evidence())),
            14 => Response::Stored(self.receipt().into_carried()),
            _ => Response::Refused(self.refusal()),
        }
    }

    /// The longest path, whatever it proves.
    fn evidence(&mut self) -> LeaseEvidence {
        let count = self.length(LEASES_MAX, 9);
        let entries: Vec<_> = (0..count).map(|at| (lease_id(at as u32), self.hash(), self.number())).collect();
        let at = lease_id(self.small());
        LeaseEvidence {
            head: self.head().into_carried(),
            proof: LeaseProof::new(entries, at),
            lease: self.maybe(|draw| draw.lease().into_carried()),
        }
    }

    pub(crate) fn chunk_answer(&mut self, kind: u64) -> ChunkAnswer {
        match kind % 4 {
            0 => ChunkAnswer::Alive,
            1 => ChunkAnswer::Receipt(self.receipt().into_carried()),
            2 => ChunkAnswer::Failed { vendor: self.node(), refusal: self.refusal() },
            _ => ChunkAnswer::Done,
        }
    }

    pub(crate) fn fetch_answer(&mut self, kind: u64) -> FetchAnswer {
        match kind % 3 {
            0 => FetchAnswer::Alive,
            1 => FetchAnswer::Found { chunk_length: self.small(), encoded_length: self.small() },
            _ => FetchAnswer::Refused(self.refusal()),
        }
    }

    pub(crate) fn gossip(&mut self, kind: u64) -> Gossip {
        match kind % 9 {
            5 => {
                let count = self.below(4);
                Gossip::Records(Bounded::first((0..count).map(|kind| self.sync_record(kind))))
            }
            6 => Gossip::Delta(Box::new(self.delta())),
            7 => Gossip::Grew { mirror: self.node(), cursor: self.number() },
            kind => Gossip::Record(Box::new(self.sync_record(kind))),
        }
    }
}
