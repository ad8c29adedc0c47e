//! The marker file that makes a directory a device. It lies on the device itself, so that an unmounted disk, whose
//! mount point is an empty directory of the root disk, is never mistaken for the device.
//!
//! Layout, version 1: text, one `key = value` per line in this order; lines that begin with `#` are comments.
//!
//! ```text
//! # This directory is a storage device of a Fathom vendor. Leave this file where it is.
//! version = 1
//! device = "<32 hexadecimal digits>"
//! vendor = "<64 hexadecimal digits>"
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fathom_protocol::ids::{DeviceId, NodeId};

use crate::device::DeviceError;

/// Name of the marker file.
pub(crate) const MARKER_NAME: &str = "fathom-device.toml";
/// Largest marker that is read, in bytes.
const MARKER_BYTES_MAX: u64 = 4096;
const VERSION: u32 = 1;

/// What a marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) device: DeviceId,
    pub(crate) vendor: NodeId,
}

/// The marker of `dir` and the number of the file system that it lies on; `None` if there is none.
pub(crate) fn read(dir: &Path) -> Result<Option<(Marker, u64)>, DeviceError> {
    let path = dir.join(MARKER_NAME);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", &path, error)),
    };
    let disk = file.metadata().map_err(|error| io_error("look at", &path, error))?.dev();
    let mut text = String::new();
    file.take(MARKER_BYTES_MAX).read_to_string(&mut text).map_err(|error| io_error("read", &path, error))?;
    match parse(&text) {
        Ok(marker) => Ok(Some((marker, disk))),
        Err(reason) => Err(DeviceError::Refused { path: dir.to_owned(), reason }),
    }
}

fn parse(text: &str) -> Result<Marker, String> {
    let value = |key: &str| {
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().trim_matches('"'))
            .ok_or_else(|| {
                format!("its {MARKER_NAME} has no `{key}`; restore that file, or give Fathom an empty directory")
            })
    };
    let version = value("version")?;
    if version != VERSION.to_string() {
        return Err(format!(
            "its {MARKER_NAME} has version {version}, this release knows version {VERSION}; use the release that wrote it, or a newer one"
        ));
    }
    let wrong = |key: &str| format!("the `{key}` in its {MARKER_NAME} is not an identifier; restore that file");
    Ok(Marker {
        device: value("device")?.parse().map_err(|_| wrong("device"))?,
        vendor: value("vendor")?.parse().map_err(|_| wrong("vendor"))?,
    })
}

/// Writes `marker` durably into `dir`, which must have none.
pub(crate) fn write(dir: &Path, marker: Marker) -> Result<(), DeviceError> {
    let text = format!(
        "# This directory is a storage device of a Fathom vendor. Leave this file where it is.\nversion = {VERSION}\ndevice = \"{}\"\nvendor = \"{}\"\n",
        marker.device, marker.vendor
    );
    let temporary = dir.join(format!("{MARKER_NAME}.new"));
    let path = dir.join(MARKER_NAME);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|error| io_error("write", &path, error))
}

pub(crate) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> DeviceError {
    DeviceError::Io { operation, path: PathBuf::from(path), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// Golden text of version 1; it is never edited.
    #[test]
    fn a_marker_keeps_its_text_and_is_read_as_ever() {
        let dir = tempfile::tempdir().unwrap();
        let golden = format!(
            "# This directory is a storage device of a Fathom vendor. Leave this file where it is.\nversion = 1\ndevice = \"{}\"\nvendor = \"{}\"\n",
            "07".repeat(16),
            "09".repeat(32)
        );
        let path = dir.path().join("fathom-device.toml");
        fs::write(&path, &golden).unwrap();
        let (marker, _) = read(dir.path()).unwrap().unwrap();
        assert_eq!(marker, Marker { device: DeviceId([7; 16]), vendor: NodeId([9; 32]) });
        fs::remove_file(&path).unwrap();
        write(dir.path(), marker).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), golden);
    }

    #[test]
    fn a_marker_reads_back_and_a_newer_or_broken_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let marker = Marker { device: DeviceId([7; 16]), vendor: NodeId([9; 32]) };
        write(dir.path(), marker).unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap().0, marker);

        let path = dir.path().join(MARKER_NAME);
        let text = fs::read_to_string(&path).unwrap();
        for (broken, told) in [
            (text.replace("version = 1", "version = 2"), "version 2"),
            (text.replace("device", "devise"), "no `device`"),
            (text.replace("0707", "zz"), "`device`"),
            (String::new(), "no `version`"),
        ] {
            fs::write(&path, broken).unwrap();
            let error = read(dir.path()).unwrap_err();
            assert!(matches!(error, DeviceError::Refused { .. }) && error.to_string().contains(told), "{error}");
        }
    }
}
