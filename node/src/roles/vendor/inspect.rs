//! A vendor's local FAT looked at from outside, while no vendor runs on it: what its signed records say.

use std::path::Path;

use data_encoding::HEXLOWER;
use fathom_protocol::codec;
use fathom_protocol::fat::FinalFat;
use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::{LeaseId, NodeId, OwnerId};
use fathom_protocol::lease::Lease;
use fathom_protocol::moves::{CarriedMove, MOVE_BYTES_MAX};
use fathom_protocol::receipt::Receipt;
use fathom_protocol::sign::{Carried, Record, Signed};
use fathom_store::fat::{FatRow, Finding, HEAD_KEY, Inspector, inspect as inspect_rows};
use fathom_store::{ChunkEntry, ChunkKey, ChunkState, FatError, FinalEntry, LeaseEntry};
use serde_json::json;

use crate::control::{CommandError, ErrorKind};
use crate::offline::{See, Seen, json};

/// Reads every row of the local FAT at `path`, verifies each signed record and that it says what its row says, and that the
/// leases fit the capacity of the newest head.
///
/// # Errors
/// A [`CommandError`] if it cannot be opened or has another format.
pub(crate) fn inspect(path: &Path, me: Option<NodeId>, see: See<'_>) -> Result<(), CommandError> {
    let mut judge = Judge { me, see, leased: 0, capacity: None };
    inspect_rows(path, &mut judge).map_err(|error| {
        let text = format!("the local FAT failed to {error}");
        match (&error, text.split_once("; ")) {
            (FatError::Version { .. } | FatError::InUse { .. }, Some((text, hint))) => {
                CommandError::new(ErrorKind::Other, text).hint(hint)
            }
            _ => CommandError::new(ErrorKind::Other, text),
        }
    })?;
    let Judge { see, leased, capacity, .. } = judge;
    if let Some(capacity) = capacity.filter(|capacity| leased > *capacity) {
        let problem = format!("the leases hold {leased} bytes, and the newest head offers {capacity}");
        see(Seen::Wrong { what: "leases".to_owned(), problem });
    }
    Ok(())
}

struct Judge<'a> {
    me: Option<NodeId>,
    see: See<'a>,
    leased: u64,
    capacity: Option<u64>,
}

/// Decodes and verifies a record as a row keeps it.
fn verified<T: Record>(bytes: &[u8]) -> Result<Signed<T>, String> {
    let carried: Carried<T> = codec::decode(bytes, 2 * T::BYTES_MAX).map_err(|error| error.to_string())?;
    carried.verify().map_err(|error| error.to_string())
}

impl Inspector for Judge<'_> {
    fn row(&mut self, row: FatRow) {
        match row {
            FatRow::Chunk(entry) => self.chunk(&entry),
            FatRow::Lease(id, entry) => self.lease(id, &entry),
            FatRow::Final(owner, file, entry) | FatRow::Twin(owner, file, entry) => self.last(owner, file, &entry),
            FatRow::Move(key, record) => self.moved(&key, &record),
            FatRow::Value(name, value) if name == HEAD_KEY => self.head(&value),
            FatRow::Value(name, value) => {
                (self.see)(Seen::Record(json!({ "type": "value", "name": name, "bytes": value.len() })));
            }
            FatRow::PendingErase(device, part) => (self.see)(Seen::Record(
                json!({ "type": "pending_erase", "device": device.to_string(), "part": part.to_string() }),
            )),
            FatRow::Device(path, device) => (self.see)(Seen::Record(
                json!({ "type": "device", "device": device.to_string(), "path": path.to_string_lossy() }),
            )),
        }
    }

    fn finding(&mut self, finding: Finding) {
        let Finding { table, key, problem } = finding;
        let what = match key.as_slice() {
            [] => format!("table {table}"),
            key if matches!(table, "meta" | "kv") => format!("{table} {}", String::from_utf8_lossy(key)),
            key => format!("{table} {}", HEXLOWER.encode(key)),
        };
        self.wrong(what, problem);
    }
}

