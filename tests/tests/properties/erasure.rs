//! Erasure coding: any k shards of a stripe give back the others, whatever their lengths, and stripes hold all of a file.

use std::collections::BTreeSet;

use fathom_protocol::codec::Text;
use fathom_protocol::erasure::{Code, CodingError, Stripes, encode, parity_len, rebuild};
use fathom_protocol::fat::{ChunkRef, FileMeta, Manifest, ManifestError, ParityRef, Place};
use fathom_protocol::ids::{ChunkId, LeaseId, NodeId};
use fathom_protocol::limits::{CHUNK_BYTES_MAX, SHARDS_MAX};
use fathom_protocol::moves::Move;
use fathom_protocol::rebuild::{self as order, Rebuild};
use fathom_protocol::seal::sealed_len;
use fathom_protocol::sign::Signed;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::RefusalKind;
use fathom_tests::samples;
use proptest::prelude::*;

/// Bytes that look random and follow from `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A code, the data shards of a stripe of it, and an order of all its shards.
fn stripes(longest: usize) -> impl Strategy<Value = (Code, Vec<Vec<u8>>, Vec<usize>)> {
    (2..SHARDS_MAX as u8).prop_flat_map(move |data| {
        let parity = 1..=(SHARDS_MAX as u8 - data);
        (Just(data), parity, 1..=usize::from(data), any::<u64>()).prop_flat_map(move |(data, parity, count, seed)| {
            let code = Code::new(data, parity).unwrap();
            let lengths = prop::collection::vec(1..longest, count);
            let positions: Vec<usize> = (0..count).chain(code.data()..code.total()).collect();
            let shards = lengths.prop_map(move |lengths| {
                lengths.iter().zip(seed..).map(|(length, seed)| noise(seed, *length)).collect::<Vec<_>>()
            });
            (Just(code), shards, Just(positions).prop_shuffle())
        })
    })
}

fn slices(shards: &[Vec<u8>]) -> Vec<&[u8]> {
    shards.iter().map(Vec::as_slice).collect()
}

/// All shards of a stripe by position, those that it lacks left out.
fn whole(code: Code, data: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    let parity = encode(code, &slices(data)).unwrap();
    data.iter().cloned().enumerate().chain((code.data()..).zip(parity)).collect()
}

fn lengths(data: &[Vec<u8>]) -> Vec<u32> {
    data.iter().map(|shard| shard.len() as u32).collect()
}

fn place(number: usize) -> Place {
    let id = u8::try_from(number).unwrap();
    Place { vendor: NodeId([id; 32]), lease: LeaseId([id; 16]) }
}

/// A file of these stripes, each piece at the vendor of its position.
fn manifest(stripes: Stripes) -> Result<Manifest, ManifestError> {
    let id = |piece: u64| ChunkId::of(&piece.to_le_bytes());
    let at = |piece: u64| u16::try_from(stripes.place(piece).1).unwrap();
    let chunk = |piece: u64| ChunkRef { id: id(piece), salt: [7; 8], copies: vec![at(piece)] };
    let shard = |piece: u64| ParityRef { id: id(piece), place: Some(at(piece)) };
    let chunks: Vec<ChunkRef> = (0..stripes.chunks()).map(chunk).collect();
    let parity: Vec<ParityRef> = (stripes.chunks()..stripes.pieces()).map(shard).collect();
    let meta = FileMeta {
        name: Text::new("a/b").unwrap(),
        size: stripes.size,
        mode: 0o644,
        modified: UnixMs(1),
        chunk_plain: stripes.chunk_plain,
    };
    let places = (0..stripes.code.total()).map(place).collect();
    Manifest::coded(meta, [1; 32], places, stripes.code, (&chunks, &parity))
}

