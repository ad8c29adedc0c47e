//! Mirrors that saw the same records hold the same table, whatever the order.

mod authors;
mod submit;

use std::collections::BTreeMap;

use fathom_protocol::fat::{Fate, FinalFat, Follows, Lineage, Tag};
use fathom_protocol::ids::{LeaseId, NodeId, OwnerId};
use fathom_protocol::limits::{KEY_BYTES_MAX, VERSIONS_MAX};
use fathom_protocol::table::index::Index;
use fathom_protocol::table::{FatEntry, Key, Merged, Table, Verified, verify};
use fathom_protocol::wire::RefusalKind;
use fathom_tests::samples::{self, node, signed};
use proptest::prelude::*;

use authors::{Authors, FIRST, What, fat, file, owner, what};

/// A mirror: the table, and the store that its answers keep.
#[derive(Default)]
struct Mirror {
    table: Table,
    store: BTreeMap<Key, Verified>,
}

impl Mirror {
    fn take(&mut self, record: &Verified) -> Result<(), TestCaseError> {
        let before = self.heights();
        let digest = self.table.digest();
        match self.table.merge(record) {
            Ok(Merged::New { drops, .. }) => {
                for key in drops {
                    prop_assert!(self.store.remove(&key).is_some(), "{key:?} was dropped and never stored");
                }
                self.store.insert(record.key(), record.clone());
                prop_assert_eq!(self.table.merge(record), Ok(Merged::Known), "twice is once");
            }
            Ok(Merged::Twin { key, demoted, drops, .. }) => {
                for key in drops {
                    prop_assert!(self.store.remove(&key).is_some(), "{key:?} was dropped and never stored");
                }
                if let Some(to) = demoted {
                    let known = self.store.remove(&key).unwrap();
                    prop_assert_eq!(self.table.place_of(&known), to);
                    self.store.insert(to, known);
                }
                let replaced = self.store.insert(key, record.clone()).is_some();
                prop_assert!(!replaced || matches!(key, Key::Fat(..)) && demoted.is_none());
                prop_assert_eq!(self.table.place_of(record), key);
                prop_assert_eq!(self.table.merge(record), Ok(Merged::Known), "twice is once");
            }
            Ok(Merged::Known) => prop_assert_eq!(self.table.digest(), digest),
            Err(refusal) => {
                prop_assert!(matches!(refusal.kind, RefusalKind::Stale | RefusalKind::Conflict));
                prop_assert_eq!(self.table.digest(), digest, "what was refused changed something");
            }
        }
        for (key, height) in before {
            prop_assert!(self.heights().get(&key).is_some_and(|now| *now >= height), "{key:?} was replaced by a lower");
        }
        Ok(())
    }

    fn heights(&self) -> BTreeMap<Key, (u64, u64)> {
        let vendors =
            self.table.vendors().map(|vendor| (Key::Vendor(vendor.head.vendor), (vendor.head.epoch, vendor.head.seq)));
        let fats = (1..4u8).flat_map(|number| {
            self.table.fats_after(owner(number), None).map(move |(file, entry)| {
                (Key::Fat(owner(number), file), (Tag(entry.seq).counter(), Tag(entry.base).counter()))
            })
        });
        vendors.chain(fats).collect()
    }
}

/// What files and moves claim of each lease, added up from the start.
fn claims(table: &Table) -> BTreeMap<(OwnerId, NodeId, LeaseId), i128> {
    let mut all = BTreeMap::new();
    for (owner, file) in (1..4u8).flat_map(|number| (1..3u8).map(move |at| (owner(number), file(at)))) {
        let mut claim = |vendor, lease, bytes: i128| *all.entry((owner, vendor, lease)).or_default() += bytes;
        for used in table.versions(owner, file).flat_map(|version| &version.uses) {
            claim(used.vendor, used.lease, i128::from(used.bytes));
        }
        for (_, moved) in table.moves_of(owner, file) {
            let has = |version: &FatEntry| version.lineage().fate(Tag(moved.seq)) == Fate::Live;
            if table.versions(owner, file).any(has) {
                claim(moved.from, moved.from_lease, -i128::from(moved.length));
                claim(moved.to, moved.to_lease, i128::from(moved.length));
            }
        }
    }
    all.retain(|_, bytes| *bytes != 0);
    all
}

/// The table kept the sums as records came and went.
fn claims_add_up(table: &Table) -> Result<(), TestCaseError> {
    let all = claims(table);
    for (owner, vendor) in (1..4u8).flat_map(|number| (1..9u8).map(move |vendor| (owner(number), node(vendor)))) {
        for lease in (1..10u8).map(|lease| LeaseId([lease; 16])) {
            let claimed = all.get(&(owner, vendor, lease)).copied().unwrap_or(0);
            prop_assert_eq!(table.claimed(owner, vendor, lease), claimed);
        }
        prop_assert_eq!(table.in_use(vendor), all.keys().any(|(_, at, _)| *at == vendor));
    }
    Ok(())
}

