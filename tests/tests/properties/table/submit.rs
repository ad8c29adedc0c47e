//! What a mirror refuses where a final FAT is handed in, and in what proportion it takes them.

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::fat::{FinalFat, Use};
use fathom_protocol::ids::FileId;
use fathom_protocol::limits::{
    FAT_BODY_BYTES_MAX, FILE_LEASED_BYTES, FILES_FREE, STRANGER_BYTES_PER_HOUR, STRANGER_FILES_MAX,
};
use fathom_protocol::table::{Merged, Strangers, Submission, Table, Verified, verify};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{RefusalKind, SyncRecord};
use fathom_tests::samples::{self, node, signed};

use super::authors::{Authors, FIRST, What, owner};
use super::merge;

fn admit(table: &Table, fat: &FinalFat) -> Result<(), RefusalKind> {
    table.admit(fat, &mut Submission::default(), &mut Strangers::default(), UnixMs(1)).map_err(|refusal| refusal.kind)
}

/// Once, a mirror that knew the lease refused a record that a mirror without it had kept, and the two never agreed again.
#[test]
fn a_foreign_lease_is_refused_at_submission_and_not_in_a_merge() {
    let mut table = Table::default();
    merge(&mut table, &What::Vendor { vendor: 1, epoch: 0, seq: 1, variant: 0 }).unwrap();
    // The sample vendor's leases are the sample user's, not those of owner 1.
    let Verified::Fat(fat) = Authors::default().record(&FIRST) else { panic!("a final FAT") };
    assert_eq!(admit(&table, &fat), Err(RefusalKind::NotAuthorised));
    assert!(matches!(merge(&mut table, &FIRST), Ok(Merged::New { .. })));
    assert_eq!(admit(&table, &samples::final_fat()), Ok(()));
}

/// A final FAT that claims more than the leases it names have is refused where it is handed in, its parts added up.
#[test]
fn a_final_fat_that_claims_more_than_its_leases_have_is_refused() {
    let mut table = Table::default();
    merge(&mut table, &What::Vendor { vendor: 1, epoch: 0, seq: 1, variant: 0 }).unwrap();
    let fat = samples::final_fat();
    let own = fat.uses.iter().find(|used| used.vendor == node(1)).copied().unwrap();
    let extent = table.vendor(node(1)).unwrap().leases.iter().find(|lease| lease.id == own.lease).unwrap().bytes;
    let claims = |bytes: &[u64]| {
        let uses = Bounded::first(bytes.iter().map(|bytes| Use { bytes: *bytes, ..own }));
        admit(&table, &FinalFat { uses, ..fat.clone() })
    };
    assert_eq!(claims(&[extent]), Ok(()));
    assert_eq!(claims(&[extent + 1]), Err(RefusalKind::OverLease));
    assert_eq!(claims(&[extent, 1]), Err(RefusalKind::OverLease));
    assert_eq!(claims(&[u64::MAX, u64::MAX]), Err(RefusalKind::OverLease), "sums do not wrap");
    // Of a lease that is not known here the vendor is the judge.
    let elsewhere = Use { vendor: node(9), bytes: u64::MAX, ..own };
    assert_eq!(admit(&table, &FinalFat { uses: Bounded::first([elsewhere]), ..fat }), Ok(()));
}

/// Who leases nothing cannot fill a mirror; who leases may have as many files as that warrants, and may always release one.
#[test]
fn final_fats_are_taken_in_proportion_to_what_their_owner_leases() {
    let mut table = Table::default();
    let (mut strangers, now) = (Strangers::default(), UnixMs(1));
    let nth = |number: u64| {
        let mut file = [0; 16];
        file[..8].copy_from_slice(&number.to_be_bytes());
        let fat = samples::final_fat();
        let uses = Bounded::first(fat.uses.iter().map(|used| Use { bytes: 1, ..*used }));
        FinalFat { file: FileId(file), uses, ..fat }
    };
    let keep = |table: &mut Table, fat: &FinalFat| {
        let fat = signed(fat.clone(), samples::user().signing()).into_carried();
        table.merge(&verify(SyncRecord::Fat(fat)).unwrap()).unwrap();
    };
    for number in 0..STRANGER_FILES_MAX {
        assert_eq!(table.admit(&nth(number), &mut Submission::default(), &mut strangers, now), Ok(()));
        keep(&mut table, &nth(number));
    }
    let refused = |table: &Table, fat: &FinalFat, strangers: &mut Strangers| {
        table.admit(fat, &mut Submission::default(), strangers, now).map_err(|refusal| refusal.kind)
    };
    assert_eq!(refused(&table, &nth(STRANGER_FILES_MAX), &mut strangers), Err(RefusalKind::Busy));
    // A release of what is here is taken from anybody.
    let release = FinalFat { file: nth(0).file, ..samples::release() };
    assert_eq!(refused(&table, &release, &mut strangers), Ok(()));
    // All strangers together have an hourly share.
    let large = |number: u8| FinalFat {
        owner: owner(number),
        body: Blob::new(vec![0; FAT_BODY_BYTES_MAX]).unwrap(),
        ..samples::final_fat()
    };
    let mut taken = 0;
    while refused(&table, &large(taken), &mut strangers) == Ok(()) {
        taken += 1;
    }
    assert!(usize::from(taken) < STRANGER_BYTES_PER_HOUR as usize / FAT_BODY_BYTES_MAX + 1, "{taken}");
    let later = UnixMs(now.0 + 3_600_000);
    assert_eq!(table.admit(&large(99), &mut Submission::default(), &mut strangers, later), Ok(()));

    // Its vendor's head arrives: now it is known to lease something, and the free share is larger.
    merge(&mut table, &What::Vendor { vendor: 1, epoch: 0, seq: 1, variant: 0 }).unwrap();
    assert_eq!(refused(&table, &nth(STRANGER_FILES_MAX), &mut strangers), Ok(()));
    // As many as its lease warrants, in one submission, and no more.
    let leased = table.vendor(node(1)).unwrap().leases.iter().map(|lease| lease.bytes).sum::<u64>();
    let room = FILES_FREE + leased / FILE_LEASED_BYTES - STRANGER_FILES_MAX;
    let mut submission = Submission::default();
    let mut fat = FinalFat { uses: Bounded::default(), body: Blob::default(), ..nth(0) };
    for number in 0..room {
        fat.file.0[..8].copy_from_slice(&(1_000 + number).to_be_bytes());
        assert_eq!(table.admit(&fat, &mut submission, &mut strangers, now), Ok(()), "{number}");
    }
    let beyond = |table: &Table, strangers: &mut Strangers| {
        table.admit(&nth(900), &mut submission.clone(), strangers, now).map_err(|refusal| refusal.kind)
    };
    assert_eq!(beyond(&table, &mut strangers), Err(RefusalKind::Busy));
    // The same leases under a newer head warrant no more.
    merge(&mut table, &What::Vendor { vendor: 1, epoch: 0, seq: 2, variant: 0 }).unwrap();
    assert_eq!(beyond(&table, &mut strangers), Err(RefusalKind::Busy));
    // Another vendor's do.
    merge(&mut table, &What::Vendor { vendor: 2, epoch: 0, seq: 1, variant: 0 }).unwrap();
    assert_eq!(beyond(&table, &mut strangers), Ok(()));
}
