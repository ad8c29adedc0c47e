//! Fetching files: authoritative FAT, best path, several vendors at once, every byte verified (figures 16 to 22).

mod stripes;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fathom_protocol::erasure::Stripes;
use fathom_protocol::fat::{ChunkRef, Manifest};
use fathom_protocol::ids::{ChunkId, FileId, NodeId};
use fathom_protocol::seal::{open_chunk_into, seal_chunk, sealed_len};
use fathom_store::direct::{Aligned, write_blocks};
use futures::future::OptionFuture;
use futures::{StreamExt, TryStreamExt};

use super::catalogue::{Asked, StoredFile};
use super::fetch::{Service, Sources, lost};
use super::store::lock;
use super::{User, UserError, blocking};
use crate::control::results::{FailedSource, GetResult};
use crate::control::{ControlEvent, EventSink};
use stripes::stripe_room;

/// What a file is called while it is incomplete.
const PART_SUFFIX: &str = ".fathom-part";

/// Chunks of so many bytes of plaintext are written past the page cache.
const DIRECT_BYTES_MIN: usize = 512 * 1024;

/// Files that are made durable at a time.
const FINISHING: usize = 8;

/// One file on its way here.
struct Getting {
    file: FileId,
    manifest: Manifest,
    part: PathBuf,
    target: PathBuf,
    /// An earlier get may have left chunks in the part.
    begun: AtomicBool,
    /// It is all that is wanted, and one chunk long: written and done with in one go.
    alone: bool,
}

/// What is fetched at a time.
enum Job {
    Chunk(usize, ChunkRef),
    Stripe(Stripes, u64),
}

impl Getting {
    fn jobs(&self) -> Vec<Job> {
        match self.manifest.stripes() {
            None => self.manifest.chunks().enumerate().map(|(index, chunk)| Job::Chunk(index, chunk)).collect(),
            Some(stripes) => (0..stripes.count()).map(|stripe| Job::Stripe(stripes, stripe)).collect(),
        }
    }
}

struct Progress {
    bytes: AtomicU64,
    chunks: AtomicU64,
    total: u64,
    events: EventSink,
}

impl Progress {
    fn add(&self, plain_len: u32, chunks: u64) {
        let bytes = self.bytes.fetch_add(u64::from(plain_len), Ordering::Relaxed) + u64::from(plain_len);
        self.events.progress(bytes, self.total, self.chunks.fetch_add(chunks, Ordering::Relaxed) + chunks);
    }
}

