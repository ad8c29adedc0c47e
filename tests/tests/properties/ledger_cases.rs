//! Single cases of the vendor's ledger: what it holds, until when, and whom it refuses.

use fathom_protocol::clocks::Dated;
use fathom_protocol::header::Hop;
use fathom_protocol::ids::{Hash, LeaseId, NodeId};
use fathom_protocol::lease::LeaseState;
use fathom_protocol::ledger::{Lapse, Ledger, REQUEST_LIFE_MS_MAX, Terms};
use fathom_protocol::wire::{AllocateRequest, Cancel, RefusalKind, Renew};
use fathom_tests::samples::{self, NOW, key, node};

use crate::ledger::{CAPACITY, owner_and_authority};

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
