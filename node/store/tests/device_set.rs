//! Several devices as one: splitting, faults 8, 12 and 14, and the order of writes and removals.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Faulty, WHOLE, bytes, device_id, faulty, set_of, tag, taken};
use fathom_protocol::limits::{CHUNK_BYTES_MAX, PARTS_MAX};
use fathom_store::testing::{Fault, Operation};
use fathom_store::{Device, DeviceError, DeviceSet, DeviceState, PART_HEADER_BYTES, SplitPolicy, StoreError};
use proptest::prelude::*;

const HEADER: u64 = PART_HEADER_BYTES as u64;
const MIB: u64 = 1 << 20;

fn held(devices: &[Faulty]) -> Vec<usize> {
    devices.iter().map(|device| device.inner().list().unwrap().len()).collect()
}

#[test]
fn a_chunk_is_split_spread_and_read_back() {
    let devices = [faulty(1, 10 * MIB), faulty(2, 10 * MIB), faulty(3, 10 * MIB)];
    let set = set_of(&devices);
    let chunk = bytes(1, 1_000_003);
    let policy = SplitPolicy { part_bytes_max: 256 * 1024, parts_min: 3 };
    let parts = set.store_chunk(&tag(&chunk, 1), &chunk, policy).unwrap();
    assert_eq!(parts.len(), 4);
    assert!(held(&devices).iter().all(|held| *held >= 1), "{:?}", held(&devices));
    assert_eq!(set.read_chunk(&parts).unwrap(), chunk);
    assert_eq!(set.read_range(&parts, 250_000, 1_000).unwrap(), &chunk[250_000..251_000]);
    assert_eq!(set.read_range(&parts, 0, 0).unwrap(), Vec::<u8>::new());
    assert!(matches!(set.read_range(&parts, 1_000_003, 1), Err(StoreError::Length { .. })));
    assert!(matches!(set.read_chunk(&parts[1..]), Err(StoreError::Length { .. })));
    assert_eq!(taken(&set), (chunk.len() as u64 + 4 * HEADER, 0));
    assert!(set.verify_parts(&parts).is_empty());
    assert!(set.remove_parts(&parts).is_empty() && set.remove_parts(&parts).is_empty());
    assert_eq!(taken(&set), (0, 0));
}

#[test]
fn a_chunk_of_no_bytes_or_too_many_is_refused() {
    let set = set_of(&[faulty(1, 100 * MIB)]);
    for (length, fits) in [(0, false), (1, true), (CHUNK_BYTES_MAX, true), (CHUNK_BYTES_MAX + 1, false)] {
        let chunk = bytes(1, length);
        let stored = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE);
        assert_eq!(stored.is_ok(), fits, "{length}");
        if let Ok(parts) = stored {
            assert_eq!(set.read_chunk(&parts).unwrap(), chunk);
        }
    }
}

#[test]
fn devices_fill_in_proportion_to_their_room() {
    let devices = [faulty(1, 40 * MIB), faulty(2, 10 * MIB)];
    let set = set_of(&devices);
    for n in 0..100 {
        let chunk = bytes(n, 64 * 1024);
        set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE).unwrap();
    }
    let held = held(&devices);
    assert!((70..=90).contains(&held[0]), "{held:?}");
}

/// Keeps away: two stores of one chunk sharing a part, so that removing the one takes the other's bytes.
#[test]
fn two_stores_of_one_chunk_share_nothing() {
    let set = set_of(&[faulty(1, 10 * MIB)]);
    let chunk = bytes(1, 1000);
    let one = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE).unwrap();
    let two = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE).unwrap();
    assert_ne!(one[0].part, two[0].part);
    assert!(set.remove_parts(&one).is_empty());
    assert_eq!(set.read_chunk(&two).unwrap(), chunk);
}

