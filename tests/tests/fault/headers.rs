//! Headers and bodies that no honest sender makes (cases 31 to 37 and 48), at a real vendor.
//!
//! A vendor that is named as the next hop is a [`Trap`]: it runs nowhere, its lease is good, and its port hears whether
//! anybody dialled.

use std::time::Duration;

use fathom_overlay::Proto;
use fathom_protocol::codec::encode;
use fathom_protocol::header::Hop;
use fathom_protocol::ids::ChunkId;
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{RefusalKind, Request, Response};
use fathom_tests::{random_bytes, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::crafted::{RawHeader, Slot, Trap, forge, id};
use crate::stage::Stage;
use crate::world::{kib, pid};

/// Bytes of a test's chunk.
const LENGTH: usize = 100_000;
/// Room that a test locks: several chunks.
const ROOM: u64 = 1_000_000;
/// How much memory a vendor's allocator and runtime may take on the way, in KiB.
const NOISE_KIB: u64 = 8 * 1024;

#[test]
fn fault_31_a_replayed_header_gets_the_same_receipt_and_counts_once() {
    let stage = Stage::set("fault 31");
    let chunk = random_bytes("fault 31", LENGTH);
    let header = stage.client.header(&chunk, &[&stage.lock(ROOM)]);
    let first = stage.client.store(&stage.vendor, &header, &chunk);
    let before = stage.held();
    let replay = async {
        futures::future::join_all((0..8).map(|_| stage.client.send(&stage.vendor, &header, &chunk, false))).await
    };
    for again in stage.client.run(replay) {
        assert_eq!(encode(again.stored()), encode(first.stored()), "another receipt");
    }
    stage.untouched(&before);
    stage.client.read(&stage.vendor, ChunkId::of(&chunk), LENGTH as u32).unwrap();
    stage.check();
}

#[test]
fn fault_32_reordered_and_swapped_hops_are_refused_and_nobody_is_dialled() {
    let stage = Stage::set("fault 32");
    let (client, room) = (&stage.client, stage.lock(ROOM));
    let (one, two) = (Trap::new("fault 32 one"), Trap::new("fault 32 two"));
    let (second, third) = (one.slot(client), two.slot(client));
    let chunk = random_bytes("fault 32", LENGTH);
    let other = random_bytes("fault 32 other", LENGTH);
    let hops = client.signed(&client.hops(&chunk, &[&room, &second, &third]));
    let [mine, next, last] = [&hops[0], &hops[1], &hops[2]].map(Clone::clone);
    let strange = client.signed(&client.hops(&other, &[&room, &second, &third]));
    let unsigned = |change: &dyn Fn(&mut Hop)| {
        let mut hop = client.hop(&chunk, 1, &second, Some(&third));
        change(&mut hop);
        // What the owner signed, carried with other content: the signature of a stranger.
        forge(&hop, &ed25519_dalek::SigningKey::from_bytes(&[9; 32]))
    };
    let cases = [
        ("the second first", vec![next.clone(), mine.clone(), last.clone()], RefusalKind::BadRequest),
        ("the last two swapped", vec![mine.clone(), last.clone(), next.clone()], RefusalKind::BadRequest),
        ("one left out", vec![mine.clone(), last.clone()], RefusalKind::BadRequest),
        ("the end cut off", vec![mine.clone(), next.clone()], RefusalKind::BadRequest),
        ("one of another chunk", vec![mine.clone(), strange[1].clone(), last.clone()], RefusalKind::BadRequest),
        ("one added", vec![mine.clone(), next.clone(), last.clone(), strange[2].clone()], RefusalKind::BadRequest),
        (
            "an address changed",
            vec![mine.clone(), unsigned(&|hop| hop.addresses = last.peek().unwrap().addresses), last.clone()],
            RefusalKind::NotAuthorised,
        ),
    ];
    let before = stage.held();
    for (what, hops, kind) in cases {
        let said = client.store(&stage.vendor, &RawHeader::of(hops), &chunk);
        assert_eq!(said.refused(), kind, "{what}: {said:?}");
        assert_eq!(said.failed[0].0, id(&stage.vendor), "{what}");
    }
    stage.untouched(&before);
    assert!(!one.dialled() && !two.dialled(), "a hop was dialled for a header that was refused");
    // The same hops in order: stored here, and only now somebody dials the next.
    let said = client.store(&stage.vendor, &RawHeader::of(hops), &chunk);
    assert_eq!(said.receipts.len(), 1, "{said:?}");
    assert!(one.dialled() && !two.dialled());
    stage.check();
}

#[test]
fn fault_33_a_destination_that_never_consented_is_not_dialled() {
    let stage = Stage::set("fault 33");
    let (client, room) = (&stage.client, stage.lock(ROOM));
    let (victim, other) = (Trap::new("fault 33"), Trap::new("fault 33 other"));
    let chunk = random_bytes("fault 33", LENGTH);
    let by_user = victim.unwilling(client, client.keys.signing());
    let by_other = Slot { lease: other.slot(client).lease, ..victim.slot(client) };
    let stranger = crate::crafted::Client::new(&stage.net, "fault 33 stranger");
    let for_other = Slot { lease: victim.slot(&stranger).lease, ..victim.slot(client) };
    let before = stage.held();
    for (what, slot) in
        [("signed by the user", by_user), ("of another vendor", by_other), ("for another user", for_other)]
    {
        let said = client.store(&stage.vendor, &client.header(&chunk, &[&room, &slot]), &chunk);
        assert_eq!(said.refused(), RefusalKind::NotAuthorised, "a lease {what}");
    }
    stage.untouched(&before);
    assert!(!victim.dialled(), "who never consented was dialled");
    // With its consent it is: the port would have heard.
    let said = client.store(&stage.vendor, &client.header(&chunk, &[&room, &victim.slot(client)]), &chunk);
    assert_eq!((said.receipts.len(), said.failed.len()), (1, 1), "{said:?}");
    assert!(victim.dialled());
    stage.check();
}

#[test]
fn fault_34_loops_and_more_than_eight_hops_are_refused() {
    let stage = Stage::set("fault 34");
    let (client, room) = (&stage.client, stage.lock(ROOM));
    let traps: Vec<Trap> = (0..9).map(|number| Trap::new(&format!("fault 34 {number}"))).collect();
    let slots: Vec<Slot> = traps.iter().map(|trap| trap.slot(client)).collect();
    let chunk = random_bytes("fault 34", LENGTH);
    let nine: Vec<&Slot> = std::iter::once(&room).chain(&slots).take(9).collect();
    let cases: [(&str, Vec<&Slot>); 4] = [
        ("back to the first", vec![&room, &slots[0], &room]),
        ("the first twice", vec![&room, &room]),
        ("a loop further on", vec![&room, &slots[0], &slots[1], &slots[0]]),
        ("nine hops", nine),
    ];
    let before = stage.held();
    for (what, chain) in cases {
        let said = client.store(&stage.vendor, &client.header(&chunk, &chain), &chunk);
        assert_eq!(said.refused(), RefusalKind::BadRequest, "{what}: {said:?}");
    }
    stage.untouched(&before);
    assert!(!traps.iter().any(Trap::dialled), "a hop of a refused header was dialled");
    stage.check();
}

#[test]
fn fault_35_one_byte_more_than_the_lease_is_refused_and_earlier_chunks_stay() {
    let stage = Stage::set("fault 35");
    let client = &stage.client;
    let chunks = [200_000, 100_001, 100_000].map(|length| random_bytes(&format!("fault 35 {length}"), length));
    let room = stage.lock(300_000);
    assert_eq!(room.lease().room(), 300_000);
    client.store(&stage.vendor, &client.header(&chunks[0], &[&room]), &chunks[0]).stored();
    let before = stage.held();
    let said = client.store(&stage.vendor, &client.header(&chunks[1], &[&room]), &chunks[1]);
    assert_eq!(said.refused(), RefusalKind::OverLease);
    stage.untouched(&before);
    client.read(&stage.vendor, ChunkId::of(&chunks[0]), 200_000).unwrap();
    // To the last byte it is the user's.
    client.store(&stage.vendor, &client.header(&chunks[2], &[&room]), &chunks[2]).stored();
    client.read(&stage.vendor, ChunkId::of(&chunks[2]), 100_000).unwrap();
    let one = random_bytes("fault 35 one", 1);
    let said = client.store(&stage.vendor, &client.header(&one, &[&room]), &one);
    assert_eq!(said.refused(), RefusalKind::OverLease);
    stage.check();
}

/// Bytes on a stream of `proto` after which its vendor must close it, without an answer of use.
fn announcements() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |content: &[u8]| [&u32::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat();
    vec![
        ("a frame of 0 bytes", vec![0, 0, 0, 0]),
        ("a frame of 1 GiB", [&(1u32 << 30).to_be_bytes()[..], &[0xa2; 64]].concat()),
        ("a frame of 2^32 - 1 bytes", [&[0xff; 4][..], &[0xa2; 64]].concat()),
        ("a length of 2^64 - 1 in eight bytes", vec![0xff; 8]),
        ("a byte string of 2^64 - 1", frame(&[&[0x5b][..], &[0xff; 8]].concat())),
        ("a text of 1 GiB", frame(&[0x7a, 0x40, 0, 0, 0])),
        ("a list of 2^64 - 1", frame(&[&[0x9b][..], &[0xff; 8]].concat())),
        ("a map of 2^64 - 1", frame(&[&[0xbb][..], &[0xff; 8]].concat())),
        ("lists in lists", frame(&[0x81; 4_000])),
    ]
}

#[test]
fn fault_36_impossible_lengths_close_the_stream_and_take_no_memory() {
    let stage = Stage::set("fault 36");
    let (client, room) = (&stage.client, stage.lock(ROOM));
    let before = stage.held();
    let round = || {
        for proto in Proto::ALL {
            for (what, message) in announcements() {
                let closed = async {
                    let mut stream = client.open(&stage.vendor, proto).await;
                    stream.write_all(&message).await.unwrap();
                    stream.flush().await.unwrap();
                    // A refusal may come; then the end, while this side goes on holding the stream.
                    let mut answer = Vec::new();
                    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
                    assert!(ended.is_ok(), "{what} leaves a {} stream open", proto.word());
                };
                client.run(closed);
            }
        }
        for length in [0, 1 << 30, u32::MAX] {
            let chunk = random_bytes("fault 36", LENGTH);
            let hop = Hop { length, ..client.hop(&chunk, 0, &room, None) };
            let header = RawHeader::of(vec![forge(&hop, client.keys.signing())]);
            let said = client.store(&stage.vendor, &header, &chunk);
            assert_eq!(said.refused(), RefusalKind::BadRequest, "a chunk of {length} bytes");
        }
    };
    // Once to have everything that the vendor takes anyway.
    round();
    let vendor = pid(&stage.net, &stage.vendor.name);
    let resident = kib(vendor, "VmRSS");
    let reserved = kib(vendor, "VmPeak");
    for _ in 0..5 {
        round();
    }
    let grown = kib(vendor, "VmRSS").saturating_sub(resident);
    assert!(grown < NOISE_KIB, "the vendor grew by {grown} KiB");
    // Memory that was asked for and never touched shows here.
    let grown = kib(vendor, "VmPeak").saturating_sub(reserved);
    assert!(grown < 1 << 20, "the vendor reserved {grown} KiB");
    stage.untouched(&before);
    stage.check();
}

#[test]
fn fault_37_a_body_of_another_length_or_hash_is_refused_and_leaves_nothing() {
    let stage = Stage::set("fault 37");
    let (client, room) = (&stage.client, stage.lock(ROOM));
    let chunk = random_bytes("fault 37", 1_000);
    let header = client.header(&chunk, &[&room]);
    let longer = [&chunk[..], b"x"].concat();
    let twice = [&chunk[..], &chunk[..]].concat();
    let mut changed = chunk.clone();
    changed[500] ^= 1;
    let cases = [
        ("none at all", &[][..], RefusalKind::WrongLength),
        ("one byte less", &chunk[..999], RefusalKind::WrongLength),
        ("one byte more", &longer[..], RefusalKind::WrongLength),
        ("twice as much", &twice[..], RefusalKind::WrongLength),
        ("one bit another", &changed[..], RefusalKind::WrongHash),
    ];
    let before = stage.held();
    for (what, body, kind) in cases {
        let said = client.run(client.send(&stage.vendor, &header, body, true));
        assert_eq!(said.refused(), kind, "{what}: {said:?}");
    }
    // A large one that breaks off in the middle, when a part of it may be on its way already.
    let large = random_bytes("fault 37 large", 900_000);
    let said = client.run(client.send(&stage.vendor, &client.header(&large, &[&room]), &large[..600_000], true));
    assert_eq!(said.refused(), RefusalKind::WrongLength, "{said:?}");
    // One that stays open and says no more.
    let said = client.run(client.send(&stage.vendor, &header, &chunk[..999], false));
    assert_eq!(said.refused(), RefusalKind::WrongLength, "{said:?}");
    stage.untouched(&before);
    // Its room was given back each time.
    client.store(&stage.vendor, &client.header(&large, &[&room]), &large).stored();
    client.store(&stage.vendor, &header, &chunk).stored();
    client.read(&stage.vendor, ChunkId::of(&large), 900_000).unwrap();
    stage.check();
}

#[test]
fn fault_48_other_versions_of_headers_and_records_are_refused_by_kind() {
    let stage = Stage::set("fault 48");
    let (client, room) = (&stage.client, stage.lock(ROOM));
    let mirror = stage.net.with_role("mirror").next().unwrap();
    let chunk = random_bytes("fault 48", LENGTH);
    let key = client.keys.signing();
    let hop = client.hop(&chunk, 0, &room, None);
    let before = stage.held();
    for version in [0, VERSION + 1, u16::MAX] {
        let header = RawHeader { version, hops: client.signed(std::slice::from_ref(&hop)) }.opening();
        let said = client.store(&stage.vendor, &header, &chunk);
        assert_eq!(said.refused(), RefusalKind::Version, "a header of version {version}");
        let header = RawHeader::of(vec![forge(&Hop { version, ..hop.clone() }, key)]);
        let said = client.store(&stage.vendor, &header, &chunk);
        assert_eq!(said.refused(), RefusalKind::Version, "a hop of version {version}");

        let mut wants = client.wants(id(&stage.vendor), ChunkId::of(&chunk), LENGTH as u32);
        wants.version = version;
        let refusal = client.run(client.fetch(&stage.vendor, &forge(&wants, key))).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Version, "a fetch of version {version}");

        let mut request = client.allocation(1_000, &format!("fault 48 {version}"), Vec::new());
        request.version = version;
        let answer = client.call(mirror, &Request::Allocate(forge(&request, key)));
        let Response::Refused(refusal) = &answer else { panic!("version {version}: {answer:?}") };
        assert_eq!(refusal.kind, RefusalKind::Version, "a request of version {version}");
    }
    stage.untouched(&before);
    client.store(&stage.vendor, &client.header(&chunk, &[&room]), &chunk).stored();
    wait_until("the chunk is counted", || stage.held() != before);
    stage.check();
}
