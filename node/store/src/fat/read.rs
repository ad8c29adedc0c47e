//! The reads of the local FAT. Each sees one consistent state.

use std::path::Path;

use fathom_protocol::ids::{ChunkId, DeviceId, FileId, LeaseId, OwnerId};
use fathom_protocol::limits::VERSIONS_MAX;
use redb::ReadTransaction;

use super::codec::{self, Opaque, Row};
use super::tx::{
    BY_FILE, BY_LEASE, CHUNKS, DEVICES, FINALS, KV, LEASES, META, MOVES, TOTALS_KEY, TWINS, Table, broken_index,
    get_in, keys_in,
};
use super::{ChunkEntry, ChunkKey, FatError, FatTotals, FinalEntry, LeaseEntry, LocalFat, PAGE_ROWS_MAX};

impl LocalFat {
    fn row<R: Row>(&self, table: Table, key: &[u8]) -> Result<Option<R>, FatError> {
        self.engine.read(|tx| get_in(&tx.open_table(table)?, table, key))
    }

    /// Rows whose keys begin with `prefix` and come after `after`, at most `limit`.
    pub(crate) fn page<R: Row>(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, R)>, FatError> {
        self.engine.read(|tx: &ReadTransaction| {
            let rows = tx.open_table(table)?;
            let mut page = Vec::new();
            for key in keys_in(&rows, prefix, after, limit.min(PAGE_ROWS_MAX))? {
                if let Some(row) = get_in(&rows, table, &key)? {
                    page.push((key, row));
                }
            }
            Ok(page)
        })
    }

    pub(crate) fn page_keys(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, FatError> {
        self.engine.read(|tx| keys_in(&tx.open_table(table)?, prefix, after, limit))
    }

    /// Entries of the chunks that an index of chunks names.
    fn indexed(
        &self,
        index: Table,
        prefix: &[u8],
        key_of: impl Fn(&[u8]) -> Option<ChunkKey>,
    ) -> Result<Vec<ChunkEntry>, FatError> {
        self.engine.read(|tx| {
            let rows = tx.open_table(CHUNKS)?;
            let mut entries = Vec::new();
            for key in keys_in(&tx.open_table(index)?, prefix, None, usize::MAX)? {
                let key = key_of(&key).ok_or_else(|| broken_index(index))?;
                let entry = get_in(&rows, CHUNKS, &codec::chunk_key(&key))?;
                entries.push(entry.ok_or_else(|| broken_index(index))?);
            }
            Ok(entries)
        })
    }

    /// The entry of a chunk.
    ///
    /// # Errors
    /// `Corrupt`, `Database`; so for every read.
    pub fn chunk(&self, owner: OwnerId, chunk: ChunkId) -> Result<Option<ChunkEntry>, FatError> {
        self.row(CHUNKS, &codec::chunk_key(&ChunkKey { owner, chunk }))
    }

    /// Every chunk under a lease.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn chunks_of_lease(&self, lease: LeaseId) -> Result<Vec<ChunkEntry>, FatError> {
        self.indexed(BY_LEASE, &lease.0, codec::parse_by_lease)
    }

