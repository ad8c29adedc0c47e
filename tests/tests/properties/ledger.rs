//! The ledger against a model that keeps what was stored, what is in flight, and what was promised.

use std::collections::BTreeMap;

use fathom_protocol::clocks::Dated;
use fathom_protocol::codec::Bounded;
use fathom_protocol::head::{VendorHead, VendorRecord};
use fathom_protocol::header::Hop;
use fathom_protocol::ids::{Hash, LeaseId, NodeId};
use fathom_protocol::lease::{Lease, LeaseState};
use fathom_protocol::ledger::{Lapse, Ledger, REQUEST_LIFE_MS_MAX, Terms};
use fathom_protocol::sign::SignerId;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{AllocateRequest, Cancel, RefusalKind, Renew, Unused};
use fathom_tests::samples::{self, NOW, key, node};
use proptest::prelude::*;
use proptest::sample::Index;

const TERMS: Terms = Terms { offer_ms: 100, lock_ms: 1_000, commit_ms: 5_000, grace_ms: 2_000, unsealed_percent: 75 };
const CAPACITY: u64 = 10_000;

#[derive(Clone, Debug)]
enum Step {
    Offer {
        who: u8,
        bytes: u64,
        nonce: u8,
        life: u64,
    },
    Admit {
        lease: Index,
        who: u8,
        length: u32,
    },
    Settle {
        admission: Index,
        stored: bool,
    },
    Commit {
        lease: Index,
        unused: u64,
    },
    Erase {
        lease: Index,
        bytes: u64,
    },
    GiveBack {
        lease: Index,
        who: u8,
        bytes: u64,
        nonce: u8,
    },
    Renew {
        lease: Index,
        who: u8,
    },
    Tick {
        agreed: Option<u64>,
    },
    Wait {
        ms: u64,
    },
    Capacity {
        bytes: u64,
    },
    /// The clock by which promises are dated is behind, and nobody knows; with 0 it is set right.
    Behind {
        ms: u64,
    },
    /// The time is known: what is in doubt is dated anew.
    Redate,
}

fn step() -> impl Strategy<Value = Step> {
    let lease = any::<Index>;
    let bytes = || prop_oneof![1..50u64, 1..4_000u64, Just(0), Just(u64::MAX)];
    prop_oneof![
        4 => (0..3u8, bytes(), 0..12u8, 0..400u64)
            .prop_map(|(who, bytes, nonce, life)| Step::Offer { who, bytes, nonce, life }),
        6 => (lease(), 0..3u8, 1..1_500u32).prop_map(|(lease, who, length)| Step::Admit { lease, who, length }),
        5 => (lease(), any::<bool>()).prop_map(|(admission, stored)| Step::Settle { admission, stored }),
        2 => (lease(), bytes()).prop_map(|(lease, unused)| Step::Commit { lease, unused }),
        2 => (lease(), 1..3_000u64).prop_map(|(lease, bytes)| Step::Erase { lease, bytes }),
        2 => (lease(), 0..3u8, bytes(), 0..12u8)
            .prop_map(|(lease, who, bytes, nonce)| Step::GiveBack { lease, who, bytes, nonce }),
        1 => (lease(), 0..3u8).prop_map(|(lease, who)| Step::Renew { lease, who }),
        3 => prop::option::of(0..12_000u64).prop_map(|agreed| Step::Tick { agreed }),
        3 => prop_oneof![0..120u64, 0..3_000u64].prop_map(|ms| Step::Wait { ms }),
        1 => (1..2 * CAPACITY).prop_map(|bytes| Step::Capacity { bytes }),
        1 => prop_oneof![Just(0), 1..20_000u64].prop_map(|ms| Step::Behind { ms }),
        1 => Just(Step::Redate),
    ]
}

/// User 0 and user 1 fill their own leases; 2 is a vendor that fills a lease of user 0.
fn owner_and_authority(who: u8) -> (fathom_protocol::ids::OwnerId, SignerId) {
    let owner = fathom_protocol::ids::OwnerId(node(20 + who % 2).0);
    let authority = if who == 2 { node(30).into() } else { owner.into() };
    (owner, authority)
}

