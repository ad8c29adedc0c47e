//! `fathom fat` at a real network: the table, filters, changes as they come, and a node's databases once it has ended.

use std::process::{Command, Stdio};

use fathom_tests::{Job, Network, list, number, random_file, set, small, text, wait_for};
use rustix::process::Signal;
use serde_json::Value;

use crate::{MIB, id, vendor};

/// What a command prints without `--json`.
fn printed(net: &Network, name: &str, args: &[&str]) -> String {
    let output = Command::new(fathom_tests::binary())
        .arg("--dir")
        .arg(&net.node(name).unwrap().dir)
        .args(args)
        .env_remove("FATHOM_DIR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Figure 4: the comprehensive FAT as a person reads it, with what each vendor offers, how far it is and how it is.
#[test]
fn fig_04_the_fat_is_a_table_that_a_person_can_read() {
    let net = Network::up(small(1, 3));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "table", 2 * MIB);
    user.put(&file, "file");
    let fat = wait_for("the mirror knows what was stored", || {
        let fat = user.ok(&["fat"]);
        if number(&fat, "/total/used") >= 2 * MIB as u64 { Ok(fat) } else { Err(fat.to_string()) }
    });
    for entry in list(&fat, "/vendors") {
        assert_eq!(text(entry, "/health"), "good", "{entry}");
    }
    // Whoever shows the table measures the way to each vendor: also a mirror, which sends them next to nothing by itself, and a
    // vendor.
    let measured = |entry: &Value| entry["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0);
    for shown in ["user-1", "mirror-1"] {
        let fat = net.user(shown).ok(&["fat"]);
        assert!(list(&fat, "/vendors").iter().all(measured), "{shown}: {fat}");
    }
    let (fat, me) = (net.user("vendor-1").ok(&["fat"]), id(&net, "vendor-1"));
    assert!(list(&fat, "/vendors").iter().filter(|entry| text(entry, "/vendor") != me).all(measured), "{fat}");
    assert_eq!(number(&fat, "/total/vendors"), 3);
    let sum: u64 = list(&fat, "/vendors").iter().map(|vendor| number(vendor, "/capacity")).sum();
    assert_eq!(number(&fat, "/total/capacity"), sum);

    let table = printed(&net, "user-1", &["fat"]);
    let header = table.lines().find(|line| line.contains("VENDOR")).unwrap();
    for column in ["ZONE", "CAPACITY", "LOCKED", "USED", "FREE", "LATENCY", "AGE", "HEALTH"] {
        assert!(header.contains(column), "{table}");
    }
    for node in net.vendors() {
        let row = table.lines().find(|line| line.contains(&node.node[..8])).unwrap();
        assert!(row.contains("good") && row.contains(node.zone.as_deref().unwrap()), "{table}");
    }
    assert!(table.contains("total") && table.contains("3 vendors"), "{table}");

    // Filters and order.
    let one = id(&net, "vendor-2");
    let zone = net.node("vendor-2").unwrap().zone.clone().unwrap();
    for args in [&["fat", "--vendor", &one[..12]][..], &["fat", "--zone", &zone], &["fat", "--operator", "operator-2"]]
    {
        let narrowed = user.ok(args);
        assert_eq!(list(&narrowed, "/vendors").len(), 1, "{args:?}: {narrowed}");
        assert!(vendor(&narrowed, &one).is_some(), "{args:?}");
        assert_eq!(number(&narrowed, "/total/vendors"), 1);
        assert!(list(&narrowed, "/leases").iter().all(|lease| lease["vendor"] == one.as_str()));
    }
    assert!(list(&user.ok(&["fat", "--min-free", "1TiB"]), "/vendors").is_empty());
    assert!(list(&user.ok(&["fat", "--health", "old"]), "/vendors").is_empty());
    let by_free: Vec<u64> = list(&user.ok(&["fat", "--sort", "free:desc"]), "/vendors")
        .iter()
        .map(|vendor| number(vendor, "/free"))
        .collect();
    assert!(by_free.is_sorted_by(|one, next| one >= next), "{by_free:?}");
    assert!(printed(&net, "user-1", &["fat", "--leases"]).contains("LEASE"));
}

/// A lease's story, with a proof that is verified where it is asked for: who holds it for whom, which file uses it, and, once it
/// was given up, that it is gone.
#[test]
fn fig_06_a_lease_is_told_with_its_proof() {
    let net = Network::up(small(1, 1));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "lease", 2 * MIB);
    user.ok(&["put", file.to_str().unwrap(), "--as", "story", "--copies", "1"]);
    let lease = wait_for("the mirror lists the committed lease", || {
        let fat = user.ok(&["fat"]);
        let leases = list(&fat, "/leases").iter().find(|lease| lease["state"] == "committed");
        leases.map(|lease| text(lease, "/id").to_owned()).ok_or_else(|| fat.to_string())
    });
    for asked in ["user-1", "mirror-1", "vendor-1"] {
        let story = net.user(asked).ok(&["fat", "--lease", &lease[..10]]);
        assert_eq!((text(&story, "/lease"), text(&story, "/vendor")), (lease.as_str(), id(&net, "vendor-1").as_str()));
        assert_eq!((&story["live"], &story["proof"]["verified"]), (&true.into(), &true.into()), "{story}");
        assert_eq!((text(&story, "/proof/proves"), text(&story, "/record/state")), ("present", "committed"));
        assert!(number(&story, "/record/used") >= 2 * MIB as u64 && number(&story, "/proof/bytes") < 1_024, "{story}");
        let uses = list(&story, "/used_by");
        if asked == "user-1" {
            assert_eq!((uses.len(), text(&uses[0], "/name")), (1, "story"), "{story}");
        } else {
            assert!(uses.is_empty(), "{story}");
        }
    }
    let told = printed(&net, "user-1", &["fat", "--lease", &lease]);
    for part in
        ["committed: a final FAT names", "story: 2.00 MiB", "verified here: the lease is among them", "by the vendor"]
    {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    assert_eq!(text(&user.fails(3, &["fat", "--lease", "0123456789abcdef"]), "/kind"), "not_found");

    // Once it is released nobody names it, and that the vendor holds it no more is proven wherever one asks.
    user.ok(&["rm", "story"]);
    let at = id(&net, "vendor-1");
    for asked in ["user-1", "mirror-1", "vendor-1"] {
        let story = wait_for("the lease is gone from the vendor's head", || {
            let story = net.user(asked).ok(&["fat", "--lease", &lease, "--vendor", &at]);
            if story["live"] == false { Ok(story) } else { Err(story.to_string()) }
        });
        assert_eq!((text(&story, "/lease"), text(&story, "/vendor")), (lease.as_str(), at.as_str()));
        assert_eq!((&story["proof"]["verified"], &story["record"]), (&true.into(), &Value::Null), "{story}");
        assert_eq!(text(&story, "/proof/proves"), "absent", "{story}");
    }
    let told = printed(&net, "user-1", &["fat", "--lease", &lease, "--vendor", &at]);
    assert!(told.contains("gone: the vendor holds") && told.contains("no lease of this name is among them"), "{told}");
    assert_eq!(text(&user.fails(3, &["fat", "--lease", &lease]), "/kind"), "not_found");
}

/// A change at a vendor is told to who follows, and Ctrl-C ends that cleanly.
#[test]
fn fig_04_changes_of_the_fat_are_followed() {
    let net = Network::up(small(1, 2));
    let user = net.user("user-1");
    let mut watch = Job::start(&net.node("user-1").unwrap().dir, &["fat", "--watch", "--sort", "free"]);
    for _ in 0..2 {
        let event = watch.event().expect("every vendor is told first");
        assert_eq!((&event["event"], &event["change"]), (&"fat".into(), &"new".into()), "{event}");
    }
    let file = random_file(net.scratch().join("file"), "watch", MIB);
    user.ok(&["put", file.to_str().unwrap(), "--as", "file", "--copies", "1"]);
    loop {
        let event = watch.event().expect("a change");
        assert_eq!(event["change"], "changed", "{event}");
        if number(&event, "/vendor/used") >= MIB as u64 {
            break;
        }
    }
    watch.signal(Signal::INT);
    let (code, _, answer) = watch.finish();
    assert_eq!((code, answer), (0, Value::Null));
}

/// What nodes wrote in a real run is sound, and can be read as lines once they have ended.
#[test]
fn fig_04_databases_of_a_real_run_are_sound_and_exported() {
    let net = Network::up(fathom_testnet::Spec { user_set: set(&[("user.in_flight", "1")]), ..small(1, 2) });
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "check", 2 * MIB);
    user.ok(&["put", file.to_str().unwrap(), "--as", "file", "--copies", "2"]);
    // A put that was interrupted leaves a journal.
    let large = random_file(net.scratch().join("large"), "check", 24 * MIB);
    let mut put = Job::start(user.dir(), &["put", large.to_str().unwrap(), "--copies", "2"]);
    put.until(20);
    put.signal(Signal::INT);
    assert_eq!(put.finish().0, 6);
    user.fails(1, &["fat", "check"]);
    wait_for("the mirror has heard of a lease", || match list(&net.fat("mirror-1"), "/leases").len() {
        0 => Err("none yet".to_owned()),
        _ => Ok(()),
    });

    let mut kinds = Vec::new();
    for name in ["mirror-1", "vendor-1", "user-1"] {
        net.kill(name).unwrap();
        let report = wait_for("the killed node has let go of its directory", || {
            let output = net.user(name).cli(&["fat", "check"]);
            if output.code == 1 { Err(output.stdout) } else { Ok(output.json) }
        });
        assert_eq!((&report["sound"], list(&report, "/databases").len()), (&true.into(), 1), "{report}");
        for line in printed(&net, name, &["fat", "export"]).lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            kinds.push(format!("{} {}", text(&record, "/part"), text(&record, "/type")));
        }
    }
    for kind in [
        "mirror vendor",
        "mirror lease",
        "mirror final_fat",
        "vendor chunk",
        "vendor lease",
        "vendor head",
        "user put",
        "user chunk",
    ] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} is not in {kinds:?}");
    }
}
