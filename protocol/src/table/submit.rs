//! What a mirror asks of final FATs that are handed in to it, beyond what [`Table::merge`] asks of every record.
//!
//! A record that another mirror took is merged without this: the answer depends on which leases arrived before, and mirrors
//! must not end up with different tables. It keeps liars and strangers out where they enter.

use std::collections::BTreeMap;

use crate::fat::{FinalFat, Tag};
use crate::head::VerifiedVendor;
use crate::ids::{LeaseId, NodeId, OwnerId};
use crate::limits::{
    EXTENT_BYTES_MAX, FILE_BODY_FREE, FILE_LEASED_BYTES, FILES_FREE, STRANGER_BYTES_PER_HOUR, STRANGER_FILES_MAX,
};
use crate::time::UnixMs;
use crate::wire::{Refusal, RefusalKind};

use super::claims::{Shares, shares};
use super::{FatEntry, Table};

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

/// What one submission has brought so far and the table does not hold yet.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// New files, by owner.
    files: BTreeMap<OwnerId, u64>,
    /// Bytes that it claims beyond what the table knows, by owner and lease.
    claims: BTreeMap<(OwnerId, NodeId, LeaseId), i128>,
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
    pub(super) fn account_leases(&mut self, before: Option<&VerifiedVendor>, now: Option<&VerifiedVendor>) {
        for lease in now.iter().flat_map(|now| &now.leases) {
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
    /// has not heard of yet is left to its vendor, which checks again. `submission` is what came with it before; one that is let
    /// in is noted there. Costs a look-up for each of its uses, and for each move of its file.
    ///
    /// # Errors
    /// `NotAuthorised` if it uses somebody else's lease, `OverLease` if it claims more bytes than a lease has, or together with what
    /// other files claim of it more than a lease can have come to have ([`EXTENT_BYTES_MAX`]), and `Busy` if its owner has more final
    /// FATs here than its leases warrant: heads, and what frees room, may be on the way, so it is worth to ask again soon.
    pub fn admit(
        &self,
        fat: &FinalFat,
        submission: &mut Submission,
        strangers: &mut Strangers,
        now: UnixMs,
    ) -> Result<(), Refusal> {
        let (before, after) = (self.shares_of(fat.owner, fat.file), self.shares_with(fat));
        let leaseholder = self.check_uses(fat, (&before, &after), submission)?;
        let known = self.fat(fat.owner, fat.file).is_some();
        if !known {
            self.check_account(fat, leaseholder, submission, strangers, now)?;
            *submission.files.entry(fat.owner).or_default() += 1;
        }
        for ((vendor, lease), bytes) in after {
            let grown = bytes - before.get(&(vendor, lease)).copied().unwrap_or(0);
            // What it frees is free once it is kept.
            if grown > 0 {
                *submission.claims.entry((fat.owner, vendor, lease)).or_default() += grown;
            }
        }
        Ok(())
    }

    /// Whether a file that is new here may be kept. What replaces a known one, or is one of a few versions, is not asked: above all,
    /// nobody is kept from releasing a file.
    fn check_account(
        &self,
        fat: &FinalFat,
        leaseholder: bool,
        submission: &Submission,
        strangers: &mut Strangers,
        now: UnixMs,
    ) -> Result<(), Refusal> {
        let account = self.accounts.get(&fat.owner).copied().unwrap_or_default();
        let files = account.files + submission.files.get(&fat.owner).copied().unwrap_or(0);
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

    /// What its file would claim with a final FAT.
    fn shares_with(&self, fat: &FinalFat) -> Shares {
        // One with its very tag is it, handed in once more.
        let stays = |other: &&FatEntry| !fat.follows.has(Tag(other.seq)) && other.seq != fat.seq;
        let others = self.versions(fat.owner, fat.file).filter(stays);
        let versions = others.map(|other| (other.lineage(), &other.uses[..])).chain([(fat.lineage(), &fat.uses[..])]);
        shares(versions, self.moves_of(fat.owner, fat.file).map(|(_, moved)| moved))
    }

    /// Whether each lease that it uses is its owner's and has the bytes, those that other files claim counted. Returns whether any of
    /// them is known. Who claims no more of a lease than before is not refused: it may be about to put things right.
    fn check_uses(
        &self,
        fat: &FinalFat,
        (before, after): (&Shares, &Shares),
        submission: &Submission,
    ) -> Result<bool, Refusal> {
        let mut uses: Vec<(NodeId, LeaseId)> = fat.uses.iter().map(|used| (used.vendor, used.lease)).collect();
        uses.sort_unstable();
        uses.dedup();
        let mut known = false;
        for (vendor, id) in uses {
            let Some(lease) = self.vendors.get(&vendor).and_then(|vendor| vendor.lease(id)) else { continue };
            if lease.owner != fat.owner {
                return Err(Refusal::new(RefusalKind::NotAuthorised, "the final FAT uses a lease of somebody else"));
            }
            known = true;
            let of = |shares: &Shares| shares.get(&(vendor, id)).copied().unwrap_or(0);
            // Less than nothing if vendors lie about moves: that is no room.
            let others = (self.claimed(fat.owner, vendor, id) - of(before)).max(0);
            let coming = submission.claims.get(&(fat.owner, vendor, id)).copied().unwrap_or(0);
            // Of files that follow each other quickly, the later ones fill what the lease grew by since the head that is known here.
            let all = i128::from(lease.bytes.max(EXTENT_BYTES_MAX));
            let over = of(after) > i128::from(lease.bytes) || of(after) + others + coming > all;
            if of(after) > of(before) && over {
                return Err(Refusal::new(
                    RefusalKind::OverLease,
                    "the final FAT claims more bytes than a lease has beside what other files claim",
                ));
            }
        }
        Ok(known)
    }
}

fn busy(reason: &str) -> Result<(), Refusal> {
    Err(Refusal::new(RefusalKind::Busy, reason))
}
