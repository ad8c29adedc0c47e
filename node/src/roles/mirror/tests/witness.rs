//! Heads that prove their leases, and vendors that break their word.

use std::sync::Arc;

use fathom_overlay::Verdict;
use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::delta::VendorDelta;
use fathom_protocol::head::{Addresses, VendorRecord};
use fathom_protocol::ids::{FileId, LeaseId, NodeId};
use fathom_protocol::keys::Phrase;
use fathom_protocol::lease::{Lease, LeaseState, Named};
use fathom_protocol::ledger::{Ledger, Terms};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::table::DROPPED_GRACE_MS;
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{Gossip, Refusal, RefusalKind, Request, Response, Roles, SyncRecord};

use super::allocation::{request, sign};
use super::support::{
    MIB, TestMirror, acquaint, fat, file_in, key, kind, node, owner, records, start, until, vendor_record,
};
use crate::clock;
use crate::net::{Handler, serve_rpc};
use crate::roles::mirror::Mirror;
use crate::roles::user::{User, UserSettings};

/// Vendor 1 at head `seq` with committed leases called `ids`, in which the final FAT `named` is noted.
fn vendor(seq: u64, zone: &str, ids: &[u8], named: Option<Named>) -> VendorRecord {
    let lease = |id: &u8| Lease {
        version: VERSION,
        vendor: node(&key(1)),
        id: LeaseId([*id; 16]),
        revision: 0,
        owner: owner(&key(50)),
        authority: owner(&key(50)).into(),
        bytes: MIB,
        used: MIB,
        state: LeaseState::Committed,
        room_expires: clock::now().plus_seconds(3600),
        expires: clock::now().plus_seconds(3600),
        named,
    };
    let ledger = Ledger::open(key(1), Terms::default(), 100 * MIB, ids.iter().map(lease).collect()).unwrap();
    vendor_record(&key(1), seq, zone, &ledger, Addresses::default())
}

async fn report(mirror: &TestMirror, record: VendorRecord) {
    assert_eq!(mirror.ask(Request::Report(record)).await, Response::Done);
}

