//! Headers that are not the list their sender signed are refused with the reason, and nothing of them is used.

use fathom_protocol::codec::{DecodeError, TooMany, decode, encode};
use fathom_protocol::familiar::Familiar;
use fathom_protocol::header::{Header, HeaderError, Headers, Hop, Looked, SplitPolicy, consents};
use fathom_protocol::ids::{ChunkId, OwnerId};
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::{BUNDLE_CHUNKS_MAX, CHUNK_BYTES_MAX, HEADER_BYTES_MAX, HOPS_MAX, PARTS_MAX};
use fathom_protocol::sign::{RecordError, Signed};
use fathom_protocol::time::UnixMs;
use fathom_tests::samples::{NOW, header, hop, hops, key, lease, node, signed, user};
use proptest::prelude::*;

fn arrive(hops: Vec<Signed<Hop>>, me: u8) -> Result<(), HeaderError> {
    Header::new(hops).unwrap().arrive(node(me), NOW).map(|_| ())
}

/// A hop that the owner signed with something changed.
fn with(vendors: &[u8], position: usize, edit: impl FnOnce(&mut Hop)) -> Signed<Hop> {
    let mut hop = hop(vendors, position);
    edit(&mut hop);
    signed(hop, user().signing())
}

#[test]
fn a_header_travels_its_route_to_the_end() {
    let route = [1, 2, 3, 4, 5, 6, 7, 8];
    let mut header = Header::new(hops(&route)).unwrap();
    for (position, vendor) in route.into_iter().enumerate() {
        let carried: Header = decode(&encode(&header), HEADER_BYTES_MAX).unwrap();
        let arrived = carried.arrive(node(vendor), NOW).unwrap();
        assert_eq!(arrived.mine.vendor, node(vendor));
        assert_eq!(usize::from(arrived.mine.position), position);
        assert_eq!(arrived.next.map(|next| next.vendor), route.get(position + 1).map(|next| node(*next)));
        header = arrived.rest;
    }
    assert_eq!(header.arrive(node(8), NOW).unwrap_err(), HeaderError::NoHops);
}

/// A replayed header reads alike each time: that its bytes are counted once is the vendor's part.
#[test]
fn fault_31_a_replayed_header_says_the_same() {
    let (first, second) = (header().arrive(node(1), NOW).unwrap(), header().arrive(node(1), NOW).unwrap());
    assert_eq!(first.mine, second.mine);
    assert_eq!(first.rest, second.rest);
    // One that was taken on its way is of use to nobody else, and none after its time.
    assert_eq!(header().arrive(node(2), NOW).unwrap_err(), HeaderError::NotForMe);
    let late = header().arrive(node(1), NOW.plus_seconds(601)).unwrap_err();
    assert_eq!(late, HeaderError::Expired);
    assert!(header().arrive(node(1), NOW.plus_seconds(600)).is_ok());
}

#[test]
fn fault_32_hops_that_were_reordered_swapped_or_dropped_are_refused() {
    let [a, b, c] = <[Signed<Hop>; 3]>::try_from(hops(&[1, 2, 3])).unwrap();
    assert!(arrive(vec![a.clone(), b.clone(), c.clone()], 1).is_ok());
    assert_eq!(arrive(vec![a.clone(), c.clone(), b.clone()], 1), Err(HeaderError::Order), "reordered");
    assert_eq!(arrive(vec![b.clone(), a.clone(), c.clone()], 1), Err(HeaderError::NotForMe), "swapped");
    assert_eq!(arrive(vec![b.clone(), a.clone(), c.clone()], 2), Err(HeaderError::Order), "swapped, at the other");
    assert_eq!(arrive(vec![a.clone(), c.clone()], 1), Err(HeaderError::Order), "the middle dropped");
    assert_eq!(arrive(vec![a.clone(), b.clone()], 1), Err(HeaderError::Order), "the end dropped");
    assert_eq!(arrive(vec![a.clone(), a.clone(), b.clone()], 1), Err(HeaderError::Order), "one twice");
    // Hops of two lists of the same chunk, in an order that looks right but was not signed.
    let other = with(&[1, 9, 2, 3], 2, |_| {});
    assert_eq!(arrive(vec![a.clone(), other, c.clone()], 1), Err(HeaderError::Order));
    let foreign = with(&[1, 2, 3], 1, |hop| hop.chunk = ChunkId([0; 32]));
    assert_eq!(arrive(vec![a.clone(), foreign, c.clone()], 1), Err(HeaderError::Mixed), "of another chunk");
    let foreign = with(&[1, 2, 3], 1, |hop| hop.seq = 5);
    assert_eq!(arrive(vec![a, foreign, c], 1), Err(HeaderError::Mixed), "of another final FAT");
}

