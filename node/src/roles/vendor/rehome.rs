//! One chunk's way to another vendor: the room there, the sending, and the move that both sign.

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::codec;
use fathom_protocol::header::{Header, Headers, Hop};
use fathom_protocol::ids::{ChunkId, Hash, NodeId};
use fathom_protocol::limits::HOPS_MAX;
use fathom_protocol::moves::CarriedMove;
use fathom_protocol::receipt::Receipt;
use fathom_protocol::rehome::{Batch, DESTINATIONS_TRIED, HeldChunk, Room};
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{ChunkAnswer, Location, Refusal, RefusalKind, Request};
use tokio::sync::mpsc;

use super::super::claim::Claim;
use super::body::Body;
use super::migrate::key_of;
use super::report::MIRRORS_TOLD;
use super::{Vendor, fat_refusal, forward, lock};
use crate::clock;
use crate::net::Class;

/// Longest wait for an allocation; the mirror asks vendors meanwhile.
const ALLOCATE_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for a vendor's answer.
const VENDOR_WAIT: Duration = Duration::from_secs(5);
/// Longest time for one chunk to arrive and be stored: the longest chunk at the pace that work in the background has on a slow line.
/// A vendor that falls silent is given up long before.
const SEND_WAIT: Duration = Duration::from_secs(600);
/// How long a request or header stays good.
const GOOD_MS: u64 = 120_000;

/// Room at another vendor.
pub(super) struct Place {
    pub(super) room: Room,
    /// What the room is used for, in bytes.
    taken: std::sync::Mutex<u64>,
}

impl Place {
    fn of(room: Room) -> Self {
        Self { room, taken: std::sync::Mutex::default() }
    }
}

