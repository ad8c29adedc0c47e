//! The floor of benchmarks: chains of bare swarms.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use fathom_overlay::Floor;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

async fn floor() -> Floor {
    // Another one at each call.
    static NEXT: AtomicU8 = AtomicU8::new(1);
    Floor::start([NEXT.fetch_add(1, Ordering::Relaxed); 32]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_reach_the_end_of_the_chain_again_and_again() {
    let (last, middle, first) = (floor().await, floor().await, floor().await);
    let (end, next) = (last.address().to_owned(), middle.address().to_owned());
    let (failures, failed) = mpsc::sync_channel(16);
    let theirs = failures.clone();
    tokio::spawn(async move { last.serve(None, |error| drop(theirs.try_send(error.to_string()))).await });
    tokio::spawn(async move { middle.serve(Some(&end), |error| drop(failures.try_send(error.to_string()))).await });
    for bytes in [0, 1, 256 * 1024, 3_000_001, 2] {
        timeout(SOON, first.sender().send(&next, bytes)).await.unwrap().unwrap();
    }
    assert_eq!(failed.try_iter().collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_that_is_not_there_is_an_error_and_not_a_wait() {
    let gone = floor().await;
    let address = gone.address().to_owned();
    drop(gone);
    let (one, middle) = (floor().await, floor().await);
    assert!(timeout(SOON, one.sender().send("/ip4/127.0.0.1/udp/9/quic-v1", 1)).await.unwrap().is_err());
    let next = middle.address().to_owned();
    tokio::spawn(async move { middle.serve(Some(&address), drop).await });
    assert!(timeout(SOON * 2, one.sender().send(&next, 1)).await.unwrap().is_err());
}
