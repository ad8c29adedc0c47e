//! A hook into the steps of a durable write, below the device.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A step of [`crate::DirectoryDevice`]'s put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoStep {
    /// Creating and writing the temporary file.
    Write,
    /// Syncing it.
    SyncFile,
    /// Giving it its name.
    Rename,
    /// Syncing the directory of that name.
    SyncDir,
}

/// Called before each step; an error is taken for the step's own.
pub trait IoHook: Debug + Send + Sync {
    /// About to do `step` on `path`.
    ///
    /// # Errors
    /// Whatever the step is to fail with.
    fn before(&self, step: IoStep, path: &Path) -> io::Result<()>;
}

/// Fails one step once, with an operating system's error number.
#[derive(Debug)]
pub struct FailOnce {
    armed: Mutex<Option<(IoStep, i32)>>,
}

impl FailOnce {
    /// The next `step` fails with the error number `errno`.
    #[must_use]
    pub fn new(step: IoStep, errno: i32) -> Self {
        Self { armed: Mutex::new(Some((step, errno))) }
    }

    /// Nothing fails.
    pub fn disarm(&self) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Arms it anew.
    pub fn arm(&self, step: IoStep, errno: i32) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((step, errno));
    }
}

impl IoHook for FailOnce {
    fn before(&self, step: IoStep, _path: &Path) -> io::Result<()> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        match *armed {
            Some((at, errno)) if at == step => {
                *armed = None;
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }
}
