//! Small parts of a directory device, many in one file: making a file durable costs more than what is in it.
//!
//! ```text
//! DIR/packs/<32 hex digits>    a pack; the digits are its key, drawn at random when it is made
//! ```
//!
//! A pack is records, each beginning at a multiple of [`BLOCK`]. Integers are big-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `FPAK` |
//! | 4 | 1 | version, 1 |
//! | 5 | 3 | zero |
//! | 8 | 4 | length of the part |
//! | 12 | 4 | zero |
//! | 16 | 32 | the part's name |
//! | 48 | 16 | first half of BLAKE3 of the pack's key and the 48 bytes before |
//! | 64 | .. | the part |
//!
//! Records are appended, synced together with those of other writers, read back and compared; only then are they found. A place
//! is never used twice. Erasing frees the record's blocks where they are (a hole), and removes a pack that holds nothing.
//! Where the file system cannot make holes, a record is wiped, and its room is free once its pack holds nothing.
//!
//! When a device is opened its packs are scanned by their records' headers. What a crash left of a record at the end is passed over, or
//! found as a part that no local FAT names. The key keeps a part's content from being taken for a record, whoever wrote it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use fathom_protocol::ids::Hash;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::device::PartEntry;

/// Records begin at multiples of this, so that a hole frees all of one.
const BLOCK: u64 = 4096;
const HEADER: usize = 64;
const CHECKED: usize = 48;
const MAGIC: &[u8; 4] = b"FPAK";
const VERSION: u8 = 1;
/// Length at which a pack takes no more, in bytes.
const PACK_BYTES: u64 = 64 << 20;

/// A pack's key, which is its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key([u8; 16]);

impl Key {
    fn of_name(name: &str) -> Option<Self> {
        let digits = name.len() == 32 && name.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(name, 16).ok())?.map(|key| Self(key.to_be_bytes()))
    }

    fn name(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    fn check(self, header: &[u8]) -> [u8; HEADER - CHECKED] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(header);
        let mut check = [0; HEADER - CHECKED];
        check.copy_from_slice(&hasher.finalize().as_bytes()[..HEADER - CHECKED]);
        check
    }

    /// The record of a part.
    fn record(self, part: Hash, bytes: &[u8]) -> Vec<u8> {
        let mut record = Vec::with_capacity(HEADER + bytes.len());
        record.extend_from_slice(MAGIC);
        record.extend_from_slice(&[VERSION, 0, 0, 0]);
        record.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(&part.0);
        record.extend_from_slice(&self.check(&record));
        record.extend_from_slice(bytes);
        record
    }

    /// The name and length of the part whose record begins with `header`.
    fn parse(self, header: &[u8; HEADER]) -> Option<(Hash, u32)> {
        let (said, check) = header.split_at(CHECKED);
        if &said[..4] != MAGIC || said[4] != VERSION || check != self.check(said) {
            return None;
        }
        Some((Hash::from_slice(&said[16..])?, u32::from_be_bytes(said[8..12].try_into().ok()?)))
    }
}

/// Bytes of a pack that the record of a part takes.
fn span(length: u64) -> u64 {
    (HEADER as u64 + length).next_multiple_of(BLOCK)
}

/// Where a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spot {
    key: Key,
    at: u64,
    length: u32,
}

/// The pack that records are appended to.
#[derive(Debug)]
struct Current {
    key: Key,
    file: Arc<Appended>,
    end: u64,
}

/// Writers of one file who wait for it to be synced: one syncs for all who had written by then.
#[derive(Debug)]
struct Appended {
    file: File,
    syncing: Mutex<Syncing>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Syncing {
    /// Writes that wished to be synced, and how many of them are.
    asked: u64,
    synced: u64,
    running: bool,
    /// How a sync failed: what of the file is on the disk is not known, and will not be.
    failed: Option<ErrorKind>,
}

impl Appended {
    /// Returns once everything that the caller wrote is on the disk.
    fn sync(&self) -> io::Result<()> {
        let mut state = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked += 1;
        let mine = state.asked;
        while state.synced < mine {
            if let Some(kind) = state.failed {
                return Err(kind.into());
            }
            if state.running {
                state = self.over.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            let all = state.asked;
            drop(state);
            let synced = self.file.sync_data();
            state = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            match &synced {
                Ok(()) => state.synced = all,
                Err(error) => state.failed = Some(error.kind()),
            }
            self.over.notify_all();
            synced?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct State {
    parts: HashMap<Hash, Spot>,
    /// Records in each pack, those that are being written included.
    records: HashMap<Key, u64>,
    current: Option<Current>,
}

/// The step of a write that failed, for the device to judge by.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) operation: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

/// A record that is written and not yet found by its name. Its room is given back on drop.
#[derive(Debug)]
pub(crate) struct Fresh<'a> {
    packs: &'a Packs,
    file: Arc<Appended>,
    part: Hash,
    spot: Spot,
    /// What was there of that name, and is no good.
    rotten: Option<Spot>,
    kept: bool,
}

/// What came of a fresh record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// It is found.
    New,
    /// It is found instead of one of this length, which was there when it was written.
    Instead(u64),
    /// Another one came to be there meanwhile, and stays.
    Known,
}

impl Fresh<'_> {
    /// The pack, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.packs.path(self.spot.key)
    }

