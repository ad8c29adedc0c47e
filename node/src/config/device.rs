//! A device as the configuration names it.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::size::parse_size;

/// Bytes that a device leaves free on its file system if its configuration does not say.
pub(crate) const RESERVE_DEFAULT: u64 = 1 << 30;
/// Smallest quota, in bytes: below it there is no room for a useful chunk.
pub(crate) const QUOTA_MIN: u64 = 64 << 10;

/// `[[vendor.device]]`: a directory on a mounted disk or share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// The directory, absolute. Fathom keeps its files in it and touches nothing else on that disk.
    pub path: PathBuf,
    /// Bytes that Fathom may use there, data, trash and temporary files together. Never exceeded.
    pub quota: u64,
    /// Bytes that stay free on the disk for others, whatever the quota.
    pub reserve: u64,
}

impl FromStr for DeviceConfig {
    type Err = String;

    /// Reads `PATH:QUOTA[:RESERVE]`. The path may contain colons; a relative one is taken from the current directory.
    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("`{text}` is not PATH:QUOTA[:RESERVE], as in /mnt/disk1/fathom:500GiB:10GiB");
        let (before, last) = text.rsplit_once(':').ok_or_else(problem)?;
        let last = parse_size(last).map_err(|error| format!("{}: {error}", problem()))?;
        let (path, quota, reserve) = match before.rsplit_once(':') {
            Some((path, middle)) if parse_size(middle).is_ok() => {
                (path, parse_size(middle).map_err(|_| problem())?, last)
            }
            _ => (before, last, RESERVE_DEFAULT),
        };
        if path.is_empty() {
            return Err(problem());
        }
        let path = std::path::absolute(path).map_err(|error| format!("`{path}`: {error}"))?;
        let device = Self { path, quota, reserve };
        device.check()?;
        Ok(device)
    }
}

impl DeviceConfig {
    /// Checks the device alone.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.path.is_absolute() {
            return Err(format!(
                "the path {} must be absolute, since the node may be started from anywhere",
                self.path.display()
            ));
        }
        if self.path.to_str().is_none_or(|path| path.chars().any(char::is_control)) {
            return Err("the path must be UTF-8 without control characters".to_owned());
        }
        if self.quota < QUOTA_MIN {
            return Err(format!(
                "the quota {} must be at least {}",
                super::format_size(self.quota),
                super::format_size(QUOTA_MIN)
            ));
        }
        Ok(())
    }
}
