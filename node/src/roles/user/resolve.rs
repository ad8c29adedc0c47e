//! Choosing one of several versions of a file that devices of this user stored at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::fat::{FinalFat, Manifest, Place, Use};
use fathom_protocol::ids::NodeId;
use fathom_protocol::seal::sealed_len;
use fathom_protocol::sign::Signed;

use super::catalogue::{StoredFile, Version, next_tag};
use super::put::ORDER_SECONDS;
use super::{User, UserError, random};
use crate::clock;
use crate::control::results::{ResolveResult, VersionEntry};

impl User {
    /// Shows the versions of the file `name`. With `keep` it hands in a final FAT that keeps that version, the first being 1; the
    /// others are freed.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::NoVersion`], or what the mirrors say.
    pub async fn resolve(self: &Arc<Self>, name: &str, keep: Option<usize>) -> Result<ResolveResult, UserError> {
        let file = self.newest(self.keys.file_id(name)).await?;
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

    /// The final FAT that keeps `chosen`: its chunks stay where they are, under their tag.
    fn choice(&self, file: &StoredFile, chosen: &Version) -> Result<Signed<FinalFat>, UserError> {
        let seq = next_tag(file.counter(), random()?);
        let uses = chosen.manifest.as_ref().map(uses).unwrap_or_default();
        let mut frees: Vec<NodeId> = file.holders();
        frees.retain(|vendor| !uses.iter().any(|used| used.vendor == *vendor));
        let (base, body) = match &chosen.manifest {
            Some(manifest) => (chosen.fat.tag(), self.keys.seal_manifest(manifest, file.file, seq.0, random()?)?),
            None => (seq, Blob::default()),
        };
        let now = clock::now();
        let fat = FinalFat {
            version: fathom_protocol::tags::VERSION,
            owner: self.owner(),
            file: file.file,
            seq: seq.0,
            base: base.0,
            uses: Bounded::new(uses).map_err(|error| UserError::Internal(error.to_string()))?,
            frees: Bounded::first(frees),
            issued: now,
            order_expires: now.plus_seconds(ORDER_SECONDS),
            body,
        };
        Ok(Signed::sign(fat, self.signing())?)
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

/// What a file uses of each lease by its manifest.
fn uses(manifest: &Manifest) -> Vec<Use> {
    let mut bytes: BTreeMap<Place, u64> = BTreeMap::new();
    for (index, chunk) in manifest.chunks().enumerate() {
        for place in chunk.copies.iter().filter_map(|place| manifest.places.get(usize::from(*place))) {
            *bytes.entry(*place).or_default() += u64::from(sealed_len(manifest.plain_len(index)));
        }
    }
    bytes.into_iter().map(|(place, bytes)| Use { vendor: place.vendor, lease: place.lease, bytes, unused: 0 }).collect()
}
