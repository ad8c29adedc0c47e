//! The ledger on disk: whatever changes in the ledger is in the local FAT before anybody hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use fathom_protocol::codec;
use fathom_protocol::ids::LeaseId;
use fathom_protocol::ledger::Ledger;
use fathom_protocol::wire::Refusal;
use fathom_store::fat::FatTx;
use fathom_store::{ErasedChunk, FatError, LocalFat};

use super::{MIGRATIONS_KEY, Vendor, fat_refusal, lock};

/// Name in the local FAT of the note that leases may be dated by a clock that was behind. Which, is not noted: after a restart all
/// of them are in doubt.
pub(super) const DOUBTS_KEY: &str = "doubts";

/// Which revision of each lease is on disk. Held while the local FAT's leases are written, so that they follow the ledger
/// in order.
#[derive(Debug, Default)]
pub(super) struct Persisted {
    leases: BTreeMap<LeaseId, Option<u64>>,
    /// Whether [`DOUBTS_KEY`] is there.
    doubts: bool,
}

struct Changes {
    put: Vec<(LeaseId, u64, u64, Vec<u8>)>,
    gone: Vec<LeaseId>,
    /// What becomes of [`DOUBTS_KEY`], if anything does.
    doubts: Option<bool>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty() && self.doubts.is_none()
    }
}

impl Persisted {
    /// The leases that the local FAT has, all to be written anew when they are next looked at.
    pub(super) fn of(fat: &LocalFat) -> Result<Self, FatError> {
        let leases = fat.leases()?.into_iter().map(|(id, _)| (id, None)).collect();
        Ok(Self { leases, doubts: fat.kv(DOUBTS_KEY)?.is_some() })
    }

    /// Whether the dates of the leases on disk are in doubt.
    pub(super) fn doubts(&self) -> bool {
        self.doubts
    }

    fn changes(&self, ledger: &Ledger) -> Changes {
        let mut gone: BTreeSet<LeaseId> = self.leases.keys().copied().collect();
        let mut put = Vec::new();
        for lease in ledger.leases() {
            gone.remove(&lease.id);
            if self.leases.get(&lease.id).copied().flatten() != Some(lease.revision) {
                put.push((lease.id, lease.revision, lease.bytes, codec::encode(lease.carried())));
            }
        }
        let doubts = ledger.doubts();
        Changes { put, gone: gone.into_iter().collect(), doubts: (doubts != self.doubts).then_some(doubts) }
    }
}

impl Vendor {
    /// Runs `edit` and writes every lease that is not on disk as the ledger has it, in one durable transaction.
    /// `edit` may change the ledger. Blocks.
    pub(super) fn durable<T>(&self, edit: impl FnOnce(&mut FatTx<'_>) -> Result<T, FatError>) -> Result<T, Refusal> {
        let mut persisted = lock(&self.persisted);
        let written = self.fat.write(|tx| {
            let value = edit(tx)?;
            let changes = persisted.changes(&lock(&self.ledger));
            write(tx, &changes)?;
            Ok((value, changes))
        });
        let (value, changes) = written.map_err(|error| fat_refusal(&error))?;
        for (id, revision, _, _) in changes.put {
            persisted.leases.insert(id, Some(revision));
        }
        for id in changes.gone {
            persisted.leases.remove(&id);
        }
        persisted.doubts = changes.doubts.unwrap_or(persisted.doubts);
        Ok(value)
    }

    /// Writes what changed in the ledger, if anything did. Blocks.
    pub(super) fn settle_accounts(&self) -> Result<(), Refusal> {
        let changes = lock(&self.persisted).changes(&lock(&self.ledger));
        if changes.is_empty() {
            return Ok(());
        }
        self.durable(|_| Ok(()))
    }

    /// Changes the ledger; the change is durable when this returns. Blocks.
    pub(super) fn account<T>(&self, edit: impl FnOnce(&mut Ledger) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let value = edit(&mut lock(&self.ledger))?;
        self.settle_accounts()?;
        self.touch();
        Ok(value)
    }

    /// After the local FAT has forgotten `erased`: removes the parts, and only then gives the space back. Blocks.
    pub(super) fn erased(&self, erased: &[ErasedChunk]) -> Result<(), Refusal> {
        if erased.is_empty() {
            return Ok(());
        }
        // Parts on a device that is away stay pending; its bytes are not in the capacity while it is.
        let report = self.fat.finish_erases(&self.devices).map_err(|error| fat_refusal(&error))?;
        if report.remaining > 0 {
            tracing::warn!(parts = report.remaining, "parts wait for their device to be erased");
        }
        let mut bytes: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for chunk in erased {
            *bytes.entry(chunk.lease).or_default() += u64::from(chunk.length);
        }
        self.account(|ledger| {
            for (lease, bytes) in bytes {
                ledger.erased(lease, bytes)?;
            }
            Ok(())
        })
    }

    /// Counts a chunk that was moved away, within the transaction that says so.
    pub(super) fn count_migration(&self, tx: &mut FatTx<'_>) -> Result<(), FatError> {
        let count = self.migrations.fetch_add(1, Ordering::Relaxed) + 1;
        tx.put_kv(MIGRATIONS_KEY, &count.to_be_bytes())
    }
}

fn write(tx: &mut FatTx<'_>, changes: &Changes) -> Result<(), FatError> {
    for (id, _, bytes, signed) in &changes.put {
        tx.put_lease(*id, signed, *bytes)?;
    }
    for id in &changes.gone {
        match tx.remove_lease(*id) {
            Ok(_) => {}
            Err(FatError::LeaseInUse { used, .. }) => {
                tracing::error!(lease = %id, used, "a lease that is gone still holds chunks");
            }
            Err(error) => return Err(error),
        }
    }
    match changes.doubts {
        Some(true) => tx.put_kv(DOUBTS_KEY, &[]),
        Some(false) => tx.remove_kv(DOUBTS_KEY).map(drop),
        None => Ok(()),
    }
}

/// The refusal for a ledger that could not sign, within a transaction.
pub(super) fn in_transaction(refusal: &Refusal) -> FatError {
    FatError::Refused(refusal.to_string())
}
