//! Chunks along chains (figures 11 to 14).

use std::time::{Duration, Instant};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn fig_12_a_chain_of_three_stores_a_chunk_and_three_receipts_come_back() {
    let user = TestUser::start(1).await;
    let vendors = [TestVendor::start(11).await, TestVendor::start(12).await, TestVendor::start(13).await];
    let body = bytes(3 * MIB as usize + 77, 1);
    let mut stops = Vec::new();
    for vendor in &vendors {
        stops.push(user.lock(vendor, body.len() as u64).await);
    }
    let header = user.header(&body, &stops.iter().collect::<Vec<_>>());
    let answers = user.send(vendors[0].node(), &header, &body).await;
    let receipts = receipts(&answers);
    assert_eq!((answers.len(), receipts.len()), (3, 3), "{answers:?}");
    for (vendor, stop) in vendors.iter().zip(&stops) {
        let receipt = receipts.iter().find(|receipt| receipt.vendor == vendor.node()).unwrap();
        assert_eq!((receipt.chunk, receipt.length as usize), (ChunkId::of(&body), body.len()));
        assert_eq!(receipt.lease, stop.lease.peek().unwrap().id);
        let entry = vendor.vendor.fat.chunk(receipt.owner, receipt.chunk).unwrap().unwrap();
        let parts = receipt.parts.iter().map(|part| (part.device, part.hash, part.offset, part.length));
        assert!(parts.eq(entry.parts.iter().map(|part| (part.device, part.part, part.offset, part.length))));
        let length = body.len() as u64;
        assert_eq!(vendor.counts(), (1, 4, length, length));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_31_a_replayed_header_gets_the_same_receipts_and_counts_once() {
    let user = TestUser::start(2).await;
    let vendors = [TestVendor::start(14).await, TestVendor::start(15).await];
    let body = bytes(300_000, 2);
    let stops = [user.lock(&vendors[0], 1_000_000).await, user.lock(&vendors[1], 1_000_000).await];
    let header = user.header(&body, &[&stops[0], &stops[1]]);
    let sorted = |mut answers: Vec<ChunkAnswer>| {
        answers.sort_by_key(|answer| receipts(std::slice::from_ref(answer))[0].vendor);
        answers
    };
    let first = sorted(user.send(vendors[0].node(), &header, &body).await);
    assert_eq!(receipts(&first).len(), 2);
    for _ in 0..3 {
        assert_eq!(sorted(user.send(vendors[0].node(), &header, &body).await), first);
    }
    for vendor in &vendors {
        assert_eq!(vendor.counts(), (1, 1, 300_000, 1_000_000));
        assert_eq!(vendor.files(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_chunks_at_once_are_counted_exactly() {
    let user = Arc::new(TestUser::start(3).await);
    let vendors = [TestVendor::start(16).await, TestVendor::start(17).await];
    let stops = [user.lock(&vendors[0], 8 * MIB).await, user.lock(&vendors[1], 8 * MIB).await];
    let mut sends = Vec::new();
    for seed in 0..24 {
        let body = bytes(200_000, seed);
        let header = user.header(&body, &[&stops[0], &stops[1]]);
        let (user, to) = (Arc::clone(&user), vendors[0].node());
        sends.push(tokio::spawn(async move { user.send(to, &header, &body).await }));
    }
    for send in sends {
        let answers = send.await.unwrap();
        assert_eq!(receipts(&answers).len(), 2, "{answers:?}");
    }
    for vendor in &vendors {
        assert_eq!(vendor.counts(), (24, 24, 24 * 200_000, 8 * MIB));
    }
}

/// A node with a lease of its own making that takes streams and says nothing.
async fn mute(seed: u8, user: &TestUser) -> (Peer, Stop) {
    let peer = peer(seed, Roles::default(), |_| Role::Mute).await;
    let lease = Lease {
        version: tags::VERSION,
        vendor: peer.net.me(),
        id: fathom_protocol::ids::LeaseId([seed; 16]),
        revision: 0,
        owner: user.owner(),
        authority: user.owner().into(),
        bytes: MIB,
        used: 0,
        state: fathom_protocol::lease::LeaseState::Offered,
        room_expires: hour(),
        expires: hour(),
        named: None,
    };
    let lease = Signed::sign(lease, &key(seed)).unwrap().into_carried();
    let stop = Stop { vendor: peer.net.me(), addresses: peer.net.addresses().await, lease };
    (peer, stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_hop_that_is_silent_is_named_and_the_own_receipt_comes() {
    let user = TestUser::start(4).await;
    let vendor = TestVendor::start(18).await;
    let (mute, silent) = mute(19, &user).await;
    let body = bytes(500_000, 4);
    let stop = user.lock(&vendor, MIB).await;
    let started = Instant::now();
    let answers = user.send(vendor.node(), &user.header(&body, &[&stop, &silent]), &body).await;
    assert!(started.elapsed() < Duration::from_millis(3_500), "{:?}", started.elapsed());
    assert_eq!(receipts(&answers).len(), 1);
    assert_eq!(failures(&answers), [(mute.net.me(), RefusalKind::Silent)]);
    assert_eq!(vendor.counts().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_third_hop_is_named_by_the_second_and_a_dead_one_is_unreachable() {
    let user = TestUser::start(5).await;
    let vendors = [TestVendor::start(20).await, TestVendor::start(21).await];
    let (mute, silent) = mute(22, &user).await;
    let body = bytes(500_000, 5);
    let stops = [user.lock(&vendors[0], MIB).await, user.lock(&vendors[1], MIB).await];
    let header = user.header(&body, &[&stops[0], &stops[1], &silent]);
    let answers = user.send(vendors[0].node(), &header, &body).await;
    assert_eq!(receipts(&answers).len(), 2);
    assert_eq!(failures(&answers), [(mute.net.me(), RefusalKind::Silent)]);

    let dead = mute.net.me();
    mute.net.overlay().shutdown().await;
    drop(mute);
    let body = bytes(400_000, 6);
    let started = Instant::now();
    let answers = user.send(vendors[0].node(), &user.header(&body, &[&stops[0], &silent]), &body).await;
    assert!(started.elapsed() < Duration::from_millis(4_000), "{:?}", started.elapsed());
    assert_eq!(receipts(&answers).len(), 1);
    assert_eq!(failures(&answers).len(), 1);
    assert_eq!(failures(&answers)[0].0, dead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_opens_again_with_what_it_had() {
    let user = TestUser::start(6).await;
    let vendor = TestVendor::start(23).await;
    let body = bytes(700_000, 7);
    let receipt = user.store(&vendor, &body).await;
    let addresses = vendor.peer.net.addresses().await;
    let head = vendor.vendor.next_head(addresses.clone());
    let before = vendor.counts();
    let TestVendor { peer: stopped, vendor, dir } = vendor;
    stopped.cancel.cancel();
    let net = stopped.net.clone();
    drop(stopped);
    let weak = Arc::downgrade(&vendor);
    drop(vendor);
    eventually("the vendor is dropped", || weak.upgrade().is_none()).await;
    let device = vec![(dir.path().join("device"), 64 * MIB, 0)];
    let again = Vendor::open(dir.path(), net, settings(device)).unwrap();
    let next = again.next_head(addresses);
    assert_eq!((next.head.epoch, next.head.seq), (head.head.epoch, head.head.seq + 1));
    assert_eq!(next.head.prev, head.head.hash());
    assert_eq!(next.head.root.sum, head.head.root.sum);
    let status = again.status();
    assert_eq!((status["chunks"].as_u64(), status["used"].as_u64()), (Some(before.0), Some(before.2)));
    let entry = again.fat.chunk(receipt.owner, receipt.chunk).unwrap().unwrap();
    assert_eq!(again.read_verified(&entry).unwrap(), body);
}
