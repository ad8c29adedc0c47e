//! What is encoded decodes to the same value, and whatever stays within its bounds stays within its frame.

use fathom_protocol::codec::{DecodeError, decode, encode};
use fathom_protocol::fat::FinalFat;
use fathom_protocol::head::{VendorHead, VendorRecord};
use fathom_protocol::header::{Header, Hop};
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::{ANSWER_BYTES_MAX, FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX, HEADER_BYTES_MAX};
use fathom_protocol::moves::{CarriedMove, MOVE_BYTES_MAX};
use fathom_protocol::receipt::Receipt;
use fathom_protocol::sign::{Carried, Record, Signed};
use fathom_protocol::wire::{
    AllocateRequest, Cancel, ChunkAnswer, FetchAnswer, FetchRequest, Gossip, OwnerQuery, PeerRecord, Renew, Request,
    Response, SyncRecord, Unused, Validation,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::draw::Draw;

fn back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    value: &T,
    max: usize,
) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert!(bytes.len() <= max, "{} bytes, the limit is {max}", bytes.len());
    let decoded: T = decode(&bytes, max)?;
    prop_assert_eq!(&decoded, value);
    prop_assert_eq!(encode(&decoded), bytes);
    Ok(())
}

fn back_signed<T: Record + Clone + PartialEq + std::fmt::Debug>(signed: Signed<T>) -> Result<(), TestCaseError> {
    back(&*signed, T::BYTES_MAX)?;
    back(signed.carried(), FRAME_BYTES_MAX)?;
    let verified = signed.carried().clone().verify()?;
    prop_assert_eq!(&verified, &signed);
    prop_assert_eq!(verified.carried().clone().peek()?, signed.into_value());
    Ok(())
}

proptest! {
    #![proptest_config(crate::config(48))]

    #[test]
    fn records_come_back(seed: u64) {
        let mut draw = Draw::new(seed);
        back_signed::<Lease>(draw.lease())?;
        back_signed::<VendorHead>(draw.head())?;
        back_signed::<Hop>(draw.hop())?;
        back_signed::<Receipt>(draw.receipt())?;
        back_signed::<FinalFat>(draw.final_fat())?;
        back_signed::<PeerRecord>(draw.peer())?;
        back_signed::<AllocateRequest>(draw.allocate())?;
        back_signed::<OwnerQuery>(draw.query())?;
        back_signed::<Validation>(draw.validation())?;
        back_signed::<Unused>(draw.unused())?;
        back_signed::<Cancel>(draw.cancel())?;
        back_signed::<fathom_protocol::rebuild::Rebuild>(draw.rebuild())?;
        back_signed::<Renew>(draw.renew())?;
        back_signed::<FetchRequest>(draw.fetch())?;
    }

    #[test]
    fn moves_headers_and_vendors_come_back(seed: u64) {
        let mut draw = Draw::new(seed);
        let moved: CarriedMove = draw.carried_move();
        back(&moved, FRAME_BYTES_MAX)?;
        back(&moved.verify()?, MOVE_BYTES_MAX)?;
        back::<Header>(&draw.header(), HEADER_BYTES_MAX)?;
        let vendor: VendorRecord = draw.vendor_record();
        back(&vendor, FRAME_BYTES_MAX)?;
        prop_assert_eq!(vendor.clone().verify()?.to_record(), vendor);
    }

    #[test]
    fn messages_come_back(seed: u64, kind: u64) {
        let mut draw = Draw::new(seed);
        back::<Request>(&draw.request(kind), FRAME_BYTES_MAX)?;
        back::<Response>(&draw.response(kind), FRAME_BYTES_MAX)?;
        back::<ChunkAnswer>(&draw.chunk_answer(kind), ANSWER_BYTES_MAX)?;
        back::<FetchAnswer>(&draw.fetch_answer(kind), ANSWER_BYTES_MAX)?;
        back::<Gossip>(&draw.gossip(kind), FRAME_BYTES_MAX)?;
        back::<SyncRecord>(&draw.sync_record(kind), FRAME_BYTES_MAX)?;
    }

    /// Whatever a peer sends, the decoder answers with a value or an error. A value is written again as one that reads alike.
    #[test]
    fn arbitrary_and_damaged_bytes_never_panic(seed: u64, kind: u64, at: prop::sample::Index, byte: u8) {
        let mut bytes = encode(&Draw::new(seed).request(kind));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(request) = decode::<Request>(&bytes, FRAME_BYTES_MAX) {
            prop_assert_eq!(decode::<Request>(&encode(&request), FRAME_BYTES_MAX)?, request);
        }
        bytes.truncate(at);
        prop_assert!(decode::<Request>(&bytes, FRAME_BYTES_MAX).is_err());
    }

    #[test]
    fn bytes_after_a_message_are_refused(seed: u64, kind: u64, more in prop::collection::vec(any::<u8>(), 1..9)) {
        let mut bytes = encode(&Draw::new(seed).request(kind));
        bytes.extend_from_slice(&more);
        prop_assert_eq!(decode::<Request>(&bytes, FRAME_BYTES_MAX), Err(DecodeError::Trailing(more.len())));
    }
}

