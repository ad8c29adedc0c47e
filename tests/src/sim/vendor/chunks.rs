//! A chunk in, and on; a chunk out.

use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::fat::{Fate, Tag};
use fathom_protocol::header::{Arrived, Header, Hop};
use fathom_protocol::ids::{ChunkId, DeviceId, Hash};
use fathom_protocol::limits::{ANSWER_BYTES_MAX, FIRST_FRAME_BYTES_MAX, HEADER_BYTES_MAX};
use fathom_protocol::receipt::{Receipt, ValidatedPart};
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::tags;
use fathom_protocol::wire::{ChunkAnswer, FetchRequest, Refusal, RefusalKind};
use fathom_store::{ChunkEntry, ChunkKey, ChunkState, ChunkTag, Inserted};

use super::{Part, Upstream, Vendor, internal, refusal};
use crate::sim::node::{ANSWER_MS, Body, Cx};

impl Vendor {
    pub(super) fn chunk(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, header: &[u8], bytes: &[u8]) {
        let failed = |cx: &mut Cx<'_>, refusal: Refusal| {
            let vendor = cx.id(cx.me);
            say(cx, Upstream { node: from, call }, &ChunkAnswer::Failed { vendor, refusal });
        };
        let header = match codec::decode::<Header>(header, HEADER_BYTES_MAX) {
            Ok(header) => header,
            Err(error) => return failed(cx, refusal(RefusalKind::BadRequest, &error.to_string())),
        };
        let Arrived { mine, next, rest } = match header.arrive(self.id(), cx.now) {
            Ok(arrived) => arrived,
            Err(error) => return failed(cx, refusal(RefusalKind::BadRequest, &error.to_string())),
        };
        let lease = match fathom_protocol::header::consents(&mine) {
            Ok(lease) => lease.id,
            Err(error) => return failed(cx, error.into()),
        };
        if bytes.len() != mine.length as usize || ChunkId::of(bytes) != mine.chunk {
            return failed(cx, refusal(RefusalKind::WrongHash, "not the chunk that was announced"));
        }
        match self.take(cx, &mine, lease, bytes) {
            Ok(receipt) => say(cx, Upstream { node: from, call }, &ChunkAnswer::Receipt(receipt)),
            Err(refusal) => failed(cx, refusal),
        }
        if let Some(next) = next.and_then(|next| cx.known.index.get(&next.vendor).copied()) {
            let onward = cx.number(ANSWER_MS);
            if let Some(run) = &mut self.running {
                run.chains.insert(onward, Upstream { node: from, call });
            }
            cx.send(next, Body::Chunk { call: onward, header: codec::encode(&rest), bytes: bytes.to_vec() });
        }
    }

    /// Takes a chunk: room, bytes, local FAT, and only then the receipt.
    fn take(
        &mut self,
        cx: &mut Cx<'_>,
        hop: &Hop,
        lease: fathom_protocol::ids::LeaseId,
        bytes: &[u8],
    ) -> Result<Carried<Receipt>, Refusal> {
        let dated = self.dating_clock(cx);
        let now = dated.at;
        let key = ChunkKey { owner: hop.owner, chunk: hop.chunk };
        let Some(run) = &mut self.running else { return Err(refusal(RefusalKind::Internal, "not running")) };
        if run.out_of_step {
            return Err(refusal(RefusalKind::Busy, "this vendor asks mirrors whether its records are the newest"));
        }
        let from_owner = hop.authority == SignerId::from(hop.owner);
        let known = run.fat.chunk(hop.owner, hop.chunk).map_err(|error| internal(&error))?;
        if let Some(entry) = known {
            return self.again(cx, &entry, from_owner);
        }
        let known = run.fat.versions_of(hop.owner, hop.file).map_err(|error| internal(&error))?;
        if known.iter().any(|known| known.lineage().fate(Tag(hop.seq)) == Fate::Past) {
            return Err(refusal(RefusalKind::Stale, "a newer final FAT has replaced the version of this chunk"));
        }
        let allowed = cx.oracle.may_take(run.ledger.lease(lease), hop, now);
        run.ledger.admit(now, hop, lease)?;
        let tag = ChunkTag { owner: hop.owner, chunk: hop.chunk, file: hop.file, seq: hop.seq, lease };
        self.data.insert(key, Part { tag, bytes: bytes.to_vec() });
        let receipt = self.sign_receipt(&tag, bytes, now)?;
        let mut entry = ChunkEntry::stored(&tag, hop.length, Vec::new(), codec::encode(&receipt), now);
        entry.state = ChunkState::arrived(from_owner);
        let Some(run) = &mut self.running else { return Err(refusal(RefusalKind::Internal, "not running")) };
        run.writes += 1;
        let inserted = run.fat.insert_chunk(&entry, None, None);
        let stored = matches!(inserted, Ok(Inserted::New));
        let changed = run.ledger.settle(dated, lease, u64::from(hop.length), stored)?;
        match inserted {
            Ok(_) => cx.oracle.took(cx.at, cx.me, hop, lease, allowed),
            Err(error) => {
                // Without power nothing is taken back, and the row may be on disk although nobody heard so.
                if !self.disk.is_dead() {
                    self.data.remove(&key);
                }
                return Err(internal(&error));
            }
        }
        if changed {
            self.durable(|_, _| Ok(()))?;
        }
        self.touch(cx);
        cx.oracle.renewed_lock(cx.me, lease, cx.at);
        cx.oracle.receipt(cx.me, &receipt);
        Ok(receipt)
    }

    /// The receipt of a chunk that is here: whoever sends it again relies on it again.
    fn again(&mut self, cx: &mut Cx<'_>, entry: &ChunkEntry, from_owner: bool) -> Result<Carried<Receipt>, Refusal> {
        if matches!(entry.state, ChunkState::Leaving { .. }) {
            return Err(refusal(RefusalKind::Conflict, "this chunk was moved to another vendor and leaves this one"));
        }
        let dated = self.dating_clock(cx);
        let named = entry.state == ChunkState::Sent && from_owner;
        let old = dated.at.since_ms(entry.stored_at) > cx.known.terms.lock_ms / 8;
        if entry.state.lapses() && (old || named) {
            self.durable(|tx, _| {
                if named {
                    tx.set_state(&entry.key(), ChunkState::Stored)?;
                }
                tx.set_stored_at(&entry.key(), dated.at)
            })?;
            cx.oracle.relied_again(cx.me, entry.key(), cx.at);
        }
        // A crash may have come between the chunk and its lease's prolongation.
        if entry.state.lapses()
            && let Some(run) = &mut self.running
            && run.ledger.settle(dated, entry.lease, 0, true)?
        {
            self.durable(|_, _| Ok(()))?;
        }
        let receipt = if entry.receipt.is_empty() {
            // One that was lost with the local FAT is signed anew over the bytes as they are.
            let part = self.data.get(&entry.key()).ok_or_else(|| refusal(RefusalKind::Corrupt, "no bytes"))?;
            let receipt = self.sign_receipt(&part.tag, &part.bytes, entry.stored_at)?;
            self.durable(|tx, _| tx.set_receipt(&entry.key(), &codec::encode(&receipt)))?;
            receipt
        } else {
            codec::decode(&entry.receipt, ANSWER_BYTES_MAX).map_err(|error| internal(&error))?
        };
        cx.oracle.receipt(cx.me, &receipt);
        Ok(receipt)
    }

    fn sign_receipt(
        &self,
        tag: &ChunkTag,
        bytes: &[u8],
        stored: fathom_protocol::time::UnixMs,
    ) -> Result<Carried<Receipt>, Refusal> {
        let length = bytes.len() as u32;
        let part = ValidatedPart { device: DeviceId([1; DeviceId::LEN]), hash: Hash::of(bytes), offset: 0, length };
        let receipt = Receipt {
            version: tags::VERSION,
            vendor: self.id(),
            owner: tag.owner,
            lease: tag.lease,
            file: tag.file,
            seq: tag.seq,
            chunk: tag.chunk,
            length,
            parts: Bounded::first([part]),
            stored,
        };
        Ok(Signed::sign(receipt, &self.key)?.into_carried())
    }

    /// Passes on what the rest of the chain says.
    pub(super) fn chain_answer(&mut self, cx: &mut Cx<'_>, call: u64, bytes: Vec<u8>) {
        let upstream = self.running.as_ref().and_then(|run| run.chains.get(&call).copied());
        if let Some(Upstream { node, call }) = upstream {
            cx.send(node, Body::Answer { call, bytes });
        }
    }

    /// The next vendor had its time.
    pub(super) fn chain_silent(&mut self, _: &mut Cx<'_>, call: u64) {
        if let Some(run) = &mut self.running {
            run.chains.remove(&call);
        }
    }

    pub(super) fn fetch(&mut self, cx: &mut Cx<'_>, from: usize, call: u64, bytes: &[u8]) {
        let request = codec::decode::<Carried<FetchRequest>>(bytes, FIRST_FRAME_BYTES_MAX)
            .ok()
            .and_then(|request| request.verify().ok())
            .filter(|request| request.vendor == self.id() && request.expires >= cx.now);
        // One that has expired is refused, which says nothing of the chunk.
        let (Some(request), Some(run)) = (request, &self.running) else { return };
        let here = run.fat.chunk(request.owner, request.chunk).ok().flatten();
        if here.is_none() {
            cx.oracle.had_not(call);
        }
        let key = ChunkKey { owner: request.owner, chunk: request.chunk };
        let bytes = here.and_then(|_| self.data.get(&key).map(|part| part.bytes.clone()));
        cx.send(from, Body::Fetched { call, bytes });
    }
}

fn say(cx: &mut Cx<'_>, to: Upstream, answer: &ChunkAnswer) {
    cx.send(to.node, Body::Answer { call: to.call, bytes: codec::encode(answer) });
}
