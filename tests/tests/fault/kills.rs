//! kill -9 of vendors, users and mirrors (cases 1 to 4).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fathom_testnet::{Spec, Stopwatch};
use fathom_tests::{Network, list, number, random_file, set, small, text, wait_for, wait_until};
use rustix::process::Signal;

use crate::crafted::Client;
use crate::world::{Dice, assert_fetched, await_fetched, check, figure, parts, pid, seeds, typed};

/// Plaintext bytes of a chunk of a file below 64 MiB.
const CHUNK: usize = 1 << 20;
/// What a sealed chunk of that length has: a tag for each 64 KiB.
const SEALED: u64 = (CHUNK + 16 * 16) as u64;
/// How long a put may take that loses a vendor.
const PUT_MAX: Duration = Duration::from_secs(60);

/// A network of one mirror whose users store `copies` with few chunks on their way, so that there is a middle.
fn spec(vendors: usize, copies: u8) -> Spec {
    Spec {
        devices: 2,
        user_set: set(&[("user.copies", &copies.to_string()), ("user.in_flight", "2")]),
        ..small(1, vendors)
    }
}

/// Waits until the mirror lists a vendor's head of a run that began after it was restarted: until it is offered work again.
fn await_used(net: &Network, wanted: u64) {
    wait_for("what the vendors use adds up", || {
        let used: Vec<u64> = net.vendors().iter().map(|vendor| figure(net, &vendor.name, "used")).collect();
        if used.iter().sum::<u64>() == wanted { Ok(()) } else { Err(format!("{used:?} instead of {wanted}")) }
    });
}

#[test]
fn fault_01_a_vendor_killed_at_any_moment_of_a_put_costs_no_receipted_chunk() {
    const CHUNKS: usize = 8;
    let net = Network::up(spec(4, 2));
    let user = net.user("user-1");
    let shadow = Client::of_user(&net, "user-1");
    let mut names = Vec::new();
    for seed in seeds(6) {
        let mut dice = Dice::new(seed);
        let victim = format!("vendor-{}", 1 + dice.roll(4));
        let (receipts, pause) = (dice.roll(CHUNKS as u64), Duration::from_millis(dice.roll(120)));
        println!("seed {seed}: {victim} is killed {pause:?} after receipt {receipts}");
        let name = format!("file-{seed}");
        let file = random_file(net.scratch().join(&name), &name, CHUNKS * CHUNK);
        let watch = Stopwatch::start();
        let mut put = user.start_put(&file, &name);
        let mut seen = 0;
        while let Some(event) = put.event() {
            let begun = event["event"] == "path";
            seen += u64::from(event["event"] == "receipt");
            if (begun && receipts == 0) || (receipts > 0 && seen == receipts) {
                break;
            }
        }
        std::thread::sleep(pause);
        net.kill(&victim).unwrap();
        let (code, _, answer) = put.finish();
        let took = watch.elapsed();
        assert!(took < PUT_MAX, "seed {seed}: the put took {took:?}");
        if code != 0 {
            println!("seed {seed}: the put ended with {}", typed(code, &answer));
        }
        net.start(&victim).unwrap();
        if code != 0 {
            user.put(&file, &name);
        }
        // Each copy that the final FAT names is served by its own vendor, the killed one included.
        names.push(name.clone());
        assert_eq!(shadow.read_every_copy(&net), names.len() * CHUNKS * 2, "seed {seed}");
        assert_fetched(&net, &user, &name, &file);
        check(&net);
    }
    for name in &names {
        user.ok(&["rm", name]);
    }
    await_used(&net, 0);
    wait_until("no part is left on any device", || net.vendors().iter().all(|vendor| parts(vendor).is_empty()));
    check(&net);
}

#[test]
fn fault_02_a_vendor_killed_around_its_commits_counts_each_chunk_once() {
    const CHUNKS: usize = 12;
    let net = Network::up(spec(1, 1));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fault 02", CHUNKS * CHUNK);
    let vendor = net.node("vendor-1").unwrap().clone();
    // Each chunk becomes two parts: an odd number is the middle of one, an even one is between the last part, the
    // commit in the local FAT and the receipt.
    for wanted in [1, 6, 13] {
        let mut put = user.start_put(&file, "file");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                while parts(&vendor).len() < wanted && !over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                net.kill("vendor-1").unwrap();
            });
            while put.event().is_some() {}
            over.store(true, Ordering::SeqCst);
            killer.join().unwrap();
        });
        let (code, _, answer) = put.finish();
        let parts = parts(&vendor).len();
        // With its only vendor dead it cannot succeed.
        println!("killed with {parts} parts of at least {wanted}: {}", typed(code, &answer));
        net.start("vendor-1").unwrap();
        wait_for("the user reaches the vendor again", || {
            let path = user.ok(&["path"]);
            if path["vendors"][0]["chosen"] == true { Ok(()) } else { Err(path.to_string()) }
        });
    }
    let answer = wait_for("the vendor is offered work again", || {
        let output = user.cli(&["put", file.to_str().unwrap(), "--as", "file"]);
        if output.code == 0 { Ok(output.json) } else { Err(output.stdout) }
    });
    println!("{answer}");
    await_used(&net, CHUNKS as u64 * SEALED);
    assert_eq!(figure(&net, "vendor-1", "chunks"), CHUNKS as u64);
    assert_eq!(parts(&vendor).len(), 2 * CHUNKS, "parts that no chunk has");
    assert_eq!(Client::of_user(&net, "user-1").read_every_copy(&net), CHUNKS);
    assert_fetched(&net, &user, "file", &file);
    check(&net);
}