struct World {
    ledger: Ledger,
    now: UnixMs,
    /// How far the clock by which promises are dated is behind, milliseconds.
    behind: u64,
    /// Until when each lease's bytes were truly promised.
    promised: BTreeMap<LeaseId, UnixMs>,
    capacity: u64,
    fresh: u8,
    /// Bytes stored and not erased, by lease.
    stored: BTreeMap<LeaseId, u64>,
    /// Admissions that have not ended.
    flying: Vec<(LeaseId, u64)>,
    /// What each nonce was answered with, and until when that must hold.
    answered: BTreeMap<(SignerId, Hash), (LeaseId, u64, UnixMs)>,
}

impl World {
    fn new() -> Self {
        Self {
            ledger: Ledger::open(key(1), TERMS, CAPACITY, Vec::new()).unwrap(),
            now: NOW,
            behind: 0,
            promised: BTreeMap::new(),
            capacity: CAPACITY,
            fresh: 0,
            stored: BTreeMap::new(),
            flying: Vec::new(),
            answered: BTreeMap::new(),
        }
    }

    fn pick(&self, index: &Index) -> LeaseId {
        let ids: Vec<LeaseId> = self.ledger.leases().map(|lease| lease.id).collect();
        if ids.is_empty() { LeaseId([0xee; 16]) } else { ids[index.index(ids.len())] }
    }

    fn inflight(&self, id: LeaseId) -> u64 {
        self.flying.iter().filter(|(lease, _)| *lease == id).map(|(_, length)| length).sum()
    }

    fn snapshot(&self) -> Vec<Lease> {
        self.ledger.leases().map(|lease| (**lease).clone()).collect()
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let before = self.snapshot();
        let leased = self.ledger.leased();
        let refused = match step {
            Step::Offer { who, bytes, nonce, life } => self.offer(who, bytes, nonce, life)?,
            Step::Admit { lease, who, length } => self.admit(&lease, who, length)?,
            Step::Settle { admission, stored } => self.settle(&admission, stored)?,
            Step::Commit { lease, unused } => {
                let id = self.pick(&lease);
                self.promise(id, TERMS.commit_ms);
                self.ledger.commit(self.dated(), id, unused).is_err()
            }
            Step::Erase { lease, bytes } => self.erase(&lease, bytes)?,
            Step::GiveBack { lease, who, bytes, nonce } => self.give_back(&lease, who, bytes, nonce)?,
            Step::Renew { lease, who } => self.renew(&lease, who)?,
            Step::Tick { agreed } => self.tick(agreed)?,
            Step::Wait { ms } => {
                self.now = self.now.plus_ms(ms);
                false
            }
            Step::Capacity { bytes } => {
                self.ledger.set_capacity(bytes);
                self.capacity = bytes;
                false
            }
            Step::Behind { ms } => {
                self.behind = ms;
                false
            }
            Step::Redate => self.redate()?,
        };
        if refused {
            prop_assert_eq!(&self.snapshot(), &before, "a refusal changed something");
        }
        prop_assert!(self.ledger.leased() <= leased.max(self.capacity), "more was leased than there is");
        self.invariants(&before)
    }

    fn dated(&self) -> Dated {
        Dated { at: UnixMs(self.now.0 - self.behind), sure: self.behind == 0 }
    }

    fn promise(&mut self, id: LeaseId, ms: u64) {
        let until = self.now.plus_ms(ms);
        let promised = self.promised.entry(id).or_insert(until);
        *promised = until.max(*promised);
    }

    fn redate(&mut self) -> Result<bool, TestCaseError> {
        let doubtful = self.ledger.doubtful();
        prop_assert_eq!(doubtful.is_empty(), !self.ledger.doubts());
        for id in doubtful {
            self.ledger.redate(self.now, id).unwrap();
            let lease = self.ledger.lease(id).unwrap();
            let promised = self.promised.get(&id).copied().unwrap_or(UnixMs(0));
            prop_assert!(lease.used == 0 || lease.expires >= promised && lease.state != LeaseState::Grace);
        }
        prop_assert!(!self.ledger.doubts());
        Ok(false)
    }

