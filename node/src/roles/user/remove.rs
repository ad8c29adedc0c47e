//! Freeing files: a final FAT that uses nothing, at the mirrors, which tell the vendors to erase (figures 21 and 22).

use std::sync::Arc;

use super::catalogue::{Asked, StoredFile, select};
use super::mirrors::HandedIn;
use super::{User, UserError};
use crate::control::results::RmResult;

impl User {
    /// Frees the storage of the named files and trees without fetching them.
    ///
    /// # Errors
    /// [`UserError::NotFound`] before anything is freed, or what the mirrors say.
    pub async fn remove(self: &Arc<Self>, names: &[String]) -> Result<RmResult, UserError> {
        let mut files: Vec<StoredFile> = Vec::new();
        for name in names {
            for file in self.find(name).await? {
                if !files.iter().any(|known| known.file == file.file) {
                    file.settled()?;
                    files.push(file);
                }
            }
        }
        let bytes = files.iter().filter_map(StoredFile::manifest).map(|manifest| manifest.size).sum();
        let done = self.release(&files).await?;
        Ok(RmResult { files: files.len() as u64, bytes, mirrors_acked: done.mirrors as u64 })
    }

    /// The file named `name`, or all files below it.
    ///
    /// # Errors
    /// [`UserError::NotFound`].
    pub(super) async fn find(self: &Arc<Self>, name: &str) -> Result<Vec<StoredFile>, UserError> {
        if let Some(file) = self.newest(self.keys.file_id(name)).await?.filter(|file| file.manifest().is_some()) {
            return Ok(vec![file]);
        }
        let lines = select(self.list().await?.files, name)?;
        let files = self.load(lines.into_iter().map(|line| line.file).collect()).await?;
        Ok(files.into_values().collect())
    }

    /// Hands in the release of `files`.
    pub(super) async fn release(self: &Arc<Self>, files: &[StoredFile]) -> Result<HandedIn, UserError> {
        let fats = files.iter().map(|stored| self.successor(stored, self.tag_after(stored)?, None));
        let fats = fats.collect::<Result<Vec<_>, _>>()?;
        self.submit(fats).await
    }
}
