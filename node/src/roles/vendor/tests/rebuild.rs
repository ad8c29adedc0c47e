//! A local FAT that is damaged or lost while the devices are well.

use fathom_store::LocalFat;

use super::*;

const CHUNKS: u8 = 6;

/// A vendor with chunks of one user, half of them committed by a final FAT.
async fn filled(seed: u8) -> (TestUser, TestVendor) {
    let user = TestUser::start(seed).await;
    let vendor = TestVendor::start(seed + 1).await;
    let mut uses = Vec::new();
    for n in 0..CHUNKS {
        let receipt = user.store(&vendor, &bytes(20_000, n)).await;
        uses.push(user.uses(&receipt, 0));
    }
    uses.truncate(1);
    uses[0].bytes = 20_000 * u64::from(CHUNKS);
    let fat = user.sealed(user.fat(1, 1, uses, Vec::new()));
    assert_eq!(
        user.peer.net.call(vendor.node(), &Request::Order(Bounded::first([fat])), WAIT).await.unwrap(),
        Response::Done
    );
    // A head, as a vendor that runs has one.
    let number = super::super::report::Number::after(*super::super::lock(&vendor.vendor.head));
    vendor.vendor.sign_head(fathom_protocol::head::Addresses::default(), number).unwrap();
    (user, vendor)
}

/// Stops the vendor, lets `change` have its local FAT, and starts it again.
async fn restart_after(vendor: TestVendor, seed: u8, change: impl FnOnce(&std::path::Path)) -> TestVendor {
    let TestVendor { peer, vendor, dir } = vendor;
    peer.cancel.cancel();
    peer.net.overlay().shutdown().await;
    drop(peer);
    let settings = vendor.settings.clone();
    let weak = Arc::downgrade(&vendor);
    drop(vendor);
    eventually("the vendor is dropped", || weak.upgrade().is_none()).await;
    change(&dir.path().join(super::super::FAT_FILE));
    TestVendor::open(seed, dir, settings).await
}

/// Keeps away: a damaged local FAT that is trusted, or that costs a chunk which is whole on a device.
#[tokio::test(flavor = "multi_thread")]
async fn fault_07_a_damaged_local_fat_is_made_anew_and_no_part_is_lost() {
    let (_user, mut vendor) = filled(140).await;
    let before = vendor.counts();
    let (files, epoch) = (vendor.files(), 1);
    assert_eq!((before.0, files), (u64::from(CHUNKS), usize::from(CHUNKS)));
    let mut image = Vec::new();
    vendor = restart_after(vendor, 141, |path| image = std::fs::read(path).unwrap()).await;
    let live: Vec<usize> = (4096..image.len()).filter(|at| image[*at] != 0).collect();
    let mut rebuilt = 0;
    for at in live.iter().step_by(live.len() / 50 + 1) {
        vendor = restart_after(vendor, 141, |path| {
            let mut damaged = image.clone();
            damaged[*at] ^= 1 << (at % 8);
            std::fs::write(path, damaged).unwrap();
        })
        .await;
        assert_eq!(vendor.files(), files, "byte {at}: a part was taken for an orphan");
        let asides = std::fs::read_dir(vendor.dir.path()).unwrap();
        let aside = asides.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"));
        let found = vendor.counts();
        if aside.count() > rebuilt {
            rebuilt += 1;
            let head = super::super::lock(&vendor.vendor.head).epoch;
            // Without the old head the mirrors say which epoch comes next.
            assert!(head == epoch + 1 || head == 1, "byte {at}: epoch {head}");
            // Its lease is known again, and everything under it; or it is not, and mirrors may remember it.
            assert!(found == before || found.3 == 0, "byte {at}: {found:?} instead of {before:?}");
        } else {
            assert_eq!(found, before, "byte {at}");
        }
    }

    assert!(rebuilt >= 3, "{rebuilt}");
}

/// Keeps away: a vendor whose local FAT was lost never serving again what its devices hold, once its leases are known.
#[tokio::test(flavor = "multi_thread")]
async fn fault_07_a_lost_local_fat_is_made_anew_once_the_leases_are_back() {
    let (_user, vendor) = filled(144).await;
    let (before, files) = (vendor.counts(), vendor.files());
    let leases = vendor.vendor.fat.leases().unwrap();
    let vendor = restart_after(vendor, 145, |path| std::fs::remove_file(path).unwrap()).await;
    assert_eq!((vendor.counts().0, vendor.files()), (0, files));
    // However often it starts.
    let vendor = vendor.restart(145).await;
    assert_eq!((vendor.counts().0, vendor.files()), (0, files));
    let vendor = restart_after(vendor, 145, |path| {
        let fat = LocalFat::open(path, fathom_store::FatConfig::default()).unwrap();
        for (id, lease) in &leases {
            fat.put_lease(*id, &lease.signed, lease.bytes).unwrap();
        }
    })
    .await;
    assert_eq!(vendor.counts(), before);
    assert_eq!(vendor.vendor.fat.kv(super::super::UNADOPTED_KEY).unwrap(), None);
}
