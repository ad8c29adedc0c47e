//! Any two mirrors come to hold the union of what they held, in a bounded number of small messages.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use fathom_protocol::codec::{Blob, decode, encode};
use fathom_protocol::fat::{FinalFat, Follows, Lineage, Tag};
use fathom_protocol::head::{VendorHead, VendorRecord};
use fathom_protocol::ids::{FileId, Fingerprint, Hash, NodeId, OwnerId, SessionKey};
use fathom_protocol::keys::UserKeys;
use fathom_protocol::limits::{COMPARE_PAGE_MAX, FRAME_BYTES_MAX, VERSIONS_MAX};
use fathom_protocol::reconcile::{Below, Compared, Probe, Session, Step, answer, fingerprint, wanted_keys};
use fathom_protocol::table::index::{DEPTH_MAX, Index, LEAF_MAX, Prefix, View, position};
use fathom_protocol::table::{Key, Merged, Table, Verified, verify};
use fathom_protocol::wire::{Request, Response, SyncRecord};
use fathom_tests::samples::{self, key, signed};
use fathom_tests::sync_bytes::{BOUNDS, Mirrors};
use proptest::prelude::*;

/// A mirror: its table and the records that it would keep on disk.
#[derive(Default)]
pub(crate) struct Mirror {
    pub(crate) table: Table,
    store: BTreeMap<Key, SyncRecord>,
}

impl Mirror {
    pub(crate) fn of(table: Table) -> Self {
        Self { table, store: BTreeMap::new() }
    }

    pub(crate) fn take(&mut self, record: &Verified) -> bool {
        if let Some(proof) = self.table.twins(record) {
            self.keep(&Verified::Proof(Box::new(proof)));
        }
        self.keep(record)
    }

    fn keep(&mut self, record: &Verified) -> bool {
        let (key, demoted, drops) = match self.table.merge(record) {
            Ok(Merged::New { drops, .. }) => (record.key(), None, drops),
            Ok(Merged::Twin { key, demoted, drops, .. }) => (key, demoted, drops),
            Ok(Merged::Known) | Err(_) => return false,
        };
        for key in drops {
            self.store.remove(&key);
        }
        if let Some(to) = demoted {
            let first = self.store.remove(&key).unwrap();
            self.store.insert(to, first);
        }
        self.store.insert(key, record.to_record());
        true
    }
}

/// What one session cost.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    pub(crate) rounds: usize,
    pub(crate) fetches: usize,
    pub(crate) records: usize,
}

fn over_the_wire<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    decode(&encode(value), FRAME_BYTES_MAX).unwrap()
}

/// `to` takes from `from` what it lacks.
pub(crate) fn pull(to: &mut Mirror, from: &Mirror, session: [u8; 16]) -> Cost {
    let mut cost = Cost::default();
    let mut session = Session::new(SessionKey(session));
    loop {
        match session.next(to.table.index()) {
            Step::Ask(compare) => {
                cost.rounds += 1;
                let Request::Compare(compare) = over_the_wire(&Request::Compare(compare)) else { panic!() };
                let told = over_the_wire(&Response::Compared(answer(from.table.index(), &compare)));
                let Response::Compared(told) = told else { panic!() };
                session.told(&to.table, &told).unwrap();
            }
            Step::Fetch(wanted) => {
                cost.fetches += 1;
                let keys = wanted_keys(&from.table, &wanted);
                // A page may end early.
                let looked_at = keys.len().div_ceil(2);
                let mut new = 0;
                for key in keys.into_iter().take(looked_at).flatten() {
                    cost.records += 1;
                    let record = from.store.get(&key).unwrap().clone();
                    new += usize::from(to.take(&verify(record).unwrap()));
                }
                session.fetched(looked_at as u64, new).unwrap();
            }
            Step::Done => return cost,
        }
    }
}

/// The sample user; its phrase is stretched once.
pub(crate) fn user() -> &'static UserKeys {
    static USER: OnceLock<UserKeys> = OnceLock::new();
    USER.get_or_init(samples::user)
}

pub(crate) fn vendor(number: u8, seq: u64) -> Verified {
    verify(SyncRecord::Vendor(samples::vendor_record(number, seq))).unwrap()
}

/// The sample release, made once: it costs a stretched phrase.
fn release() -> FinalFat {
    static RELEASE: OnceLock<FinalFat> = OnceLock::new();
    RELEASE.get_or_init(samples::release).clone()
}

