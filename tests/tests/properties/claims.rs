//! What all files of an owner together claim of a lease, at the mirror where a final FAT is handed in. That the sums are right
//! whatever came in which order is part of `any_order_ends_in_the_same_table`.

use std::collections::BTreeMap;

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::fat::{FinalFat, Follows, Tag, Use};
use fathom_protocol::head::{VendorHead, VerifiedVendor};
use fathom_protocol::ids::{ChunkId, FileId, LeaseId, OwnerId};
use fathom_protocol::lease::Lease;
use fathom_protocol::limits::EXTENT_BYTES_MAX;
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::sign::Signed;
use fathom_protocol::table::{FatEntry, Strangers, Submission, Table, Verified};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::RefusalKind;
use fathom_tests::samples::{self, key, node, signed};

/// Bytes of each lease: as many as one can have.
const EXTENT: u64 = EXTENT_BYTES_MAX;
const QUARTER: u64 = EXTENT / 4;

struct World {
    table: Table,
    fat: FinalFat,
    owner: OwnerId,
}

impl World {
    /// A mirror that knows two leases at each of vendors 1 and 2.
    fn new() -> Self {
        Self::with_leases_of(EXTENT)
    }

    fn with_leases_of(bytes: u64) -> Self {
        let mut table = Table::default();
        for vendor in 1..3 {
            let lease = |id| signed(Lease { bytes, ..samples::lease(vendor, id) }, &key(vendor));
            let leases = vec![lease(1), lease(2)];
            let head = VendorHead { capacity: 4 * EXTENT, ..samples::head(vendor, 1, &leases) };
            let head = signed(head, &key(vendor));
            table.merge(&Verified::Vendor(VerifiedVendor { head, leases })).unwrap();
        }
        let fat = FinalFat { frees: Bounded::default(), ..samples::final_fat() };
        Self { table, owner: fat.owner, fat }
    }

    /// A final FAT of a file that uses so much of the first lease of vendors.
    fn fat(&self, file: u8, tag: Tag, uses: &[(u8, u64)]) -> FinalFat {
        let used = |(vendor, bytes): &(u8, u64)| Use { vendor: node(*vendor), lease: LEASE, bytes: *bytes, unused: 0 };
        let uses = Bounded::first(uses.iter().map(used));
        let follows = samples::all_before(tag);
        FinalFat { file: FileId([file; 16]), seq: tag.0, base: tag.0, follows, uses, ..self.fat.clone() }
    }

    fn admit(&self, fat: &FinalFat) -> Result<(), RefusalKind> {
        let (mut submission, mut strangers) = (Submission::default(), Strangers::default());
        self.table.admit(fat, &mut submission, &mut strangers, UnixMs(1)).map_err(|refusal| refusal.kind)
    }

    /// Hands it in.
    fn submit(&mut self, fat: &FinalFat) -> Result<(), RefusalKind> {
        self.admit(fat)?;
        self.keep(fat);
        Ok(())
    }

    fn keep(&mut self, fat: &FinalFat) {
        let fat = signed(fat.clone(), samples::user().signing());
        self.table.merge(&Verified::Fat(fat)).unwrap();
    }

    fn moved(&mut self, file: u8, tag: Tag, chunk: u8, bytes: u64) {
        let body = Move {
            owner: self.owner,
            file: FileId([file; 16]),
            seq: tag.0,
            chunk: ChunkId([chunk; 32]),
            length: bytes as u32,
            from: node(1),
            from_lease: LEASE,
            to: node(2),
            to_lease: LEASE,
            ..samples::move_body()
        };
        let carried = CarriedMove::propose(&body, &key(1)).unwrap().cosign(&key(2));
        self.table.merge(&Verified::Move(body, carried)).unwrap();
    }

    /// Quarters of the first lease of vendors 1 and 2 that are claimed.
    fn quarters(&self) -> [i128; 2] {
        [1, 2].map(|vendor| self.table.claimed(self.owner, node(vendor), LEASE) / i128::from(QUARTER))
    }
}

const LEASE: LeaseId = LeaseId([1; 16]);

