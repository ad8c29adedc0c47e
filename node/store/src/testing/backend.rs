//! A local FAT's storage in memory that fails on demand and remembers what was written when.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::fat::FatStorage;

/// What a write, a growth or a sync meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendFault {
    /// ENOSPC, for this and every later write or growth until [`FailingStorage::heal`]. Syncs succeed.
    NoSpace,
    /// EIO, once.
    Eio,
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

/// Storage of a local FAT in memory. Clones share the bytes, so they outlive the database.
#[derive(Debug, Clone)]
pub struct FailingStorage {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Disk {
    bytes: Vec<u8>,
    recording: Option<Vec<WriteRecord>>,
    /// How many more writes, growths and syncs pass before the fault.
    countdown: Option<(u64, BackendFault)>,
    full: bool,
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
        let disk = Disk { bytes, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)), path: PathBuf::from("local-fat-in-memory") }
    }

    /// The bytes as they are.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// Remembers every change from now on.
    pub fn record(&self) {
        self.lock().recording = Some(Vec::new());
    }

    /// The changes since [`Self::record`].
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
        disk.full = false;
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
                }
            }
        }
        if self.full && takes_space { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn change(&mut self, record: WriteRecord) {
        record.apply(&mut self.bytes, usize::MAX);
        if let Some(recording) = &mut self.recording {
            recording.push(record);
        }
    }
}

impl FatStorage for FailingStorage {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Handle(Arc::clone(&self.disk))))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn rewrite(&self) -> io::Result<()> {
        self.lock().step(true)
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
        disk.step(false)?;
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
