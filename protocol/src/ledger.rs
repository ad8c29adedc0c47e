//! The vendor's side of leases: the one place where its capacity is given out, so that it is never given out twice.
//!
//! The ledger decides and signs; its caller makes each changed lease durable before any signature leaves the vendor
//! (invariant 4). `used` follows the local FAT and is recomputed from it on start. It knows nothing of devices.
//!
//! A promise that was made before the mirrors were asked what time it is may be dated by a clock that is behind. The ledger
//! remembers under which leases there is one ([`Ledger::doubtful`]) and reclaims none of them until each was dated anew.

mod dates;

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use crate::clocks::Dated;
use crate::header::Hop;
use crate::ids::{Hash, LeaseId, NodeId};
use crate::lease::{Lease, LeaseState, Named};
use crate::limits::{CHUNK_BYTES_MAX, EXTENT_BYTES_MAX, LEASES_MAX};
use crate::mutations::{Line, without};
use crate::root::{LeaseRoot, lease_root};
use crate::sign::{RecordError, Signed, SignerId};
use crate::tags;
use crate::time::UnixMs;
use crate::wire::{AllocateRequest, Cancel, Refusal, RefusalKind, Renew, Unused};

/// Requests remembered so that one that is repeated is answered alike and counted once.
const REMEMBERED_MAX: usize = 65_536;
/// Furthest expiry of a request, in milliseconds from now. A request is remembered until it expires, so this bounds how
/// long anybody can occupy the memory of requests.
pub const REQUEST_LIFE_MS_MAX: u64 = 86_400_000;
/// Returns of unused room have no expiry; they are remembered for so long, in milliseconds.
const RETURN_REMEMBERED_MS: u64 = 3_600_000;

/// Default of [`Terms::unsealed_percent`]. Above a half, so that no two keys can each hold a half that the other needs to
/// go on; below the whole, so that nobody can keep everybody else out without storing anything.
pub const UNSEALED_PERCENT: u8 = 75;

/// How long each state of a lease lasts, in milliseconds, and how much of the capacity one key gets ahead of filling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Room that was offered and not touched.
    pub offer_ms: u64,
    /// Room of a lease in use, from the newest chunk on.
    pub lock_ms: u64,
    /// Stored bytes, from the commit or renewal on.
    pub commit_ms: u64,
    /// Stored bytes past their expiry.
    pub grace_ms: u64,
    /// Share of the capacity, in percent, that one key may hold and not fill. One largest chunk is always allowed.
    pub unsealed_percent: u8,
}

impl Default for Terms {
    fn default() -> Self {
        const DAY: u64 = 86_400_000;
        Self {
            offer_ms: 120_000,
            lock_ms: DAY,
            commit_ms: 31 * DAY,
            grace_ms: 7 * DAY,
            unsealed_percent: UNSEALED_PERCENT,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    lease: Signed<Lease>,
    /// Bytes admitted whose storing has not ended.
    inflight: u64,
    /// Something was promised under it by a clock that may be behind.
    doubtful: bool,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    lease: LeaseId,
    bytes: u64,
    forget: UnixMs,
    /// It was withdrawn; asked again, it is refused.
    withdrawn: bool,
}

/// What a tick of the clock did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// The lease changed and must be made durable.
    Changed(LeaseId),
    /// The lease is gone and held nothing.
    Dropped(LeaseId),
    /// Expiry and grace have passed by every clock asked: erase its chunks, then call [`Ledger::erased`].
    Reclaim(LeaseId),
}

/// All leases of one vendor.
#[derive(Debug)]
pub struct Ledger {
    key: SigningKey,
    vendor: NodeId,
    terms: Terms,
    capacity: u64,
    leases: BTreeMap<LeaseId, Entry>,
    /// By signer as well as nonce: nobody can take the answer to another's request by repeating its nonce.
    granted: BTreeMap<(SignerId, Hash), Granted>,
}

fn refuse<T>(kind: RefusalKind, reason: impl AsRef<str>) -> Result<T, Refusal> {
    Err(Refusal::new(kind, reason))
}

impl Ledger {
    /// A ledger over leases read from disk, with `used` already set to what the local FAT says.
    ///
    /// # Errors
    /// [`RecordError`] if a lease cannot be signed by `key`.
    pub fn open(key: SigningKey, terms: Terms, capacity: u64, leases: Vec<Lease>) -> Result<Self, RecordError> {
        let vendor = NodeId(key.verifying_key().to_bytes());
        let mut ledger = Self { key, vendor, terms, capacity, leases: BTreeMap::new(), granted: BTreeMap::new() };
        for lease in leases {
            let entry = Entry { lease: Signed::sign(lease, &ledger.key)?, inflight: 0, doubtful: false };
            ledger.leases.insert(entry.lease.id, entry);
        }
        Ok(ledger)
    }

