//! Parts in packs, as a directory device writes and reads them.

use std::io;

use fathom_protocol::ids::Hash;

use super::DirectoryDevice;
use crate::device::DeviceError;
use crate::marker::io_error;
use crate::pack::{Failed, Published};
use crate::testing::IoStep;

impl DirectoryDevice {
    /// Writes a part into a pack, in place of one of that name that is no good; syncs it and reads it back.
    pub(super) fn pack(&self, part: Hash, bytes: &[u8]) -> Result<Published, DeviceError> {
        let failed = |Failed { operation, path, error }| self.write_error(operation, &path, error, bytes.len());
        let packs = self.packs_dir();
        self.step(IoStep::Write, &packs).map_err(|error| self.write_error("write", &packs, error, bytes.len()))?;
        let fresh = self.packs.append(part, bytes, |dir| self.step(IoStep::SyncDir, dir)).map_err(failed)?;
        let path = fresh.path();
        self.step(IoStep::SyncFile, &path)
            .and_then(|()| fresh.sync())
            .map_err(|error| self.write_error("sync", &path, error, bytes.len()))?;
        let found = Hash::of(&fresh.read_back().map_err(|error| io_error("read back", &path, error))?);
        if found != part {
            return Err(DeviceError::Corrupt { part, found });
        }
        fresh.publish().map_err(|error| io_error("replace a part in", &path, error))
    }

    /// What was read of a part that was in a pack.
    pub(super) fn packed(&self, part: Hash, found: io::Result<Vec<u8>>) -> Result<Vec<u8>, DeviceError> {
        let found = match found {
            Ok(bytes) => match Hash::of(&bytes) {
                found if found == part => return Ok(bytes),
                found => Ok(found),
            },
            Err(error) => Err(error),
        };
        self.present()?;
        // It may have been erased while it was read.
        if !self.packs.holds(part) {
            return Err(DeviceError::NotFound { part });
        }
        match found {
            Ok(found) => Err(DeviceError::Corrupt { part, found }),
            Err(error) => Err(io_error("read a part in", &self.packs_dir(), error)),
        }
    }
}
