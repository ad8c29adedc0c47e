//! How rows of the local FAT are laid out.
//!
//! Every value, but for the format number in `meta`, is sealed:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | version of the row, 1 |
//! | 1 | 8 | check: the first bytes of BLAKE3 (key derivation context [`CHECK_CONTEXT`]) over the table's name, a zero byte, the key's length (8, big-endian), the key and the body |
//! | 9 | .. | body: one CBOR array, its fields in the order of the row's struct |
//!
//! The check binds a row to its place, so that a flipped bit, or a row that ended up under another key, is told from a valid one
//! also between two integrity checks of the whole file.
//!
//! Keys are the concatenation of fixed-length fields; integers in them are big-endian, so that they sort.
//!
//! | table | key | body |
//! |---|---|---|
//! | `meta` | text | `format`: 8 bytes, big-endian, not sealed; `totals`: `[chunks, bytes]` |
//! | `chunks` | owner 32, chunk 32 | `[file, seq, lease, length, parts, state, moved, receipt, stored_at]`, a part being `[device, part, offset, length]` and a state 0 stored, 1 committed, 2 leaving |
//! | `by_file` | owner 32, file 16, seq 8, chunk 32 | nothing, not sealed |
//! | `by_lease` | lease 16, owner 32, chunk 32 | nothing, not sealed |
//! | `leases` | lease 16 | `[signed, bytes, used]` |
//! | `finals` | owner 32, file 16 | `[seq, base, follows, record]`, with `follows` a list of `[tag, fate]`, a fate being 0 live, 1 lost, 2 past |
//! | `twins` | owner 32, file 16, BLAKE3 of the record 32 | as `finals` |
//! | `moves` | owner 32, chunk 32 | `[record]` |
//! | `kv` | text | `[value]` |
//! | `pending_erase` | device 16, part 32 | nothing, not sealed |
//! | `devices` | path | `[device]` |

use fathom_protocol::fat::Follows;
use fathom_protocol::ids::{ChunkId, DeviceId, FileId, Hash, LeaseId, OwnerId};
use fathom_protocol::limits::PARTS_MAX;
use fathom_protocol::time::UnixMs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{ChunkEntry, ChunkKey, ChunkState, FatTotals, FinalEntry, LeaseEntry};
use crate::set::StoredPart;

/// BLAKE3 key derivation context of the rows' checks.
pub(crate) const CHECK_CONTEXT: &str = "fathom 2026-11 local FAT row check v1";
const ROW_VERSION: u8 = 1;
const CHECK_BYTES: usize = 8;
const BODY_AT: usize = 1 + CHECK_BYTES;

/// A row type and its conversions.
pub(crate) trait Row: Sized {
    type Body: Serialize + DeserializeOwned;
    fn to_body(&self) -> Self::Body;
    fn from_body(body: Self::Body, key: &[u8]) -> Option<Self>;
}

/// The sealed bytes of `row` under `key` of `table`, or why it cannot be encoded.
pub(crate) fn seal<R: Row>(table: &str, key: &[u8], row: &R) -> Result<Vec<u8>, String> {
    let mut out = vec![0; BODY_AT];
    out = cbor4ii::serde::to_vec(out, &row.to_body()).map_err(|error| error.to_string())?;
    out[0] = ROW_VERSION;
    let check = check(table, key, &out[BODY_AT..]);
    out[1..BODY_AT].copy_from_slice(&check);
    Ok(out)
}

/// The row in `bytes`, or what is wrong with it.
pub(crate) fn open<R: Row>(table: &str, key: &[u8], bytes: &[u8]) -> Result<R, String> {
    let Some((head, body)) = bytes.split_at_checked(BODY_AT) else {
        return Err(format!("a row of `{table}` is cut short"));
    };
    if head[1..] != check(table, key, body) {
        return Err(format!("a row of `{table}` does not match its check"));
    }
    if head[0] != ROW_VERSION {
        return Err(format!("a row of `{table}` has the unknown version {}", head[0]));
    }
    cbor4ii::serde::from_slice(body)
        .ok()
        .and_then(|body| R::from_body(body, key))
        .ok_or_else(|| format!("a row of `{table}` does not decode"))
}

