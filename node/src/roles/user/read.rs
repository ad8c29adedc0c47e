//! Any range of a stored file, with no more fetched and verified than the segments that it touches (figures 16 to 19).
//!
//! [`User::open_file`] asks mirrors where the file is, which takes a round trip, two if not all of its vendors are known; each
//! [`OpenFile::read`] then asks one vendor for each chunk that it touches, all at once. A vendor sends the 16 KiB groups around
//! what is asked with their proof against the chunk's identifier, so a range is as sure as a whole file.
//!
//! A chunk whose vendor fails is read from another copy. Of a file stored in shards there is none: the chunk is then made of
//! the other shards of its stripe, which are fetched whole.

use std::collections::BTreeSet;
use std::ops::Range as Span;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fathom_protocol::fat::{ChunkRef, Manifest};
use fathom_protocol::ids::{FileId, NodeId};
use fathom_protocol::limits::{SEGMENT_PLAIN, SEGMENT_TAG};
use fathom_protocol::seal::{open_segments, sealed_len};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;

use super::catalogue::{Asked, StoredFile};
use super::fetch::{Range, Sources, lost};
use super::gather::shards_of;
use super::{User, UserError, blocking};
use crate::control::EventSink;
use crate::control::results::RangeResult;

/// Bytes that one [`OpenFile::read`] gives at most.
pub const READ_MAX: u64 = 8 * 1024 * 1024;
const SEGMENT: u32 = SEGMENT_PLAIN as u32;
const SEALED: u32 = (SEGMENT_PLAIN + SEGMENT_TAG) as u32;

/// A version of a file whose bytes can be read in any order. It stays readable as it was while it is not released.
pub struct OpenFile {
    user: Arc<User>,
    file: FileId,
    manifest: Manifest,
    sources: Sources,
}

/// Some bytes of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    index: usize,
    bytes: Span<u32>,
}

/// The pieces of `span` of a file in chunks of `chunk_plain` bytes.
fn pieces(span: Span<u64>, chunk_plain: u32) -> impl Iterator<Item = Piece> {
    let each = u64::from(chunk_plain.max(1));
    let chunks = if span.is_empty() { 0..0 } else { span.start / each..span.end.div_ceil(each) };
    chunks.filter_map(move |chunk| {
        let begins = chunk * each;
        let first = u32::try_from(span.start.saturating_sub(begins)).ok()?;
        let end = u32::try_from((span.end - begins).min(each)).ok()?;
        Some(Piece { index: usize::try_from(chunk).ok()?, bytes: first..end })
    })
}

/// The segments that hold `bytes`, and where they lie in a sealed chunk of `plain_len` bytes.
fn segments(bytes: &Span<u32>, plain_len: u32) -> (Span<u32>, Span<u32>) {
    let segments = bytes.start / SEGMENT..bytes.end.div_ceil(SEGMENT);
    let sealed = segments.start * SEALED..(segments.end * SEALED).min(sealed_len(plain_len));
    (segments, sealed)
}

