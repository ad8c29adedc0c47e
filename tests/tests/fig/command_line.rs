//! The command line: without a running node, interrupted, and refused.

use std::time::Duration;

use fathom_testnet::{Spec, Stopwatch};
use fathom_tests::{Network, Scratch, User, assert_same_bytes, list, number, random_file, shared, small, text};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::MIB;

/// "At once", for a test on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Without a running node each command starts one for its own duration.
#[test]
fn cli_put_without_running_node() {
    let (net, scratch) = (shared(), Scratch::new());
    let user = User::idle(net.invite(), &[]);
    let file = random_file(scratch.join("file"), "alone", 3 * MIB);
    let answer = user.put(&file, "alone");
    assert_eq!((number(&answer, "/files"), number(&answer, "/copies")), (1, 3), "{answer}");
    assert!(!user.dir().join("ready.json").exists() && !user.dir().join("control.sock").exists());
    assert_eq!(user.names(), ["alone"]);
    let out = scratch.join("out");
    user.get("alone", &out);
    assert_same_bytes(&file, &out);
    assert_eq!(list(&user.ok(&["path"]), "/vendors").len(), 6);
    user.ok(&["rm", "alone"]);
    assert_eq!(user.names(), Vec::<String>::new());
}

/// Ctrl-C ends a put with its own exit code, and the same command goes on where it was: what has
/// receipts is not sent again.
///
/// Several times in a row, since each leaves chunks at vendors whose receipts the user never saw: leases
/// then have less room than the journal says, and a resumed put once gave up on finding that out.
fn interrupted_put_resumes(user: &User, scratch: &Scratch) {
    let file = random_file(scratch.join("file"), "interrupted", 24 * MIB);
    for percent in [15, 40, 65] {
        let mut job = user.start_put(&file, "interrupted");
        job.until(percent);
        job.signal(Signal::INT);
        let (code, _, answer) = job.finish();
        assert_eq!(code, 6, "{answer}");
        assert_eq!(text(&answer, "/error/kind"), "interrupted");
        assert!(!text(&answer, "/error/hint").is_empty(), "{answer}");
    }
    let answer = user.put(&file, "interrupted");
    let (resumed, sent) = (number(&answer, "/resumed_chunks"), number(&answer, "/sent_chunks"));
    assert!(resumed > 0 && sent > 0, "{answer}");
    // Copies whose receipts were on their way when it was interrupted are sent again.
    assert_eq!(resumed + sent, 3 * 24, "{answer}");
    let out = scratch.join("out");
    user.get("interrupted", &out);
    assert_same_bytes(&file, &out);
    user.ok(&["rm", "interrupted"]);
}

#[test]
fn cli_interrupted_put_resumes() {
    let net = shared();
    let user = User::running(net.invite(), &["--set", "user.in_flight=2"]);
    interrupted_put_resumes(&user, &Scratch::new());
    let status = user.ok(&["status"]);
    assert_eq!(number(&status, "/user/pending_puts"), 0, "{status}");
}

#[test]
fn cli_interrupted_put_resumes_without_running_node() {
    let net = shared();
    let user = User::idle(net.invite(), &["--set", "user.in_flight=2"]);
    interrupted_put_resumes(&user, &Scratch::new());
}

/// The user's node is killed in the middle of a put; after its restart the same command goes on.
#[test]
fn cli_put_resumes_after_its_node_was_killed() {
    let (net, scratch) = (shared(), Scratch::new());
    let mut user = User::running(net.invite(), &["--set", "user.in_flight=2"]);
    let file = random_file(scratch.join("file"), "killed", 24 * MIB);
    let mut job = user.start_put(&file, "killed");
    job.until(40);
    user.end();
    let (code, _, answer) = job.finish();
    assert_ne!(code, 0, "{answer}");
    std::fs::remove_file(user.dir().join("ready.json")).unwrap();
    user.run();
    assert_eq!(number(&user.ok(&["status"]), "/user/pending_puts"), 1);
    let answer = user.put(&file, "killed");
    assert!(number(&answer, "/resumed_chunks") > 0, "{answer}");
    let out = scratch.join("out");
    user.get("killed", &out);
    assert_same_bytes(&file, &out);
    user.ok(&["rm", "killed"]);
}

/// An interrupted get goes on too, and leaves no half file under the name.
#[test]
fn cli_interrupted_get_resumes() {
    let (net, scratch) = (shared(), Scratch::new());
    let user = User::running(net.invite(), &["--set", "user.in_flight=1"]);
    let file = random_file(scratch.join("file"), "get", 24 * MIB);
    user.put(&file, "get");
    let out = scratch.join("out");
    let mut job = fathom_tests::Job::start(user.dir(), &["get", "get", "-o", out.to_str().unwrap()]);
    job.until(20);
    job.signal(Signal::INT);
    let (code, _, answer) = job.finish();
    assert_eq!(code, 6, "{answer}");
    assert!(!out.exists());
    let answer = user.get("get", &out);
    assert_same_bytes(&file, &out);
    let fetched: u64 = answer["by_vendor"].as_object().unwrap().values().filter_map(|n| n.as_u64()).sum();
    assert!(fetched < 23 * MIB as u64, "everything was fetched again: {answer}");
    user.ok(&["rm", "get"]);
}