    /// Whether both are in one pack: what makes one durable makes the other so, if both were appended before.
    pub(crate) fn beside(&self, other: &Self) -> bool {
        self.spot.key == other.spot.key
    }

    /// Makes it durable, with whatever else was appended meanwhile. After a failure the next records go into another pack.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let synced = self.file.sync();
        if synced.is_err() {
            let mut state = self.packs.lock();
            state.current = state.current.take().filter(|current| current.key != self.spot.key);
        }
        synced
    }

    /// What is there.
    pub(crate) fn read_back(&self) -> io::Result<Vec<u8>> {
        read(&self.file.file, self.spot)
    }

    /// From now on it is found.
    pub(crate) fn publish(mut self) -> io::Result<Published> {
        let mut state = self.packs.lock();
        let published = match state.parts.get(&self.part).copied() {
            None => Published::New,
            there if there != self.rotten => return Ok(Published::Known),
            Some(rotten) => {
                self.packs.free(&mut state, rotten)?;
                Published::Instead(u64::from(rotten.length))
            }
        };
        state.parts.insert(self.part, self.spot);
        self.kept = true;
        Ok(published)
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let freed = self.packs.free(&mut self.packs.lock(), self.spot);
        if let Err(error) = freed {
            tracing::warn!(path = %self.path().display(), %error, "a record that was not kept takes room until the device is reopened");
        }
    }
}

/// The packs of one device.
#[derive(Debug)]
pub(crate) struct Packs {
    dir: PathBuf,
    state: Mutex<State>,
}