const fn tag(counter: u64) -> Tag {
    Tag::new(counter, 1)
}

/// Once, each file was looked at alone, and a hundred files could each claim the whole lease.
#[test]
fn files_that_share_a_lease_claim_no_more_than_it_has() {
    let mut world = World::new();
    for file in 1..=4 {
        let fat = world.fat(file, tag(1), &[(1, QUARTER)]);
        assert_eq!(world.submit(&fat), Ok(()), "file {file}");
    }
    let fifth = world.fat(5, tag(1), &[(1, 1)]);
    assert_eq!(world.admit(&fifth), Err(RefusalKind::OverLease));
    assert_eq!(world.admit(&world.fat(5, tag(1), &[(2, EXTENT)])), Ok(()), "another lease has room");
    // What is there may be handed in again, and one may be replaced by as much.
    assert_eq!(world.submit(&world.fat(1, tag(1), &[(1, QUARTER)])), Ok(()));
    assert_eq!(world.admit(&world.fat(1, tag(2), &[(1, QUARTER + 1)])), Err(RefusalKind::OverLease));
    assert_eq!(world.submit(&world.fat(1, tag(2), &[(1, QUARTER - 1)])), Ok(()));
    assert_eq!(world.submit(&fifth), Ok(()));
    // A release gives its part back.
    let release = FinalFat { body: Blob::default(), ..world.fat(2, tag(2), &[]) };
    assert_eq!(world.submit(&release), Ok(()));
    assert_eq!(world.submit(&world.fat(6, tag(1), &[(1, QUARTER)])), Ok(()));
    assert_eq!(world.quarters(), [4, 0]);
}

/// Keeps away: each small file waits for the head that shows what its lease grew by.
#[test]
fn files_that_follow_each_other_quickly_wait_for_no_head() {
    const KNOWN: u64 = 1 << 20;
    let mut world = World::with_leases_of(KNOWN);
    for file in 1..=9 {
        assert_eq!(world.submit(&world.fat(file, tag(1), &[(1, KNOWN / 4)])), Ok(()), "file {file}");
    }
    assert_eq!(world.admit(&world.fat(10, tag(1), &[(1, KNOWN + 1)])), Err(RefusalKind::OverLease), "one file alone");
}

/// Another user's claims, of a lease that is not its own, take nothing from who holds it.
#[test]
fn what_a_stranger_claims_takes_nothing_from_the_owner() {
    let mut world = World::new();
    let stranger = OwnerId(node(77).0);
    let foreign = FinalFat { owner: stranger, ..world.fat(1, tag(1), &[(1, EXTENT)]) };
    assert_eq!(world.admit(&foreign), Err(RefusalKind::NotAuthorised));
    // Another mirror took it before it knew the lease.
    world.table.merge(&Verified::Fat(signed(foreign, &key(77)))).unwrap();
    assert_eq!(world.submit(&world.fat(1, tag(1), &[(1, EXTENT)])), Ok(()));
}

#[test]
fn one_submission_counts_what_came_with_it() {
    let world = World::new();
    let (mut submission, mut strangers) = (Submission::default(), Strangers::default());
    let mut admit = |fat: &FinalFat| {
        world.table.admit(fat, &mut submission, &mut strangers, UnixMs(1)).map_err(|refusal| refusal.kind)
    };
    assert_eq!(admit(&world.fat(1, tag(1), &[(1, 3 * QUARTER)])), Ok(()));
    assert_eq!(admit(&world.fat(2, tag(1), &[(1, 2 * QUARTER)])), Err(RefusalKind::OverLease));
    assert_eq!(admit(&world.fat(2, tag(1), &[(1, QUARTER), (2, EXTENT)])), Ok(()));
    assert_eq!(admit(&world.fat(3, tag(1), &[(2, 1)])), Err(RefusalKind::OverLease));
}

