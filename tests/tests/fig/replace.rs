//! Figures 13 and 14: vendors and mirrors that fail or say nothing while a file is stored.

use std::time::Duration;

use fathom_testnet::{Spec, Stopwatch};
use fathom_tests::{Network, User, assert_same_bytes, list, number, random_file, set, small, text};
use serde_json::Value;

use crate::{MIB, MIRRORS, events};

/// What a silent peer may cost on top of the same put without one. The product's promise is about
/// 3 s on an idle machine; this is a test, not a benchmark.
const EXTRA: Duration = Duration::from_secs(12);
const SIZE: usize = 24 * MIB;

/// A network in which puts take long enough to be disturbed in the middle.
fn slow(mirrors: usize) -> Spec {
    Spec { user_set: set(&[("user.in_flight", "2")]), ..small(mirrors, 6) }
}

/// Stores a file and does `disturb` to one of its vendors in the middle. Returns that vendor's name,
/// the answer, and the time from then to the end.
fn disturbed_put(net: &Network, user: &User, disturb: impl Fn(&str)) -> (String, Value, Duration) {
    let file = random_file(net.scratch().join("file"), "fig_14", SIZE);
    let mut job = user.start_put(&file, "fig_14");
    let seen = job.until(25);
    let receipts = events(&seen, "receipt");
    let victim = net.name_of(text(receipts[0], "/vendors/1"));
    disturb(&victim);
    let watch = Stopwatch::start();
    let (rest, answer) = job.ok();
    let time = watch.elapsed();
    let replaced = list(&answer, "/replaced");
    let theirs = crate::id(net, &victim);
    assert!(replaced.iter().any(|copy| copy["vendor"] == theirs), "{victim} was not replaced: {answer}");
    assert!(!events(&rest, "replaced").is_empty());
    // More than one provisional FAT: room for the copies elsewhere was asked for only if the rest of
    // the column could not hold them; in any case nothing of the file lies at the victim.
    (victim, answer, time)
}

/// How long the same put takes undisturbed.
fn undisturbed(net: &Network, user: &User) -> Duration {
    let file = random_file(net.scratch().join("first"), "undisturbed", SIZE);
    let watch = Stopwatch::start();
    user.put(&file, "undisturbed");
    watch.elapsed()
}

/// The file is whole without the victim, in three copies.
fn complete_without(net: &Network, user: &User, victim: &str) {
    let path = user.ok(&["path", "fig_14"]);
    let theirs = crate::id(net, victim);
    assert!(list(&path, "/vendors").iter().all(|entry| entry["vendor"] != theirs), "{victim} is in {path}");
    let out = net.scratch().join("out");
    user.get("fig_14", &out);
    assert_same_bytes(&net.scratch().join("file"), &out);
}

/// Figure 14: a vendor that is killed in the middle of a put is replaced; the put does not fail.
#[test]
fn fig_14_failed_location_is_replaced() {
    let net = Network::up(slow(1));
    let user = net.user("user-1");
    let (victim, answer, _) = disturbed_put(&net, &user, |name| net.kill(name).unwrap());
    assert_eq!(number(&answer, "/bytes"), SIZE as u64);
    complete_without(&net, &user, &victim);
    // Its room is not used any more: back, it erases what it had.
    net.start(&victim).unwrap();
    fathom_tests::wait_for("the replaced vendor holds nothing", || {
        let status = User::of(&net, &victim).ok(&["status"]);
        let empty = number(&status, "/vendor/used") == 0 && number(&status, "/vendor/chunks") == 0;
        empty.then_some(()).ok_or(status.to_string())
    });
}

/// Figures 13 and 14: a vendor that is stopped, not dead, in the middle of a put costs little time.
#[test]
fn fig_14b_silent_vendor_costs_little_time() {
    let net = Network::up(slow(1));
    let user = net.user("user-1");
    let usual = undisturbed(&net, &user);
    let (victim, _, time) = disturbed_put(&net, &user, |name| net.stop(name).unwrap());
    assert!(time < usual + EXTRA, "{time:?} after {victim} was stopped; undisturbed {usual:?}");
    complete_without(&net, &user, &victim);
    // The same for a get while it is silent, and for one that is stopped anew.
    let path = user.ok(&["path", "fig_14"]);
    let best = net.name_of(text(&path, "/vendors/0/vendor"));
    net.stop(&best).unwrap();
    let watch = Stopwatch::start();
    let answer = user.get("fig_14", &net.scratch().join("again"));
    let time = watch.elapsed();
    assert!(time < usual + EXTRA, "{time:?} with {best} stopped: {answer}");
    assert_same_bytes(&net.scratch().join("file"), &net.scratch().join("again"));
}

/// A mirror that is stopped, not dead, costs a put and a get little time, whichever mirror it is.
#[test]
fn fig_14c_silent_mirror_costs_little_time() {
    let net = Network::up(small(3, 3));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fig_14c", 2 * MIB);
    let watch = Stopwatch::start();
    user.put(&file, "usual");
    let usual = watch.elapsed();
    for mirror in MIRRORS {
        net.stop(mirror).unwrap();
        let watch = Stopwatch::start();
        let answer = user.put(&file, mirror);
        let put = watch.elapsed();
        assert!(number(&answer, "/mirrors_acked") >= 2, "{answer}");
        let out = net.scratch().join("out");
        let watch = Stopwatch::start();
        user.get(mirror, &out);
        let get = watch.elapsed();
        assert_same_bytes(&file, &out);
        assert!(put < usual + EXTRA && get < usual + EXTRA, "{mirror} stopped: put {put:?}, get {get:?}");
        net.cont(mirror).unwrap();
    }
    net.agree(&MIRRORS);
}