/// Whoever signs a hop says so in it; a hop signed by another key than it names is no hop.
#[test]
fn fault_32_a_hop_with_anybodys_bytes_changed_is_refused() {
    let bytes = encode(&header());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x01;
        let Ok(header) = decode::<Header>(&changed, HEADER_BYTES_MAX) else { continue };
        assert!(header.arrive(node(1), NOW).is_err(), "byte {at}");
    }
}

#[test]
fn fault_33_a_vendor_that_never_consented_is_not_dialled() {
    let [a, _] = <[Signed<Hop>; 2]>::try_from(hops(&[1, 2])).unwrap();
    let refused = Err(HeaderError::NoConsent(1));
    let try_lease = |lease: Signed<Lease>| {
        let next = with(&[1, 2], 1, |hop| hop.lease = lease.into_carried());
        arrive(vec![a.clone(), next], 1)
    };
    assert_eq!(try_lease(signed(lease(2, 1), &key(2))), Ok(()));
    // The lease of another vendor, for another owner, or for another hand to fill it.
    assert_eq!(try_lease(signed(lease(3, 1), &key(3))), refused);
    assert_eq!(try_lease(signed(Lease { owner: OwnerId([5; 32]), ..lease(2, 1) }, &key(2))), refused);
    assert_eq!(try_lease(signed(Lease { authority: node(9).into(), ..lease(2, 1) }, &key(2))), refused);
    // A lease in that vendor's name that it did not sign.
    let forged: Vec<u8> = encode(&signed(lease(2, 1), &key(2)));
    let mut forged = forged;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let next = with(&[1, 2], 1, |hop| hop.lease = decode(&forged, 4096).unwrap());
    assert_eq!(arrive(vec![a, next.clone()], 1), refused);
    assert_eq!(consents(&next), Err(RecordError::BadSignature));
}

