//! Mirrors reach the same content, by reading each other's logs and by gossip.

use std::time::{Duration, Instant};

use fathom_overlay::Verdict;
use fathom_protocol::codec;
use fathom_protocol::wire::{Gossip, Request, Response, Roles, SyncRecord};

use super::support::{TestMirror, acquaint, fat, key, moved, node, plain_vendor, start, until};

async fn report(mirror: &TestMirror, seed: u8, seq: u64) {
    let SyncRecord::Vendor(record) = plain_vendor(seed, seq) else { unreachable!() };
    assert_eq!(mirror.ask(Request::Report(record)).await, Response::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_converge_by_reading_logs_and_a_late_one_catches_up() {
    let (a, b) = (TestMirror::start(111, 1, false).await, TestMirror::start(112, 1, false).await);
    let user = key(50);
    // Enough that the log takes several pages.
    for file in 0..20 {
        assert_eq!(a.submit(fat(&user, file, 0, 0, &[node(&key(1))], 1_000_000)).await, None);
        assert_eq!(b.submit(fat(&user, 100 + file, 0, 0, &[node(&key(2))], 1000)).await, None);
    }
    report(&a, 1, 1).await;
    report(&b, 1, 2).await;
    report(&b, 2, 1).await;
    let carried = moved(&user, 3, 0, 5, &key(1), &key(2));
    assert_eq!(a.ask(Request::SubmitMove(carried)).await, Response::Done);
    acquaint(&a.net, &b.net).await;
    until("two mirrors are equal", || a.mirror.digest() == b.mirror.digest()).await;
    let digest = a.mirror.digest();
    assert_eq!((digest.heads, digest.files, digest.moves), (2, 40, 1));

    // The third knows only the second, and starts after everything happened.
    let c = TestMirror::start(113, 1, false).await;
    acquaint(&c.net, &b.net).await;
    until("the late mirror is equal", || c.mirror.digest() == digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_brings_small_records_and_hints_at_large_ones() {
    // They look at each other's logs once an hour: what arrives, arrives by gossip.
    let (a, b) = (TestMirror::start(121, 3600, true).await, TestMirror::start(122, 3600, true).await);
    acquaint(&a.net, &b.net).await;
    let user = key(50);
    let end = Instant::now() + Duration::from_secs(10);
    let mut seq = 0;
    // A message that is published before the subscription is known is lost; so the vendor reports again.
    while b.mirror.digest().heads == 0 {
        assert!(Instant::now() < end, "gossip did not arrive");
        seq += 1;
        report(&a, 1, seq).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(a.submit(fat(&user, 1, 0, 0, &[node(&key(1))], 200_000)).await, None);
    until("the large final FAT arrives", || b.mirror.digest().files == 1).await;
    until("both are equal", || a.mirror.digest() == b.mirror.digest()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_record_over_gossip_is_rejected_and_not_stored() {
    let a = TestMirror::start(131, 3600, true).await;
    let (liar, _incoming) = start(132, Roles::default(), true).await;
    acquaint(&a.net, &liar).await;
    let forged = |file: u8| {
        let mut bytes =
            codec::encode(&Gossip::Record(Box::new(SyncRecord::Fat(fat(&key(50), file, 0, 0, &[node(&key(1))], 64)))));
        // The last byte of the signature.
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    assert!(codec::decode::<Gossip>(&forged(1), 48 * 1024).is_ok(), "only the signature is wrong");
    assert_eq!(a.mirror.judge(liar.me(), &forged(1)).await, Verdict::Reject);
    assert_eq!(a.mirror.judge(liar.me(), b"garbage").await, Verdict::Reject);
    let strange = codec::encode(&Gossip::Grew { mirror: node(&key(77)), cursor: 9 });
    assert_eq!(a.mirror.judge(liar.me(), &strange).await, Verdict::Ignore);
    // Over the wire: the forgery first, then a sound record by which its fate is known.
    let end = Instant::now() + Duration::from_secs(10);
    let mut seq = 0;
    while a.mirror.digest().heads == 0 {
        assert!(Instant::now() < end, "gossip did not arrive");
        seq += 1;
        if seq <= 2 {
            let _ = liar.overlay().publish(forged(seq as u8)).await;
        }
        let good = codec::encode(&Gossip::Record(Box::new(plain_vendor(1, seq))));
        let _ = liar.overlay().publish(good).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let good = codec::encode(&Gossip::Record(Box::new(plain_vendor(2, 1))));
    assert_eq!(a.mirror.judge(liar.me(), &good).await, Verdict::Accept);
    assert_eq!(a.mirror.judge(liar.me(), &good).await, Verdict::Ignore, "known");
    assert_eq!(a.mirror.digest().files, 0);
}