fn check(table: &str, key: &[u8], body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key(CHECK_CONTEXT);
    hasher.update(table.as_bytes()).update(&[0]).update(&(key.len() as u64).to_be_bytes()).update(key).update(body);
    let mut out = [0; CHECK_BYTES];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    out
}

/// Owner and chunk.
pub(crate) fn chunk_key(key: &ChunkKey) -> Vec<u8> {
    [key.owner.0, key.chunk.0].concat()
}

pub(crate) fn parse_chunk_key(bytes: &[u8]) -> Option<ChunkKey> {
    let (owner, chunk) = bytes.split_at_checked(OwnerId::LEN)?;
    Some(ChunkKey { owner: OwnerId::from_slice(owner)?, chunk: ChunkId::from_slice(chunk)? })
}

/// Owner and file, the key of `finals` and the prefix of `by_file`.
pub(crate) fn file_key(owner: OwnerId, file: FileId) -> Vec<u8> {
    [&owner.0[..], &file.0].concat()
}

/// A final FAT that was written at once with the one in `finals`: the file's key and the record's hash.
pub(crate) fn twin_key(file: &[u8], record: &[u8]) -> Vec<u8> {
    [file, &Hash::of(record).0].concat()
}

pub(crate) fn by_file_key(entry: &ChunkEntry) -> Vec<u8> {
    [&entry.owner.0[..], &entry.file.0, &entry.seq.to_be_bytes(), &entry.chunk.0].concat()
}

/// Sequence number and chunk of a key of `by_file`.
pub(crate) fn parse_by_file(bytes: &[u8]) -> Option<(u64, ChunkKey)> {
    let owner = OwnerId::from_slice(bytes.get(..32)?)?;
    let seq = u64::from_be_bytes(bytes.get(48..56)?.try_into().ok()?);
    let chunk = ChunkId::from_slice(bytes.get(56..)?)?;
    Some((seq, ChunkKey { owner, chunk }))
}

pub(crate) fn by_lease_key(entry: &ChunkEntry) -> Vec<u8> {
    [&entry.lease.0[..], &entry.owner.0, &entry.chunk.0].concat()
}

pub(crate) fn parse_by_lease(bytes: &[u8]) -> Option<ChunkKey> {
    parse_chunk_key(bytes.get(LeaseId::LEN..)?)
}

pub(crate) fn erase_key(device: DeviceId, part: Hash) -> Vec<u8> {
    [&device.0[..], &part.0].concat()
}

pub(crate) fn parse_erase(bytes: &[u8]) -> Option<(DeviceId, Hash)> {
    let (device, part) = bytes.split_at_checked(DeviceId::LEN)?;
    Some((DeviceId::from_slice(device)?, Hash::from_slice(part)?))
}

#[derive(Serialize, Deserialize)]
pub(crate) struct PartBody(DeviceId, Hash, u32, u32);

#[derive(Serialize, Deserialize)]
pub(crate) struct ChunkBody(FileId, u64, LeaseId, u32, Vec<PartBody>, u8, ByteBuf, ByteBuf, UnixMs);

impl Row for ChunkEntry {
    type Body = ChunkBody;

    fn to_body(&self) -> ChunkBody {
        let parts = self.parts.iter().map(|part| PartBody(part.device, part.part, part.offset, part.length)).collect();
        let (state, moved): (u8, &[u8]) = match &self.state {
            ChunkState::Stored => (0, &[]),
            ChunkState::Committed => (1, &[]),
            ChunkState::Leaving { moved } => (2, moved),
            ChunkState::Sent => (3, &[]),
        };
        ChunkBody(
            self.file,
            self.seq,
            self.lease,
            self.length,
            parts,
            state,
            ByteBuf::from(moved),
            ByteBuf::from(self.receipt.as_slice()),
            self.stored_at,
        )
    }

