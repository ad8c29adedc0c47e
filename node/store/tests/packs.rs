//! Small parts, many to a file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use common::{VENDOR, bytes};
use fathom_protocol::ids::Hash;
use fathom_store::direct::Aligned;
use fathom_store::testing::{FailOnce, IoHook, IoStep};
use fathom_store::{Device, DeviceError, DeviceState, DirectoryConfig, DirectoryDevice, Part};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const QUOTA: u64 = 10_000_000;

fn config(path: &Path) -> DirectoryConfig {
    DirectoryConfig { path: path.to_owned(), quota: QUOTA, reserve: 0, pack_bytes_max: 50_000 }
}

fn open(path: &Path) -> DirectoryDevice {
    DirectoryDevice::open(config(path), VENDOR, None).unwrap()
}

fn part(content: &[u8]) -> Part {
    Part::of(Aligned::of(&[content]))
}

fn put(device: &dyn Device, content: &[u8]) -> Hash {
    let part = part(content);
    assert_eq!(device.put(&part).unwrap().part, part.name());
    part.name()
}

fn packs(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path.join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Bytes that the packs take on the disk.
fn room(path: &Path) -> u64 {
    packs(path).iter().map(|pack| fs::metadata(pack).unwrap().blocks() * 512).sum()
}

fn counts(device: &DirectoryDevice) -> (u64, u64, u64) {
    let report = device.report();
    (report.used, report.parts, report.temporary)
}

#[test]
fn small_parts_share_a_file_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path());
    let lengths = [1, 4_031, 4_032, 4_033, 50_000, 50_001];
    let parts: Vec<Hash> =
        lengths.iter().enumerate().map(|(n, length)| put(&device, &bytes(n as u64, *length))).collect();
    put(&device, &bytes(0, 1));
    let used: usize = lengths.iter().sum();
    let whole = |device: &DirectoryDevice| {
        assert_eq!(counts(device), (used as u64, 6, 0));
        for (n, length) in lengths.iter().enumerate() {
            assert_eq!(device.get(parts[n]).unwrap(), bytes(n as u64, *length));
        }
        let mut listed: Vec<Hash> = device.list().unwrap().iter().map(|entry| entry.part).collect();
        let mut known = parts.clone();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known);
    };
    whole(&device);
    assert_eq!(packs(dir.path()).len(), 1);
    assert!(device.part_path(parts[5]).exists(), "what is larger has a file of its own");
    drop(device);
    whole(&open(dir.path()));
}

#[test]
fn what_is_erased_gives_its_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path());
    let parts: Vec<Hash> = (0..20).map(|n| put(&device, &bytes(n, 40_000))).collect();
    let full = room(dir.path());
    assert!(full >= 20 * 40_000);
    for part in &parts[..15] {
        device.remove(*part).unwrap();
    }
    assert!(room(dir.path()) <= full / 3, "{} of {full}", room(dir.path()));
    assert!(matches!(device.remove(parts[0]), Err(DeviceError::NotFound { .. })));
    assert!(matches!(device.get(parts[0]), Err(DeviceError::NotFound { .. })));
    assert_eq!(counts(&device), (5 * 40_000, 5, 0));
    drop(device);

    let device = open(dir.path());
    assert_eq!(counts(&device), (5 * 40_000, 5, 0));
    assert_eq!(device.get(parts[17]).unwrap(), bytes(17, 40_000));
    let another = put(&device, &bytes(99, 40_000));
    for part in parts[15..].iter().chain([&another]) {
        device.remove(*part).unwrap();
    }
    assert_eq!((packs(dir.path()).len(), counts(&device)), (0, (0, 0, 0)));
    let again = put(&device, &bytes(100, 10));
    assert_eq!(device.get(again).unwrap(), bytes(100, 10));
}

