//! The program as a person or a script meets it: files, modes, exit codes, output, and a running node.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Dir, success};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

impl Dir {
    fn run(&self) -> Running {
        self.run_with(&[])
    }

    fn run_with(&self, environment: &[(&str, &str)]) -> Running {
        let mut command = self.command(&["run"]);
        command.envs(environment.iter().copied()).stderr(Stdio::piped());
        let mut running = Running { child: command.spawn().unwrap() };
        wait_for("ready.json", || {
            assert!(running.child.try_wait().unwrap().is_none(), "the node ended");
            self.node().join("ready.json").exists().then_some(())
        });
        running
    }
}

/// A node that does not outlive its test.
struct Running {
    child: Child,
}

impl Running {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn ended(&mut self) -> Option<i32> {
        wait_for("the node's end", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < SOON, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json(output: &Output) -> Value {
    assert_eq!(stdout(output).lines().count(), 1, "{}", stdout(output));
    serde_json::from_str(stdout(output)).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_writes_private_keys_and_shows_the_phrase_once() {
    let dir = Dir::new();
    let output = dir.fathom(&["init", "--role", "user,vendor"]);
    success(&output);
    assert_eq!(mode(&dir.node()), 0o700);
    assert_eq!(mode(&dir.node().join("node.key")), 0o600);
    assert_eq!(mode(&dir.node().join("user.key")), 0o600);
    assert_eq!(stderr(&output), "");
    let words: Vec<&str> =
        stdout(&output).lines().filter(|line| line.starts_with("    ")).flat_map(str::split_whitespace).collect();
    assert_eq!(words.len(), 24, "{}", stdout(&output));
    let phrase = fathom_protocol::keys::Phrase::parse(&words.join(" ")).unwrap();
    let key = std::fs::read_to_string(dir.node().join("user.key")).unwrap();
    assert!(key.contains(&data_encoding::HEXLOWER.encode(phrase.entropy())));
    for entry in std::fs::read_dir(dir.node()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(&words[..3].join(" ")), "the phrase is on disk");
    }
    let config = std::fs::read_to_string(dir.node().join("fathom.toml")).unwrap();
    assert!(config.contains("roles = [\"user\", \"vendor\"]") && config.contains("#hold_seconds = 300"), "{config}");
}

#[test]
fn init_never_overwrites() {
    let dir = Dir::new();
    success(&dir.fathom(&["init", "--role", "user"]));
    let read = |name: &str| std::fs::read(dir.node().join(name)).unwrap();
    let before = (read("node.key"), read("user.key"), read("fathom.toml"));
    let again = dir.fathom(&["init", "--role", "vendor"]);
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).starts_with("error: there is a node in"), "{}", stderr(&again));
    assert!(stderr(&again).contains("\n  hint: "), "{}", stderr(&again));
    assert_eq!(before, (read("node.key"), read("user.key"), read("fathom.toml")));
}

/// Keeps away: a power cut between the keys and the configuration, after which init refuses or makes other keys.
#[test]
fn an_init_that_was_cut_short_is_completed_with_the_same_keys() {
    let dir = Dir::new();
    let first = json(&dir.fathom(&["--json", "init", "--role", "user"]));
    std::fs::remove_file(dir.node().join("fathom.toml")).unwrap();
    let second = json(&dir.fathom(&["--json", "init", "--role", "user"]));
    assert_eq!(first, second);
}

#[test]
fn init_as_json_and_its_settings() {
    let dir = Dir::new();
    let device = dir.temp.path().join("disk");
    let device = format!("{}:64MiB:0", device.display());
    let args = ["--json", "init", "--role", "vendor,mirror", "--zone", "z", "--operator", "o", "--device", &device];
    let output = dir.fathom(&[&args[..], &["--set", "vendor.hold_seconds=1", "--set", "user.copies=2"]].concat());
    success(&output);
    let json = json(&output);
    assert_eq!(json["roles"], serde_json::json!(["vendor", "mirror"]));
    assert_eq!(json["dir"], dir.node().to_str().unwrap());
    assert!(json["peer_id"].as_str().unwrap().starts_with("12D3KooW"));
    assert_eq!(json["node"].as_str().unwrap().len(), 64);
    assert!(json.get("phrase").is_none() && json.get("owner").is_none());
    assert!(!dir.node().join("user.key").exists());
    assert!(dir.temp.path().join("disk").is_dir());
    let config = fathom::config::Config::load(&dir.node().join("fathom.toml")).unwrap();
    assert_eq!((config.vendor.hold_seconds, config.user.copies), (1, 2));
    assert_eq!((config.vendor.devices[0].quota, config.vendor.devices[0].reserve), (64 << 20, 0));
}

#[test]
fn a_user_without_a_phrase_has_no_key() {
    let dir = Dir::new();
    let output = dir.fathom(&["--json", "init", "--role", "user", "--no-phrase", "--new-network", "n"]);
    success(&output);
    assert!(json(&output).get("phrase").is_none());
    assert!(!dir.node().join("user.key").exists());
    let ls = dir.fathom(&["ls"]);
    assert_eq!(code(&ls), 8);
    assert!(stderr(&ls).contains("fathom recover"), "{}", stderr(&ls));
}

#[test]
fn usage_errors_exit_with_2_and_write_nothing() {
    let dir = Dir::new();
    for args in [
        &["frobnicate"][..],
        &["init", "--role", "king"],
        &["init", "--set", "vendor.hold_second=1"],
        &["init", "--set", "nonsense"],
        &["init", "--set", "user.copies=99"],
        &["init", "--role", "mirror", "--device", "/d:1GiB"],
        &["init", "--role", "mirror", "--no-phrase"],
        &["init", "--listen", "0.0.0.0:4600"],
        &["init", "--network", "fathom:damaged"],
        &["put", "/etc/hostname", "--as", "../x"],
        &["fat", "--mirror", "xyz"],
        &["fat", "--lease", "xyz"],
        &["fat", "--sort", "size"],
    ] {
        let output = dir.fathom(args);
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{args:?}: {}", stderr(&output));
        let output = dir.fathom(&[&["--json"], args].concat());
        assert_eq!(code(&output), 2, "{args:?}");
        assert_eq!(json(&output)["error"]["kind"], "usage", "{args:?}");
        assert!(!dir.node().exists(), "{args:?}");
    }
}

#[test]
fn what_is_not_there_is_told() {
    let dir = Dir::new();
    for args in [&["run"][..], &["status"], &["ls"], &["join", "nowhere.toml"], &["init", "--network", "nowhere.toml"]]
    {
        let output = dir.fathom(args);
        assert_eq!(code(&output), 3, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint: "), "{args:?}: {}", stderr(&output));
    }
    success(&dir.fathom(&["init", "--role", "user"]));
    assert_eq!(code(&dir.fathom(&["put", "/no/such/file"])), 3);
    for args in [&["run"][..], &["ls"], &["invite"], &["recover"]] {
        let output = dir.fathom(args);
        assert_eq!(code(&output), 5, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("fathom join"), "{args:?}: {}", stderr(&output));
    }
    let output = dir.fathom(&["status"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("fathom run"), "{}", stderr(&output));
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let dir = Dir::founded("mirror");
    let key = dir.node().join("node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = dir.fathom(&["run"]);
    assert_eq!(code(&output), 8);
    assert!(stderr(&output).contains(&format!("chmod 600 {}", key.display())), "{}", stderr(&output));
}

#[test]
fn recover_stores_the_user_and_never_another() {
    let first = Dir::founded("user");
    let phrase = {
        let other = Dir::new();
        json(&other.fathom(&["--json", "init", "--role", "user"]))["phrase"].as_str().unwrap().to_owned()
    };
    let feed = |dir: &Dir, words: &str| {
        let mut command = dir.command(&["--json", "recover"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let before = std::fs::read(first.node().join("user.key")).unwrap();
    assert_eq!(code(&feed(&first, &phrase)), 8);
    assert_eq!(std::fs::read(first.node().join("user.key")).unwrap(), before);
    let wrong = feed(&first, "these are not the words");
    assert_eq!((code(&wrong), &json(&wrong)["error"]["kind"]), (8, &Value::from("permission")));
}

#[test]
fn run_serves_commands_and_ends_on_sigterm() {
    let dir = Dir::founded("mirror");
    let mut node = dir.run();
    let ready: Value = serde_json::from_slice(&std::fs::read(dir.node().join("ready.json")).unwrap()).unwrap();
    assert_eq!(ready["pid"], node.child.id());
    assert_eq!(mode(&dir.node().join("control.sock")), 0o600);
    let status = dir.fathom(&["--json", "status"]);
    success(&status);
    assert_eq!(json(&status)["node"], ready["node"]);
    assert_eq!(json(&status)["roles"], serde_json::json!(["mirror"]));
    let status = dir.fathom(&["status"]);
    assert!(stdout(&status).contains(ready["node"].as_str().unwrap()), "{}", stdout(&status));
    let start = Instant::now();
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.ended(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(!dir.node().join("ready.json").exists());
    assert!(!dir.node().join("control.sock").exists());
}

#[test]
fn a_second_run_is_refused() {
    let dir = Dir::founded("mirror");
    let node = dir.run();
    let second = dir.fathom(&["run"]);
    assert_eq!(code(&second), 1);
    let pid = node.child.id().to_string();
    assert!(stderr(&second).contains("in use by another fathom process"), "{}", stderr(&second));
    assert!(stderr(&second).contains(&pid), "{}", stderr(&second));
    // It took nothing from the first.
    success(&dir.fathom(&["status"]));
    assert!(dir.node().join("ready.json").exists());
}

/// Keeps away: after a SIGKILL the directory stays locked, or the old socket and ready.json are taken for a node.
#[test]
fn a_node_starts_again_after_sigkill() {
    let dir = Dir::founded("mirror");
    let mut node = dir.run();
    node.signal(rustix::process::Signal::KILL);
    assert_eq!(node.ended(), None);
    assert!(dir.node().join("control.sock").exists());
    let output = dir.fathom(&["status"]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let stale = std::fs::read(dir.node().join("ready.json")).unwrap();
    let mut command = dir.command(&["run"]);
    let _again = Running { child: command.stderr(Stdio::null()).spawn().unwrap() };
    wait_for("a new ready.json", || {
        let now = std::fs::read(dir.node().join("ready.json")).ok()?;
        (now != stale && !now.is_empty()).then_some(())
    });
    success(&dir.fathom(&["status"]));
}

#[test]
fn a_node_ends_with_its_parent() {
    let dir = Dir::founded("mirror");
    let mut parent = Command::new("sleep").arg("600").spawn().unwrap();
    let mut node = dir.run_with(&[("FATHOM_PARENT_PID", &parent.id().to_string())]);
    success(&dir.fathom(&["status"]));
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert_eq!(node.ended(), Some(0));
    let output = dir.command(&["run"]).env("FATHOM_PARENT_PID", "me").output().unwrap();
    assert_eq!(code(&output), 2);
}

/// Keeps away: a node that is stopped, not dead, holds the command line until somebody kills that too.
#[test]
fn ctrl_c_ends_a_command_at_a_stopped_node() {
    let dir = Dir::founded("mirror");
    let node = dir.run();
    node.signal(rustix::process::Signal::STOP);
    let mut command = dir.command(&["--json", "status"]);
    let mut status = Running { child: command.stdout(Stdio::piped()).spawn().unwrap() };
    wait_for("the command to listen for Ctrl-C", || catches_sigint(status.child.id()).then_some(()));
    status.signal(rustix::process::Signal::INT);
    assert_eq!(status.ended(), Some(6));
    let answer: Value = serde_json::from_reader(status.child.stdout.take().unwrap()).unwrap();
    assert_eq!(answer["error"]["kind"], "interrupted");
    node.signal(rustix::process::Signal::CONT);
    success(&dir.fathom(&["status"]));
}

/// Whether the process has a handler for SIGINT; see proc(5), `SigCgt`.
fn catches_sigint(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (2 - 1)) != 0
}

#[test]
fn invite_and_join() {
    let founder = Dir::founded("bootstrap");
    let output = founder.fathom(&["invite"]);
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    let ready = serde_json::json!({
        "pid": 1, "node": "00", "peer_id": "p", "roles": ["bootstrap"],
        "addresses": [format!("/ip4/127.0.0.1/udp/4600/quic-v1/p2p/12D3KooW{}", "a".repeat(44))],
    });
    std::fs::write(founder.node().join("ready.json"), ready.to_string()).unwrap();
    let invite = json(&founder.fathom(&["--json", "invite"]));
    let text = invite["invite"].as_str().unwrap();
    assert_eq!(stdout(&founder.fathom(&["invite"])).trim(), text);
    let guest = Dir::new();
    success(&guest.fathom(&["init", "--role", "vendor"]));
    success(&guest.fathom(&["join", text]));
    let stored = std::fs::read_to_string(guest.node().join("network.toml")).unwrap();
    assert_eq!(stored, invite["descriptor"].as_str().unwrap());
    let file = guest.temp.path().join("n.toml");
    std::fs::write(&file, &stored).unwrap();
    success(&guest.fathom(&["join", file.to_str().unwrap()]));
    // The guest invites by the founder's address.
    assert_eq!(json(&guest.fathom(&["--json", "invite"]))["invite"], text);
    let other = Dir::founded("bootstrap");
    let refused = other.fathom(&["join", text]);
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("in the network \"test\" already"), "{}", stderr(&refused));
}

#[test]
fn help_and_completions_go_to_stdout() {
    let dir = Dir::new();
    let help = dir.fathom(&["--help"]);
    success(&help);
    assert!(stdout(&help).contains("Exit codes:"));
    let script = dir.fathom(&["completions", "bash"]);
    success(&script);
    assert!(stdout(&script).contains("_fathom"));
}
