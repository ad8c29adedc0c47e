//! Leases that vanished from heads, until it is known why: what proves it is nowhere else once the newer head is kept.

use fathom_protocol::codec;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::table::{DROPPED_GRACE_MS, Suspicion};
use fathom_protocol::time::UnixMs;
use redb::{ReadTransaction, ReadableTable, TableError};

use super::{Batch, SUSPICIONS};

/// Reads them, in the order in which they are due. One that does not decode is left out: it proves nothing.
pub(super) fn read(transaction: &ReadTransaction) -> Result<Vec<Suspicion>, redb::Error> {
    let table = match transaction.open_table(SUSPICIONS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut all = Vec::new();
    for entry in table.iter()? {
        all.extend(codec::decode(entry?.1.value(), FRAME_BYTES_MAX).ok());
    }
    Ok(all)
}

impl Batch<'_> {
    pub(super) fn suspect(&mut self, suspicion: &Suspicion) -> Result<(), redb::Error> {
        let key = [&suspicion.due.0.to_be_bytes()[..], &suspicion.vendor.0, &suspicion.lease.0].concat();
        self.suspicions.insert(key.as_slice(), codec::encode(suspicion).as_slice())?;
        Ok(())
    }

    /// Forgets those that were due until then, and those that a clock which was ahead in an earlier run had due long after.
    pub(super) fn looked_at(&mut self, until: UnixMs) -> Result<(), redb::Error> {
        let end = until.0.saturating_add(1).to_be_bytes();
        self.suspicions.retain_in(..end.as_slice(), |_, _| false)?;
        let ahead = until.plus_ms(DROPPED_GRACE_MS + 1).0.to_be_bytes();
        self.suspicions.retain_in(ahead.as_slice().., |_, _| false)?;
        Ok(())
    }
}