/// Keeps away: a vendor that does not open after a crash, or that takes half a record for a part.
#[test]
fn fault_01_a_crash_within_a_record_costs_that_record_alone() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path());
    let (one, two) = (put(&device, &bytes(1, 10_000)), put(&device, &bytes(2, 10_000)));
    let torn = put(&device, &bytes(3, 10_000));
    drop(device);
    let pack = packs(dir.path()).pop().unwrap();
    let whole = fs::read(&pack).unwrap();
    let begins = 2 * 12_288;
    for end in (begins..whole.len()).step_by(512) {
        // Cut off there, or, as a file system may leave it, as long as it was to be and empty from there.
        for blank in [false, true] {
            let mut left = whole[..end].to_vec();
            left.resize(if blank { whole.len() } else { end }, 0);
            fs::write(&pack, left).unwrap();
            let device = open(dir.path());
            assert_eq!(device.get(one).unwrap(), bytes(1, 10_000));
            assert_eq!(device.get(two).unwrap(), bytes(2, 10_000));
            let found = device.get(torn);
            assert!(matches!(found, Err(DeviceError::NotFound { .. } | DeviceError::Corrupt { .. })), "{end}");
            if matches!(found, Err(DeviceError::Corrupt { .. })) {
                // As the local FAT's recovery does with what it does not know.
                device.remove(torn).unwrap();
            }
            assert_eq!(counts(&device), (20_000, 2, 0));
            assert_eq!(put(&device, &bytes(3, 10_000)), torn);
            assert_eq!(device.get(torn).unwrap(), bytes(3, 10_000));
            device.remove(torn).unwrap();
        }
    }
}

#[test]
fn fault_08_a_damaged_record_is_seen_and_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path());
    let (one, two) = (put(&device, &bytes(1, 10_000)), put(&device, &bytes(2, 10_000)));
    let pack = packs(dir.path()).pop().unwrap();
    let mut rotten = fs::read(&pack).unwrap();
    rotten[5_000] ^= 1;
    fs::write(&pack, rotten).unwrap();
    assert!(matches!(device.get(one), Err(DeviceError::Corrupt { .. })));
    assert_eq!(device.get(two).unwrap(), bytes(2, 10_000));
    assert_eq!(put(&device, &bytes(1, 10_000)), one);
    assert_eq!(device.get(one).unwrap(), bytes(1, 10_000));
    assert_eq!(counts(&device), (20_000, 2, 0));
}

#[test]
fn fault_10_after_a_sync_that_failed_nothing_is_taken_until_the_device_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Arc::new(FailOnce::new(IoStep::SyncFile, EIO));
    hook.disarm();
    let device = DirectoryDevice::open_with(config(dir.path()), VENDOR, None, Some(hook.clone())).unwrap();
    let before = put(&device, &bytes(1, 1_000));
    for step in [IoStep::Write, IoStep::SyncFile] {
        hook.arm(step, EIO);
        let content = bytes(2, 1_000);
        assert!(matches!(device.put(&part(&content)), Err(DeviceError::Io { .. })));
        assert_eq!(device.report().state, DeviceState::Failed);
        assert!(matches!(device.put(&part(&content)), Err(DeviceError::Suspended { .. })));
        assert_eq!(device.get(before).unwrap(), bytes(1, 1_000));
        device.reopen().unwrap();
        assert_eq!(counts(&device), (1_000, 1, 0));
    }
    let after = put(&device, &bytes(2, 1_000));
    assert_eq!(device.get(after).unwrap(), bytes(2, 1_000));
}

#[test]
fn fault_12_a_full_disk_is_no_fault_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Arc::new(FailOnce::new(IoStep::SyncFile, ENOSPC));
    let device = DirectoryDevice::open_with(config(dir.path()), VENDOR, None, Some(hook.clone())).unwrap();
    let content = bytes(1, 30_000);
    for step in [IoStep::SyncFile, IoStep::Write, IoStep::SyncDir] {
        hook.arm(step, ENOSPC);
        assert!(matches!(device.put(&part(&content)), Err(DeviceError::NoSpace { .. })), "{step:?}");
        assert_eq!((device.report().state, counts(&device)), (DeviceState::Healthy, (0, 0, 0)));
        assert_eq!(room(dir.path()), 0);
    }
    let part = put(&device, &content);
    assert_eq!(device.get(part).unwrap(), content);
    let large = bytes(2, QUOTA as usize);
    assert!(matches!(device.put(&self::part(&large)), Err(DeviceError::NoSpace { .. })));
}

