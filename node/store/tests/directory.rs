//! A directory as a device: faults 8, 9, 10, 12, 13 and the quota.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use common::{VENDOR, bytes};
use fathom_protocol::ids::{Hash, NodeId};
use fathom_store::direct::Aligned;
use fathom_store::testing::{FailOnce, IoHook, IoStep};
use fathom_store::{Device, DeviceError, DeviceState, DirectoryConfig, DirectoryDevice, FatConfig, LocalFat, Part};
use proptest::prelude::*;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn config(path: &Path, quota: u64) -> DirectoryConfig {
    DirectoryConfig { path: path.to_owned(), quota, reserve: 0, pack_bytes_max: 0 }
}

fn open(path: &Path, quota: u64) -> DirectoryDevice {
    DirectoryDevice::open(config(path, quota), VENDOR, None).unwrap()
}

fn part(content: &[u8]) -> Part {
    Part::of(Aligned::of(&[content]))
}

fn put(device: &dyn Device, content: &[u8]) -> Hash {
    let part = part(content);
    assert_eq!(device.put(&part).unwrap().part, part.name());
    part.name()
}

fn temporary_files(path: &Path) -> usize {
    fs::read_dir(path.join("tmp")).unwrap().count()
}

#[test]
fn parts_survive_a_restart_and_are_counted_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path(), 10_000);
    let (one, two) = (put(&device, &bytes(1, 1000)), put(&device, &bytes(2, 500)));
    put(&device, &bytes(1, 1000));
    let report = device.report();
    assert_eq!((report.used, report.parts, report.temporary, report.free), (1500, 2, 0, 8500));
    assert!(report.write_bytes_per_s > 0 && report.latency_ms > 0.0);
    let id = device.id();
    drop(device);

    fs::write(dir.path().join("tmp").join("9"), b"left over by a crash").unwrap();
    let device = open(dir.path(), 10_000);
    assert_eq!(device.id(), id);
    assert_eq!(temporary_files(dir.path()), 0);
    assert_eq!((device.report().used, device.report().parts), (1500, 2));
    assert_eq!(device.get(one).unwrap(), bytes(1, 1000));
    device.remove(two).unwrap();
    assert!(matches!(device.remove(two), Err(DeviceError::NotFound { .. })));
    assert_eq!((device.report().used, device.report().parts), (1000, 1));
    assert_eq!(device.list().unwrap().len(), 1);
}

#[test]
fn a_reopened_device_counts_once_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path(), 1 << 30);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let device = &device;
            scope.spawn(move || (0..20).for_each(|n| _ = put(device, &bytes(thread * 100 + n, 300))));
        }
        scope.spawn(|| (0..10).for_each(|_| device.reopen().unwrap()));
    });
    let report = device.report();
    assert_eq!((report.used, report.parts, report.temporary), (80 * 300, 80, 0));
}

#[test]
fn another_vendors_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1));
    let error = DirectoryDevice::open(config(dir.path(), 1), NodeId([9; 32]), None).unwrap_err();
    assert!(matches!(error, DeviceError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("another directory"), "{error}");
}

/// Keeps away: serving bytes that rotted on the disk.
#[test]
fn fault_08_a_flipped_bit_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path(), 10_000);
    let content = bytes(1, 200);
    let part = put(&device, &content);
    for byte in 0..content.len() {
        let mut rotten = content.clone();
        rotten[byte] ^= 1 << (byte % 8);
        fs::write(device.part_path(part), &rotten).unwrap();
        assert!(matches!(device.get(part), Err(DeviceError::Corrupt { .. })), "byte {byte}");
        assert!(matches!(device.verify(part), Err(DeviceError::Corrupt { .. })), "byte {byte}");
    }
    for length in [0, 1, content.len() - 1] {
        fs::write(device.part_path(part), &content[..length]).unwrap();
        assert!(matches!(device.get(part), Err(DeviceError::Corrupt { .. })), "length {length}");
    }
    // Storing the part again repairs it, and it is still counted once.
    put(&device, &content);
    assert_eq!(device.get(part).unwrap(), content);
    device.reopen().unwrap();
    assert_eq!((device.report().used, device.report().parts), (200, 1));
}