#[test]
fn fault_34_loops_and_more_than_8_hops_are_refused() {
    let vendors = [1, 2, 1];
    assert_eq!(arrive(hops(&vendors), 1), Err(HeaderError::Loop));
    assert_eq!(arrive(hops(&[1, 1]), 1), Err(HeaderError::Loop));
    let nine = hops(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(Header::new(nine.clone()).unwrap_err(), TooMany { length: 9, max: HOPS_MAX });
    // As bytes, which no honest sender makes.
    let mut bytes = encode(&Header::new(nine[..8].to_vec()).unwrap());
    let at = bytes.windows(5).position(|window| window == b"\x64hops").unwrap() + 5;
    assert_eq!(bytes[at], 0x88);
    bytes[at] = 0x89;
    bytes.extend(encode(nine[8].carried()));
    assert!(matches!(decode::<Header>(&bytes, 1 << 20), Err(DecodeError::Malformed(_))));
}

/// Headers of chunks of these lengths, each along its route.
fn together(chunks: &[(&[u8], u32)]) -> Result<Looked, HeaderError> {
    let header = |(route, length): &(&[u8], u32)| {
        let hops = (0..route.len()).map(|position| with(route, position, |hop| hop.length = *length));
        Header::new(hops.collect()).unwrap()
    };
    Looked::at(Headers::first(chunks.iter().map(header)), node(1), NOW)
}

#[test]
fn headers_of_one_stream_go_one_way_and_announce_no_more_than_a_chunk() {
    let most = CHUNK_BYTES_MAX as u32;
    for (chunks, refused) in [
        (&[][..], Some(HeaderError::NoHops)),
        (&[(&[1, 2][..], most - 1), (&[1, 2], 1)], None),
        (&[(&[1, 2], most), (&[1, 2], 1)], Some(HeaderError::TooMuch(u64::from(most) + 1))),
        (&[(&[1, 2, 3], 7), (&[1, 2], 7)], None),
        (&[(&[1, 2], 7), (&[1], 7)], Some(HeaderError::Ways)),
        (&[(&[1, 2], 7), (&[1, 3], 7)], Some(HeaderError::Ways)),
        (&[(&[1, 2], 7), (&[2], 7)], Some(HeaderError::NotForMe)),
    ] {
        let looked = together(chunks);
        assert_eq!(looked.as_ref().err(), refused.as_ref(), "{chunks:?}");
        let Ok(looked) = looked else { continue };
        let arrived = looked.verify(&Familiar::new(1)).unwrap();
        let lengths: Vec<u32> = arrived.iter().map(|arrived| arrived.mine.length).collect();
        assert_eq!(lengths, chunks.iter().map(|(_, length)| *length).collect::<Vec<_>>());
    }
    assert!(Headers::new(vec![header(); BUNDLE_CHUNKS_MAX]).is_ok());
    assert!(Headers::new(vec![header(); BUNDLE_CHUNKS_MAX + 1]).is_err());
}

#[test]
fn one_header_of_a_stream_that_was_not_signed_spoils_all() {
    let forged = Header::new(vec![signed(hop(&[1], 0), user().signing())]).unwrap();
    let mut bytes = encode(&forged);
    *bytes.last_mut().unwrap() ^= 1;
    let forged: Header = decode(&bytes, HEADER_BYTES_MAX).unwrap();
    let good = Header::new(hops(&[1])).unwrap();
    let looked = Looked::at(Headers::first([good, forged]), node(1), NOW).unwrap();
    let error = HeaderError::Hop { position: 0, error: RecordError::BadSignature };
    assert_eq!(looked.verify(&Familiar::new(1)).unwrap_err(), error);
}

#[test]
fn other_versions_and_empty_headers_are_told_as_such() {
    let newer = Header { version: 2, ..header() };
    assert_eq!(newer.arrive(node(1), NOW).unwrap_err(), HeaderError::Version(2));
    assert_eq!(Header::new(vec![]).unwrap().arrive(node(1), NOW).unwrap_err(), HeaderError::NoHops);
    let newer = with(&[1], 0, |hop| hop.version = 2);
    let error = HeaderError::Hop { position: 0, error: RecordError::Version(2) };
    assert_eq!(arrive(vec![newer], 1), Err(error));
}

proptest! {
    #![proptest_config(crate::config(64))]

    /// Of all lists that can be made of the hops of one route, only those that the owner signed arrive: the route from
    /// some vendor on.
    #[test]
    fn only_the_rest_of_the_route_arrives(length in 1..5usize, picks in prop::collection::vec(any::<prop::sample::Index>(), 1..6)) {
        let route: Vec<u8> = (1..=length as u8).collect();
        let hops = hops(&route);
        let picks: Vec<usize> = picks.iter().map(|pick| pick.index(length)).collect();
        let list: Vec<Signed<Hop>> = picks.iter().map(|pick| hops[*pick].clone()).collect();
        let rest: Vec<usize> = (picks[0]..length).collect();
        prop_assert_eq!(arrive(list, route[picks[0]]).is_ok(), picks == rest);
    }

    /// Parts are at most as many as bytes and as the limit, and none is longer than the policy allows while the limit lets it.
    #[test]
    fn a_split_gives_every_part_a_byte(part_bytes_max: u32, parts_min: u8, length in 1..5_000_000u32) {
        let parts = SplitPolicy { part_bytes_max, parts_min }.parts(length);
        prop_assert!((1..=PARTS_MAX.min(length as usize)).contains(&parts));
        if parts < PARTS_MAX {
            prop_assert!((length as usize).div_ceil(parts) <= part_bytes_max.max(1) as usize);
            prop_assert!(parts >= usize::from(parts_min).min(length as usize));
        }
    }
}

#[test]
fn time_saturates() {
    assert_eq!(UnixMs(u64::MAX).plus_seconds(u64::MAX), UnixMs(u64::MAX));
    assert_eq!(UnixMs(1).since_ms(UnixMs(2)), 0);
}
