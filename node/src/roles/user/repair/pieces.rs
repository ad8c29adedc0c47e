//! What of a file is missing, and what its manifest says once that was made again.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::fat::{Manifest, Piece, Place};
use fathom_protocol::ids::ChunkId;

use super::super::UserError;
use super::super::gather::shards_of;
use super::super::survey::Gone;
use super::Broken;

/// The pieces of a file of which copies are `missing`.
pub(super) fn broken(manifest: &Manifest, missing: &BTreeSet<(ChunkId, Place)>, gone: &Gone) -> Vec<Broken> {
    let lacks = |(index, piece): (usize, Piece)| {
        let (lost, good): (Vec<Place>, Vec<Place>) =
            manifest.places_of_piece(&piece).partition(|place| missing.contains(&(piece.id, *place)));
        let given_up = lost.iter().map(|place| place.vendor).filter(|vendor| gone.vendors.contains(vendor)).collect();
        let stripe = manifest.stripes().map(|stripes| (stripes, stripes.place(index as u64).0));
        let there = |id, place| !missing.contains(&(id, place));
        let beside = |(stripes, stripe)| shards_of(manifest, &stripes, stripe, there);
        let beside = || stripe.map(beside).unwrap_or_default().into_iter().flat_map(|shard| shard.holders).collect();
        (!lost.is_empty()).then(|| Broken {
            index,
            stripe: stripe.map(|(_, stripe)| stripe),
            beside: beside(),
            chunk: piece.id,
            length: piece.length,
            good,
            made: Vec::new(),
            given_up,
            missing: lost.len(),
        })
    };
    manifest.pieces().enumerate().filter_map(lacks).collect()
}

/// The manifest as the final FAT `named` it, with the copies that were made in place of as many that are missing; `manifest` is the
/// same with the moves since. Copies stay in their order, so that a move still finds the one that it took along. Places that no
/// chunk needs are left out.
pub(super) fn with_copies(
    named: &Manifest,
    manifest: &Manifest,
    made: &[Broken],
    missing: &BTreeSet<(ChunkId, Place)>,
) -> Result<Manifest, UserError> {
    let made: BTreeMap<usize, &Broken> = made.iter().map(|broken| (broken.index, broken)).collect();
    let mut places: Vec<Place> = Vec::new();
    let mut known: BTreeMap<Place, u16> = BTreeMap::new();
    let mut all = Vec::with_capacity(named.piece_count());
    for (index, (piece, moved)) in named.pieces().zip(manifest.pieces()).enumerate() {
        let mut new = made.get(&index).map(|broken| broken.made.iter()).into_iter().flatten();
        let copies = named.places_of_piece(&piece).zip(manifest.places_of_piece(&moved));
        let copies = copies.map(|(named, now)| match missing.contains(&(moved.id, now)) {
            // What could not be made again stays named: its vendor may come back.
            true => new.next().copied().unwrap_or(named),
            false => named,
        });
        let mut indices = Vec::with_capacity(piece.copies.len());
        for place in copies {
            let next = u16::try_from(places.len()).map_err(|_| UserError::Internal("too many places".to_owned()))?;
            indices.push(*known.entry(place).or_insert_with(|| {
                places.push(place);
                next
            }));
        }
        all.push(indices);
    }
    Ok(named.placed(places, &all)?)
}
