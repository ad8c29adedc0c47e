//! One value of every type that goes over the wire or onto a disk, the same in each run: fixed keys, times and nonces.
//! Golden bytes and the seeds of the fuzz targets are made from these.

use ed25519_dalek::SigningKey;
use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::fat::Tag;
use fathom_protocol::head::{Address, Addresses};
use fathom_protocol::ids::{FileId, NodeId};
use fathom_protocol::keys::{Phrase, UserKeys};
use fathom_protocol::sign::{Record, Signed};
use fathom_protocol::time::UnixMs;

mod file;
mod golden;
mod messages;
mod requests;
mod vendor;

pub use file::{
    all_before, coded_manifest, cosigned_move, final_fat, header, hop, hops, manifest, move_body, parity, plain_chunk,
    proposed_move, rebuild, release, sealed_chunk, sealed_manifest,
};
pub use golden::golden;
pub use messages::{chunk_answers, fetch_answers, gossips, requests, responses, sync_records};
pub use requests::{REFUSAL_KINDS, allocate, cancel, fetch, peer, query, refusal, renew, unused, validation};
pub use vendor::{
    CAPACITY, LEASE_STATES, coordinate, delta, dropped, entries, evidence, head, lease, lease_id, measured_head,
    receipt, root_of, twins, vendor_record,
};

/// The moment at which all samples were made.
pub const NOW: UnixMs = UnixMs(1_800_000_000_000);

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

/// The sample file.
#[must_use]
pub fn file() -> FileId {
    user().file_id("photos/summer.jpg")
}

/// The tag of the samples.
const TAG: Tag = Tag::new(4, 0x1234);

pub(crate) fn by_user<T: Record>(value: T) -> Signed<T> {
    signed(value, user().signing())
}
