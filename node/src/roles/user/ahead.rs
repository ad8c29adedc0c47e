//! Fetching a small file before it is sure which version is the newest: while mirrors are asked, the chunk that this machine knows
//! of is on its way. A chunk is named by its hash, so it can be nothing else; at worst it is not wanted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fathom_protocol::fat::Manifest;
use fathom_protocol::ids::{ChunkId, FileId, NodeId};
use fathom_protocol::seal::sealed_len;
use tokio_util::task::AbortOnDropHandle;

use super::User;
use super::fetch::{RACE_AFTER, SMALL, Sources};
use super::get::holders;
use super::store::lock;

/// Files remembered; beyond that all are forgotten.
const FILES_MAX: usize = 4_096;

/// The one chunk of a small file, and who has it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) chunk: ChunkId,
    pub(super) length: u32,
    pub(super) holders: Vec<NodeId>,
}

impl Known {
    /// That of a file with one small chunk and no parity.
    fn of(manifest: &Manifest) -> Option<Self> {
        let chunk = manifest.chunk(0).filter(|_| manifest.chunk_count() == 1 && manifest.code().is_none())?;
        let length = sealed_len(manifest.plain_len(0));
        (length as usize <= SMALL).then(|| Self { chunk: chunk.id, length, holders: holders(manifest, &chunk) })
    }
}

/// Small files that this node stored or fetched lately.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<BTreeMap<FileId, Known>>);

impl Seen {
    pub(super) fn note(&self, file: FileId, known: Known) {
        let mut files = lock(&self.0);
        files.insert(file, known);
        if files.len() > FILES_MAX {
            files.clear();
        }
    }

    pub(super) fn note_manifest(&self, file: FileId, manifest: &Manifest) {
        if let Some(known) = Known::of(manifest) {
            self.note(file, known);
        }
    }

    fn get(&self, file: FileId) -> Option<Known> {
        lock(&self.0).get(&file).cloned()
    }
}

/// A chunk that is on its way.
#[derive(Debug)]
pub(super) struct Ahead {
    chunk: ChunkId,
    coming: AbortOnDropHandle<Option<Vec<u8>>>,
}

impl User {
    /// Begins to fetch the file `name`, if it is a small one that was seen lately or is in the catalogue on this disk.
    pub(super) async fn fetch_ahead(self: &Arc<Self>, name: &str, sources: &Arc<Sources>) -> Option<Ahead> {
        let file = self.keys.file_id(name);
        let Known { chunk, length, holders } = match self.seen.get(file) {
            Some(known) => known,
            None => Known::of(self.load(vec![file]).await.ok()?.get(&file)?.manifest()?)?,
        };
        let (user, sources) = (Arc::clone(self), Arc::clone(sources));
        let coming = AbortOnDropHandle::new(tokio::spawn(async move {
            let working = |vendor: &NodeId| !user.net.book().behaviour(*vendor).suspected;
            let vendor = user.best(&mut holders.into_iter().filter(working).collect(), length, &sources)?.0;
            user.fetch_from(vendor, chunk, length, &sources).await.1.ok()
        }));
        Some(Ahead { chunk, coming })
    }
}

impl Ahead {
    /// The ciphertext of `chunk`, if that is what was asked for and it comes in time.
    pub(super) async fn take(self, chunk: ChunkId) -> Option<Vec<u8>> {
        if self.chunk != chunk {
            return None;
        }
        tokio::time::timeout(RACE_AFTER, self.coming).await.ok()?.ok()?
    }
}
