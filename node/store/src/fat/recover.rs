//! What local FAT and devices owe each other: erases that a crash left over, parts that nobody refers to, entries whose
//! parts are gone, and a local FAT that has to be made anew from the devices.

use std::collections::{BTreeMap, HashMap, HashSet};

use fathom_protocol::ids::{DeviceId, Hash, LeaseId};
use fathom_protocol::time::UnixMs;

use super::codec;
use super::tx::PENDING_ERASE;
use super::{ChunkEntry, ChunkKey, ChunkState, FatError, Inserted, LocalFat, PAGE_ROWS_MAX};
use crate::device::DeviceError;
use crate::part::{ChunkTag, PartHeader};
use crate::set::{DeviceSet, StoreError, StoredPart};

/// Chunks inserted in one transaction of a rebuild.
const REBUILD_BATCH: usize = 512;

/// What became of parts that awaited erasure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EraseReport {
    /// Parts that are gone now.
    pub removed: u64,
    /// Parts whose device is out of reach; they stay on the list.
    pub remaining: u64,
}

/// A part that an entry names and its device does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingPart {
    /// The chunk.
    pub key: ChunkKey,
    /// The part.
    pub part: StoredPart,
}

/// What [`LocalFat::recover`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoverReport {
    /// Erases that a crash or an absent device had left over.
    pub erases: EraseReport,
    /// Parts without an entry that were removed.
    pub orphans: u64,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Parts without an entry that were kept, since the local FAT does not know their lease: no crash leaves such parts, but a local FAT that is
    /// new or older than the devices does. Put the leases, then [`LocalFat::rebuild`].
    pub kept: u64,
    /// Parts that entries name and healthy devices do not have.
    pub missing: Vec<MissingPart>,
    /// Devices that could not be listed: nothing is said about their parts.
    pub unreachable: Vec<DeviceId>,
}

/// What [`LocalFat::rebuild`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// Chunks that are in the local FAT again.
    pub chunks: u64,
    /// Chunks of which parts are missing or whose lease is not known; they were left alone.
    pub incomplete: Vec<ChunkKey>,
    /// Parts that could not be read.
    pub unreadable: u64,
    /// Devices that could not be listed.
    pub unreachable: Vec<DeviceId>,
}

