//! A disk in memory under the real local FAT. What was written and not synced may be lost, torn or out of order when
//! its node crashes, and a crash can be set to come at any one of its steps.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fathom_store::storage::FatStorage;
use redb::StorageBackend;

use super::random::Random;

/// Bytes that a disk writes whole.
const SECTOR: u64 = 512;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let (start, end) = (*offset as usize, *offset as usize + data.len());
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[start..end].copy_from_slice(data);
            }
            Self::SetLen(len) => image.resize(*len as usize, 0),
        }
    }

    fn order(&self) -> (u64, usize) {
        match self {
            Self::SetLen(len) => (0, *len as usize),
            Self::Write(offset, data) => (*offset + 1, data.len()),
        }
    }
}

#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    fuse: Option<u64>,
    dead: bool,
}

/// The disk. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    image: Arc<Mutex<Image>>,
    path: PathBuf,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self::of(Vec::new())
    }

    /// A disk with these bytes on it.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let image = Image { durable: bytes.clone(), bytes, ..Image::default() };
        Self { image: Arc::new(Mutex::new(image)), path: PathBuf::from("simulated-disk") }
    }

    /// What a snapshot of this disk holds: what is durable.
    pub(super) fn backup(&self) -> Vec<u8> {
        self.lock().durable.clone()
    }

    /// The power fails at the `step`th write, growth or sync from now, counted from 1.
    pub(super) fn fail_at(&self, step: u64) {
        self.lock().fuse = Some(step.max(1));
    }

    /// The power will not fail.
    pub(super) fn no_fault(&self) {
        self.lock().fuse = None;
    }

    /// Whether the power failed.
    pub(super) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Nothing is written any more: what still has this disk open cannot change it.
    pub(super) fn kill(&self) {
        self.lock().dead = true;
    }

    /// What is on the disk after the crash, and how many writes were torn or lost.
    pub(super) fn after_crash(&self, random: &mut Random) -> (Self, u64) {
        let mut image = self.lock();
        image.dead = true;
        let mut pending = std::mem::take(&mut image.pending);
        // redb's order within one sync is no part of a seed.
        pending.sort_by_key(Change::order);
        let (mut bytes, mut harmed) = (image.durable.clone(), 0);
        for change in pending {
            match random.below(3) {
                0 => change.apply(&mut bytes),
                1 => harmed += 1,
                _ => {
                    harmed += 1;
                    if let Change::Write(offset, data) = &change {
                        let sectors = (data.len() as u64).div_ceil(SECTOR);
                        let keep = (random.below(sectors) * SECTOR) as usize;
                        Change::Write(*offset, data[..keep.min(data.len())].to_vec()).apply(&mut bytes);
                    }
                }
            }
        }
        (Self::of(bytes), harmed)
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> io::Result<MutexGuard<'_, Image>> {
        let mut image = self.lock();
        if let Some(left) = &mut image.fuse {
            *left -= 1;
            if *left == 0 {
                image.fuse = None;
                image.dead = true;
            }
        }
        if image.dead { Err(io::Error::other("the power failed")) } else { Ok(image) }
    }
}

impl FatStorage for Disk {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Handle(self.clone())))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn rewrite(&self) -> io::Result<()> {
        self.step().map(|_| ())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[derive(Debug)]
struct Handle(Disk);

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.0.lock();
        let start = offset as usize;
        let bytes = image.bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut image = self.0.step()?;
        let change = Change::SetLen(len);
        change.apply(&mut image.bytes);
        image.pending.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.0.step()?;
        for change in std::mem::take(&mut image.pending) {
            change.apply(&mut image.durable);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut image = self.0.step()?;
        let change = Change::Write(offset, data.to_vec());
        change.apply(&mut image.bytes);
        image.pending.push(change);
        Ok(())
    }
}