proptest! {
    #![proptest_config(crate::config(96))]

    /// What repair, moves and the bytes that a final FAT claims go by.
    #[test]
    fn every_piece_of_a_manifest_is_told_and_moved(
        data in 2..6u8, parity in 1..4u8, size in 0..300_000u64, chunk_plain in 5_000..70_000u32, which: prop::sample::Index,
    ) {
        let stripes = Stripes { code: Code::new(data, parity).unwrap(), size, chunk_plain };
        let manifest = manifest(stripes).unwrap();
        prop_assert_eq!((manifest.code(), manifest.stripes()), (Some(stripes.code), Some(stripes)));
        prop_assert_eq!(manifest.piece_count() as u64, stripes.pieces());
        for (number, piece) in manifest.pieces().enumerate() {
            prop_assert_eq!(piece.length, stripes.len(number as u64));
            let at: Vec<Place> = manifest.places_of_piece(&piece).collect();
            prop_assert_eq!(at, vec![place(stripes.place(number as u64).1)]);
        }
        prop_assert!(manifest.piece(manifest.piece_count()).is_none());
        let sealed = samples::user().seal_manifest(&manifest, samples::file(), 3, [4; 24]).unwrap();
        prop_assert_eq!(samples::user().open_manifest(&sealed, samples::file(), 3).unwrap(), manifest.clone());
        if size > 0 {
            // One piece goes elsewhere, chunk or parity, and none of the others.
            let moved = which.index(manifest.piece_count());
            let from = place(stripes.place(moved as u64).1);
            let piece = manifest.piece(moved).unwrap();
            let to = place(40);
            let step = Move {
                chunk: piece.id, from: from.vendor, from_lease: from.lease, to: to.vendor, to_lease: to.lease,
                ..samples::move_body()
            };
            let after = manifest.with_moves(&[step]).unwrap();
            for (number, (was, is)) in manifest.pieces().zip(after.pieces()).enumerate() {
                let at: Vec<Place> = after.places_of_piece(&is).collect();
                prop_assert_eq!((was.id, was.length), (is.id, is.length));
                let expected = if number == moved { to } else { place(stripes.place(number as u64).1) };
                prop_assert_eq!(at, vec![expected]);
            }
            prop_assert!(after.used_places().contains(&to) && after.same_content(&manifest));
        }
    }

    #[test]
    fn any_k_shards_give_back_the_others((code, data, order) in stripes(3_000)) {
        let (all, lengths) = (whole(code, &data), lengths(&data));
        let bytes = |position: usize| &all.iter().find(|(at, _)| *at == position).unwrap().1;
        let (kept, lost) = order.split_at(data.len());
        let present: Vec<(usize, &[u8])> = kept.iter().map(|at| (*at, bytes(*at).as_slice())).collect();
        let made = rebuild(code, &lengths, &present, lost).unwrap();
        for (at, made) in lost.iter().zip(made) {
            prop_assert!(made == *bytes(*at), "shard {} of {} from {:?}", at, code, kept);
        }
        // What is there already is given back as it is, and one shard less is too few.
        prop_assert_eq!(&rebuild(code, &lengths, &present, &kept[..1]).unwrap()[0], bytes(kept[0]));
        let too_few = rebuild(code, &lengths, &present[1..], lost);
        prop_assert_eq!(too_few, Err(CodingError::TooFew { had: data.len() - 1, needed: data.len() }));
    }

    /// A vendor that serves something else, which the hash of each shard shows, must not pass unseen through the code either.
    #[test]
    fn a_wrong_shard_makes_wrong_shards((code, data, order) in stripes(500), bit in 0..8u8) {
        let (all, lengths) = (whole(code, &data), lengths(&data));
        let bytes = |position: usize| all.iter().find(|(at, _)| *at == position).unwrap().1.clone();
        let (kept, lost) = order.split_at(data.len());
        let mut present: Vec<(usize, Vec<u8>)> = kept.iter().map(|at| (*at, bytes(*at))).collect();
        present[0].1[0] ^= 1 << bit;
        let present: Vec<(usize, &[u8])> = present.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
        let made = rebuild(code, &lengths, &present, lost).unwrap();
        // Each symbol of a lost shard depends on that of every kept one; of a shorter data shard the symbol may be past its end.
        let first = made.iter().zip(lost).all(|(made, at)| ChunkId::of(made) != ChunkId::of(&bytes(*at)));
        let short = data.iter().any(|shard| shard.len() <= 32);
        prop_assert!(first || short);
    }

    #[test]
    fn stripes_hold_every_piece_of_a_file_once(
        data in 2..12u8, parity in 1..4u8, size in 0..2_000_000u64, chunk_plain in 1_000..200_000u32,
    ) {
        let stripes = Stripes { code: Code::new(data, parity).unwrap(), size, chunk_plain };
        let mut seen = BTreeSet::new();
        let mut plain = 0;
        for stripe in 0..stripes.count() {
            let members = stripes.members(stripe);
            let lengths = stripes.lengths(stripe);
            prop_assert_eq!(members.len(), lengths.len() + usize::from(parity));
            for (position, piece) in members {
                prop_assert_eq!(stripes.place(piece), (stripe, position));
                prop_assert!(seen.insert(piece));
                plain += if piece < stripes.chunks() { u64::from(stripes.plain_len(piece)) } else { 0 };
                let length = lengths.get(position).copied().unwrap_or_else(|| parity_len(&lengths));
                prop_assert_eq!(stripes.len(piece), length);
                prop_assert!(piece >= stripes.chunks() || length == sealed_len(stripes.plain_len(piece)));
            }
        }
        prop_assert_eq!(plain, size);
        prop_assert!(seen.into_iter().eq(0..stripes.pieces()));
    }
}