#[tokio::test]
async fn a_mirror_proves_a_lease_and_that_there_is_none() {
    let mirror = TestMirror::start(221, 3600, false).await;
    report(&mirror, vendor(1, "a", &[1, 2, 5], None)).await;
    let (me, two, four) = (node(&key(1)), LeaseId([2; 16]), LeaseId([4; 16]));
    let ask = async |vendor, lease| mirror.ask(Request::LeaseOf { vendor, lease }).await;
    for vendor in [Some(me), None] {
        let Response::Lease(evidence) = ask(vendor, two).await else { panic!("no evidence") };
        assert_eq!(evidence.verify(vendor, two).unwrap().lease.unwrap().id, two);
    }
    let Response::Lease(evidence) = ask(Some(me), four).await else { panic!("no evidence") };
    assert!(evidence.verify(Some(me), four).unwrap().lease.is_none());
    assert_eq!(kind(&ask(None, four).await), Some(RefusalKind::NotFound));
    assert_eq!(kind(&ask(Some(node(&key(2))), two).await), Some(RefusalKind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_is_taken_over_its_base_and_spread_as_it_came() {
    let mirror = TestMirror::start(222, 3600, false).await;
    let (old, new) = (vendor(1, "a", &[1, 2], None), vendor(2, "a", &[2, 3], None));
    let delta = VendorDelta::between(&old.clone().verify().unwrap(), &new.clone().verify().unwrap()).unwrap();
    let tell = Request::ReportDelta(delta.clone());
    assert_eq!(kind(&mirror.ask(tell.clone()).await), Some(RefusalKind::NotFound), "nothing is known yet");
    report(&mirror, old.clone()).await;
    assert_eq!(mirror.ask(tell.clone()).await, Response::Done);
    assert_eq!(mirror.ask(tell).await, Response::Done, "twice is once");
    let page = records(mirror.ask(Request::VendorOf(node(&key(1)))).await);
    assert_eq!(page, [SyncRecord::Vendor(new)], "kept as a whole record");

    let other = TestMirror::start(223, 3600, false).await;
    let gossip = codec::encode(&Gossip::Delta(Box::new(delta.clone())));
    assert_eq!(other.mirror.judge(node(&key(7)), &gossip).await, Verdict::Ignore, "the base is not here");
    report(&other, old).await;
    let gone = Bounded::first([LeaseId([2; 16])]);
    let forged = codec::encode(&Gossip::Delta(Box::new(VendorDelta { gone, ..delta })));
    assert_eq!(other.mirror.judge(node(&key(7)), &forged).await, Verdict::Reject, "it leaves a lease out");
    assert_eq!(other.mirror.judge(node(&key(7)), &gossip).await, Verdict::Accept);
    assert_eq!(other.mirror.judge(node(&key(7)), &gossip).await, Verdict::Ignore, "known");
    assert_eq!(other.mirror.digest(), mirror.mirror.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_25_two_vendors_with_one_key_are_quarantined_at_all_mirrors() {
    let (a, b) = (TestMirror::start(224, 1, false).await, TestMirror::start(225, 1, false).await);
    // Each node reports where the other is not known yet.
    report(&a, vendor(5, "here", &[1], None)).await;
    report(&b, vendor(5, "there", &[1], None)).await;
    assert_eq!((a.mirror.digest().proofs, b.mirror.digest().proofs), (0, 0));
    acquaint(&a.net, &b.net).await;
    until("both have the proof", || a.mirror.digest().proofs == 1 && b.mirror.digest() == a.mirror.digest()).await;
    for mirror in [&a, &b] {
        let ask = Request::Allocate(sign(request(&key(50), 1, 1, MIB), &key(50)));
        assert_eq!(kind(&mirror.ask(ask).await), Some(RefusalKind::TooFewVendors), "it is given nothing new");
        let view = mirror.mirror.view();
        assert_eq!(view["vendors"][0]["quarantined"]["offence"], "twins");
        let reason = view["vendors"][0]["quarantined"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("only one node with a key") && reason.contains("fathom init"), "{reason}");
        // What is merged is on the disk, from which this is answered, a moment later.
        let mut proofs = Vec::new();
        for _ in 0..500 {
            proofs = records(mirror.ask(Request::Proofs(Bounded::default())).await);
            if !proofs.is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let [SyncRecord::Proof(proof)] = proofs.as_slice() else { panic!("{proofs:?}") };
        assert_eq!(proof.clone().verify().unwrap().vendor(), node(&key(1)));
    }
    // A later head clears nothing, and a restart forgets nothing.
    report(&a, vendor(6, "here", &[1], None)).await;
    assert_eq!(a.mirror.digest().proofs, 1);
    let (_, content) = super::super::store::Store::open(&b.copy()).unwrap();
    assert!(content.table.quarantined(node(&key(1))).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_26_a_dropped_lease_is_proven_and_a_release_clears_it() {
    let (a, b) = (TestMirror::start(226, 1, false).await, TestMirror::start(227, 1, false).await);
    let user = key(50);
    let first: Carried<_> = fat(&user, 1, 1, 1, &[node(&key(1))], 100);
    let hash = Signed::hash(&first.clone().verify().unwrap());
    let named = Some(Named { file: FileId([1; 16]), fat: hash });
    assert_eq!(a.submit(first).await, None);
    report(&a, vendor(1, "a", &[1, 2], named)).await;
    report(&a, vendor(2, "a", &[2], named)).await;
    a.mirror.accuse(clock::now()).await;
    assert_eq!(a.mirror.digest().proofs, 0, "the release may be on its way");
    a.mirror.accuse(clock::now().plus_ms(DROPPED_GRACE_MS + 1000)).await;
    assert_eq!(a.mirror.digest().proofs, 1);
    assert_eq!(a.mirror.view()["vendors"][0]["quarantined"]["offence"], "dropped");
    acquaint(&a.net, &b.net).await;
    until("the other mirror accepts the proof", || b.mirror.digest() == a.mirror.digest()).await;
    assert_eq!(b.mirror.digest().proofs, 1);
    // The owner stores the file elsewhere, or releases it: nothing is missing any more.
    assert_eq!(b.submit(fat(&user, 1, 2, 2, &[], 0)).await, None);
    until("both have cleared the vendor", || a.mirror.digest().proofs + b.mirror.digest().proofs == 0).await;
    until("both are equal", || a.mirror.digest() == b.mirror.digest()).await;
}

/// The mirror as it is after a kill and a restart: nothing is left but its file.
async fn restarted(mirror: &TestMirror, seed: u8) -> TestMirror {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(file_in(dir.path()).parent().unwrap()).unwrap();
    std::fs::copy(mirror.file(), file_in(dir.path())).unwrap();
    TestMirror::open(dir, seed, 3600, false).await
}

/// Once, a mirror that restarted within the grace forgot what it had seen, and the newer head alone proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn fault_26_a_dropped_lease_is_proven_also_by_a_mirror_that_restarted() {
    let mirror = TestMirror::start(228, 3600, false).await;
    let user = key(50);
    let first: Carried<_> = fat(&user, 1, 1, 1, &[node(&key(1))], 100);
    let named = Some(Named { file: FileId([1; 16]), fat: Signed::hash(&first.clone().verify().unwrap()) });
    assert_eq!(mirror.submit(first).await, None);
    report(&mirror, vendor(1, "a", &[1, 2], named)).await;
    report(&mirror, vendor(2, "a", &[2], named)).await;
    let waiting = |mirror: &TestMirror| super::super::store::Store::open(&mirror.copy()).unwrap().1.suspicions.len();
    let later = || clock::now().plus_ms(DROPPED_GRACE_MS + 1000);

    let again = restarted(&mirror, 229).await;
    again.mirror.accuse(clock::now()).await;
    assert_eq!((again.mirror.digest().proofs, waiting(&again)), (0, 1), "the release may be on its way");
    again.mirror.accuse(later()).await;
    assert_eq!((again.mirror.digest().proofs, waiting(&again)), (1, 0));
    let third = restarted(&again, 230).await;
    assert_eq!(third.mirror.digest().proofs, 1);

    // Where the release comes after the restart, nothing is proven, and nothing waits any more.
    let other = restarted(&mirror, 234).await;
    assert_eq!(other.submit(fat(&user, 1, 2, 2, &[], 0)).await, None);
    other.mirror.accuse(later()).await;
    assert_eq!((other.mirror.digest().proofs, waiting(&other)), (0, 0));
}

/// A mirror that leaves the last lease of each vendor out.
struct Liar(Arc<Mirror>);

impl Handler for Liar {
    async fn handle(&self, from: NodeId, request: Request) -> Response {
        let Response::Page(mut page) = self.0.handle(from, request).await else {
            return Response::Refused(Refusal::new(RefusalKind::Busy, "only pages"));
        };
        let cut = |record| match record {
            SyncRecord::Vendor(mut record) => {
                let mut leases = record.leases.into_vec();
                leases.pop();
                record.leases = Bounded::first(leases);
                SyncRecord::Vendor(record)
            }
            other => other,
        };
        page.records = Bounded::first(page.records.into_vec().into_iter().map(cut));
        Response::Page(page)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_28_a_lease_left_out_is_seen_and_the_client_goes_to_another_mirror() {
    let honest = TestMirror::start(231, 3600, false).await;
    report(&honest, vendor(1, "a", &[1, 2], None)).await;
    let (liar, mut incoming) = start(232, Roles { mirror: true, ..Roles::default() }, false).await;
    let lying = Arc::new(Liar(Arc::clone(&honest.mirror)));
    tokio::spawn(async move {
        while let Some(inbound) = incoming.streams.recv().await {
            let lying = Arc::clone(&lying);
            tokio::spawn(async move { serve_rpc(inbound.stream, &*lying).await });
        }
    });
    let (net, _incoming) = start(233, Roles { user: true, ..Roles::default() }, false).await;
    let dir = tempfile::tempdir().unwrap();
    let keys = Phrase::from_entropy([7; 32]).user_keys();
    let user = User::open(dir.path(), net.clone(), keys, UserSettings::TEST).unwrap();
    acquaint(&net, &liar).await;
    let refused = user.explain(None).await.unwrap_err().to_string();
    assert!(refused.contains("the leases are not those that the head commits to"), "{refused}");
    acquaint(&net, &honest.net).await;
    let path = user.explain(None).await.unwrap();
    assert_eq!(path.vendors.len(), 1);
    assert_eq!(path.vendors[0].vendor, node(&key(1)).to_string());
}
