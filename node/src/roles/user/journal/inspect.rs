//! The journal looked at from outside, while no node uses it. Keys of files are never shown.

use std::path::Path;

use fathom_protocol::ids::FileId;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use serde_json::json;

use super::{CHUNKS, ChunkRecord, FILES, FORMAT, FileRecord, META, PUTS, PutRecord, read};
use crate::control::{CommandError, ErrorKind};
use crate::offline::{See, Seen, open, table};

/// Reads every record of the journal at `path` and verifies the leases and heads in it.
///
/// # Errors
/// A [`CommandError`] if it cannot be opened or has another format.
pub(crate) fn inspect(path: &Path, see: See<'_>) -> Result<(), CommandError> {
    let Some(database) = open(path, see)? else { return Ok(()) };
    if !check_format(&database, path, see)? {
        return Ok(());
    }
    table(&database, "puts", see, puts);
    table(&database, "files", see, files);
    table(&database, "chunks", see, chunks);
    Ok(())
}

fn wrong(what: impl Into<String>, problem: impl ToString) -> Seen {
    Seen::Wrong { what: what.into(), problem: problem.to_string() }
}

fn check_format(database: &Database, path: &Path, see: See<'_>) -> Result<bool, CommandError> {
    let found = || -> Result<Option<u32>, redb::Error> {
        let meta = match database.begin_read()?.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(meta.get("version")?.map(|bytes| bytes.value().try_into().map_or(0, u32::from_le_bytes)))
    };
    match found() {
        // A file without a number has format 1.
        Ok(None | Some(FORMAT)) => Ok(true),
        Ok(Some(found)) => Err(CommandError::new(
            ErrorKind::Other,
            format!("{} has format {found} and this build reads format {FORMAT}", path.display()),
        )
        .hint("run the build that wrote it, or a newer one")),
        Err(error) => {
            see(wrong("table meta", error));
            Ok(false)
        }
    }
}

fn puts(transaction: &ReadTransaction, see: See<'_>) -> Result<(), redb::Error> {
    for row in transaction.open_table(PUTS)?.iter()? {
        let (name, value) = row?;
        let what = format!("put {}", name.value());
        let record: PutRecord = match read(value.value()) {
            Ok(record) => record,
            Err(error) => {
                see(wrong(what, error));
                continue;
            }
        };
        let mut locations = Vec::new();
        for location in record.locations {
            let (lease, head) = (location.lease.verify(), location.head.verify());
            match (lease, head) {
                (Ok(lease), Ok(head)) => {
                    if lease.vendor != head.vendor {
                        see(wrong(&what, "a lease comes with another vendor's head"));
                    }
                    locations.push(json!({
                        "column": location.column,
                        "granted": location.granted,
                        "vendor": lease.vendor.to_string(),
                        "lease": lease.id.to_string(),
                    }));
                }
                (Err(error), _) => see(wrong(&what, format!("a lease: {error}"))),
                (_, Err(error)) => see(wrong(&what, format!("a vendor's head: {error}"))),
            }
        }
        see(Seen::Record(json!({ "type": "put", "name": name.value(), "locations": locations })));
    }
    Ok(())
}

fn files(transaction: &ReadTransaction, see: See<'_>) -> Result<(), redb::Error> {
    let puts = transaction.open_table(PUTS)?;
    for row in transaction.open_table(FILES)?.iter()? {
        let (key, value) = row?;
        let Some(file) = FileId::from_slice(key.value()) else {
            see(wrong("a file", "its key does not decode"));
            continue;
        };
        match read::<FileRecord>(value.value()) {
            Ok(record) => {
                if puts.get(record.put.as_str())?.is_none() {
                    see(wrong(format!("file {file}"), format!("its put {} is not there", record.put)));
                }
                let (bytes, modified, _) = record.source;
                see(Seen::Record(json!({
                    "type": "file",
                    "file": file.to_string(),
                    "put": record.put,
                    "bytes": bytes,
                    "modified": i64::try_from(modified / 1_000_000).unwrap_or(i64::MAX),
                    "chunk_plain": record.chunk_plain,
                    "erasure": record.code.map(|code| code.to_string()),
                    "seq": record.seq,
                })));
            }
            Err(error) => see(wrong(format!("file {file}"), error)),
        }
    }
    Ok(())
}

fn chunks(transaction: &ReadTransaction, see: See<'_>) -> Result<(), redb::Error> {
    let files = transaction.open_table(FILES)?;
    for row in transaction.open_table(CHUNKS)?.iter()? {
        let (key, value) = row?;
        let split = key.value().split_at_checked(FileId::LEN);
        let split = split
            .and_then(|(file, index)| Some((FileId::from_slice(file)?, u64::from_be_bytes(index.try_into().ok()?))));
        let Some((file, index)) = split else {
            see(wrong("a chunk", "its key does not decode"));
            continue;
        };
        let what = format!("chunk {index} of file {file}");
        if files.get(&file.0[..])?.is_none() {
            see(wrong(&what, "its file is not there"));
        }
        match read::<ChunkRecord>(value.value()) {
            Ok(record) => {
                let copies = record.copies.iter().map(|copy| {
                    json!({
                        "column": copy.column,
                        "vendor": copy.place.vendor.to_string(),
                        "lease": copy.place.lease.to_string(),
                        "acked": copy.acked.0,
                    })
                });
                see(Seen::Record(json!({
                    "type": "chunk",
                    "file": file.to_string(),
                    "index": index,
                    "chunk": record.id.to_string(),
                    "copies": copies.collect::<Vec<_>>(),
                })));
            }
            Err(error) => see(wrong(&what, error)),
        }
    }
    Ok(())
}