fn fat(number: u16, seq: u64) -> Verified {
    let seq = seq << 16;
    let file = FileId(std::array::from_fn(|at| number.to_be_bytes().get(at).copied().unwrap_or(0)));
    let seq = Tag::new(seq, 0).0;
    let fat = FinalFat { file, seq, base: seq, follows: samples::all_before(Tag(seq)), ..release() };
    verify(SyncRecord::Fat(signed(fat, user().signing()).into_carried())).unwrap()
}

/// Versions of file 1 that devices wrote at once, and what came of them: chosen versions, and a fork of those.
fn versions() -> &'static [Verified] {
    static ALL: OnceLock<Vec<Verified>> = OnceLock::new();
    ALL.get_or_init(|| {
        let version = |seq: Tag, base: Tag, follows| {
            let body = Blob::new(vec![1]).unwrap();
            let fat = FinalFat { file: FileId([1; 16]), seq: seq.0, base: base.0, follows, body, ..release() };
            verify(SyncRecord::Fat(signed(fat, user().signing()).into_carried())).unwrap()
        };
        let none = Follows::default();
        let tags = || (0..VERSIONS_MAX as u16 + 2).map(|writer| Tag::new(1, writer));
        let all = |kept| Follows::all_of(tags().map(|seq| Lineage { base: seq, seq, follows: &none }), kept);
        let forks = tags().map(|seq| version(seq, seq, none.clone()));
        let choices =
            [0, 1].map(|writer| version(Tag::new(2, writer), Tag::new(1, writer), all(Some(Tag::new(1, writer)))));
        let last = Tag::new(2, 7);
        forks.chain(choices).chain([version(last, last, all(None))]).collect()
    })
}

/// Each takes what it lacks from the other, twice: a demoted version has another key, and so another position.
fn exchange(a: &mut Mirror, b: &mut Mirror) {
    for session in 0..2 {
        pull(a, b, [session; 16]);
        pull(b, a, [session + 8; 16]);
    }
}

/// Two mirrors that each have one of two final FATs written at once have both after one exchange, whichever comes first among them.
#[test]
fn fault_47_twins_of_a_final_fat_reach_the_other_mirror() {
    let twins = &versions()[..2];
    for [here, there] in [[0, 1], [1, 0]] {
        let (mut a, mut b) = (Mirror::default(), Mirror::default());
        a.take(&twins[here]);
        b.take(&twins[there]);
        pull(&mut a, &b, [1; 16]);
        pull(&mut b, &a, [2; 16]);
        assert_eq!(a.table.digest(), b.table.digest());
        for mirror in [&a, &b] {
            assert_eq!(mirror.table.versions(user().owner(), FileId([1; 16])).count(), 2);
            assert_eq!(mirror.store.len(), 2);
        }
        assert_eq!(pull(&mut a, &b, [3; 16]).rounds, 1, "one question when nothing differs");
    }
}

/// Two heads with one number meet in the comparison: both mirrors end with the proof and with the same head.
#[test]
fn fault_25_twins_of_a_head_meet_in_a_comparison() {
    let twin = |used: u64| {
        let record = samples::vendor_record(1, 5);
        let head = VendorHead { used, ..record.head.peek().unwrap() };
        let record = VendorRecord { head: signed(head, &key(1)).into_carried(), ..record };
        verify(SyncRecord::Vendor(record)).unwrap()
    };
    let (mut a, mut b) = (Mirror::default(), Mirror::default());
    a.take(&twin(1));
    b.take(&twin(2));
    exchange(&mut a, &mut b);
    assert_eq!(a.table.digest(), b.table.digest());
    for mirror in [&a, &b] {
        assert!(mirror.table.quarantined(samples::node(1)).is_some());
        assert_eq!((mirror.table.digest().heads, mirror.table.digest().proofs), (1, 1));
    }
}

