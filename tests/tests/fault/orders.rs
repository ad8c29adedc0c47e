//! Orders to erase that are not the owner's word (case 45), at a real vendor and at its mirror.

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::fat::{ChunkRef, FileMeta, FinalFat, Follows, Manifest, Place, Tag, Use};
use fathom_protocol::ids::{ChunkId, FileId};
use fathom_protocol::sign::Carried;
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{RefusalKind, Request, Response};
use fathom_tests::{random_bytes, wait_until};

use crate::crafted::{Client, Slot, bounded, forge, id, now};
use crate::stage::Stage;
use crate::world::parts;

const LENGTH: u32 = 100_000;

/// A final FAT of the crafted file that uses `slot`, with a manifest that holds together.
fn commit(client: &Client, slot: &Slot, chunk: ChunkId) -> FinalFat {
    let file = FileId([1; 16]);
    let meta = FileMeta {
        name: fathom_tests::samples::text("crafted"),
        size: u64::from(LENGTH),
        mode: 0o644,
        modified: now(),
        chunk_plain: LENGTH,
    };
    let place = Place { vendor: slot.vendor, lease: slot.lease().id };
    let chunks = [ChunkRef { id: chunk, salt: [0; 8], copies: vec![0] }];
    let manifest = Manifest::new(meta, [0; 32], vec![place], 1, &chunks).unwrap();
    let body = client.keys.seal_manifest(&manifest, file, seq(1), [4; 24]).unwrap();
    FinalFat {
        version: VERSION,
        owner: client.keys.owner(),
        file,
        seq: seq(1),
        base: seq(1),
        follows: Follows::default(),
        uses: bounded(vec![Use { vendor: slot.vendor, lease: place.lease, bytes: u64::from(LENGTH), unused: 0 }]),
        frees: Bounded::default(),
        issued: now(),
        order_expires: now().plus_seconds(86_400),
        body,
    }
}

fn seq(counter: u64) -> u64 {
    Tag::new(counter, 0).0
}

/// The order to erase all of that.
fn release(fat: &FinalFat) -> FinalFat {
    let frees = bounded(vec![fat.uses[0].vendor]);
    let (seq, follows) = (seq(2), Follows::all_of([fat.lineage()], None));
    FinalFat { seq, base: seq, follows, uses: Bounded::default(), frees, body: Blob::default(), ..fat.clone() }
}

#[test]
fn fault_45_forged_foreign_and_expired_erase_orders_leave_the_data_alone() {
    let stage = Stage::set("fault 45");
    let mirror = stage.net.with_role("mirror").next().unwrap().clone();
    let (owner, thief) = (&stage.client, Client::new(&stage.net, "fault 45 thief"));
    let room = stage.lock(u64::from(LENGTH));
    let chunk = random_bytes("fault 45", LENGTH as usize);
    let chunk_id = ChunkId::of(&chunk);
    owner.store(&stage.vendor, &owner.header(&chunk, &[&room]), &chunk).stored();
    let fat = commit(owner, &room, chunk_id);
    let submit = |client: &Client, fat: Carried<FinalFat>| match client
        .call(&mirror, &Request::SubmitFats(bounded(vec![fat])))
    {
        Response::Submitted(results) => results[0].as_ref().map(|refusal| refusal.kind),
        Response::Refused(refusal) => Some(refusal.kind),
        other => panic!("{other:?}"),
    };
    let order = |client: &Client, fat: Carried<FinalFat>| match client
        .call(&stage.vendor, &Request::Order(Bounded::first([fat])))
    {
        Response::Done => None,
        Response::Refused(refusal) => Some(refusal.kind),
        other => panic!("{other:?}"),
    };
    assert_eq!(submit(owner, forge(&fat, owner.keys.signing())), None);
    assert_eq!(order(owner, forge(&fat, owner.keys.signing())), None);
    let (before, held) = (stage.held(), parts(&stage.vendor).len());

    let good = release(&fat);
    let (mine, theirs) = (owner.keys.signing(), thief.keys.signing());
    let wrong_version = FinalFat { version: VERSION + 1, ..good.clone() };
    let foreign = FinalFat { owner: thief.keys.owner(), ..good.clone() };
    let expired = FinalFat { order_expires: UNIX_START, ..good.clone() };
    let empty_handed =
        FinalFat { frees: Bounded::default(), follows: Follows::default(), seq: 0, base: 0, ..good.clone() };
    let contradictory = FinalFat { base: 3, ..good.clone() };
    let cases = [
        ("forged by somebody else", forge(&good, theirs), Some(RefusalKind::NotAuthorised)),
        ("expired", forge(&expired, mine), Some(RefusalKind::LeaseExpired)),
        ("of another version", forge(&wrong_version, mine), Some(RefusalKind::Version)),
        ("that contradicts itself", forge(&contradictory, mine), Some(RefusalKind::BadRequest)),
        // Signed as it should be, by somebody whose file it is not: it concerns nothing here.
        ("of another user's file of that name", forge(&foreign, theirs), None),
        ("older than what is known", forge(&empty_handed, mine), None),
    ];
    for (what, fat, kind) in cases {
        for client in [owner, &thief] {
            assert_eq!(order(client, fat.clone()), kind, "an order {what}");
        }
        stage.untouched(&before);
        owner.read(&stage.vendor, chunk_id, LENGTH).unwrap();
    }
    assert_eq!(submit(&thief, forge(&good, theirs)), Some(RefusalKind::NotAuthorised), "a mirror took a forged order");
    owner.read(&stage.vendor, chunk_id, LENGTH).unwrap();
    // The thief may not even read it.
    assert_eq!(thief.read(&stage.vendor, chunk_id, LENGTH).unwrap_err().kind, RefusalKind::NotFound);

    // The owner's own word, through a mirror: everything goes.
    assert_eq!(submit(owner, forge(&good, mine)), None);
    wait_until("the vendor has erased the chunk", || {
        owner.read(&stage.vendor, chunk_id, LENGTH).is_err() && parts(&stage.vendor).len() + 2 == held
    });
    stage.check();
    assert_eq!(id(&stage.vendor), room.vendor);
}

/// Long before anything.
const UNIX_START: fathom_protocol::time::UnixMs = fathom_protocol::time::UnixMs(1);
