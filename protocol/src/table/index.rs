//! The index over which two mirrors find out where their tables differ, without saying what they hold.
//!
//! Every record that is compared (heads, final FATs, moves, proofs) has a *position*, which depends on its key
//! alone, and a *digest*, which depends on key and record. The index is the 16-ary prefix tree over positions. A part is a
//! leaf exactly if it holds at most [`LEAF_MAX`] entries, so its digest depends on what it holds and not on how that came
//! about. Digests are computed when they are asked for and kept until something below them changes.
//!
//! ```text
//! position: the first 8 bytes, big-endian, of BLAKE3(key)         key: Key::to_bytes()
//! digest:   the first 16 bytes of BLAKE3(0x00, key, record hash[32])
//! leaf:     BLAKE3(0x01, position u64 le, digest[16], ...) in the order of (position, digest); 32 zero bytes if it is empty
//! part:     BLAKE3(0x02, digest[32] of each of its 16 parts)
//! ```
//! Not an exclusive or of digests: sets that cancel out are easy to make. A million entries take about 60 MB.

use std::sync::OnceLock;

use crate::ids::{FileId, Hash, NodeId, OwnerId};
use crate::tags;

use super::{Key, MoveKey, Table};

/// Entries of a part that is not divided further.
pub const LEAF_MAX: usize = 32;
/// Digits of a position; entries that share all of them are told apart by their digests alone.
pub const DEPTH_MAX: u8 = 16;
/// A leaf's list grows by so many entries at a time, since there are many leaves.
const GROWTH: usize = 4;
const OWNER_START: usize = 7;
const VENDOR_START: usize = 23;

/// Where a part of the index lies: the first `depth` hexadecimal digits of its positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    depth: u8,
    bits: u64,
}

impl Prefix {
    /// Everything.
    pub const ROOT: Self = Self { depth: 0, bits: 0 };

    /// The first `depth` digits of `bits`, at most [`DEPTH_MAX`].
    #[must_use]
    pub fn new(depth: u8, bits: u64) -> Self {
        let depth = depth.min(DEPTH_MAX);
        Self { depth, bits: bits & mask(depth) }
    }

    /// Digits that it fixes.
    #[must_use]
    pub fn depth(self) -> u8 {
        self.depth
    }

    /// Its digits, in the highest bits; the others are 0.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.bits
    }

    /// Whether `position` lies in it.
    #[must_use]
    pub fn holds(self, position: u64) -> bool {
        position & mask(self.depth) == self.bits
    }

    /// One of its sixteen parts; `None` if it is a single position.
    #[must_use]
    pub fn part(self, digit: u8) -> Option<Self> {
        let shift = 60u32.checked_sub(u32::from(self.depth) * 4)?;
        Some(Self { depth: self.depth + 1, bits: self.bits | (u64::from(digit & 15) << shift) })
    }
}

fn mask(depth: u8) -> u64 {
    u64::MAX.checked_shl(64 - u32::from(depth) * 4).unwrap_or(0)
}

fn digit(position: u64, depth: u8) -> usize {
    (position >> (60 - u32::from(depth) * 4)) as usize & 15
}

/// Where a key lies.
#[must_use]
pub fn position(key: &Key) -> u64 {
    let hash = blake3::hash(&key.to_bytes());
    hash.as_bytes()[..8].iter().fold(0, |position, byte| (position << 8) | u64::from(*byte))
}

/// Enough of a key to find it in the table again, in a quarter of its size.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Vendor([u8; VENDOR_START]),
    // A user draws the names of its files as it likes, so they are here in full; an owner is a public key.
    Fat([u8; OWNER_START], FileId),
    Other(Box<Key>),
}

impl Place {
    fn of(key: &Key) -> Self {
        match key {
            Key::Vendor(vendor) => Self::Vendor(start(&vendor.0)),
            Key::Fat(owner, file) => Self::Fat(start(&owner.0), *file),
            other => Self::Other(Box::new(*other)),
        }
    }
}

fn start<const N: usize>(bytes: &[u8; 32]) -> [u8; N] {
    std::array::from_fn(|at| bytes[at])
}

/// An identifier that starts like this and goes on with zeros.
fn lowest(start: &[u8]) -> [u8; 32] {
    std::array::from_fn(|at| start.get(at).copied().unwrap_or(0))
}