/// Counts syncs of files, and fails those that it is told to.
#[derive(Debug, Default)]
struct Syncs {
    count: AtomicU32,
    fail: AtomicBool,
}

impl IoHook for Syncs {
    fn before(&self, step: IoStep, _: &Path) -> std::io::Result<()> {
        if step == IoStep::SyncFile {
            self.count.fetch_add(1, Ordering::Relaxed);
            if self.fail.load(Ordering::Relaxed) {
                return Err(std::io::Error::from_raw_os_error(EIO));
            }
        }
        Ok(())
    }
}

#[test]
fn parts_put_together_share_a_sync_and_each_has_its_own_result() {
    let dir = tempfile::tempdir().unwrap();
    let syncs = Arc::new(Syncs::default());
    let device = DirectoryDevice::open_with(config(dir.path()), VENDOR, None, Some(syncs.clone())).unwrap();
    let contents: Vec<Vec<u8>> = (0..5).map(|n| bytes(n, 9_000)).collect();
    let parts: Vec<Part> = contents.iter().map(|content| part(content)).collect();
    let results = device.put_all(&parts);
    assert_eq!(syncs.count.load(Ordering::Relaxed), 1);
    for (part, result) in parts.iter().zip(&results) {
        assert_eq!(result.as_ref().unwrap().part, part.name());
        assert_eq!(*device.get(part.name()).unwrap(), **part.bytes());
    }
    assert_eq!(counts(&device), (5 * 9_000, 5, 0));
    // What is there is counted once.
    assert!(device.put_all(&parts[..2]).iter().all(Result::is_ok));
    assert_eq!(counts(&device), (5 * 9_000, 5, 0));
    // Beyond the quota some of them fit.
    let large: Vec<Vec<u8>> = (10..220).map(|n| bytes(n, 50_000)).collect();
    let large: Vec<Part> = large.iter().map(|content| part(content)).collect();
    let results = device.put_all(&large);
    assert!(results.iter().any(|result| matches!(result, Err(DeviceError::NoSpace { .. }))));
    let fit = results.iter().filter(|result| result.is_ok()).count() as u64;
    assert_eq!(fit, (QUOTA - 5 * 9_000) / 50_000);
    assert_eq!(counts(&device), (5 * 9_000 + fit * 50_000, 5 + fit, 0));
}

#[test]
fn fault_10_of_parts_put_together_none_is_there_after_a_sync_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let syncs = Arc::new(Syncs::default());
    let device = DirectoryDevice::open_with(config(dir.path()), VENDOR, None, Some(syncs.clone())).unwrap();
    syncs.fail.store(true, Ordering::Relaxed);
    let contents: Vec<Vec<u8>> = (0..3).map(|n| bytes(n, 5_000)).collect();
    let parts: Vec<Part> = contents.iter().map(|content| part(content)).collect();
    let results = device.put_all(&parts);
    assert!(matches!(results[0], Err(DeviceError::Io { .. })), "{results:?}");
    assert!(results[1..].iter().all(|result| matches!(result, Err(DeviceError::Suspended { .. }))), "{results:?}");
    assert_eq!(syncs.count.load(Ordering::Relaxed), 1);
    assert_eq!(counts(&device), (0, 0, 0));
    assert!(parts.iter().all(|part| device.get(part.name()).is_err()));
}

#[test]
fn many_writers_at_once_each_find_their_part() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path());
    std::thread::scope(|scope| {
        for writer in 0..8_u64 {
            let device = &device;
            scope.spawn(move || {
                for n in 0..20 {
                    let content = bytes(writer * 100 + n, 9_000);
                    let part = put(device, &content);
                    assert_eq!(device.get(part).unwrap(), content);
                    if n % 2 == 1 {
                        device.remove(part).unwrap();
                    }
                    // One that all of them write.
                    put(device, &bytes(9_999, 9_000));
                }
            });
        }
    });
    assert_eq!(counts(&device), (81 * 9_000, 81, 0));
    drop(device);
    assert_eq!(counts(&open(dir.path())), (81 * 9_000, 81, 0));
}
