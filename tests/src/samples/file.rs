//! What a user makes of a file: chunks, their headers, manifests, final FATs, and moves of a chunk.

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::erasure::{Code, encode as encode_parity};
use fathom_protocol::fat::{ChunkRef, FileMeta, FinalFat, Follows, Lineage, Manifest, ParityRef, Place, Tag, Use};
use fathom_protocol::header::{Header, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, LeaseId};
use fathom_protocol::limits::FOLLOWS_MAX;
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::rebuild::{Rebuild, Source};
use fathom_protocol::seal::seal_chunk;
use fathom_protocol::sign::Signed;
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::FetchRequest;

use super::{NOW, TAG, addresses, by_user, fetch, file, head, key, lease, list, node, signed, text, user};

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
