//! The rules of the architecture, as absences. Each reads the sources as they are.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// Lines of the longest source file; past this a file has to be taken apart.
const LINES_MAX: usize = 500;
const FOLDERS: [&str; 5] = ["bootstrap", "node", "protocol", "testnet", "tests"];
/// Text and pictures for people; no code.
const DOCS: &str = "docs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files below `folder`, as (path from the root, text), whose names end in `end`. Build output is left out.
fn files(folder: &str, end: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != "corpus" && name != "artifacts" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(end) {
                let from_root = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((from_root, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no file {folder}/**{end}");
    found
}

fn sources() -> Vec<(String, String)> {
    FOLDERS.iter().flat_map(|folder| files(folder, ".rs")).collect()
}

/// The text without comments, so that a rule may be spoken of.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Names of the dependencies in all sections of a Cargo.toml.
fn dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().unwrap();
    let mut names = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        if let Some(section) = manifest.get(section).and_then(toml::Value::as_table) {
            names.extend(section.keys().cloned());
        }
    }
    assert!(manifest.get("target").is_none(), "dependencies by target are not looked at here");
    names
}

fn manifest(folder: &str) -> Vec<String> {
    dependencies(&std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap())
}

fn assert_absent(files: &[(String, String)], words: &[&str]) {
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in code(text).lines().enumerate() {
            found.extend(
                words.iter().filter(|word| line.contains(**word)).map(|word| format!("{path}:{}: {word}", number + 1)),
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn protocol_has_no_io_no_clock_and_no_runtime() {
    let words = [
        "tokio",
        "libp2p",
        "std::fs",
        "std::net",
        "std::io",
        "std::thread",
        "std::process",
        "std::env",
        "SystemTime",
        "Instant",
        "getrandom",
        "rand::",
        "async ",
    ];
    assert_absent(&files("protocol", ".rs"), &words);
    let forbidden = ["tokio", "tokio-util", "libp2p", "rand", "getrandom", "redb", "futures", "tracing"];
    let present: Vec<String> =
        manifest("protocol").into_iter().filter(|name| forbidden.contains(&name.as_str())).collect();
    assert!(present.is_empty(), "protocol depends on {present:?}");
}

#[test]
fn only_the_overlay_knows_libp2p() {
    let elsewhere: Vec<(String, String)> = sources()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("node/overlay/") && !path.ends_with("architecture.rs"))
        .collect();
    assert_absent(&elsewhere, &["libp2p::", "use libp2p", "libp2p_"]);
    for folder in ["protocol", "node", "node/store", "bootstrap", "testnet", "tests"] {
        assert!(!manifest(folder).iter().any(|name| name.starts_with("libp2p")), "{folder} depends on libp2p");
    }
}

#[test]
fn crates_depend_on_nothing_above_them() {
    let ours = |folder: &str| -> Vec<String> {
        manifest(folder).into_iter().filter(|name| name == "fathom" || name.starts_with("fathom-")).collect()
    };
    assert_eq!(ours("protocol"), Vec::<String>::new());
    // The testnet for its emulated links, over which the transport is measured.
    assert_eq!(ours("node/overlay"), ["fathom-protocol", "fathom-testnet"]);
    let overlay: toml::Table =
        std::fs::read_to_string(root().join("node/overlay/Cargo.toml")).unwrap().parse().unwrap();
    assert!(overlay["dependencies"].get("fathom-testnet").is_none(), "the overlay depends on the testnet");
    assert_eq!(ours("node/store"), ["fathom-protocol"]);
    assert_eq!(ours("bootstrap"), ["fathom-protocol"]);
    // A local network knows a node as a process only; what it may read is the descriptor that all nodes are given.
    let known = ours("testnet").iter().all(|name| name == "fathom-bootstrap" || name == "fathom-protocol");
    assert!(known, "testnet depends on {:?}", ours("testnet"));
}

#[test]
fn the_overlay_knows_nothing_of_the_fat() {
    assert_absent(
        &files("node/overlay", ".rs"),
        &["protocol::fat", "protocol::table", "protocol::ledger", "protocol::wire"],
    );
}

#[test]
fn the_top_level_folders_are_the_architecture() {
    let mut folders: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && name != "target" && name != DOCS)
        .collect();
    folders.sort();
    assert_eq!(folders, FOLDERS);
}

#[test]
fn no_queue_is_without_a_bound() {
    let this = "architecture.rs";
    let others: Vec<(String, String)> = sources().into_iter().filter(|(path, _)| !path.ends_with(this)).collect();
    assert_absent(&others, &["unbounded_channel", "mpsc::unbounded", "unbounded()", "std::sync::mpsc::channel"]);
}

#[test]
fn no_source_file_is_too_long() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path} has {lines} lines, the limit is {LINES_MAX}"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn nothing_is_left_to_do() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("todo", "!("),
        concat!("unimple", "mented!("),
    ];
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            found.extend(words.iter().filter(|word| line.contains(**word)).map(|_| format!("{path}:{}", number + 1)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Lines that keep an invariant can be taken away in the simulator's mutation check only.
#[test]
fn no_node_is_built_with_mutations() {
    let word = concat!("muta", "tions");
    for folder in ["node", "node/overlay", "node/store", "bootstrap", "testnet"] {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        assert!(!manifest.contains(word), "{folder} speaks of {word}");
    }
    let tests: toml::Table = std::fs::read_to_string(root().join("tests/Cargo.toml")).unwrap().parse().unwrap();
    // By default it is off, so that a build of the whole workspace leaves the node without it.
    assert!(tests["features"].get("default").is_none());
    assert_eq!(tests["dependencies"]["fathom-protocol"]["workspace"].as_bool(), Some(true));
    assert!(tests["dependencies"]["fathom-protocol"].get("features").is_none());
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    for folder in ["protocol", "node", "node/overlay", "node/store", "bootstrap", "testnet", "tests"] {
        let manifest: toml::Table =
            std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{folder}");
        assert_eq!(manifest["package"]["rust-version"]["workspace"].as_bool(), Some(true), "{folder}");
    }
}
