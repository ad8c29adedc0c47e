//! Making chunks that came in durable (figures 12a and 13): on their devices, then in the local FAT, then signed for.

use bytes::Bytes;
use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::header::Hop;
use fathom_protocol::ids::ChunkId;
use fathom_protocol::receipt::{Receipt, ValidatedPart};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::tags;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{ChunkAnswer, Numbered, Refusal, RefusalKind};
use fathom_store::{ChunkEntry, ChunkState, ChunkTag, Inserted, SplitPolicy, StoredPart, Whole};

use super::ingest::{Admission, about, is_owners};
use super::{Vendor, fat_refusal, store_refusal};

/// A whole chunk that is to be stored.
pub(super) struct Keeping {
    /// Its place on its stream.
    pub(super) number: usize,
    /// Its room.
    pub(super) admission: Admission,
    /// What its sender said of it.
    pub(super) hop: Signed<Hop>,
    /// Its bytes, of the announced length.
    pub(super) bytes: Bytes,
}

impl Keeping {
    fn tag(&self) -> ChunkTag {
        let Hop { owner, chunk, file, seq, .. } = *self.hop;
        ChunkTag { owner, chunk, file, seq, lease: self.admission.lease }
    }

    fn whole(&self) -> Whole<'_> {
        let split = SplitPolicy { part_bytes_max: self.hop.split.part_bytes_max, parts_min: self.hop.split.parts_min };
        Whole { tag: self.tag(), bytes: &self.bytes, split }
    }
}

type Stored = Result<Carried<Receipt>, Refusal>;

impl Vendor {
    /// Makes chunks and their places in the local FAT durable, all together, then signs for each. Blocks.
    pub(super) fn store(&self, keeping: Vec<Keeping>) -> Vec<Numbered> {
        let mut said = Vec::with_capacity(keeping.len());
        let mut answer = |number, stored: Stored| {
            let answer = match stored {
                Ok(receipt) => ChunkAnswer::Receipt(receipt),
                Err(refusal) => ChunkAnswer::Failed { vendor: self.me, refusal },
            };
            said.push(about(number, answer));
        };
        let (right, wrong): (Vec<_>, Vec<_>) =
            keeping.into_iter().partition(|keeping| ChunkId::of(&keeping.bytes) == keeping.hop.chunk);
        for Keeping { number, .. } in wrong {
            let refusal = Refusal::new(RefusalKind::WrongHash, "the bytes are not the chunk that was announced");
            answer(number, Err(refusal));
        }
        let _storing = self.storing.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut placed = Vec::with_capacity(right.len());
        for (keeping, parts) in self.place(right) {
            match parts {
                Ok(parts) => placed.push((keeping, parts)),
                Err(refusal) => answer(keeping.number, Err(refusal)),
            }
        }
        for (number, stored) in self.enter(placed) {
            answer(number, stored);
        }
        said
    }

    /// Brings chunks to the devices. What cannot be stored together is stored one by one.
    fn place(&self, chunks: Vec<Keeping>) -> Vec<(Keeping, Result<Vec<StoredPart>, Refusal>)> {
        let whole: Vec<Whole<'_>> = chunks.iter().map(Keeping::whole).collect();
        let parts: Vec<_> = match self.devices.store_chunks(&whole) {
            Ok(parts) => parts.into_iter().map(Ok).collect(),
            Err(error) if chunks.len() == 1 => vec![Err(store_refusal(&error))],
            Err(_) => {
                let alone = |whole: &Whole<'_>| {
                    let parts = self.devices.store_chunk(&whole.tag, whole.bytes, whole.split);
                    parts.map_err(|error| store_refusal(&error))
                };
                whole.iter().map(alone).collect()
            }
        };
        drop(whole);
        chunks.into_iter().zip(parts).collect()
    }

    /// Enters chunks in the local FAT and signs for them.
    fn enter(&self, placed: Vec<(Keeping, Vec<StoredPart>)>) -> Vec<(usize, Stored)> {
        let dated = self.dating_clock();
        let mut done = Vec::with_capacity(placed.len());
        let (mut entries, mut entered) = (Vec::with_capacity(placed.len()), Vec::with_capacity(placed.len()));
        for (keeping, parts) in placed {
            match self.sign_receipt(&keeping.tag(), keeping.hop.length, &parts, dated.at) {
                Ok(receipt) => {
                    let bytes = codec::encode(&receipt);
                    let tag = keeping.tag();
                    let mut entry = ChunkEntry::stored(&tag, keeping.hop.length, parts.clone(), bytes, dated.at);
                    entry.state = ChunkState::arrived(is_owners(&keeping.hop));
                    entries.push(entry);
                    entered.push((keeping, parts, receipt));
                }
                Err(refusal) => {
                    self.take_back(&parts);
                    done.push((keeping.number, Err(refusal)));
                }
            }
        }
        for ((keeping, parts, receipt), inserted) in entered.into_iter().zip(self.fat.insert_chunks(entries)) {
            let number = keeping.number;
            let stored = match inserted {
                Ok(Inserted::New) => keeping.admission.stored(dated).map(|()| receipt),
                Ok(Inserted::AlreadyThere(entry)) => {
                    self.take_back(&parts);
                    self.receipt_of(&entry)
                }
                Err(error) => {
                    if self.is_without(&keeping.tag()) {
                        self.take_back(&parts);
                    }
                    Err(fat_refusal(&error))
                }
            };
            done.push((number, stored));
        }
        done
    }

    /// Whether the local FAT surely has no entry of a chunk. A commit that failed may have reached the disk all the same, and then
    /// the entry needs its parts; parts that no entry names are removed at the next start.
    fn is_without(&self, tag: &ChunkTag) -> bool {
        matches!(self.fat.chunk(tag.owner, tag.chunk), Ok(None))
    }

    fn take_back(&self, parts: &[StoredPart]) {
        for (part, error) in self.devices.remove_parts(parts) {
            tracing::warn!(device = %part.device.short(), %error, "a part of a chunk that was not kept stays until the next start");
        }
    }

    pub(super) fn sign_receipt(
        &self,
        tag: &ChunkTag,
        length: u32,
        parts: &[StoredPart],
        stored: UnixMs,
    ) -> Result<Carried<Receipt>, Refusal> {
        let validated = |&StoredPart { device, part, offset, length }: &StoredPart| ValidatedPart {
            device,
            hash: part,
            offset,
            length,
        };
        let receipt = Receipt {
            version: tags::VERSION,
            vendor: self.me,
            owner: tag.owner,
            lease: tag.lease,
            file: tag.file,
            seq: tag.seq,
            chunk: tag.chunk,
            length,
            parts: Bounded::first(parts.iter().map(validated)),
            stored,
        };
        Ok(Signed::sign(receipt, self.net.key())?.into_carried())
    }
}
