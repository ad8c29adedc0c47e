//! Arbitrary records, each with its signature.

use ed25519_dalek::SigningKey;
use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::erasure::Code;
use fathom_protocol::fat::{FinalFat, Follows, Lineage, Tag, Use};
use fathom_protocol::head::{Characteristics, DeviceSummary, VendorHead, VendorRecord};
use fathom_protocol::header::{Header, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, DeviceId, FileId, LeaseId, NodeId};
use fathom_protocol::lease::{Lease, Named};
use fathom_protocol::limits::{CHUNK_BYTES_MAX, HOPS_MAX, LEASES_MAX, SHARDS_MAX};
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::rebuild::{Rebuild, Source};
use fathom_protocol::receipt::{Receipt, ValidatedPart};
use fathom_protocol::root::lease_root;
use fathom_protocol::route::RATE_MAX;
use fathom_protocol::route::coordinate::{Coordinate, DIMENSIONS, ERROR_PERMILLE_MAX, PLACE_US_MAX};
use fathom_protocol::sign::Signed;
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{
    AllocateRequest, Cancel, FetchRequest, OwnerQuery, PeerRecord, Renew, Roles, Unused, Validation, Wants,
};
use fathom_tests::samples::{LEASE_STATES, key};

use super::Draw;

impl Draw {
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

    pub(crate) fn coordinate(&mut self) -> Coordinate {
        let mut place = [0; DIMENSIONS];
        let span = 2 * u64::from(PLACE_US_MAX.unsigned_abs()) + 1;
        place.fill_with(|| self.below(span) as i32 - PLACE_US_MAX);
        let height = self.below(span / 2 + 1) as u32;
        Coordinate { place, height, error: self.below(u64::from(ERROR_PERMILLE_MAX) + 1) as u32 }
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
                up_bytes_per_s: self.below(RATE_MAX + 1),
                down_bytes_per_s: self.below(RATE_MAX + 1),
                coordinate: self.maybe(Self::coordinate),
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
}