/// Keeps away: a write that landed in another part's place.
#[test]
fn fault_09_a_misplaced_write_is_caught_by_its_hash() {
    let dir = tempfile::tempdir().unwrap();
    let device = open(dir.path(), 10_000);
    let (one, two) = (put(&device, &bytes(1, 100)), put(&device, &bytes(2, 100)));
    fs::copy(device.part_path(one), device.part_path(two)).unwrap();
    assert!(matches!(device.get(two), Err(DeviceError::Corrupt { found, .. }) if found == one));
}

/// Changes what was written before it is synced.
#[derive(Debug)]
struct Misplacing;

impl IoHook for Misplacing {
    fn before(&self, step: IoStep, path: &Path) -> std::io::Result<()> {
        match step {
            IoStep::SyncFile => fs::OpenOptions::new().write(true).open(path)?.write_all_at(b"misplaced", 50),
            _ => Ok(()),
        }
    }
}

/// Keeps away: acknowledging what reads back as something else.
#[test]
fn fault_09_a_part_that_reads_back_as_something_else_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Some(Arc::new(Misplacing) as Arc<dyn IoHook>);
    let device = DirectoryDevice::open_with(config(dir.path(), 10_000), VENDOR, None, hook).unwrap();
    assert!(matches!(device.put(&part(&bytes(3, 5_000))), Err(DeviceError::Corrupt { .. })));
    assert_eq!((temporary_files(dir.path()), device.report().used), (0, 0));
}

/// Keeps away: acknowledging after the disk has said that it cannot be trusted to keep what it took.
#[test]
fn fault_10_after_a_failed_fsync_nothing_is_acknowledged_until_reopened() {
    for step in [IoStep::Write, IoStep::SyncFile, IoStep::Rename, IoStep::SyncDir] {
        let dir = tempfile::tempdir().unwrap();
        let hook = Arc::new(FailOnce::new(step, EIO));
        let device = DirectoryDevice::open_with(config(dir.path(), 10_000), VENDOR, None, Some(hook.clone())).unwrap();
        let content = bytes(1, 100);
        let part = part(&content);
        assert!(matches!(device.put(&part), Err(DeviceError::Io { .. })), "{step:?}");
        let report = device.report();
        assert_eq!((report.state, report.used, report.temporary, report.free), (DeviceState::Failed, 0, 0, 0));
        assert_eq!(temporary_files(dir.path()), 0);
        assert!(matches!(device.put(&part), Err(DeviceError::Suspended { .. })), "{step:?}");
        assert!(matches!(device.get(part.name()), Err(DeviceError::NotFound { .. })), "reads go on");
        device.reopen().unwrap();
        put(&device, &content);
        assert_eq!((device.report().state, device.report().used), (DeviceState::Healthy, 100));
    }
}

/// Keeps away: a full disk that leaves half a part, a wrong count, or a device out of service.
#[test]
fn fault_12_a_full_disk_leaves_nothing_behind() {
    for step in [IoStep::Write, IoStep::SyncFile, IoStep::Rename, IoStep::SyncDir] {
        let dir = tempfile::tempdir().unwrap();
        let hook = Arc::new(FailOnce::new(step, ENOSPC));
        let device = DirectoryDevice::open_with(config(dir.path(), 10_000), VENDOR, None, Some(hook)).unwrap();
        let content = bytes(1, 100);
        assert!(matches!(device.put(&part(&content)), Err(DeviceError::NoSpace { .. })), "{step:?}");
        let report = device.report();
        assert_eq!((report.used, report.temporary, report.parts), (0, 0, 0));
        assert_eq!(temporary_files(dir.path()), 0);
        assert_eq!(device.list().unwrap(), vec![]);
        put(&device, &content);
    }
    let dir = tempfile::tempdir().unwrap();
    let full = DirectoryConfig { reserve: u64::MAX, ..config(dir.path(), 10_000) };
    let device = DirectoryDevice::open(full, VENDOR, None).unwrap();
    let refused = device.put(&part(b"x"));
    assert!(matches!(refused, Err(DeviceError::NoSpace { needed: 1, free: 0 })), "the reserve stays free");
}

