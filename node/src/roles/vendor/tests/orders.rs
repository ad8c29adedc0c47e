//! Final FATs as orders (figures 15 and 22).

use fathom_protocol::codec::Blob;
use fathom_protocol::fat::{FinalFat, Follows, Tag, Use};
use fathom_protocol::ids::LeaseId;
use fathom_protocol::lease::LeaseState;
use fathom_protocol::wire::{Renew, Unused};

use super::*;
use crate::roles::all_before;

impl TestUser {
    pub(super) fn fat(&self, seq: u64, base: u64, uses: Vec<Use>, frees: Vec<NodeId>) -> FinalFat {
        FinalFat {
            version: tags::VERSION,
            owner: self.owner(),
            file: FILE,
            seq: Tag::new(seq, 0).0,
            base: Tag::new(base, 0).0,
            follows: all_before(Tag::new(seq, 0)),
            body: Blob::new(if uses.is_empty() { Vec::new() } else { vec![1; 40] }).unwrap(),
            uses: Bounded::new(uses).unwrap(),
            frees: Bounded::new(frees).unwrap(),
            issued: clock::now(),
            order_expires: hour(),
        }
    }

    pub(super) fn sealed(&self, fat: FinalFat) -> Carried<FinalFat> {
        Signed::sign(fat, &self.key).unwrap().into_carried()
    }

    async fn order(&self, to: &TestVendor, fat: FinalFat) -> Result<Response, Refusal> {
        self.peer.net.call(to.node(), &Request::Order(Bounded::first([self.sealed(fat)])), WAIT).await
    }

    pub(super) fn uses(&self, receipt: &Receipt, unused: u64) -> Use {
        Use { vendor: receipt.vendor, lease: receipt.lease, bytes: u64::from(receipt.length), unused }
    }
}