/// Deals a batch out to its places, as far as they reach.
pub(super) fn place(batch: &Batch, places: &mut [Place]) -> Vec<(HeldChunk, usize)> {
    let rooms: Vec<Room> = places.iter().map(|place| place.room.clone()).collect();
    let (dealt, taken) = batch.deal(&rooms);
    for (place, taken) in places.iter_mut().zip(taken) {
        place.taken = std::sync::Mutex::new(taken);
    }
    dealt
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
                if let Some((room, fits)) = batch.accept(self.me, location, self.settings.thresholds()) {
                    if fits { good.push(Place::of(room)) } else { bad.push(Place::of(room)) }
                }
            }
            self.return_room(&bad).await;
            if !good.is_empty() || bad.is_empty() {
                return Ok(good);
            }
            batch.exclude.extend(bad.iter().map(|place| place.room.vendor));
        }
        Err(Refusal::new(
            RefusalKind::NoSpace,
            "the vendors with room are as full as this one, or near their own limit",
        ))
    }

    async fn ask_for_room(&self, batch: &Batch) -> Result<Vec<Location>, Refusal> {
        let request = batch.request(self.me, nonce()?, clock::now().plus_ms(GOOD_MS));
        let mirrors: Vec<NodeId> = self.net.book().mirrors().into_iter().take(MIRRORS_TOLD).collect();
        let claim = Claim { net: &self.net, key: self.net.key(), wait: ALLOCATE_WAIT, elsewhere: |_| true };
        let asked = claim.ask(request, &mirrors).await;
        let none = || Refusal::new(RefusalKind::Unreachable, "no mirror is known");
        asked.map(|fat| fat.locations.into_vec()).map_err(|mut refusals| refusals.pop().unwrap_or_else(none))
    }

    /// Gives back what was not filled (figure 14). What a vendor does not hear of expires there.
    pub(super) async fn return_room(&self, places: &[Place]) {
        for place in places {
            let Ok(nonce) = nonce() else { return };
            let taken = *lock(&place.taken);
            let Some(unused) = place.room.unused(self.me, taken, nonce) else { continue };
            let Room { vendor, addresses, .. } = &place.room;
            let Ok(unused) = Signed::sign(unused, self.net.key()) else { return };
            self.net.book().learn_addresses(*vendor, addresses.iter().map(ToString::to_string));
            let answer = self.net.call(*vendor, &Request::Unused(unused.into_carried()), VENDOR_WAIT).await;
            if let Err(refusal) = answer {
                tracing::debug!(vendor = %vendor.short(), %refusal, "unused room not taken back yet");
            }
        }
    }

    /// Moves one chunk (figures 15c and 15d). Until a mirror has the move, the chunk is as much here as it was.
    pub(super) async fn move_chunk(self: &Arc<Self>, chunk: &HeldChunk, place: &Place) -> Result<(), Refusal> {
        if let Err(refusal) = self.hand_over(chunk, place).await {
            // The room was not filled and goes back with the rest.
            let mut taken = lock(&place.taken);
            *taken = taken.saturating_sub(u64::from(chunk.length));
            return Err(refusal);
        }
        let (key, body) = (key_of(chunk), place.room.proposal(self.me, chunk, clock::now()));
        let proposal = CarriedMove::propose(&body, self.net.key())?;
        // On disk before it is asked for: there never is a second one of which mirrors would keep either.
        let record = codec::encode(&proposal);
        self.blocking(move |vendor| vendor.durable(|tx| tx.put_move(&key, &record))).await?;
        let Room { vendor, addresses, .. } = &place.room;
        self.net.book().learn_addresses(*vendor, addresses.iter().map(ToString::to_string));
        let moved = self.cosigned(&key, &proposal).await?;
        match self.hand_in(&key, &moved).await? {
            true => Ok(()),
            false => Err(Refusal::new(RefusalKind::Stale, "its file was released meanwhile")),
        }
    }

    /// Sends the chunk and checks the receipt.
    async fn hand_over(self: &Arc<Self>, chunk: &HeldChunk, place: &Place) -> Result<(), Refusal> {
        let copy = *chunk;
        let bytes = self
            .blocking(move |vendor| {
                let entry = vendor.fat.chunk(copy.owner, copy.chunk).map_err(|error| fat_refusal(&error))?;
                let entry =
                    entry.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "the chunk was erased meanwhile"))?;
                let bytes = vendor.read_verified(&entry)?;
                if ChunkId::of(&bytes) != copy.chunk {
                    vendor.note_damage(&entry, "its parts do not make the chunk");
                    return Err(Refusal::new(RefusalKind::Corrupt, "the chunk is damaged here"));
                }
                Ok(bytes)
            })
            .await?;
        let hop = Signed::sign(place.room.hop(self.me, chunk, clock::now().plus_ms(GOOD_MS)), self.net.key())?;
        let header =
            Header::new(vec![hop.clone()]).map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))?;
        let length = bytes.len();
        let receipt = self.send_one(&hop, &Headers::first([header]), bytes).await?;
        self.transfers.count(length);
        place.room.check(chunk, &receipt)
    }

    async fn send_one(&self, hop: &Hop, headers: &Headers, bytes: Vec<u8>) -> Result<Signed<Receipt>, Refusal> {
        let body = Body::whole(bytes);
        let (answers, mut queue) = mpsc::channel(HOPS_MAX);
        let sending = async {
            forward::send(&self.net.class(Class::Background), hop, headers, &body, &answers).await;
            drop(answers);
        };
        let sent = tokio::time::timeout(SEND_WAIT, sending).await;
        sent.map_err(|_| Refusal::new(RefusalKind::Silent, "the chunk was not stored in time"))?;
        while let Ok(answer) = queue.try_recv() {
            match answer.answer {
                ChunkAnswer::Receipt(receipt) => return Ok(receipt.verify()?),
                ChunkAnswer::Failed { refusal, .. } => return Err(refusal),
                ChunkAnswer::Alive | ChunkAnswer::Done => {}
            }
        }
        Err(Refusal::new(RefusalKind::BadRequest, "the vendor answered without a receipt"))
    }
}
