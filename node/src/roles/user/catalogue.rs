//! The user's files as mirrors hold them: final FATs with the moves laid over them (figure 16).
//!
//! [`local`] keeps them on this machine's disk, [`refresh`] brings that up to date, and this file says what the records mean.

mod local;
mod refresh;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::erasure::Code;
use fathom_protocol::fat::{Fate, FinalFat, Follows, Manifest, Place, Tag};
use fathom_protocol::ids::{FileId, NodeId, OwnerId};
use fathom_protocol::keys::UserKeys;
use fathom_protocol::moves::Move;
use fathom_protocol::sign::Signed;
use fathom_protocol::table::{Key, Merged, Table, Verified};
use fathom_protocol::time::UnixMs;

use super::UserError;
pub(super) use local::Local;
pub(super) use refresh::FILES_AT_ONCE;
pub use refresh::Listing;

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

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its identifier.
    pub file: FileId,
    /// Name under which it was stored.
    pub name: String,
    /// Length of the plaintext, bytes.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Copies of each chunk.
    pub copies: u64,
    /// How parity is made of its chunks, if it is.
    pub code: Option<Code>,
    /// How many final FATs the file had.
    pub counter: u64,
    /// When the source was last modified.
    pub modified: UnixMs,
    /// Versions that were stored at the same time; 1 unless one has to be chosen.
    pub versions: u64,
}

impl StoredFile {
    /// The file from its records.
    ///
    /// # Errors
    /// [`UserError::Integrity`] if a manifest does not open, or if there is no final FAT.
    fn open(keys: &UserKeys, mut fats: Vec<Signed<FinalFat>>, moves: Vec<Move>) -> Result<Self, UserError> {
        fats.sort_by_key(|fat| (fat.issued, fat.hash()));
        let file = fats.first().map(|fat| fat.file);
        let file = file.ok_or_else(|| UserError::Integrity("a file without a final FAT".to_owned()))?;
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
            let manifest = if fat.is_release() { None } else { Some(open_manifest(keys, &fat)?.with_moves(&moves)?) };
            versions.push(Version { fat, manifest });
        }
        Ok(Self { file, versions, outdated, moves })
    }

    /// How many final FATs the file had.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.fats().map(|fat| fat.tag().counter()).max().unwrap_or(0)
    }

    /// All its final FATs.
    fn fats(&self) -> impl Iterator<Item = &Signed<FinalFat>> {
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
    fn contents(&self) -> usize {
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

    /// Version `number`, the first being 1.
    ///
    /// # Errors
    /// [`UserError::NoVersion`].
    pub(super) fn version(&self, number: usize) -> Result<&Version, UserError> {
        let found = number.checked_sub(1).and_then(|at| self.versions.get(at));
        found.ok_or_else(|| UserError::NoVersion {
            name: self.manifest().map(|manifest| manifest.name.to_string()).unwrap_or_default(),
            versions: self.versions.len(),
            asked: number,
        })
    }

    /// Refuses a file of which one version has to be chosen first.
    pub(super) fn settled(&self) -> Result<&Self, UserError> {
        match self.manifest() {
            _ if !self.is_forked() => Ok(self),
            Some(manifest) => Err(UserError::Forked { name: manifest.name.to_string(), versions: self.versions.len() }),
            // Two devices removed it at the same time: there is nothing to choose.
            None => Ok(self),
        }
    }

    fn listed(&self) -> Option<Listed> {
        let manifest = self.manifest()?;
        Some(listed(self.file, manifest, self.counter(), self.contents() as u64))
    }
}

fn listed(file: FileId, manifest: &Manifest, counter: u64, versions: u64) -> Listed {
    Listed {
        file,
        name: manifest.name.to_string(),
        bytes: manifest.size,
        chunks: manifest.chunk_count() as u64,
        copies: u64::from(manifest.copies_per_chunk),
        code: manifest.code(),
        counter,
        modified: manifest.modified,
        versions,
    }
}

/// The manifest as a final FAT says it, without moves.
pub(super) fn open_manifest(keys: &UserKeys, fat: &FinalFat) -> Result<Manifest, UserError> {
    keys.open_manifest(&fat.body, fat.file, fat.seq).map_err(|error| UserError::Integrity(error.to_string()))
}

/// Records of this user's files, and which of them hold: the same rules as at a mirror.
#[derive(Debug, Default)]
struct Records {
    table: Table,
    kept: BTreeMap<Key, Verified>,
}

impl Records {
    /// Takes a record; one that is stale or known changes nothing.
    fn take(&mut self, record: Verified) {
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

    /// Opens every file.
    fn into_files(self, keys: &UserKeys) -> Result<BTreeMap<FileId, StoredFile>, UserError> {
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
        let whole = parts.into_iter().filter(|(_, (fats, _))| !fats.is_empty());
        whole.map(|(file, (fats, moves))| Ok((file, StoredFile::open(keys, fats, moves)?))).collect()
    }
}

/// Whether a record is about a file of `owner`.
fn is_own(record: &Verified, owner: OwnerId) -> bool {
    record.key().file().is_some_and(|(of, _)| of == owner)
}

/// The lines of the file named `name`, or of all files below `name/`; all of them for an empty name.
///
/// # Errors
/// [`UserError::NotFound`].
pub fn select(all: Vec<Listed>, name: &str) -> Result<Vec<Listed>, UserError> {
    let name = name.trim_end_matches('/');
    if name.is_empty() {
        return Ok(all);
    }
    if let Ok(at) = all.binary_search_by(|line| line.name.as_str().cmp(name)) {
        return Ok(all.into_iter().skip(at).take(1).collect());
    }
    let below = format!("{name}/");
    let below: Vec<Listed> = all.into_iter().filter(|line| line.name.starts_with(&below)).collect();
    if below.is_empty() { Err(UserError::NotFound(name.to_owned())) } else { Ok(below) }
}

/// The tag of the next final FAT of a file, for a writer drawn at random.
pub(super) fn next_tag(counter: u64, writer: [u8; 2]) -> Tag {
    Tag::new(counter + 1, u16::from_le_bytes(writer))
}
