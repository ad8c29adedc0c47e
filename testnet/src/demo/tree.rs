//! Comparing two directory trees byte by byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::DemoError;

/// Differences that are listed; more are counted.
const LISTED: usize = 10;

/// Length and BLAKE3 hash of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) bytes: u64,
    pub(crate) hash: blake3::Hash,
}

/// Every regular file below a directory, by its path relative to it.
pub(crate) type Sums = BTreeMap<PathBuf, Sum>;

/// Reads every regular file below `root`; for a file, `root` itself, under its own name.
pub(crate) fn sums(root: &Path) -> Result<Sums, DemoError> {
    let mut sums = Sums::new();
    for entry in WalkDir::new(root) {
        let entry = entry.map_err(|error| DemoError::file("read", root, error.into()))?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path();
        let relative = match path.strip_prefix(root) {
            Ok(relative) if !relative.as_os_str().is_empty() => relative.to_owned(),
            _ => PathBuf::from(entry.file_name()),
        };
        sums.insert(relative, sum(path)?);
    }
    Ok(sums)
}

fn sum(path: &Path) -> Result<Sum, DemoError> {
    let failed = |source| DemoError::file("read", path, source);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
    Ok(Sum { bytes: hasher.count(), hash: hasher.finalize() })
}

/// What differs between what was stored and what came back, one line each; empty when nothing does.
pub(crate) fn differences(stored: &Sums, fetched: &Sums) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, want) in stored {
        let have = fetched.get(path);
        let path = path.display();
        match have {
            None => lines.push(format!("{path} did not come back")),
            Some(have) if have.bytes != want.bytes => {
                lines.push(format!("{path} has {} bytes instead of {}", have.bytes, want.bytes));
            }
            Some(have) if have.hash != want.hash => lines.push(format!("{path} has other bytes")),
            Some(_) => {}
        }
    }
    let extra = fetched.keys().filter(|path| !stored.contains_key(*path));
    lines.extend(extra.map(|path| format!("{} came back but was never stored", path.display())));
    let more = lines.len().saturating_sub(LISTED);
    lines.truncate(LISTED);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Regular files below `dir` and the bytes in them; a directory that is not there has none.
pub(crate) fn usage(dir: &Path) -> (u64, u64) {
    WalkDir::new(dir)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .fold((0, 0), |(files, bytes), entry| (files + 1, bytes + entry.metadata().map_or(0, |meta| meta.len())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::fs;

    #[test]
    fn equal_trees_have_no_difference_and_each_kind_is_found() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&one, &two] {
            fs::create_dir(dir.path().join("sub")).unwrap();
            fs::write(dir.path().join("same"), "x").unwrap();
            fs::write(dir.path().join("sub/flipped"), "abc").unwrap();
            fs::write(dir.path().join("sub/short"), "abc").unwrap();
        }
        let stored = sums(one.path()).unwrap();
        assert_eq!(stored.len(), 3);
        assert!(differences(&stored, &sums(two.path()).unwrap()).is_empty());

        fs::write(two.path().join("sub/flipped"), "abd").unwrap();
        fs::write(two.path().join("sub/short"), "ab").unwrap();
        fs::remove_file(two.path().join("same")).unwrap();
        fs::write(two.path().join("new"), "").unwrap();
        let lines = differences(&stored, &sums(two.path()).unwrap());
        assert_eq!(
            lines,
            [
                "same did not come back",
                "sub/flipped has other bytes",
                "sub/short has 2 bytes instead of 3",
                "new came back but was never stored",
            ]
        );
    }

    #[test]
    fn many_differences_are_counted() {
        let hash = blake3::hash(b"");
        let stored = (0..25).map(|n| (n.to_string().into(), Sum { bytes: 0, hash })).collect();
        let lines = differences(&stored, &Sums::new());
        assert_eq!(lines.len(), LISTED + 1);
        assert_eq!(lines[LISTED], "and 15 more");
    }

    #[test]
    fn the_use_of_a_directory_counts_files_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(usage(dir.path()), (0, 0));
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/c"), "four").unwrap();
        assert_eq!(usage(dir.path()), (1, 4));
        assert_eq!(usage(&dir.path().join("none")), (0, 0));
    }
}
