//! Reading the whole file back when a mirror starts: nothing is believed because it lies on this disk.

use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::table::{Key, Merged, Table, Verified, verify};
use redb::ReadableTable;

use super::{Batch, CURSORS, Content, ORDERS, RECORDS, Store, decode, nodes, parse_key, suspicions, u64_of};

/// Bytes of records read at a time.
const LOAD_BYTES: usize = 32 * 1024 * 1024;

impl Store {
    /// Reads and verifies everything. Records that do not verify are removed, and all cursors with them, so that the other
    /// mirrors are read from the start and bring sound ones.
    pub(super) fn load(&self) -> Result<Content, redb::Error> {
        let mut content = Content::default();
        let mut bad = Vec::new();
        // Final FATs before vendors: one that was kept when its lease was not known yet must not be judged anew.
        for (from, to) in [(2u8, 4u8), (1, 2), (4, u8::MAX)] {
            self.load_range(from, to, &mut content.table, &mut bad)?;
        }
        if !bad.is_empty() && self.disk.is_writable() {
            tracing::error!(records = bad.len(), file = %self.disk.path().display(), "damaged records were removed; the other mirrors are read from the start");
            self.heal(&bad)?;
        }
        self.read(|transaction| {
            for entry in transaction.open_table(CURSORS)?.iter()? {
                let (mirror, value) = entry?;
                let parts = value.value().split_at_checked(Hash::LEN);
                if let (Some(mirror), Some((log, cursor))) = (NodeId::from_slice(mirror.value()), parts)
                    && let Some(log) = Hash::from_slice(log)
                {
                    content.cursors.insert(mirror, (log, u64_of(cursor)));
                }
            }
            for entry in transaction.open_table(ORDERS)?.iter()? {
                let (key, vendors) = entry?;
                if let Some(Key::Fat(owner, file)) = parse_key(key.value()) {
                    content.also.insert((owner, file), nodes(vendors.value()).collect());
                }
            }
            content.suspicions = suspicions::read(transaction)?;
            Ok(())
        })?;
        Ok(content)
    }

    fn load_range(&self, from: u8, to: u8, table: &mut Table, bad: &mut Vec<Vec<u8>>) -> Result<(), redb::Error> {
        self.read(|transaction| {
            let records = transaction.open_table(RECORDS)?;
            let mut batch: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            let mut bytes = 0;
            for entry in records.range([from].as_slice()..[to].as_slice())? {
                let (key, record) = entry?;
                bytes += record.value().len();
                batch.push((key.value().to_vec(), record.value().to_vec()));
                if bytes >= LOAD_BYTES {
                    merge_loaded(std::mem::take(&mut batch), table, bad);
                    bytes = 0;
                }
            }
            merge_loaded(batch, table, bad);
            Ok(())
        })
    }

    fn heal(&self, bad: &[Vec<u8>]) -> Result<(), redb::Error> {
        self.disk.write(|transaction| {
            let mut batch = Batch::open(transaction)?;
            for key in bad {
                batch.forget(key)?;
            }
            batch.cursors.retain(|_, _| false)?;
            Ok(())
        })
    }
}

/// Verifies `batch` on all cores and merges it.
fn merge_loaded(batch: Vec<(Vec<u8>, Vec<u8>)>, table: &mut Table, bad: &mut Vec<Vec<u8>>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let verified: Vec<Option<Verified>> = std::thread::scope(|scope| {
        let check = |(key, bytes): &(Vec<u8>, Vec<u8>)| {
            let record = verify(decode(bytes)?).ok()?;
            let in_place = match &record {
                Verified::Fat(fat) if key.first() == Some(&6) => {
                    Key::Twin(fat.owner, fat.file, fat.hash()).to_bytes() == *key
                }
                record => record.key().to_bytes() == *key,
            };
            in_place.then_some(record)
        };
        let parts = batch.chunks(batch.len().div_ceil(threads).max(1));
        let workers: Vec<_> =
            parts.map(|part| (part.len(), scope.spawn(move || part.iter().map(check).collect::<Vec<_>>()))).collect();
        let joined = workers.into_iter().map(|(len, worker)| worker.join().unwrap_or_else(|_| vec![None; len]));
        joined.flatten().collect()
    });
    for (at, (key, _)) in batch.into_iter().enumerate() {
        match verified.get(at).and_then(Option::as_ref).map(|record| table.merge(record)) {
            // Whom a vendor puts out, if less is kept than by the version that wrote this.
            Some(Ok(Merged::New { drops, .. })) => {
                bad.extend(drops.into_iter().filter(|key| matches!(key, Key::Vendor(_))).map(Key::to_bytes));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => bad.push(key),
        }
    }
}
