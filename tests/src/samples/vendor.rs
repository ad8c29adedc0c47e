//! What vendors sign: leases and heads, what proves a lease or speaks against its vendor, and receipts.

use fathom_protocol::delta::VendorDelta;
use fathom_protocol::fork::{Dropped, ForkProof};
use fathom_protocol::head::{Characteristics, DeviceSummary, LeaseEvidence, VendorHead, VendorRecord, VerifiedVendor};
use fathom_protocol::ids::{ChunkId, DeviceId, Hash, LeaseId};
use fathom_protocol::lease::{Lease, LeaseState, Named};
use fathom_protocol::receipt::{Receipt, ValidatedPart};
use fathom_protocol::root::{Entry, LeaseRoot, lease_root};
use fathom_protocol::route::coordinate::Coordinate;
use fathom_protocol::sign::Signed;
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;

use super::{NOW, TAG, addresses, by_user, file, final_fat, key, list, node, sealed_chunk, signed, text, user};

/// Capacity of a sample vendor, bytes.
pub const CAPACITY: u64 = 1 << 30;

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

/// Somewhere.
#[must_use]
pub fn coordinate() -> Coordinate {
    Coordinate { place: [12_000, -34_000, 5_600], height: 7_800, error: 120 }
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
            up_bytes_per_s: 0,
            down_bytes_per_s: 0,
            coordinate: None,
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

/// The head of a vendor that has found out what its link is like.
#[must_use]
pub fn measured_head(vendor: u8) -> VendorHead {
    let head = head(vendor, 17, &[]);
    let characteristics = Characteristics {
        up_bytes_per_s: 2_500_000,
        down_bytes_per_s: 12_500_000,
        coordinate: Some(coordinate()),
        ..head.characteristics.clone()
    };
    VendorHead { characteristics, ..head }
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

/// Evidence that vendor 1 has its lease 2, and that it has no lease 3.
#[must_use]
pub fn evidence(lease: u8) -> LeaseEvidence {
    vendor_record(1, 17).verify().expect("a sample holds together").evidence(LeaseId([lease; 16]))
}

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