impl Packs {
    /// The packs in `dir`, of which nothing is known before [`Self::scan`].
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: Key) -> PathBuf {
        self.dir.join(key.name())
    }

    /// Whether a part of that name is in a pack.
    pub(crate) fn holds(&self, part: Hash) -> bool {
        self.lock().parts.contains_key(&part)
    }

    /// Every part in a pack.
    pub(crate) fn list(&self) -> Vec<PartEntry> {
        let state = self.lock();
        state.parts.iter().map(|(part, spot)| PartEntry { part: *part, length: u64::from(spot.length) }).collect()
    }

    /// Appends a part's record. `step` is told of a directory that is about to be synced.
    pub(crate) fn append(
        &self,
        part: Hash,
        bytes: &[u8],
        step: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<Fresh<'_>, Failed> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let rotten = self.lock().parts.get(&part).copied();
        let (key, file, at) = self.place(span(u64::from(length)), step)?;
        let fresh = Fresh { packs: self, file, part, spot: Spot { key, at, length }, rotten, kept: false };
        match fresh.file.file.write_all_at(&key.record(part, bytes), at) {
            Ok(()) => Ok(fresh),
            Err(error) => Err(Failed { operation: "write", path: fresh.path(), error }),
        }
    }

    /// Room for `bytes` bytes at the end of a pack.
    fn place(
        &self,
        bytes: u64,
        step: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(Key, Arc<Appended>, u64), Failed> {
        let mut state = self.lock();
        if state.current.as_ref().is_none_or(|current| current.end + bytes > PACK_BYTES) {
            state.current = Some(self.create(step)?);
        }
        let State { current: Some(current), records, .. } = &mut *state else {
            let error = io::Error::other("there is no pack");
            return Err(Failed { operation: "write", path: self.dir.clone(), error });
        };
        let at = current.end;
        current.end += bytes;
        *records.entry(current.key).or_default() += 1;
        Ok((current.key, Arc::clone(&current.file), at))
    }

    fn create(&self, step: impl FnOnce(&Path) -> io::Result<()>) -> Result<Current, Failed> {
        let failed = |operation, path: &Path, error| Failed { operation, path: path.to_owned(), error };
        let mut key = [0; 16];
        getrandom::fill(&mut key)
            .map_err(|error| failed("draw a name in", &self.dir, io::Error::other(error.to_string())))?;
        let (key, path) = (Key(key), self.path(Key(key)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed("make", &path, error))?;
        step(&self.dir)
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|error| failed("sync", &self.dir, error))?;
        let file = Appended { file, syncing: Mutex::default(), over: Condvar::new() };
        Ok(Current { key, file: Arc::new(file), end: 0 })
    }

    /// The bytes of a part as they are, zeros if it was erased meanwhile; `None` if there is none of that name.
    pub(crate) fn get(&self, part: Hash) -> Option<io::Result<Vec<u8>>> {
        let spot = *self.lock().parts.get(&part)?;
        Some(File::open(self.path(spot.key)).and_then(|file| read(&file, spot)))
    }

    /// Syncs the pack of a part that was found, in case that a crash left it there unsynced.
    pub(crate) fn sync(&self, part: Hash) -> io::Result<()> {
        let spot = self.lock().parts.get(&part).copied().ok_or(ErrorKind::NotFound)?;
        File::open(self.path(spot.key))?.sync_data()
    }

    /// Erases a part; its length, or `None` if there is none of that name.
    pub(crate) fn remove(&self, part: Hash) -> io::Result<Option<u64>> {
        let mut state = self.lock();
        let Some(spot) = state.parts.get(&part).copied() else { return Ok(None) };
        self.free(&mut state, spot)?;
        state.parts.remove(&part);
        Ok(Some(u64::from(spot.length)))
    }

    /// Gives back the room of a record, and that of its pack if it was the last one there.
    fn free(&self, state: &mut State, spot: Spot) -> io::Result<()> {
        let path = self.path(spot.key);
        let left = state.records.get(&spot.key).copied().unwrap_or(1).saturating_sub(1);
        if left == 0 {
            gone(fs::remove_file(&path))?;
            state.records.remove(&spot.key);
            if state.current.as_ref().is_some_and(|current| current.key == spot.key) {
                state.current = None;
            }
            return Ok(());
        }
        gone(OpenOptions::new().write(true).open(&path).and_then(|file| punch(&file, spot)))?;
        state.records.insert(spot.key, left);
        Ok(())
    }

    /// Finds what is there. Nothing is appended to what an earlier run wrote.
    pub(crate) fn scan(&self) -> io::Result<()> {
        let mut found = State::default();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some(key) = entry.file_name().to_str().and_then(Key::of_name) else { continue };
            let parts = scan_pack(&File::open(entry.path())?, key)?;
            if parts.is_empty() {
                fs::remove_file(entry.path())?;
                continue;
            }
            found.records.insert(key, parts.len() as u64);
            found.parts.extend(parts);
        }
        *self.lock() = found;
        Ok(())
    }
}

fn read(file: &File, spot: Spot) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; spot.length as usize];
    file.read_exact_at(&mut bytes, spot.at + HEADER as u64)?;
    Ok(bytes)
}

/// What is gone already need not go.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Frees a record's blocks; where there are no holes, wipes its header, so that it is not found again.
fn punch(file: &File, spot: Spot) -> io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, hole, spot.at, span(u64::from(spot.length))) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.write_all_at(&[0; HEADER], spot.at),
        result => Ok(result?),
    }
}

/// The parts of a pack by its records' headers.
fn scan_pack(file: &File, key: Key) -> io::Result<Vec<(Hash, Spot)>> {
    let (length, mut at, mut found) = (file.metadata()?.len(), 0, Vec::new());
    while let Some(data) = next_data(file, at)? {
        at = at.max(data / BLOCK * BLOCK);
        let mut header = [0; HEADER];
        if at + HEADER as u64 > length {
            break;
        }
        file.read_exact_at(&mut header, at)?;
        let record = key.parse(&header).map(|(part, length)| (part, Spot { key, at, length }));
        match record.filter(|(_, spot)| at + HEADER as u64 + u64::from(spot.length) <= length) {
            Some((part, spot)) => {
                at += span(u64::from(spot.length));
                found.push((part, spot));
            }
            None => at += BLOCK,
        }
    }
    Ok(found)
}

/// Where the next bytes are that are no hole, at `at` or after it.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        // Beyond the last of them.
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes has none.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((at < file.metadata()?.len()).then_some(at)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
