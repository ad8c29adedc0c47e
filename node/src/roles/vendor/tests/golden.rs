//! What the vendor keeps under names in its local FAT, byte by byte.

use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::wire::Page;
use fathom_store::fat::{FatConfig, HEAD_KEY, LocalFat};

use super::super::MIGRATIONS_KEY;
use super::super::report::read_head;
use super::*;
use crate::golden;

const MIRROR: NodeId = NodeId([8; 32]);

/// Golden values of format 1; they are never edited. Names: `head`, `migrations`, `orders/MIRROR`.
#[tokio::test]
async fn named_values_keep_their_bytes() {
    let vendor = TestVendor::start(70).await;
    let page = Page {
        records: Bounded::default(),
        log: Hash([9; 32]),
        next: 0x0102,
        more: false,
        clock: UnixMs(1_790_000_000_000),
    };
    vendor.vendor.take_orders(MIRROR, page).unwrap();
    let fat = &vendor.vendor.fat;
    let cursor = fat.kv(&format!("orders/{}", "08".repeat(32))).unwrap().expect("a cursor under its golden name");
    let cursor = golden::same("vendor-cursor-v1", &cursor);
    assert_eq!((HEAD_KEY, MIGRATIONS_KEY), ("head", "migrations"));
    fat.write(|tx| (0..258).try_for_each(|_| vendor.vendor.count_migration(tx))).unwrap();
    let migrations = golden::same("vendor-migrations-v1", &fat.kv(MIGRATIONS_KEY).unwrap().unwrap());
    let record = vendor.vendor.next_head(Default::default()).to_record();
    let kept: Carried<VendorHead> = codec::decode(&fat.kv(HEAD_KEY).unwrap().unwrap(), 1 << 20).unwrap();
    assert_eq!(kept, record.head);

    // A start from golden values.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fat.redb");
    let head = golden::message("vendor_head");
    let rows = [("head", &*head), ("migrations", &*migrations)];
    let name = format!("orders/{MIRROR}");
    LocalFat::open(&path, FatConfig::default()).unwrap().put_many(&rows).unwrap();
    LocalFat::open(&path, FatConfig::default()).unwrap().put_many(&[(&name, &*cursor)]).unwrap();
    let fat = LocalFat::open(&path, FatConfig::default()).unwrap();
    assert!(read_head(&fat).unwrap().seq > 0);
    let devices = fathom_store::DeviceSet::new(Vec::new(), fathom_store::SetConfig::default()).unwrap();
    let again = Vendor::over(vendor.peer.net.clone(), settings(Vec::new()), fat, devices).unwrap();
    assert_eq!(again.status()["migrations"], 258);
    assert_eq!(again.cursor(MIRROR).unwrap(), (Hash([9; 32]), 0x0102));
}
