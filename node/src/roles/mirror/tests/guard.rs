//! Peers that bring forgeries, and mirrors that know less than others.

use std::time::Duration;

use fathom_overlay::Verdict;
use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::fat::FinalFat;
use fathom_protocol::head::{Addresses, VendorHead, VendorRecord};
use fathom_protocol::ledger::{Ledger, Terms};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Gossip, RefusalKind, Request, Response, Roles, SyncRecord};

use super::allocation::{request, sign};
use super::support::{FakeVendor, MIB, TestMirror, acquaint, fat, key, kind, node, start, until, vendor_record};

/// A final FAT whose signature is another's.
fn forged(number: u8) -> Carried<FinalFat> {
    let mut bytes = codec::encode(&fat(&key(50), number, 0, 0, &[node(&key(1))], 64));
    *bytes.last_mut().unwrap() ^= 1;
    codec::decode(&bytes, 1 << 20).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_29_a_peer_that_brings_100_000_forgeries_is_cut_off_and_nothing_is_kept() {
    let a = TestMirror::start(171, 3600, true).await;
    let (liar, _incoming) = start(172, Roles::default(), true).await;
    let (honest, _incoming) = start(173, Roles::default(), true).await;
    acquaint(&a.net, &liar).await;
    acquaint(&a.net, &honest).await;
    let batch = || Request::SubmitFats(Bounded::first((0..=255).map(forged)));
    // The first batch over the wire: its answer may be cut off by the ban that it ends in.
    if let Ok(Response::Submitted(answers)) = liar.call(a.net.me(), &batch(), Duration::from_secs(5)).await {
        assert!(answers.iter().all(Option::is_some));
    }
    until("its connections are closed", || a.mirror.admit(liar.me()).is_err()).await;
    // The others as if they had been on their way: they are refused unseen.
    for _ in 0..390 {
        let answer = a.mirror.handle(liar.me(), batch()).await;
        assert_eq!(kind(&answer), Some(RefusalKind::NotAuthorised));
    }
    for number in 0..=255 {
        let message = SyncRecord::Fat(forged(number));
        let bytes = codec::encode(&Gossip::Record(Box::new(message)));
        assert_ne!(a.mirror.judge(liar.me(), &bytes).await, Verdict::Accept);
    }
    let digest = a.mirror.digest();
    assert_eq!((digest.heads, digest.files), (0, 0));
    let mut cut_off = false;
    for _ in 0..100 {
        let connected = a.net.overlay().connected().await;
        cut_off = !connected.iter().any(|(peer, _)| *peer == liar.me());
        if cut_off {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(cut_off, "still connected");
    assert!(liar.call(a.net.me(), &Request::Digest, Duration::from_secs(2)).await.is_err(), "it cannot come back");
    // Others are served as ever.
    let answer = honest.call(a.net.me(), &Request::Digest, Duration::from_secs(5)).await;
    assert_eq!(answer, Ok(Response::Digest(digest)));
    assert_eq!(a.submit(fat(&key(50), 1, 0, 0, &[node(&key(1))], 64)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_18_a_vendor_that_sees_one_side_allocates_there_and_the_other_shows_its_age() {
    // They do not know each other: a partition.
    let (near, far) = (TestMirror::start(174, 1, false).await, TestMirror::start(175, 1, false).await);
    // What the far side knows of the vendor is an hour old.
    let ledger = Ledger::open(key(1), Terms::default(), 8 * MIB, Vec::new()).unwrap();
    let old = vendor_record(&key(1), 0, "zone", &ledger, Addresses::default());
    let head = old.head.peek().unwrap();
    let head = VendorHead { issued: UnixMs(head.issued.0 - 3_600_000), ..head };
    let old = VendorRecord { head: Signed::sign(head, &key(1)).unwrap().into_carried(), ..old };
    assert_eq!(far.ask(Request::Report(old)).await, Response::Done);
    let vendor = FakeVendor::start(1, "zone", 8 * MIB, false, &near).await;
    let age = |mirror: &TestMirror| mirror.mirror.view()["vendors"][0]["age_seconds"].as_u64().unwrap();
    assert!(age(&far) >= 3_600 && age(&near) < 600, "{} {}", age(&far), age(&near));
    let answer = near.ask(Request::Allocate(sign(request(&key(50), 1, 1, 2 * MIB), &key(50)))).await;
    assert!(matches!(answer, Response::Provisional(_)), "{answer:?}");
    assert_eq!(vendor.answers.ledger.lock().unwrap().root().sum, 2 * MIB);
    assert!(age(&far) >= 3_600, "the far side heard nothing and says so");
    // The sides see each other again.
    acquaint(&near.net, &far.net).await;
    until("the far side is as new", || age(&far) < 600).await;
    until("both are equal", || near.mirror.digest() == far.mirror.digest()).await;
}