    /// Every chunk of a file, by tag.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn chunks_of_file(&self, owner: OwnerId, file: FileId) -> Result<Vec<ChunkEntry>, FatError> {
        self.indexed(BY_FILE, &codec::file_key(owner, file), |key| codec::parse_by_file(key).map(|(_, key)| key))
    }

    /// The next chunks after `after` in the order of their keys, at most `limit` and [`PAGE_ROWS_MAX`]: pass the last one's
    /// key to go on.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn chunks_after(&self, after: Option<&ChunkKey>, limit: usize) -> Result<Vec<ChunkEntry>, FatError> {
        let after = after.map(codec::chunk_key);
        let page = self.page::<ChunkEntry>(CHUNKS, &[], after.as_deref(), limit)?;
        Ok(page.into_iter().map(|(_, entry)| entry).collect())
    }

    /// A lease.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn lease(&self, lease: LeaseId) -> Result<Option<LeaseEntry>, FatError> {
        self.row(LEASES, &lease.0)
    }

    /// Every lease.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn leases(&self) -> Result<Vec<(LeaseId, LeaseEntry)>, FatError> {
        let rows = self.all::<LeaseEntry>(LEASES)?;
        Ok(rows.into_iter().filter_map(|(key, row)| Some((LeaseId::from_slice(&key)?, row))).collect())
    }

    /// Every final FAT record that holds for a file: more than one if devices of its owner wrote at once.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn versions_of(&self, owner: OwnerId, file: FileId) -> Result<Vec<FinalEntry>, FatError> {
        let key = codec::file_key(owner, file);
        let twins = self.page::<FinalEntry>(TWINS, &key, None, VERSIONS_MAX)?;
        let first: Option<FinalEntry> = self.row(FINALS, &key)?;
        Ok(first.into_iter().chain(twins.into_iter().map(|(_, twin)| twin)).collect())
    }

    /// The next final FAT records after `after`, at most `limit` and [`PAGE_ROWS_MAX`], with owner and file.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn finals_after(
        &self,
        after: Option<(OwnerId, FileId)>,
        limit: usize,
    ) -> Result<Vec<(OwnerId, FileId, FinalEntry)>, FatError> {
        let after = after.map(|(owner, file)| codec::file_key(owner, file));
        let page = self.page::<FinalEntry>(FINALS, &[], after.as_deref(), limit)?;
        let split = |key: &[u8]| Some((OwnerId::from_slice(key.get(..32)?)?, FileId::from_slice(key.get(32..)?)?));
        Ok(page.into_iter().filter_map(|(key, row)| split(&key).map(|(owner, file)| (owner, file, row))).collect())
    }

    /// The signed move of a chunk.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn move_of(&self, key: &ChunkKey) -> Result<Option<Vec<u8>>, FatError> {
        Ok(self.row::<Opaque>(MOVES, &codec::chunk_key(key))?.map(|row| row.0))
    }

    /// Every move.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn moves(&self) -> Result<Vec<(ChunkKey, Vec<u8>)>, FatError> {
        let rows = self.all::<Opaque>(MOVES)?;
        Ok(rows.into_iter().filter_map(|(key, row)| Some((codec::parse_chunk_key(&key)?, row.0))).collect())
    }

    /// A value by name.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn kv(&self, key: &str) -> Result<Option<Vec<u8>>, FatError> {
        Ok(self.row::<Opaque>(KV, key.as_bytes())?.map(|row| row.0))
    }

    /// Every value whose name begins with `prefix`.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn kv_with_prefix(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, FatError> {
        let rows = self.page::<Opaque>(KV, prefix.as_bytes(), None, PAGE_ROWS_MAX)?;
        Ok(rows.into_iter().filter_map(|(key, row)| Some((String::from_utf8(key).ok()?, row.0))).collect())
    }

    /// The device that the directory at `path` was when it was last known.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn device_at(&self, path: &Path) -> Result<Option<DeviceId>, FatError> {
        let row = self.row::<Opaque>(DEVICES, path.as_os_str().as_encoded_bytes())?;
        Ok(row.and_then(|row| DeviceId::from_slice(&row.0)))
    }

    /// Chunks and bytes stored.
    ///
    /// # Errors
    /// As for [`Self::chunk`].
    pub fn totals(&self) -> Result<FatTotals, FatError> {
        Ok(self.row(META, TOTALS_KEY)?.unwrap_or_default())
    }

    /// Every row of a table.
    fn all<R: Row>(&self, table: Table) -> Result<Vec<(Vec<u8>, R)>, FatError> {
        let mut rows: Vec<(Vec<u8>, R)> = Vec::new();
        loop {
            let page = self.page(table, &[], rows.last().map(|(key, _)| key.as_slice()), PAGE_ROWS_MAX)?;
            let last = page.len() < PAGE_ROWS_MAX;
            rows.extend(page);
            if last {
                return Ok(rows);
            }
        }
    }
}