impl User {
    /// Fetches the file `name`, or all files below it, to `output`. With `release` the storage is freed once everything is here
    /// and verified. Of a file with several versions it takes the one asked for, the first being 1, or the newest. Interrupted,
    /// the same call goes on where it was.
    ///
    /// # Errors
    /// [`UserError`]; what arrived is kept beside the target for the next attempt.
    pub async fn get(
        self: &Arc<Self>,
        name: &str,
        output: &Path,
        release: bool,
        version: Option<usize>,
        events: EventSink,
    ) -> Result<GetResult, UserError> {
        let began = Instant::now();
        let sources = Arc::new(Sources::default());
        *lock(&sources.ahead) = self.fetch_ahead(name, &sources).await;
        let selected = self.find(name).await?;
        let mut warnings = Vec::new();
        for file in &selected {
            if release {
                file.settled()?;
            }
            warnings.extend(file.settled().err().filter(|_| version.is_none()).map(|forked| {
                format!("{forked}: this is the newest; `fathom fat resolve NAME` shows them and keeps one")
            }));
        }
        let files = self.prepare(name, output, &selected, version)?;
        let holders: BTreeSet<NodeId> = selected.iter().flat_map(StoredFile::sources).collect();
        let (heads, quarantined) = self.heads_lately(holders).await?;
        self.net.probe_uncertain(heads.keys().copied()).await;
        events.send(ControlEvent::Path { order: self.fetch_order(&heads) }).await;

        let total = files.iter().map(|file| file.manifest.size).sum();
        let progress = Arc::new(Progress { bytes: AtomicU64::new(0), chunks: AtomicU64::new(0), total, events });
        sources.last(quarantined);
        let files: Vec<Arc<Getting>> = files.into_iter().map(Arc::new).collect();
        self.fetch_all(&files, &sources, &progress).await?;
        let services = sources.take_services();
        self.tell_soon(&services);
        Self::finish_all(&files).await?;
        if release {
            self.release(&selected).await?;
        }
        let failed = |(vendor, service): (&NodeId, &Service)| {
            service.reason.clone().map(|reason| FailedSource { vendor: vendor.to_string(), reason })
        };
        Ok(GetResult {
            files: files.len() as u64,
            bytes: total,
            chunks: files.iter().map(|file| file.manifest.chunk_count() as u64).sum(),
            by_vendor: services
                .iter()
                .filter(|(_, s)| s.bytes > 0)
                .map(|(vendor, s)| (vendor.to_string(), s.bytes))
                .collect(),
            failed_sources: services.iter().filter_map(failed).collect(),
            released: release,
            warnings,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// Decides where each file goes.
    fn prepare(
        &self,
        name: &str,
        output: &Path,
        selected: &[StoredFile],
        version: Option<usize>,
    ) -> Result<Vec<Getting>, UserError> {
        let single =
            selected.len() == 1 && selected[0].manifest().is_some_and(|manifest| manifest.name.as_str() == name);
        let mut files = Vec::with_capacity(selected.len());
        for stored in selected {
            let manifest = match version {
                Some(number) => stored.version(number)?.manifest.as_ref(),
                None => stored.manifest(),
            };
            let Some(manifest) = manifest.cloned() else { continue };
            let target = if single {
                match output.is_dir() {
                    true => output.join(safe_path(name.rsplit('/').next().unwrap_or(name))?),
                    false => output.to_owned(),
                }
            } else {
                let prefix = name.trim_end_matches('/');
                let relative = manifest.name.as_str().strip_prefix(prefix).unwrap_or(manifest.name.as_str());
                output.join(safe_path(relative.trim_start_matches('/'))?)
            };
            let mut part = target.clone().into_os_string();
            part.push(PART_SUFFIX);
            let begun = AtomicBool::new(true);
            files.push(Getting { file: stored.file, manifest, part: part.into(), target, begun, alone: false });
        }
        if let [file] = files.as_mut_slice() {
            file.alone = file.manifest.chunk_count() == 1 && file.manifest.code().is_none();
        }
        Ok(files)
    }

    async fn fetch_all(
        self: &Arc<Self>,
        files: &[Arc<Getting>],
        sources: &Arc<Sources>,
        progress: &Arc<Progress>,
    ) -> Result<(), UserError> {
        let theirs = files.to_vec();
        blocking(move || theirs.iter().try_for_each(|file| open_part(file))).await?;
        let jobs: Vec<(Arc<Getting>, Job)> =
            files.iter().flat_map(|file| file.jobs().into_iter().map(|job| (Arc::clone(file), job))).collect();
        let room = Arc::new(stripe_room(files, self.settings.in_flight));
        futures::stream::iter(jobs)
            .map(|(file, job)| {
                let (user, sources, progress) = (Arc::clone(self), Arc::clone(sources), Arc::clone(progress));
                let room = Arc::clone(&room);
                let task = tokio::spawn(async move {
                    match job {
                        Job::Chunk(index, chunk) => user.get_chunk(&file, index, chunk, &sources, &progress).await,
                        Job::Stripe(stripes, stripe) => {
                            user.get_stripe(&file, (stripes, stripe), &room, &sources, &progress).await
                        }
                    }
                });
                let task = tokio_util::task::AbortOnDropHandle::new(task);
                async move {
                    task.await.map_err(|error| UserError::Internal(format!("a chunk's task ended early: {error}")))?
                }
            })
            .buffer_unordered(self.settings.in_flight.max(1))
            .try_collect::<()>()
            .await
    }

    /// Makes those files durable that are not, several at a time.
    async fn finish_all(files: &[Arc<Getting>]) -> Result<(), UserError> {
        let mut finishing = Vec::with_capacity(files.len());
        for file in files {
            let file = Arc::clone(file);
            if !file.alone {
                finishing.push(blocking(move || finish(&file, open_to_write(&file)?)));
            }
        }
        futures::stream::iter(finishing).buffer_unordered(FINISHING).try_collect().await
    }

    async fn get_chunk(
        self: &Arc<Self>,
        file: &Arc<Getting>,
        index: usize,
        chunk: ChunkRef,
        sources: &Sources,
        progress: &Progress,
    ) -> Result<(), UserError> {
        let plain_len = file.manifest.plain_len(index);
        let (theirs, known) = (Arc::clone(file), chunk.clone());
        let there =
            file.begun.load(Ordering::Relaxed) && blocking(move || Ok(held(&theirs, index, &known).is_some())).await?;
        let sealed = match there {
            true => None,
            false => {
                let ahead = lock(&sources.ahead).take();
                let came = OptionFuture::from(ahead.map(|ahead| ahead.take(chunk.id))).await.flatten();
                match came {
                    Some(sealed) => Some(sealed),
                    None => Some(self.sealed_chunk(file, index, &chunk, sealed_len(plain_len), sources).await?),
                }
            }
        };
        let theirs = Arc::clone(file);
        if sealed.is_some() || theirs.alone {
            blocking(move || {
                let part = open_to_write(&theirs)?;
                if let Some(sealed) = sealed {
                    write_chunk(&theirs, &part, index, &chunk, &sealed)?;
                }
                if theirs.alone { finish(&theirs, part) } else { Ok(()) }
            })
            .await?;
        }
        if file.alone {
            self.seen.note_manifest(file.file, &file.manifest);
        }
        progress.add(plain_len, 1);
        Ok(())
    }

    /// The ciphertext from where the FAT says; if nobody there has it, from where a fresh FAT says and at fresh addresses, since it,
    /// or its vendors, may have moved.
    async fn sealed_chunk(
        self: &Arc<Self>,
        file: &Getting,
        index: usize,
        chunk: &ChunkRef,
        length: u32,
        sources: &Sources,
    ) -> Result<Vec<u8>, UserError> {
        let holders = holders(&file.manifest, chunk);
        let first = match self.fetch_chunk(chunk.id, length, &holders, sources).await {
            Ok(sealed) => return Ok(sealed),
            Err(reason) => reason,
        };
        let fresh = self.newest(file.file).await?;
        let versions = fresh.iter().flat_map(|stored| &stored.versions).filter_map(|version| version.manifest.as_ref());
        let now = versions
            .filter_map(|manifest| manifest.chunk(index).map(|found| (manifest, found)))
            .find(|(_, found)| found.id == chunk.id)
            .map(|(manifest, found)| self::holders(manifest, &found))
            .unwrap_or_default();
        if now.is_empty() {
            return Err(lost(file.manifest.name.as_str(), index, first));
        }
        self.heads(now.iter().copied().collect()).await?;
        self.fetch_chunk(chunk.id, length, &now, sources)
            .await
            .map_err(|reason| lost(file.manifest.name.as_str(), index, reason))
    }
}

pub(super) fn holders(manifest: &Manifest, chunk: &ChunkRef) -> Vec<NodeId> {
    manifest.places_of(chunk).map(|place| place.vendor).collect()
}

/// A name as a path below a directory; names that would leave it are refused.
fn safe_path(name: &str) -> Result<PathBuf, UserError> {
    let path = PathBuf::from(name);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_))) && !name.is_empty();
    if inside {
        Ok(path)
    } else {
        Err(UserError::Source(format!("the name {name} does not fit below a directory; give -o FILE")))
    }
}

