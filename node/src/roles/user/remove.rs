//! Freeing files: a final FAT that uses nothing, at the mirrors, which tell the vendors to erase (figures 21 and 22).

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::fat::FinalFat;
use fathom_protocol::sign::Signed;

use super::catalogue::StoredFile;
use super::put::ORDER_SECONDS;
use super::{User, UserError};
use crate::clock;
use crate::control::results::RmResult;

impl User {
    /// Frees the storage of the named files and trees without fetching them.
    ///
    /// # Errors
    /// [`UserError::NotFound`] before anything is freed, or what the mirrors say.
    pub async fn remove(&self, names: &[String]) -> Result<RmResult, UserError> {
        let catalogue = self.catalogue(None).await?;
        let mut files: Vec<StoredFile> = Vec::new();
        for name in names {
            for file in catalogue.select(name)? {
                if !files.iter().any(|known| known.file == file.file) {
                    files.push(file.clone());
                }
            }
        }
        let mirrors_acked = self.release(&files).await? as u64;
        let bytes = files.iter().filter_map(|file| file.manifest.as_ref()).map(|manifest| manifest.size).sum();
        Ok(RmResult { files: files.len() as u64, bytes, mirrors_acked })
    }

    /// Hands in the release of `files`. Returns the fewest acknowledgements of mirrors.
    pub(super) async fn release(&self, files: &[StoredFile]) -> Result<usize, UserError> {
        let now = clock::now();
        let mut fats = Vec::with_capacity(files.len());
        for stored in files {
            let seq = stored.fat.seq + 1;
            let fat = FinalFat {
                version: fathom_protocol::tags::VERSION,
                owner: self.owner(),
                file: stored.file,
                seq,
                base: seq,
                uses: Bounded::default(),
                frees: Bounded::first(stored.holders()),
                issued: now,
                order_expires: now.plus_seconds(ORDER_SECONDS),
                body: Blob::default(),
            };
            fats.push(Signed::sign(fat, self.signing())?);
        }
        self.submit(fats).await
    }
}