impl User {
    /// Finds the file `name`, of several versions the one asked for, the first being 1, or the newest.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn open_file(self: &Arc<Self>, name: &str, version: Option<usize>) -> Result<OpenFile, UserError> {
        let not_found = || UserError::NotFound(name.to_owned());
        let stored = self.newest(self.keys.file_id(name)).await?.ok_or_else(not_found)?;
        let manifest = match version {
            Some(number) => stored.version(number)?.manifest.as_ref(),
            None => stored.manifest(),
        };
        let manifest = manifest.cloned().ok_or_else(not_found)?;
        let holders: BTreeSet<NodeId> = StoredFile::sources(&stored).into_iter().collect();
        // Whoever is known to be there is asked without another round trip to mirrors; if that fails, a fresh FAT is read.
        let known = |vendor: &NodeId| {
            !self.net.book().addresses(*vendor).is_empty() && !self.net.book().behaviour(*vendor).suspected
        };
        let quarantined = match holders.iter().all(known) {
            true => self.quarantined_lately(&holders),
            false => self.heads_lately(holders).await?.1,
        };
        let sources = Sources::default();
        sources.last(quarantined);
        Ok(OpenFile { user: Arc::clone(self), file: stored.file, manifest, sources })
    }

    /// Bytes `offset..offset + length` of the file `name`, as [`OpenFile::read`] gives them.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn read(
        self: &Arc<Self>,
        name: &str,
        version: Option<usize>,
        offset: u64,
        length: u64,
    ) -> Result<Vec<u8>, UserError> {
        self.open_file(name, version).await?.read(offset, length).await
    }

    /// Writes bytes `first` to `last`, or to the end, of the file `name` to `output`.
    ///
    /// # Errors
    /// [`UserError`]; `output` may then hold a part of them.
    pub async fn get_range(
        self: &Arc<Self>,
        name: &str,
        version: Option<usize>,
        (first, last): (u64, Option<u64>),
        output: &Path,
        events: EventSink,
    ) -> Result<RangeResult, UserError> {
        let began = Instant::now();
        let file = self.open_file(name, version).await?;
        let size = file.size();
        if first >= size {
            return Err(UserError::Source(format!("{name} has {size} bytes, so there is none at {first}")));
        }
        let span = first..last.map_or(size, |last| last.saturating_add(1)).min(size);
        let total = span.end - span.start;
        let mut written = 0;
        let mut options = tokio::fs::File::options();
        // Whoever asks may open it to others.
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(output).await;
        let mut out = opened.map_err(UserError::io("create", output))?;
        let mut parts = file.stream(span);
        while let Some(bytes) = parts.try_next().await? {
            out.write_all(&bytes).await.map_err(UserError::io("write", output))?;
            written += bytes.len() as u64;
            events.progress(written, total, 0);
        }
        drop(parts);
        // The last write has happened only then.
        out.flush().await.map_err(UserError::io("write", output))?;
        let services = file.sources.take_services();
        let served = services.iter().filter(|(_, service)| service.bytes > 0);
        Ok(RangeResult {
            first,
            bytes: written,
            size,
            fetched: services.values().map(|service| service.bytes).sum(),
            requests: services.values().map(|service| (service.good.len() + service.bad.len()) as u64).sum(),
            by_vendor: served.map(|(vendor, service)| (vendor.to_string(), service.bytes)).collect(),
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

impl OpenFile {
    /// Its size, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.manifest.size
    }

    /// Bytes `offset..offset + length`: fewer at the end of the file and beyond [`READ_MAX`], none after the end.
    ///
    /// # Errors
    /// [`UserError::ChunkLost`] if no vendor gives a chunk, [`UserError::Integrity`] if what is stored is not what was sealed.
    pub async fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, UserError> {
        let end = offset.saturating_add(length.min(READ_MAX)).min(self.size());
        let mut bytes = Vec::new();
        let mut parts = self.stream(offset.min(end)..end);
        while let Some(part) = parts.try_next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    /// The bytes of `span` in their order, a chunk's at a time, some chunks ahead.
    fn stream(&self, span: Span<u64>) -> impl futures::Stream<Item = Result<Vec<u8>, UserError>> + Unpin {
        let parts = pieces(span, self.manifest.chunk_plain).map(|piece| self.piece(piece));
        Box::pin(futures::stream::iter(parts).buffered(self.user.settings.in_flight.max(1)))
    }

    async fn piece(&self, piece: Piece) -> Result<Vec<u8>, UserError> {
        let name = self.manifest.name.as_str();
        let chunk = self.manifest.chunk(piece.index);
        let chunk = chunk.ok_or_else(|| UserError::Internal(format!("{name} has no chunk {}", piece.index)))?;
        let plain_len = self.manifest.plain_len(piece.index);
        let (segments, span) = segments(&piece.bytes, plain_len);
        let sealed = match self.sealed(&self.manifest, piece.index, &chunk, &span).await {
            Ok(sealed) => sealed,
            Err(first) => {
                self.elsewhere(piece.index, &chunk, &span).await?.ok_or_else(|| lost(name, piece.index, first))?
            }
        };
        let (file_key, index) = (self.manifest.file_key, piece.index as u64);
        let (first, all) = (segments.start as usize, plain_len.div_ceil(SEGMENT) as usize);
        let from = (piece.bytes.start - segments.start * SEGMENT) as usize;
        let length = (piece.bytes.end - piece.bytes.start) as usize;
        blocking(move || {
            let mut plain = open_segments(&file_key, index, chunk.salt, &sealed, first, all)?;
            plain.truncate(from + length);
            plain.drain(..from);
            Ok(plain)
        })
        .await
    }

    /// Bytes `span` of the sealed chunk from where `manifest` says, or made of the other shards of its stripe.
    async fn sealed(
        &self,
        manifest: &Manifest,
        index: usize,
        chunk: &ChunkRef,
        span: &Span<u32>,
    ) -> Result<Vec<u8>, String> {
        let holders: Vec<NodeId> = manifest.places_of(chunk).map(|place| place.vendor).collect();
        let range = Range::new(chunk.id, span.start, span.end - span.start);
        let reason = match self.user.fetch_part(range, &holders, &self.sources).await {
            Ok(bytes) => return Ok(bytes),
            Err(reason) => reason,
        };
        let Some(stripes) = manifest.stripes() else { return Err(reason) };
        let stripe = index as u64 / stripes.code.data() as u64;
        let mut shards = shards_of(manifest, &stripes, stripe, |_, _| true);
        let Some(at) = shards.iter().position(|shard| shard.id == chunk.id) else { return Err(reason) };
        let wanted = shards.remove(at);
        let whole = self.user.remake(stripes, stripe, &wanted, &shards, &self.sources).await?;
        whole.get(span.start as usize..span.end as usize).map(<[u8]>::to_vec).ok_or(reason)
    }

    /// The same from where a fresh FAT says: the chunk, or its vendor, may have moved. `None` if that says nothing new.
    async fn elsewhere(&self, index: usize, chunk: &ChunkRef, span: &Span<u32>) -> Result<Option<Vec<u8>>, UserError> {
        let Some(fresh) = self.user.newest(self.file).await? else { return Ok(None) };
        let versions = fresh.versions.iter().filter_map(|version| version.manifest.as_ref());
        let same = |manifest: &&Manifest| manifest.chunk(index).is_some_and(|found| found.id == chunk.id);
        let Some(manifest) = versions.into_iter().find(same) else { return Ok(None) };
        self.user.heads(StoredFile::sources(&fresh).into_iter().collect()).await?;
        let chunk = manifest.chunk(index).unwrap_or_else(|| chunk.clone());
        let read = self.sealed(manifest, index, &chunk, span).await;
        read.map(Some).map_err(|reason| lost(manifest.name.as_str(), index, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_chunks() {
        let cut = |span| pieces(span, 100).map(|piece| (piece.index, piece.bytes)).collect::<Vec<_>>();
        assert_eq!(cut(0..0), []);
        assert_eq!(cut(99..100), [(0, 99..100)]);
        assert_eq!(cut(100..101), [(1, 0..1)]);
        assert_eq!(cut(50..350), [(0, 50..100), (1, 0..100), (2, 0..100), (3, 0..50)]);
        // The first byte of the last chunk of 10 GiB.
        let far: Vec<Piece> = pieces((10 << 30) - 1..10 << 30, 4 << 20).collect();
        assert_eq!(far, [Piece { index: 2559, bytes: (4 << 20) - 1..4 << 20 }]);
    }

    #[test]
    fn no_more_segments_are_fetched_than_are_touched() {
        assert_eq!(segments(&(0..1), 4 << 20), (0..1, 0..65_552));
        assert_eq!(segments(&(65_535..65_537), 4 << 20), (0..2, 0..131_104));
        assert_eq!(segments(&(65_536..131_072), 4 << 20), (1..2, 65_552..131_104));
        assert_eq!(segments(&(70_000..70_001), 70_001), (1..2, 65_552..sealed_len(70_001)));
        assert_eq!(segments(&(0..5), 5), (0..1, 0..21));
    }
}