/// A chunk that moved is claimed where it is, until the final FAT that frees it; a move before its own final FAT says nothing yet.
#[test]
fn moves_take_their_chunks_claims_along() {
    let mut world = World::new();
    world.submit(&world.fat(1, tag(1), &[(1, EXTENT)])).unwrap();
    world.moved(1, tag(1), 1, QUARTER);
    assert_eq!(world.quarters(), [3, 1]);
    assert_eq!(world.admit(&world.fat(2, tag(1), &[(2, EXTENT)])), Err(RefusalKind::OverLease));
    assert_eq!(world.submit(&world.fat(2, tag(1), &[(1, QUARTER), (2, 3 * QUARTER)])), Ok(()));
    world.submit(&world.fat(1, tag(2), &[(1, QUARTER)])).unwrap();
    assert_eq!(world.quarters(), [2, 3], "its move is void");

    world.moved(3, tag(1), 1, 2 * QUARTER);
    assert_eq!(world.quarters(), [2, 3], "the move came first");
    world.keep(&world.fat(3, tag(1), &[(1, 2 * QUARTER)]));
    assert_eq!(world.quarters(), [2, 5]);
}

/// Both versions of a fork claim what they use; the one that is not chosen no more once that is said, and its moves neither.
#[test]
fn versions_claim_until_one_is_chosen() {
    let mut world = World::new();
    let (mine, yours) = (Tag::new(1, 1), Tag::new(1, 2));
    world.submit(&world.fat(1, mine, &[(1, QUARTER)])).unwrap();
    world.submit(&world.fat(1, yours, &[(1, 2 * QUARTER)])).unwrap();
    world.moved(1, yours, 1, QUARTER);
    assert_eq!(world.quarters(), [2, 1]);
    let third = world.fat(1, Tag::new(1, 3), &[(1, 3 * QUARTER)]);
    assert_eq!(world.admit(&third), Err(RefusalKind::OverLease));
    let versions = world.table.versions(world.owner, FileId([1; 16])).map(FatEntry::lineage);
    let follows = Follows::all_of(versions, Some(mine));
    let chosen = FinalFat { base: mine.0, follows, ..world.fat(1, Tag::new(2, 3), &[(1, QUARTER)]) };
    assert_eq!(world.submit(&chosen), Ok(()));
    assert_eq!(world.quarters(), [1, 0]);
    let release = FinalFat { body: Blob::default(), ..world.fat(1, tag(3), &[]) };
    world.submit(&release).unwrap();
    assert_eq!(world.quarters(), [0, 0]);
    assert!(!world.table.in_use(node(1)) && !world.table.in_use(node(2)));
}

/// Who is over its leases, since other mirrors took more for it than here would be let in, can still put that right.
#[test]
fn who_claims_less_than_before_is_let_in() {
    let mut world = World::new();
    for file in 1..=3 {
        world.keep(&world.fat(file, tag(1), &[(1, 2 * QUARTER)]));
    }
    assert_eq!(world.quarters(), [6, 0]);
    assert_eq!(world.admit(&world.fat(1, tag(2), &[(1, 2 * QUARTER)])), Ok(()));
    assert_eq!(world.admit(&world.fat(1, tag(2), &[(1, QUARTER)])), Ok(()));
    assert_eq!(world.admit(&world.fat(1, tag(2), &[(1, 3 * QUARTER)])), Err(RefusalKind::OverLease));
}

/// The largest numbers that a record can say neither wrap nor stick.
#[test]
fn huge_claims_come_and_go() {
    let mut world = World::new();
    let all: BTreeMap<u8, Signed<FinalFat>> = (1..=5)
        .map(|file| {
            let fat = world.fat(file, tag(1), &[(1, u64::MAX), (1, u64::MAX)]);
            (file, signed(fat, samples::user().signing()))
        })
        .collect();
    for fat in all.values() {
        world.table.merge(&Verified::Fat(fat.clone())).unwrap();
    }
    assert_eq!(world.table.claimed(world.owner, node(1), LEASE), 10 * i128::from(u64::MAX));
    for file in all.keys() {
        world.keep(&FinalFat { body: Blob::default(), ..world.fat(*file, tag(2), &[]) });
    }
    assert_eq!(world.table.claimed(world.owner, node(1), LEASE), 0);
}