    fn offer(&mut self, who: u8, bytes: u64, nonce: u8, life: u64) -> Result<bool, TestCaseError> {
        let (owner, authority) = owner_and_authority(who);
        let nonce = Hash([nonce; 32]);
        let expires = self.now.plus_ms(life);
        let request =
            AllocateRequest { owner, authority, bytes: bytes.max(1), unit: 1, nonce, expires, ..samples::allocate() };
        self.fresh += 1;
        let (leased, free) = (self.ledger.leased(), self.ledger.free());
        let known = self.answered.get(&(authority, nonce)).copied();
        let known = known.filter(|(id, _, until)| self.ledger.lease(*id).is_some() && *until >= self.now);
        let dated = Dated { at: self.now, ..self.dated() };
        match self.ledger.offer(dated, &request, bytes, LeaseId([self.fresh; 16])) {
            Err(refusal) => {
                prop_assert!(known.is_none(), "a repeated request was refused: {refusal}");
                prop_assert!(bytes == 0 || bytes > free, "an offer was refused for nothing: {refusal}");
                Ok(true)
            }
            Ok((lease, granted)) => {
                prop_assert_eq!((lease.owner == owner) || known.is_some(), true);
                if let Some((id, bytes, _)) = known {
                    prop_assert_eq!((lease.id, granted), (id, bytes), "a repeated request was answered otherwise");
                    prop_assert_eq!(self.ledger.leased(), leased, "a repeated request was counted twice");
                } else {
                    prop_assert_eq!(self.ledger.leased(), leased + bytes);
                    let until = self.now.plus_ms(TERMS.offer_ms).max(expires);
                    self.answered.insert((authority, nonce), (lease.id, granted, until));
                }
                Ok(false)
            }
        }
    }

    fn admit(&mut self, lease: &Index, who: u8, length: u32) -> Result<bool, TestCaseError> {
        let id = self.pick(lease);
        let (owner, authority) = owner_and_authority(who);
        let hop = Hop { owner, authority, length, ..samples::hop(&[1], 0) };
        let held = self.ledger.lease(id).map(|lease| (**lease).clone());
        let admitted = self.ledger.admit(self.now, &hop, id);
        let Some(held) = held else {
            prop_assert_eq!(admitted.unwrap_err().kind, RefusalKind::UnknownLease);
            return Ok(true);
        };
        let room = held.room() - self.inflight(id);
        let expected = if held.owner != owner || held.authority != authority {
            Some(RefusalKind::NotAuthorised)
        } else if held.state == LeaseState::Grace || held.room_expires < self.now {
            Some(RefusalKind::LeaseExpired)
        } else {
            (u64::from(length) > room).then_some(RefusalKind::OverLease)
        };
        prop_assert_eq!(admitted.as_ref().err().map(|refusal| refusal.kind), expected);
        if admitted.is_ok() {
            self.flying.push((id, u64::from(length)));
        }
        Ok(admitted.is_err())
    }

    fn settle(&mut self, admission: &Index, stored: bool) -> Result<bool, TestCaseError> {
        if self.flying.is_empty() {
            return Ok(false);
        }
        let (id, length) = self.flying.remove(admission.index(self.flying.len()));
        let state = self.ledger.lease(id).map(|lease| (lease.state, lease.expires, lease.room_expires));
        let doubts = self.ledger.doubts();
        let changed = self.ledger.settle(self.dated(), id, length, stored).unwrap();
        let after = self.ledger.lease(id).map(|lease| (lease.state, lease.expires, lease.room_expires));
        // The caller makes the lease durable only when told so.
        prop_assert!(changed || state == after && doubts == self.ledger.doubts());
        if stored {
            // The lock is not prolonged at every chunk.
            self.promise(id, TERMS.lock_ms / 2);
            *self.stored.entry(id).or_default() += length;
            let (state, expires, _) = after.unwrap();
            prop_assert!(state != LeaseState::Offered && expires > self.dated().at, "stored bytes are held");
        }
        Ok(false)
    }