/// Parity is stored for as long as its data: how it is computed here, in slices, is no part of the format.
#[test]
fn parity_is_the_same_however_it_is_sliced() {
    let code = Code::new(4, 2).unwrap();
    for length in [1, 63, 64, 65, 65_536, 65_537, 200_001] {
        let data: Vec<Vec<u8>> = (0..4).map(|seed| noise(seed, length)).collect();
        let sliced = encode(code, &slices(&data)).unwrap();
        for from in (0..length).step_by(64) {
            let unit: Vec<Vec<u8>> = data.iter().map(|shard| shard[from..length.min(from + 64)].to_vec()).collect();
            let alone = encode(code, &slices(&unit)).unwrap();
            for (sliced, alone) in sliced.iter().zip(alone) {
                assert_eq!(sliced[from..from + 64], alone);
            }
            if from > 130_000 {
                break;
            }
        }
    }
}

/// Shards of full length, several lost: as much as one chunk may have.
#[test]
fn the_longest_shards_are_made_again() {
    let code = Code::new(4, 2).unwrap();
    let data: Vec<Vec<u8>> = (0..4).map(|seed| noise(seed, CHUNK_BYTES_MAX)).collect();
    let all = whole(code, &data);
    let present: Vec<(usize, &[u8])> = [1, 3, 4, 5].map(|at| (at, all[at].1.as_slice())).to_vec();
    let made = rebuild(code, &lengths(&data), &present, &[0, 2]).unwrap();
    assert!(made[0] == data[0] && made[1] == data[2]);
    // Shards that end before, at and after a border between what is worked on at a time.
    let data: Vec<Vec<u8>> = [262_145, 262_143, 65_537, 524_289].map(|length| noise(7, length)).to_vec();
    let all = whole(code, &data);
    for (lost, kept) in [([0, 1], [2, 3, 4, 5]), ([2, 3], [0, 1, 4, 5]), ([1, 5], [0, 2, 3, 4])] {
        let present: Vec<(usize, &[u8])> = kept.map(|at| (at, all[at].1.as_slice())).to_vec();
        let made = rebuild(code, &lengths(&data), &present, &lost).unwrap();
        assert!(made[0] == all[lost[0]].1 && made[1] == all[lost[1]].1, "{lost:?}");
    }
    let long = vec![0; CHUNK_BYTES_MAX + 1];
    assert_eq!(encode(code, &[&long]), Err(CodingError::Shape));
}

#[test]
fn what_is_no_stripe_is_refused() {
    let code = Code::new(2, 1).unwrap();
    let shard: &[u8] = &[1, 2, 3];
    for data in [&[][..], &[shard, shard, shard], &[shard, &[]]] {
        assert_eq!(encode(code, data), Err(CodingError::Shape));
    }
    for (present, wanted) in [
        (vec![(0, shard), (1, &shard[..2])], vec![2]),
        (vec![(0, shard), (3, shard)], vec![1]),
        (vec![(0, shard), (1, shard)], vec![3]),
        (vec![(0, shard), (2, shard)], vec![1]),
    ] {
        assert_eq!(rebuild(code, &[3, 3], &present, &wanted), Err(CodingError::Shape), "{present:?} {wanted:?}");
    }
    // Of a stripe with one data shard, the other counts as zeros and is nowhere.
    assert_eq!(rebuild(code, &[3], &[(0, shard)], &[1]), Err(CodingError::Shape));
    assert_eq!(rebuild(code, &[3], &[(0, shard)], &[2]).unwrap(), encode(code, &[shard]).unwrap());
}

#[test]
fn codes_are_read_as_they_are_written() {
    for text in ["4+2", "2+1", "15+1", "2+14", "10+6"] {
        assert_eq!(text.parse::<Code>().unwrap().to_string(), text);
    }
    for text in ["", "4", "+", "4+", "+2", "1+2", "4+0", "12+5", "16+1", "4+2+1", "-4+2", "300+2", "four+two", "4 2"] {
        assert!(text.parse::<Code>().is_err(), "{text}");
    }
    let code = fathom_protocol::codec::encode(&(4u8, 0u8));
    assert!(fathom_protocol::codec::decode::<Code>(&code, 100).is_err(), "decoding checks as reading does");
}