/// Keeps away: serving rotten bytes, be it that they changed on the disk or on their way from it.
#[test]
fn fault_08_rotten_bytes_are_named_and_never_served() {
    let devices = [faulty(1, MIB), faulty(2, MIB)];
    let set = set_of(&devices);
    let chunk = bytes(1, 10_000);
    let policy = SplitPolicy { part_bytes_max: 0, parts_min: 2 };
    let parts = set.store_chunk(&tag(&chunk, 1), &chunk, policy).unwrap();
    devices[0].fail_nth(Operation::Get, 1, Fault::FlippedBit);
    let corrupt = |result: Result<Vec<u8>, StoreError>| {
        matches!(result, Err(StoreError::Part { source: DeviceError::Corrupt { .. }, .. }))
    };
    assert!(corrupt(set.read_chunk(&parts)));
    assert_eq!(set.read_chunk(&parts).unwrap(), chunk);

    let rotten = parts.iter().find(|part| part.device == device_id(2)).unwrap();
    assert!(devices[1].inner().flip_bit(rotten.part, 12_345));
    assert!(corrupt(set.read_chunk(&parts)));
    let bad = set.verify_parts(&parts);
    assert_eq!(bad.len(), 1);
    assert!(bad[0].part == *rotten && bad[0].is_lost());
}

#[test]
fn a_part_that_meets_an_error_is_sent_once_more_and_then_elsewhere() {
    let devices = [faulty(1, 10 * MIB), faulty(2, MIB)];
    let set = set_of(&devices);
    let chunk = bytes(1, 1000);
    devices[0].fail_nth(Operation::Put, 1, Fault::Eio);
    let parts = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE).unwrap();
    assert_eq!(parts[0].device, device_id(1), "the second try worked");

    devices.iter().for_each(|device| device.fail_nth(Operation::Put, 1, Fault::Eio));
    devices.iter().for_each(|device| device.fail_nth(Operation::Put, 2, Fault::Eio));
    let refused = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE);
    assert!(matches!(&refused, Err(StoreError::Unavailable { reasons, .. }) if reasons.len() == 2), "{refused:?}");

    devices[0].fail_always(Operation::Put, Fault::Eio);
    for _ in 0..3 {
        assert_eq!(set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE).unwrap()[0].device, device_id(2));
    }
}

/// Keeps away: a device that fills up in mid-chunk losing the chunk, or leaving parts and counts behind.
#[test]
fn fault_12_a_full_device_hands_its_part_to_another() {
    let devices = [faulty(1, MIB), faulty(2, MIB)];
    let set = set_of(&devices);
    let chunk = bytes(1, 8_000);
    let policy = SplitPolicy { part_bytes_max: 1_000, parts_min: 2 };
    devices[0].fail_always(Operation::Put, Fault::NoSpace);
    let parts = set.store_chunk(&tag(&chunk, 1), &chunk, policy).unwrap();
    assert!(parts.iter().all(|part| part.device == device_id(2)));
    assert_eq!(set.read_chunk(&parts).unwrap(), chunk);
    assert_eq!(taken(&set), (8_000 + 8 * HEADER, 0));
}

/// As above, when it fits nowhere: everything of it is gone again.
#[test]
fn fault_12_what_fits_nowhere_leaves_no_trace() {
    let devices = [faulty(1, 6_000), faulty(2, 6_000)];
    let set = set_of(&devices);
    let small = bytes(9, 500);
    let kept = set.store_chunk(&tag(&small, 1), &small, WHOLE).unwrap();
    let before = (taken(&set), held(&devices));
    let policy = SplitPolicy { part_bytes_max: 2_000, parts_min: 2 };
    let chunk = bytes(1, 8_000);
    for nth in 1..=3 {
        devices[0].fail_nth(Operation::Put, nth, Fault::NoSpace);
        devices[1].fail_always(Operation::Put, Fault::NoSpace);
        let refused = set.store_chunk(&tag(&chunk, 1), &chunk, policy);
        assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
        devices.iter().for_each(|device| device.clear());
        assert_eq!((taken(&set), held(&devices)), before);
    }
    let large = bytes(2, 20_000);
    let refused = set.store_chunk(&tag(&large, 1), &large, policy);
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
    assert_eq!((taken(&set), held(&devices)), before);
    assert_eq!(set.read_chunk(&kept).unwrap(), small);
}

