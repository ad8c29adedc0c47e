//! A device that is a directory of a mounted disk or share.
//!
//! ```text
//! DIR/fathom-device.toml    the marker (see the `marker` module)
//! DIR/parts/ab/<64 hex>     a part whose name begins with ab
//! DIR/packs/<32 hex>        many small parts (see the `pack` module)
//! DIR/tmp/<n>               a part being written; whatever lies here when the device is opened is removed
//! ```
//!
//! Parts up to [`DirectoryConfig::pack_bytes_max`] go into packs. Any other is written to a temporary file, past the page cache ([`crate::direct`]), synced, read back and compared,
//! renamed, and its directory synced. The 256 directories are made and synced when the device is opened, so a put never depends on an unsynced one.
//!
//! What is used is counted by a scan when the device is opened and kept exact from then on.

mod files;
mod packed;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use fathom_protocol::ids::{DeviceId, Hash, NodeId};
use fathom_protocol::limits::CHUNK_BYTES_MAX;

use crate::budget::Budget;
use crate::device::{Device, DeviceError, DeviceKind, DeviceReport, DeviceState, PartEntry, PartValidation};
use crate::direct;
use crate::marker::{self, Marker, io_error};
use crate::meter::{Meter, now};
use crate::pack::Packs;
use crate::part::{PART_HEADER_BYTES, Part};
use crate::testing::{IoHook, IoStep};
use files::{hash_file, scan_dir, sync_dir};

/// Largest part that is read into memory, in bytes: a whole chunk in one part.
const PART_BYTES_MAX: u64 = CHUNK_BYTES_MAX as u64 + PART_HEADER_BYTES as u64;

/// Parts up to this length go into packs unless it is chosen otherwise, in bytes: what is larger gains little.
pub const PACK_BYTES_MAX: u64 = 128 * 1024;

/// How a directory serves as a device.
#[derive(Debug, Clone)]
pub struct DirectoryConfig {
    /// The directory.
    pub path: PathBuf,
    /// The most that parts and temporary files may take, in bytes.
    pub quota: u64,
    /// Bytes of the file system that stay free.
    pub reserve: u64,
    /// The longest part that goes into a pack, in bytes; 0 for a file of its own for each.
    pub pack_bytes_max: u64,
}

/// A directory as a device.
#[derive(Debug)]
pub struct DirectoryDevice {
    config: DirectoryConfig,
    vendor: NodeId,
    id: DeviceId,
    budget: Budget,
    meter: Meter,
    status: Mutex<Status>,
    /// Held while names appear and vanish, so that each part is counted once.
    naming: Mutex<()>,
    /// Shared by writes, exclusive for a reopen: it must neither take a write in progress for a leftover nor count it twice.
    gate: RwLock<()>,
    next_temporary: AtomicU64,
    packs: Packs,
    hook: Option<Arc<dyn IoHook>>,
}

#[derive(Debug)]
struct Status {
    state: DeviceState,
    reason: String,
    /// The file system that the marker was on when the device was opened.
    disk: u64,
}

impl DirectoryDevice {
    /// Opens the directory as a device of `vendor`.
    ///
    /// With `known`, the device that this path was before, a missing directory or marker means unplugged: the device
    /// opens suspended, and nothing is created. Without it the directory is added: it is created if missing,
    /// and gets a marker with a new random identity unless it holds one of this vendor already.
    ///
    /// # Errors
    /// `Refused` if the directory is another vendor's, another device's, or its marker is unreadable; `Io`.
    pub fn open(config: DirectoryConfig, vendor: NodeId, known: Option<DeviceId>) -> Result<Self, DeviceError> {
        Self::open_with(config, vendor, known, None)
    }