fn same(a: &Mirror, b: &Mirror) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.table.digest(), b.table.digest());
    claims_add_up(&a.table)?;
    claims_add_up(&b.table)?;
    prop_assert_eq!(a.store.keys().collect::<Vec<_>>(), b.store.keys().collect::<Vec<_>>());
    // The index that grew with the table, twins that changed places and all, is that of what is kept.
    let mut index = Index::default();
    a.store.iter().for_each(|(key, record)| index.put(key, record.compared()));
    for table in [&a.table, &b.table] {
        prop_assert_eq!((table.index().len(), table.index().digest()), (index.len(), index.digest()));
    }
    for number in 1..4u8 {
        let of = |mirror: &Mirror| -> Vec<_> {
            mirror.table.fats_after(owner(number), None).map(|(file, entry)| (file, entry.clone())).collect()
        };
        prop_assert_eq!(of(a), of(b));
        for at in 1..3u8 {
            let versions =
                |mirror: &Mirror| -> Vec<_> { mirror.table.versions(owner(number), file(at)).cloned().collect() };
            prop_assert_eq!(versions(a), versions(b));
            prop_assert!(versions(a).len() <= VERSIONS_MAX);
            let keys: Vec<Key> = a.table.keys_of(owner(number), &[file(at)], None).collect();
            let stored = a.store.keys().filter(|key| key.file() == Some((owner(number), file(at))));
            prop_assert_eq!(keys, stored.copied().collect::<Vec<_>>());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::config(128))]

    #[test]
    fn any_order_ends_in_the_same_table(
        whats in prop::collection::vec(what(), 1..40),
        shuffle in prop::collection::vec(any::<u32>(), 40),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut authors = Authors::default();
        let records: Vec<Verified> = whats.iter().map(|what| authors.record(what)).collect();
        let mut first = Mirror::default();
        for record in &records {
            first.take(record)?;
        }
        let mut order: Vec<usize> = (0..records.len()).collect();
        order.sort_by_key(|index| shuffle[*index]);
        let repeated = again.iter().map(|index| index.index(records.len()));
        let mut second = Mirror::default();
        for index in order.into_iter().chain(repeated) {
            second.take(&records[index])?;
        }
        same(&first, &second)?;
        // A mirror that joins gets what the first still holds, in the order of its keys, and ends alike.
        let mut joined = Mirror::default();
        for record in first.store.values() {
            joined.take(&verify(record.to_record()).unwrap())?;
        }
        same(&first, &joined)?;
        let digest = first.table.digest();
        prop_assert_eq!(digest.heads + digest.moves, first.table.vendors().count() as u64 + moves(&first));
    }

    /// Two keys are written apart, and in the order in which they compare: a store that is ordered by bytes pages by owner.
    #[test]
    fn keys_are_ordered_as_their_bytes(a in what(), b in what()) {
        let [a, b] = [&a, &b].map(|what| Authors::default().record(what).key());
        prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
        prop_assert_eq!(Key::of_file(&a.to_bytes()), a.file().map(|_| a));
        prop_assert!(a.to_bytes().len() <= KEY_BYTES_MAX);
    }

    /// A page of keys goes on after any key, there or not.
    #[test]
    fn keys_of_an_owner_go_on_after_any_key(whats in prop::collection::vec(what(), 1..24), after in what()) {
        let (mut mirror, mut authors) = (Mirror::default(), Authors::default());
        for what in &whats {
            mirror.take(&authors.record(what))?;
        }
        let after = authors.record(&after).key();
        let all: Vec<Key> = mirror.table.keys_of(owner(1), &[], None).collect();
        let rest: Vec<Key> = mirror.table.keys_of(owner(1), &[], Some(after)).collect();
        prop_assert_eq!(rest, all.iter().copied().filter(|key| *key > after).collect::<Vec<_>>());
        // Of a few files, named in any order and more than once, just theirs.
        let named = [file(2), file(0), file(2)];
        let some: Vec<Key> = mirror.table.keys_of(owner(1), &named, Some(after)).collect();
        let theirs = |key: &Key| *key > after && key.file().is_some_and(|(_, file)| named.contains(&file));
        prop_assert_eq!(some, all.into_iter().filter(theirs).collect::<Vec<_>>());
    }

    /// What a final FAT says of other versions: nothing of those that its author did not know; and of those that it did, that they
    /// are replaced, or that one of them was chosen. What was replaced once is never taken up again.
    #[test]
    fn fault_47_no_final_fat_frees_what_was_written_at_once_with_it(
        whats in prop::collection::vec(fat(1..2, 255), 2..24),
    ) {
        let mut authors = Authors::default();
        for what in &whats {
            authors.write(what);
        }
        for written in authors.written.values() {
            for (at, fat) in written.iter().enumerate() {
                prop_assert_eq!(fat.lineage().fate(fat.tag()), Fate::Live);
                prop_assert_eq!(fat.lineage().fate(Tag(fat.base)), Fate::Live);
                for (before, other) in written[..at].iter().enumerate().filter(|(_, other)| other.seq != fat.seq) {
                    let fate = fat.lineage().fate(other.tag());
                    prop_assert_eq!(fate == Fate::Other, !fat.follows.has(other.tag()));
                    prop_assert_eq!(other.lineage().fate(fat.tag()), Fate::Other, "of a put that still runs");
                    if fat.base == fat.seq && fat.follows.has(other.tag()) {
                        prop_assert!(matches!(fate, Fate::Past | Fate::Lost), "a put replaces all that it follows");
                    }
                    // What one follows, the next follows too, and frees no less.
                    for older in written[..before].iter().filter(|older| other.follows.has(older.tag())) {
                        if fat.follows.has(other.tag()) {
                            prop_assert!(fat.follows.has(older.tag()));
                            let past = other.lineage().fate(older.tag()) == Fate::Past;
                            prop_assert!(!past || fat.lineage().fate(older.tag()) == Fate::Past);
                        }
                    }
                }
            }
        }
    }
}

