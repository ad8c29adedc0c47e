//! The mirror's file looked at from outside, while no mirror runs on it.

use std::path::Path;

use data_encoding::HEXLOWER;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::table::{Key, Verified, verify};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};

use super::{CURSORS, FORMAT, LOG, META, ORDERS, POSITIONS, RECORDS, decode, nodes, parse_key, u64_of};
use crate::control::{CommandError, ErrorKind};
use crate::offline::{See, Seen, json, open, table};

/// Reads every record of the file at `path`, verifies signatures and roots, and compares the log with the records.
///
/// # Errors
/// A [`CommandError`] if it cannot be opened or has another format.
pub(crate) fn inspect(path: &Path, see: See<'_>) -> Result<(), CommandError> {
    let Some(database) = open(path, see)? else { return Ok(()) };
    if !check_format(&database, path, see)? {
        return Ok(());
    }
    table(&database, "records", see, records);
    table(&database, "log", see, log);
    table(&database, "positions", see, positions);
    table(&database, "cursors", see, cursors);
    table(&database, "orders", see, orders);
    Ok(())
}

fn wrong(what: impl Into<String>, problem: impl Into<String>) -> Seen {
    Seen::Wrong { what: what.into(), problem: problem.into() }
}

/// Whether the tables can be read.
fn check_format(database: &Database, path: &Path, see: See<'_>) -> Result<bool, CommandError> {
    let found = || -> Result<(Option<u32>, bool), redb::Error> {
        let meta = database.begin_read()?.open_table(META)?;
        let version = meta.get("version")?.and_then(|bytes| Some(u32::from_le_bytes(bytes.value().try_into().ok()?)));
        Ok((version, meta.get("log")?.is_some_and(|log| Hash::from_slice(log.value()).is_some())))
    };
    match found() {
        Ok((Some(FORMAT), log)) => {
            if !log {
                see(wrong("table meta", "the log has no identifier"));
            }
            Ok(true)
        }
        Ok((Some(found), _)) => Err(CommandError::new(
            ErrorKind::Other,
            format!("{} has format {found} and this build reads format {FORMAT}", path.display()),
        )
        .hint("run the build that wrote it, or a newer one")),
        Ok((None, _)) => {
            see(wrong("table meta", "there is no format number"));
            Ok(false)
        }
        Err(error) => {
            see(wrong("table meta", error.to_string()));
            Ok(false)
        }
    }
}

fn records(read: &ReadTransaction, see: See<'_>) -> Result<(), redb::Error> {
    let positions = read.open_table(POSITIONS)?;
    for row in read.open_table(RECORDS)?.iter()? {
        let (key, bytes) = row?;
        let name = name(key.value());
        if positions.get(key.value())?.is_none() {
            see(wrong(&name, "the log does not have it: other mirrors never read it"));
        }
        let Some(record) = decode(bytes.value()) else {
            see(wrong(&name, "it does not decode"));
            continue;
        };
        match verify(record) {
            Ok(record) if !is_of(&record, key.value()) => see(wrong(&name, "it is about something else")),
            Ok(record) => show(&record, see),
            Err(error) => see(wrong(&name, error.to_string())),
        }
    }
    Ok(())
}

/// Whether `key` is one that the record is kept under: its own, or that of one of several final FATs of a file.
fn is_of(record: &Verified, key: &[u8]) -> bool {
    let twin = match record {
        Verified::Fat(fat) => Key::Twin(fat.owner, fat.file, fat.hash()).to_bytes() == key,
        _ => false,
    };
    twin || record.key().to_bytes() == key
}

fn show(record: &Verified, see: See<'_>) {
    match record {
        Verified::Vendor(vendor) => {
            see(Seen::Record(json::head("vendor", &vendor.head)));
            vendor.leases.iter().for_each(|lease| see(Seen::Record(json::lease(lease))));
        }
        Verified::Fat(fat) => see(Seen::Record(json::final_fat(fat))),
        Verified::Move(moved, _) => see(Seen::Record(json::moved(moved))),
        Verified::Proof(proof) => see(Seen::Record(serde_json::json!({
            "type": "proof",
            "vendor": proof.vendor().to_string(),
            "offence": proof.offence().name(),
        }))),
    }
}

