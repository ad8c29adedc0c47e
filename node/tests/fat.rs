//! `fathom fat check` and `fathom fat export` on databases as earlier builds left them, sound and damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Dir;
use serde_json::Value;

impl Dir {
    /// Puts a golden file in the place of a database.
    fn place(&self, golden: &str, file: &str) -> PathBuf {
        let to = self.node().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(golden), &to).unwrap();
        to
    }

    fn check(&self, code: i32) -> Value {
        let output = self.fathom(&["fat", "check", "--json"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

const MIRROR: (&str, &str) = ("golden/mirror-fat-v2.redb", "mirror/fat.redb");
const USER: (&str, &str) = ("golden/journal-v1.redb", "user/journal.redb");
const VENDOR: (&str, &str) = ("store/tests/golden/local-fat-v2.redb", "vendor/local-fat.redb");

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn sound_databases_are_said_to_be_sound_and_stay_as_they_are() {
    let dir = Dir::founded("mirror");
    assert_eq!(dir.check(0), serde_json::json!({ "sound": true, "databases": [] }));
    let files = [MIRROR, USER].map(|(golden, file)| dir.place(golden, file));
    let before = files.each_ref().map(|file| std::fs::read(file).unwrap());
    let report = dir.check(0);
    assert_eq!(report["sound"], true, "{report}");
    let records = &report["databases"][0]["records"];
    assert_eq!(
        (&records["vendor"], &records["final_fat"], &records["move"]),
        (&1.into(), &1.into(), &1.into()),
        "{report}"
    );
    assert_eq!(report["databases"][1]["records"], serde_json::json!({ "put": 2, "file": 1, "chunk": 1 }));
    let output = dir.fathom(&["fat", "check"]);
    assert!(output.status.success() && text(&output.stdout).contains("sound: every check"), "{output:?}");
    assert_eq!(files.each_ref().map(|file| std::fs::read(file).unwrap()), before, "a check changes nothing");
}

/// Keeps away: a record that nobody signed, in a database that is whole as such, being taken for sound.
#[test]
fn fault_07_what_is_wrong_is_listed_with_what_to_do_about_it() {
    let dir = Dir::founded("vendor");
    dir.place(VENDOR.0, VENDOR.1);
    let report = dir.check(7);
    // The store's golden file has placeholders where a vendor has signed records: 2 leases, a final FAT, a move (twice), a head
    // and 3 receipts.
    let database = &report["databases"][0];
    assert_eq!((&report["sound"], &database["problem_count"]), (&false.into(), &9.into()), "{report}");
    assert_eq!((&report["error"]["kind"], &database["records"]["chunk"]), (&"integrity".into(), &3.into()));
    assert!(database["advice"].as_str().unwrap().contains("move the file away"), "{report}");
    let output = dir.fathom(&["fat", "check"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(out.contains("wrong: lease 0909") && out.contains("what to do: move the file away"), "{out}");
    assert!(err.contains("9 things are wrong in the database of the vendor"), "{err}");
}

/// Keeps away: a damaged page that goes unseen, or a check that ends at the first one without a list.
#[test]
fn fault_07_a_check_finds_every_flipped_bit_in_a_record() {
    let dir = Dir::founded("mirror");
    let file = dir.place(MIRROR.0, MIRROR.1);
    let sound = std::fs::read(&file).unwrap();
    // The zone of the vendor's head, somewhere in the middle of a signed record.
    let places: Vec<usize> =
        sound.windows(8).enumerate().filter(|(_, bytes)| *bytes == b"capacity").map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x20;
        std::fs::write(&file, &damaged).unwrap();
        let report = dir.check(7);
        assert!(report["databases"][0]["problem_count"].as_u64().unwrap() > 0, "byte {at}: {report}");
    }
    std::fs::write(&file, b"not a database at all").unwrap();
    let output = dir.fathom(&["fat", "check"]);
    assert!(matches!(output.status.code(), Some(1 | 7)), "{output:?}");
}

#[test]
fn an_export_is_a_line_a_record_and_shows_no_secret() {
    let dir = Dir::founded("mirror");
    for (golden, file) in [MIRROR, USER] {
        dir.place(golden, file);
    }
    let output = dir.fathom(&["fat", "export"]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<String> =
        lines.iter().map(|line| format!("{} {}", line["part"], line["type"]).replace('"', "")).collect();
    for kind in [
        "mirror vendor",
        "mirror lease",
        "mirror final_fat",
        "mirror move",
        "mirror cursor",
        "mirror order",
        "user put",
        "user file",
        "user chunk",
    ] {
        assert!(kinds.iter().any(|other| other == kind), "{kind} is not in {kinds:?}");
    }
    assert!(lines.iter().all(|line| line.get("file_key").is_none()));
    let follows = lines.iter().find(|line| line["type"] == "final_fat").map(|line| &line["follows"]);
    assert_eq!(follows.and_then(|follows| follows[0]["chunks"].as_str()), Some("past"), "{follows:?}");
    let file = dir.temp.path().join("fat.jsonl");
    let output = dir.fathom(&["--json", "fat", "export", "--what", "mirror", "-o", file.to_str().unwrap()]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(answer["records"].as_u64().unwrap() as usize, written.lines().count());
    assert_eq!(written.lines().count(), kinds.iter().filter(|kind| kind.starts_with("mirror")).count());
    // A reader that went away.
    let piped = Command::new("sh")
        .args([
            "-c",
            "\"$0\" --dir \"$1\" fat export | head -1",
            env!("CARGO_BIN_EXE_fathom"),
            dir.node().to_str().unwrap(),
        ])
        .output()
        .unwrap();
    assert!(piped.status.success() && piped.stderr.is_empty() && text(&piped.stdout).lines().count() == 1, "{piped:?}");
    let output = dir.fathom(&["fat", "export", "-o", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// Keeps away: a database read while its node writes it.
#[test]
fn a_running_node_is_not_checked() {
    struct Running(Child);
    impl Drop for Running {
        fn drop(&mut self) {
            // It may have ended.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let dir = Dir::founded("mirror");
    let node = Running(dir.command(&["run"]).stderr(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(30);
    while !dir.node().join("ready.json").exists() {
        assert!(Instant::now() < end, "the node is not ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    for command in ["check", "export"] {
        let output = dir.fathom(&["fat", command]);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(err.contains(&format!("process {}", node.0.id())) && err.contains("stop it first"), "{err}");
    }
    drop(node);
    dir.check(0);
}
