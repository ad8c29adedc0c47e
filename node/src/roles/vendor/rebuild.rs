//! A local FAT that is damaged or lost, made anew: from the rows of the damaged file that are still good, and from what the devices
//! hold. Leases, final FATs and moves come from those rows; chunks from them and from a scan of the devices.
//!
//! What is not known again stays where it is: as long as parts are on the devices whose lease nobody remembers, no part is taken for
//! an orphan ([`UNADOPTED_KEY`]), and each start tries again with the leases that are there by then. The head begins a new epoch, so
//! that a lease which was lost is dropped openly.

use std::path::{Path, PathBuf};

use fathom_protocol::codec;
use fathom_protocol::head::VendorHead;
use fathom_protocol::sign::{Carried, Record};
use fathom_store::fat::{FatRow, Finding, HEAD_KEY, Inspector, inspect};
use fathom_store::{ChunkState, CommitFile, DeviceSet, FatConfig, FatError, Inserted, LocalFat};

use super::{UNADOPTED_KEY, VendorError};
use crate::clock;

/// Name in the local FAT of the epoch that the next head must be above: u64, big-endian.
pub(super) const EPOCH_KEY: &str = "epoch-before";
/// Rows put in one transaction.
const BATCH: usize = 512;

/// Opens the local FAT at `path`. A damaged one is moved aside, and a new one made of its good rows.
///
/// # Errors
/// [`FatError`], but not `Corrupt` for damage.
pub(super) fn open(path: &Path) -> Result<LocalFat, FatError> {
    let damage = match LocalFat::open(path, FatConfig::default()) {
        Err(FatError::Corrupt { detail, .. }) => detail,
        opened => return opened,
    };
    let aside = aside(path);
    let io = |error: std::io::Error| FatError::Database { path: path.to_owned(), detail: error.to_string() };
    // Made under another name, so that a crash in the middle begins again.
    let fresh = path.with_extension("rebuild");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let fat = LocalFat::open(&fresh, FatConfig::default())?;
    let mut salvage = Salvage { fat, rows: Vec::new(), kept: 0, lost: 0, failed: None };
    salvage.fat.put_many(&[(UNADOPTED_KEY, &[])])?;
    // A version that nobody knows is no damage that a rebuild could mend.
    inspect(path, &mut salvage)?;
    let (kept, lost) = salvage.finish()?;
    std::fs::rename(path, &aside).map_err(io)?;
    std::fs::rename(&fresh, path).map_err(io)?;
    tracing::error!(
        %damage, kept, lost, aside = %aside.display(),
        "the local FAT is damaged: it was moved aside and made anew of its good rows; what the devices hold is read next"
    );
    LocalFat::open(path, FatConfig::default())
}

/// A name that is free, beside `path`.
fn aside(path: &Path) -> PathBuf {
    let stem = format!("redb.damaged-{}", clock::now().0);
    (0..)
        .map(|n: u32| if n == 0 { stem.clone() } else { format!("{stem}-{n}") })
        .map(|extension| path.with_extension(extension))
        .find(|path| !path.exists())
        .unwrap_or_else(|| path.with_extension(stem.clone()))
}

/// Takes the good rows of a damaged local FAT over into a new one, in the order in which they come: leases before the chunks that
/// need them, and after those the final FATs, which commit and erase chunks.
struct Salvage {
    fat: LocalFat,
    rows: Vec<FatRow>,
    kept: u64,
    lost: u64,
    failed: Option<FatError>,
}

impl Inspector for Salvage {
    fn row(&mut self, row: FatRow) {
        if self.failed.is_some() {
            return;
        }
        self.rows.push(row);
        if self.rows.len() >= BATCH {
            self.failed = self.flush().err();
        }
    }

    fn finding(&mut self, finding: Finding) {
        self.lost += 1;
        tracing::warn!(table = finding.table, problem = finding.problem, "damage in the local FAT");
    }
}

impl Salvage {
    fn finish(mut self) -> Result<(u64, u64), FatError> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.flush().map(|()| (self.kept, self.lost)),
        }
    }

    fn flush(&mut self) -> Result<(), FatError> {
        let rows = std::mem::take(&mut self.rows);
        self.kept += rows.len() as u64;
        self.fat.write(|tx| rows.iter().try_for_each(|row| put(tx, row)))
    }
}

fn put(tx: &mut fathom_store::FatTx<'_>, row: &FatRow) -> Result<(), FatError> {
    match row {
        FatRow::Lease(id, entry) => tx.put_lease(*id, &entry.signed, entry.bytes),
        FatRow::Chunk(entry) => match tx.insert_chunk(entry) {
            // Its move may be among what is damaged.
            Ok(Inserted::New) if entry.state == ChunkState::Sent => tx.set_state(&entry.key(), ChunkState::Stored),
            Ok(Inserted::New | Inserted::AlreadyThere(_)) => Ok(()),
            // Its lease was lost: its parts stay on the devices until somebody remembers it.
            Err(FatError::NoLease { .. } | FatError::OverLease { .. }) => Ok(()),
            Err(error) => Err(error),
        },
        FatRow::Move(key, record) => tx.put_move(key, record),
        // What it commits and erases is seen to once all of a file's are there.
        FatRow::Final(owner, file, entry) => tx.restore_final(*owner, *file, entry, false),
        FatRow::Twin(owner, file, entry) => tx.restore_final(*owner, *file, entry, true),
        FatRow::Value(name, value) if name == HEAD_KEY => match epoch(value) {
            Some(epoch) => tx.put_kv(EPOCH_KEY, &epoch.to_be_bytes()),
            None => Ok(()),
        },
        FatRow::Value(name, value) => tx.put_kv(name, value),
        FatRow::Device(path, device) => tx.put_device(path, *device),
        // Its part is on a device: a chunk that no final FAT names is found there, and erased when its time is over.
        FatRow::PendingErase(..) => Ok(()),
    }
}

fn epoch(head: &[u8]) -> Option<u64> {
    let head: Carried<VendorHead> = codec::decode(head, 2 * VendorHead::BYTES_MAX).ok()?;
    Some(head.peek().ok()?.epoch)
}

/// Enters what the devices hold under the leases that are known. Returns whether that is all they hold.
pub(super) fn enter(fat: &LocalFat, devices: &DeviceSet) -> Result<bool, VendorError> {
    let report = fat.rebuild(devices, clock::now())?;
    // What final FATs said of these chunks was said before they were found.
    for_each_final(fat, |commit| fat.commit_and_erase(commit).map(drop))?;
    let unknown = report.incomplete.len();
    if report.chunks > 0 || unknown > 0 {
        tracing::warn!(chunks = report.chunks, unknown, unreadable = report.unreadable, "chunks found on the devices");
    }
    if unknown > 0 || report.unreadable > 0 || !report.unreachable.is_empty() {
        return Ok(false);
    }
    fat.write(|tx| tx.remove_kv(UNADOPTED_KEY))?;
    Ok(true)
}

fn for_each_final(fat: &LocalFat, mut each: impl FnMut(&CommitFile) -> Result<(), FatError>) -> Result<(), FatError> {
    let mut after = None;
    loop {
        let page = fat.finals_after(after, BATCH)?;
        for (owner, file, _) in &page {
            for entry in fat.versions_of(*owner, *file)? {
                each(&CommitFile { owner: *owner, file: *file, fat: entry, now: clock::now() })?;
            }
        }
        match page.last() {
            Some((owner, file, _)) if page.len() == BATCH => after = Some((*owner, *file)),
            _ => return Ok(()),
        }
    }
}
