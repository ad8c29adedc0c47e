//! A vendor's head: asked for before it is signed, told to mirrors, and never contradicting another.

use std::collections::BTreeMap;

use fathom_protocol::delta::HeadId;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::limits::MIRRORS_TOLD_MAX;
use fathom_protocol::reporter::{
    ALONE_MS, ASK_MS, Action, DEBOUNCE_MS, Event, READS_MAX, REFRESH_MS, RETRY_MS, Reporter, Seen, Untaken,
};
use fathom_protocol::time::UnixMs;
use fathom_tests::samples::NOW;
use proptest::prelude::*;

fn mirror(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn head(epoch: u64, seq: u64) -> HeadId {
    HeadId { epoch, seq, hash: Hash::of(&[epoch.to_le_bytes(), seq.to_le_bytes()].concat()) }
}

fn seen(head: HeadId, issued: UnixMs) -> Option<Seen> {
    Some(Seen { head, issued })
}

fn known(number: u8, seen: Option<Seen>) -> Event {
    Event::Known { mirror: mirror(number), seen }
}

fn signs(actions: &[Action]) -> Vec<(u64, u64)> {
    let sign = |action: &Action| match action {
        Action::Sign { epoch, seq, .. } => Some((*epoch, *seq)),
        _ => None,
    };
    actions.iter().filter_map(sign).collect()
}

fn sends(actions: &[Action]) -> Vec<(NodeId, Option<HeadId>)> {
    let send = |action: &Action| match action {
        Action::Send { mirror, base } => Some((*mirror, *base)),
        _ => None,
    };
    actions.iter().filter_map(send).collect()
}

/// A vendor at head (1, 10) that has asked mirrors 1 and 2.
fn asking() -> Reporter {
    let mut reporter = Reporter::new(head(1, 10), NOW);
    let actions = reporter.handle(Event::Mirrors(vec![mirror(1), mirror(2)]), NOW);
    assert!(signs(&actions).is_empty(), "nothing is signed before mirrors were asked");
    assert!(actions.contains(&Action::Ask(mirror(1))) && actions.contains(&Action::Ask(mirror(2))));
    reporter
}

/// The same after both mirrors knew nothing newer, with head (1, 11) told to both.
fn reporting() -> Reporter {
    let mut reporter = asking();
    reporter.handle(known(1, seen(head(1, 10), NOW)), NOW);
    let actions = reporter.handle(known(2, None), NOW);
    assert!(actions.contains(&Action::InStep));
    assert_eq!(signs(&actions), [(1, 11)]);
    let actions = reporter.handle(Event::Signed(head(1, 11)), NOW);
    assert_eq!(sends(&actions), [(mirror(1), None), (mirror(2), None)]);
    for number in [1, 2] {
        reporter.handle(Event::Acked(mirror(number), head(1, 11)), NOW);
    }
    reporter
}

#[test]
fn changes_are_gathered_and_told_as_deltas() {
    let mut reporter = reporting();
    for at in 0..10 {
        assert!(signs(&reporter.handle(Event::Changed, NOW.plus_ms(at))).is_empty());
    }
    let later = NOW.plus_ms(DEBOUNCE_MS);
    assert_eq!(signs(&reporter.handle(Event::Timer, later)), [(1, 12)], "ten changes are one head");
    let actions = reporter.handle(Event::Signed(head(1, 12)), later);
    assert_eq!(sends(&actions), [(mirror(1), Some(head(1, 11))), (mirror(2), Some(head(1, 11)))]);
    // One of them was restarted and has lost the base: it gets everything.
    let actions = reporter.handle(Event::Untaken(mirror(2), head(1, 12), Untaken::BaseMissing), later);
    assert_eq!(sends(&actions), [(mirror(2), None)]);
    // Nothing changes: the head is signed anew in the end.
    assert!(signs(&reporter.handle(Event::Timer, later.plus_ms(REFRESH_MS - 1))).is_empty());
    assert_eq!(signs(&reporter.handle(Event::Timer, later.plus_ms(REFRESH_MS))), [(1, 13)]);
}

#[test]
fn a_head_that_nobody_took_is_sent_again_and_one_acknowledgement_is_enough() {
    let mut reporter = reporting();
    let later = NOW.plus_ms(REFRESH_MS);
    reporter.handle(Event::Timer, later);
    reporter.handle(Event::Signed(head(1, 12)), later);
    for number in [1, 2] {
        let actions = reporter.handle(Event::Untaken(mirror(number), head(1, 12), Untaken::Failed), later);
        assert!(sends(&actions).is_empty(), "not at once");
    }
    let again = later.plus_ms(RETRY_MS);
    assert_eq!(sends(&reporter.handle(Event::Timer, again)).len(), 2);
    reporter.handle(Event::Acked(mirror(1), head(1, 12)), again);
    reporter.handle(Event::Untaken(mirror(2), head(1, 12), Untaken::Failed), again);
    assert!(sends(&reporter.handle(Event::Timer, again.plus_ms(RETRY_MS))).is_empty(), "the first one passes it on");
    // One that takes nothing makes room for another.
    let actions = reporter.handle(Event::Mirrors((1..9).map(mirror).collect()), again);
    assert_eq!(sends(&actions), [(mirror(3), None)]);
}

#[test]
fn fault_24_a_restored_vendor_begins_a_new_epoch_and_is_no_fork() {
    let mut reporter = asking();
    let before = UnixMs(NOW.0 - 86_400_000);
    assert!(signs(&reporter.handle(known(1, None), NOW)).is_empty(), "the other mirror may know more");
    let actions = reporter.handle(known(2, seen(head(4, 500), before)), NOW);
    assert!(actions.contains(&Action::TakeBack(mirror(2))) && signs(&actions).is_empty());
    assert!(
        signs(&reporter.handle(Event::Changed, NOW.plus_ms(REFRESH_MS))).is_empty(),
        "not before it has its leases"
    );
    let actions = reporter.handle(Event::TakenBack, NOW);
    assert_eq!(actions[0], Action::Sign { epoch: 5, seq: 1, prev: head(4, 500).hash });
    // A mirror that was away shows a still higher one of the time before: the same again.
    reporter.handle(Event::Signed(head(5, 1)), NOW);
    let actions = reporter.handle(Event::Untaken(mirror(1), head(5, 1), Untaken::Stale), NOW);
    assert!(actions.contains(&Action::Ask(mirror(1))));
    let actions = reporter.handle(known(1, seen(head(7, 2), before)), NOW);
    assert!(actions.contains(&Action::TakeBack(mirror(1))));
    assert_eq!(signs(&reporter.handle(Event::TakenBack, NOW)), [(8, 1)]);
}

/// A full disk, for a moment: the head after that on the restored disk would have been a second one with its number.
#[test]
fn fault_24_a_restored_vendor_that_could_not_sign_tries_its_new_epoch_again() {
    let mut reporter = asking();
    let before = UnixMs(NOW.0 - 86_400_000);
    for number in [1, 2] {
        reporter.handle(known(number, seen(head(4, 500), before)), NOW);
    }
    assert_eq!(signs(&reporter.handle(Event::TakenBack, NOW)), [(5, 1)]);
    let actions = reporter.handle(Event::Unsigned, NOW);
    assert!(sends(&actions).is_empty(), "what an earlier run told is not kept");
    // What was left behind is no news, whoever shows it late.
    let actions = reporter.handle(known(1, seen(head(4, 500), NOW)), NOW);
    assert!(!actions.iter().any(|action| matches!(action, Action::TakeBack(_) | Action::Elsewhere)));
    let later = NOW.plus_ms(RETRY_MS);
    assert_eq!(reporter.handle(Event::Timer, later)[0], Action::Sign { epoch: 5, seq: 1, prev: head(4, 500).hash });
    assert_eq!(sends(&reporter.handle(Event::Signed(head(5, 1)), later)).len(), 2);
}

/// One lost answer made a vendor begin its epoch without the leases that mirrors remembered.
#[test]
fn fault_24_leases_that_one_mirror_does_not_give_are_read_from_another() {
    let mut reporter = asking();
    let before = UnixMs(NOW.0 - 86_400_000);
    reporter.handle(known(1, seen(head(3, 7), before)), NOW);
    let actions = reporter.handle(known(2, seen(head(4, 500), before)), NOW);
    assert!(actions.contains(&Action::TakeBack(mirror(2))), "who knows most is asked first");
    let mut now = NOW;
    for round in 1..READS_MAX {
        let asked = mirror(if round % 2 == 1 { 2 } else { 1 });
        let actions = reporter.handle(Event::Unread(asked), now);
        assert!(signs(&actions).is_empty());
        now = now.plus_ms(RETRY_MS);
        let actions = reporter.handle(Event::Timer, now);
        assert_eq!(actions.iter().filter(|action| matches!(action, Action::Ask(_))).count(), 2);
        reporter.handle(known(1, seen(head(3, 7), before)), now);
        let other = mirror(if round % 2 == 1 { 1 } else { 2 });
        let actions = reporter.handle(known(2, seen(head(4, 500), before)), now);
        assert!(actions.contains(&Action::TakeBack(other)), "round {round}: {actions:?}");
    }
    let mut other = reporter.handle(Event::Unread(mirror(1)), now);
    if signs(&other).is_empty() {
        other = reporter.handle(Event::TakenBack, now);
    }
    assert_eq!(signs(&other), [(5, 1)], "in the end it goes on with what it has, in an epoch that nobody saw");
}

/// One mirror that was away, or lies, made a restored vendor sign an old number again.
#[test]
fn fault_24_one_answer_of_three_is_not_taken_for_all() {
    let three = || {
        let mut reporter = Reporter::new(head(1, 10), NOW);
        reporter.handle(Event::Mirrors(vec![mirror(1), mirror(2), mirror(3)]), NOW);
        reporter.handle(known(1, None), NOW);
        for number in [2, 3] {
            reporter.handle(Event::Unanswered(mirror(number)), NOW);
        }
        reporter
    };
    let mut reporter = three();
    assert!(signs(&reporter.handle(Event::Timer, NOW.plus_ms(ALONE_MS - 1))).is_empty());
    assert_eq!(signs(&reporter.handle(Event::Timer, NOW.plus_ms(ALONE_MS))), [(1, 11)]);
    // A second answer is enough, and it counts.
    let mut reporter = three();
    let later = NOW.plus_ms(ASK_MS);
    let actions = reporter.handle(known(2, seen(head(1, 12), UnixMs(NOW.0 - 5_000))), later);
    assert!(actions.contains(&Action::TakeBack(mirror(2))) && signs(&actions).is_empty());
    // A clock that is set back meanwhile makes it wait no longer.
    let mut reporter = three();
    let back = UnixMs(NOW.0 - 86_400_000);
    assert!(signs(&reporter.handle(Event::Timer, back)).is_empty());
    assert_eq!(signs(&reporter.handle(Event::Timer, back.plus_ms(ALONE_MS))), [(1, 11)]);
}

/// A local FAT that was made anew begins an epoch by itself; what mirrors remember of its leases is taken back all the same.
#[test]
fn a_vendor_that_has_signed_nothing_yet_takes_back_what_mirrors_remember() {
    let mut reporter = Reporter::new(head(6, 0), NOW);
    reporter.handle(Event::Mirrors(vec![mirror(1)]), NOW);
    let actions = reporter.handle(known(1, seen(head(5, 9), NOW)), NOW);
    assert!(actions.contains(&Action::TakeBack(mirror(1))) && signs(&actions).is_empty());
    assert_eq!(signs(&reporter.handle(Event::TakenBack, NOW)), [(6, 1)]);
}

#[test]
fn a_mirror_that_does_not_answer_holds_nothing_up_for_long() {
    let mut reporter = asking();
    reporter.handle(known(1, None), NOW);
    assert!(signs(&reporter.handle(Event::Timer, NOW.plus_ms(ASK_MS - 1))).is_empty());
    assert_eq!(signs(&reporter.handle(Event::Timer, NOW.plus_ms(ASK_MS))), [(1, 11)]);
    // If none answers, nothing is signed and all are asked again.
    let mut reporter = asking();
    for number in [1, 2] {
        reporter.handle(Event::Unanswered(mirror(number)), NOW);
    }
    let actions = reporter.handle(Event::Timer, NOW.plus_ms(RETRY_MS));
    assert!(actions.contains(&Action::Ask(mirror(1))) && signs(&actions).is_empty());
}

/// Two nodes with one key: the one that notices stops, before the two sign one number.
#[test]
fn fault_25_a_vendor_whose_key_signs_elsewhere_stops() {
    for other in [head(2, 1), HeadId { hash: Hash([9; 32]), ..head(1, 11) }] {
        let mut reporter = reporting();
        let later = NOW.plus_ms(REFRESH_MS);
        reporter.handle(Event::Timer, later);
        if other.epoch == 2 {
            reporter.handle(Event::Signed(head(1, 12)), later);
        } else {
            reporter.handle(Event::Unsigned, later);
        }
        let actions = reporter.handle(Event::Untaken(mirror(1), head(1, 12), Untaken::Stale), later);
        assert!(actions.contains(&Action::Ask(mirror(1))));
        let actions = reporter.handle(known(1, seen(other, later)), later);
        assert!(actions.contains(&Action::Elsewhere), "{other:?}: {actions:?}");
        for event in [Event::Changed, Event::Timer, Event::Mirrors(vec![mirror(3)])] {
            assert_eq!(reporter.handle(event, later.plus_ms(REFRESH_MS)), []);
        }
    }
}

fn event() -> impl Strategy<Value = (u8, u8, u64, u64, u64)> {
    (0..10u8, 1..6u8, 1..5u64, 0..20u64, 0..4_000u64)
}

proptest! {
    #![proptest_config(crate::config(256))]

    /// Whatever happens, in whatever order: numbers only grow, one head is signed at a time, few mirrors are told, and after
    /// another node was noticed nothing is signed.
    #[test]
    fn numbers_only_grow(events in prop::collection::vec(event(), 1..120)) {
        let mut reporter = Reporter::new(head(1, 3), NOW);
        let (mut now, mut newest, mut signing, mut elsewhere) = (NOW, (1, 3), None, false);
        let mut flying: BTreeMap<NodeId, HeadId> = BTreeMap::new();
        for (kind, number, epoch, seq, passed) in events {
            now = now.plus_ms(passed);
            let who = mirror(number);
            let event = match kind {
                0 => Event::Changed,
                1 => Event::Mirrors((1..=number).map(mirror).collect()),
                2 => known(number, None),
                3 => known(number, seen(head(epoch, seq), UnixMs(now.0 - passed * 2))),
                4 => Event::Unanswered(who),
                5 if seq % 3 == 0 => Event::Unread(who),
                5 => Event::TakenBack,
                6 if signing.is_some() && passed % 5 == 0 => {
                    signing = None;
                    Event::Unsigned
                }
                6 if signing.is_some() => Event::Signed(signing.take().unwrap()),
                7 => match flying.remove(&who) {
                    Some(head) => Event::Acked(who, head),
                    None => Event::Timer,
                },
                8 => match flying.remove(&who) {
                    Some(head) => Event::Untaken(who, head, [Untaken::Stale, Untaken::BaseMissing, Untaken::Failed][seq as usize % 3]),
                    None => Event::Timer,
                },
                _ => Event::Timer,
            };
            let actions = reporter.handle(event, now);
            prop_assert!(actions.len() <= 4 * MIRRORS_TOLD_MAX);
            for action in actions {
                let tells = matches!(action, Action::Sign { .. } | Action::Send { .. });
                prop_assert!(!(elsewhere && tells), "a vendor that is elsewhere goes on");
                match action {
                    Action::Sign { epoch, seq, prev } => {
                        // One that was not signed is tried again, with its number or in a later epoch.
                        let again = (epoch, seq) == newest && reporter.head().height() < newest;
                        prop_assert!(((epoch, seq) > newest || again) && signing.is_none(), "{epoch} {seq} after {newest:?}");
                        prop_assert!(seq == 1 || prev == reporter.head().hash);
                        newest = (epoch, seq);
                        signing = Some(head(epoch, seq));
                    }
                    Action::Send { mirror, .. } => {
                        flying.insert(mirror, reporter.head());
                    }
                    Action::SetTimer(at) => prop_assert!(at > now),
                    Action::Elsewhere => elsewhere = true,
                    _ => {}
                }
            }
            prop_assert!(reporter.needed().count() <= 2 * MIRRORS_TOLD_MAX + 1);
        }
    }
}
