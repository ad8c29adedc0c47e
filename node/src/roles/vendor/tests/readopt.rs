//! A vendor restored from a backup, and a vendor whose key signs elsewhere.

use fathom_protocol::codec::Blob;
use fathom_protocol::fat::{FinalFat, Follows, Use};
use fathom_protocol::fork::ForkProof;
use fathom_protocol::head::VerifiedVendor;
use fathom_protocol::lease::Named;
use fathom_protocol::wire::{FetchRequest, Page};
use fathom_store::ChunkKey;

use super::migration::introduce;
use super::mirror::TestMirror;
use super::*;

fn fetching(user: &TestUser, vendor: &TestVendor, body: &[u8]) -> FetchRequest {
    FetchRequest {
        version: tags::VERSION,
        owner: user.owner(),
        vendor: vendor.node(),
        chunk: ChunkId::of(body),
        offset: 0,
        length: u32::try_from(body.len()).unwrap(),
        expires: hour(),
    }
}

/// The vendor's newest head at a mirror, once it says what `so` asks.
async fn head_at(
    mirror: &TestMirror,
    vendor: &TestVendor,
    what: &str,
    so: impl Fn(&VerifiedVendor) -> bool,
) -> VerifiedVendor {
    let newest = || mirror.heads.lock().unwrap().get(&vendor.node()).cloned();
    eventually(what, || newest().is_some_and(|head| so(&head))).await;
    newest().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_24_a_vendor_restored_from_a_backup_takes_its_leases_back() {
    let user = TestUser::start(141).await;
    let (peer, mirror) = TestMirror::start(142).await;
    let (kept, released, later) = (bytes(300_000, 1), bytes(200_000, 2), bytes(400_000, 3));
    let vendor = TestVendor::start(143).await;
    user.store(&vendor, &kept).await;
    user.store(&vendor, &released).await;
    vendor.run();
    introduce(&vendor, &peer).await;
    head_at(&mirror, &vendor, "the first head", |head| head.head.used == 500_000).await;

    // The backup is made here; afterwards one chunk goes and one comes, which only devices and mirrors know.
    let (dir, settings) = vendor.stop().await;
    let (file, backup) = (dir.path().join(super::super::FAT_FILE), dir.path().join("backup"));
    std::fs::copy(&file, &backup).unwrap();
    let vendor = TestVendor::open(143, dir, settings).await;
    vendor.run();
    introduce(&vendor, &peer).await;
    let gone = ChunkKey { owner: user.owner(), chunk: ChunkId::of(&released) };
    let erased = vendor.vendor.fat.erase_chunks(&[gone]).unwrap();
    vendor.vendor.erased(&erased).unwrap();
    user.store(&vendor, &later).await;
    vendor.vendor.touch();
    let before = head_at(&mirror, &vendor, "the last head", |head| head.head.used == 700_000).await;
    assert_eq!(before.head.epoch, 1, "a restart is no new epoch");

    let (dir, settings) = vendor.stop().await;
    std::fs::copy(&backup, &file).unwrap();
    let vendor = TestVendor::open(143, dir, settings).await;
    vendor.run();
    introduce(&vendor, &peer).await;
    let after = head_at(&mirror, &vendor, "a new epoch", |head| head.head.epoch == 2).await;
    assert_eq!((after.head.seq, after.head.prev), (1, before.head.hash()));
    assert_eq!(after.head.used, 700_000, "what the devices hold, and nothing else");
    let leases =
        |vendor: &VerifiedVendor| -> Vec<_> { vendor.leases.iter().map(|lease| (lease.id, lease.used)).collect() };
    assert_eq!(leases(&after), leases(&before));
    assert!(ForkProof::twins(&before.head, &after.head).is_none());
    assert_eq!(vendor.counts().0, 2);
    user.know(&vendor.peer.net).await;
    for body in [&kept, &later] {
        assert_eq!(user.fetch(fetching(&user, &vendor, body)).await.unwrap(), *body);
    }
    assert_eq!(vendor.vendor.status()["warning"], serde_json::Value::Null);
    // From here on it is a vendor like any other.
    user.store(&vendor, &bytes(100_000, 4)).await;
    let next = head_at(&mirror, &vendor, "the next head", |head| head.head.used == 800_000).await;
    assert_eq!(next.head.epoch, 2);
}

/// Keeps away: a vendor that was just started, and did not know yet whether its local FAT was the newest, took orders for read
/// that were about leases it had yet to take back; what they named was swept.
#[tokio::test(flavor = "multi_thread")]
async fn fault_24_orders_read_before_the_leases_came_back_are_read_again() {
    let user = TestUser::start(153).await;
    let vendor = TestVendor::start(154).await;
    user.store(&vendor, &bytes(300_000, 1)).await;
    let record = vendor.vendor.next_head(Default::default());
    let mirror = NodeId([7; NodeId::LEN]);
    let page =
        Page { log: Hash([9; Hash::LEN]), next: 5, more: false, clock: clock::now(), records: Default::default() };
    vendor.vendor.take_orders(mirror, page).unwrap();
    assert_eq!(vendor.vendor.cursor(mirror).unwrap(), (Hash([9; Hash::LEN]), 5));
    vendor.vendor.readopt(&record).unwrap();
    assert_eq!(vendor.vendor.cursor(mirror).unwrap(), (Hash([0; Hash::LEN]), 0));
}

/// Keeps away: of what was under a lease, that which it was noted for went with the disk; when the rest was released, the lease was
/// gone, and mirrors took that for a lease dropped in use.
#[tokio::test(flavor = "multi_thread")]
async fn fault_24_a_lease_taken_back_is_noted_only_for_what_is_here() {
    let user = TestUser::start(158).await;
    let vendor = TestVendor::start(159).await;
    let receipt = user.store(&vendor, &bytes(300_000, 1)).await;
    let lost = Named { file: FileId([9; FileId::LEN]), fat: Hash([9; Hash::LEN]) };
    vendor.vendor.account(|ledger| ledger.note(receipt.lease, lost)).unwrap();
    let record = vendor.vendor.next_head(Default::default());
    assert_eq!(record.lease(receipt.lease).unwrap().named, Some(lost));
    vendor.vendor.readopt(&record).unwrap();
    let named = || super::super::lock(&vendor.vendor.ledger).lease(receipt.lease).unwrap().named;
    assert_eq!(named(), None);
    // Two files that use the lease: one of which a chunk is here, one of which there is none any more.
    for (file, seq, here) in [(receipt.file, receipt.seq, true), (FileId([9; FileId::LEN]), 1, false)] {
        let uses = [Use { vendor: vendor.node(), lease: receipt.lease, bytes: 300_000, unused: 0 }];
        let fat = FinalFat {
            version: tags::VERSION,
            owner: user.owner(),
            file,
            seq,
            base: seq,
            follows: Follows::default(),
            uses: Bounded::first(uses),
            frees: Bounded::default(),
            issued: clock::now(),
            order_expires: hour(),
            body: Blob::new(vec![1; 40]).unwrap(),
        };
        let fat = Signed::sign(fat, &user.key).unwrap();
        vendor.vendor.order(vec![fat.carried().clone()]).remove(0).unwrap();
        assert_eq!(named().is_some_and(|named| named.fat == fat.hash()), here);
        assert_eq!(named().unwrap().file, receipt.file);
    }
}

/// Room that a restored vendor offers before it has its leases back may be somebody's, and a chunk that its local FAT names may be
/// none that it has.
#[tokio::test(flavor = "multi_thread")]
async fn fault_24_a_vendor_that_was_started_again_promises_nothing_before_a_mirror_answered() {
    let user = TestUser::start(155).await;
    let (peer, _mirror) = TestMirror::start(156).await;
    let vendor = TestVendor::start(157).await;
    let body = bytes(300_000, 1);
    let stop = user.lock(&vendor, body.len() as u64).await;
    let header = user.header(&body, &[&stop]);
    assert_eq!(receipts(&user.send(vendor.node(), &header, &body).await).len(), 1);
    vendor.vendor.next_head(Default::default());
    let (dir, settings) = vendor.stop().await;
    let vendor = TestVendor::open(157, dir, settings).await;
    vendor.run();
    eventually("it knows that it does not know", || vendor.vendor.is_out_of_step()).await;
    assert_eq!(kind(vendor.vendor.may_offer()), RefusalKind::Busy);
    user.know(&vendor.peer.net).await;
    let answers = user.send(vendor.node(), &header, &body).await;
    assert_eq!((receipts(&answers).len(), failures(&answers)), (0, vec![(vendor.node(), RefusalKind::Busy)]));
    introduce(&vendor, &peer).await;
    eventually("it is in step", || vendor.vendor.may_offer().is_ok()).await;
    assert_eq!(receipts(&user.send(vendor.node(), &header, &body).await).len(), 1, "now it has it");
}

/// A local FAT that was lost altogether comes back the same way.
#[tokio::test(flavor = "multi_thread")]
async fn fault_24_a_vendor_that_lost_its_local_fat_takes_its_leases_back() {
    let user = TestUser::start(144).await;
    let (peer, mirror) = TestMirror::start(145).await;
    let body = bytes(300_000, 1);
    let vendor = TestVendor::start(146).await;
    user.store(&vendor, &body).await;
    vendor.run();
    introduce(&vendor, &peer).await;
    head_at(&mirror, &vendor, "the first head", |head| head.head.used == 300_000).await;
    let (dir, settings) = vendor.stop().await;
    std::fs::remove_file(dir.path().join(super::super::FAT_FILE)).unwrap();
    let vendor = TestVendor::open(146, dir, settings).await;
    vendor.run();
    introduce(&vendor, &peer).await;
    let after = head_at(&mirror, &vendor, "a new epoch", |head| head.head.epoch == 2).await;
    assert_eq!(after.head.used, 300_000);
    user.know(&vendor.peer.net).await;
    assert_eq!(user.fetch(fetching(&user, &vendor, &body)).await.unwrap(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_25_a_vendor_whose_key_signs_elsewhere_stops_and_says_so() {
    let user = TestUser::start(147).await;
    let (peer, mirror) = TestMirror::start(148).await;
    let vendor = TestVendor::start(149).await;
    let body = bytes(300_000, 1);
    user.store(&vendor, &body).await;
    vendor.run();
    introduce(&vendor, &peer).await;
    let own = head_at(&mirror, &vendor, "the first head", |_| true).await;
    // Another node with this key begins an epoch of its own, now.
    let mut other = (*own.head).clone();
    (other.epoch, other.seq, other.issued) = (2, 1, clock::now());
    let other = VerifiedVendor { head: Signed::sign(other, vendor.peer.net.key()).unwrap(), ..own };
    mirror.heads.lock().unwrap().insert(vendor.node(), other);
    vendor.vendor.touch();
    let warning = || vendor.vendor.status()["warning"].as_str().unwrap_or_default().to_owned();
    eventually("it notices", || warning().contains("another node runs with this vendor's key")).await;
    assert!(warning().contains("Run only one node with a key") && warning().contains("fathom init"));
    let head = mirror.heads.lock().unwrap()[&vendor.node()].clone();
    assert_eq!((head.head.epoch, head.head.seq), (2, 1), "it signs nothing more");
    assert_eq!(kind(vendor.vendor.may_offer()), RefusalKind::Busy);
    assert_eq!(user.fetch(fetching(&user, &vendor, &body)).await.unwrap(), body, "what it stores can be fetched");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_25_a_quarantined_vendor_tells_its_operator() {
    let (peer, mirror) = TestMirror::start(151).await;
    let vendor = TestVendor::start(152).await;
    let first = vendor.vendor.next_head(Default::default());
    let mut body = (*first.head).clone();
    body.used += 1;
    let second = Signed::sign(body, vendor.peer.net.key()).unwrap();
    *mirror.proof.lock().unwrap() = ForkProof::twins(&first.head, &second);
    vendor.run();
    introduce(&vendor, &peer).await;
    let warning = || vendor.vendor.status()["warning"].as_str().unwrap_or_default().to_owned();
    eventually("it hears of the proof", || warning().contains("two nodes ran with this vendor's key")).await;
    assert!(warning().contains("Run only one node with a key"));
}