/// Keeps away: taking an unmounted disk's mount point for an empty device, filling the root disk and reporting data as lost.
#[test]
fn fault_13_an_unplugged_device_is_suspended_and_nothing_is_created() {
    let base = tempfile::tempdir().unwrap();
    let (mount, away) = (base.path().join("disk"), base.path().join("away"));
    let fat =
        LocalFat::open(&base.path().join("fat"), FatConfig { headroom_bytes: 0, ..FatConfig::default() }).unwrap();
    let device = fat.open_device(config(&mount, 10_000), VENDOR).unwrap();
    let content = bytes(1, 100);
    let (whole, part) = (part(&content), put(&device, &content));

    fs::rename(&mount, &away).unwrap();
    for empty in [false, true] {
        if empty {
            fs::create_dir(&mount).unwrap();
        }
        assert!(matches!(device.get(part), Err(DeviceError::Suspended { .. })), "not `NotFound`: nothing is lost");
        assert!(matches!(device.put(&whole), Err(DeviceError::Suspended { .. })));
        assert!(matches!(device.remove(part), Err(DeviceError::Suspended { .. })));
        assert!(matches!(device.list(), Err(DeviceError::Suspended { .. })));
        assert!(matches!(device.reopen(), Err(DeviceError::Suspended { .. })));
        let again = fat.open_device(config(&mount, 10_000), VENDOR).unwrap();
        assert_eq!((again.id(), again.report().state, again.report().free), (device.id(), DeviceState::Suspended, 0));
    }
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);

    fs::remove_dir(&mount).unwrap();
    fs::rename(&away, &mount).unwrap();
    device.reopen().unwrap();
    assert_eq!(device.get(part).unwrap(), content);
    assert_eq!((device.report().state, device.report().used), (DeviceState::Healthy, 100));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Remove(u8),
    Fail(u8, bool),
    Rot(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..12u8).prop_map(Step::Put),
        3 => (0..12u8).prop_map(Step::Remove),
        2 => (0..12u8, any::<bool>()).prop_map(|(n, full)| Step::Fail(n, full)),
        1 => (0..12u8).prop_map(Step::Rot),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, used is what lies in the directory, never above the quota, and nothing is temporary.
    #[test]
    fn the_quota_is_hard_and_the_count_exact(steps in prop::collection::vec(step(), 1..40)) {
        const QUOTA: u64 = 2_000;
        let dir = tempfile::tempdir().unwrap();
        let hook = Arc::new(FailOnce::new(IoStep::Rename, ENOSPC));
        let device = DirectoryDevice::open_with(config(dir.path(), QUOTA), VENDOR, None, Some(hook.clone())).unwrap();
        let content = |n: u8| bytes(u64::from(n), 100 + usize::from(n) * 40);
        let _ = device.put(&part(&content(0)));
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(n) => {
                    let before = device.report();
                    let there = device.get(Hash::of(&content(n))).is_ok();
                    let stored = device.put(&part(&content(n)));
                    if there || before.free >= content(n).len() as u64 {
                        prop_assert!(stored.is_ok(), "{stored:?}");
                    } else {
                        let full = matches!(stored, Err(DeviceError::NoSpace { .. }));
                        prop_assert!(full, "{stored:?}");
                    }
                }
                Step::Remove(n) => drop(device.remove(Hash::of(&content(n)))),
                Step::Fail(n, full) => {
                    let steps = [IoStep::Write, IoStep::SyncFile, IoStep::Rename, IoStep::SyncDir];
                    hook.arm(steps[at % 4], if full { ENOSPC } else { EIO });
                    let _ = device.put(&part(&content(n)));
                    device.reopen().unwrap();
                    hook.disarm();
                }
                Step::Rot(n) => {
                    if device.get(Hash::of(&content(n))).is_ok() {
                        let mut rotten = content(n);
                        rotten[0] ^= 1;
                        fs::write(device.part_path(Hash::of(&content(n))), rotten).unwrap();
                    }
                }
                Step::Reopen => device.reopen().unwrap(),
            }
            let report = device.report();
            let lies: u64 = device.list().unwrap().iter().map(|entry| entry.length).sum();
            prop_assert_eq!(report.used, lies);
            prop_assert_eq!(report.parts, device.list().unwrap().len() as u64);
            prop_assert!(report.used <= QUOTA);
            prop_assert_eq!(report.temporary, 0);
            prop_assert_eq!(report.free, QUOTA - report.used);
        }
    }
}
