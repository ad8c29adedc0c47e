//! The node's directory: where everything is, who may use it, and how files in it are written.
//!
//! | path | what | mode |
//! |---|---|---|
//! | `fathom.toml` | configuration | 0644 |
//! | `node.key` | the node's key | 0600 |
//! | `user.key` | the user's recovery entropy | 0600 |
//! | `network.toml` | the network's descriptor | 0644 |
//! | `lock` | held by the one process that uses the directory; its process id | 0600 |
//! | `control.sock` | where the CLI speaks to the running node | 0600 |
//! | `ready.json` | there while a node listens: who it is and where | 0644 |
//! | `peers.cbor` | peers known when the node last looked, to find the network again by | 0644 |
//! | `vendor/`, `mirror/`, `user/` | each role's own state | 0700 |
//!
//! A file is replaced whole or not at all: written beside its place, synced, renamed, and the directory synced.
//! This module knows nothing of what the files say.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Mode of files that only their owner may read.
pub const MODE_SECRET: u32 = 0o600;
/// Mode of files that anybody on the machine may read.
pub const MODE_PUBLIC: u32 = 0o644;
/// Mode of directories.
const MODE_DIR: u32 = 0o700;
/// Largest secret file, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;
/// Largest `ready.json` or `network.toml`, in bytes.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

/// Why the node's directory cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// No such directory.
    #[error("there is no node in {}; create one with `fathom init`, or name another directory with --dir", .0.display())]
    Missing(PathBuf),
    /// The path is something else.
    #[error("{} is not a directory; name another one with --dir", .0.display())]
    NotADirectory(PathBuf),
    /// Another process holds the lock.
    #[error("{} is in use by another fathom process{}; stop it first, or name another directory with --dir", dir.display(), holder(*pid))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The process that holds the lock, if it could be found out.
        pid: Option<u32>,
    },
    /// A file that must not be overwritten is there already.
    #[error("{} is there already and is not overwritten; move it away first if you mean to replace it", .0.display())]
    Exists(PathBuf),
    /// Others may read a secret.
    #[error("{} holds a secret and others may read it (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    SecretReadable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is larger than anything that this program writes there.
    #[error("{} is larger than {max} bytes; it is not a file that fathom wrote", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Largest size, in bytes.
        max: u64,
    },
    /// A file whose content this program did not write.
    #[error("{} is not what fathom writes there: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system refused.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Io { action, path, source }
}

/// A node's directory. Cheap to clone; nothing in it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    dir: PathBuf,
}

/// Holds the directory for this process. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

/// `ready.json`: there while a node listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The node's process id.
    pub pid: u32,
    /// The node's id, 64 hexadecimal digits.
    pub node: String,
    /// The same as a libp2p peer id.
    pub peer_id: String,
    /// Multiaddresses that end in `/p2p/<peer id>`.
    pub addresses: Vec<String>,
    /// The roles that run.
    pub roles: Vec<String>,
}

impl Home {
    /// An existing directory.
    ///
    /// # Errors
    /// [`HomeError::Missing`] or [`HomeError::NotADirectory`].
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let dir = std::path::absolute(dir).map_err(io_error("find", dir))?;
        match std::fs::metadata(&dir) {
            Ok(metadata) if metadata.is_dir() => Ok(Self { dir }),
            Ok(_) => Err(HomeError::NotADirectory(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(HomeError::Missing(dir)),
            Err(error) => Err(io_error("open", &dir)(error)),
        }
    }

    /// The directory, created with mode 0700 (and so are missing parents) if it is not there. The mode of an
    /// existing directory is left alone.
    ///
    /// # Errors
    /// [`HomeError::NotADirectory`] or [`HomeError::Io`].
    pub fn create(dir: &Path) -> Result<Self, HomeError> {
        create_dir_private(dir)?;
        Self::open(dir)
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `fathom.toml`
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("fathom.toml")
    }

    /// `node.key`
    #[must_use]
    pub fn node_key(&self) -> PathBuf {
        self.dir.join("node.key")
    }

    /// `user.key`
    #[must_use]
    pub fn user_key(&self) -> PathBuf {
        self.dir.join("user.key")
    }

    /// `network.toml`
    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.dir.join("network.toml")
    }

    /// `control.sock`
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// `ready.json`
    #[must_use]
    pub fn ready(&self) -> PathBuf {
        self.dir.join("ready.json")
    }

