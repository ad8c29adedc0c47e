//! What is to be stored: files, how they are cut into chunks, and reading them without trusting them to stay the same.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use fathom_protocol::limits::{CHUNK_PLAIN_MAX, NAME_BYTES_MAX};
use fathom_protocol::time::UnixMs;

use super::UserError;

/// Files up to this size are one chunk, larger ones have chunks of it, until [`LARGE`].
const SMALL_CHUNK: u32 = 1 << 20;
/// From this size on, chunks are as large as they may be.
const LARGE: u64 = 64 << 20;

/// One file to store.
#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its name on the network.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Unix permission bits.
    pub mode: u32,
    /// Modification time.
    pub modified: UnixMs,
    /// Length, modification time in nanoseconds and inode: what must not change while it is read.
    pub identity: (u64, i128, u64),
}

fn describe(path: &Path, name: String) -> Result<SourceFile, UserError> {
    let meta = std::fs::metadata(path).map_err(UserError::io("read", path))?;
    let nanos = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok(SourceFile {
        path: path.to_owned(),
        name,
        size: meta.len(),
        mode: meta.mode() & 0o7777,
        modified: UnixMs(u64::try_from(nanos / 1_000_000).unwrap_or(0)),
        identity: (meta.len(), nanos, meta.ino()),
    })
}

/// The files at `path`: itself, or everything below it. Also what was left out, for people.
pub(super) fn collect(path: &Path, name: &str) -> Result<(Vec<SourceFile>, Vec<String>), UserError> {
    let name = name.trim_matches('/');
    if name.is_empty() {
        return Err(UserError::Source("a file needs a name on the network; give one with --as".to_owned()));
    }
    let meta = std::fs::metadata(path).map_err(|error| UserError::Source(format!("{}: {error}", path.display())))?;
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    if meta.is_file() {
        files.push(describe(path, checked_name(name.to_owned())?)?);
        return Ok((files, left_out));
    }
    if !meta.is_dir() {
        return Err(UserError::Source(format!("{} is neither a file nor a directory", path.display())));
    }
    for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
        let entry = entry.map_err(|error| UserError::Source(error.to_string()))?;
        if entry.file_type().is_dir() {
            continue;
        }
        let relative = entry.path().strip_prefix(path).unwrap_or(entry.path());
        match relative.to_str() {
            Some(relative) if entry.file_type().is_file() => {
                files.push(describe(entry.path(), checked_name(format!("{name}/{relative}"))?)?);
            }
            Some(_) => left_out.push(format!("{} was left out: it is not a regular file", entry.path().display())),
            None => left_out.push(format!("{} was left out: its name is not UTF-8", entry.path().display())),
        }
    }
    if files.is_empty() {
        return Err(UserError::Source(format!("there is no file below {}", path.display())));
    }
    Ok((files, left_out))
}

fn checked_name(name: String) -> Result<String, UserError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(UserError::Source(format!("the name of {name:.60}... is longer than {NAME_BYTES_MAX} bytes")));
    }
    Ok(name)
}

/// Plaintext bytes of a chunk for a file of `size` bytes.
pub(super) fn chunk_plain(size: u64) -> u32 {
    if size >= LARGE { CHUNK_PLAIN_MAX as u32 } else { u32::try_from(size).unwrap_or(u32::MAX).clamp(1, SMALL_CHUNK) }
}

/// Plaintext bytes of a chunk for a file of `size` bytes that is stored in stripes of `data` chunks: such that all stripes are full
/// and alike. A small file is cut as well, so that its parity is no larger than that of a part.
pub(super) fn striped_plain(size: u64, data: usize) -> u32 {
    let most = if size >= LARGE { CHUNK_PLAIN_MAX as u64 } else { u64::from(SMALL_CHUNK) };
    let stripes = size.div_ceil(most * data as u64).max(1);
    u32::try_from(size.div_ceil(stripes * data as u64)).unwrap_or(u32::MAX).max(1)
}

impl SourceFile {
    /// Bytes `offset..offset + length`.
    pub(super) fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, UserError> {
        let file = File::open(&self.path).map_err(UserError::io("open", &self.path))?;
        let mut bytes = vec![0; length as usize];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(UserError::SourceChanged(self.path.clone()))
            }
            Err(error) => Err(UserError::io("read", &self.path)(error)),
        }
    }

    /// Whether it is still what it was when the put began.
    pub(super) fn check_unchanged(&self) -> Result<(), UserError> {
        let now = describe(&self.path, self.name.clone())?;
        if now.identity == self.identity { Ok(()) } else { Err(UserError::SourceChanged(self.path.clone())) }
    }
}
