//! A mirror keeps so many vendors and no more, never puts out one that holds data, and agrees with the others on the rest.

use std::sync::OnceLock;

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::fat::{FinalFat, Tag, Use};
use fathom_protocol::head::{VendorHead, VerifiedVendor};
use fathom_protocol::ids::{FileId, Hash, LeaseId, NodeId};
use fathom_protocol::lease::{Lease, Named};
use fathom_protocol::limits::{VENDOR_BYTES_MAX, VENDOR_BYTES_MIN};
use fathom_protocol::sign::Signed;
use fathom_protocol::table::{Key, Merged, Table, Verified, weight};
use fathom_protocol::wire::RefusalKind;
use fathom_tests::samples::{self, key, node, signed};
use proptest::prelude::*;

use crate::reconcile::{Mirror, pull};

const VENDORS: u8 = 48;

/// Vendor `number`'s record; some have many leases, so that they differ in what they take.
fn vendor(number: u8, seq: u64) -> Verified {
    let count = [1, 2, 30, 60][usize::from(number % 4)];
    let lease = |id| signed(Lease { id: LeaseId([id; 16]), ..samples::lease(number, 1) }, &key(number));
    let leases: Vec<Signed<Lease>> = (1..=count).map(lease).collect();
    let head = VendorHead { capacity: 1 << 40, ..samples::head(number, seq, &leases) };
    Verified::Vendor(VerifiedVendor { head: signed(head, &key(number)), leases })
}

fn vendors() -> &'static [Verified] {
    static ALL: OnceLock<Vec<Verified>> = OnceLock::new();
    ALL.get_or_init(|| (1..=VENDORS).map(|number| vendor(number, 1)).collect())
}

fn bytes(record: &Verified) -> u64 {
    let Verified::Vendor(vendor) = record else { panic!("a vendor") };
    weight(vendor)
}

/// A file that has data at these vendors, or none any more.
fn file(number: u8, counter: u64, at: &[u8]) -> Verified {
    let used = |vendor: &u8| Use { vendor: node(*vendor), lease: LeaseId([1; 16]), bytes: 7, unused: 0 };
    let seq = Tag::new(counter, 1).0;
    let fat = FinalFat {
        file: FileId([number; 16]),
        seq,
        base: seq,
        follows: samples::all_before(Tag(seq)),
        frees: Bounded::default(),
        ..samples::release()
    };
    let body = if at.is_empty() { Blob::default() } else { Blob::new(vec![1]).unwrap() };
    let fat = FinalFat { uses: Bounded::first(at.iter().map(used)), body, ..fat };
    Verified::Fat(signed(fat, crate::reconcile::user().signing()))
}

fn kept(table: &Table) -> Vec<NodeId> {
    table.vendors().map(|vendor| vendor.head.vendor).collect()
}

/// Both read what the other has and they lack, until nobody learns anything. Returns after how many rounds.
fn exchange(a: &mut Mirror, b: &mut Mirror) -> usize {
    for round in 0..64u8 {
        let before = (a.table.digest(), b.table.digest());
        pull(a, b, [round; 16]);
        pull(b, a, [round + 100; 16]);
        if before == (a.table.digest(), b.table.digest()) {
            return usize::from(round);
        }
    }
    panic!("two mirrors put out what the other brings, again and again");
}

proptest! {
    #![proptest_config(crate::config(48))]

    /// Two mirrors that saw different vendors in different orders, neither with room for all, agree after a few exchanges, and stay so.
    #[test]
    fn mirrors_that_cannot_keep_all_vendors_come_to_keep_the_same(
        here in prop::collection::vec(0..usize::from(VENDORS), 0..80),
        there in prop::collection::vec(0..usize::from(VENDORS), 0..80),
        in_use in prop::collection::btree_set(1..=VENDORS, 0..8),
        fits in 12..30u64,
        late in any::<bool>(),
    ) {
        // Whatever is in use fits: its heaviest eight take less than twelve of the mean.
        let max = fits * (VENDOR_BYTES_MIN + 24 * 1024);
        let in_use: Vec<u8> = in_use.into_iter().collect();
        let fat = file(1, 1, &in_use);
        let mirror = |seen: &[usize]| {
            let mut mirror = Mirror::of(Table::with_vendor_bytes(max));
            if !late {
                mirror.take(&fat);
            }
            for number in seen {
                mirror.take(&vendors()[*number]);
                assert!(mirror.table.vendor_bytes() <= max);
            }
            mirror.take(&fat);
            mirror
        };
        let (mut a, mut b) = (mirror(&here), mirror(&there));
        exchange(&mut a, &mut b);
        prop_assert_eq!(a.table.digest(), b.table.digest());
        // Those that hold data report again if they were put out before that was known, and are let in.
        for number in &in_use {
            a.take(&vendors()[usize::from(*number) - 1]);
        }
        exchange(&mut a, &mut b);
        prop_assert_eq!(a.table.digest(), b.table.digest());
        for mirror in [&a, &b] {
            let taken: u64 = mirror.table.vendors().map(weight).sum();
            prop_assert_eq!(mirror.table.vendor_bytes(), taken);
            prop_assert!(taken <= max);
            prop_assert!(in_use.iter().all(|number| mirror.table.vendor(node(*number)).is_some()));
        }
        // Whoever knocks again changes nothing for good.
        let digest = a.table.digest();
        for record in vendors().iter().filter(|record| a.table.vendor(match record.key() {
            Key::Vendor(vendor) => vendor,
            _ => panic!("a vendor"),
        }).is_none()).cloned().collect::<Vec<_>>() {
            if !here.is_empty() && a.table.merge(&record).is_err() {
                prop_assert_eq!(a.table.digest(), digest);
            } else {
                break;
            }
        }
    }
}