/// Keeps away: one stalled disk stopping the vendor.
#[test]
fn fault_14_a_hung_device_does_not_block_the_others() {
    let devices = [faulty(1, 10 * MIB), faulty(2, 10 * MIB)];
    let set = set_of(&devices);
    let policy = SplitPolicy { part_bytes_max: 0, parts_min: 2 };
    let chunk = bytes(1, 10_000);
    let both = set.store_chunk(&tag(&chunk, 1), &chunk, policy).unwrap();
    let on_two: Vec<_> = loop {
        let parts = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE).unwrap();
        if parts[0].device == device_id(2) {
            break parts;
        }
    };
    let before = devices[0].inner().report().used;

    devices[0].hang();
    let parts = set.store_chunk(&tag(&chunk, 1), &chunk, policy).unwrap();
    assert!(parts.iter().all(|part| part.device == device_id(2)), "silence sends the part elsewhere");
    let report = set.report();
    assert_eq!((report[0].state, report[0].free), (DeviceState::Suspended, 0));
    assert_eq!(report[1].state, DeviceState::Healthy);

    // From now on the hung device costs nobody anything: a deadline each would be 6 s and more.
    let started = Instant::now();
    for n in 0..20 {
        let chunk = bytes(n, 1_000);
        let parts = set.store_chunk(&tag(&chunk, 1), &chunk, policy).unwrap();
        assert_eq!(set.read_chunk(&parts).unwrap(), chunk);
        assert_eq!(set.read_chunk(&on_two).unwrap().len(), 10_000);
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(matches!(set.read_chunk(&both), Err(StoreError::Silent { device }) if device == device_id(1)));
    assert!(set.verify_parts(&both).iter().all(|bad| !bad.is_lost()), "a silent device is not a lost part");

    // The part that it was given and that went elsewhere is removed as soon as it wakes up.
    devices[0].release();
    let deadline = Instant::now() + Duration::from_secs(5);
    while set.report()[0].state != DeviceState::Healthy || devices[0].inner().report().used != before {
        assert!(Instant::now() < deadline, "{:?}", set.report());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(set.read_chunk(&both).unwrap(), chunk);
}

#[test]
fn a_set_whose_only_device_hangs_answers_in_time() {
    let devices = [faulty(1, 10 * MIB)];
    let set = set_of(&devices);
    let chunk = bytes(1, 1_000);
    devices[0].hang();
    let started = Instant::now();
    let refused = set.store_chunk(&tag(&chunk, 1), &chunk, WHOLE);
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    devices[0].release();
    let deadline = Instant::now() + Duration::from_secs(5);
    while taken(&set) != (0, 0) {
        assert!(Instant::now() < deadline, "a late part stays");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn one_device_is_not_taken_twice() {
    let device = faulty(1, MIB);
    let twice = vec![Arc::clone(&device) as Arc<dyn Device>, device];
    assert!(matches!(DeviceSet::new(twice, common::quick()), Err(StoreError::Device { .. })));
    let none = set_of(&[]);
    assert!(matches!(none.store_chunk(&tag(b"x", 1), b"x", WHOLE), Err(StoreError::Unavailable { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any chunk under any policy comes back whole, in at most [`PARTS_MAX`] parts, and its removal leaves nothing.
    #[test]
    fn every_split_reads_back(
        length in 1..300_000usize,
        part_bytes_max in prop_oneof![Just(0u32), 1..400_000u32],
        parts_min in 0..80u8,
        from in 0..300_000u32,
        take in 0..300_000u32,
    ) {
        let devices = [faulty(1, MIB), faulty(2, 2 * MIB), faulty(3, MIB)];
        let set = set_of(&devices);
        let chunk = bytes(length as u64, length);
        let policy = SplitPolicy { part_bytes_max, parts_min };
        let parts = set.store_chunk(&tag(&chunk, 1), &chunk, policy).unwrap();
        prop_assert!(parts.len() <= PARTS_MAX);
        let (from, take) = (from.min(length as u32), take.min(length as u32 - from.min(length as u32)));
        prop_assert_eq!(set.read_range(&parts, from, take).unwrap(), &chunk[from as usize..(from + take) as usize]);
        prop_assert_eq!(set.read_chunk(&parts).unwrap(), chunk);
        prop_assert_eq!(taken(&set).0, length as u64 + parts.len() as u64 * HEADER);
        prop_assert!(set.remove_parts(&parts).is_empty());
        prop_assert_eq!(taken(&set), (0, 0));
    }
}
