//! Long files past the kernel's page cache.
//!
//! What a vendor stores is hardly read again soon, and what a user fetched was written once: in the page cache it displaces
//! what is needed there, and its copy costs CPU time, on a virtual machine as much as all else that a vendor does with a chunk
//! (docs/performance.md). What is read comes from the disk, so that reading back says something about it.
//!
//! Where a file system cannot do so, everything goes through the page cache as usual.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// What addresses, offsets and lengths are multiples of, in bytes: enough for any disk of today.
const BLOCK: usize = 4096;
/// Bytes that are read back and compared at a time.
const COMPARE_BYTES: usize = 1024 * 1024;

/// Bytes that begin at a multiple of a block in memory, with zeros after them up to the next one.
#[derive(Clone)]
pub struct Aligned {
    memory: Vec<u8>,
    from: usize,
    length: usize,
}

impl Aligned {
    /// So many zeros.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        let memory = vec![0; length.next_multiple_of(BLOCK) + BLOCK];
        let from = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, from, length }
    }

    /// `pieces`, one after the other.
    #[must_use]
    pub fn of(pieces: &[&[u8]]) -> Self {
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let mut memory: Vec<u8> = Vec::with_capacity(length.next_multiple_of(BLOCK) + BLOCK);
        let from = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        memory.resize(from, 0);
        pieces.iter().for_each(|piece| memory.extend_from_slice(piece));
        memory.resize(from + length.next_multiple_of(BLOCK), 0);
        Self { memory, from, length }
    }

    /// With the zeros behind.
    fn blocks(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.length.next_multiple_of(BLOCK)]
    }

    fn blocks_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.length.next_multiple_of(BLOCK)]
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.length]
    }
}

impl From<Aligned> for Bytes {
    fn from(aligned: Aligned) -> Self {
        let Aligned { memory, from, length } = aligned;
        Self::from(memory).slice(from..from + length)
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.length]
    }
}

impl std::fmt::Debug for Aligned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

/// Has what is read from and written to `file` go past the page cache, or not. Whether that is so now: not every file system
/// can, and some say it only when it is tried.
fn directly(file: &File, wanted: bool) -> bool {
    let set = fcntl_getfl(file).and_then(|flags| {
        let direct = if wanted { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
        fcntl_setfl(file, direct)
    });
    set.is_ok()
}

fn is_refused(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

/// Writes `bytes` at `offset`, a multiple of 4096. A file that ended before the end of the last block then ends there: its length is to be
/// set.
///
/// # Errors
/// The operating system's.
pub fn write_blocks(file: &File, bytes: &Aligned, offset: u64) -> io::Result<()> {
    if directly(file, true) {
        match file.write_all_at(bytes.blocks(), offset) {
            Err(error) if is_refused(&error) => directly(file, false),
            written => return written,
        };
    }
    file.write_all_at(bytes, offset)
}

/// Whether `file` holds exactly `bytes`, as it is read from the disk.
///
/// # Errors
/// The operating system's.
pub fn holds(file: &File, bytes: &[u8]) -> io::Result<bool> {
    if file.metadata()?.len() != bytes.len() as u64 {
        return Ok(false);
    }
    let mut found = Aligned::zeroed(bytes.len().min(COMPARE_BYTES));
    for (piece, offset) in bytes.chunks(COMPARE_BYTES).zip((0..).step_by(COMPARE_BYTES)) {
        if read_blocks(file, &mut found, offset)? < piece.len() || found[..piece.len()] != *piece {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The whole of `file`, if it is no longer than `most` bytes; otherwise its first `most` bytes and one.
///
/// # Errors
/// The operating system's.
pub fn read(file: &File, most: u64) -> io::Result<Aligned> {
    let length = file.metadata()?.len().min(most.saturating_add(1));
    let mut bytes = Aligned::zeroed(usize::try_from(length).map_err(io::Error::other)?);
    bytes.length = read_blocks(file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Fills `into` from `offset`, a multiple of 4096, as far as there is something; how many bytes there were.
fn read_blocks(file: &File, into: &mut Aligned, offset: u64) -> io::Result<usize> {
    directly(file, true);
    let (mut filled, wanted) = (0, into.length);
    while filled < wanted {
        match file.read_at(&mut into.blocks_mut()[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Also where a read ended within a block and more was asked for from there.
            Err(error) if is_refused(&error) => {
                directly(file, false);
                let read = file.read_at(&mut into.blocks_mut()[filled..], offset + filled as u64)?;
                if read == 0 {
                    break;
                }
                filled += read;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(filled.min(wanted))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::fs::OpenOptions;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    #[test]
    fn memory_begins_at_a_block_and_ends_with_zeros() {
        for length in [0, 1, 4095, 4096, 4097, 1_048_968] {
            let bytes = content(length);
            let aligned = Aligned::of(&[&bytes[..length / 3], &bytes[length / 3..]]);
            assert_eq!(*aligned, *bytes);
            assert_eq!(aligned.blocks().as_ptr().align_offset(BLOCK), 0);
            assert_eq!(aligned.blocks().len() % BLOCK, 0);
            assert!(aligned.blocks()[length..].iter().all(|byte| *byte == 0));
            assert_eq!(*Aligned::zeroed(length), *vec![0; length]);
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for length in [1, 4096, 5000, 3 * COMPARE_BYTES, 3 * COMPARE_BYTES + 1] {
            let (bytes, path) = (content(length), dir.path().join(length.to_string()));
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
            write_blocks(&file, &Aligned::of(&[&bytes]), 0).unwrap();
            file.set_len(length as u64).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert!(holds(&file, &bytes).unwrap());
            assert_eq!(*read(&file, length as u64).unwrap(), *bytes);
            assert_eq!(read(&file, length as u64 - 1).unwrap().len(), length, "one more than asked for, to show it");

            let mut other = bytes.clone();
            *other.last_mut().unwrap() ^= 1;
            assert!(!holds(&file, &other).unwrap());
            assert!(!holds(&file, &bytes[..length - 1]).unwrap());
            assert!(!holds(&file, &[bytes.as_slice(), &[0]].concat()).unwrap());
        }
    }

    /// Disks refuse what is not at a block, as file systems that cannot do it refuse all.
    #[test]
    fn what_is_refused_goes_through_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, path) = (content(10_000), dir.path().join("file"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        write_blocks(&file, &Aligned::of(&[&bytes]), 100).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[100..10_100], bytes);
        let mut found = Aligned::zeroed(9_900);
        assert_eq!(read_blocks(&file, &mut found, 200).unwrap(), 9_900);
        assert_eq!(*found, bytes[100..]);
    }
}
