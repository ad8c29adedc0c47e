//! Manifests: packing, sealing, and moves laid over them in whatever order they come.

use std::collections::BTreeSet;

use fathom_protocol::codec::Text;
use fathom_protocol::fat::{ChunkRef, FileMeta, Manifest, ManifestError, Place};
use fathom_protocol::ids::{ChunkId, LeaseId, NodeId};
use fathom_protocol::keys::OpenManifestError;
use fathom_protocol::limits::{CHUNK_PLAIN_MAX, COPIES_MAX};
use fathom_protocol::moves::Move;
use fathom_protocol::time::UnixMs;
use fathom_tests::samples;
use proptest::prelude::*;

fn place(number: u8) -> Place {
    Place { vendor: NodeId([number; 32]), lease: LeaseId([number; 16]) }
}

fn id(chunk: usize) -> ChunkId {
    ChunkId::of(&chunk.to_le_bytes())
}

fn meta(size: u64, chunk_plain: u32) -> FileMeta {
    FileMeta { name: Text::new("a/b").unwrap(), size, mode: 0o644, modified: UnixMs(1), chunk_plain }
}

fn pack(copies: &[Vec<u16>], places: u8, per_chunk: u8) -> Result<Manifest, ManifestError> {
    let chunks: Vec<ChunkRef> = copies
        .iter()
        .enumerate()
        .map(|(index, copies)| ChunkRef { id: id(index), salt: [index as u8; 8], copies: copies.clone() })
        .collect();
    let size = copies.len() as u64 * 1000;
    Manifest::new(meta(size, 1000), [1; 32], (0..places).map(place).collect(), per_chunk, &chunks)
}

fn a_move(chunk: usize, from: u8, to: u8) -> Move {
    Move {
        chunk: id(chunk),
        from: place(from).vendor,
        from_lease: place(from).lease,
        to: place(to).vendor,
        to_lease: place(to).lease,
        ..samples::move_body()
    }
}

/// Where chunk `index` is, as a sorted list of places.
fn whereabouts(manifest: &Manifest, index: usize) -> Vec<Place> {
    let chunk = manifest.chunk(index).unwrap();
    let mut places: Vec<Place> = chunk.copies.iter().map(|copy| manifest.places[usize::from(*copy)]).collect();
    places.sort_unstable();
    places
}

/// Places of one chunk and of moves out of it: at most one move leaves each place, some begin where the chunk never was.
fn chain() -> impl Strategy<Value = (BTreeSet<u8>, Vec<(u8, u8)>)> {
    let moves = prop::collection::btree_map(0..12u8, 0..12u8, 0..8)
        .prop_map(|moves| moves.into_iter().filter(|(from, to)| from != to).collect::<Vec<_>>());
    (prop::collection::btree_set(0..6u8, 1..4), moves)
}

proptest! {
    #![proptest_config(crate::config(128))]

    #[test]
    fn chunks_are_unpacked_as_they_were_packed(
        copies in prop::collection::vec(prop::collection::vec(0..9u16, 0..4), 0..40), last in 0..1000u64,
    ) {
        let manifest = pack(&copies, 9, 3).unwrap();
        prop_assert_eq!(manifest.chunk_count(), copies.len());
        for (index, copies) in copies.iter().enumerate() {
            let chunk = manifest.chunk(index).unwrap();
            prop_assert_eq!((chunk.id, chunk.salt), (id(index), [index as u8; 8]));
            prop_assert_eq!(&chunk.copies, copies);
        }
        prop_assert!(manifest.chunk(copies.len()).is_none());
        prop_assert_eq!(manifest.chunks().count(), copies.len());
        // The size need not be a multiple, but the number of chunks must fit it.
        let chunks: Vec<ChunkRef> = manifest.chunks().collect();
        let size = (copies.len() as u64 * 1000).saturating_sub(last);
        let places: Vec<Place> = manifest.places.to_vec();
        let shorter = Manifest::new(meta(size, 1000), [1; 32], places, 3, &chunks).unwrap();
        let lengths: u64 = (0..chunks.len()).map(|index| u64::from(shorter.plain_len(index))).sum();
        prop_assert_eq!(lengths, size);
    }

    #[test]
    fn a_sealed_manifest_opens_for_its_file_number_and_user_only(seq: u64, nonce: [u8; 24], at: prop::sample::Index, bit in 0..8u8) {
        let (user, file) = (samples::user(), samples::file());
        let manifest = samples::manifest();
        let sealed = user.seal_manifest(&manifest, file, seq, nonce).unwrap().to_vec();
        prop_assert_eq!(user.open_manifest(&sealed, file, seq).unwrap(), manifest);
        let closed = Err(OpenManifestError::Sealed);
        prop_assert_eq!(user.open_manifest(&sealed, file, seq ^ 1), closed.clone());
        prop_assert_eq!(user.open_manifest(&sealed, user.file_id("other"), seq), closed.clone());
        let other = fathom_protocol::keys::Phrase::from_entropy([8; 32]).user_keys();
        prop_assert_eq!(other.open_manifest(&sealed, file, seq), closed.clone());
        let mut flipped = sealed.clone();
        let at = at.index(sealed.len());
        flipped[at] ^= 1 << bit;
        prop_assert_eq!(user.open_manifest(&flipped, file, seq), closed.clone());
        prop_assert_eq!(user.open_manifest(&sealed[..at], file, seq), closed);
    }

    /// Mirrors keep moves in the order of their keys, not in the order in which they happened.
    #[test]
    fn moves_give_one_result_in_any_order((at, moves) in chain(), shuffle in prop::collection::vec(any::<u32>(), 8)) {
        let copies: Vec<u16> = at.iter().map(|place| u16::from(*place)).collect();
        let manifest = pack(&[vec![], copies, vec![3]], 6, 4).unwrap();
        let moves: Vec<Move> = moves.iter().map(|(from, to)| a_move(1, *from, *to)).collect();
        let mut order: Vec<usize> = (0..moves.len()).collect();
        order.sort_by_key(|index| shuffle[*index]);
        let shuffled: Vec<Move> = order.iter().map(|index| moves[*index].clone()).collect();
        let first = manifest.with_moves(&moves).unwrap();
        let second = manifest.with_moves(&shuffled).unwrap();
        prop_assert_eq!(whereabouts(&first, 1), whereabouts(&second, 1));
        // No copy is lost, no other chunk is touched.
        prop_assert_eq!(whereabouts(&first, 1).len(), at.len());
        prop_assert_eq!(whereabouts(&first, 2), vec![place(3)]);
        first.check().unwrap();
    }

    #[test]
    fn a_chain_of_moves_is_followed_to_its_end(length in 1..10u8, shuffle in prop::collection::vec(any::<u32>(), 10)) {
        let manifest = pack(&[vec![0]], 1, 1).unwrap();
        let mut moves: Vec<Move> = (0..length).map(|step| a_move(0, step, step + 1)).collect();
        moves.sort_by_key(|moved| shuffle[usize::from(moved.from.0[0])]);
        let moved = manifest.with_moves(&moves).unwrap();
        prop_assert_eq!(whereabouts(&moved, 0), vec![place(length)]);
    }

    #[test]
    fn moves_of_unknown_chunks_and_places_change_nothing(from in 0..12u8, to in 0..12u8) {
        let manifest = pack(&[vec![0, 1]], 2, 2).unwrap();
        let strangers = [a_move(7, 0, to), a_move(0, from.max(2), to)];
        prop_assert_eq!(manifest.with_moves(&strangers).unwrap(), manifest);
    }
}