/// A file that is written for years: its final FATs do not grow, and no mirror that was away brings an old one back.
#[test]
fn fault_50_a_long_line_of_versions_is_followed_to_its_begin() {
    let none = Follows::default();
    let mut follows = none.clone();
    for counter in 1..100 {
        let seq = Tag::new(counter, 7);
        follows = Follows::all_of([Lineage { base: seq, seq, follows: &follows }], None);
        let next = Lineage { base: Tag::new(counter + 1, 7), seq: Tag::new(counter + 1, 7), follows: &follows };
        assert!((1..=counter).all(|old| next.fate(Tag::new(old, 7)) == Fate::Past), "{counter}");
        assert_eq!(next.fate(Tag::new(counter, 8)), Fate::Other, "another device's, of this moment");
    }
    let table = |seqs: [Tag; 2]| {
        let mut table = Table::default();
        for seq in seqs {
            let follows = if seq.counter() == 100 { follows.clone() } else { none.clone() };
            let fat = FinalFat { seq: seq.0, base: seq.0, follows, ..samples::final_fat() };
            let _ = table.merge(&Verified::Fat(signed(fat, samples::user().signing())));
        }
        table.digest()
    };
    let (old, new) = (Tag::new(3, 9), Tag::new(100, 7));
    assert_eq!(table([old, new]), table([new, old]));
    assert_eq!(table([old, new]), table([new, new]), "it gives way");
}

fn moves(mirror: &Mirror) -> u64 {
    (1..3u8).map(|at| mirror.table.moves_of(owner(1), file(at)).count() as u64).sum()
}

fn merge(table: &mut Table, what: &What) -> Result<Merged, RefusalKind> {
    table.merge(&Authors::default().record(what)).map_err(|refusal| refusal.kind)
}

#[test]
fn a_lower_head_never_replaces_a_higher() {
    let at = |epoch, seq| What::Vendor { vendor: 1, epoch, seq, variant: 0 };
    let mut table = Table::default();
    assert!(matches!(merge(&mut table, &at(1, 1)), Ok(Merged::New { .. })));
    assert_eq!(merge(&mut table, &at(1, 1)), Ok(Merged::Known));
    assert_eq!(merge(&mut table, &at(1, 0)), Err(RefusalKind::Stale));
    assert_eq!(merge(&mut table, &at(0, 2)), Err(RefusalKind::Stale));
    assert!(matches!(merge(&mut table, &at(2, 0)), Ok(Merged::New { .. })));
}

/// Who held the file before, and where its chunks moved, is told of the final FAT that frees them.
#[test]
fn everybody_who_holds_a_chunk_is_told() {
    let mut table = Table::default();
    let mut authors = Authors::default();
    table.merge(&authors.record(&FIRST)).unwrap();
    merge(&mut table, &What::Move { file: 1, chunk: 1, lease: 1, tag: (1, 0), to: 7 }).unwrap();
    assert_eq!(table.holders(owner(1), file(1)).len(), 3);
    let second = authors.record(&What::Fat { owner: 1, file: 1, sees: 1, keeps: None, again: false });
    let Ok(Merged::New { drops, tell }) = table.merge(&second) else { panic!("a newer final FAT is new") };
    assert_eq!(drops.len(), 1);
    for number in [1, 2, 3, 7] {
        assert!(tell.contains(&node(number)), "vendor {number} was not told");
    }
}
