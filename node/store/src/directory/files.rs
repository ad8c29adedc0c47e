//! Parts in files of their own, as a directory device writes, names and lists them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::PoisonError;

use fathom_protocol::ids::Hash;

use super::DirectoryDevice;
use crate::device::{DeviceError, PartEntry};
use crate::direct;
use crate::marker::io_error;
use crate::part::Part;
use crate::testing::IoStep;

impl DirectoryDevice {
    /// Writes, syncs and reads back a temporary file.
    pub(super) fn write_temporary(&self, path: &Path, part: &Part) -> Result<(), DeviceError> {
        let bytes = part.bytes();
        let write = || -> io::Result<File> {
            self.step(IoStep::Write, path)?;
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
            direct::write_blocks(&file, bytes, 0)?;
            file.set_len(bytes.len() as u64)?;
            Ok(file)
        };
        let file = write().map_err(|error| self.write_error("write", path, error, bytes.len()))?;
        self.step(IoStep::SyncFile, path)
            .and_then(|()| file.sync_data())
            .map_err(|error| self.write_error("sync", path, error, bytes.len()))?;
        if direct::holds(&file, bytes).map_err(|error| io_error("read back", path, error))? {
            return Ok(());
        }
        let found = hash_file(path).map_err(|error| io_error("read back", path, error))?;
        Err(DeviceError::Corrupt { part: part.name(), found })
    }

    /// Gives the temporary file its name; false if an intact part of that name was there already.
    pub(super) fn publish(&self, temporary: &Path, part: Hash, length: u64) -> Result<bool, DeviceError> {
        let path = self.part_path(part);
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let there = match fs::metadata(&path) {
            Ok(there) => Some(there.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("look at", &path, error)),
        };
        if there.is_some() && hash_file(&path).is_ok_and(|found| found == part) {
            return Ok(false);
        }
        self.step(IoStep::Rename, &path)
            .and_then(|()| fs::rename(temporary, &path))
            .map_err(|error| self.write_error("rename to", &path, error, 0))?;
        if let Some(rotten) = there {
            self.budget.removed(rotten);
        }
        let parent = path.parent().unwrap_or(&self.config.path);
        if let Err(error) = self.step(IoStep::SyncDir, parent).and_then(|()| sync_dir(parent)) {
            let error = self.write_error("sync", parent, error, 0);
            if fs::remove_file(&path).is_err() {
                // It stays and takes space, so it is counted; the next scan finds it an orphan.
                tracing::warn!(device = %self.id, %part, "a part that could not be made durable could not be removed either");
                self.budget.added(length);
            }
            return Err(error);
        }
        Ok(true)
    }
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn hash_file(path: &Path) -> io::Result<Hash> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Hash(*hasher.finalize().as_bytes())),
            read => {
                hasher.update(&buffer[..read]);
            }
        }
    }
}

pub(super) fn scan_dir(dir: &Path, found: &mut Vec<PartEntry>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Some(part) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match entry.metadata() {
            Ok(metadata) => found.push(PartEntry { part, length: metadata.len() }),
            // Removed since the directory was read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