    /// As [`Self::open`], with `hook` called before each step of a write, for tests.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_with(
        config: DirectoryConfig,
        vendor: NodeId,
        known: Option<DeviceId>,
        hook: Option<Arc<dyn IoHook>>,
    ) -> Result<Self, DeviceError> {
        let id = match known {
            Some(id) => id,
            None => add(&config.path, vendor)?,
        };
        let device = Self {
            budget: Budget::new(config.quota),
            packs: Packs::new(config.path.join("packs")),
            config,
            vendor,
            id,
            meter: Meter::default(),
            status: Mutex::new(Status { state: DeviceState::Suspended, reason: String::new(), disk: 0 }),
            naming: Mutex::new(()),
            gate: RwLock::new(()),
            next_temporary: AtomicU64::new(0),
            hook,
        };
        match device.reopen() {
            Ok(()) | Err(DeviceError::Suspended { .. }) => Ok(device),
            Err(error) => Err(error),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.config.path
    }

    fn parts_dir(&self) -> PathBuf {
        self.config.path.join("parts")
    }

    fn tmp_dir(&self) -> PathBuf {
        self.config.path.join("tmp")
    }

    fn packs_dir(&self) -> PathBuf {
        self.config.path.join("packs")
    }

    /// Where `part` lies, if it has a file of its own.
    #[must_use]
    pub fn part_path(&self, part: Hash) -> PathBuf {
        let name = part.to_string();
        self.parts_dir().join(&name[..2]).join(name)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspend(&self, reason: String) -> DeviceError {
        let mut status = self.status();
        if status.state != DeviceState::Suspended || status.reason != reason {
            tracing::warn!(device = %self.id, path = %self.config.path.display(), reason, "device suspended");
        }
        status.state = DeviceState::Suspended;
        status.reason.clone_from(&reason);
        DeviceError::Suspended { reason }
    }

    /// A durable write failed: what the disk holds is unknown, so nothing more is acknowledged.
    fn fail(&self, error: &DeviceError) {
        let mut status = self.status();
        if status.state == DeviceState::Healthy {
            tracing::error!(device = %self.id, path = %self.config.path.display(), %error, "device takes no more parts until it is reopened");
            status.state = DeviceState::Failed;
            status.reason = format!("a write failed earlier ({error}); check the disk, then reopen the device");
        }
    }

    /// The disk is there, and it is the one that was opened.
    fn present(&self) -> Result<(), DeviceError> {
        let disk = {
            let status = self.status();
            if status.state == DeviceState::Suspended {
                return Err(DeviceError::Suspended { reason: status.reason.clone() });
            }
            status.disk
        };
        match marker::read(&self.config.path) {
            Ok(Some((found, on))) if found.device == self.id && on == disk => Ok(()),
            Ok(Some(_)) => Err(self.suspend(format!("another device is mounted at {}", self.config.path.display()))),
            Ok(None) => Err(self.suspend(absent(&self.config.path))),
            Err(error) => Err(self.suspend(error.to_string())),
        }
    }

    /// As [`Self::present`], and no write has failed.
    fn writable(&self) -> Result<(), DeviceError> {
        self.present()?;
        self.unfailed()
    }

    /// No write has failed so far.
    fn unfailed(&self) -> Result<(), DeviceError> {
        let status = self.status();
        match status.state {
            DeviceState::Healthy => Ok(()),
            _ => Err(DeviceError::Suspended { reason: status.reason.clone() }),
        }
    }

    fn medium_free(&self) -> u64 {
        rustix::fs::statvfs(&self.config.path)
            .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize).saturating_sub(self.config.reserve))
            .unwrap_or(0)
    }

    fn step(&self, step: IoStep, path: &Path) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook.before(step, path))
    }

    /// An intact part of that name is there, durably.
    fn holds(&self, part: Hash) -> bool {
        if self.packs.holds(part) {
            return self.get(part).is_ok() && self.packs.sync(part).is_ok();
        }
        let path = self.part_path(part);
        let durable = || -> io::Result<bool> {
            if hash_file(&path)? != part {
                return Ok(false);
            }
            File::open(&path)?.sync_data()?;
            sync_dir(path.parent().unwrap_or(&self.config.path))?;
            Ok(true)
        };
        // Whatever is wrong with it, the write that follows finds out.
        durable().unwrap_or(false)
    }

    /// Sorts a failed write: no space is not the device's fault, all else is.
    fn write_error(&self, operation: &'static str, path: &Path, error: io::Error, needed: usize) -> DeviceError {
        if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) {
            return DeviceError::NoSpace { needed: needed as u64, free: self.budget.free(self.medium_free()) };
        }
        let error = io_error(operation, path, error);
        match self.present() {
            Ok(()) => {
                self.fail(&error);
                error
            }
            Err(gone) => gone,
        }
    }

    /// Empties `tmp`, makes every directory, and counts what is there.
    fn prepare(&self) -> Result<(), DeviceError> {
        let (parts, tmp) = (self.parts_dir(), self.tmp_dir());
        let make = || -> io::Result<()> {
            fs::create_dir_all(&tmp)?;
            fs::create_dir_all(self.packs_dir())?;
            for prefix in 0..=u8::MAX {
                fs::create_dir_all(parts.join(format!("{prefix:02x}")))?;
            }
            sync_dir(&parts)?;
            sync_dir(&self.config.path)
        };
        make().map_err(|error| io_error("make the directories of", &self.config.path, error))?;
        let clean = || -> io::Result<()> {
            for entry in fs::read_dir(&tmp)? {
                fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        clean().map_err(|error| io_error("empty", &tmp, error))?;
        self.packs.scan().map_err(|error| io_error("list", &self.packs_dir(), error))?;
        let entries = self.scan()?;
        self.budget.counted(entries.iter().map(|entry| entry.length).sum(), entries.len() as u64);
        Ok(())
    }

    fn scan(&self) -> Result<Vec<PartEntry>, DeviceError> {
        let parts = self.parts_dir();
        let mut found = self.packs.list();
        for prefix in 0..=u8::MAX {
            let dir = parts.join(format!("{prefix:02x}"));
            scan_dir(&dir, &mut found).map_err(|error| io_error("list", &dir, error))?;
        }
        Ok(found)
    }
}

impl Device for DirectoryDevice {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn report(&self) -> DeviceReport {
        // A disk that was pulled out is to be seen here before anything is written to where it was. Its absence is the news;
        // the error says no more.
        let _ = self.present();
        let state = self.status().state;
        let counts = self.budget.counts();
        let (write_bytes_per_s, latency_ms) = self.meter.means();
        let healthy = state == DeviceState::Healthy;
        DeviceReport {
            id: self.id,
            kind: DeviceKind::Directory,
            path: self.config.path.clone(),
            quota: self.budget.quota(),
            used: counts.used,
            temporary: counts.temporary,
            free: if healthy { self.budget.free(self.medium_free()) } else { 0 },
            state,
            write_bytes_per_s,
            latency_ms,
            parts: counts.parts,
        }
    }

    fn put(&self, part: &Part) -> Result<PartValidation, DeviceError> {
        let (name, bytes) = (part.name(), part.bytes());
        if bytes.len() as u64 <= self.config.pack_bytes_max {
            return self.put_packed(std::slice::from_ref(part)).swap_remove(0);
        }
        let started = now();
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.writable()?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let validation = PartValidation { device: self.id, part: name, length };
        if self.holds(name) {
            return Ok(validation);
        }
        let reservation = self.budget.reserve(bytes.len() as u64, self.medium_free())?;
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.tmp_dir().join(number.to_string());
        let written =
            self.write_temporary(&temporary, part).and_then(|()| self.publish(&temporary, name, bytes.len() as u64));
        match written {
            Ok(true) => reservation.commit(),
            Ok(false) | Err(_) => {
                if let Err(error) = fs::remove_file(&temporary)
                    && error.kind() != ErrorKind::NotFound
                {
                    tracing::warn!(path = %temporary.display(), %error, "a temporary file stays until the device is reopened");
                }
            }
        }
        written?;
        self.meter.wrote(bytes.len(), started.elapsed());
        Ok(validation)
    }

    fn put_all(&self, parts: &[Part]) -> Vec<Result<PartValidation, DeviceError>> {
        if parts.iter().all(|part| part.bytes().len() as u64 <= self.config.pack_bytes_max) {
            return self.put_packed(parts);
        }
        parts.iter().map(|part| self.put(part)).collect()
    }

    fn get(&self, part: Hash) -> Result<Bytes, DeviceError> {
        if let Some(found) = self.packs.get(part) {
            return self.packed(part, found);
        }
        let path = self.part_path(part);
        match File::open(&path).and_then(|file| direct::read(&file, PART_BYTES_MAX)) {
            Ok(bytes) => {
                let found = Hash::of(&bytes);
                if found == part { Ok(bytes.into()) } else { Err(DeviceError::Corrupt { part, found }) }
            }
            Err(error) => {
                self.present()?;
                match error.kind() {
                    ErrorKind::NotFound => Err(DeviceError::NotFound { part }),
                    _ => Err(io_error("read", &path, error)),
                }
            }
        }
    }

    fn remove(&self, part: Hash) -> Result<(), DeviceError> {
        self.present()?;
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(length) =
            self.packs.remove(part).map_err(|error| io_error("erase a part in", &self.packs_dir(), error))?
        {
            self.budget.removed(length);
            return Ok(());
        }
        let path = self.part_path(part);
        let remove = || -> io::Result<u64> {
            let length = fs::metadata(&path)?.len();
            fs::remove_file(&path)?;
            Ok(length)
        };
        match remove() {
            Ok(length) => {
                self.budget.removed(length);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(DeviceError::NotFound { part }),
            Err(error) => Err(io_error("remove", &path, error)),
        }
    }

    fn list(&self) -> Result<Vec<PartEntry>, DeviceError> {
        self.present()?;
        self.scan()
    }

    fn reopen(&self) -> Result<(), DeviceError> {
        let disk = match marker::read(&self.config.path) {
            Ok(Some((found, disk))) => {
                check_marker(&self.config.path, found, self.vendor, self.id)?;
                disk
            }
            Ok(None) => return Err(self.suspend(absent(&self.config.path))),
            Err(error @ DeviceError::Refused { .. }) => return Err(error),
            Err(error) => return Err(self.suspend(error.to_string())),
        };
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        self.prepare()?;
        *self.status() = Status { state: DeviceState::Healthy, reason: String::new(), disk };
        Ok(())
    }
}

/// The identity of the device at `path`, which gets a marker if it has none.
fn add(path: &Path, vendor: NodeId) -> Result<DeviceId, DeviceError> {
    fs::create_dir_all(path).map_err(|error| io_error("make", path, error))?;
    if let Some((found, _)) = marker::read(path)? {
        check_marker(path, found, vendor, found.device)?;
        return Ok(found.device);
    }
    if path.join("parts").exists() {
        let reason = format!(
            "it holds parts but no {}; restore that file, or give Fathom an empty directory",
            marker::MARKER_NAME
        );
        return Err(DeviceError::Refused { path: path.to_owned(), reason });
    }
    let mut id = [0; DeviceId::LEN];
    getrandom::fill(&mut id).map_err(|error| io_error("draw an identity for", path, io::Error::other(error)))?;
    let device = DeviceId(id);
    marker::write(path, Marker { device, vendor })?;
    Ok(device)
}

fn check_marker(path: &Path, found: Marker, vendor: NodeId, device: DeviceId) -> Result<(), DeviceError> {
    let refuse = |reason: String| Err(DeviceError::Refused { path: path.to_owned(), reason });
    if found.vendor != vendor {
        return refuse(format!("it is a device of vendor {}; give this vendor another directory", found.vendor));
    }
    if found.device != device {
        return refuse(format!("it is device {}, not {device}; mount the right disk there", found.device));
    }
    Ok(())
}

fn absent(path: &Path) -> String {
    format!("{} has no {}: is the disk mounted?", path.display(), marker::MARKER_NAME)
}
