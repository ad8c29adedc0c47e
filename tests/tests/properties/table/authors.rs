//! Records as devices, vendors and movers sign them one after the other, each from what its author knew.

use std::collections::BTreeMap;

use fathom_protocol::codec::Bounded;
use fathom_protocol::fat::{Fate, FinalFat, Follows, Tag, Use};
use fathom_protocol::head::{VendorHead, VendorRecord};
use fathom_protocol::ids::{ChunkId, FileId, LeaseId, OwnerId};
use fathom_protocol::limits::VERSIONS_MAX;
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::table::{FatEntry, Table, Verified, verify};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::SyncRecord;
use fathom_tests::samples::{self, key, node, signed};
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(super) enum What {
    /// Different `variant`s of one `(epoch, seq)` are two heads that contradict each other.
    Vendor {
        vendor: u8,
        epoch: u64,
        seq: u64,
        variant: u8,
    },
    /// By a device that saw those of the last versions whose bits are set in `sees`, and with `keeps` chose one of them. Or the last
    /// one `again`, signed anew.
    Fat {
        owner: u8,
        file: u8,
        sees: u8,
        keeps: Option<usize>,
        again: bool,
    },
    Move {
        file: u8,
        chunk: u8,
        lease: u8,
        tag: (u64, u16),
        to: u8,
    },
}

pub(super) fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        2 => (1..4u8, 0..2u64, 0..3u64, 0..2u8)
            .prop_map(|(vendor, epoch, seq, variant)| What::Vendor { vendor, epoch, seq, variant }),
        4 => fat(1..3, 255),
        // Files of which more versions are written at once than are kept.
        2 => fat(3..4, 0),
        // Of the versions under which a vendor has had one chunk, a mirror keeps the newest move: which it had before the others
        // became void depends on the order.
        3 => (1..3u8, 1..4u8, 1..3u8, 5..8u8).prop_map(|(file, chunk, lease, to)| {
            What::Move { file, chunk, lease, tag: (u64::from(chunk), u16::from(lease)), to }
        }),
    ]
}

pub(super) fn fat(owners: std::ops::Range<u8>, sees: u8) -> impl Strategy<Value = What> {
    (owners, 1..3u8, 0..=sees, prop::option::weighted(0.4, 0..3usize), prop::bool::weighted(0.1))
        .prop_map(|(owner, file, sees, keeps, again)| What::Fat { owner, file, sees, keeps, again })
}

pub(super) fn owner(number: u8) -> OwnerId {
    OwnerId(node(40 + number).0)
}

pub(super) fn file(number: u8) -> FileId {
    FileId([number; 16])
}

/// What devices, vendors and movers sign one after the other.
#[derive(Default)]
pub(super) struct Authors {
    pub(super) written: BTreeMap<(u8, u8), Vec<FinalFat>>,
}

impl Authors {
    pub(super) fn record(&mut self, what: &What) -> Verified {
        let record = match *what {
            What::Vendor { vendor, epoch, seq, variant } => {
                let record = samples::vendor_record(vendor, seq);
                let head = record.head.peek().unwrap();
                let head = VendorHead { epoch, used: u64::from(variant), ..head };
                SyncRecord::Vendor(VendorRecord { head: signed(head, &key(vendor)).into_carried(), ..record })
            }
            What::Fat { owner: number, .. } => {
                SyncRecord::Fat(signed(self.write(what), &key(40 + number)).into_carried())
            }
            What::Move { file: at, chunk, lease, tag: (counter, writer), to } => {
                let body = Move {
                    owner: owner(1),
                    file: file(at),
                    seq: Tag::new(counter, writer).0,
                    chunk: ChunkId([chunk; 32]),
                    from_lease: LeaseId([lease; 16]),
                    to: node(to),
                    ..samples::move_body()
                };
                SyncRecord::Move(CarriedMove::propose(&body, &key(1)).unwrap().cosign(&key(to)))
            }
        };
        verify(record).unwrap()
    }

    /// A device reads some of the last versions, and replaces what it sees or keeps one of them. Or it hands the last one in again.
    pub(super) fn write(&mut self, what: &What) -> FinalFat {
        let What::Fat { owner: number, file: at, sees, keeps, again } = *what else {
            panic!("{what:?} is no final FAT")
        };
        let written = self.written.entry((number, at)).or_default();
        let sample = FinalFat { owner: owner(number), file: file(at), ..samples::final_fat() };
        let fat = match written.last() {
            Some(last) if again => FinalFat { issued: last.issued.plus_ms(1), ..last.clone() },
            _ => {
                let (mut all, mut view) = (Table::default(), Table::default());
                for (age, fat) in written.iter().rev().enumerate() {
                    let fat = Verified::Fat(signed(fat.clone(), &key(40 + number)));
                    let _ = all.merge(&fat);
                    if age < 8 && sees >> age & 1 == 1 {
                        let _ = view.merge(&fat);
                    }
                }
                // Which of more than are kept a mirror has had depends on when it saw them: mirrors then agree after a sync.
                let many = all.versions(owner(number), file(at)).count() + 1 >= VERSIONS_MAX;
                let view = if many && sees > 0 { all } else { view };
                let versions: Vec<&FatEntry> = view.versions(owner(number), file(at)).collect();
                // Nobody chooses what another version has replaced.
                let replaced = |version: &FatEntry| {
                    versions.iter().any(|other| other.lineage().fate(Tag(version.base)) == Fate::Past)
                };
                let open: Vec<&FatEntry> = versions.iter().copied().filter(|version| !replaced(version)).collect();
                let kept = keeps.filter(|_| !open.is_empty()).map(|keeps| open[keeps % open.len()]);
                let counter = versions.iter().map(|version| Tag(version.seq).counter()).max().unwrap_or(0) + 1;
                let seq = Tag::new(counter, written.len() as u16).0;
                let claim = |used: &Use| Use { bytes: seq, ..*used };
                FinalFat {
                    seq,
                    base: kept.map_or(seq, |kept| kept.base),
                    follows: Follows::all_of(versions.iter().map(|it| it.lineage()), kept.map(|kept| Tag(kept.seq))),
                    uses: Bounded::first(sample.uses.iter().map(claim)),
                    issued: UnixMs(0),
                    ..sample
                }
            }
        };
        written.push(fat.clone());
        fat
    }
}

/// The first final FAT of a file.
pub(super) const FIRST: What = What::Fat { owner: 1, file: 1, sees: 0, keeps: None, again: false };