    /// Sum of what all leases hold, bytes.
    #[must_use]
    pub fn leased(&self) -> u64 {
        self.leases.values().map(|entry| entry.lease.bytes).sum()
    }

    /// Capacity as it is signed: what devices offer, and never less than what is leased (invariant 3).
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity.max(self.leased())
    }

    /// Bytes that can still be leased.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.leased())
    }

    /// Sets what the devices offer together, bytes.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    /// Commitment to all live leases.
    #[must_use]
    pub fn root(&self) -> LeaseRoot {
        let entry = |(id, entry): (&LeaseId, &Entry)| (*id, entry.lease.carried().commitment(), entry.lease.bytes);
        lease_root(self.leases.iter().map(entry))
    }

    /// All live leases, ordered by identifier.
    pub fn leases(&self) -> impl ExactSizeIterator<Item = &Signed<Lease>> {
        self.leases.values().map(|entry| &entry.lease)
    }

    /// One lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<&Signed<Lease>> {
        self.leases.get(&id).map(|entry| &entry.lease)
    }

    /// Locks `bytes` for a verified request: grows a lease of the same owner and authority, else makes one called `fresh`.
    /// The same request asked again gets the same answer. Returns the lease and the bytes this request holds of its room.
    ///
    /// # Errors
    /// A [`Refusal`]: expired, no room, or too many leases.
    pub fn offer(
        &mut self,
        dated: impl Into<Dated>,
        request: &AllocateRequest,
        bytes: u64,
        fresh: LeaseId,
    ) -> Result<(Signed<Lease>, u64), Refusal> {
        let Dated { at: now, sure } = dated.into();
        if request.expires < now {
            return refuse(RefusalKind::LeaseExpired, "the request for storage has expired; ask again");
        }
        if request.expires.since_ms(now) > REQUEST_LIFE_MS_MAX {
            return refuse(RefusalKind::BadRequest, "the request for storage expires too late; are the clocks right?");
        }
        self.forget(now);
        let nonce = (request.authority, request.nonce);
        if self.granted.get(&nonce).is_some_and(|granted| granted.withdrawn) {
            return refuse(RefusalKind::LeaseExpired, "the request for storage was withdrawn; ask again");
        }
        if let Some(granted) = self.granted.get(&nonce)
            && let Some(entry) = self.leases.get(&granted.lease)
        {
            return Ok((entry.lease.clone(), granted.bytes));
        }
        if bytes == 0 || bytes > request.bytes.saturating_add(u64::from(request.unit)) {
            return refuse(RefusalKind::BadRequest, "the offer asks for more than its owner did");
        }
        if bytes > self.free() && !without(Line::Capacity) {
            return refuse(RefusalKind::NoSpace, format!("{bytes} bytes were asked, {} are free", self.free()));
        }
        self.may_hold(request.authority, bytes)?;
        if self.granted.len() >= REMEMBERED_MAX {
            return refuse(RefusalKind::Busy, "too many requests for storage at once");
        }
        let id = self.hold(now, request, bytes, fresh)?;
        self.promised(id, sure);
        let forget = now.plus_ms(self.terms.offer_ms).max(request.expires);
        self.granted.insert(nonce, Granted { lease: id, bytes, forget, withdrawn: false });
        match self.leases.get(&id) {
            Some(entry) => Ok((entry.lease.clone(), bytes)),
            None => refuse(RefusalKind::Internal, "the lease vanished while it was offered"),
        }
    }

    /// Whether a key may hold so many bytes more that it did not fill: what it holds is no use to anybody until it does.
    fn may_hold(&self, authority: SignerId, bytes: u64) -> Result<(), Refusal> {
        let limit = u128::from(self.capacity) * u128::from(self.terms.unsealed_percent) / 100;
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(CHUNK_BYTES_MAX as u64);
        let theirs = self.leases.values().map(|entry| &entry.lease).filter(|lease| lease.authority == authority);
        let held = theirs.map(|lease| lease.room()).fold(0, u64::saturating_add);
        if held.saturating_add(bytes) <= limit {
            return Ok(());
        }
        let reason = format!(
            "{bytes} bytes were asked and {held} are held that were not filled yet; this vendor lets nobody hold more than {limit} of its bytes empty: ask for less, fill them first, or give them back"
        );
        refuse(RefusalKind::Unsealed, reason)
    }

    fn forget(&mut self, now: UnixMs) {
        self.granted.retain(|_, granted| granted.forget >= now);
    }

    fn hold(&mut self, now: UnixMs, request: &AllocateRequest, bytes: u64, fresh: LeaseId) -> Result<LeaseId, Refusal> {
        let room_expires = now.plus_ms(self.terms.offer_ms);
        let growable = self.leases.values().map(|entry| &entry.lease).find(|lease| {
            lease.owner == request.owner
                && lease.authority == request.authority
                && lease.state != LeaseState::Grace
                && lease.bytes.saturating_add(bytes) <= EXTENT_BYTES_MAX
        });
        if let Some(lease) = growable {
            let id = lease.id;
            self.change(id, |lease| {
                lease.bytes += bytes;
                lease.room_expires = lease.room_expires.max(room_expires);
                if lease.state == LeaseState::Committed {
                    lease.state = LeaseState::Offered;
                    lease.room_expires = room_expires;
                }
            })?;
            return Ok(id);
        }
        if self.leases.len() >= LEASES_MAX {
            return refuse(RefusalKind::NoSpace, "this vendor has as many leases as it can keep");
        }
        let lease = Lease {
            version: tags::VERSION,
            vendor: self.vendor,
            id: fresh,
            revision: 0,
            owner: request.owner,
            authority: request.authority,
            bytes,
            used: 0,
            state: LeaseState::Offered,
            room_expires,
            expires: room_expires,
            named: None,
        };
        let lease = Signed::sign(lease, &self.key)?;
        self.leases.insert(fresh, Entry { lease, inflight: 0, doubtful: false });
        Ok(fresh)
    }

    /// Takes room for a chunk that is about to arrive. Each success is followed by one [`Self::settle`].
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was taken.
    pub fn admit(&mut self, now: UnixMs, hop: &Hop, lease: LeaseId) -> Result<(), Refusal> {
        let Some(entry) = self.leases.get_mut(&lease) else {
            return refuse(RefusalKind::UnknownLease, "no such lease here; it may have expired");
        };
        let held = &entry.lease;
        let any = without(Line::LiveLease);
        if !any && (held.owner != hop.owner || held.authority != hop.authority) {
            return refuse(RefusalKind::NotAuthorised, "the lease is held for somebody else");
        }
        if !any && (held.state == LeaseState::Grace || held.room_expires < now) {
            return refuse(RefusalKind::LeaseExpired, "the lease's room has expired; ask for storage again");
        }
        let length = u64::from(hop.length);
        let room = held.room().saturating_sub(entry.inflight);
        if length > room {
            return refuse(
                RefusalKind::OverLease,
                format!("the chunk has {length} bytes, the lease has room for {room}"),
            );
        }
        entry.inflight += length;
        Ok(())
    }

    /// Ends an admission: the bytes are `stored` and durable, or they are not. Returns whether the lease's state or expiry
    /// changed, or came into doubt, and must be made durable with the chunk.
    ///
    /// # Errors
    /// A [`Refusal`] if the lease cannot be signed.
    pub fn settle(&mut self, dated: impl Into<Dated>, id: LeaseId, length: u64, stored: bool) -> Result<bool, Refusal> {
        let Dated { at: now, sure } = dated.into();
        let Some(entry) = self.leases.get_mut(&id) else { return Ok(false) };
        entry.inflight = entry.inflight.saturating_sub(length);
        if !stored {
            return Ok(false);
        }
        let until = now.plus_ms(self.terms.lock_ms);
        // Progress prolongs the lock, yet not at every chunk: each prolongation is a durable write of its own.
        let half = now.plus_ms(self.terms.lock_ms / 2);
        let prolong = match entry.lease.state {
            LeaseState::Offered => true,
            LeaseState::Locked => entry.lease.room_expires.min(entry.lease.expires) < half,
            // Its room has lapsed, and a chunk that is sent again is relied on again: it must not lapse under it.
            LeaseState::Committed | LeaseState::Grace => entry.lease.expires < half,
        };
        self.change(id, |lease| {
            lease.used = (lease.used + length).min(lease.bytes);
            if prolong {
                lease.expires = lease.expires.max(until);
                match lease.state {
                    LeaseState::Offered | LeaseState::Locked => {
                        lease.state = LeaseState::Locked;
                        lease.room_expires = lease.room_expires.max(until);
                    }
                    LeaseState::Committed | LeaseState::Grace => lease.state = LeaseState::Committed,
                }
            }
        })?;
        Ok(self.promised(id, sure) || prolong)
    }

    /// Chunks of `bytes` under this lease were named by a final FAT, which gives back `unused` bytes of room.
    /// Returns whether the lease still exists.
    ///
    /// # Errors
    /// A [`Refusal`] if the lease cannot be signed.
    pub fn commit(&mut self, dated: impl Into<Dated>, id: LeaseId, unused: u64) -> Result<bool, Refusal> {
        let Dated { at: now, sure } = dated.into();
        let expires = now.plus_ms(self.terms.commit_ms);
        let inflight = self.leases.get(&id).map_or(0, |entry| entry.inflight);
        self.change(id, |lease| {
            lease.bytes -= unused.min(lease.room().saturating_sub(inflight));
            lease.expires = lease.expires.max(expires);
            if lease.room() == 0 {
                lease.state = LeaseState::Committed;
            }
        })?;
        self.promised(id, sure);
        Ok(self.drop_empty(id))
    }

    /// Notes in a lease the final FAT that committed bytes of it: from now on the vendor is bound to it by its signature.
    ///
    /// # Errors
    /// A [`Refusal`] if the lease cannot be signed.
    pub fn note(&mut self, id: LeaseId, named: Named) -> Result<(), Refusal> {
        self.change(id, |lease| lease.named = Some(named))
    }

    /// Bytes under this lease were erased; the space is free again. Returns whether the lease still exists.
    ///
    /// # Errors
    /// A [`Refusal`] if the lease cannot be signed.
    pub fn erased(&mut self, id: LeaseId, bytes: u64) -> Result<bool, Refusal> {
        self.change(id, |lease| {
            let bytes = bytes.min(lease.used);
            lease.used -= bytes;
            lease.bytes -= bytes;
        })?;
        Ok(self.drop_empty(id))
    }

    /// The lease's authority gives room back. Returns whether the lease still exists.
    ///
    /// # Errors
    /// A [`Refusal`]: not its authority, or too many requests at once.
    pub fn give_back(&mut self, now: UnixMs, unused: &Unused) -> Result<bool, Refusal> {
        self.forget(now);
        let Some(entry) = self.leases.get(&unused.lease) else { return Ok(false) };
        if entry.lease.authority != unused.authority {
            return refuse(RefusalKind::NotAuthorised, "only who locked the room can give it back");
        }
        let nonce = (unused.authority, unused.nonce);
        if self.granted.contains_key(&nonce) {
            return Ok(true);
        }
        if self.granted.len() >= REMEMBERED_MAX {
            return refuse(RefusalKind::Busy, "too many requests at once");
        }
        let forget = now.plus_ms(RETURN_REMEMBERED_MS);
        self.granted.insert(nonce, Granted { lease: unused.lease, bytes: 0, forget, withdrawn: false });
        self.shrink(unused.lease, unused.bytes)
    }

    /// A request is withdrawn by who signed it: what it still holds is free. Done again, it does nothing.
    ///
    /// # Errors
    /// A [`Refusal`] if the lease cannot be signed.
    pub fn cancel(&mut self, cancel: &Cancel) -> Result<(), Refusal> {
        let Some(granted) = self.granted.get_mut(&(cancel.authority, cancel.request)) else { return Ok(()) };
        let (lease, bytes) = (granted.lease, std::mem::take(&mut granted.bytes));
        granted.withdrawn = true;
        self.shrink(lease, bytes).map(drop)
    }

    /// Takes room that is not filled away from a lease. Returns whether the lease still exists.
    fn shrink(&mut self, id: LeaseId, bytes: u64) -> Result<bool, Refusal> {
        let inflight = self.leases.get(&id).map_or(0, |entry| entry.inflight);
        self.change(id, |lease| {
            lease.bytes -= bytes.min(lease.room().saturating_sub(inflight));
            let open = matches!(lease.state, LeaseState::Offered | LeaseState::Locked);
            if lease.room() == 0 && lease.used > 0 && open {
                lease.state = LeaseState::Committed;
            }
        })?;
        Ok(self.drop_empty(id))
    }

    /// The owner prolongs what is stored; a lease in grace is committed again.
    ///
    /// # Errors
    /// A [`Refusal`]: expired request, unknown lease, or not its owner.
    pub fn renew(&mut self, dated: impl Into<Dated>, renew: &Renew) -> Result<Signed<Lease>, Refusal> {
        let Dated { at: now, sure } = dated.into();
        if renew.expires < now {
            return refuse(RefusalKind::LeaseExpired, "the renewal has expired; sign a new one");
        }
        let Some(entry) = self.leases.get(&renew.lease) else {
            return refuse(RefusalKind::UnknownLease, "no such lease here");
        };
        if entry.lease.owner != renew.owner {
            return refuse(RefusalKind::NotAuthorised, "only its owner can renew a lease");
        }
        let expires = now.plus_ms(self.terms.commit_ms);
        self.change(renew.lease, |lease| {
            lease.expires = lease.expires.max(expires);
            if lease.state == LeaseState::Grace {
                lease.state = LeaseState::Committed;
            }
        })?;
        self.promised(renew.lease, sure);
        match self.leases.get(&renew.lease) {
            Some(entry) => Ok(entry.lease.clone()),
            None => refuse(RefusalKind::UnknownLease, "no such lease here"),
        }
    }

    fn change(&mut self, id: LeaseId, edit: impl FnOnce(&mut Lease)) -> Result<(), Refusal> {
        let Some(entry) = self.leases.get_mut(&id) else { return Ok(()) };
        let mut lease = (*entry.lease).clone();
        edit(&mut lease);
        if lease != *entry.lease {
            lease.revision += 1;
            entry.lease = Signed::sign(lease, &self.key)?;
        }
        Ok(())
    }

    fn drop_empty(&mut self, id: LeaseId) -> bool {
        let empty = self.leases.get(&id).is_some_and(|entry| entry.lease.bytes == 0 && entry.inflight == 0);
        if empty {
            self.leases.remove(&id);
        }
        self.leases.contains_key(&id)
    }
}
