//! One chunk's way to another vendor: the room there, the sending, and the move that both sign.

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::head::Addresses;
use fathom_protocol::header::{Header, Hop, SplitPolicy};
use fathom_protocol::ids::{ChunkId, Hash, LeaseId, NodeId};
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::HOPS_MAX;
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::receipt::Receipt;
use fathom_protocol::seal::sealed_len;
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::tags;
use fathom_protocol::wire::{
    AllocateRequest, ChunkAnswer, Location, Refusal, RefusalKind, Request, Response, Unused, Wants,
};
use fathom_store::ChunkEntry;
use tokio::sync::mpsc;

use super::super::claim::Claim;
use super::body::Body;
use super::migrate::Batch;
use super::report::MIRRORS_TOLD;
use super::{Vendor, forward, lock};
use crate::clock;

/// Longest wait for an allocation; the mirror asks vendors meanwhile.
const ALLOCATE_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for a vendor's signature or answer.
const VENDOR_WAIT: Duration = Duration::from_secs(5);
/// Longest time for one chunk to arrive and be stored.
const SEND_WAIT: Duration = Duration::from_secs(60);
/// Destinations that are asked for in vain before a batch waits for the next round.
const DESTINATIONS_TRIED: usize = 8;
/// How long a request or header stays good.
const GOOD_MS: u64 = 120_000;
/// Largest sub-chunk at the destination, in bytes.
const PART_BYTES: u32 = 1024 * 1024;

/// Room at another vendor.
pub(super) struct Place {
    pub(super) vendor: NodeId,
    id: LeaseId,
    lease: Carried<Lease>,
    addresses: Addresses,
    /// Bytes of room that were granted.
    granted: u64,
    /// What the room is used for, in bytes.
    taken: std::sync::Mutex<u64>,
}

fn nonce() -> Result<Hash, Refusal> {
    let mut nonce = [0; Hash::LEN];
    getrandom::fill(&mut nonce)
        .map_err(|error| Refusal::new(RefusalKind::Internal, format!("no randomness: {error}")))?;
    Ok(Hash(nonce))
}

impl Vendor {
    /// Asks the mirrors for room for a batch (figure 15b). Vendors that are near their own overload get theirs back, and others
    /// are asked for.
    pub(super) async fn allocate(&self, batch: &mut Batch) -> Result<Vec<Place>, Refusal> {
        batch.exclude.insert(self.me);
        for _ in 0..DESTINATIONS_TRIED {
            let (mut good, mut bad) = (Vec::new(), Vec::new());
            for location in self.ask_for_room(batch).await? {
                if let Some((place, fit)) = self.location(batch, location) {
                    if fit { good.push(place) } else { bad.push(place) }
                }
            }
            self.return_room(&bad).await;
            if !good.is_empty() || bad.is_empty() {
                return Ok(good);
            }
            batch.exclude.extend(bad.iter().map(|place| place.vendor));
        }
        Err(Refusal::new(RefusalKind::NoSpace, "the vendors with room are near their own limit"))
    }

    async fn ask_for_room(&self, batch: &Batch) -> Result<Vec<Location>, Refusal> {
        let unit = batch.unit();
        let request = AllocateRequest {
            version: tags::VERSION,
            owner: batch.owner,
            authority: self.me.into(),
            file: Some(batch.file),
            copies: 1,
            width: 1,
            bytes: u64::from(unit) * batch.chunks.len() as u64,
            unit,
            exclude: Bounded::first(batch.exclude.iter().copied()),
            avoid_zones: Bounded::default(),
            wants: Wants::default(),
            nonce: nonce()?,
            expires: clock::now().plus_ms(GOOD_MS),
        };
        let mirrors: Vec<NodeId> = self.net.book().mirrors().into_iter().take(MIRRORS_TOLD).collect();
        let claim = Claim { net: &self.net, key: self.net.key(), wait: ALLOCATE_WAIT, elsewhere: |_| true };
        let asked = claim.ask(request, &mirrors).await;
        let none = || Refusal::new(RefusalKind::Unreachable, "no mirror is known");
        asked.map(|fat| fat.locations.into_vec()).map_err(|mut refusals| refusals.pop().unwrap_or_else(none))
    }