/// Once, each key that signed a head cost every mirror some kilobytes for ever.
#[test]
fn a_flood_of_vendors_takes_its_share_of_memory_and_puts_out_none_that_holds_data() {
    let light: Vec<&Verified> = vendors().iter().filter(|record| bytes(record) < VENDOR_BYTES_MIN + 2_000).collect();
    let max = 8 * bytes(light[1]);
    let mut mirror = Mirror::of(Table::with_vendor_bytes(max));
    mirror.take(&file(1, 1, &[1, 4]));
    for number in [1usize, 4] {
        assert!(mirror.take(&vendors()[number - 1]));
    }
    for record in vendors() {
        mirror.take(record);
        assert!(mirror.table.vendor_bytes() <= max);
    }
    let before = kept(&mirror.table);
    assert!(before.contains(&node(1)) && before.contains(&node(4)) && before.len() >= 4, "{before:?}");
    // A refusal says why, and changes nothing.
    let refused = vendors().iter().find_map(|record| mirror.table.merge(record).err()).unwrap();
    assert_eq!(refused.kind, RefusalKind::Busy);
    assert_eq!(kept(&mirror.table), before);
    // Those that are kept go on to report.
    for number in (1..=VENDORS).filter(|number| before.contains(&node(*number))) {
        assert!(mirror.take(&vendor(number, 2)), "vendor {number}");
    }
    assert_eq!(kept(&mirror.table), before);
    // A vendor that comes to hold data is let in, whomever that puts out.
    let late = (1..=VENDORS).find(|number| number % 4 < 2 && !before.contains(&node(*number))).unwrap();
    assert!(!mirror.take(&vendor(late, 2)));
    mirror.take(&file(2, 1, &[late]));
    let Ok(Merged::New { drops, .. }) = mirror.table.merge(&vendor(late, 2)) else { panic!("it holds data") };
    assert!(!drops.is_empty() && drops.iter().all(|key| matches!(key, Key::Vendor(_))));
    assert_eq!(mirror.table.digest().heads, kept(&mirror.table).len() as u64);
    for held in [1, 4, late] {
        assert!(mirror.table.vendor(node(held)).is_some());
    }
    assert_eq!(mirror.table.vendors().map(weight).sum::<u64>(), mirror.table.vendor_bytes());
}

#[test]
fn a_million_leases_of_ten_thousand_vendors_fit() {
    let named = Some(Named { file: FileId([1; 16]), fat: Hash([2; 32]) });
    let with = |count: u8| {
        let lease = |id| signed(Lease { id: LeaseId([id; 16]), named, ..samples::lease(1, 1) }, &key(1));
        let leases: Vec<Signed<Lease>> = (1..=count).map(lease).collect();
        weight(&VerifiedVendor { head: signed(samples::head(1, 1, &leases), &key(1)), leases })
    };
    let all = 10_000 * (with(1) + 99 * (with(2) - with(1)));
    assert!(all <= VENDOR_BYTES_MAX, "{all} bytes");
}

/// Vendors that hold data do not give way to each other; the next one is refused until one of them holds none any more.
#[test]
fn where_all_hold_data_the_next_one_waits() {
    let max = 3 * bytes(&vendors()[3]);
    let mut mirror = Mirror::of(Table::with_vendor_bytes(max));
    mirror.take(&file(1, 1, &[4, 8, 12]));
    mirror.take(&file(2, 1, &[16]));
    for number in [4, 8, 12] {
        assert!(mirror.take(&vendors()[number - 1]));
    }
    assert_eq!(mirror.table.merge(&vendors()[15]).unwrap_err().kind, RefusalKind::Busy);
    mirror.take(&file(1, 2, &[]));
    assert!(mirror.take(&vendors()[15]));
    assert_eq!(mirror.table.digest().heads, 3);
    assert!(mirror.table.vendor(node(16)).is_some());
}
