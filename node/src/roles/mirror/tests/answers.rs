//! Answers to users and vendors.

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::ids::{ChunkId, FileId, Hash};
use fathom_protocol::limits::SYNC_RECORDS_MAX;
use fathom_protocol::moves::CarriedMove;
use fathom_protocol::sign::Signed;
use fathom_protocol::table::Key;
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{FilesPage, LogCursor, OwnerQuery, RefusalKind, Request, Response, SyncRecord, Validation};

use super::support::{
    self, FakeVendor, MIB, TestMirror, fat, key, kind, moved, node, owner, plain_vendor, records, until,
};
use crate::clock;

const NO_LOG: Hash = Hash([0; 32]);

fn query(mirror: &TestMirror, seed: u8, file: Option<u8>, since: Option<LogCursor>, after: Option<Key>) -> Request {
    let user = key(seed);
    let query = OwnerQuery {
        version: VERSION,
        owner: owner(&user),
        mirror: mirror.net.me(),
        files: Bounded::first(file.map(|file| FileId([file; 16]))),
        since,
        after: after.map(|key| Blob::new(key.to_bytes()).unwrap()),
        expires: clock::now().plus_seconds(60),
    };
    Request::FatsOf(Signed::sign(query, &user).unwrap().into_carried())
}

async fn page(mirror: &TestMirror, request: Request) -> FilesPage {
    match mirror.ask(request).await {
        Response::Files(page) => page,
        other => panic!("{other:?}"),
    }
}

/// Everything of a user's, page by page, and where its log was when that began.
async fn whole(mirror: &TestMirror, seed: u8, file: Option<u8>) -> (Vec<SyncRecord>, LogCursor, usize) {
    let (mut all, mut after, mut began, mut pages) = (Vec::new(), None, None, 0);
    loop {
        let page = page(mirror, query(mirror, seed, file, None, after)).await;
        assert!(page.whole);
        pages += 1;
        all.extend(page.records);
        let began = *began.get_or_insert(page.cursor);
        if !page.more {
            return (all, began, pages);
        }
        after = page.after.and_then(|after| Key::of_file(&after));
    }
}

fn moves(records: &[SyncRecord]) -> usize {
    records.iter().filter(|record| matches!(record, SyncRecord::Move(_))).count()
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
    let (all, _, pages) = whole(&mirror, 50, None).await;
    assert_eq!((files(&all), moves(&all), pages), ((0..8).collect::<Vec<u8>>(), 3, 4));
    let (one, ..) = whole(&mirror, 50, Some(4)).await;
    assert_eq!((files(&one), one.len()), (vec![4], 4));
    assert!(matches!(one[0], SyncRecord::Fat(_)), "the final FAT comes first");
    assert!(whole(&mirror, 50, Some(99)).await.0.is_empty());

    let other = TestMirror::start(142, 3600, false).await;
    let answer = mirror.ask(query(&other, 50, None, None, None)).await;
    assert_eq!(kind(&answer), Some(RefusalKind::NotAuthorised));
}

/// Once, a file with more moves than a page holds lost those that came after.
#[tokio::test]
async fn a_file_with_more_moves_than_a_page_holds_is_read_whole() {
    let mirror = TestMirror::start(143, 3600, false).await;
    let user = key(50);
    assert_eq!(mirror.submit(fat(&user, 1, 1, 1, &[node(&key(1))], 10)).await, None);
    let count = SYNC_RECORDS_MAX + 3;
    for chunk in 0..count {
        let moved = support::moved_chunk(&user, 1, 1, ChunkId::of(&chunk.to_be_bytes()), &key(1), &key(2));
        assert_eq!(mirror.ask(Request::SubmitMove(moved)).await, Response::Done);
    }
    let (all, _, pages) = whole(&mirror, 50, Some(1)).await;
    assert_eq!((files(&all), moves(&all), pages), (vec![1], count, 2));
}