impl Judge<'_> {
    fn wrong(&mut self, what: String, problem: impl Into<String>) {
        (self.see)(Seen::Wrong { what, problem: problem.into() });
    }

    /// Whether `vendor` is the node whose directory this is.
    fn mine(&self, vendor: NodeId) -> bool {
        self.me.is_none_or(|me| me == vendor)
    }

    fn chunk(&mut self, entry: &ChunkEntry) {
        let what = format!("chunk {} of {}", entry.chunk, entry.owner);
        // After a rebuild there is none; the next time that the user asks it is signed anew.
        if !entry.receipt.is_empty() {
            match verified::<Receipt>(&entry.receipt) {
                Ok(receipt) => {
                    let said = (receipt.owner, receipt.chunk, receipt.lease, receipt.length);
                    if said != (entry.owner, entry.chunk, entry.lease, entry.length) || !self.mine(receipt.vendor) {
                        self.wrong(what.clone(), "its receipt is for something else");
                    }
                }
                Err(error) => self.wrong(what.clone(), format!("its receipt: {error}")),
            }
        }
        let state = match &entry.state {
            ChunkState::Stored => "stored",
            ChunkState::Sent => "sent",
            ChunkState::Committed => "committed",
            ChunkState::Leaving { moved } => {
                if let Err(error) = decode_move(moved) {
                    self.wrong(what, format!("the move that it left by: {error}"));
                }
                "leaving"
            }
        };
        let parts = entry.parts.iter().map(|part| {
            json!({
                "device": part.device.to_string(),
                "part": part.part.to_string(),
                "offset": part.offset,
                "length": part.length,
            })
        });
        (self.see)(Seen::Record(json!({
            "type": "chunk",
            "owner": entry.owner.to_string(),
            "chunk": entry.chunk.to_string(),
            "file": entry.file.to_string(),
            "seq": entry.seq,
            "lease": entry.lease.to_string(),
            "length": entry.length,
            "state": state,
            "parts": parts.collect::<Vec<_>>(),
            "receipt": !entry.receipt.is_empty(),
            "stored_at": entry.stored_at.0,
        })));
    }

    fn lease(&mut self, id: LeaseId, entry: &LeaseEntry) {
        let what = format!("lease {id}");
        self.leased = self.leased.saturating_add(entry.bytes);
        match verified::<Lease>(&entry.signed) {
            Ok(lease) => {
                if lease.id != id || !self.mine(lease.vendor) {
                    self.wrong(what, "it is signed as another lease, or by another vendor");
                } else if lease.bytes != entry.bytes {
                    self.wrong(what, format!("it is signed for {} bytes and kept with {}", lease.bytes, entry.bytes));
                }
                let mut record = json::lease(&lease);
                // What is stored now; the signed figure follows it.
                record["used"] = entry.used.into();
                (self.see)(Seen::Record(record));
            }
            Err(error) => self.wrong(what, error),
        }
    }

    fn last(&mut self, owner: OwnerId, file: fathom_protocol::ids::FileId, entry: &FinalEntry) {
        let what = format!("final FAT of file {file} of {owner}");
        match verified::<FinalFat>(&entry.record) {
            Ok(fat) => {
                if (fat.owner, fat.file, fat.lineage()) != (owner, file, entry.lineage()) {
                    self.wrong(what, "it is about something else");
                }
                (self.see)(Seen::Record(json::final_fat(&fat)));
            }
            Err(error) => self.wrong(what, error),
        }
    }

    fn moved(&mut self, key: &ChunkKey, record: &[u8]) {
        let what = format!("move of chunk {} of {}", key.chunk, key.owner);
        match decode_move(record) {
            Ok(moved) => {
                if (moved.owner, moved.chunk) != (key.owner, key.chunk) {
                    self.wrong(what, "it is about something else");
                } else if !self.mine(moved.from) && !self.mine(moved.to) {
                    self.wrong(what, "it is between two other vendors");
                }
                (self.see)(Seen::Record(json::moved(&moved)));
            }
            Err(error) => self.wrong(what, error),
        }
    }

    fn head(&mut self, record: &[u8]) {
        match verified::<VendorHead>(record) {
            Ok(head) => {
                if !self.mine(head.vendor) {
                    self.wrong(
                        "head".to_owned(),
                        "it is another vendor's; is this the key that the directory was made with?",
                    );
                }
                self.capacity = Some(head.capacity);
                (self.see)(Seen::Record(json::head("head", &head)));
            }
            Err(error) => self.wrong("head".to_owned(), error),
        }
    }
}

/// A move with the source's signature at least.
fn decode_move(bytes: &[u8]) -> Result<fathom_protocol::moves::Move, String> {
    let carried: CarriedMove = codec::decode(bytes, 2 * MOVE_BYTES_MAX).map_err(|error| error.to_string())?;
    carried.proposal().map_err(|error| error.to_string())
}