    /// A location that is what was asked for, and whether its vendor stays below the share at which vendors move data away.
    fn location(&self, batch: &Batch, location: Location) -> Option<(Place, bool)> {
        let lease = location.lease.verify().ok()?;
        let head = location.head.verify().ok()?;
        let wanted = lease.owner == batch.owner && lease.authority == SignerId::from(self.me);
        if !wanted || lease.vendor == self.me || head.vendor != lease.vendor {
            return None;
        }
        let after = u128::from(head.used) + u128::from(location.granted);
        let fit = after * 100 < u128::from(head.capacity) * u128::from(self.settings.overload_percent);
        let place = Place {
            vendor: lease.vendor,
            id: lease.id,
            addresses: head.addresses.clone(),
            granted: location.granted.min(lease.room()),
            taken: std::sync::Mutex::new(0),
            lease: lease.into_carried(),
        };
        Some((place, fit))
    }

    /// Deals a batch out to its places, as far as they reach.
    pub(super) fn place(&self, batch: &Batch, places: &[Place]) -> Vec<(ChunkEntry, usize)> {
        let mut dealt = Vec::with_capacity(batch.chunks.len());
        for entry in &batch.chunks {
            let length = u64::from(entry.length);
            let fits = |place: &Place| {
                let mut taken = lock(&place.taken);
                let fits = *taken + length <= place.granted;
                *taken += if fits { length } else { 0 };
                fits
            };
            if let Some(index) = places.iter().position(fits) {
                dealt.push((entry.clone(), index));
            }
        }
        dealt
    }

    /// Gives back what was not filled (figure 14). What a vendor does not hear of expires there.
    pub(super) async fn return_room(&self, places: &[Place]) {
        for place in places {
            let bytes = place.granted.saturating_sub(*lock(&place.taken));
            let Ok(nonce) = nonce() else { return };
            if bytes == 0 {
                continue;
            }
            let unused = Unused {
                version: tags::VERSION,
                authority: self.me.into(),
                vendor: place.vendor,
                lease: place.id,
                bytes,
                nonce,
            };
            let Ok(unused) = Signed::sign(unused, self.net.key()) else { return };
            self.net.book().learn_addresses(place.vendor, place.addresses.iter().map(ToString::to_string));
            let answer = self.net.call(place.vendor, &Request::Unused(unused.into_carried()), VENDOR_WAIT).await;
            if let Err(refusal) = answer {
                tracing::debug!(vendor = %place.vendor.short(), %refusal, "unused room not taken back yet");
            }
        }
    }

    /// Moves one chunk (figures 15c and 15d). Until a mirror has the move, the chunk is as much here as it was.
    pub(super) async fn move_chunk(self: &Arc<Self>, entry: ChunkEntry, place: &Place) -> Result<(), Refusal> {
        let moved = match self.hand_over(&entry, place).await {
            Ok(moved) => moved,
            Err(refusal) => {
                // The room was not filled and goes back with the rest.
                let mut taken = lock(&place.taken);
                *taken = taken.saturating_sub(u64::from(entry.length));
                return Err(refusal);
            }
        };
        let (key, record) = (entry.key(), moved.clone());
        self.blocking(move |vendor| vendor.durable(|tx| tx.put_move(&key, &codec::encode(&record)))).await?;
        if let Err(refusal) = self.submit(&moved).await {
            self.moves_open.store(true, std::sync::atomic::Ordering::Relaxed);
            return Err(refusal);
        }
        self.blocking(move |vendor| vendor.mark_leaving(&key, &moved)).await
    }