#[test]
fn manifests_whose_parity_does_not_fit_are_refused() {
    let stripes = Stripes { code: Code::new(2, 1).unwrap(), size: 50_000, chunk_plain: 10_000 };
    let good = manifest(stripes).unwrap();
    let invalid = |manifest: &Manifest| matches!(manifest.check(), Err(ManifestError::Invalid(_)));
    // The version says whether there is parity: a build that knows none must not drop it when it writes the file anew.
    assert_eq!(good.version, fathom_protocol::tags::MANIFEST_CODED);
    let mut other = good.clone();
    other.version = 1;
    assert!(invalid(&other));
    let mut other = samples::manifest();
    other.version = 2;
    assert!(invalid(&other));
    let mut other = good.clone();
    other.copies_per_chunk = 2;
    assert!(invalid(&other));
    // A longer file needs another stripe.
    let mut other = good.clone();
    other.size = 60_001;
    assert!(invalid(&other));
    let places = good.places.to_vec();
    assert!(matches!(good.placed(places.clone(), &[vec![0]]), Err(ManifestError::Invalid(_))));
    assert!(matches!(good.placed(places, &vec![vec![9]; good.piece_count()]), Err(ManifestError::Invalid(_))));
    let nowhere = good.placed(Vec::new(), &vec![vec![]; good.piece_count()]).unwrap();
    assert!(nowhere.pieces().all(|piece| piece.copies.is_empty()), "a lost shard may be nowhere");
}

fn sign(order: Rebuild) -> Signed<Rebuild> {
    samples::signed(order, samples::user().signing())
}

#[test]
fn a_vendor_acts_on_an_order_for_itself_and_a_shard_of_that_stripe_only() {
    let (me, now) = (samples::node(3), samples::NOW);
    let accepted = order::accept(sign(samples::rebuild()), me, now).unwrap();
    assert_eq!((accepted.position, accepted.shards.len()), (2, 2));
    let refused = |change: &dyn Fn(&mut Rebuild)| {
        let mut order = samples::rebuild();
        change(&mut order);
        order::accept(sign(order), me, now).unwrap_err().kind
    };
    assert_eq!(
        order::accept(sign(samples::rebuild()), samples::node(2), now).unwrap_err().kind,
        RefusalKind::NotAuthorised
    );
    assert_eq!(refused(&|order| order.expires = UnixMs(1)), RefusalKind::LeaseExpired);
    assert_eq!(refused(&|order| order.position = 1), RefusalKind::BadRequest);
    assert_eq!(refused(&|order| order.position = 9), RefusalKind::BadRequest);
    assert_eq!(
        refused(&|order| order.lengths = fathom_protocol::codec::Bounded::first([75_000])),
        RefusalKind::BadRequest
    );
    // A source that did not sign that it is a vendor is not dialled: its head is another vendor's, or nobody's.
    let swapped = |order: &mut Rebuild| {
        let mut sources = order.sources.clone().into_vec();
        sources[0].head = sources[1].head.clone();
        order.sources = fathom_protocol::codec::Bounded::first(sources);
    };
    assert_eq!(refused(&swapped), RefusalKind::NotAuthorised);
    let twice = |order: &mut Rebuild| {
        let source = order.sources[0].clone();
        order.sources = fathom_protocol::codec::Bounded::first([source.clone(), source]);
    };
    assert_eq!(refused(&twice), RefusalKind::BadRequest);
    // With fewer shards than are needed it is no order at all.
    let few = Rebuild { sources: fathom_protocol::codec::Bounded::default(), ..samples::rebuild() };
    assert!(Signed::sign(few, samples::user().signing()).is_err());
}

/// Measured: what a chunk of a file with parity costs mirrors.
#[test]
fn a_manifest_with_parity_has_at_most_60_bytes_for_each_chunk() {
    let code = Code::new(4, 2).unwrap();
    let stripes = Stripes { code, size: 10_000 * (4 << 20), chunk_plain: 4 << 20 };
    let sealed = samples::user().seal_manifest(&manifest(stripes).unwrap(), samples::file(), 1, [0; 24]).unwrap();
    let per_chunk = sealed.len() as f64 / 10_000.0;
    println!("10,000 chunks with {code}: {} bytes, {per_chunk:.2} a chunk", sealed.len());
    assert!(per_chunk <= 60.0, "{per_chunk}");
}