    fn erase(&mut self, lease: &Index, bytes: u64) -> Result<bool, TestCaseError> {
        let id = self.pick(lease);
        let leased = self.ledger.leased();
        let stored = self.stored.get(&id).copied().unwrap_or(0);
        let bytes = bytes.min(stored);
        self.ledger.erased(id, bytes).unwrap();
        self.stored.insert(id, stored - bytes);
        prop_assert_eq!(self.ledger.leased(), leased - bytes);
        Ok(false)
    }

    fn give_back(&mut self, lease: &Index, who: u8, bytes: u64, nonce: u8) -> Result<bool, TestCaseError> {
        let id = self.pick(lease);
        let (_, authority) = owner_and_authority(who);
        // Returns have their own nonces, as any two random nonces do.
        let nonce = Hash([nonce | 0x80; 32]);
        let unused = Unused { authority, vendor: node(1), lease: id, bytes, nonce, ..samples::unused() };
        let held = self.ledger.lease(id).map(|lease| (**lease).clone());
        let room = held.as_ref().map_or(0, |held| held.room() - self.inflight(id));
        let leased = self.ledger.leased();
        let given = self.ledger.give_back(self.now, &unused);
        let Some(held) = held else { return Ok(given.is_err()) };
        prop_assert_eq!(given.is_err(), held.authority != authority);
        if given.is_ok() {
            let freed = leased - self.ledger.leased();
            let known = self.answered.contains_key(&(authority, nonce));
            prop_assert_eq!(freed, if known { 0 } else { bytes.min(room) });
            // Remembered for an hour, which no case lasts.
            self.answered.insert((authority, nonce), (id, 0, UnixMs(u64::MAX)));
        }
        Ok(given.is_err())
    }

    fn renew(&mut self, lease: &Index, who: u8) -> Result<bool, TestCaseError> {
        let id = self.pick(lease);
        let (owner, _) = owner_and_authority(who);
        let renew = Renew { owner, lease: id, expires: self.now, ..samples::renew() };
        let renewed = self.ledger.renew(self.dated(), &renew);
        if let Ok(lease) = &renewed {
            prop_assert!(lease.owner == owner && lease.state != LeaseState::Grace);
            prop_assert!(lease.expires >= self.dated().at.plus_ms(TERMS.commit_ms));
            self.promise(id, TERMS.commit_ms);
        }
        Ok(renewed.is_err())
    }

    fn tick(&mut self, agreed: Option<u64>) -> Result<bool, TestCaseError> {
        // The mirrors' clocks: from as early as the beginning to ahead of this one.
        let agreed = agreed.map(|ms| NOW.plus_ms(ms));
        let before = self.snapshot();
        let lapses = self.ledger.tick(self.now, agreed).unwrap();
        for lapse in lapses {
            match lapse {
                Lapse::Reclaim(id) => {
                    let lease = self.ledger.lease(id).unwrap();
                    let end = lease.expires.plus_ms(TERMS.grace_ms);
                    prop_assert!(end < self.now && agreed.is_some_and(|agreed| end < agreed), "reclaimed early");
                    prop_assert!(self.promised[&id] < self.now, "reclaimed before its promise was over");
                }
                Lapse::Dropped(id) => {
                    prop_assert!(self.ledger.lease(id).is_none());
                    prop_assert_eq!(self.stored.get(&id).copied().unwrap_or(0), 0);
                    let lease = before.iter().find(|lease| lease.id == id).unwrap();
                    prop_assert!(lease.room_expires < self.now, "dropped early");
                }
                Lapse::Changed(id) => prop_assert!(self.ledger.lease(id).is_some()),
            }
        }
        Ok(false)
    }

