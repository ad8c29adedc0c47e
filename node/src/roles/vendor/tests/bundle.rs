//! Several chunks on one stream.

use fathom_protocol::limits::{BUNDLE_CHUNKS_MAX, CHUNK_BYTES_MAX, HEADER_BYTES_MAX};

use super::*;

/// What was said of chunk `number`.
fn of(said: &[Numbered], number: u8) -> Vec<ChunkAnswer> {
    said.iter().filter(|said| said.number == number).map(|said| said.answer.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_on_one_stream_each_have_their_own_answers() {
    let user = TestUser::start(120).await;
    let vendors = [TestVendor::start(121).await, TestVendor::start(122).await];
    let bodies: Vec<Vec<u8>> = (0..4).map(|seed| bytes(50_000 + usize::from(seed), seed)).collect();
    // Room for two of them at the first vendor, for all at the second.
    let stops = [user.lock(&vendors[0], 100_001).await, user.lock(&vendors[1], MIB).await];
    let headers: Vec<Header> = bodies.iter().map(|body| user.header(body, &[&stops[0], &stops[1]])).collect();
    let mut sent = bodies.concat();
    // The last one is not what was announced.
    *sent.last_mut().unwrap() ^= 1;
    let said = user.send_many(vendors[0].node(), headers.clone(), &sent).await;
    assert_eq!(said.len(), 8, "{said:?}");
    let (a, b) = (vendors[0].node(), vendors[1].node());
    for number in 0..2 {
        let receipts = receipts(&of(&said, number));
        assert!(receipts.iter().all(|receipt| receipt.chunk == ChunkId::of(&bodies[usize::from(number)])));
        assert_eq!(receipts.iter().map(|receipt| receipt.vendor).collect::<BTreeSet<_>>(), BTreeSet::from([a, b]));
    }
    let refused = of(&said, 2);
    assert_eq!(failures(&refused), [(a, RefusalKind::OverLease)]);
    assert_eq!(receipts(&refused).iter().map(|receipt| receipt.vendor).collect::<Vec<_>>(), [b], "b has room for it");
    let mut wrong = failures(&of(&said, 3));
    wrong.sort_by_key(|(vendor, _)| *vendor != a);
    assert_eq!(wrong, [(a, RefusalKind::OverLease), (b, RefusalKind::WrongHash)]);
    assert_eq!(vendors[0].counts(), (2, 2, 100_001, 100_001));
    assert_eq!(vendors[1].counts(), (3, 3, 150_003, MIB));

    // Once more: those that are there answer with the same receipts, and nothing is counted twice.
    let again = user.send_many(a, headers[..2].to_vec(), &bodies[..2].concat()).await;
    for number in 0..2 {
        let both = [of(&said, number), of(&again, number)].map(|answers| {
            receipts(&answers).into_iter().map(|receipt| (receipt.vendor, codec::encode(receipt.carried()))).collect()
        });
        let [first, second]: [BTreeSet<_>; 2] = both;
        assert_eq!(first, second);
    }
    assert_eq!(vendors[1].counts(), (3, 3, 150_003, MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_33_chunks_that_go_different_ways_are_refused_and_nobody_is_dialled() {
    let user = TestUser::start(123).await;
    let vendors = [TestVendor::start(124).await, TestVendor::start(125).await];
    let stops = [user.lock(&vendors[0], MIB).await, user.lock(&vendors[1], MIB).await];
    let bodies = [bytes(1_000, 1), bytes(2_000, 2)];
    let headers = vec![user.header(&bodies[0], &[&stops[0], &stops[1]]), user.header(&bodies[1], &[&stops[0]])];
    let said = user.send_many(vendors[0].node(), headers, &bodies.concat()).await;
    for number in 0..2 {
        assert_eq!(failures(&of(&said, number)), [(vendors[0].node(), RefusalKind::BadRequest)]);
    }
    // One hop that its owner did not sign spoils all.
    let good = user.header(&bodies[0], &[&stops[0]]);
    let mut forged = codec::encode(&user.header(&bodies[1], &[&stops[0]]));
    *forged.last_mut().unwrap() ^= 1;
    let forged = codec::decode(&forged, HEADER_BYTES_MAX).unwrap();
    let said = user.send_many(vendors[0].node(), vec![good, forged], &bodies.concat()).await;
    assert_eq!(failures(&of(&said, 0)), [(vendors[0].node(), RefusalKind::NotAuthorised)]);
    for vendor in &vendors {
        assert_eq!(vendor.counts().0, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_36_more_chunks_or_bytes_than_a_stream_takes_are_refused() {
    let user = TestUser::start(127).await;
    let vendor = TestVendor::start(128).await;
    let stop = user.lock(&vendor, 8 * MIB).await;
    let body = bytes(1_000, 1);
    let header = user.header(&body, &[&stop]);
    let kinds = |said: &[Numbered]| failures(&of(said, 0)).into_iter().map(|(_, kind)| kind).collect::<Vec<_>>();
    for count in [0, BUNDLE_CHUNKS_MAX + 1] {
        let said = user.send_many(vendor.node(), vec![header.clone(); count], &body.repeat(count)).await;
        assert_eq!(kinds(&said), [RefusalKind::BadRequest], "{count} chunks");
    }
    let long = bytes(CHUNK_BYTES_MAX - body.len() + 1, 2);
    let headers = vec![header.clone(), user.header(&long, &[&stop])];
    let said = user.send_many(vendor.node(), headers, &[body.clone(), long.clone()].concat()).await;
    assert_eq!(kinds(&said), [RefusalKind::BadRequest]);
    assert_eq!(vendor.counts().0, 0);
    let fits = &long[1..];
    let headers = vec![header, user.header(fits, &[&stop])];
    let said = user.send_many(vendor.node(), headers, &[&body, fits].concat()).await;
    assert_eq!(said.iter().filter(|said| matches!(said.answer, ChunkAnswer::Receipt(_))).count(), 2, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_01_chunks_that_break_off_leave_nothing() {
    let user = TestUser::start(129).await;
    let vendor = TestVendor::start(130).await;
    let stop = user.lock(&vendor, MIB).await;
    let bodies = [bytes(60_000, 1), bytes(60_000, 2)];
    let headers: Vec<Header> = bodies.iter().map(|body| user.header(body, &[&stop])).collect();
    let cut = &bodies.concat()[..100_000];
    let said = user.send_opening(vendor.node(), &codec::encode(&headers), cut, true).await;
    for number in 0..2 {
        assert_eq!(failures(&of(&said, number)), [(vendor.node(), RefusalKind::WrongLength)]);
    }
    assert_eq!(vendor.counts(), (0, 0, 0, MIB), "the room is free again");
    let said = user.send_many(vendor.node(), headers, &bodies.concat()).await;
    assert_eq!(said.len(), 2);
    assert_eq!(vendor.counts().0, 2);
}
