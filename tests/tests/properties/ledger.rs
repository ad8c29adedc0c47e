//! The ledger against a model that keeps what was stored, what is in flight, and what was promised.

use fathom_protocol::clocks::Dated;
use fathom_protocol::codec::Bounded;
use fathom_protocol::head::{VendorHead, VendorRecord};
use fathom_protocol::header::Hop;
use fathom_protocol::ids::{Hash, LeaseId};
use fathom_protocol::lease::{Lease, LeaseState};
use fathom_protocol::ledger::{Lapse, Ledger, Terms};
use fathom_protocol::sign::SignerId;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{AllocateRequest, RefusalKind, Renew, Unused};
use fathom_tests::samples::{self, NOW, key, node};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;

const TERMS: Terms = Terms { offer_ms: 100, lock_ms: 1_000, commit_ms: 5_000, grace_ms: 2_000, unsealed_percent: 75 };
pub(crate) const CAPACITY: u64 = 10_000;

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
pub(crate) fn owner_and_authority(who: u8) -> (fathom_protocol::ids::OwnerId, SignerId) {
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