proptest! {
    #![proptest_config(crate::config(24))]

    /// Whatever versions of a file each of two mirrors has seen, and in whatever order, both end with the same ones.
    #[test]
    fn fault_47_any_versions_reach_the_other_mirror(
        here in prop::collection::vec(any::<prop::sample::Index>(), 0..16),
        there in prop::collection::vec(any::<prop::sample::Index>(), 0..16),
    ) {
        let (mut a, mut b) = (Mirror::default(), Mirror::default());
        for (mirror, seen) in [(&mut a, &here), (&mut b, &there)] {
            seen.iter().for_each(|at| { mirror.take(at.get(versions())); });
        }
        exchange(&mut a, &mut b);
        prop_assert_eq!(a.table.digest(), b.table.digest());
        prop_assert_eq!(a.table.index().digest(), b.table.index().digest());
        prop_assert_eq!(a.store.keys().collect::<Vec<_>>(), b.store.keys().collect::<Vec<_>>());
        prop_assert_eq!(pull(&mut a, &b, [9; 16]).rounds, 1);
        // As one that saw everything.
        let mut all = Mirror::default();
        here.iter().chain(&there).for_each(|at| { all.take(at.get(versions())); });
        prop_assert_eq!(all.table.digest(), a.table.digest());
    }

    #[test]
    fn two_mirrors_come_to_hold_the_union(
        here in prop::collection::btree_map(0..400u16, 1..4u64, 0..200),
        there in prop::collection::btree_map(0..400u16, 1..4u64, 0..200),
        heads_here in prop::collection::btree_map(1..40u8, 1..4u64, 0..20),
        heads_there in prop::collection::btree_map(1..40u8, 1..4u64, 0..20),
        sessions in any::<[[u8; 16]; 2]>(),
    ) {
        let mut mirrors = [Mirror::default(), Mirror::default()];
        for (mirror, (fats, heads)) in mirrors.iter_mut().zip([(&here, &heads_here), (&there, &heads_there)]) {
            fats.iter().for_each(|(number, seq)| { mirror.take(&fat(*number, *seq)); });
            heads.iter().for_each(|(number, seq)| { mirror.take(&vendor(*number, *seq)); });
        }
        let [a, b] = &mut mirrors;
        let (first, second) = (pull(a, b, sessions[0]), pull(b, a, sessions[1]));
        prop_assert_eq!(a.table.digest(), b.table.digest());
        prop_assert_eq!(a.table.index().digest(), b.table.index().digest());
        for (number, seq) in here.iter().chain(&there) {
            let owner = user().owner();
            let Key::Fat(_, file) = fat(*number, *seq).key() else { panic!() };
            prop_assert!(a.table.fat(owner, file).is_some_and(|known| Tag(known.seq).counter() >= *seq));
        }
        // The depth of the tree, and pages of records that end early.
        prop_assert!(first.rounds <= 8 && second.rounds <= 8, "{:?} {:?}", first, second);
        // The second session follows the first and fetches nothing that it would not keep, but of final FATs those with
        // other sequence numbers.
        prop_assert!(second.records <= here.len() + heads_here.len());
        prop_assert_eq!(pull(a, b, [3; 16]).rounds, 1, "one question when nothing differs");
    }

    /// The digest depends on what is kept and not on how it came about.
    #[test]
    fn an_index_is_the_same_in_any_order(
        numbers in prop::collection::btree_set(0..300u16, 0..150),
        others in prop::collection::btree_set(300..600u16, 0..150),
        seed in any::<u64>(),
    ) {
        let key = |number: u16| Key::Fat(OwnerId([7; 32]), FileId([(number >> 8) as u8, number as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        let record = |number: u16| Hash([number as u8; 32]);
        // Positions whose first digits are the same, so that the tree is deep.
        let at = |number: u16| position(&key(number)) >> 36;
        let put = |index: &mut Index, number: u16, place: bool| {
            if place { index.put_at(at(number), &key(number), record(number)) } else { index.put(&key(number), record(number)) }
        };
        for deep in [false, true] {
            let (mut straight, mut detour) = (Index::default(), Index::default());
            numbers.iter().for_each(|number| put(&mut straight, *number, deep));
            let mut mixed: Vec<u16> = if deep { numbers.iter().copied().collect() } else { numbers.union(&others).copied().collect() };
            mixed.sort_by_key(|number| u64::from(*number).wrapping_mul(seed | 1));
            mixed.iter().for_each(|number| put(&mut detour, *number, deep));
            if !deep {
                let _ = detour.digest();
                others.iter().for_each(|number| detour.remove(&key(*number)));
                others.iter().for_each(|number| detour.remove(&key(*number)));
            }
            prop_assert_eq!(straight.len(), numbers.len());
            prop_assert_eq!(detour.len(), numbers.len());
            prop_assert_eq!(straight.digest(), detour.digest());
        }
    }
}

/// All entries below a prefix, as the answering side would list them.
fn listed(index: &Index, prefix: Prefix) -> usize {
    match index.view(prefix) {
        View::Entries(entries) => {
            assert!(entries.len() <= LEAF_MAX || prefix.depth() == DEPTH_MAX);
            entries.len()
        }
        View::Parts(_) => (0..16).filter_map(|digit| prefix.part(digit)).map(|part| listed(index, part)).sum(),
    }
}

/// Grinds the names of files until their positions share the first `digits` digits.
fn ground(digits: u8, count: usize) -> Vec<FileId> {
    let owner = user().owner();
    let prefix = Prefix::new(digits, 0xabcd_ef01_2345_6789);
    let files = (0u64..).map(|number| {
        let mut file = [0; 16];
        file[..8].copy_from_slice(&number.to_le_bytes());
        FileId(file)
    });
    files.filter(|file| prefix.holds(position(&Key::Fat(owner, *file)))).take(count).collect()
}

/// An attacker that draws its files' names until their positions share their first digits makes a deep tree, and nothing else.
#[test]
fn fault_30_record_sets_built_to_collide_still_converge() {
    let made = |file: FileId| {
        let fat = FinalFat { file, ..release() };
        verify(SyncRecord::Fat(signed(fat, user().signing()).into_carried())).unwrap()
    };
    let files = ground(4, 150);
    let (mut a, mut b) = (Mirror::default(), Mirror::default());
    for (at, file) in files.iter().enumerate() {
        for mirror in [(at % 3 != 0).then_some(&mut a), (at % 3 != 1).then_some(&mut b)].into_iter().flatten() {
            assert!(mirror.take(&made(*file)));
        }
    }
    // Honest records beside them.
    (1..60)
        .for_each(|number| assert!(a.take(&vendor(number, 2)) && b.take(&vendor(number, 2 + u64::from(number % 2)))));
    assert_ne!(a.table.digest(), b.table.digest());
    let (first, second) = (pull(&mut a, &b, [1; 16]), pull(&mut b, &a, [2; 16]));
    assert_eq!(a.table.digest(), b.table.digest());
    assert_eq!((a.table.digest().heads, a.table.index().len()), (59, 209));
    assert!(first.rounds <= 9 && second.rounds <= 9, "{first:?} {second:?}");
    assert_eq!(listed(a.table.index(), Prefix::ROOT), 209);
}

/// More records on one position than a message lists, which costs 2^64 hashes for each: they are told page by page.
#[test]
fn fault_30_many_records_on_one_position_are_told_page_by_page() {
    let key = |number: u32| {
        let mut owner = [0; 32];
        owner[..4].copy_from_slice(&number.to_be_bytes());
        Key::Vendor(NodeId(owner))
    };
    let many = 3 * COMPARE_PAGE_MAX as u32 + 7;
    let mut theirs = Index::default();
    (0..many).for_each(|number| theirs.put_at(0x0123_4567_89ab_cdef, &key(number), Hash([1; 32])));
    assert_eq!(listed(&theirs, Prefix::ROOT), many as usize);
    let mine = Table::default();
    let mut session = Session::new(SessionKey([4; 16]));
    let (mut rounds, mut wanted, mut places) = (0, 0, std::collections::BTreeSet::new());
    loop {
        match session.next(mine.index()) {
            Step::Ask(compare) => {
                rounds += 1;
                if let Probe::Parts(asks) = &compare.probe {
                    assert!(asks.len() <= 16);
                }
                let told = over_the_wire(&answer(&theirs, &compare));
                if let Compared::Below(parts) = &told {
                    for below in parts.iter() {
                        assert!(!matches!(below, Below::Entries(bytes, _) if bytes.len() > COMPARE_PAGE_MAX * 14));
                    }
                }
                session.told(&mine, &told).unwrap();
            }
            Step::Fetch(list) => {
                wanted += list.len();
                places.extend(list.iter().map(|wanted| wanted.1));
                session.fetched(list.len() as u64, 0).unwrap();
            }
            Step::Done => break,
        }
    }
    assert_eq!((wanted, places.len()), (many as usize, many as usize), "each was asked for once, by its place");
    assert!(rounds <= 16 + 5, "{rounds}");
}

/// A mirror that says everything differs, for ever, and has nothing.
#[test]
fn a_liar_cannot_keep_a_session_going() {
    let mine = Mirror::default();
    let mut session = Session::new(SessionKey([5; 16]));
    let mut rounds = 0;
    loop {
        match session.next(mine.table.index()) {
            Step::Ask(compare) => {
                rounds += 1;
                let asks = match &compare.probe {
                    Probe::Root(_) => 1,
                    Probe::Parts(asks) => asks.len(),
                };
                let lie = |at: usize| {
                    let mut bytes = vec![0xff, 0xff];
                    bytes.extend((0..96).map(|byte: usize| (byte + at + rounds) as u8));
                    Below::Parts(fathom_protocol::codec::Blob::new(bytes).unwrap())
                };
                let told = Compared::Below(fathom_protocol::codec::Bounded::first((0..asks).map(lie)));
                if session.told(&mine.table, &told).is_err() {
                    break;
                }
            }
            Step::Fetch(_) => panic!("nothing was named"),
            Step::Done => break,
        }
        assert!(rounds < 20_000, "a session without end");
    }
}

#[test]
fn answers_that_nobody_asked_for_end_a_session() {
    let mine = Mirror::default();
    let blob = |bytes: &[u8]| fathom_protocol::codec::Blob::new(bytes.to_vec()).unwrap();
    let list = |below: Vec<Below>| Compared::Below(fathom_protocol::codec::Bounded::first(below));
    let unordered = [&[9; 14][..], &[8; 14]].concat();
    let wrong = [
        list(vec![]),
        list(vec![Below::Parts(fathom_protocol::codec::Blob::default())]),
        list(vec![Below::Parts(blob(&[0xff, 0xff, 1]).clone())]),
        list(vec![Below::Entries(fathom_protocol::codec::Blob::new(vec![1; 15]).unwrap(), false)]),
        list(vec![Below::Entries(fathom_protocol::codec::Blob::new(vec![1; 14]).unwrap(), true)]),
        list(vec![Below::Entries(fathom_protocol::codec::Blob::new(unordered).unwrap(), false)]),
        list(vec![Below::Parts(blob(&[0, 0])), Below::Parts(blob(&[0, 0]))]),
    ];
    for answer in wrong {
        let mut session = Session::new(SessionKey([6; 16]));
        assert!(matches!(session.next(mine.table.index()), Step::Ask(_)));
        assert!(session.told(&mine.table, &answer).is_err(), "{answer:?}");
    }
    // Entries of another part than was asked for, and the root's answer to a part.
    let mut theirs = Mirror::default();
    (0..100).for_each(|number| assert!(theirs.take(&fat(number, 1))));
    for answer_with in
        [list(vec![Below::Entries(fathom_protocol::codec::Blob::new(vec![0xff; 14]).unwrap(), false)]), Compared::Same]
    {
        let mut session = Session::new(SessionKey([0; 16]));
        let Step::Ask(root) = session.next(mine.table.index()) else { panic!() };
        session.told(&mine.table, &answer(theirs.table.index(), &root)).unwrap();
        let Step::Ask(parts) = session.next(mine.table.index()) else { panic!() };
        assert!(matches!(&parts.probe, Probe::Parts(asks) if asks[0].prefix != Prefix::new(1, u64::MAX)));
        assert!(session.told(&mine.table, &answer_with).is_err());
    }
}

#[test]
fn fingerprints_under_different_session_keys_differ() {
    let digest = [3; 32];
    let prints: std::collections::BTreeSet<Fingerprint> =
        (0..=255).map(|number| fingerprint(SessionKey([number; 16]), &digest)).collect();
    assert_eq!(prints.len(), 256);
    assert_ne!(fingerprint(SessionKey([1; 16]), &digest), fingerprint(SessionKey([1; 16]), &[4; 32]));
}

/// What is older at the other side does not travel.
#[test]
fn a_newer_record_is_not_exchanged_for_an_older_one() {
    let (mut new, mut old) = (Mirror::default(), Mirror::default());
    for number in 1..=40 {
        assert!(new.take(&vendor(number, 9)) && old.take(&vendor(number, 5)));
    }
    assert_eq!(pull(&mut new, &old, [1; 16]).records, 0);
    assert_eq!(pull(&mut old, &new, [1; 16]).records, 40);
    assert_eq!(new.table.digest(), old.table.digest());
    // Two heads of one number: the smaller hash wins, so both are looked at.
    let record = samples::vendor_record(1, 9);
    let head = VendorHead { used: 1, ..record.head.peek().unwrap() };
    let twin = fathom_protocol::head::VendorRecord { head: signed(head, &key(1)).into_carried(), ..record };
    let mut third = Mirror::default();
    assert!(third.take(&verify(SyncRecord::Vendor(twin)).unwrap()));
    pull(&mut third, &new, [2; 16]);
    pull(&mut new, &third, [2; 16]);
    assert_eq!(new.table.digest(), third.table.digest());
}

/// The bytes of `cargo run -p fathom-tests --bin bench-sync`, which are the same in each run.
#[test]
fn a_comparison_costs_no_more_than_was_promised() {
    for (leases, owners, changed, most) in BOUNDS {
        // The leases of those who did not change are not sent, so they are not made here either.
        let mirrors = Mirrors::new(leases, owners, changed);
        for cost in [mirrors.behind_asks(), mirrors.ahead_asks()] {
            assert!(cost.bytes <= most, "{leases} leases, {owners} owners, {changed} changed: {cost:?}");
        }
        assert_eq!(mirrors.behind_asks().records as u64, changed);
        assert_eq!(mirrors.ahead_asks().records, 0);
    }
}
