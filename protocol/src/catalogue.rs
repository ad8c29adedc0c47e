//! A user's files as mirrors hold them: final FATs with the moves laid over them (figure 16), and which of several records hold.

use std::collections::{BTreeMap, BTreeSet};

use crate::fat::{Fate, FinalFat, Follows, Manifest, ManifestError, Place, Tag};
use crate::ids::{FileId, NodeId};
use crate::keys::{OpenManifestError, UserKeys};
use crate::moves::Move;
use crate::sign::Signed;
use crate::table::{Key, Merged, Table, Verified};

/// Why a file's records do not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// A manifest was not sealed by this user, or does not decode.
    #[error("{0}")]
    Manifest(#[from] OpenManifestError),
    /// Its moves do not fit.
    #[error("{0}")]
    Moves(#[from] ManifestError),
}

/// One version of a file. There is more than one if a device of the user stored it while another one did.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its final FAT.
    pub fat: Signed<FinalFat>,
    /// Name, keys and places, moves included; none if this version released the file.
    pub manifest: Option<Manifest>,
}

/// One file of this user.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Its identifier.
    pub file: FileId,
    /// Its versions, the one that was stored first in front; one at least.
    pub versions: Vec<Version>,
    /// Final FATs that repaired or chose what another version has replaced meanwhile: nothing of them is to be chosen.
    pub outdated: Vec<Signed<FinalFat>>,
    /// Moves since, in no order.
    pub moves: Vec<Move>,
}

impl StoredFile {
    /// The file from its records; none if there is no final FAT among them.
    ///
    /// # Errors
    /// [`CatalogueError`].
    fn open(
        keys: &UserKeys,
        mut fats: Vec<Signed<FinalFat>>,
        moves: Vec<Move>,
    ) -> Result<Option<Self>, CatalogueError> {
        fats.sort_by_key(|fat| (fat.issued, fat.hash()));
        let Some(file) = fats.first().map(|fat| fat.file) else { return Ok(None) };
        let replaced = |fat: &Signed<FinalFat>| {
            let base = Tag(fat.base);
            fats.iter().any(|other| other.lineage().fate(base) == Fate::Past)
        };
        let replaced: Vec<bool> = fats.iter().map(replaced).collect();
        let (mut versions, mut outdated) = (Vec::with_capacity(fats.len()), Vec::new());
        for (fat, replaced) in fats.into_iter().zip(replaced) {
            if replaced {
                outdated.push(fat);
                continue;
            }
            let manifest = if fat.is_release() {
                None
            } else {
                Some(keys.open_manifest(&fat.body, fat.file, fat.seq)?.with_moves(&moves)?)
            };
            versions.push(Version { fat, manifest });
        }
        Ok(Some(Self { file, versions, outdated, moves }))
    }

    /// How many final FATs the file had.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.fats().map(|fat| fat.tag().counter()).max().unwrap_or(0)
    }

    /// All its final FATs.
    pub fn fats(&self) -> impl Iterator<Item = &Signed<FinalFat>> {
        self.versions.iter().map(|version| &version.fat).chain(&self.outdated)
    }

    /// What a final FAT follows that comes after all of these; the version tagged `kept` goes on in it.
    #[must_use]
    pub fn follows(&self, kept: Option<Tag>) -> Follows {
        Follows::all_of(self.fats().map(|fat| fat.lineage()), kept)
    }

    /// Whether one of several versions has to be chosen.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.contents() > 1
    }

    /// How many contents its versions have: two devices that repaired it at the same time, or one that handed the same in twice,
    /// leave nothing to choose.
    #[must_use]
    pub fn contents(&self) -> usize {
        let same = |a: &Version, b: &Version| match (&a.manifest, &b.manifest) {
            (Some(a), Some(b)) => a.same_content(b),
            (None, None) => true,
            _ => false,
        };
        let is_first = |at: usize| !self.versions[..at].iter().any(|before| same(before, &self.versions[at]));
        (0..self.versions.len()).filter(|at| is_first(*at)).count()
    }

    /// What a `get` takes unless told otherwise: the newest version that holds data.
    #[must_use]
    pub fn newest(&self) -> Option<&Version> {
        self.versions.iter().rev().find(|version| version.manifest.is_some())
    }

    /// The manifest of the newest version that holds data.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.newest()?.manifest.as_ref()
    }

    /// Where a copy of one of its chunks is.
    #[must_use]
    pub fn places(&self) -> BTreeSet<Place> {
        let mut places = BTreeSet::new();
        for manifest in self.versions.iter().filter_map(|version| version.manifest.as_ref()) {
            places.extend(manifest.used_places());
        }
        places
    }

    /// Vendors from which it can be fetched.
    #[must_use]
    pub fn sources(&self) -> Vec<NodeId> {
        self.places().into_iter().map(|place| place.vendor).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Vendors that may hold chunks of it, those included that were to give it up: who must hear of a release.
    #[must_use]
    pub fn holders(&self) -> Vec<NodeId> {
        let manifests = self.versions.iter().filter_map(|version| version.manifest.as_ref());
        let places = manifests.flat_map(|manifest| manifest.places.iter().map(|place| place.vendor));
        let mut holders: Vec<NodeId> = places
            .chain(self.fats().flat_map(|fat| fat.vendors()))
            .chain(self.moves.iter().flat_map(|moved| [moved.from, moved.to]))
            .collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }
}

/// Records of this user's files, and which of them hold: the same rules as at a mirror.
#[derive(Debug, Default)]
pub struct Records {
    table: Table,
    kept: BTreeMap<Key, Verified>,
}

impl Records {
    /// Takes a record; one that is stale or known changes nothing.
    pub fn take(&mut self, record: Verified) {
        match self.table.merge(&record) {
            Ok(Merged::New { drops, .. }) => {
                drops.iter().for_each(|key| drop(self.kept.remove(key)));
                self.kept.insert(record.key(), record);
            }
            Ok(Merged::Twin { key, demoted, drops, .. }) => {
                drops.iter().for_each(|key| drop(self.kept.remove(key)));
                if let Some(to) = demoted
                    && let Some(known) = self.kept.remove(&key)
                {
                    self.kept.insert(to, known);
                }
                self.kept.insert(key, record);
            }
            _ => {}
        }
    }

    /// Those that hold.
    #[must_use]
    pub const fn kept(&self) -> &BTreeMap<Key, Verified> {
        &self.kept
    }

    /// Opens every file.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub fn into_files(self, keys: &UserKeys) -> Result<BTreeMap<FileId, StoredFile>, CatalogueError> {
        let mut parts: BTreeMap<FileId, (Vec<Signed<FinalFat>>, Vec<Move>)> = BTreeMap::new();
        for (key, record) in self.kept {
            let Some((_, file)) = key.file() else { continue };
            let (fats, moves) = parts.entry(file).or_default();
            match record {
                Verified::Fat(fat) => fats.push(fat),
                Verified::Move(moved, _) => moves.push(moved),
                _ => {}
            }
        }
        // A move may be known before its final FAT.
        let open = |(file, (fats, moves))| Ok(StoredFile::open(keys, fats, moves)?.map(|stored| (file, stored)));
        parts.into_iter().filter_map(|part| open(part).transpose()).collect()
    }
}
