//! The bytes under the local FAT: a file, and an overlay that keeps writes away from it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// Where the bytes of a local FAT are.
pub trait FatStorage: Debug + Send + Sync {
    /// The bytes, for one database at a time.
    ///
    /// # Errors
    /// Whatever the medium answers.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Bytes free for growth, if that can be known.
    ///
    /// # Errors
    /// Whatever the medium answers.
    fn free_bytes(&self) -> io::Result<Option<u64>>;

    /// Writes everything anew and durably, while no database has it open.
    ///
    /// # Errors
    /// Whatever the medium answers; then the old bytes are still there.
    fn rewrite(&self) -> io::Result<()>;

    /// What to call it in messages.
    fn path(&self) -> &Path;
}

/// A file.
#[derive(Debug)]
pub(crate) struct FileStorage {
    path: PathBuf,
}

impl FileStorage {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn sync_parent(&self) -> io::Result<()> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl FatStorage for FileStorage {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path)?;
        self.sync_parent()?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let fs = rustix::fs::statvfs(
            self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )?;
        Ok(Some(fs.f_bavail.saturating_mul(fs.f_frsize)))
    }

    fn rewrite(&self) -> io::Result<()> {
        let copy = self.path.with_extension("rewrite");
        fs::copy(&self.path, &copy)?;
        File::open(&copy)?.sync_all()?;
        fs::rename(&copy, &self.path)?;
        self.sync_parent()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// A backend behind a pointer, which redb does not take as such.
#[derive(Debug)]
pub(crate) struct Boxed(pub(crate) Box<dyn StorageBackend>);

macro_rules! delegate_locks {
    ($inner:tt) => {
        fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.$inner.try_lock_range(start, end)
        }
        fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.$inner.try_lock_shared_range(start, end)
        }
        fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.$inner.lock_range(start, end)
        }
        fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.$inner.lock_shared_range(start, end)
        }
        fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.$inner.unlock_range(start, end)
        }
        fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.$inner.query_lock_range(start, end)
        }
        fn close(&self) -> io::Result<()> {
            self.$inner.close()
        }
    };
}

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    delegate_locks!(0);
}

/// Granularity of the overlay, in bytes.
const OVERLAY_PAGE: u64 = 4096;

/// A backend whose writes stay in memory. What redb writes when it opens a file is a few pages, so this stays small.
#[derive(Debug)]
pub(crate) struct Overlay {
    base: Box<dyn StorageBackend>,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    len: Option<u64>,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    pub(crate) fn new(base: Box<dyn StorageBackend>) -> Self {
        Self { base, written: Mutex::default() }
    }

    /// Bytes of one page, from the overlay or from below; what lies beyond the end of the base is zero.
    fn page(&self, written: &Written, page: u64) -> io::Result<Vec<u8>> {
        if let Some(bytes) = written.pages.get(&page) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; OVERLAY_PAGE as usize];
        let at = page * OVERLAY_PAGE;
        let there = self.base.len()?.saturating_sub(at).min(OVERLAY_PAGE) as usize;
        if there > 0 {
            self.base.read(at, &mut bytes[..there])?;
        }
        Ok(bytes)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.len.map_or_else(|| self.base.len(), Ok)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (page, within) = (at / OVERLAY_PAGE, (at % OVERLAY_PAGE) as usize);
            let take = (OVERLAY_PAGE as usize - within).min(out.len() - done);
            out[done..done + take].copy_from_slice(&self.page(&written, page)?[within..within + take]);
            done += take;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).len = Some(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (page, within) = (at / OVERLAY_PAGE, (at % OVERLAY_PAGE) as usize);
            let take = (OVERLAY_PAGE as usize - within).min(data.len() - done);
            let mut bytes = self.page(&written, page)?;
            bytes[within..within + take].copy_from_slice(&data[done..done + take]);
            written.pages.insert(page, bytes);
            done += take;
        }
        Ok(())
    }

    delegate_locks!(base);
}