/// What cannot be done is refused with its own exit code, at once, and with what to do.
#[test]
fn cli_errors_say_what_to_do() {
    let (net, scratch) = (shared(), Scratch::new());
    let user = net.user();
    let file = random_file(scratch.join("file"), "errors", 1000);
    let path = file.to_str().unwrap();
    let error = user.fails(3, &["get", "no such name", "-o", scratch.join("out").to_str().unwrap()]);
    assert_eq!(text(&error, "/kind"), "not_found");
    assert!(!scratch.join("out").exists());
    user.fails(3, &["put", scratch.join("missing").to_str().unwrap()]);
    user.fails(3, &["rm", "no such name"]);
    user.fails(3, &["path", "no such name"]);
    user.fails(2, &["put", path, "--as", "../outside"]);

    let watch = Stopwatch::start();
    let error = user.fails(4, &["put", path, "--copies", "7"]);
    assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());
    assert_eq!(text(&error, "/kind"), "no_space");
    assert!(text(&error, "/message").contains("7 copies need 7 vendors"), "{error}");
    assert!(!text(&error, "/hint").is_empty(), "{error}");

    // More than there is.
    let huge = std::fs::File::create(scratch.join("huge")).unwrap();
    huge.set_len(4 << 30).unwrap();
    let watch = Stopwatch::start();
    let error = user.fails(4, &["put", scratch.join("huge").to_str().unwrap()]);
    assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());
    assert!(text(&error, "/message").contains("bytes"), "{error}");
    assert_eq!(user.names(), Vec::<String>::new());
}

/// A put to a network without a mirror ends at once and says so; so does one whose mirrors are all dead.
#[test]
fn cli_put_without_mirror_ends_at_once() {
    let net = Network::up(small(0, 0));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "no mirror", 1000);
    let path = file.to_str().unwrap();
    for args in [&["put", path][..], &["ls"], &["fat"]] {
        let watch = Stopwatch::start();
        let error = user.fails(5, args);
        assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());
        assert_eq!(text(&error, "/kind"), "network", "{error}");
        assert!(!text(&error, "/hint").is_empty(), "{error}");
    }
}

#[test]
fn cli_put_with_dead_mirrors_ends_at_once() {
    let net = Network::up(Spec { bootstrap: true, ..small(2, 0) });
    let user = net.user("user-1");
    net.kill("mirror-1").unwrap();
    net.kill("mirror-2").unwrap();
    let file = random_file(net.scratch().join("file"), "dead mirrors", 1000);
    let watch = Stopwatch::start();
    let error = user.fails(5, &["put", file.to_str().unwrap()]);
    assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());
    assert!(text(&error, "/message").contains('2'), "{error}");
    assert!(!text(&error, "/hint").is_empty(), "{error}");
}

/// A script stores and fetches many files with one process; a line that fails is told and ends nothing.
#[test]
fn cli_batch_answers_each_line() {
    let (net, scratch) = (shared(), Scratch::new());
    let user = User::running(net.invite(), &[]);
    let files: Vec<_> =
        (0..5).map(|n| random_file(scratch.join(format!("{n}")), &format!("batch {n}"), 10_000)).collect();
    let put =
        |(n, path): (usize, &std::path::PathBuf)| json!({ "command": "put", "path": path, "name": format!("b/{n}") });
    let mut lines: Vec<String> = files.iter().enumerate().map(put).map(|line| line.to_string()).collect();
    lines.insert(2, "nonsense".to_owned());
    lines.insert(4, json!({ "command": "get", "name": "no such", "output": scratch.join("x") }).to_string());
    let output = user.cli_stdin(&["--progress", "batch", "--jobs", "3"], &(lines.join("\n") + "\n"));
    assert_eq!((number(&output.json, "/commands"), number(&output.json, "/failed")), (7, 2), "{}", output.stdout);
    assert!(output.code == 2 || output.code == 3, "the code of the line that failed first, and not {}", output.code);
    let events: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed = |event: &&Value| !event["error"].is_null();
    let mut wrong: Vec<u64> = events.iter().filter(failed).map(|event| number(event, "/line")).collect();
    wrong.sort_unstable();
    assert_eq!(wrong, [3, 5]);
    let stored = events.iter().filter(|event| event["result"]["files"] == 1);
    assert!(stored.clone().all(|event| event["seconds"].as_f64().unwrap() > 0.0));
    assert_eq!(stored.count(), 5, "{}", output.stdout);

    let get =
        |n: usize| json!({ "command": "get", "name": format!("b/{n}"), "output": scratch.join(format!("{n}.back")) });
    let lines: String = (0..5).map(|n| format!("{}\n", get(n))).collect();
    user.cli_stdin(&["batch", "--jobs", "5"], &lines).ok().unwrap();
    for (n, file) in files.iter().enumerate() {
        assert_same_bytes(file, &scratch.join(format!("{n}.back")));
    }
    user.cli_stdin(&["batch"], &json!({ "command": "rm", "names": ["b"] }).to_string()).ok().unwrap();
    assert_eq!(user.names(), Vec::<String>::new());
}