    /// `vendor/`, created if it is not there.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn vendor_dir(&self) -> Result<PathBuf, HomeError> {
        self.role_dir("vendor")
    }

    /// `mirror/`, created if it is not there.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn mirror_dir(&self) -> Result<PathBuf, HomeError> {
        self.role_dir("mirror")
    }

    /// `user/`, created if it is not there.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn user_dir(&self) -> Result<PathBuf, HomeError> {
        self.role_dir("user")
    }

    fn role_dir(&self, name: &str) -> Result<PathBuf, HomeError> {
        let dir = self.dir.join(name);
        create_dir_private(&dir)?;
        Ok(dir)
    }

    /// Takes the directory for this process, without waiting.
    ///
    /// # Errors
    /// [`HomeError::Locked`] if another process has it, or [`HomeError::Io`].
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE_SECRET)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The id only serves the message, so a file that cannot be read costs nothing but the id.
                let _ = (&mut file).take(20).read_to_string(&mut text);
                return Err(HomeError::Locked { dir: self.dir.clone(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
        file.set_len(0).map_err(io_error("write", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(io_error("write", &path))?;
        Ok(HomeLock { _file: file })
    }

    /// Puts `ready.json` down.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn write_ready(&self, ready: &Ready) -> Result<(), HomeError> {
        let path = self.ready();
        let mut text = serde_json::to_vec(ready)
            .map_err(|error| HomeError::Content { path: path.clone(), problem: error.to_string() })?;
        text.push(b'\n');
        write_atomic(&path, &text, MODE_PUBLIC)
    }

    /// Takes `ready.json` away, if it is there.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn remove_ready(&self) -> Result<(), HomeError> {
        remove_if_there(&self.ready())
    }

    /// What `ready.json` says; `None` if it is not there.
    ///
    /// # Errors
    /// [`HomeError::Content`], [`HomeError::TooLarge`] or [`HomeError::Io`].
    pub fn read_ready(&self) -> Result<Option<Ready>, HomeError> {
        let path = self.ready();
        let Some(text) = read_text(&path)? else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|error| HomeError::Content { path, problem: error.to_string() })
    }
}

/// The text of a small file of the directory; `None` if it is not there.
///
/// # Errors
/// [`HomeError::TooLarge`] or [`HomeError::Io`].
pub fn read_text(path: &Path) -> Result<Option<String>, HomeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let mut text = String::new();
    file.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text).map_err(io_error("read", path))?;
    if text.len() as u64 > TEXT_BYTES_MAX {
        return Err(HomeError::TooLarge { path: path.to_owned(), max: TEXT_BYTES_MAX });
    }
    Ok(Some(text))
}

/// Removes a file; one that is not there counts as removed.
///
/// # Errors
/// [`HomeError::Io`].
pub fn remove_if_there(path: &Path) -> Result<(), HomeError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Creates a directory and its missing parents with mode 0700.
fn create_dir_private(dir: &Path) -> Result<(), HomeError> {
    DirBuilder::new().recursive(true).mode(MODE_DIR).create(dir).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => HomeError::NotADirectory(dir.to_owned()),
        _ => io_error("create", dir)(error),
    })
}

/// Replaces `path` with `bytes`: after a crash at any moment there is the old file or the new one. Durable when it returns.
///
/// # Errors
/// [`HomeError::Io`].
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), HomeError> {
    let beside = write_beside(path, bytes, mode)?;
    if let Err(error) = std::fs::rename(&beside, path) {
        // The rename's failure is what matters; a file left beside is harmless.
        let _ = std::fs::remove_file(&beside);
        return Err(io_error("write", path)(error));
    }
    sync_parent(path)
}

/// Writes a file that must not be there yet. It appears whole or not at all. Durable when it returns.
///
/// # Errors
/// [`HomeError::Exists`] or [`HomeError::Io`].
pub fn create_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), HomeError> {
    let beside = write_beside(path, bytes, mode)?;
    // Unlike a rename, a link refuses to take a name that is taken.
    let linked = std::fs::hard_link(&beside, path);
    std::fs::remove_file(&beside).map_err(io_error("remove", &beside))?;
    match linked {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(HomeError::Exists(path.to_owned())),
        Err(error) => Err(io_error("create", path)(error)),
    }
}

/// Reads a secret's text, and refuses one that others may read: it must be taken for known to them.
/// `None` if it is not there.
///
/// # Errors
/// [`HomeError::SecretReadable`], [`HomeError::TooLarge`], [`HomeError::Content`] or [`HomeError::Io`].
pub fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>, HomeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let metadata = file.metadata().map_err(io_error("examine", path))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HomeError::SecretReadable { path: path.to_owned(), mode });
    }
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(HomeError::TooLarge { path: path.to_owned(), max: SECRET_BYTES_MAX });
    }
    // Room for all of it at once: a string that grows would leave copies of the secret behind in memory.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(SECRET_BYTES_MAX).unwrap_or(0)));
    file.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(io_error("read", path))?;
    Ok(Some(text))
}

/// Writes and syncs a file beside `path` and returns its name.
fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, HomeError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_file_name(format!(".{name}.{}.{count}.new", std::process::id()));
    // One left by a crashed process of the same number; its mode may differ, so it is not reused.
    remove_if_there(&beside)?;
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        // The mode that was asked for, whatever the umask.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()
    })();
    written.map_err(io_error("write", &beside))?;
    Ok(beside)
}

fn sync_parent(path: &Path) -> Result<(), HomeError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_error("sync", parent))
}

#[cfg(test)]
mod tests;