    fn invariants(&self, before: &[Lease]) -> Result<(), TestCaseError> {
        let leases: Vec<&Lease> = self.ledger.leases().map(|lease| &**lease).collect();
        prop_assert_eq!(self.ledger.leased(), leases.iter().map(|lease| lease.bytes).sum::<u64>());
        prop_assert_eq!(self.ledger.root().sum, self.ledger.leased());
        prop_assert!(self.ledger.capacity() >= self.ledger.leased());
        prop_assert_eq!(self.ledger.free(), self.capacity.saturating_sub(self.ledger.leased()));
        for lease in &leases {
            let stored = self.stored.get(&lease.id).copied().unwrap_or(0);
            prop_assert_eq!(lease.used, stored, "what is used is what was stored and not erased");
            prop_assert!(lease.used + self.inflight(lease.id) <= lease.bytes, "room was given twice");
            prop_assert!(lease.bytes > 0);
            if let Some(before) = before.iter().find(|before| before.id == lease.id) {
                prop_assert!((lease.revision > before.revision) == (*lease != before), "a change without a revision");
            }
        }
        for (id, length) in &self.flying {
            prop_assert!(self.ledger.lease(*id).is_some(), "a lease with {length} bytes in flight is gone");
        }
        for (id, bytes) in &self.stored {
            prop_assert!(*bytes == 0 || self.ledger.lease(*id).is_some(), "a lease with stored bytes is gone");
        }
        Ok(())
    }

    /// The vendor's report is accepted by a mirror, and its leases by a ledger that starts from them.
    fn report(&self) -> Result<(), TestCaseError> {
        let head = VendorHead {
            capacity: self.ledger.capacity(),
            root: self.ledger.root(),
            leases: self.ledger.leases().len() as u32,
            ..samples::head(1, 1, &[])
        };
        let head = samples::signed(head, &key(1)).into_carried();
        let leases = Bounded::new(self.ledger.leases().map(|lease| lease.carried().clone()).collect()).unwrap();
        VendorRecord { head, leases }.verify()?;
        let again = Ledger::open(key(1), TERMS, self.capacity, self.snapshot())?;
        prop_assert_eq!(again.root(), self.ledger.root());
        Ok(())
    }
}

proptest! {
    #![proptest_config(crate::config(192))]

    #[test]
    fn a_ledger_keeps_its_promises(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
        }
        world.report()?;
    }
}

fn request(nonce: u8, bytes: u64) -> AllocateRequest {
    let (owner, authority) = owner_and_authority(0);
    let expires = NOW.plus_seconds(60);
    AllocateRequest { owner, authority, bytes, nonce: Hash([nonce; 32]), expires, ..samples::allocate() }
}

fn chunk(length: u32) -> Hop {
    let (owner, authority) = owner_and_authority(0);
    Hop { owner, authority, length, ..samples::hop(&[1], 0) }
}

fn ledger() -> Ledger {
    Ledger::open(key(1), Terms::default(), CAPACITY, Vec::new()).unwrap()
}

const ID: LeaseId = LeaseId([1; 16]);

#[test]
fn fault_22_a_lease_that_expired_takes_nothing() {
    let mut ledger = ledger();
    let (lease, _) = ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    assert!(ledger.admit(lease.room_expires, &chunk(1), ID).is_ok());
    ledger.settle(NOW, ID, 1, false).unwrap();
    let late = lease.room_expires.plus_ms(1);
    assert_eq!(ledger.admit(late, &chunk(1), ID).unwrap_err().kind, RefusalKind::LeaseExpired);
    assert_eq!(ledger.tick(late, None).unwrap(), vec![Lapse::Dropped(ID)]);
    assert_eq!(ledger.admit(late, &chunk(1), ID).unwrap_err().kind, RefusalKind::UnknownLease);
}

