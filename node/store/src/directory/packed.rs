//! Parts in packs, as a directory device writes and reads them.

use std::io;
use std::sync::PoisonError;

use bytes::Bytes;
use fathom_protocol::ids::Hash;

use super::DirectoryDevice;
use crate::budget::Reservation;
use crate::device::{DeviceError, PartValidation};
use crate::marker::io_error;
use crate::meter::now;
use crate::pack::{Failed, Fresh, Published};
use crate::part::Part;
use crate::testing::IoStep;

/// What becomes of a part that is put into a pack.
enum Step<'a> {
    /// It is there, or is refused.
    Over(Result<PartValidation, DeviceError>),
    /// It is written, into room that is reserved for it.
    Write(PartValidation, Reservation<'a>),
}

impl DirectoryDevice {
    /// Puts parts that are short enough for packs.
    pub(super) fn put_packed(&self, parts: &[Part]) -> Vec<Result<PartValidation, DeviceError>> {
        let started = now();
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut free = None;
        let mut begin = |part: &Part| {
            if free.is_none() {
                self.writable()?;
            }
            let (name, bytes) = (part.name(), part.bytes());
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let validation = PartValidation { device: self.id, part: name, length };
            if self.holds(name) {
                return Ok((validation, None));
            }
            // What is reserved is taken off this by the budget, so that looking once is enough.
            let free = *free.get_or_insert_with(|| self.medium_free());
            Ok((validation, Some(self.budget.reserve(bytes.len() as u64, free)?)))
        };
        let steps: Vec<Step<'_>> = parts
            .iter()
            .map(|part| match begin(part) {
                Ok((validation, None)) => Step::Over(Ok(validation)),
                Ok((validation, Some(reservation))) => Step::Write(validation, reservation),
                Err(error) => Step::Over(Err(error)),
            })
            .collect();
        let writes = |(_, step): &(_, &Step<'_>)| matches!(step, Step::Write(..));
        let fresh: Vec<&Part> = parts.iter().zip(&steps).filter(writes).map(|(part, _)| part).collect();
        let mut published = self.pack(&fresh).into_iter();
        let results: Vec<_> = steps
            .into_iter()
            .map(|step| match step {
                Step::Over(result) => result,
                Step::Write(validation, reservation) => {
                    // There are as many as were to be written.
                    let missing = DeviceError::NotFound { part: validation.part };
                    match published.next().unwrap_or(Err(missing))? {
                        Published::New => reservation.commit(),
                        Published::Instead(rotten) => {
                            self.budget.removed(rotten);
                            reservation.commit();
                        }
                        Published::Known => drop(reservation),
                    }
                    Ok(validation)
                }
            })
            .collect();
        if !fresh.is_empty() && results.iter().all(Result::is_ok) {
            self.meter.wrote(fresh.iter().map(|part| part.bytes().len()).sum(), started.elapsed());
        }
        results
    }

    /// Writes parts into packs, each in place of one of that name that is no good; syncs them, once for all in one pack, and reads
    /// each back.
    pub(super) fn pack(&self, parts: &[&Part]) -> Vec<Result<Published, DeviceError>> {
        let fresh: Vec<_> = parts.iter().map(|part| self.append(part)).collect();
        let mut synced: Option<&Fresh<'_>> = None;
        let mut failures = Vec::with_capacity(parts.len());
        for (fresh, part) in fresh.iter().zip(parts) {
            let failed = match fresh {
                Ok(fresh) if synced.is_some_and(|synced| synced.beside(fresh)) => None,
                // After a write that failed nothing more is taken.
                Ok(fresh) => self.unfailed().err().or_else(|| {
                    let path = fresh.path();
                    let done = self.step(IoStep::SyncFile, &path).and_then(|()| fresh.sync());
                    synced = done.is_ok().then_some(fresh);
                    done.err().map(|error| self.write_error("sync", &path, error, part.bytes().len()))
                }),
                Err(_) => None,
            };
            failures.push(failed);
        }
        let publish = |(part, (fresh, failed)): (&&Part, (Result<Fresh<'_>, _>, Option<_>))| {
            let fresh = fresh?;
            if let Some(failed) = failed {
                return Err(failed);
            }
            let path = fresh.path();
            let found = fresh.read_back().map_err(|error| io_error("read back", &path, error))?;
            if found != **part.bytes() {
                return Err(DeviceError::Corrupt { part: part.name(), found: Hash::of(&found) });
            }
            fresh.publish().map_err(|error| io_error("replace a part in", &path, error))
        };
        parts.iter().zip(fresh.into_iter().zip(failures)).map(publish).collect()
    }

    fn append(&self, part: &Part) -> Result<Fresh<'_>, DeviceError> {
        let bytes = part.bytes();
        let failed = |Failed { operation, path, error }| self.write_error(operation, &path, error, bytes.len());
        let packs = self.packs_dir();
        self.step(IoStep::Write, &packs).map_err(|error| self.write_error("write", &packs, error, bytes.len()))?;
        self.packs.append(part.name(), bytes, |dir| self.step(IoStep::SyncDir, dir)).map_err(failed)
    }

    /// What was read of a part that was in a pack.
    pub(super) fn packed(&self, part: Hash, found: io::Result<Vec<u8>>) -> Result<Bytes, DeviceError> {
        let found = match found {
            Ok(bytes) => match Hash::of(&bytes) {
                found if found == part => return Ok(bytes.into()),
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
