//! Choosing one of several versions of a file that devices of this user stored at the same time.

use std::sync::Arc;

use fathom_protocol::fat::FinalFat;
use fathom_protocol::sign::Signed;

use super::catalogue::{Asked, StoredFile, Version, open_manifest};
use super::successor::Keep;
use super::{User, UserError};
use crate::control::results::{ResolveResult, VersionEntry};

impl User {
    /// Shows the versions of the file `name`. With `keep` it hands in a final FAT that keeps that version, the first being 1; the
    /// others are freed.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::NoVersion`], or what the mirrors say.
    pub async fn resolve(self: &Arc<Self>, name: &str, keep: Option<usize>) -> Result<ResolveResult, UserError> {
        let id = self.keys.file_id(name);
        let _turn = self.turns.of_command([id]).await;
        let file = self.newest(id).await?;
        let file = file.filter(|file| file.manifest().is_some());
        let file = file.ok_or_else(|| UserError::NotFound(name.to_owned()))?;
        let versions = file.versions.iter().zip(1u64..).map(|(version, number)| entry(version, number)).collect();
        let mut result = ResolveResult { name: name.to_owned(), versions, ..ResolveResult::default() };
        if let Some(number) = keep {
            let chosen = file.version(number)?;
            // With one version there is nothing to choose, and nothing to free.
            if file.is_forked() {
                let fat = self.choice(&file, chosen)?;
                result.mirrors_acked = self.submit(vec![fat]).await?.mirrors as u64;
            }
            result.kept = Some(number as u64);
        }
        Ok(result)
    }

    /// The final FAT that keeps `chosen`: its chunks stay where they are, under their tags.
    pub(super) fn choice(&self, file: &StoredFile, chosen: &Version) -> Result<Signed<FinalFat>, UserError> {
        let Some(now) = &chosen.manifest else { return self.successor(file, self.tag_after(file)?, None) };
        let manifest = open_manifest(&self.keys, &chosen.fat)?;
        let holders = now.used_places().into_iter().map(|place| place.vendor).collect();
        let keep = Keep { manifest: &manifest, fat: &chosen.fat, holders, failed: Vec::new() };
        self.successor(file, self.tag_after(file)?, Some(&keep))
    }
}

fn entry(version: &Version, number: u64) -> VersionEntry {
    let manifest = version.manifest.as_ref();
    VersionEntry {
        version: number,
        removed: manifest.is_none(),
        bytes: manifest.map_or(0, |manifest| manifest.size),
        chunks: manifest.map_or(0, |manifest| manifest.chunk_count() as u64),
        copies: manifest.map_or(0, |manifest| u64::from(manifest.copies_per_chunk)),
        modified: manifest.map_or(0, |manifest| manifest.modified.0),
        stored: version.fat.issued.0,
    }
}