/// What a key is about, for people.
fn name(key: &[u8]) -> String {
    let what = match key.first() {
        Some(1) => "vendor",
        Some(2) => "final FAT",
        Some(3) => "move",
        Some(4) => "node",
        Some(5) => "proof against vendor",
        Some(6) => "one of several final FATs",
        _ => "record",
    };
    format!("{what} {}", HEXLOWER.encode(key.get(1..).unwrap_or_default()))
}

fn log(read: &ReadTransaction, see: See<'_>) -> Result<(), redb::Error> {
    let (positions, records) = (read.open_table(POSITIONS)?, read.open_table(RECORDS)?);
    let next = read.open_table(META)?.get("next")?.map_or(1, |bytes| u64_of(bytes.value()));
    for row in read.open_table(LOG)?.iter()? {
        let (position, key) = row?;
        let what = format!("position {} of the log", position.value());
        if position.value() >= next {
            see(wrong(&what, format!("the next free one is said to be {next}")));
        }
        if positions.get(key.value())?.map(|other| other.value()) != Some(position.value()) {
            see(wrong(&what, format!("{} is not said to be there", name(key.value()))));
        }
        if records.get(key.value())?.is_none() {
            see(wrong(&what, format!("{} is not there", name(key.value()))));
        }
    }
    Ok(())
}

fn positions(read: &ReadTransaction, see: See<'_>) -> Result<(), redb::Error> {
    let log = read.open_table(LOG)?;
    for row in read.open_table(POSITIONS)?.iter()? {
        let (key, position) = row?;
        if log.get(position.value())?.is_none_or(|other| other.value() != key.value()) {
            see(wrong(name(key.value()), format!("it is not at position {} of the log", position.value())));
        }
    }
    Ok(())
}

fn cursors(read: &ReadTransaction, see: See<'_>) -> Result<(), redb::Error> {
    for row in read.open_table(CURSORS)?.iter()? {
        let (mirror, value) = row?;
        let log = value.value().get(..Hash::LEN).and_then(Hash::from_slice);
        match (NodeId::from_slice(mirror.value()), log, value.value().len()) {
            (Some(mirror), Some(log), 40) => see(Seen::Record(serde_json::json!({
                "type": "cursor",
                "mirror": mirror.to_string(),
                "log": log.to_string(),
                "cursor": u64_of(&value.value()[Hash::LEN..]),
            }))),
            _ => see(wrong(format!("cursor {}", HEXLOWER.encode(mirror.value())), "it does not decode")),
        }
    }
    Ok(())
}

fn orders(read: &ReadTransaction, see: See<'_>) -> Result<(), redb::Error> {
    let records = read.open_table(RECORDS)?;
    for row in read.open_table(ORDERS)?.iter()? {
        let (key, vendors) = row?;
        let Some(Key::Fat(owner, file) | Key::Twin(owner, file, _)) = parse_key(key.value()) else {
            see(wrong(format!("order {}", HEXLOWER.encode(key.value())), "its key does not decode"));
            continue;
        };
        if vendors.value().len() % NodeId::LEN != 0 {
            see(wrong(format!("order of {}", name(key.value())), "it does not decode"));
        } else if records.get(key.value())?.is_none() {
            see(wrong(format!("order of {}", name(key.value())), "that final FAT is not there"));
        }
        see(Seen::Record(serde_json::json!({
            "type": "order",
            "owner": owner.to_string(),
            "file": file.to_string(),
            "vendors": nodes(vendors.value()).map(|vendor| vendor.to_string()).collect::<Vec<_>>(),
        })));
    }
    Ok(())
}
