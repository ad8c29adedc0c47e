//! Where the socket is.
//!
//! A Unix socket's address holds about 100 bytes, fewer than some directories' paths have. A longer path is
//! reached through a descriptor of its directory, which Linux shows as `/proc/self/fd/N`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Longest path that every system takes, in bytes.
const ADDRESS_BYTES_MAX: usize = 100;

/// A path of the socket that is short enough, and what keeps it valid.
pub(super) struct ShortPath {
    path: PathBuf,
    _dir: Option<File>,
}

impl ShortPath {
    /// The short form of `path`, whose directory exists.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= ADDRESS_BYTES_MAX {
            return Ok(Self { path: path.to_owned(), _dir: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let dir = File::open(parent)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
        Ok(Self { path, _dir: Some(dir) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
