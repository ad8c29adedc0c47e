//! Answers to users and vendors.

use fathom_protocol::codec::Bounded;
use fathom_protocol::ids::{ChunkId, FileId, Hash};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{OwnerQuery, RefusalKind, Request, Response, SyncRecord, Validation};

use super::support::{FakeVendor, MIB, TestMirror, fat, key, kind, moved, node, owner, plain_vendor, records, until};
use crate::clock;

const NO_LOG: Hash = Hash([0; 32]);

fn query(mirror: &TestMirror, seed: u8, file: Option<u8>, after: Option<FileId>) -> Carried<OwnerQuery> {
    let user = key(seed);
    let query = OwnerQuery {
        version: VERSION,
        owner: owner(&user),
        mirror: mirror.net.me(),
        file: file.map(|file| FileId([file; 16])),
        after,
        expires: clock::now().plus_seconds(60),
    };
    Signed::sign(query, &user).unwrap().into_carried()
}

fn files(records: &[SyncRecord]) -> Vec<u8> {
    let fats = records.iter().filter_map(|record| match record {
        SyncRecord::Fat(fat) => Some(fat.peek().unwrap().file.0[0]),
        _ => None,
    });
    fats.collect()
}

#[tokio::test]
async fn a_user_gets_all_its_files_page_by_page_with_their_moves() {
    let mirror = TestMirror::start(141, 3600, false).await;
    let (user, vendor) = (key(50), node(&key(1)));
    for file in 0..8 {
        assert_eq!(mirror.submit(fat(&user, file, 0, 0, &[vendor], 2_500_000)).await, None);
        assert_eq!(mirror.submit(fat(&key(51), file, 0, 0, &[vendor], 10)).await, None);
    }
    for chunk in 0..3 {
        let moved = moved(&user, 4, 0, chunk, &key(1), &key(2));
        assert_eq!(mirror.ask(Request::SubmitMove(moved)).await, Response::Done);
    }
    let (mut seen, mut moves, mut after, mut pages) = (Vec::new(), 0, None, 0);
    loop {
        let Response::Page(page) = mirror.ask(Request::FatsOf(query(&mirror, 50, None, after))).await else { panic!() };
        pages += 1;
        let found = files(&page.records);
        moves += page.records.iter().filter(|record| matches!(record, SyncRecord::Move(_))).count();
        after = found.last().map(|file| FileId([*file; 16]));
        seen.extend(found);
        if !page.more {
            break;
        }
    }
    assert_eq!((seen, moves, pages), ((0..8).collect::<Vec<u8>>(), 3, 4));
    let one = records(mirror.ask(Request::FatsOf(query(&mirror, 50, Some(4), None))).await);
    assert_eq!((files(&one), one.len()), (vec![4], 4));
    assert!(matches!(one[0], SyncRecord::Fat(_)), "the final FAT comes first");
    assert!(records(mirror.ask(Request::FatsOf(query(&mirror, 50, Some(99), None))).await).is_empty());

    let other = TestMirror::start(142, 3600, false).await;
    let answer = mirror.ask(Request::FatsOf(query(&other, 50, None, None))).await;
    assert_eq!(kind(&answer), Some(RefusalKind::NotAuthorised));
}

