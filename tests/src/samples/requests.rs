//! Signed requests and announcements, and refusals.

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::ids::{ChunkId, Hash, LeaseId};
use fathom_protocol::table::Key;
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{
    AllocateRequest, Cancel, FetchRequest, LogCursor, OwnerQuery, PeerRecord, Refusal, RefusalKind, Renew, Roles,
    Unused, Validation, Wants,
};

use super::{NOW, addresses, file, list, node, sealed_chunk, text, user};

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