/// One record.
#[derive(Clone, Debug)]
pub struct Entry {
    position: u64,
    digest: [u8; 16],
    place: Place,
}

impl Entry {
    fn new(position: u64, key: &Key, record: Hash) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[tags::index::ENTRY]).update(&key.to_bytes()).update(&record.0);
        Self { position, digest: start(hasher.finalize().as_bytes()), place: Place::of(key) }
    }

    /// Where its key lies.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Digest of its key and record.
    #[must_use]
    pub fn digest(&self) -> &[u8; 16] {
        &self.digest
    }

    fn rank(&self) -> (u64, &[u8; 16]) {
        (self.position, &self.digest)
    }

    fn is(&self, position: u64, place: &Place) -> bool {
        self.position == position && self.place == *place
    }
}

/// What lies below a prefix.
#[derive(Debug)]
pub enum View<'a> {
    /// At most [`LEAF_MAX`] entries, or all of one position, ordered by position and digest.
    Entries(&'a [Entry]),
    /// The digests of its sixteen parts; zeros for one that holds nothing.
    Parts(Box<[[u8; 32]; 16]>),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    entries: usize,
    digest: OnceLock<[u8; 32]>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Leaf(Vec<Entry>),
    Inner(Box<[Node; 16]>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

impl Index {
    /// Notes that `record` is kept under `key`, instead of whatever was.
    pub fn put(&mut self, key: &Key, record: Hash) {
        self.put_at(position(key), key, record);
    }

    /// As [`Index::put`] at a position that the caller chooses: for tests of positions that no key has.
    pub fn put_at(&mut self, position: u64, key: &Key, record: Hash) {
        self.root.put(Entry::new(position, key, record), 0);
    }

    /// Notes that nothing is kept under `key`.
    pub fn remove(&mut self, key: &Key) {
        self.root.remove(position(key), &Place::of(key), 0);
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.root.entries
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Digest of everything.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.root.digest()
    }

    /// Digest of what lies below `prefix`; zeros if there is nothing.
    #[must_use]
    pub fn digest_of(&self, prefix: Prefix) -> [u8; 32] {
        match self.find(prefix) {
            Found::Node(node) => *node.digest(),
            Found::Entries(entries) => leaf_digest(entries),
        }
    }

    /// What lies below `prefix`.
    #[must_use]
    pub fn view(&self, prefix: Prefix) -> View<'_> {
        match self.find(prefix) {
            Found::Entries(entries) => View::Entries(entries),
            Found::Node(node) => match &node.body {
                Body::Leaf(entries) => View::Entries(entries),
                Body::Inner(parts) => View::Parts(Box::new(std::array::from_fn(|at| *parts[at].digest()))),
            },
        }
    }

    /// The entries of one position, ordered by digest.
    #[must_use]
    pub fn at(&self, position: u64) -> &[Entry] {
        match self.view(Prefix::new(DEPTH_MAX, position)) {
            View::Entries(entries) => entries,
            View::Parts(_) => &[],
        }
    }

    fn find(&self, prefix: Prefix) -> Found<'_> {
        let mut node = &self.root;
        for depth in 0..prefix.depth {
            match &node.body {
                Body::Inner(parts) => node = &parts[digit(prefix.bits, depth)],
                Body::Leaf(entries) => {
                    let from = entries.partition_point(|entry| entry.position < prefix.bits);
                    let count = entries[from..].partition_point(|entry| prefix.holds(entry.position));
                    return Found::Entries(&entries[from..from + count]);
                }
            }
        }
        Found::Node(node)
    }
}

