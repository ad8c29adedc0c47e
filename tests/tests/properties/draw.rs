//! Arbitrary values of every wire type from one number, so that a failing case is replayed by that number alone.

mod messages;
mod records;

use ed25519_dalek::SigningKey;
use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::head::Addresses;
use fathom_protocol::ids::{Hash, NodeId, OwnerId};
use fathom_protocol::sign::{Record, Signed};
use fathom_protocol::time::UnixMs;
use fathom_tests::samples::key;

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
}