/// `Signed::sign` refuses what exceeds `BYTES_MAX`, so that drawing the longest of each kind shows that none does.
#[test]
fn the_longest_record_of_each_kind_is_within_its_limit() {
    let mut draw = Draw::full();
    let within = |bytes: Vec<u8>, max: usize, what: &str| {
        assert!(bytes.len() <= max, "the longest {what} has {} bytes, the limit is {max}", bytes.len());
    };
    within(encode(&draw.lease()), 1024, "lease");
    within(encode(&draw.header()), HEADER_BYTES_MAX, "header");
    within(encode(&draw.chunk_answer(1)), ANSWER_BYTES_MAX, "receipt");
    within(encode(&draw.chunk_answer(2)), ANSWER_BYTES_MAX, "failed chunk");
    within(encode(&draw.fetch_answer(2)), ANSWER_BYTES_MAX, "refused fetch");
    within(encode(&draw.fetch()), FIRST_FRAME_BYTES_MAX, "fetch request");
    within(encode(&draw.carried_move()), MOVE_BYTES_MAX, "move");
    // 5 and 10 are batches of up to 256 final FATs: their sender fills the frame and begins another.
    for kind in (0..25).filter(|kind| ![5, 10].contains(kind)) {
        let request = draw.request(kind);
        within(encode(&request), FRAME_BYTES_MAX, "request");
        // What a node sends before it is known for anything fits a first frame.
        if matches!(request, Request::Ping | Request::Announce(_) | Request::FatsOf(_) | Request::Allocate(_)) {
            within(encode(&request), FIRST_FRAME_BYTES_MAX, "first request");
        }
    }
    // 6 and 12 are pages: a mirror fills the frame and says that there is more.
    for kind in (0..15).filter(|kind| ![6, 12].contains(kind)) {
        within(encode(&draw.response(kind)), FRAME_BYTES_MAX, "response");
    }
}

/// A page or a batch that holds just one record fits a frame, whatever the record is: otherwise it could never be sent.
#[test]
fn the_longest_record_can_be_sent_alone() {
    for kind in 0..5 {
        let record = Draw::full().sync_record(kind);
        let bytes = encode(&record).len();
        assert!(bytes + 512 <= FRAME_BYTES_MAX, "sync record {kind} has {bytes} bytes");
    }
}

#[test]
fn an_unknown_version_is_told_as_such() {
    let key = fathom_tests::samples::key(1);
    let mut lease = fathom_tests::samples::lease(1, 1);
    lease.version = 2;
    let carried: Carried<Lease> = Signed::sign(lease, &key).unwrap().into_carried();
    let error = carried.verify().unwrap_err();
    assert_eq!(error, fathom_protocol::sign::RecordError::Version(2));
    assert!(error.to_string().contains("update"));
}
