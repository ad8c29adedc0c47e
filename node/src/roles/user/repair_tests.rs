//! What a repair makes of a manifest.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use fathom_protocol::fat::{ChunkRef, FileMeta};
use fathom_protocol::ids::{LeaseId, OwnerId};
use fathom_protocol::moves::Move;
use fathom_protocol::time::UnixMs;

use super::*;

fn place(seed: u8) -> Place {
    Place { vendor: NodeId([seed; 32]), lease: LeaseId([seed; 16]) }
}

/// Two chunks, each at vendors 1 and 2.
fn named() -> Manifest {
    let meta =
        FileMeta { name: Text::new("file").unwrap(), size: 10, mode: 0o600, modified: UnixMs(1), chunk_plain: 5 };
    let chunk = |seed| ChunkRef { id: ChunkId([seed; 32]), salt: [seed; 8], copies: vec![0, 1] };
    Manifest::new(meta, [3; 32], vec![place(1), place(2)], 2, &[chunk(11), chunk(12)]).unwrap()
}

fn moved(chunk: u8, from: u8, to: u8) -> Move {
    Move {
        version: fathom_protocol::tags::VERSION,
        owner: OwnerId([0; 32]),
        file: FileId([0; 16]),
        seq: 1,
        chunk: ChunkId([chunk; 32]),
        length: 21,
        from: place(from).vendor,
        from_lease: place(from).lease,
        to: place(to).vendor,
        to_lease: place(to).lease,
        at: UnixMs(2),
    }
}

fn places(manifest: &Manifest) -> Vec<Vec<Place>> {
    manifest.chunks().map(|chunk| manifest.places_of(&chunk).collect()).collect()
}

/// Keeps away: a repair names what a move has taken elsewhere as if it had been stored there, and mirrors count it twice; or a
/// move takes along what a repair has made.
#[test]
fn moves_and_repairs_lie_over_each_other() {
    let (named, moves) = (named(), [moved(11, 1, 3), moved(12, 2, 4)]);
    let now = named.with_moves(&moves).unwrap();
    assert_eq!(places(&now), [[place(3), place(2)], [place(1), place(4)]]);
    // Vendors 3 and 1 lost what they had, and 5 took one copy; the other could not be made.
    let gone = Gone { leases: BTreeSet::from([place(3), place(1)]), ..Gone::default() };
    let missing: BTreeSet<_> = [(ChunkId([11; 32]), place(3)), (ChunkId([12; 32]), place(1))].into_iter().collect();
    let mut broken = broken(&now, &missing, &gone);
    assert_eq!(broken.iter().map(|broken| (broken.index, broken.missing)).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
    broken[0].made.push(place(5));
    broken[0].missing -= 1;
    let repaired = with_copies(&named, &now, &broken, &missing).unwrap();
    assert_eq!(places(&repaired), [[place(5), place(2)], [place(1), place(2)]], "as if nothing had been moved");
    let laid = repaired.with_moves(&moves).unwrap();
    assert_eq!(places(&laid), [[place(5), place(2)], [place(1), place(4)]]);
    assert!(!repaired.places.contains(&place(3)));
}