/// Once, both copies went along with the first move, and the result depended on which move was laid over first.
#[test]
fn a_copy_that_moves_to_where_another_left_is_not_taken_along() {
    let manifest = pack(&[vec![0, 1]], 2, 2).unwrap();
    let (in_to_1, out_of_1) = (a_move(0, 0, 1), a_move(0, 1, 2));
    for moves in [[in_to_1.clone(), out_of_1.clone()], [out_of_1, in_to_1]] {
        assert_eq!(whereabouts(&manifest.with_moves(&moves).unwrap(), 0), vec![place(1), place(2)]);
    }
}

#[test]
fn manifests_that_do_not_hold_together_are_refused() {
    let invalid = |manifest: Result<Manifest, ManifestError>| matches!(manifest, Err(ManifestError::Invalid(_)));
    assert!(invalid(pack(&[vec![2]], 2, 1)), "a copy at no place");
    assert!(invalid(pack(&[vec![0, 1]], 2, 1)), "more copies than the file has");
    assert!(invalid(pack(&[vec![]], 2, 0)));
    assert!(pack(&[vec![]], 2, COPIES_MAX as u8).is_ok());
    assert!(invalid(pack(&[vec![]], 2, COPIES_MAX as u8 + 1)));
    assert!(invalid(Manifest::new(meta(1, 1), [1; 32], vec![], 1, &[])), "a chunk is missing");
    assert!(Manifest::new(meta(0, 1), [1; 32], vec![], 1, &[]).is_ok(), "an empty file has no chunk");
    assert!(invalid(Manifest::new(meta(0, 0), [1; 32], vec![], 1, &[])));
    assert!(Manifest::new(meta(0, CHUNK_PLAIN_MAX as u32), [1; 32], vec![], 1, &[]).is_ok());
    assert!(invalid(Manifest::new(meta(0, CHUNK_PLAIN_MAX as u32 + 1), [1; 32], vec![], 1, &[])));
    let mut newer = samples::manifest();
    newer.version = 3;
    assert_eq!(newer.check(), Err(ManifestError::Version(3)));
}

#[test]
fn a_manifest_takes_as_many_chunks_as_its_limit_says() {
    // limits.rs says about 130,000 chunks at 3 copies; sealed, so that all of it is counted.
    let chunks: Vec<Vec<u16>> = vec![vec![0, 1, 2]; 130_000];
    let manifest = pack(&chunks, 3, 3).unwrap();
    assert!(samples::user().seal_manifest(&manifest, samples::file(), 1, [0; 24]).is_ok());
}

#[test]
fn file_names_are_hidden_and_distinct() {
    let user = samples::user();
    let names: BTreeSet<_> = ["a", "b", "a/b", "a/", "", "A"].into_iter().map(|name| user.file_id(name)).collect();
    assert_eq!(names.len(), 6);
    let other = fathom_protocol::keys::Phrase::from_entropy([8; 32]).user_keys();
    assert_ne!(user.file_id("a"), other.file_id("a"));
}