/// Makes the incomplete file, and the directories on the way to it.
fn open_part(file: &Getting) -> Result<(), UserError> {
    if let Some(dir) = file.target.parent() {
        std::fs::create_dir_all(dir).map_err(UserError::io("create", dir))?;
    }
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let part = options.open(&file.part).map_err(UserError::io("create", &file.part))?;
    let begun = part.metadata().map_or(true, |part| part.len() > 0);
    file.begun.store(begun, Ordering::Relaxed);
    part.set_len(file.manifest.size).map_err(UserError::io("size", &file.part))
}

/// The ciphertext of this chunk, if the incomplete file has the chunk already: sealed again it must give the chunk's identity, so nothing
/// is trusted.
fn held(file: &Getting, index: usize, chunk: &ChunkRef) -> Option<Vec<u8>> {
    let part = File::open(&file.part).ok()?;
    let mut plain = vec![0; file.manifest.plain_len(index) as usize];
    part.read_exact_at(&mut plain, index as u64 * u64::from(file.manifest.chunk_plain)).ok()?;
    // A hole is what a fresh file reads as, and hardly ever what was stored: not worth sealing.
    if plain.iter().all(|byte| *byte == 0) {
        return None;
    }
    let sealed = seal_chunk(&file.manifest.file_key, index as u64, chunk.salt, &plain).ok()?;
    (ChunkId::of(&sealed) == chunk.id).then_some(sealed)
}

fn open_to_write(file: &Getting) -> Result<File, UserError> {
    File::options().write(true).open(&file.part).map_err(UserError::io("open", &file.part))
}

fn write_chunk(file: &Getting, part: &File, index: usize, chunk: &ChunkRef, sealed: &[u8]) -> Result<(), UserError> {
    let mut plain = Aligned::zeroed(file.manifest.plain_len(index) as usize);
    open_chunk_into(&file.manifest.file_key, index as u64, chunk.salt, sealed, &mut plain)?;
    let offset = index as u64 * u64::from(file.manifest.chunk_plain);
    let written = match plain.len() >= DIRECT_BYTES_MIN {
        // What the last chunk's last block has too much is cut off.
        true => write_blocks(part, &plain, offset).and_then(|()| match offset + plain.len() as u64 {
            end if end == file.manifest.size => part.set_len(end),
            _ => Ok(()),
        }),
        false => part.write_all_at(&plain, offset),
    };
    written.map_err(UserError::io("write", &file.part))
}

/// Makes the complete file durable under its own name.
fn finish(file: &Getting, part: File) -> Result<(), UserError> {
    let modified = UNIX_EPOCH + Duration::from_millis(file.manifest.modified.0);
    let mode = std::fs::Permissions::from_mode(file.manifest.mode & 0o777);
    part.set_permissions(mode).map_err(UserError::io("set the mode of", &file.part))?;
    part.set_modified(modified).map_err(UserError::io("set the time of", &file.part))?;
    part.sync_all().map_err(UserError::io("sync", &file.part))?;
    std::fs::rename(&file.part, &file.target).map_err(UserError::io("rename", &file.target))?;
    let dir = file.target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(UserError::io("sync", dir))
}