    /// Sends the chunk, checks the receipt, and gets the move signed.
    async fn hand_over(self: &Arc<Self>, entry: &ChunkEntry, place: &Place) -> Result<CarriedMove, Refusal> {
        let copy = entry.clone();
        let bytes = self
            .blocking(move |vendor| {
                let bytes = vendor.read_verified(&copy)?;
                if ChunkId::of(&bytes) != copy.chunk {
                    vendor.note_damage(&copy, "its parts do not make the chunk");
                    return Err(Refusal::new(RefusalKind::Corrupt, "the chunk is damaged here"));
                }
                Ok(bytes)
            })
            .await?;
        let hop = self.hop(entry, place)?;
        let header =
            Header::new(vec![hop.clone()]).map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))?;
        let length = bytes.len();
        let receipt = self.send_one(&hop, &header, bytes).await?;
        self.transfers.count(length);
        let wanted = (self.me == receipt.vendor, entry.owner, entry.chunk, entry.length, entry.file, entry.seq);
        let found = (false, receipt.owner, receipt.chunk, receipt.length, receipt.file, receipt.seq);
        if receipt.vendor == place.vendor && receipt.lease != place.id && wanted == found {
            // It answered with the receipt it gave to the chunk's owner.
            return Err(Refusal::new(RefusalKind::Conflict, "the destination holds a copy of this chunk"));
        }
        if wanted != found || receipt.vendor != place.vendor || receipt.lease != place.id {
            return Err(Refusal::new(RefusalKind::BadRequest, "the receipt is not for the chunk that was moved"));
        }
        self.cosigned(entry, place).await
    }

    fn hop(&self, entry: &ChunkEntry, place: &Place) -> Result<Signed<Hop>, Refusal> {
        let hop = Hop {
            version: tags::VERSION,
            owner: entry.owner,
            authority: self.me.into(),
            file: entry.file,
            seq: entry.seq,
            chunk: entry.chunk,
            length: entry.length,
            expires: clock::now().plus_ms(GOOD_MS),
            position: 0,
            vendor: place.vendor,
            addresses: place.addresses.clone(),
            lease: place.lease.clone(),
            split: SplitPolicy { part_bytes_max: sealed_len(PART_BYTES), parts_min: 1 },
            next: None,
        };
        Ok(Signed::sign(hop, self.net.key())?)
    }

    async fn send_one(&self, hop: &Hop, header: &Header, bytes: Vec<u8>) -> Result<Signed<Receipt>, Refusal> {
        let body = Body::whole(bytes);
        let (answers, mut queue) = mpsc::channel(HOPS_MAX);
        let sending = async {
            forward::send(&self.net, hop, header, &body, &answers).await;
            drop(answers);
        };
        let sent = tokio::time::timeout(SEND_WAIT, sending).await;
        sent.map_err(|_| Refusal::new(RefusalKind::Silent, "the chunk was not stored in time"))?;
        while let Ok(answer) = queue.try_recv() {
            match answer {
                ChunkAnswer::Receipt(receipt) => return Ok(receipt.verify()?),
                ChunkAnswer::Failed { refusal, .. } => return Err(refusal),
                ChunkAnswer::Alive | ChunkAnswer::Done => {}
            }
        }
        Err(Refusal::new(RefusalKind::BadRequest, "the vendor answered without a receipt"))
    }

    /// Proposes the move and gets it back with the destination's signature.
    async fn cosigned(&self, entry: &ChunkEntry, place: &Place) -> Result<CarriedMove, Refusal> {
        let body = Move {
            version: tags::VERSION,
            owner: entry.owner,
            file: entry.file,
            seq: entry.seq,
            chunk: entry.chunk,
            length: entry.length,
            from: self.me,
            from_lease: entry.lease,
            to: place.vendor,
            to_lease: place.id,
            at: clock::now(),
        };
        let proposal = CarriedMove::propose(&body, self.net.key())?;
        self.net.book().learn_addresses(place.vendor, place.addresses.iter().map(ToString::to_string));
        match self.net.call(place.vendor, &Request::Cosign(proposal), VENDOR_WAIT).await? {
            Response::Cosigned(moved) if moved.verify()? == body => Ok(moved),
            _ => Err(Refusal::new(RefusalKind::BadRequest, "the destination did not sign the move")),
        }
    }
}