    fn from_body(body: ChunkBody, key: &[u8]) -> Option<Self> {
        let ChunkBody(file, seq, lease, length, parts, state, moved, receipt, stored_at) = body;
        let ChunkKey { owner, chunk } = parse_chunk_key(key)?;
        let state = match (state, moved.is_empty()) {
            (0, true) => ChunkState::Stored,
            (1, true) => ChunkState::Committed,
            (2, _) => ChunkState::Leaving { moved: moved.into_vec() },
            (3, true) => ChunkState::Sent,
            _ => return None,
        };
        if parts.len() > PARTS_MAX {
            return None;
        }
        let parts = parts
            .into_iter()
            .map(|PartBody(device, part, offset, length)| StoredPart { device, part, offset, length })
            .collect();
        Some(Self { owner, chunk, file, seq, lease, length, parts, state, receipt: receipt.into_vec(), stored_at })
    }
}

impl Row for LeaseEntry {
    type Body = (ByteBuf, u64, u64);

    fn to_body(&self) -> Self::Body {
        (ByteBuf::from(self.signed.as_slice()), self.bytes, self.used)
    }

    fn from_body((signed, bytes, used): Self::Body, _key: &[u8]) -> Option<Self> {
        Some(Self { signed: signed.into_vec(), bytes, used })
    }
}

impl Row for FinalEntry {
    type Body = (u64, u64, Follows, ByteBuf);

    fn to_body(&self) -> Self::Body {
        (self.seq, self.base, self.follows.clone(), ByteBuf::from(self.record.as_slice()))
    }

    fn from_body((seq, base, follows, record): Self::Body, _key: &[u8]) -> Option<Self> {
        Some(Self { seq, base, follows, record: record.into_vec() })
    }
}

impl Row for FatTotals {
    type Body = (u64, u64);

    fn to_body(&self) -> Self::Body {
        (self.chunks, self.bytes)
    }

    fn from_body((chunks, bytes): Self::Body, _key: &[u8]) -> Option<Self> {
        Some(Self { chunks, bytes })
    }
}

/// A row of one opaque value.
pub(crate) struct Opaque(pub(crate) Vec<u8>);

impl Row for Opaque {
    type Body = (ByteBuf,);

    fn to_body(&self) -> Self::Body {
        (ByteBuf::from(self.0.as_slice()),)
    }