fn lease_of(vendor: &TestVendor, id: LeaseId) -> Option<Lease> {
    super::super::lock(&vendor.vendor.ledger).lease(id).map(|lease| (**lease).clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn fig_22_a_commit_and_then_a_release_erase_everything() {
    let user = TestUser::start(70).await;
    let vendor = TestVendor::start(71).await;
    let body = bytes(400_000, 1);
    let stop = user.lock(&vendor, MIB).await;
    let receipt = receipts(&user.send(vendor.node(), &user.header(&body, &[&stop]), &body).await).remove(0);
    assert_eq!(lease_of(&vendor, receipt.lease).unwrap().state, LeaseState::Locked);

    let unused = MIB - 400_000;
    let fat = user.fat(1, 1, vec![user.uses(&receipt, unused)], Vec::new());
    for _ in 0..3 {
        // Shown again it changes nothing, nor does what it gives back count again.
        assert_eq!(user.order(&vendor, fat.clone()).await.unwrap(), Response::Done);
        let lease = lease_of(&vendor, receipt.lease).unwrap();
        assert_eq!((lease.state, lease.bytes, lease.used), (LeaseState::Committed, 400_000, 400_000));
    }
    let release = user.fat(2, 2, Vec::new(), vec![vendor.node()]);
    assert_eq!(user.order(&vendor, release.clone()).await.unwrap(), Response::Done);
    assert_eq!((vendor.counts(), vendor.files()), ((0, 0, 0, 0), 0));
    assert!(lease_of(&vendor, receipt.lease).is_none());
    assert_eq!(user.order(&vendor, release).await.unwrap(), Response::Done);
    // The older one brings nothing back, and chunks of its age are not taken any more.
    assert_eq!(user.order(&vendor, fat).await.unwrap(), Response::Done);
    let stop = user.lock(&vendor, MIB).await;
    let answers = user.send(vendor.node(), &user.header(&body, &[&stop]), &body).await;
    assert_eq!(failures(&answers), [(vendor.node(), RefusalKind::Stale)]);
}

/// Keeps away: a vendor that died in the middle of a put, and was replaced, commits what it had taken when it is back, and
/// holds it for ever although no manifest names it.
#[tokio::test(flavor = "multi_thread")]
async fn fig_14_a_replaced_vendor_erases_what_the_final_fat_frees() {
    let user = TestUser::start(78).await;
    let vendor = TestVendor::start(79).await;
    let body = bytes(400_000, 1);
    let receipt = user.store(&vendor, &body).await;
    let elsewhere = Use { vendor: NodeId([9; 32]), ..user.uses(&receipt, 0) };
    let fat = user.fat(1, 1, vec![elsewhere], vec![vendor.node()]);
    for _ in 0..2 {
        assert_eq!(user.order(&vendor, fat.clone()).await.unwrap(), Response::Done);
        assert_eq!((vendor.files(), lease_of(&vendor, receipt.lease).map_or(0, |lease| lease.used)), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_45_forged_foreign_and_expired_orders_change_nothing() {
    let (user, stranger) = (TestUser::start(72).await, TestUser::start(73).await);
    let vendor = TestVendor::start(74).await;
    let body = bytes(400_000, 1);
    let receipt = user.store(&vendor, &body).await;
    user.order(&vendor, user.fat(1, 1, vec![user.uses(&receipt, 0)], Vec::new())).await.unwrap();
    let before = (vendor.counts(), vendor.files(), lease_of(&vendor, receipt.lease));
    let same = || assert_eq!((vendor.counts(), vendor.files(), lease_of(&vendor, receipt.lease)), before);

    let release = user.fat(2, 2, Vec::new(), vec![vendor.node()]);
    let late = FinalFat { order_expires: UnixMs(1), ..release.clone() };
    assert_eq!(kind(user.order(&vendor, late).await), RefusalKind::LeaseExpired);
    same();

    let mut forged = codec::encode(&Request::Order(Bounded::first([user.sealed(release.clone())])));
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged: Request = codec::decode(&forged, forged.len()).unwrap();
    let refused = user.peer.net.call(vendor.node(), &forged, WAIT).await;
    assert_eq!(kind(refused), RefusalKind::NotAuthorised);
    same();

    // A stranger's release of the same file identifier, and a final FAT of its own over the user's lease.
    stranger.know(&vendor.peer.net).await;
    let foreign = FinalFat { owner: stranger.owner(), ..release };
    assert_eq!(stranger.order(&vendor, foreign).await.unwrap(), Response::Done);
    same();
    let greedy = stranger.fat(1, 1, vec![stranger.uses(&receipt, 400_000)], Vec::new());
    assert_eq!(stranger.order(&vendor, greedy).await.unwrap(), Response::Done);
    same();
    assert_eq!(vendor.vendor.fat.versions_of(stranger.owner(), FILE).unwrap(), [], "kept for nobody");
}

/// Keeps away: one of two devices that store a file at once loses what it stored, here by a release.
#[tokio::test(flavor = "multi_thread")]
async fn fault_47_an_order_of_a_fork_erases_nothing_until_one_is_chosen() {
    let user = TestUser::start(68).await;
    let vendor = TestVendor::start(69).await;
    let body = bytes(400_000, 1);
    let receipt = user.store(&vendor, &body).await;
    let stored = user.fat(1, 1, vec![user.uses(&receipt, 0)], Vec::new());
    let removed = FinalFat { frees: Bounded::first([vendor.node()]), ..user.fat(1, 1, Vec::new(), Vec::new()) };
    for fat in [&stored, &removed, &stored, &removed] {
        assert_eq!(user.order(&vendor, fat.clone()).await.unwrap(), Response::Done);
        assert_eq!((vendor.files(), lease_of(&vendor, receipt.lease).unwrap().used), (1, 400_000));
    }
    let chosen = user.fat(2, 2, Vec::new(), vec![vendor.node()]);
    assert_eq!(user.order(&vendor, chosen).await.unwrap(), Response::Done);
    assert_eq!((vendor.counts(), vendor.files()), ((0, 0, 0, 0), 0));
}

/// Keeps away: a higher number frees what its author did not know of.
#[tokio::test(flavor = "multi_thread")]
async fn fault_47_an_order_frees_nothing_that_it_does_not_follow() {
    let user = TestUser::start(64).await;
    let vendor = TestVendor::start(65).await;
    let receipt = user.store(&vendor, &bytes(400_000, 1)).await;
    let stored = user.fat(1, 1, vec![user.uses(&receipt, 0)], Vec::new());
    let unaware = FinalFat { follows: Follows::default(), ..user.fat(2, 2, Vec::new(), vec![vendor.node()]) };
    // Whichever comes first.
    for fat in [&unaware, &stored, &unaware] {
        assert_eq!(user.order(&vendor, fat.clone()).await.unwrap(), Response::Done);
        assert_eq!((vendor.files(), lease_of(&vendor, receipt.lease).unwrap().used), (1, 400_000));
    }
    assert_eq!(user.order(&vendor, user.fat(3, 3, Vec::new(), vec![vendor.node()])).await.unwrap(), Response::Done);
    assert_eq!((vendor.counts(), vendor.files()), ((0, 0, 0, 0), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_given_back_once_and_only_by_who_locked_it() {
    let (user, stranger) = (TestUser::start(75).await, TestUser::start(76).await);
    let vendor = TestVendor::start(77).await;
    let id = user.lock(&vendor, MIB).await.lease.peek().unwrap().id;
    stranger.know(&vendor.peer.net).await;
    let unused = |who: &TestUser| {
        let unused = Unused {
            version: tags::VERSION,
            authority: who.owner().into(),
            vendor: vendor.node(),
            lease: id,
            bytes: 1000,
            nonce: Hash([4; 32]),
        };
        Request::Unused(Signed::sign(unused, &who.key).unwrap().into_carried())
    };
    assert_eq!(kind(stranger.peer.net.call(vendor.node(), &unused(&stranger), WAIT).await), RefusalKind::NotAuthorised);
    for _ in 0..2 {
        assert_eq!(user.peer.net.call(vendor.node(), &unused(&user), WAIT).await.unwrap(), Response::Done);
        assert_eq!(vendor.counts().3, MIB - 1000);
    }
    let renew = |who: &TestUser| {
        let renew =
            Renew { version: tags::VERSION, owner: who.owner(), vendor: vendor.node(), lease: id, expires: hour() };
        Request::Renew(Signed::sign(renew, &who.key).unwrap().into_carried())
    };
    assert_eq!(kind(stranger.peer.net.call(vendor.node(), &renew(&stranger), WAIT).await), RefusalKind::NotAuthorised);
    match user.peer.net.call(vendor.node(), &renew(&user), WAIT).await.unwrap() {
        Response::Offered { lease, granted: 0 } => assert!(lease.verify().unwrap().expires > hour()),
        other => panic!("{other:?}"),
    }
    assert_eq!(kind(user.peer.net.call(vendor.node(), &Request::Digest, WAIT).await), RefusalKind::WrongRole);
}