#[test]
fn fault_03_a_user_killed_in_mid_put_resumes_with_what_has_no_receipt() {
    const CHUNKS: u64 = 16;
    const COPIES: u64 = 2;
    /// Copies that may have been on their way, or acknowledged and not yet in the journal: 2 chunks in flight, and a batch.
    const SLACK: u64 = 4 * COPIES;
    let net = Network::up(spec(2, 2));
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fault 03", CHUNKS as usize * CHUNK);
    let mut put = user.start_put(&file, "file");
    let mut receipts = 0;
    while receipts < 6 {
        let event = put.event().expect("a put with a middle");
        receipts += u64::from(event["event"] == "receipt");
    }
    net.kill("user-1").unwrap();
    let (code, _, answer) = put.finish();
    typed(code, &answer);
    net.start("user-1").unwrap();
    let answer = user.put(&file, "file");
    let (sent, resumed) = (number(&answer, "/sent_chunks"), number(&answer, "/resumed_chunks"));
    println!("{receipts} chunks were acknowledged, then: {answer}");
    assert!(resumed > 0, "{answer}");
    assert!(resumed + SLACK >= receipts * COPIES, "receipts were lost: {answer}");
    let replaced = list(&answer, "/replaced").len() as u64;
    assert!((CHUNKS * COPIES..=CHUNKS * COPIES + replaced).contains(&(sent + resumed)), "{answer}");
    await_used(&net, CHUNKS * COPIES * SEALED);
    assert_eq!(Client::of_user(&net, "user-1").read_every_copy(&net) as u64, CHUNKS * COPIES);
    assert_fetched(&net, &user, "file", &file);
    check(&net);
}

/// Keeps away: a vendor that is killed while it repairs what the kill before left, again and again, and then does not open, or
/// has forgotten a lease that a final FAT names.
#[test]
fn fault_05_a_vendor_killed_twice_during_its_recovery_opens_and_has_every_lease() {
    let net = Network::up(spec(1, 1));
    let user = net.user("user-1");
    let kept = random_file(net.scratch().join("kept"), "fault 05", 4 * CHUNK);
    user.put(&kept, "kept");
    let vendor = net.node("vendor-1").unwrap().clone();
    // Whatever their state: a lease that grows for the next file is offered anew.
    let leases_of = |net: &Network, state: Option<&str>| -> Vec<String> {
        let fat = net.fat("mirror-1");
        let leases = list(&fat, "/leases").iter().filter(|lease| state.is_none_or(|state| lease["state"] == state));
        leases.map(|lease| text(lease, "/id").to_owned()).collect()
    };
    let leases = wait_for("the mirror lists the committed lease", || {
        Some(leases_of(&net, Some("committed"))).filter(|leases| !leases.is_empty()).ok_or_else(String::new)
    });
    for seed in seeds(3) {
        let mut dice = Dice::new(seed);
        // Killed in mid-put, it has half a chunk to tidy up.
        let name = format!("file-{seed}");
        let file = random_file(net.scratch().join(&name), &name, 8 * CHUNK);
        let mut put = user.start_put(&file, &name);
        while put.event().is_some_and(|event| event["event"] != "receipt") {}
        net.kill("vendor-1").unwrap();
        put.signal(Signal::KILL);
        put.finish();
        for _ in 0..2 {
            killed_while_it_opens(&vendor, Duration::from_micros(dice.roll(20_000)));
        }
        net.start("vendor-1").unwrap();
        let copy = net.scratch().join(format!("copy-{seed}"));
        await_fetched("the file is there", &user, "kept", &copy, &kept);
        wait_for("the mirror lists the committed leases", || {
            let now = leases_of(&net, None);
            if leases.iter().all(|lease| now.contains(lease)) { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }
    check(&net);
}

/// Starts a vendor and kills it `pause` after it has opened its local FAT.
fn killed_while_it_opens(vendor: &fathom_testnet::NodeHandle, pause: Duration) {
    let mut child = std::process::Command::new(fathom_tests::binary())
        .arg("--dir")
        .arg(&vendor.dir)
        .arg("run")
        .env_remove("FATHOM_DIR")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let fds = std::path::PathBuf::from(format!("/proc/{}/fd", child.id()));
    wait_until("the vendor has opened its local FAT", || {
        let open = std::fs::read_dir(&fds).into_iter().flatten().flatten();
        let mut open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        open.any(|path| path.ends_with("vendor/local-fat.redb"))
    });
    std::thread::sleep(pause);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn fault_04_mirrors_killed_after_they_acknowledged_have_the_final_fat() {
    let net = Network::up(Spec { mirrors: 2, ..spec(1, 1) });
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fault 04", CHUNK + 1);
    let answer = user.put(&file, "file");
    // At once, both: neither can learn it from the other.
    for mirror in ["mirror-1", "mirror-2"] {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid(&net, mirror) as i32).unwrap(), Signal::KILL)
            .unwrap();
    }
    for mirror in ["mirror-1", "mirror-2"] {
        net.kill(mirror).unwrap();
    }
    assert_eq!(number(&answer, "/mirrors_acked"), 2, "{answer}");
    for (up, down) in [("mirror-2", "mirror-1"), ("mirror-1", "mirror-2")] {
        net.start(up).unwrap();
        let digest = net.user(up).ok(&["fat", "--digest"]);
        assert_eq!(number(&digest, "/files"), 1, "{up} lost what it acknowledged while {down} is down");
        assert_eq!(list(&net.fat(up), "/vendors").len(), 1);
        let copy = net.scratch().join(up);
        await_fetched("the user reaches the mirror again", &user, "file", &copy, &file);
        net.kill(up).unwrap();
    }
    net.start("mirror-1").unwrap();
    net.start("mirror-2").unwrap();
    net.agree(&["mirror-1", "mirror-2"]);
    assert_eq!(text(&user.ok(&["ls"]), "/files/0/name"), "file");
    check(&net);
}
