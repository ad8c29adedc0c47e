//! A database's storage in memory that fails on demand and remembers what was written when.
//!
//! It keeps what a program reads apart from what a power cut would leave. A sync that fails loses what was written since
//! the one before for good, as the page cache of Linux does: it is read as written, and no later sync brings it to the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::storage::FatStorage;

/// What a write, a growth or a sync meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendFault {
    /// ENOSPC, for this and every later write or growth until [`FailingStorage::heal`]. Syncs succeed.
    NoSpace,
    /// EIO, once.
    Eio,
    /// EIO, for this and every later write, growth and sync until [`FailingStorage::heal`].
    Broken,
}

/// One change of the storage, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteRecord {
    /// `data` at `offset`.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// The length became this, in bytes.
    SetLen(u64),
    /// Everything before is on the disk.
    Sync,
}

impl WriteRecord {
    /// Applies the first `bytes` bytes of this change to `image`.
    pub fn apply(&self, image: &mut Vec<u8>, bytes: usize) {
        match self {
            Self::Write { offset, data } => {
                let (start, take) = (*offset as usize, bytes.min(data.len()));
                if image.len() < start + take {
                    image.resize(start + take, 0);
                }
                image[start..start + take].copy_from_slice(&data[..take]);
            }
            Self::SetLen(len) => image.resize(*len as usize, 0),
            Self::Sync => {}
        }
    }
}

/// Storage of a database in memory. Clones share the bytes, so they outlive the database.
#[derive(Debug, Clone)]
pub struct FailingStorage {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Disk {
    /// What is read.
    bytes: Vec<u8>,
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// What the next sync makes durable.
    dirty: Vec<WriteRecord>,
    recording: Option<Vec<WriteRecord>>,
    /// How many more writes, growths and syncs pass before the fault.
    countdown: Option<(u64, BackendFault)>,
    full: bool,
    broken: bool,
    steps: u64,
}

impl Default for FailingStorage {
    fn default() -> Self {
        Self::from_image(Vec::new())
    }
}

impl FailingStorage {
    /// Storage that holds `bytes`.
    #[must_use]
    pub fn from_image(bytes: Vec<u8>) -> Self {
        let disk = Disk { durable: bytes.clone(), bytes, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)), path: PathBuf::from("a-file-in-memory") }
    }

    /// The bytes as they are.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// The bytes that are there after a power cut, if nothing since the last sync that succeeded had reached the disk.
    #[must_use]
    pub fn durable_image(&self) -> Vec<u8> {
        self.lock().durable.clone()
    }

    /// Remembers every change from now on.
    pub fn record(&self) {
        self.lock().recording = Some(Vec::new());
    }

    /// How many changes there were since [`Self::record`].
    #[must_use]
    pub fn recorded_len(&self) -> usize {
        self.lock().recording.as_ref().map_or(0, Vec::len)
    }

    /// The changes since [`Self::record`], which ends with this.
    #[must_use]
    pub fn recorded(&self) -> Vec<WriteRecord> {
        self.lock().recording.take().unwrap_or_default()
    }

    /// The `nth` (from 1) write, growth or sync from now meets `fault`.
    pub fn fail_nth(&self, nth: u64, fault: BackendFault) {
        self.lock().countdown = Some((nth.max(1), fault));
    }

    /// No more faults.
    pub fn heal(&self) {
        let mut disk = self.lock();
        disk.countdown = None;
        (disk.full, disk.broken) = (false, false);
    }

    /// How many writes, growths and syncs there have been.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Flips one bit.
    pub fn flip_bit(&self, bit: usize) {
        let mut disk = self.lock();
        if let Some(byte) = disk.bytes.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn step(&mut self, takes_space: bool) -> io::Result<()> {
        self.steps += 1;
        if let Some((left, fault)) = &mut self.countdown {
            *left -= 1;
            if *left == 0 {
                let fault = *fault;
                self.countdown = None;
                match fault {
                    BackendFault::NoSpace => self.full = true,
                    BackendFault::Eio => return Err(rustix::io::Errno::IO.into()),
                    BackendFault::Broken => self.broken = true,
                }
            }
        }
        if self.broken {
            return Err(rustix::io::Errno::IO.into());
        }
        if self.full && takes_space { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn change(&mut self, record: WriteRecord) {
        record.apply(&mut self.bytes, usize::MAX);
        if record == WriteRecord::Sync {
            for written in self.dirty.drain(..) {
                written.apply(&mut self.durable, usize::MAX);
            }
        } else {
            self.dirty.push(record.clone());
        }
        if let Some(recording) = &mut self.recording {
            recording.push(record);
        }
    }
}

/// The images that a power cut during `writes`, which began over `before`, may leave: every prefix, with the write that was
/// cut off torn at each 512 bytes; and for the time between two syncs `draws` subsets of what was written then, one of them torn
/// too, as a disk that reorders leaves them. The file's length is metadata of the file system, whose journal keeps it in order.
#[must_use]
pub fn crash_images(before: &[u8], writes: &[WriteRecord], draws: u64) -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    let mut image = before.to_vec();
    for write in writes {
        let length = if let WriteRecord::Write { data, .. } = write { data.len() } else { 0 };
        for torn in (0..length).step_by(512) {
            let mut cut = image.clone();
            write.apply(&mut cut, torn);
            images.push(cut);
        }
        write.apply(&mut image, usize::MAX);
        images.push(image.clone());
    }
    let mut synced = before.to_vec();
    let mut dice = 0;
    for window in writes.split_inclusive(|write| *write == WriteRecord::Sync) {
        for _ in 0..draws {
            let mut image = synced.clone();
            let mut torn = false;
            for write in window {
                match (write, roll(&mut dice) % 4) {
                    (WriteRecord::SetLen(_), _) | (_, 0 | 1) => write.apply(&mut image, usize::MAX),
                    (WriteRecord::Write { data, .. }, 2) if !torn => {
                        torn = true;
                        write.apply(&mut image, roll(&mut dice) as usize % (data.len() / 512 + 1) * 512);
                    }
                    _ => {}
                }
            }
            images.push(image);
        }
        window.iter().for_each(|write| write.apply(&mut synced, usize::MAX));
    }
    images
}

/// The next of a fixed sequence of numbers (splitmix64).
fn roll(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl FatStorage for FailingStorage {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Handle(Arc::clone(&self.disk))))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn rewrite(&self) -> io::Result<()> {
        let mut disk = self.lock();
        disk.step(true)?;
        disk.dirty.clear();
        disk.durable = disk.bytes.clone();
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[derive(Debug)]
struct Handle(Arc<Mutex<Disk>>);

impl Handle {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = start.checked_add(out.len()).and_then(|end| disk.bytes.get(start..end));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.lock();
        let grows = len > disk.bytes.len() as u64;
        disk.step(grows)?;
        disk.change(WriteRecord::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.lock();
        if let Err(error) = disk.step(false) {
            disk.dirty.clear();
            return Err(error);
        }
        disk.change(WriteRecord::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        disk.step(true)?;
        disk.change(WriteRecord::Write { offset, data: data.to_vec() });
        Ok(())
    }
}
