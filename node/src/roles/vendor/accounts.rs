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

/// Which revision of each lease is on disk. Held while the local FAT's leases are written, so that they follow the ledger
/// in order.
#[derive(Debug, Default)]
pub(super) struct Persisted(BTreeMap<LeaseId, Option<u64>>);

struct Changes {
    put: Vec<(LeaseId, u64, u64, Vec<u8>)>,
    gone: Vec<LeaseId>,
}

impl Persisted {
    /// The leases that the local FAT has, all to be written anew when they are next looked at.
    pub(super) fn of(fat: &LocalFat) -> Result<Self, FatError> {
        Ok(Self(fat.leases()?.into_iter().map(|(id, _)| (id, None)).collect()))
    }

    fn changes(&self, ledger: &Ledger) -> Changes {
        let mut gone: BTreeSet<LeaseId> = self.0.keys().copied().collect();
        let mut put = Vec::new();
        for lease in ledger.leases() {
            gone.remove(&lease.id);
            if self.0.get(&lease.id).copied().flatten() != Some(lease.revision) {
                put.push((lease.id, lease.revision, lease.bytes, codec::encode(lease.carried())));
            }
        }
        Changes { put, gone: gone.into_iter().collect() }
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
            persisted.0.insert(id, Some(revision));
        }
        for id in changes.gone {
            persisted.0.remove(&id);
        }
        Ok(value)
    }

    /// Writes what changed in the ledger, if anything did. Blocks.
    pub(super) fn settle_accounts(&self) -> Result<(), Refusal> {
        let changes = lock(&self.persisted).changes(&lock(&self.ledger));
        if changes.put.is_empty() && changes.gone.is_empty() {
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
    Ok(())
}

/// The refusal for a ledger that could not sign, within a transaction.
pub(super) fn in_transaction(refusal: &Refusal) -> FatError {
    FatError::Refused(refusal.to_string())
}
