//! Files to store, and looking at files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Every file of a directory by its path below it: bytes' hash, length and permission bits.
pub type Tree = BTreeMap<String, (blake3::Hash, u64, u32)>;

/// `length` bytes that follow from `seed` alone and do not compress.
#[must_use]
pub fn random_bytes(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A file at `path` of `length` bytes that follow from `seed`. Returns the path.
///
/// # Panics
/// When it cannot be written.
pub fn random_file(path: impl AsRef<Path>, seed: &str, length: usize) -> PathBuf {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().expect("a parent directory")).expect("its directory");
    fs::write(path, random_bytes(seed, length)).expect("the file is written");
    path.to_owned()
}

/// All files below `dir`.
///
/// # Panics
/// When one cannot be read.
#[must_use]
pub fn tree(dir: &Path) -> Tree {
    let mut found = Tree::new();
    for path in files_below(dir) {
        let bytes = fs::read(&path).expect("a readable file");
        let mode = fs::metadata(&path).expect("its metadata").permissions().mode() & 0o777;
        let name = path.strip_prefix(dir).expect("below").to_string_lossy().into_owned();
        found.insert(name, (blake3::hash(&bytes), bytes.len() as u64, mode));
    }
    found
}

/// # Panics
/// When the two files differ, saying where first.
#[track_caller]
pub fn assert_same_bytes(one: &Path, other: &Path) {
    let (a, b) = (fs::read(one).expect("one file"), fs::read(other).expect("the other file"));
    if a != b {
        let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
        let (one, other) = (one.display(), other.display());
        let (a, b) = (a.len(), b.len());
        panic!("{one} ({a} bytes) and {other} ({b} bytes) differ from byte {at} on");
    }
}

/// The part files on a device's directory, those with many small parts last, sorted.
#[must_use]
pub fn part_files(device: &Path) -> Vec<PathBuf> {
    let mut files = files_below(&device.join("parts"));
    files.extend(files_below(&device.join("packs")));
    files
}

/// How many parts are on a device's directory: files of their own, and records in packs.
#[must_use]
pub fn part_count(device: &Path) -> usize {
    let records = |pack: &PathBuf| {
        let pack = fs::read(pack).unwrap_or_default();
        pack.chunks(4096).filter(|block| block.starts_with(b"FPAK")).count()
    };
    files_below(&device.join("parts")).len() + files_below(&device.join("packs")).iter().map(records).sum::<usize>()
}

/// What a device's directory holds of parts that are being written.
#[must_use]
pub fn temporary_files(device: &Path) -> Vec<PathBuf> {
    files_below(&device.join("tmp"))
}

/// Files below `dir`, sorted; none if it is not there. What vanishes meanwhile is left out.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
    found.sort();
    found
}