enum Found<'a> {
    Node(&'a Node),
    Entries(&'a [Entry]),
}

impl Node {
    /// Returns whether there is one entry more than before.
    fn put(&mut self, entry: Entry, depth: u8) -> bool {
        self.digest.take();
        let more = match &mut self.body {
            Body::Inner(parts) => parts[digit(entry.position, depth)].put(entry, depth + 1),
            Body::Leaf(entries) => {
                let before = entries.len();
                entries.retain(|known| !known.is(entry.position, &entry.place));
                if entries.len() == entries.capacity() {
                    entries.reserve_exact(GROWTH);
                }
                let at = entries.partition_point(|known| known.rank() < entry.rank());
                entries.insert(at, entry);
                entries.len() > before
            }
        };
        self.entries += usize::from(more);
        self.divide(depth);
        more
    }

    /// Makes sixteen parts of a leaf that has become too large.
    fn divide(&mut self, depth: u8) {
        let Body::Leaf(entries) = &mut self.body else { return };
        if entries.len() <= LEAF_MAX || depth >= DEPTH_MAX {
            return;
        }
        let mut parts: Box<[Node; 16]> = Box::default();
        for entry in std::mem::take(entries) {
            parts[digit(entry.position, depth)].put(entry, depth + 1);
        }
        self.body = Body::Inner(parts);
    }

    /// Returns whether there is one entry less than before.
    fn remove(&mut self, position: u64, place: &Place, depth: u8) -> bool {
        let less = match &mut self.body {
            Body::Inner(parts) => parts[digit(position, depth)].remove(position, place, depth + 1),
            Body::Leaf(entries) => {
                let before = entries.len();
                entries.retain(|known| !known.is(position, place));
                entries.len() < before
            }
        };
        if less {
            self.digest.take();
            self.entries -= 1;
            if self.entries <= LEAF_MAX
                && let Body::Inner(parts) = &mut self.body
            {
                let mut all = Vec::with_capacity(self.entries);
                parts.iter_mut().for_each(|part| part.collect(&mut all));
                self.body = Body::Leaf(all);
            }
        }
        less
    }

    fn collect(&mut self, all: &mut Vec<Entry>) {
        match &mut self.body {
            Body::Leaf(entries) => all.append(entries),
            Body::Inner(parts) => parts.iter_mut().for_each(|part| part.collect(all)),
        }
    }

    fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| match &self.body {
            Body::Leaf(entries) => leaf_digest(entries),
            Body::Inner(parts) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&[tags::index::NODE]);
                for part in parts.iter() {
                    hasher.update(part.digest());
                }
                *hasher.finalize().as_bytes()
            }
        })
    }
}

fn leaf_digest(entries: &[Entry]) -> [u8; 32] {
    if entries.is_empty() {
        return [0; 32];
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[tags::index::LEAF]);
    for entry in entries {
        hasher.update(&entry.position.to_le_bytes()).update(&entry.digest);
    }
    *hasher.finalize().as_bytes()
}

impl Table {
    /// The index of what is kept, for comparison with another mirror.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The key of an entry of this table's index.
    #[must_use]
    pub fn key_of(&self, entry: &Entry) -> Option<Key> {
        let is_it = |key: &Key| position(key) == entry.position;
        match &entry.place {
            Place::Other(key) => Some(**key),
            Place::Vendor(start) => self
                .vendors
                .range(NodeId(lowest(start))..)
                .map(|(vendor, _)| *vendor)
                .take_while(|vendor| vendor.0.starts_with(start))
                .map(Key::Vendor)
                .find(is_it),
            Place::Fat(start, file) => {
                use std::ops::Bound::{Excluded, Included, Unbounded};
                let mut from = Included((OwnerId(lowest(start)), FileId([0; FileId::LEN])));
                // Owners with one start: one, but for those who spent years to find two.
                while let Some(((owner, _), _)) = self.fats.range((from, Unbounded)).next()
                    && owner.0.starts_with(start)
                {
                    let key = Key::Fat(*owner, *file);
                    if self.fats.contains_key(&(*owner, *file)) && is_it(&key) {
                        return Some(key);
                    }
                    from = Excluded((*owner, FileId([0xff; FileId::LEN])));
                }
                None
            }
        }
    }

    /// How new the record of `key` is, to be compared with another record of the same key: the lower of two never wins. Equal
    /// heights say nothing.
    #[must_use]
    pub fn height(&self, key: &Key) -> Option<(u64, u64)> {
        match key {
            Key::Vendor(vendor) => self.vendors.get(vendor).map(|known| (known.head.epoch, known.head.seq)),
            // Of versions that do not follow each other, the lower is a twin where both are known, and found by that key.
            Key::Fat(owner, file) => {
                self.fats.get(&(*owner, *file)).map(|known| (crate::fat::Tag(known.seq).counter(), 0))
            }
            Key::Move(key) => self.height_of_move(key),
            Key::Twin(..) | Key::Proof(_) => None,
        }
    }

    fn height_of_move(&self, key: &MoveKey) -> Option<(u64, u64)> {
        self.moves.get(key).map(|(_, moved)| (moved.seq, 0))
    }
}
