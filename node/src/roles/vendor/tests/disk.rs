//! A local FAT whose disk fails under a chunk that comes in.

use fathom_protocol::ids::DeviceId;
use fathom_store::testing::{BackendFault, FailingStorage};
use fathom_store::{Device, DeviceSet, FatConfig, LocalFat, MemoryDevice, SetConfig};

use super::*;

fn open(image: Vec<u8>) -> LocalFat {
    LocalFat::open_in(Arc::new(FailingStorage::from_image(image)), FatConfig::default()).unwrap()
}

/// A vendor whose local FAT is in `storage`.
async fn over(storage: &FailingStorage, seed: u8) -> TestVendor {
    let dir = tempfile::tempdir().unwrap();
    let fat = LocalFat::open_in(Arc::new(storage.clone()), FatConfig::default()).unwrap();
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(DeviceId([1; DeviceId::LEN]), 64 * MIB));
    let devices = DeviceSet::new(vec![device], SetConfig::default()).unwrap();
    let mut made = None;
    let peer = peer(seed, Roles { vendor: true, ..Roles::default() }, |net| {
        let vendor = Vendor::over(net.clone(), settings(Vec::new()), fat, devices).unwrap();
        made = Some(Arc::clone(&vendor));
        Role::Vendor(vendor)
    })
    .await;
    TestVendor { peer, vendor: made.unwrap(), dir }
}

/// Keeps away: a commit that failed, and had reached the disk all the same, named parts that were taken back. The chunk, sent
/// again, then got a receipt with nothing behind it.
#[tokio::test(flavor = "multi_thread")]
async fn fault_10_an_entry_that_reached_the_disk_in_a_failed_commit_has_its_parts() {
    let user = TestUser::start(101).await;
    let body = bytes(300_000, 1);
    let (mut failed, mut named) = (0, 0);
    for nth in 1.. {
        let storage = FailingStorage::default();
        let vendor = over(&storage, 102).await;
        let stop = user.lock(&vendor, MIB).await;
        // The lease is in use already, so that a chunk changes nothing but its own rows.
        let first = bytes(1_000, 2);
        assert_eq!(receipts(&user.send(vendor.node(), &user.header(&first, &[&stop]), &first).await).len(), 1);
        storage.fail_nth(nth, BackendFault::Eio);
        let answers = user.send(vendor.node(), &user.header(&body, &[&stop]), &body).await;
        for image in [storage.image(), storage.durable_image()] {
            if let Some(entry) = open(image).chunk(user.owner(), ChunkId::of(&body)).unwrap() {
                assert_eq!(vendor.vendor.devices.read_chunk(&entry.parts).unwrap(), body, "write {nth}");
                named += usize::from(receipts(&answers).is_empty());
            }
        }
        if failures(&answers).is_empty() {
            break;
        }
        failed += 1;
        // Sent again: a receipt is for what is on the disk.
        let again = user.send(vendor.node(), &user.header(&body, &[&stop]), &body).await;
        if !receipts(&again).is_empty() {
            let entry = open(storage.durable_image()).chunk(user.owner(), ChunkId::of(&body)).unwrap();
            let entry = entry.unwrap_or_else(|| panic!("write {nth}: a receipt without an entry on the disk"));
            assert_eq!(vendor.vendor.devices.read_chunk(&entry.parts).unwrap(), body, "write {nth}");
        }
        vendor.peer.net.overlay().shutdown().await;
    }
    assert!(failed > 3, "{failed} writes failed");
    assert!(named > 0, "no failed commit reached the disk: the case was not met");
}
