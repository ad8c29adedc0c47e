//! Every variant of every message, with the name of its golden file.

use fathom_protocol::codec::Blob;
use fathom_protocol::ids::{Fingerprint, Hash, LeaseId, SessionKey};
use fathom_protocol::reconcile::{Ask, Below, Compare, Compared, Probe, Wanted};
use fathom_protocol::table::Key;
use fathom_protocol::table::index::Prefix;
use fathom_protocol::wire::{
    ChunkAnswer, ChunkAnswers, FetchAnswer, FilesPage, Gossip, Location, LogCursor, Numbered, Page, ProvisionalFat,
    Request, Response, SyncRecord, TableDigest,
};

use super::*;

/// Every variant of [`SyncRecord`], with its name.
#[must_use]
pub fn sync_records() -> Vec<(&'static str, SyncRecord)> {
    vec![
        ("sync_vendor", SyncRecord::Vendor(vendor_record(1, 17))),
        ("sync_fat", SyncRecord::Fat(by_user(final_fat()).into_carried())),
        ("sync_fat_release", SyncRecord::Fat(by_user(release()).into_carried())),
        ("sync_move", SyncRecord::Move(cosigned_move())),
        ("sync_proof_twins", SyncRecord::Proof(Box::new(twins()))),
        ("sync_proof_dropped", SyncRecord::Proof(Box::new(dropped()))),
    ]
}

/// Every variant of [`Request`], with its name.
#[must_use]
pub fn requests() -> Vec<(&'static str, Request)> {
    let log = Hash::of(b"log");
    let fat = by_user(final_fat()).into_carried();
    let allocate = by_user(allocate()).into_carried();
    let compare = |probe| Request::Compare(Compare { session: SessionKey([8; 16]), probe });
    let ask = |depth, skip| Ask { prefix: Prefix::new(depth, 0xfedc_ba98_7654_3210), skip };
    let asks = vec![ask(0, 0), ask(1, 0), ask(4, 0), ask(5, 0), ask(16, 0), ask(16, 256)];
    vec![
        ("request_ping", Request::Ping),
        ("request_announce", Request::Announce(signed(peer(), &key(4)).into_carried())),
        ("request_report", Request::Report(vendor_record(1, 17))),
        ("request_report_delta", Request::ReportDelta(delta())),
        ("request_vendor_of", Request::VendorOf(node(1))),
        ("request_proofs", Request::Proofs(list(vec![node(1)]))),
        ("request_allocate", Request::Allocate(allocate.clone())),
        ("request_offer", Request::Offer { request: allocate, bytes: 4_195_328 }),
        ("request_submit_fats", Request::SubmitFats(list(vec![fat.clone()]))),
        ("request_fats_of", Request::FatsOf(by_user(query()).into_carried())),
        ("request_vendors", Request::Vendors { after: Some(node(1)) }),
        ("request_vendors_first", Request::Vendors { after: None }),
        ("request_heads", Request::Heads(list(vec![node(1), node(2)]))),
        ("request_since", Request::Since { log, cursor: 1 << 40 }),
        ("request_orders", Request::Orders { vendor: node(1), log, cursor: 12 }),
        ("request_order", Request::Order(Bounded::first([fat]))),
        ("request_cosign", Request::Cosign(proposed_move())),
        ("request_submit_move", Request::SubmitMove(cosigned_move())),
        ("request_validate", Request::Validate(Bounded::first([by_user(validation()).into_carried()]))),
        ("request_unused", Request::Unused(by_user(unused()).into_carried())),
        ("request_cancel", Request::Cancel(by_user(cancel()).into_carried())),
        ("request_renew", Request::Renew(by_user(renew()).into_carried())),
        ("request_digest", Request::Digest),
        ("request_compare_root", compare(Probe::Root(Fingerprint([9; 6])))),
        ("request_compare_parts", compare(Probe::Parts(list(asks)))),
        ("request_wanted", Request::Wanted(list(vec![Wanted(1 << 60, 0, None), Wanted(2, 300, Some((2, 17)))]))),
        ("request_lease_of", Request::LeaseOf { vendor: Some(node(1)), lease: LeaseId([2; 16]) }),
        ("request_lease_of_any", Request::LeaseOf { vendor: None, lease: LeaseId([2; 16]) }),
        ("request_rebuild", Request::Rebuild(Box::new(by_user(rebuild()).into_carried()))),
    ]
}