/// Once, a lease in grace was reclaimed under a chunk whose receipt had just been given again.
#[test]
fn a_chunk_that_is_sent_again_prolongs_its_lease_even_in_grace() {
    let mut ledger = ledger();
    let terms = Terms::default();
    let (lease, _) = ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    ledger.admit(NOW, &chunk(60), ID).unwrap();
    ledger.settle(NOW, ID, 60, true).unwrap();
    assert_eq!(lease.state, LeaseState::Offered);
    let late = NOW.plus_ms(terms.lock_ms + terms.grace_ms / 2);
    // First the room lapses, then the time of what is stored.
    ledger.tick(late, Some(late)).unwrap();
    ledger.tick(late, Some(late)).unwrap();
    assert_eq!(ledger.lease(ID).unwrap().state, LeaseState::Grace);
    assert!(ledger.settle(late, ID, 0, true).unwrap(), "it changed, and must be made durable");
    let lease = ledger.lease(ID).unwrap();
    assert_eq!((lease.state, lease.room()), (LeaseState::Committed, 0));
    assert!(lease.expires >= late.plus_ms(terms.lock_ms));
    assert!(!ledger.settle(late, ID, 0, true).unwrap(), "once is enough");
}

#[test]
fn fault_23_of_100_users_that_ask_for_the_last_extent_one_gets_it() {
    let mut ledger = ledger();
    let asked = (0..100u8).map(|user| {
        let owner = fathom_protocol::ids::OwnerId([user; 32]);
        let request = AllocateRequest { owner, authority: owner.into(), ..request(user, CAPACITY) };
        ledger.offer(NOW, &request, CAPACITY, LeaseId([user; 16])).map_err(|refusal| refusal.kind)
    });
    let (granted, refused): (Vec<_>, Vec<_>) = asked.collect::<Vec<_>>().into_iter().partition(Result::is_ok);
    assert_eq!(granted.len(), 1);
    assert!(refused.iter().all(|answer| matches!(answer, Err(RefusalKind::NoSpace))));
}

#[test]
fn fault_35_one_byte_more_than_the_lease_has_is_refused() {
    let mut ledger = ledger();
    ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    ledger.admit(NOW, &chunk(60), ID).unwrap();
    assert_eq!(ledger.admit(NOW, &chunk(41), ID).unwrap_err().kind, RefusalKind::OverLease);
    ledger.settle(NOW, ID, 60, true).unwrap();
    assert_eq!(ledger.admit(NOW, &chunk(41), ID).unwrap_err().kind, RefusalKind::OverLease);
    assert!(ledger.admit(NOW, &chunk(40), ID).is_ok());
    assert_eq!(ledger.lease(ID).unwrap().used, 60);
}

/// Once, a request was forgotten at the very millisecond until which it was valid, and counted again.
#[test]
fn a_request_repeated_in_its_last_millisecond_counts_once() {
    let mut ledger = ledger();
    let request = AllocateRequest { expires: NOW.plus_seconds(600), ..request(1, 100) };
    ledger.offer(NOW, &request, 100, ID).unwrap();
    ledger.offer(request.expires, &request, 100, LeaseId([2; 16])).unwrap();
    assert_eq!(ledger.leased(), 100);
    let late = ledger.offer(request.expires.plus_ms(1), &request, 100, LeaseId([2; 16])).unwrap_err();
    assert_eq!(late.kind, RefusalKind::LeaseExpired);
}

/// Once, whoever learned the nonce of another's request could take its answer, or spoil it by giving room back under it.
#[test]
fn another_signer_with_the_same_nonce_asks_for_itself() {
    let mut ledger = ledger();
    ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    let (owner, authority) = owner_and_authority(1);
    let other = AllocateRequest { owner, authority, ..request(1, 50) };
    let (lease, granted) = ledger.offer(NOW, &other, 50, LeaseId([2; 16])).unwrap();
    assert_eq!((lease.owner, granted), (owner, 50));
}

/// A request is remembered until it expires, so one that never did would be remembered for ever.
#[test]
fn a_request_that_expires_too_late_is_refused() {
    let expires = NOW.plus_ms(REQUEST_LIFE_MS_MAX);
    let last = AllocateRequest { expires, ..request(1, 100) };
    assert!(ledger().offer(NOW, &last, 100, ID).is_ok());
    let over = AllocateRequest { expires: expires.plus_ms(1), ..request(1, 100) };
    assert_eq!(ledger().offer(NOW, &over, 100, ID).unwrap_err().kind, RefusalKind::BadRequest);
}

