//! The user's files as mirrors hold them (figure 16). What the records mean is [`fathom_protocol::catalogue`]'s.
//!
//! [`local`] keeps them on this machine's disk, [`refresh`] brings that up to date, and this file says what is listed of them.

mod local;
mod refresh;
#[cfg(test)]
mod tests;

use fathom_protocol::catalogue::CatalogueError;
pub use fathom_protocol::catalogue::{StoredFile, Version};
use fathom_protocol::fat::{FinalFat, Manifest, Tag};
use fathom_protocol::ids::{FileId, OwnerId};
use fathom_protocol::keys::UserKeys;
use fathom_protocol::table::Verified;
use fathom_protocol::time::UnixMs;

use super::UserError;
pub(super) use local::Local;
pub(super) use refresh::FILES_AT_ONCE;
pub use refresh::Listing;

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
    /// How many final FATs the file had.
    pub counter: u64,
    /// When the source was last modified.
    pub modified: UnixMs,
    /// Versions that were stored at the same time; 1 unless one has to be chosen.
    pub versions: u64,
}

/// What a person or a script asks of a file.
pub(super) trait Asked {
    /// Version `number`, the first being 1.
    ///
    /// # Errors
    /// [`UserError::NoVersion`].
    fn version(&self, number: usize) -> Result<&Version, UserError>;

    /// Refuses a file of which one version has to be chosen first.
    ///
    /// # Errors
    /// [`UserError::Forked`].
    fn settled(&self) -> Result<&Self, UserError>;

    /// Its line in a listing; none if it is released.
    fn listed(&self) -> Option<Listed>;
}

impl Asked for StoredFile {
    fn version(&self, number: usize) -> Result<&Version, UserError> {
        let found = number.checked_sub(1).and_then(|at| self.versions.get(at));
        found.ok_or_else(|| UserError::NoVersion {
            name: self.manifest().map(|manifest| manifest.name.to_string()).unwrap_or_default(),
            versions: self.versions.len(),
            asked: number,
        })
    }

    fn settled(&self) -> Result<&Self, UserError> {
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
        counter,
        modified: manifest.modified,
        versions,
    }
}

impl From<CatalogueError> for UserError {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::Manifest(error) => Self::Integrity(error.to_string()),
            CatalogueError::Moves(error) => error.into(),
        }
    }
}

/// The manifest as a final FAT says it, without moves.
pub(super) fn open_manifest(keys: &UserKeys, fat: &FinalFat) -> Result<Manifest, UserError> {
    keys.open_manifest(&fat.body, fat.file, fat.seq).map_err(|error| UserError::Integrity(error.to_string()))
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
