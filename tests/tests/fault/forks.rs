//! Two devices of one user that write one file at the same time (case 47).

use fathom_testnet::Spec;
use fathom_tests::{Network, User, assert_same_bytes, list, number, random_file, set, small, text, wait_for};
use rustix::process::Signal;

use crate::crafted::Client;
use crate::world::check;

/// Plaintext bytes of a chunk of a file below 64 MiB.
const CHUNK: usize = 1 << 20;
/// Long enough for the puts here, and short enough to wait for.
const LOCK_SECONDS: &str = "20";

/// Keeps away: the later of two devices that store a file at once overwrites the earlier one, or frees its chunks.
#[test]
fn fault_47_two_devices_write_one_sequence_number() {
    race(1);
}

/// Keeps away: what a device stores is lost to a higher number, of a version that it did not know and whose author did not know it.
#[test]
fn fault_47_a_version_gives_way_to_none_that_does_not_follow_it() {
    race(2);
}

/// The race is forced: the first device is stopped in the middle of its put, when it has looked the file's number up, and goes
/// on after the second one has stored the file so many times.
fn race(times: usize) {
    let lock = [("lease.lock_seconds", LOCK_SECONDS), ("user.copies", "2"), ("user.in_flight", "1")];
    let vendor = [("vendor.report_seconds", "1"), ("lease.lock_seconds", LOCK_SECONDS)];
    let spec = Spec { devices: 1, user_set: set(&lock), vendor_set: set(&vendor), ..small(3, 3) };
    let net = Network::up(spec);
    let one = net.user("user-1");
    let invite = net.invite().unwrap().to_owned();
    let two = User::idle(&invite, &["--no-phrase", "--set", "user.copies=2"]);
    std::fs::copy(one.dir().join("user.key"), two.dir().join("user.key")).unwrap();
    let (first, second) = (net.scratch().join("first"), net.scratch().join("second"));
    random_file(&first, "fault 47 first", 8 * CHUNK);
    random_file(&second, "fault 47 second", 3 * CHUNK);

    // Of a running node: stopping it stops the put.
    let mut put = one.start_put(&first, "file");
    while put.event().expect("it is under way")["event"] != "receipt" {}
    let node = crate::world::pid(&net, "user-1");
    kill(node, Signal::STOP);
    for earlier in 1..times {
        let replaced = net.scratch().join("replaced");
        random_file(&replaced, &format!("fault 47 replaced {earlier}"), 2 * CHUNK);
        two.put(&replaced, "file");
    }
    two.put(&second, "file");
    kill(node, Signal::CONT);
    let (code, _, answer) = put.finish();
    assert_eq!(code, 0, "{answer}");
    let warned = list(&answer, "/warnings").iter().any(|warning| warning.to_string().contains("fat resolve"));
    assert!(warned, "the later device is told: {answer}");

    net.agree(&["mirror-1", "mirror-2", "mirror-3"]);
    for user in [&one, &two] {
        let listed = user.ok(&["ls"]);
        assert_eq!((list(&listed, "/files").len(), number(&listed, "/files/0/versions")), (1, 2), "{listed}");
        let refused = user.fails(1, &["put", first.to_str().unwrap(), "--as", "file"]);
        assert!(text(&refused, "/hint").contains("fathom fat resolve file"), "{refused}");
        user.fails(1, &["rm", "file"]);
    }
    let versions = one.ok(&["fat", "resolve", "file"]);
    let sizes: Vec<u64> = list(&versions, "/versions").iter().map(|version| number(version, "/bytes")).collect();
    assert_eq!(sizes, [3 * CHUNK as u64, 8 * CHUNK as u64], "in the order in which they were stored: {versions}");
    // Not a chunk of either is missing, and either can be fetched.
    let shadow = Client::of_user(&net, "user-1");
    assert_eq!(shadow.read_every_copy(&net), 2 * (3 + 8));
    for (version, source) in [("1", &second), ("2", &first)] {
        let copy = net.scratch().join(format!("copy {version}"));
        two.ok(&["get", "file", "-o", copy.to_str().unwrap(), "--version", version]);
        assert_same_bytes(source, &copy);
    }

    let chosen = two.ok(&["fat", "resolve", "file", "--keep", "1"]);
    assert_eq!(number(&chosen, "/kept"), 1, "{chosen}");
    let copy = net.scratch().join("kept");
    one.get("file", &copy);
    assert_same_bytes(&second, &copy);
    assert_eq!(number(&one.ok(&["ls"]), "/files/0/versions"), 1);
    wait_for("the version that was not kept is freed", || {
        let chunks: u64 = net.vendors().iter().map(|vendor| crate::world::figure(&net, &vendor.name, "chunks")).sum();
        if chunks == 2 * 3 { Ok(()) } else { Err(format!("{chunks} chunks")) }
    });
    let copy = net.scratch().join("kept still");
    one.get("file", &copy);
    assert_same_bytes(&second, &copy);
    check(&net);
}

fn kill(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