/// Once, a chunk that was admitted in time and stored after its lease's room had lapsed was in grace the moment it was stored.
#[test]
fn what_was_admitted_in_time_is_held_once_it_is_stored() {
    let mut ledger = ledger();
    let (lease, _) = ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    ledger.admit(NOW, &chunk(60), ID).unwrap();
    let late = lease.room_expires.plus_ms(1);
    ledger.tick(late, None).unwrap();
    assert_eq!(ledger.leased(), 60);
    ledger.settle(late, ID, 60, true).unwrap();
    assert_eq!(ledger.lease(ID).unwrap().state, LeaseState::Locked);
    assert_eq!(ledger.tick(late.plus_ms(1), Some(late.plus_ms(1))).unwrap(), vec![]);
}

#[test]
fn progress_prolongs_the_lock() {
    let mut ledger = ledger();
    ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    let mut now = NOW;
    for _ in 0..10 {
        ledger.admit(now, &chunk(10), ID).unwrap();
        ledger.settle(now, ID, 10, true).unwrap();
        // Ten times 23 h of a lock of 24 h.
        now = now.plus_seconds(23 * 3_600);
        ledger.tick(now, None).unwrap();
    }
    assert_eq!(ledger.lease(ID).unwrap().used, 100);
}

/// Once, a chunk that came under a lease whose room had just been dated anew did not prolong the lease, which lapsed under it.
#[test]
fn a_chunk_prolongs_its_lease_although_the_room_is_held_for_long_enough() {
    let mut ledger = ledger();
    ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    ledger.admit(NOW, &chunk(10), ID).unwrap();
    ledger.settle(Dated { at: NOW, sure: false }, ID, 10, true).unwrap();
    ledger.erased(ID, 10).unwrap();
    let later = NOW.plus_seconds(20 * 3_600);
    ledger.redate(later, ID).unwrap();
    ledger.admit(later, &chunk(10), ID).unwrap();
    assert!(ledger.settle(later, ID, 10, true).unwrap());
    assert!(ledger.lease(ID).unwrap().expires >= later.plus_seconds(86_400));
}

/// What a clock that is behind promised seems to have run out once it is set right: it is promised anew before anything is
/// reclaimed.
#[test]
fn fault_21_what_a_clock_that_was_behind_promised_is_dated_anew() {
    let year = 365 * 86_400;
    let (behind, now) = (Dated { at: NOW, sure: false }, NOW.plus_seconds(year));
    let mut ledger = ledger();
    ledger.offer(behind, &request(1, 100), 100, ID).unwrap();
    ledger.admit(NOW, &chunk(100), ID).unwrap();
    assert!(ledger.settle(behind, ID, 100, true).unwrap(), "that it is in doubt must be durable");
    assert_eq!(ledger.doubtful(), [ID]);
    assert_eq!(ledger.tick(now, Some(now)).unwrap(), vec![Lapse::Changed(ID)], "in grace, and not reclaimed");
    assert_eq!(ledger.tick(now, Some(now)).unwrap(), vec![]);
    ledger.redate(now, ID).unwrap();
    assert!(!ledger.doubts());
    let lease = ledger.lease(ID).unwrap();
    assert_eq!((lease.state, lease.expires), (LeaseState::Committed, now.plus_seconds(31 * 86_400)));
    assert_eq!(ledger.tick(now, Some(now)).unwrap(), vec![]);
    let late = now.plus_seconds(39 * 86_400);
    assert_eq!(ledger.tick(late, Some(late)).unwrap(), vec![Lapse::Reclaim(ID)]);
}