/// Every variant of [`Response`], with its name.
#[must_use]
pub fn responses() -> Vec<(&'static str, Response)> {
    let record = vendor_record(1, 17);
    let location = Location { column: 1, granted: 4_195_328, lease: record.leases[0].clone(), head: record.head };
    let provisional =
        ProvisionalFat { locations: list(vec![location]), warnings: list(vec![text("2 copies share zones")]) };
    let page = Page {
        log: Hash::of(b"log"),
        next: 13,
        more: true,
        clock: NOW,
        records: list(sync_records().into_iter().map(|(_, record)| record).collect()),
    };
    let parts = [&[0x80, 1][..], &[7; 12]].concat();
    let parts = Below::Parts(Blob::new(parts).expect("two parts"));
    let entries = Below::Entries(Blob::new(vec![5; 42]).expect("three entries"), true);
    let digest = TableDigest { digest: Hash::of(b"table"), heads: 6, leases: 12, files: 3, moves: 1, proofs: 1 };
    let files = FilesPage {
        cursor: LogCursor { log: Hash::of(b"log"), position: 13 },
        whole: true,
        after: Some(Blob::new(Key::Fat(user().owner(), file()).to_bytes()).expect("a key is short")),
        more: true,
        records: list(vec![SyncRecord::Fat(by_user(final_fat()).into_carried())]),
    };
    vec![
        ("response_alive", Response::Alive),
        ("response_done", Response::Done),
        ("response_peers", Response::Peers(list(vec![signed(peer(), &key(4)).into_carried()]))),
        ("response_provisional", Response::Provisional(provisional)),
        ("response_short", Response::Short { refusal: refusal(), asked: list(vec![node(1), node(2)]) }),
        (
            "response_offered",
            Response::Offered { lease: signed(lease(1, 1), &key(1)).into_carried(), granted: 4_195_328 },
        ),
        ("response_submitted", Response::Submitted(list(vec![None, Some(refusal())]))),
        ("response_records", Response::Page(page)),
        ("response_files", Response::Files(files)),
        ("response_heads", Response::Heads(list(vec![vendor_record(1, 17).head]))),
        ("response_cosigned", Response::Cosigned(cosigned_move())),
        ("response_digest", Response::Digest(digest)),
        ("response_compared_same", Response::Compared(Compared::Same)),
        ("response_compared", Response::Compared(Compared::Below(list(vec![parts, entries])))),
        ("response_lease", Response::Lease(Box::new(evidence(2)))),
        ("response_lease_absent", Response::Lease(Box::new(evidence(3)))),
        ("response_refused", Response::Refused(refusal())),
        ("response_stored", Response::Stored(signed(receipt(), &key(1)).into_carried())),
        ("response_here", Response::Here(coordinate())),
    ]
}

/// Every variant of [`ChunkAnswer`], with its name.
#[must_use]
pub fn chunk_answers() -> Vec<(&'static str, ChunkAnswer)> {
    vec![
        ("chunk_answer_alive", ChunkAnswer::Alive),
        ("chunk_answer_receipt", ChunkAnswer::Receipt(signed(receipt(), &key(1)).into_carried())),
        ("chunk_answer_failed", ChunkAnswer::Failed { vendor: node(2), refusal: refusal() }),
        ("chunk_answer_done", ChunkAnswer::Done),
    ]
}

/// A frame with every variant of [`ChunkAnswer`].
#[must_use]
pub(super) fn chunk_answers_frame() -> ChunkAnswers {
    let numbered = |(number, (_, answer)): (usize, (_, ChunkAnswer))| Numbered { number: number as u8, answer };
    list(chunk_answers().into_iter().enumerate().map(numbered).collect())
}

/// Every variant of [`FetchAnswer`], with its name.
#[must_use]
pub fn fetch_answers() -> Vec<(&'static str, FetchAnswer)> {
    vec![
        ("fetch_answer_alive", FetchAnswer::Alive),
        ("fetch_answer_found", FetchAnswer::Found { chunk_length: 66_568, encoded_length: 17_000 }),
        ("fetch_answer_refused", FetchAnswer::Refused(refusal())),
    ]
}

/// Every variant of [`Gossip`], with its name.
#[must_use]
pub fn gossips() -> Vec<(&'static str, Gossip)> {
    vec![
        ("gossip_record", Gossip::Record(Box::new(SyncRecord::Vendor(vendor_record(1, 17))))),
        (
            "gossip_records",
            Gossip::Records(Bounded::first([
                SyncRecord::Vendor(vendor_record(1, 17)),
                SyncRecord::Fat(by_user(final_fat()).into_carried()),
            ])),
        ),
        ("gossip_delta", Gossip::Delta(Box::new(delta()))),
        ("gossip_grew", Gossip::Grew { mirror: node(4), cursor: 12 }),
    ]
}