impl LocalFat {
    /// Removes every part that awaits erasure from its device. To be called after each erase, and by and by for devices
    /// that were away.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn finish_erases(&self, devices: &DeviceSet) -> Result<EraseReport, FatError> {
        let mut report = EraseReport::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let keys = self.page_keys(PENDING_ERASE, &[], after.as_deref(), PAGE_ROWS_MAX)?;
            let Some(last) = keys.last() else {
                return Ok(report);
            };
            after = Some(last.clone());
            let parts: Vec<StoredPart> = keys
                .iter()
                .filter_map(|key| codec::parse_erase(key))
                .map(|(device, part)| StoredPart { device, part, offset: 0, length: 0 })
                .collect();
            let failed: HashSet<Vec<u8>> =
                devices.remove_parts(&parts).iter().map(|(part, _)| codec::erase_key(part.device, part.part)).collect();
            let gone: Vec<Vec<u8>> = keys.into_iter().filter(|key| !failed.contains(key)).collect();
            report.removed += gone.len() as u64;
            report.remaining += failed.len() as u64;
            if !gone.is_empty() {
                self.write(|tx| tx.erased(&gone))?;
            }
        }
    }

    /// Brings devices and local FAT together after a start: finishes erases, removes parts that no entry names, and reports
    /// entries whose parts are gone. Must be done before the first store, whose parts it would take for orphans.
    ///
    /// A local FAT that was lost, or restored from a backup (the mirrors then know a newer head of this vendor), needs
    /// [`Self::rebuild`] first: what was stored since the backup has no entry, and would be removed.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn recover(&self, devices: &DeviceSet) -> Result<RecoverReport, FatError> {
        let mut report = RecoverReport { erases: self.finish_erases(devices)?, ..RecoverReport::default() };
        let mut unclaimed: HashMap<DeviceId, HashMap<Hash, u64>> = HashMap::new();
        for device in devices.report() {
            match devices.list_parts(device.id) {
                Ok(parts) => {
                    unclaimed.insert(device.id, parts.iter().map(|entry| (entry.part, entry.length)).collect());
                }
                Err(error) => {
                    tracing::warn!(device = %device.id, %error, "device not listed");
                    report.unreachable.push(device.id);
                }
            }
        }
        self.for_each_chunk(|entry| {
            for part in &entry.parts {
                if let Some(parts) = unclaimed.get_mut(&part.device)
                    && parts.remove(&part.part).is_none()
                {
                    report.missing.push(MissingPart { key: entry.key(), part: *part });
                }
            }
        })?;
        for key in self.pending()? {
            if let Some(parts) = unclaimed.get_mut(&key.0) {
                parts.remove(&key.1);
            }
        }
        let leases: HashSet<LeaseId> = self.leases()?.into_iter().map(|(lease, _)| lease).collect();
        for (device, parts) in unclaimed {
            self.remove_orphans(devices, device, &parts, &leases, &mut report);
        }
        Ok(report)
    }

    /// Removes those of `parts`, which no entry names, that a crash can have left behind.
    fn remove_orphans(
        &self,
        devices: &DeviceSet,
        device: DeviceId,
        parts: &HashMap<Hash, u64>,
        leases: &HashSet<LeaseId>,
        report: &mut RecoverReport,
    ) {
        let names: Vec<Hash> = parts.keys().copied().collect();
        let mut orphans = Vec::new();
        devices.headers(device, &names, |part, header| {
            let remove = match header {
                Ok(Some((header, _))) => leases.contains(&header.tag.lease),
                Ok(None) => false,
                Err(StoreError::Part { source: DeviceError::Corrupt { .. }, .. }) => !leases.is_empty(),
                Err(_) => false,
            };
            if remove {
                orphans.push(StoredPart { device, part, offset: 0, length: 0 });
            } else {
                report.kept += 1;
            }
        });
        let failed: HashSet<Hash> = devices.remove_parts(&orphans).iter().map(|(part, _)| part.part).collect();
        for orphan in orphans {
            if failed.contains(&orphan.part) {
                report.kept += 1;
            } else {
                report.orphans += 1;
                report.orphan_bytes += parts.get(&orphan.part).copied().unwrap_or(0);
            }
        }
    }

    /// Enters every complete chunk that the devices hold and the local FAT does not know: as stored, without a receipt, at
    /// the time `now`. For a local FAT that was lost; put the leases first, as mirrors return them.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn rebuild(&self, devices: &DeviceSet, now: UnixMs) -> Result<RebuildReport, FatError> {
        let mut report = RebuildReport::default();
        // Two puts of one chunk may have left two sets of parts; one offset of one length is enough.
        let mut found: HashMap<ChunkKey, (ChunkTag, u32, BTreeMap<u32, StoredPart>)> = HashMap::new();
        for device in devices.report() {
            let parts: Vec<Hash> = match devices.list_parts(device.id) {
                Ok(parts) => parts.iter().map(|entry| entry.part).collect(),
                Err(error) => {
                    tracing::warn!(device = %device.id, %error, "device not listed");
                    report.unreachable.push(device.id);
                    continue;
                }
            };
            devices.headers(device.id, &parts, |part, header| match header {
                Ok(Some((PartHeader { tag, chunk_length, offset }, length))) => {
                    let key = ChunkKey { owner: tag.owner, chunk: tag.chunk };
                    let stored = StoredPart { device: device.id, part, offset, length };
                    let entry = found.entry(key).or_insert_with(|| (tag, chunk_length, BTreeMap::new()));
                    let longest = entry.2.get(&offset).map_or(0, |known| known.length);
                    if entry.1 == chunk_length && length > longest {
                        entry.2.insert(offset, stored);
                    }
                }
                Ok(None) | Err(_) => report.unreadable += 1,
            });
        }
        let mut batch = Vec::new();
        for (key, (tag, length, parts)) in found {
            match chain(length, &parts) {
                Some(parts) => batch.push(ChunkEntry::stored(&tag, length, parts, Vec::new(), now)),
                None => report.incomplete.push(key),
            }
            if batch.len() >= REBUILD_BATCH {
                self.insert_found(&std::mem::take(&mut batch), &mut report)?;
            }
        }
        self.insert_found(&batch, &mut report)?;
        Ok(report)
    }

    /// Takes every chunk that another vendor sent here for one that a final FAT commits: the move that brought it may have been
    /// signed after the state of this local FAT was saved. Erasing it could lose data; keeping it costs room until its file goes.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn rely_on_sent(&self) -> Result<(), FatError> {
        let mut sent = Vec::new();
        self.for_each_chunk(|entry| {
            if entry.state == ChunkState::Sent {
                sent.push(entry.key());
            }
        })?;
        let set = |batch: &[ChunkKey]| {
            self.write(|tx| batch.iter().try_for_each(|key| tx.set_state(key, ChunkState::Stored)))
        };
        sent.chunks(REBUILD_BATCH).try_for_each(set)
    }

    fn insert_found(&self, entries: &[ChunkEntry], report: &mut RebuildReport) -> Result<(), FatError> {
        if entries.is_empty() {
            return Ok(());
        }
        let (chunks, refused) = self.write(|tx| {
            let (mut chunks, mut refused) = (0, Vec::new());
            for entry in entries {
                match tx.insert_chunk(entry) {
                    Ok(Inserted::New) => chunks += 1,
                    Ok(Inserted::AlreadyThere(_)) => {}
                    Err(FatError::NoLease { .. } | FatError::OverLease { .. }) => refused.push(entry.key()),
                    Err(error) => return Err(error),
                }
            }
            Ok((chunks, refused))
        })?;
        report.chunks += chunks;
        report.incomplete.extend(refused);
        Ok(())
    }

    /// Calls `each` for every chunk.
    ///
    /// # Errors
    /// `Corrupt`, `Database`.
    pub fn for_each_chunk(&self, mut each: impl FnMut(&ChunkEntry)) -> Result<(), FatError> {
        let mut after: Option<ChunkKey> = None;
        loop {
            let page = self.chunks_after(after.as_ref(), PAGE_ROWS_MAX)?;
            page.iter().for_each(&mut each);
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS_MAX => after = Some(last.key()),
                _ => return Ok(()),
            }
        }
    }

    fn pending(&self) -> Result<Vec<(DeviceId, Hash)>, FatError> {
        let keys = self.page_keys(PENDING_ERASE, &[], None, usize::MAX)?;
        Ok(keys.iter().filter_map(|key| codec::parse_erase(key)).collect())
    }
}

/// Parts that make the whole chunk without a gap, if there are such.
fn chain(length: u32, parts: &BTreeMap<u32, StoredPart>) -> Option<Vec<StoredPart>> {
    let mut chain = Vec::new();
    let mut at = 0;
    while at < length {
        let part = parts.get(&at)?;
        at = at.checked_add(part.length)?;
        chain.push(*part);
    }
    (at == length).then_some(chain)
}
