//! Files of every kind come back as they were.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use fathom_tests::{Scratch, assert_same_bytes, list, number, random_file, shared, tree};

use crate::{KIB, MIB};

#[test]
fn files_of_every_kind_round_trip() {
    let (net, scratch) = (shared(), Scratch::new());
    let user = net.user();
    let source = scratch.join("source");
    for (name, size) in [
        ("empty", 0),
        ("one byte", 1),
        ("segment", 64 * KIB),
        ("segment and one", 64 * KIB + 1),
        ("chunk", MIB),
        ("chunk and one", MIB + 1),
        ("with space/größe ✓ 漢字.txt", 100),
        ("deep/er/and/deeper/file", 3 * MIB - 1),
        (".hidden", 5),
    ] {
        random_file(source.join(name), name, size);
    }
    let script = random_file(source.join("run me"), "script", 50);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(source.join(".hidden"), fs::Permissions::from_mode(0o600)).unwrap();
    let answer = user.put(&source, "kinds");
    assert_eq!(number(&answer, "/files"), 10, "{answer}");
    let names: Vec<_> = tree(&source).into_keys().map(|name| format!("kinds/{name}")).collect();
    assert_eq!(user.names(), names);
    let out = scratch.join("out");
    user.get("kinds", &out);
    assert_eq!(tree(&out), tree(&source));
    let modified = |path: &std::path::Path| {
        let time = fs::metadata(path).unwrap().modified().unwrap();
        time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
    };
    assert_eq!(modified(&out.join("run me")), modified(&script));
    // Single ones, by name.
    let one = scratch.join("one");
    for name in ["empty", "one byte", "with space/größe ✓ 漢字.txt"] {
        user.get(&format!("kinds/{name}"), &one);
        assert_same_bytes(&source.join(name), &one);
        fs::remove_file(&one).unwrap();
    }
    // A part of the tree, freed alone.
    user.ok(&["rm", "kinds/deep", "kinds/empty"]);
    assert_eq!(user.names().len(), 8);
    let listed = user.ok(&["ls", "kinds/chunk"]);
    assert_eq!(list(&listed, "/files").len(), 1, "{listed}");
    user.ok(&["rm", "kinds"]);
    assert_eq!(user.names(), Vec::<String>::new());
}