/// A user's catalogue goes on from where it read a mirror's log, gets only its own, and everything where the log is another.
#[tokio::test]
async fn a_user_reads_what_came_since_it_read_last() {
    let mirror = TestMirror::start(144, 3600, false).await;
    let (user, vendor) = (key(50), node(&key(1)));
    assert_eq!(mirror.submit(fat(&user, 1, 1, 1, &[vendor], 10)).await, None);
    let (all, began, _) = whole(&mirror, 50, None).await;
    assert_eq!(files(&all), [1]);
    let nothing = page(&mirror, query(&mirror, 50, None, Some(began), None)).await;
    assert_eq!((nothing.whole, nothing.records.len(), nothing.cursor, nothing.more), (false, 0, began, false));

    assert_eq!(mirror.submit(fat(&key(51), 9, 1, 1, &[vendor], 10)).await, None);
    assert_eq!(mirror.submit(fat(&user, 2, 1, 1, &[vendor], 10)).await, None);
    assert_eq!(mirror.ask(Request::SubmitMove(moved(&user, 1, 1, 1, &key(1), &key(2)))).await, Response::Done);
    let news = page(&mirror, query(&mirror, 50, None, Some(began), None)).await;
    assert_eq!((news.whole, files(&news.records), moves(&news.records)), (false, vec![2], 1));
    assert!(news.cursor.position > began.position);
    for strange in [LogCursor { log: Hash([9; 32]), ..began }, LogCursor { position: u64::MAX, ..began }] {
        let all = page(&mirror, query(&mirror, 50, None, Some(strange), None)).await;
        assert_eq!((all.whole, files(&all.records)), (true, vec![1, 2]));
    }
}

/// Two devices of one user store a file at the same time: both final FATs are kept and given out, whatever their order, after a
/// restart too, and their vendors are told of both.
#[tokio::test]
async fn fault_47_a_mirror_keeps_and_shows_both_versions() {
    let mirror = TestMirror::start(145, 3600, false).await;
    let user = key(50);
    let (a, b) = (node(&key(1)), node(&key(2)));
    assert_eq!(mirror.submit(fat(&user, 1, 1, 1, &[a], 10)).await, None);
    let other = fat(&user, 1, 1, 1, &[b], 10);
    for _ in 0..2 {
        let forked = mirror.submit(other.clone()).await;
        assert_eq!(forked.map(|refusal| refusal.kind), Some(RefusalKind::Forked));
    }
    assert_eq!(files(&whole(&mirror, 50, Some(1)).await.0), [1, 1]);
    for vendor in [a, b] {
        let orders = records(mirror.ask(Request::Orders { vendor, log: NO_LOG, cursor: 0 }).await);
        assert_eq!(files(&orders), [1, 1], "which of them names its chunks is the vendor's to see");
    }
    // What kill -9 at this moment would leave.
    let left = tempfile::TempDir::new().unwrap();
    let copy = left.path().join("fat.redb");
    std::fs::copy(mirror.file(), &copy).unwrap();
    let (_, content) = super::super::store::Store::open(&copy).unwrap();
    assert_eq!(content.table.digest(), mirror.mirror.digest());
    assert_eq!(content.table.versions(owner(&user), FileId([1; 16])).count(), 2);

    assert_eq!(mirror.submit(fat(&user, 1, 2, 2, &[], 0)).await, None);
    assert_eq!(whole(&mirror, 50, None).await.0.len(), 1, "a choice replaces both");
    for vendor in [a, b] {
        assert_eq!(files(&records(mirror.ask(Request::Orders { vendor, log: NO_LOG, cursor: 0 }).await)), [1]);
    }
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

/// A vendor that was put back to a backup moves a chunk out of a lease again. Mirrors keep one of the two moves, whichever comes first;
/// what is said of the file reaches both destinations, since both have the chunk.
#[tokio::test]
async fn fault_24_who_took_a_chunk_by_a_move_that_is_not_kept_sees_its_release() {
    let mirror = TestMirror::start(152, 3600, false).await;
    let user = key(50);
    for (file, kept_first) in [(1, true), (2, false)] {
        assert_eq!(mirror.submit(fat(&user, file, 1, 1, &[node(&key(1))], 10)).await, None);
        let mut moves = [key(2), key(3)].map(|to| moved(&user, file, 1, 5, &key(1), &to));
        // The one with the smaller hash is kept.
        moves.sort_by_key(CarriedMove::hash);
        if !kept_first {
            moves.reverse();
        }
        let second = kept_first.then_some(RefusalKind::Conflict);
        for (moved, answer) in moves.into_iter().zip([None, second]) {
            assert_eq!(kind(&mirror.ask(Request::SubmitMove(moved)).await), answer);
        }
        assert_eq!(mirror.submit(fat(&user, file, 2, 2, &[], 0)).await, None);
        for vendor in [node(&key(2)), node(&key(3))] {
            let orders = records(mirror.ask(Request::Orders { vendor, log: NO_LOG, cursor: 0 }).await);
            assert!(files(&orders).contains(&file), "{vendor} has the chunk and does not see the release");
        }
    }
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
            vendor: node(&key(seed)),
            good: Bounded::first([ChunkId([1; 32]), ChunkId([2; 32])]),
            bad: Bounded::first([ChunkId([3; 32])]),
            at: clock::now(),
        };
        Request::Validate(Bounded::first([Signed::sign(validation, &key(50)).unwrap().into_carried()]))
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
