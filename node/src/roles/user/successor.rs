//! The final FAT that follows what is stored of a file, where its chunks stay as they are: a choice among versions, a repair, a
//! release.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::fat::{FinalFat, Manifest, Place, Tag, Use};
use fathom_protocol::ids::NodeId;
use fathom_protocol::sign::Signed;

use super::catalogue::{StoredFile, next_tag};
use super::put::ORDER_SECONDS;
use super::{User, UserError, random};
use crate::clock;

/// What stays of a file.
pub(super) struct Keep<'a> {
    /// Names, keys and places, as a final FAT says them: moves since live on beside the one that follows.
    pub(super) manifest: &'a Manifest,
    /// The final FAT that said so.
    pub(super) fat: &'a FinalFat,
    /// Vendors that have copies, moves included.
    pub(super) holders: BTreeSet<NodeId>,
    /// Vendors that failed on the way, and may hold copies that are named nowhere.
    pub(super) failed: Vec<NodeId>,
}

impl User {
    /// The final FAT of `file` with tag `seq` that keeps so much; with none, the file is released. Every other vendor that may hold
    /// something of the file is told to erase it.
    pub(super) fn successor(
        &self,
        file: &StoredFile,
        seq: Tag,
        keep: Option<&Keep<'_>>,
    ) -> Result<Signed<FinalFat>, UserError> {
        let uses = keep.map(|keep| uses(keep.manifest)).unwrap_or_default();
        let mut frees: BTreeSet<NodeId> = file.holders().into_iter().collect();
        let body = match keep {
            Some(keep) => {
                frees.extend(&keep.failed);
                frees
                    .retain(|vendor| !keep.holders.contains(vendor) && !uses.iter().any(|used| used.vendor == *vendor));
                self.keys.seal_manifest(keep.manifest, file.file, seq.0, random()?)?
            }
            None => Blob::default(),
        };
        let now = clock::now();
        let fat = FinalFat {
            version: fathom_protocol::tags::VERSION,
            owner: self.owner(),
            file: file.file,
            seq: seq.0,
            // Of the final FAT before, since what a file holds may have grown older than the one that names it now.
            base: keep.map_or(seq.0, |keep| keep.fat.base),
            follows: file.follows(keep.map(|keep| keep.fat.tag())),
            uses: Bounded::new(uses).map_err(|error| UserError::Internal(error.to_string()))?,
            frees: Bounded::first(frees),
            issued: now,
            order_expires: now.plus_seconds(ORDER_SECONDS),
            body,
        };
        Ok(Signed::sign(fat, self.signing())?)
    }

    /// The tag of the next final FAT of `file`.
    pub(super) fn tag_after(&self, file: &StoredFile) -> Result<Tag, UserError> {
        Ok(next_tag(file.counter(), random()?))
    }
}

/// What a file uses of each lease by its manifest.
fn uses(manifest: &Manifest) -> Vec<Use> {
    let mut bytes: BTreeMap<Place, u64> = BTreeMap::new();
    for piece in manifest.pieces() {
        for place in manifest.places_of_piece(&piece) {
            *bytes.entry(place).or_default() += u64::from(piece.length);
        }
    }
    bytes.into_iter().map(|(place, bytes)| Use { vendor: place.vendor, lease: place.lease, bytes, unused: 0 }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use fathom_protocol::codec::Text;
    use fathom_protocol::fat::{ChunkRef, Fate, FileMeta};
    use fathom_protocol::ids::{ChunkId, LeaseId};
    use fathom_protocol::keys::Phrase;
    use fathom_protocol::seal::sealed_len;
    use fathom_protocol::time::UnixMs;

    use super::super::super::all_before;
    use super::super::catalogue::Version;
    use super::super::path::tests::start;
    use super::super::{User, UserSettings};
    use super::*;

    fn manifest(vendors: &[u8]) -> Manifest {
        let meta =
            FileMeta { name: Text::new("file").unwrap(), size: 5, mode: 0o600, modified: UnixMs(1), chunk_plain: 9 };
        let places = vendors.iter().map(|seed| Place { vendor: NodeId([*seed; 32]), lease: LeaseId([*seed; 16]) });
        let copies = (0..vendors.len() as u16).collect();
        let chunks = [ChunkRef { id: ChunkId([1; 32]), salt: [2; 8], copies }];
        Manifest::new(meta, [3; 32], places.collect(), vendors.len() as u8, &chunks).unwrap()
    }

    /// Keeps away: two devices choose different versions at one moment, one of these choices is chosen, and its chunks are erased,
    /// since their tag is older than the choice's.
    #[tokio::test(flavor = "multi_thread")]
    async fn fault_47_a_choice_among_choices_keeps_the_chunks_of_the_first_put() {
        let dir = tempfile::tempdir().unwrap();
        let net = start(91, false, None).await;
        let user = User::open(dir.path(), net, Phrase::from_entropy([8; 32]).user_keys(), UserSettings::TEST).unwrap();
        let file = user.keys.file_id("file");
        let puts = [Tag::new(3, 1), Tag::new(3, 2)];
        let put = |seq: Tag, vendors: &[u8]| {
            let manifest = manifest(vendors);
            let fat = FinalFat {
                version: fathom_protocol::tags::VERSION,
                owner: user.owner(),
                file,
                seq: seq.0,
                base: seq.0,
                follows: all_before(seq),
                uses: Bounded::new(uses(&manifest)).unwrap(),
                frees: Bounded::default(),
                issued: UnixMs(1),
                order_expires: UnixMs(2),
                body: user.keys.seal_manifest(&manifest, file, seq.0, [1; 24]).unwrap(),
            };
            Version { fat: Signed::sign(fat, user.signing()).unwrap(), manifest: Some(manifest) }
        };
        let of = |versions| StoredFile { file, versions, outdated: Vec::new(), moves: Vec::new() };
        // Two puts at once, of which each device chose its own.
        let forked = of(vec![put(puts[0], &[1, 2]), put(puts[1], &[2, 3])]);
        let choices = [(0, 7), (1, 8)].map(|(kept, writer)| {
            let Version { fat, manifest } = &forked.versions[kept];
            let own = manifest.clone().unwrap();
            let keep = Keep { manifest: &own, fat, holders: BTreeSet::new(), failed: Vec::new() };
            Version { fat: user.successor(&forked, Tag::new(4, writer), Some(&keep)).unwrap(), manifest: Some(own) }
        });
        let forked = of(choices.to_vec());
        assert!(
            forked
                .versions
                .iter()
                .all(|choice| forked.versions.iter().all(|other| !choice.fat.follows.has(other.fat.tag())))
        );
        for (kept, other, frees) in [(0, 1, 3), (1, 0, 1)] {
            let fat = user.choice(&forked, &forked.versions[kept]).unwrap();
            assert_eq!(fat.tag().counter(), 5);
            assert_eq!(fat.lineage().fate(puts[kept]), Fate::Live, "what was chosen stays");
            assert_eq!(fat.lineage().fate(puts[other]), Fate::Lost);
            assert_eq!(fat.frees[..], [NodeId([frees; 32])]);
            let bytes: Vec<u64> = fat.uses.iter().map(|used| used.bytes).collect();
            assert_eq!(bytes, [u64::from(sealed_len(5)); 2]);
        }
    }
}
