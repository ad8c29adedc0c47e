//! What a mirror asks of final FATs that are handed in to it, beyond what [`Table::merge`] asks of every record.
//!
//! A record that another mirror took is merged without this: the answer depends on which leases arrived before, and mirrors
//! must not end up with different tables. It keeps liars and strangers out where they enter.

use std::collections::BTreeMap;

use crate::fat::FinalFat;
use crate::head::VerifiedVendor;
use crate::ids::{FileId, LeaseId, NodeId};
use crate::limits::{FILE_BODY_FREE, FILE_LEASED_BYTES, FILES_FREE, STRANGER_BYTES_PER_HOUR, STRANGER_FILES_MAX};
use crate::time::UnixMs;
use crate::wire::{Refusal, RefusalKind};

use super::Table;

const HOUR_MS: u64 = 3_600_000;

/// What owners without any lease that is known here have handed in within the hour, all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strangers {
    began: UnixMs,
    bytes: u64,
}

impl Strangers {
    /// Takes `bytes` of the hour's share, if there are so many.
    fn take(&mut self, bytes: u64, now: UnixMs) -> bool {
        if now.since_ms(self.began) >= HOUR_MS || now < self.began {
            *self = Self { began: now, bytes: 0 };
        }
        let fits = self.bytes.saturating_add(bytes) <= STRANGER_BYTES_PER_HOUR;
        self.bytes += if fits { bytes } else { 0 };
        fits
    }
}

/// What one owner has in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Bytes of all its leases. As vendors say: more than 64 bits hold.
    leased: u128,
    /// Its files, released ones included.
    pub(super) files: u64,
}

impl Table {
    /// Books the leases of a vendor's record in place of those of the one before.
    pub(super) fn account_leases(&mut self, before: Option<&VerifiedVendor>, now: &VerifiedVendor) {
        for lease in &now.leases {
            self.accounts.entry(lease.owner).or_default().leased += u128::from(lease.bytes);
        }
        for lease in before.iter().flat_map(|before| &before.leases) {
            if let Some(account) = self.accounts.get_mut(&lease.owner) {
                account.leased -= u128::from(lease.bytes);
                if *account == Account::default() {
                    self.accounts.remove(&lease.owner);
                }
            }
        }
    }

    /// Whether a final FAT that is handed in is to be kept, as far as its owner's leases are known here. A lease that this mirror
    /// has not heard of yet is left to its vendor, which checks again. `before` are files of the same submission.
    ///
    /// # Errors
    /// `NotAuthorised` if it uses somebody else's lease, `OverLease` if it claims more bytes than a lease has, and `Busy` if its
    /// owner has more final FATs here than its leases warrant: heads may be on the way, so it is worth to ask again soon.
    pub fn admit(
        &self,
        fat: &FinalFat,
        before: &[FileId],
        strangers: &mut Strangers,
        now: UnixMs,
    ) -> Result<(), Refusal> {
        let leaseholder = self.check_uses(fat)?;
        let known = self.versions(fat.owner, fat.file).next().is_some();
        if known {
            // It replaces what is here, or is one of a few versions. Above all, nobody is kept from releasing a file.
            return Ok(());
        }
        let account = self.accounts.get(&fat.owner).copied().unwrap_or_default();
        let files = account.files + before.len() as u64;
        let body = fat.body.len() as u64;
        if leaseholder && files < FILES_FREE && body <= FILE_BODY_FREE {
            return Ok(());
        }
        if account.leased == 0 {
            let few = files < STRANGER_FILES_MAX && strangers.take(body + FILE_LEASED_BYTES, now);
            return if few { Ok(()) } else { busy("this mirror knows of no lease of this user yet; try again") };
        }
        let warranted = u64::try_from(account.leased / u128::from(FILE_LEASED_BYTES)).unwrap_or(u64::MAX);
        if files >= warranted.saturating_add(FILES_FREE) || body > warranted.saturating_add(FILE_BODY_FREE) {
            return busy("this user has more final FATs here than its leases warrant");
        }
        Ok(())
    }

    /// Whether each lease that it uses is its owner's and has the bytes. Returns whether any of them is known.
    fn check_uses(&self, fat: &FinalFat) -> Result<bool, Refusal> {
        let mut uses: Vec<(NodeId, LeaseId, u64)> =
            fat.uses.iter().map(|used| (used.vendor, used.lease, used.bytes)).collect();
        uses.sort_unstable();
        // Chunks that moved away took their bytes out of the lease, and the final FAT still names it.
        let mut moved: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for (key, gone) in self.moves_of(fat.owner, fat.file) {
            let bytes = moved.entry(key.from_lease).or_default();
            *bytes = bytes.saturating_add(u64::from(gone.length));
        }
        let mut known = false;
        for same in uses.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (vendor, id, _) = same[0];
            let Some(vendor) = self.vendors.get(&vendor) else { continue };
            let Some(lease) = vendor.lease(id) else { continue };
            if lease.owner != fat.owner {
                return Err(Refusal::new(RefusalKind::NotAuthorised, "the final FAT uses a lease of somebody else"));
            }
            let bytes = same.iter().fold(0u64, |sum, (.., bytes)| sum.saturating_add(*bytes));
            if bytes > lease.bytes.saturating_add(moved.get(&id).copied().unwrap_or(0)) {
                return Err(Refusal::new(RefusalKind::OverLease, "the final FAT claims more bytes than a lease has"));
            }
            known = true;
        }
        Ok(known)
    }
}

fn busy(reason: &str) -> Result<(), Refusal> {
    Err(Refusal::new(RefusalKind::Busy, reason))
}
