//! Locking storage at vendors that are real peers with real ledgers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use fathom_protocol::allocation::{Action, Allocation};
use fathom_protocol::codec::Bounded;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{
    AllocateRequest, Cancel, Location, ProvisionalFat, RefusalKind, Request, Response, Unused, Wants,
};

use super::support::{FakeVendor, MIB, TestMirror, fat, key, kind, node, owner};
use crate::clock;

pub(super) fn request(user: &SigningKey, copies: u8, width: u8, bytes: u64) -> AllocateRequest {
    AllocateRequest {
        version: VERSION,
        owner: owner(user),
        authority: owner(user).into(),
        file: None,
        copies,
        width,
        bytes,
        unit: MIB as u32,
        exclude: Bounded::default(),
        avoid_zones: Bounded::default(),
        wants: Wants::default(),
        nonce: Hash(rand::random()),
        expires: clock::now().plus_seconds(60),
    }
}

pub(super) fn sign(request: AllocateRequest, key: &SigningKey) -> Carried<AllocateRequest> {
    Signed::sign(request, key).unwrap().into_carried()
}

fn provisional(response: Response) -> ProvisionalFat {
    match response {
        Response::Provisional(fat) => fat,
        other => panic!("{other:?}"),
    }
}

fn vendors(fat: &ProvisionalFat) -> BTreeSet<NodeId> {
    fat.locations.iter().map(|location| location.head.peek().unwrap().vendor).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_vendor_is_replaced_within_three_seconds() {
    let mirror = TestMirror::start(201, 3600, false).await;
    let mut running = Vec::new();
    // Two share a zone, and a copy is due in each of the other zones.
    for (seed, zone, mib, silent) in
        [(1, "a", 90, true), (2, "b", 40, false), (3, "c", 40, false), (4, "d", 20, false), (5, "b", 30, false)]
    {
        running.push(FakeVendor::start(seed, zone, mib * MIB, silent, &mirror).await);
    }
    let user = key(50);
    // Vendors are drawn by the request's nonce: one that draws the silent one.
    let silent = node(&key(1));
    let first =
        (0..=u8::MAX).map(|nonce| AllocateRequest { nonce: Hash([nonce; 32]), ..request(&user, 3, 1, 8 * MIB) });
    let first = first.into_iter().find(|request| {
        let (_, actions) = Allocation::start(request.clone(), 0, &mirror.mirror.market_for(request));
        actions.iter().any(|action| matches!(action, Action::Ask { share, .. } if share.vendor == silent))
    });
    let asked = Instant::now();
    let fat = provisional(mirror.ask(Request::Allocate(sign(first.unwrap(), &user))).await);
    let elapsed = asked.elapsed();
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    assert!(elapsed >= Duration::from_millis(900), "the silent vendor was asked: {elapsed:?}");
    let zone = |location: &Location| location.head.peek().unwrap().characteristics.zone.to_string();
    assert_eq!(fat.locations.iter().map(zone).collect::<BTreeSet<_>>(), ["b", "c", "d"].map(str::to_owned).into());
    assert!(fat.warnings.is_empty(), "{:?}", fat.warnings);
    let mut columns: Vec<u8> = fat.locations.iter().map(|location| location.column).collect();
    columns.sort_unstable();
    assert_eq!(columns, [0, 1, 2]);
    for location in &fat.locations {
        assert_eq!(location.granted, 8 * MIB);
        let lease = location.lease.clone().verify().unwrap();
        assert_eq!((lease.owner, lease.bytes), (owner(&user), 8 * MIB));
    }
    // It is suspected now and not asked first again.
    let asked = Instant::now();
    provisional(mirror.ask(Request::Allocate(sign(request(&user, 3, 1, MIB), &user))).await);
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_gave_its_room_away_is_replaced_and_shortages_say_what_was_tried() {
    let mirror = TestMirror::start(211, 3600, false).await;
    let mut running = Vec::new();
    for (seed, zone) in [(1, "a"), (2, "b"), (3, "c")] {
        running.push(FakeVendor::start(seed, zone, 16 * MIB, false, &mirror).await);
    }
    // Its head here still says 16 MiB.
    running[0].answers.ledger.lock().unwrap().set_capacity(0);
    let user = key(50);
    let fat = provisional(mirror.ask(Request::Allocate(sign(request(&user, 2, 1, 4 * MIB), &user))).await);
    assert_eq!(vendors(&fat), [2, 3].map(|seed| node(&key(seed))).into());
    let again = request(&user, 3, 1, 4 * MIB);
    let nonce = again.nonce;
    let refused = mirror.ask(Request::Allocate(sign(again, &user))).await;
    let Response::Short { refusal, asked } = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.kind, RefusalKind::NoSpace);
    assert!(refusal.to_string().contains("1 of 3 vendors asked"), "{refusal}");
    // What the others locked in vain goes back at once, by its user's word.
    assert_eq!(asked.iter().copied().collect::<BTreeSet<_>>(), [2, 3].map(|seed| node(&key(seed))).into());
    let leased = || [1, 2].map(|at: usize| running[at].answers.ledger.lock().unwrap().leased());
    let free = || [2, 3].map(|seed| mirror.mirror.writer.shared().state().market.free(node(&key(seed))));
    assert_eq!((leased(), free()), ([8 * MIB; 2], [8 * MIB; 2]));
    for vendor in asked.iter().copied() {
        let cancel = Cancel { version: VERSION, authority: owner(&user).into(), vendor, request: nonce };
        let forged = Signed::sign(Cancel { authority: owner(&key(51)).into(), ..cancel.clone() }, &key(51)).unwrap();
        assert_eq!(mirror.ask(Request::Cancel(forged.into_carried())).await, Response::Done);
        assert_eq!(leased().iter().max(), Some(&(8 * MIB)), "a stranger gives nothing back");
        let cancel = Request::Cancel(Signed::sign(cancel, &user).unwrap().into_carried());
        assert_eq!(mirror.ask(cancel.clone()).await, Response::Done);
        assert_eq!(mirror.ask(cancel).await, Response::Done, "again, it does nothing");
    }
    assert_eq!((leased(), free()), ([4 * MIB; 2], [12 * MIB; 2]), "the mirror knows before the next head");
    let few = mirror.ask(Request::Allocate(sign(request(&user, 4, 1, MIB), &user))).await;
    assert_eq!(kind(&few), Some(RefusalKind::TooFewVendors));
    let much = mirror.ask(Request::Allocate(sign(request(&user, 1, 1, 1000 * MIB), &user))).await;
    assert_eq!(kind(&much), Some(RefusalKind::NoSpace));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_checked_and_holders_are_kept_clear_of() {
    let mirror = TestMirror::start(221, 3600, false).await;
    let mut running = Vec::new();
    for (seed, zone) in [(1, "a"), (2, "b"), (3, "c")] {
        running.push(FakeVendor::start(seed, zone, 16 * MIB, false, &mirror).await);
    }
    let (user, source) = (key(50), key(1));
    let mut late = request(&user, 1, 1, MIB);
    late.expires = clock::now().plus_ms(0);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(kind(&mirror.ask(Request::Allocate(sign(late, &user))).await), Some(RefusalKind::LeaseExpired));
    let mut foreign = request(&user, 1, 1, MIB);
    foreign.authority = owner(&key(51)).into();
    let answer = mirror.ask(Request::Allocate(sign(foreign, &key(51)))).await;
    assert_eq!(kind(&answer), Some(RefusalKind::NotAuthorised), "a stranger locks nothing in another's name");

    // The first vendor moves a file away that lies at the first and the second.
    let held = fat(&user, 1, 0, 0, &[node(&key(1)), node(&key(2))], 10);
    assert_eq!(mirror.submit(held.clone()).await, None);
    let mut moving = request(&user, 1, 1, MIB);
    moving.authority = node(&source).into();
    moving.file = Some(held.peek().unwrap().file);
    let granted = provisional(mirror.ask(Request::Allocate(sign(moving, &source))).await);
    assert_eq!(vendors(&granted), [node(&key(3))].into());

    // Room that is not used goes back through the mirror.
    let lease = granted.locations[0].lease.peek().unwrap();
    let unused = Unused {
        version: VERSION,
        authority: node(&source).into(),
        vendor: lease.vendor,
        lease: lease.id,
        bytes: MIB,
        nonce: Hash([1; 32]),
    };
    let unused = Signed::sign(unused, &source).unwrap().into_carried();
    assert_eq!(running[2].answers.ledger.lock().unwrap().leased(), MIB);
    assert_eq!(mirror.ask(Request::Unused(unused)).await, Response::Done);
    assert_eq!(running[2].answers.ledger.lock().unwrap().leased(), 0);
}

/// Two mirrors know of the same last extent and a hundred users want it.
#[tokio::test(flavor = "multi_thread")]
async fn fault_23_of_a_hundred_users_exactly_one_gets_the_last_extent() {
    let (a, b) = (Arc::new(TestMirror::start(231, 1, false).await), Arc::new(TestMirror::start(232, 1, false).await));
    // Nobody may hold more than 9 MiB of it, and two do not fit.
    let vendor = FakeVendor::start(1, "a", 12 * MIB, false, &a).await;
    super::support::acquaint(&a.net, &b.net).await;
    super::support::until("both know the vendor", || a.mirror.digest() == b.mirror.digest()).await;
    let mut users = tokio::task::JoinSet::new();
    for user in 0..100u8 {
        let mirror = Arc::clone(if user % 2 == 0 { &a } else { &b });
        users.spawn(async move {
            let user = key(100 + user);
            mirror.ask(Request::Allocate(sign(request(&user, 1, 1, 8 * MIB), &user))).await
        });
    }
    let answers = users.join_all().await;
    let won = answers.iter().filter(|answer| matches!(answer, Response::Provisional(_))).count();
    assert_eq!(won, 1);
    let kinds: BTreeSet<RefusalKind> = answers.iter().filter_map(kind).collect();
    assert!(kinds.is_subset(&[RefusalKind::NoSpace, RefusalKind::TooFewVendors].into()), "{kinds:?}");
    let ledger = vendor.answers.ledger.lock().unwrap();
    assert_eq!((ledger.leased(), ledger.leases().len()), (8 * MIB, 1));
}
