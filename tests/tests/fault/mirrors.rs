//! The loss of all mirrors (case 46).

use std::collections::BTreeMap;

use fathom_testnet::Spec;
use fathom_tests::{Network, User, list, number, random_file, set, small, text, wait_for};

use crate::world::{assert_fetched, check};

/// Keeps away: files that are whole at their vendors and that nobody finds any more.
#[test]
fn fault_46_all_mirrors_lost_are_rebuilt_from_vendors() {
    const MIRRORS: [&str; 3] = ["mirror-1", "mirror-2", "mirror-3"];
    let spec = Spec { devices: 1, user_set: set(&[("user.copies", "2")]), ..small(3, 4) };
    let net = Network::up(spec);
    let invite = net.invite().unwrap().to_owned();
    let (user, made) = User::made(&invite, &["--set", "user.copies=2"]);
    let mut files = BTreeMap::new();
    for (name, bytes) in [("large", 5 << 20), ("tree/a", 70_000), ("tree/b", 1), ("old", 3_000)] {
        let file = random_file(net.scratch().join(name.replace('/', "-")), name, bytes);
        user.put(&file, name);
        files.insert(name, file);
    }
    // One is stored anew and one is gone: neither comes back as it was.
    let newer = random_file(net.scratch().join("newer"), "newer", 9_000);
    user.put(&newer, "tree/a");
    files.insert("tree/a", newer);
    user.ok(&["rm", "old"]);
    files.remove("old");
    wait_for("vendors act on what was freed", || {
        let used: u64 = net.vendors().iter().map(|vendor| crate::world::figure(&net, &vendor.name, "used")).sum();
        let wanted = 2 * 5_300_000;
        if used < wanted { Ok(()) } else { Err(format!("{used} bytes are used")) }
    });
    let digest = net.agree(&MIRRORS);

    for mirror in MIRRORS {
        net.kill(mirror).unwrap();
    }
    for mirror in MIRRORS {
        std::fs::remove_dir_all(net.node(mirror).unwrap().dir.join("mirror")).unwrap();
    }
    for mirror in MIRRORS {
        net.start(mirror).unwrap();
    }
    // A new machine with nothing but the phrase.
    let fresh = User::idle(&invite, &["--no-phrase"]);
    let phrase = text(&made, "/phrase");
    wait_for("the phrase gives every file back", || {
        let output = fresh.cli_stdin(&["recover"], phrase);
        match number(&output.json, "/files") {
            files_found if output.code == 0 && files_found == files.len() as u64 => Ok(()),
            _ => Err(output.stdout),
        }
    });
    let listed = fresh.ok(&["ls"]);
    let names: Vec<&str> = list(&listed, "/files").iter().map(|file| text(file, "/name")).collect();
    assert_eq!(names, files.keys().copied().collect::<Vec<_>>(), "{listed}");
    for (name, file) in &files {
        assert_fetched(&net, &fresh, name, file);
    }
    net.agree(&MIRRORS);
    println!("before {digest}");
    check(&net);
}
