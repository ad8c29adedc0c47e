//! Files to store, and whether what came back is the same.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::statvfs;

use super::BenchError;
use crate::{Cancel, Stopwatch};

/// Bytes written or compared at a time.
const PIECE: usize = 1 << 20;

/// Writes a file of `bytes` bytes that nobody can compress; `seed` decides which.
pub(super) fn generate(path: &Path, bytes: u64, seed: u64, cancel: &Cancel) -> Result<(), BenchError> {
    let failed = |source| BenchError::file("write", path, source);
    let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut file = File::create(path).map_err(failed)?;
    let mut piece = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        cancel.check()?;
        let length = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        stream.fill(&mut piece[..length]);
        file.write_all(&piece[..length]).map_err(failed)?;
        left -= length as u64;
    }
    Ok(())
}

/// The floor of a disk: `bytes` bytes written one after another, and one fsync. Returns the seconds.
pub(super) fn write_and_sync(path: &Path, bytes: u64, cancel: &Cancel) -> Result<f64, BenchError> {
    let failed = |source| BenchError::file("write", path, source);
    let mut piece = vec![0; PIECE];
    blake3::Hasher::new().finalize_xof().fill(&mut piece);
    let watch = Stopwatch::start();
    let mut file = File::create(path).map_err(failed)?;
    let mut left = bytes;
    while left > 0 {
        cancel.check()?;
        let length = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        file.write_all(&piece[..length]).map_err(failed)?;
        left -= length as u64;
    }
    file.sync_all().map_err(failed)?;
    Ok(watch.elapsed().as_secs_f64())
}

/// # Errors
/// [`BenchError::Differs`] if the files are not the same, byte by byte.
pub(super) fn compare(stored: &Path, fetched: &Path, cancel: &Cancel) -> Result<(), BenchError> {
    let open = |path: &Path| File::open(path).map_err(|source| BenchError::file("read", path, source));
    let (mut one, mut other) = (open(stored)?, open(fetched)?);
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        cancel.check()?;
        let length = fill(&mut one, &mut left).map_err(|source| BenchError::file("read", stored, source))?;
        let same = fill(&mut other, &mut right).map_err(|source| BenchError::file("read", fetched, source))?;
        if left[..length] != right[..same] {
            return Err(BenchError::Differs { path: fetched.to_owned(), piece: at });
        }
        if length == 0 {
            return Ok(());
        }
        at += length as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Makes `dir` if it is not there yet.
///
/// # Errors
/// [`BenchError::NoRoom`] if the disk below `dir` has less than `needed` bytes for this user.
pub(super) fn check_room(dir: &Path, needed: u64) -> Result<(), BenchError> {
    std::fs::create_dir_all(dir).map_err(|error| BenchError::file("make", dir, error))?;
    let stat = statvfs(dir).map_err(|error| BenchError::file("look at the disk of", dir, error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed { Err(BenchError::NoRoom { dir: dir.to_owned(), needed, free }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_file_and_a_changed_byte_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("1"), dir.path().join("2"));
        let bytes = (PIECE + 5) as u64;
        let cancel = Cancel::default();
        for path in [&one, &other] {
            generate(path, bytes, 7, &cancel).unwrap();
        }
        compare(&one, &other, &cancel).unwrap();
        let mut changed = std::fs::read(&other).unwrap();
        assert_eq!(changed.len() as u64, bytes);
        changed[PIECE + 2] ^= 1;
        std::fs::write(&other, &changed).unwrap();
        let error = compare(&one, &other, &cancel).unwrap_err();
        assert!(matches!(error, BenchError::Differs { piece, .. } if piece == PIECE as u64), "{error}");
        changed[PIECE + 2] ^= 1;
        changed.pop();
        std::fs::write(&other, &changed).unwrap();
        assert!(compare(&one, &other, &cancel).is_err() && compare(&other, &one, &cancel).is_err());
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        check_room(dir.path(), 1).unwrap();
        let error = check_room(dir.path(), u64::MAX).unwrap_err();
        assert!(matches!(error, BenchError::NoRoom { .. }) && error.exit_code() == 4, "{error}");
    }
}