#[tokio::test]
async fn a_vendor_is_told_and_can_ask_for_what_concerns_it() {
    let mirror = TestMirror::start(151, 3600, false).await;
    let told = FakeVendor::start(1, "a", MIB, false, &mirror).await;
    let user = key(50);
    let (one, two, three) = (node(&key(1)), node(&key(2)), node(&key(3)));
    assert_eq!(mirror.submit(fat(&user, 1, 0, 0, &[one], 10)).await, None);
    assert_eq!(mirror.submit(fat(&user, 2, 0, 0, &[three], 10)).await, None);
    until("the vendor is told", || told.answers.orders.lock().unwrap().len() == 1).await;
    let orders = async |vendor, log, cursor| match mirror.ask(Request::Orders { vendor, log, cursor }).await {
        Response::Page(page) => (files(&page.records), page.log, page.next),
        other => panic!("{other:?}"),
    };
    let (found, log, cursor) = orders(one, NO_LOG, 0).await;
    assert_eq!(found, [1]);
    assert_eq!(orders(two, NO_LOG, 0).await.0, [0u8; 0]);
    assert_eq!(orders(one, log, cursor).await.0, [0u8; 0], "nothing new");
    assert_eq!(orders(one, log, cursor + 1000).await.0, [1], "a cursor that this log never reached starts over");

    // A move to the second vendor: it must learn of a final FAT that is older than its cursor.
    let carried = moved(&user, 1, 0, 5, &key(1), &key(2));
    assert_eq!(mirror.ask(Request::SubmitMove(carried.clone())).await, Response::Done);
    assert_eq!(orders(two, log, cursor).await.0, [1]);
    // The file is released: both holders must see it, although it names neither.
    let (_, _, cursor) = orders(two, log, cursor).await;
    assert_eq!(mirror.submit(fat(&user, 1, 1, 1, &[], 0)).await, None);
    assert_eq!((orders(one, log, cursor).await.0, orders(two, log, cursor).await.0), (vec![1], vec![1]));
    assert_eq!(orders(three, log, cursor).await.0, [0u8; 0]);
    until("the vendor is told of the release", || told.answers.orders.lock().unwrap().len() == 2).await;
    // A move that ended too late is refused, and its destination is shown the release.
    let (_, _, cursor) = orders(three, log, cursor).await;
    let late = moved(&user, 1, 0, 6, &key(1), &key(3));
    assert_eq!(kind(&mirror.ask(Request::SubmitMove(late)).await), Some(RefusalKind::Stale));
    assert_eq!(orders(three, log, cursor).await.0, [1]);
}

#[tokio::test]
async fn reports_validations_and_vendor_pages() {
    let mirror = TestMirror::start(161, 3600, false).await;
    let report = |seed, seq| match plain_vendor(seed, seq) {
        SyncRecord::Vendor(record) => Request::Report(record),
        _ => unreachable!(),
    };
    let newest = report(1, 2);
    assert_eq!(mirror.ask(newest.clone()).await, Response::Done);
    assert_eq!(mirror.ask(newest).await, Response::Done, "the same again");
    assert_eq!(kind(&mirror.ask(report(1, 1)).await), Some(RefusalKind::Stale));
    assert_eq!(mirror.ask(report(2, 1)).await, Response::Done);
    let first = records(mirror.ask(Request::Vendors { after: None }).await);
    assert_eq!(first.len(), 2);
    let SyncRecord::Vendor(vendor) = &first[0] else { panic!() };
    let after = Some(vendor.head.peek().unwrap().vendor);
    assert_eq!(records(mirror.ask(Request::Vendors { after }).await), first[1..]);
    let wanted = Request::Heads(Bounded::first([vendor.head.peek().unwrap().vendor, node(&key(9))]));
    assert_eq!(
        mirror.ask(wanted).await,
        Response::Heads(Bounded::first([vendor.head.clone()])),
        "those that are known"
    );

    let validation = |seed| {
        let validation = Validation {
            version: VERSION,
            owner: owner(&key(50)),
            file: FileId([1; 16]),
            vendor: node(&key(seed)),
            good: Bounded::first([ChunkId([1; 32]), ChunkId([2; 32])]),
            bad: Bounded::first([ChunkId([3; 32])]),
            at: clock::now(),
        };
        Request::Validate(Signed::sign(validation, &key(50)).unwrap().into_carried())
    };
    assert_eq!(mirror.ask(validation(1)).await, Response::Done);
    assert_eq!(kind(&mirror.ask(validation(9)).await), Some(RefusalKind::NotFound));
    assert_eq!(kind(&mirror.ask(Request::Ping).await), Some(RefusalKind::WrongRole));
    let view = mirror.mirror.view();
    let vendors = view["vendors"].as_array().unwrap();
    let judged = vendors.iter().find(|vendor| vendor["vendor"] == node(&key(1)).to_string()).unwrap();
    assert_eq!((judged["good"].as_u64(), judged["bad"].as_u64()), (Some(2), Some(1)));
    assert_eq!((judged["seq"].as_u64(), judged["zone"].as_str()), (Some(2), Some("zone")));
    assert_eq!(view["digest"], mirror.mirror.digest().digest.to_string());
}