/// Invariant 6: a clock that is years ahead stops a lease from growing, and reclaims nothing.
#[test]
fn fault_21_a_wrong_local_clock_reclaims_nothing() {
    let mut ledger = ledger();
    ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    ledger.admit(NOW, &chunk(100), ID).unwrap();
    ledger.settle(NOW, ID, 100, true).unwrap();
    ledger.commit(NOW, ID, 0).unwrap();
    let years = NOW.plus_seconds(10 * 365 * 86_400);
    assert_eq!(ledger.tick(years, Some(NOW)).unwrap(), vec![Lapse::Changed(ID)]);
    assert_eq!(ledger.tick(years, None).unwrap(), vec![]);
    assert_eq!(ledger.lease(ID).unwrap().state, LeaseState::Grace);
    let (owner, _) = owner_and_authority(0);
    let renew = Renew { owner, lease: ID, expires: NOW.plus_seconds(60), ..samples::renew() };
    assert_eq!(ledger.renew(NOW, &renew).unwrap().state, LeaseState::Committed);
    assert_eq!(ledger.lease(ID).map(|lease| lease.vendor), Some(NodeId(node(1).0)));
}

/// What a request locked goes back by its nonce, whatever else its user holds, and does not come again.
#[test]
fn a_withdrawn_request_gives_back_what_it_got_and_nothing_else() {
    let mut ledger = ledger();
    ledger.offer(NOW, &request(1, 100), 100, ID).unwrap();
    ledger.offer(NOW, &request(2, 50), 50, ID).unwrap();
    let authority = request(2, 50).authority;
    let cancel = Cancel { authority, request: Hash([2; 32]), ..samples::cancel() };
    let stranger = Cancel { authority: owner_and_authority(2).1, ..cancel.clone() };
    ledger.cancel(&stranger).unwrap();
    assert_eq!(ledger.leased(), 150);
    for _ in 0..2 {
        ledger.cancel(&cancel).unwrap();
        assert_eq!(ledger.leased(), 100);
    }
    let again = ledger.offer(NOW, &request(2, 50), 50, ID).unwrap_err();
    assert_eq!(again.kind, RefusalKind::LeaseExpired);
    // What was filled meanwhile stays.
    ledger.admit(NOW, &chunk(70), ID).unwrap();
    ledger.settle(NOW, ID, 70, true).unwrap();
    ledger.cancel(&Cancel { request: Hash([1; 32]), ..cancel.clone() }).unwrap();
    assert_eq!((ledger.leased(), ledger.lease(ID).unwrap().used), (70, 70));
    ledger.cancel(&Cancel { request: Hash([9; 32]), ..cancel }).unwrap();
    assert_eq!(ledger.leased(), 70);
}

/// One key holds a part of the capacity ahead of filling it; a lone user still fills the whole vendor, in several rounds.
#[test]
fn nobody_holds_more_than_a_part_of_a_vendor_empty() {
    const MIB: u64 = 1 << 20;
    let capacity = 64 * MIB;
    let mut ledger = Ledger::open(key(1), Terms::default(), capacity, Vec::new()).unwrap();
    let mut rounds = 0;
    let mut nonce = 0;
    while ledger.free() > 0 {
        let wanted = ledger.free();
        let mut bytes = wanted;
        let lease = loop {
            nonce += 1;
            match ledger.offer(NOW, &request(nonce, bytes), bytes, ID) {
                Ok((lease, _)) => break lease,
                Err(refusal) => {
                    assert_eq!(refusal.kind, RefusalKind::Unsealed);
                    assert!(
                        bytes > capacity * 3 / 4 && refusal.reason.as_str().contains("give them back"),
                        "{refusal}"
                    );
                    bytes /= 2;
                }
            }
        };
        rounds += 1;
        // Another user gets what is left, and not a key that holds its part already.
        nonce += 1;
        let more = ledger.offer(NOW, &request(nonce, capacity), (capacity * 3 / 4).min(ledger.free()), ID);
        assert!(more.is_err() || ledger.lease(ID).unwrap().room() <= capacity * 3 / 4);
        let room = ledger.lease(lease.id).unwrap().room();
        for length in std::iter::repeat_n(MIB, (room / MIB) as usize) {
            ledger.admit(NOW, &chunk(length as u32), ID).unwrap();
            ledger.settle(NOW, ID, length, true).unwrap();
        }
    }
    assert!(rounds <= 3, "{rounds} rounds");
    assert_eq!(ledger.lease(ID).unwrap().used, capacity);
}