    fn from_body((value,): Self::Body, _key: &[u8]) -> Option<Self> {
        Some(Self(value.into_vec()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn entry() -> ChunkEntry {
        ChunkEntry {
            owner: OwnerId([1; 32]),
            chunk: ChunkId([2; 32]),
            file: FileId([3; 16]),
            seq: 4,
            lease: LeaseId([5; 16]),
            length: 6,
            parts: vec![StoredPart { device: DeviceId([7; 16]), part: Hash([8; 32]), offset: 0, length: 6 }],
            state: ChunkState::Leaving { moved: vec![9] },
            receipt: vec![10, 11],
            stored_at: UnixMs(12),
        }
    }

    /// Golden bytes of format 2. They are never edited: another layout is another row version.
    #[test]
    fn rows_keep_their_bytes() {
        let entry = entry();
        let key = chunk_key(&entry.key());
        let bytes = seal("chunks", &key, &entry).unwrap();
        assert_eq!(hex(&bytes), include_str!("golden/chunk-v1.hex").trim());
        assert_eq!(open::<ChunkEntry>("chunks", &key, &bytes).unwrap(), entry);

        let lease = LeaseEntry { signed: vec![1, 2, 3], bytes: 1 << 30, used: 77 };
        let bytes = seal("leases", &[5; 16], &lease).unwrap();
        assert_eq!(hex(&bytes), include_str!("golden/lease-v1.hex").trim());
        assert_eq!(open::<LeaseEntry>("leases", &[5; 16], &bytes).unwrap(), lease);

        let last = FinalEntry { seq: 9, base: 8, follows: Follows::default(), record: vec![4, 5] };
        let bytes = seal("finals", &[6; 48], &last).unwrap();
        assert_eq!(hex(&bytes), include_str!("golden/final-v2.hex").trim());
        assert_eq!(open::<FinalEntry>("finals", &[6; 48], &bytes).unwrap(), last);

        let part = crate::part::PartHeader {
            tag: crate::part::ChunkTag {
                owner: entry.owner,
                chunk: entry.chunk,
                file: entry.file,
                seq: entry.seq,
                lease: entry.lease,
            },
            chunk_length: 6,
            offset: 2,
        };
        let bytes = part.frame([0xaa; 16], b"data");
        assert_eq!(hex(&bytes), include_str!("golden/part-v1.hex").trim());
        assert_eq!(crate::part::PartHeader::parse(&bytes), Some((part, b"data".as_slice())));
        for length in 0..136 {
            assert_eq!(crate::part::PartHeader::parse(&bytes[..length]), None);
        }
        assert_eq!(crate::part::PartHeader::parse(&part.frame([0; 16], b"datas")), None, "beyond the chunk");
    }

    /// As above, for the rows of one value and for keys.
    #[test]
    fn small_rows_and_keys_keep_their_bytes() {
        let entry = entry();
        let key = chunk_key(&entry.key());
        let rows = [("kv", &b"head"[..]), ("moves", &key), ("devices", b"/mnt/disk")];
        let mut lines = String::new();
        for (table, key) in rows {
            let bytes = seal(table, key, &Opaque(vec![1, 2, 3])).unwrap();
            lines.push_str(&format!("{table} {} {}\n", hex(key), hex(&bytes)));
            assert_eq!(open::<Opaque>(table, key, &bytes).unwrap().0, [1, 2, 3]);
        }
        let totals = FatTotals { chunks: 3, bytes: 1 << 40 };
        let bytes = seal("meta", b"totals", &totals).unwrap();
        lines.push_str(&format!("meta {} {}\n", hex(b"totals"), hex(&bytes)));
        assert_eq!(open::<FatTotals>("meta", b"totals", &bytes).unwrap(), totals);
        let (by_file, by_lease) = (by_file_key(&entry), by_lease_key(&entry));
        let erase = erase_key(DeviceId([7; 16]), Hash([8; 32]));
        lines.push_str(&format!("by_file {}\nby_lease {}\n", hex(&by_file), hex(&by_lease)));
        lines.push_str(&format!("pending_erase {}\n", hex(&erase)));
        assert_eq!(parse_by_file(&by_file), Some((4, entry.key())));
        assert_eq!(parse_by_lease(&by_lease), Some(entry.key()));
        assert_eq!(parse_erase(&erase), Some((DeviceId([7; 16]), Hash([8; 32]))));
        assert_eq!(lines, include_str!("golden/small-v1.txt"), "{lines}");
    }

    /// Keeps away: a row that rotted, was cut, or ended up in another place being taken for valid.
    #[test]
    fn fault_07_a_row_is_valid_only_whole_and_in_its_place() {
        let entry = entry();
        let key = chunk_key(&entry.key());
        let bytes = seal("chunks", &key, &entry).unwrap();
        for at in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[at / 8] ^= 1 << (at % 8);
            assert!(open::<ChunkEntry>("chunks", &key, &rotten).is_err(), "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(open::<ChunkEntry>("chunks", &key, &bytes[..length]).is_err(), "length {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(open::<ChunkEntry>("chunks", &key, &longer).is_err());
        assert!(open::<ChunkEntry>("moves", &key, &bytes).is_err());
        assert!(open::<ChunkEntry>("chunks", &[0; 64], &bytes).is_err());
    }
}
