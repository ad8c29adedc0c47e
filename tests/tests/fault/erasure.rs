//! Erasure coding: vendors die before, while and after a file is stored in shards, serve something else, or are too few.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use fathom_protocol::erasure::{Code, encode};
use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::ChunkId;
use fathom_protocol::rebuild::{Rebuild, Source};
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{RefusalKind, Request, Response};
use fathom_testnet::{NodeHandle, Spec, Stopwatch};
use fathom_tests::{
    Network, User, assert_same_bytes, list, number, random_bytes, random_file, set, small, text, wait_for, wait_until,
};
use serde_json::Value;

use crate::crafted::{Client, Trap, bounded, forge, id, now};
use crate::world::{assert_fetched, await_fetched, check, figure, parts, parts_held, used_by_all};

const MIB: usize = 1 << 20;
/// What a silent vendor may cost on top; the promise is about 3 s on an idle machine.
const EXTRA: Duration = Duration::from_secs(12);

/// A network in which nothing is looked after unless it is asked for.
fn network(vendors: usize) -> Spec {
    let user = [("user.erasure", "4+2"), ("user.check_seconds", "3600"), ("user.in_flight", "2")];
    Spec { devices: 1, user_set: set(&user), ..small(1, vendors) }
}

/// Such a network, in which a user has stored one file of `length` bytes, called `file`, whose bytes follow from `seed`.
fn network_with_file(vendors: usize, seed: &str, length: usize) -> (Network, User, PathBuf) {
    let net = Network::up(network(vendors));
    let user = net.user("user-1");
    let source = random_file(net.scratch().join("source"), seed, length);
    user.put(&source, "file");
    (net, user, source)
}

fn vendors(net: &Network) -> Vec<NodeHandle> {
    net.vendors().into_iter().cloned().collect()
}

#[track_caller]
fn fetch_all(user: &User, files: &[(String, PathBuf)], out: &Path) -> Vec<Value> {
    let get = |(name, source): &(String, PathBuf)| {
        let copy = out.join(format!("{name}.copy"));
        let _ = std::fs::remove_file(&copy);
        let answer = user.get(name, &copy);
        assert_same_bytes(source, &copy);
        answer
    };
    files.iter().map(get).collect()
}

#[test]
fn erasure_any_four_of_six_vendors_give_files_of_any_size_back() {
    let net = Network::up(network(6));
    let user = net.user("user-1");
    let sizes = [0, 1, 3, 4_095, 65_536, 100_003, 5 * MIB + 1, 8 * MIB];
    let files: Vec<(String, PathBuf)> = sizes
        .iter()
        .map(|size| {
            let name = format!("file-{size}");
            let source = random_file(net.scratch().join(&name), &name, *size);
            let answer = user.put(&source, &name);
            assert_eq!(text(&answer, "/erasure"), "4+2", "{answer}");
            (name, source)
        })
        .collect();
    let listed = user.ok(&["ls"]);
    assert!(list(&listed, "/files").iter().all(|file| file["erasure"] == "4+2"), "{listed}");
    // Shards and not copies: half as much again as the files, and for each file tags and whole units of parity.
    let bytes: u64 = sizes.iter().map(|size| *size as u64).sum();
    let used = wait_for("the vendors have counted", || match used_by_all(&net) {
        used if used >= bytes * 3 / 2 => Ok(used),
        used => Err(used.to_string()),
    });
    assert!(used <= bytes * 3 / 2 + sizes.len() as u64 * 12_000, "{used} for {bytes}");
    let whole = fetch_all(&user, &files, net.scratch());
    assert!(whole.iter().all(|answer| list(answer, "/failed_sources").is_empty()), "{whole:?}");
    // Whichever two are gone.
    for dead in [["vendor-1", "vendor-2"], ["vendor-3", "vendor-6"], ["vendor-4", "vendor-5"]] {
        dead.iter().for_each(|vendor| net.kill(vendor).unwrap());
        fetch_all(&user, &files, net.scratch());
        if dead[0] == "vendor-4" {
            break;
        }
        dead.iter().for_each(|vendor| net.start(vendor).unwrap());
    }
    // With a third one gone nothing is lost, and what is missing is said.
    net.kill("vendor-1").unwrap();
    let (name, source) = files.last().unwrap();
    let target = net.scratch().join("late");
    let lost = user.fails(7, &["get", name, "-o", target.to_str().unwrap()]);
    assert!(text(&lost, "/message").contains("3 of the 4 shards that its stripe needs are left"), "{lost}");
    net.start("vendor-4").unwrap();
    await_fetched("four vendors are back", &user, name, &target, source);
    check(&net);
}

#[test]
fn erasure_space_is_given_back_and_too_few_vendors_are_named() {
    let net = Network::up(network(6));
    let user = net.user("user-1");
    let source = random_file(net.scratch().join("source"), "erasure space", 6 * MIB + 7);
    let path = source.to_str().unwrap();
    // More shards than there are vendors.
    let refused = user.fails(4, &["put", path, "--as", "wide", "--erasure", "6+2"]);
    assert!(text(&refused, "/message").contains("8 copies need 8 vendors"), "{refused}");
    let both = user.cli(&["put", path, "--as", "both", "--erasure", "4+2", "--copies", "2"]);
    assert_eq!(both.code, 2, "{}", both.stdout);
    // Written over with another redundancy each time: what was there before goes.
    for args in [vec![], vec!["--erasure", "2+1"], vec!["--copies", "2"], vec!["--erasure", "3+3"]] {
        let put = [&["put", path, "--as", "file"], &args[..]].concat();
        user.ok(&put);
        assert_fetched(&net, &user, "file", &source);
    }
    let listed = user.ok(&["ls"]);
    assert_eq!(text(&listed, "/files/0/erasure"), "3+3", "{listed}");
    wait_for("what was replaced is erased", || match used_by_all(&net) {
        used if used < 13 * MIB as u64 => Ok(()),
        used => Err(used.to_string()),
    });
    user.ok(&["rm", "file"]);
    net.await_empty(&["mirror-1"]);
    check(&net);
}

#[test]
fn erasure_a_vendor_killed_in_the_middle_of_a_put_is_replaced() {
    let net = Network::up(network(8));
    let user = net.user("user-1");
    let source = random_file(net.scratch().join("source"), "erasure put", 40 * MIB);
    let mut put = user.start_put(&source, "file");
    let seen = put.until(25);
    let receipt = seen.iter().find(|event| event["event"] == "receipt").expect("a receipt");
    let victim = net.name_of(text(receipt, "/vendors/0"));
    net.kill(&victim).unwrap();
    let (_, answer) = put.ok();
    assert!(!list(&answer, "/replaced").is_empty(), "{victim} was not replaced: {answer}");
    // Every shard is at one of the others, so that two more may go.
    let shadow = Client::of_user(&net, "user-1");
    assert_eq!(shadow.read_every_copy(&net), 60);
    let left: Vec<NodeHandle> = vendors(&net).into_iter().filter(|vendor| vendor.name != victim).collect();
    let holding: Vec<&NodeHandle> = left.iter().filter(|vendor| figure(&net, &vendor.name, "chunks") > 0).collect();
    holding.iter().take(2).for_each(|vendor| net.kill(&vendor.name).unwrap());
    assert_fetched(&net, &user, "file", &source);
    check(&net);
}

#[test]
fn erasure_an_interrupted_put_and_get_go_on_where_they_were() {
    let net = Network::up(network(6));
    let user = net.user("user-1");
    let source = random_file(net.scratch().join("source"), "erasure resume", 32 * MIB + 5);
    let mut put = user.start_put(&source, "file");
    put.until(40);
    net.kill("user-1").unwrap();
    put.finish();
    net.start("user-1").unwrap();
    let answer = user.put(&source, "file");
    let (sent, resumed) = (number(&answer, "/sent_chunks"), number(&answer, "/resumed_chunks"));
    assert!(resumed >= 12, "{answer}");
    // Nine stripes: 36 chunks and 18 parity shards.
    assert_eq!(sent + resumed, 54, "{answer}");
    let copy = net.scratch().join("copy");
    let mut get = fathom_tests::Job::start(user.dir(), &["get", "file", "-o", copy.to_str().unwrap()]);
    get.until(30);
    net.kill("user-1").unwrap();
    get.finish();
    net.start("user-1").unwrap();
    net.kill("vendor-2").unwrap();
    let answer = user.get("file", &copy);
    let fetched: u64 = answer["by_vendor"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert!(fetched < 30 * MIB as u64, "nothing of the first attempt was used: {answer}");
    assert_same_bytes(&source, &copy);
    check(&net);
}

#[test]
fn erasure_vendors_that_hang_in_the_middle_of_a_get_cost_little_time() {
    let (net, user, source) = network_with_file(6, "erasure hang", 48 * MIB);
    let copy = net.scratch().join("copy");
    let watch = Stopwatch::start();
    user.get("file", &copy);
    let usual = watch.elapsed();
    std::fs::remove_file(&copy).unwrap();
    let watch = Stopwatch::start();
    let mut get = fathom_tests::Job::start(user.dir(), &["get", "file", "-o", copy.to_str().unwrap()]);
    get.until(20);
    net.stop("vendor-3").unwrap();
    net.kill("vendor-5").unwrap();
    let (_, answer) = get.ok();
    let time = watch.elapsed();
    assert!(time < usual + EXTRA, "{time:?}, undisturbed {usual:?}: {answer}");
    assert_same_bytes(&source, &copy);
    net.cont("vendor-3").unwrap();
    check(&net);
}

/// Keeps away: a shard that is not what was stored goes into the code, and what comes out is taken for the file.
#[test]
fn erasure_damaged_shards_are_made_up_for() {
    let (net, user, source) = network_with_file(6, "erasure damage", 12 * MIB + 1);
    for vendor in vendors(&net).iter().take(2) {
        wait_until("the vendor has shards", || parts_held(vendor) > 0);
        for part in parts(vendor) {
            let mut bytes = std::fs::read(&part).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&part, bytes).unwrap();
        }
    }
    let answer = assert_fetched(&net, &user, "file", &source);
    assert!(!list(&answer, "/failed_sources").is_empty(), "{answer}");
    check(&net);
}

/// Keeps away: shards that are lost one after the other, until too few are left; and data that goes through its owner's uplink
/// again, since only the owner could make shards.
#[test]
fn erasure_lost_shards_are_made_again_by_vendors_that_have_no_key() {
    let (net, user, source) = network_with_file(8, "erasure repair", 24 * MIB + 1);
    let shadow = Client::of_user(&net, "user-1");
    let whole = shadow.read_every_copy(&net);
    let sound = user.ok(&["repair"]);
    assert_eq!((number(&sound, "/lost_copies"), number(&sound, "/unanswered")), (0, 0), "{sound}");
    // Two shards of one stripe at a time.
    let dead = by_fullness(&net, &[]);
    let ((held, first), (also, second)) = (&dead[0], &dead[1]);
    net.kill(&first.name).unwrap();
    net.kill(&second.name).unwrap();
    let repaired = user.ok(&["repair", "file", "--without", &first.node, "--without", &second.node]);
    assert_eq!(number(&repaired, "/lost_copies"), held + also, "{repaired}");
    assert_eq!(number(&repaired, "/made_copies"), held + also, "{repaired}");
    assert_eq!(number(&repaired, "/made_by_vendors"), held + also, "{repaired}");
    assert_eq!(shadow.read_every_copy(&net), whole);
    // No vendor has two shards of a stripe: two more may go.
    for (_, vendor) in by_fullness(&net, &[&first.name, &second.name]).iter().take(2) {
        net.kill(&vendor.name).unwrap();
    }
    assert_fetched(&net, &user, "file", &source);
    user.ok(&["ls"]);
    check(&net);
}

/// The vendors that are not `dead`, those with the most shards first.
fn by_fullness(net: &Network, dead: &[&str]) -> Vec<(u64, NodeHandle)> {
    let living = vendors(net).into_iter().filter(|vendor| !dead.contains(&vendor.name.as_str()));
    let mut all: Vec<(u64, NodeHandle)> = living.map(|vendor| (figure(net, &vendor.name, "chunks"), vendor)).collect();
    all.sort_by_key(|(chunks, vendor)| (std::cmp::Reverse(*chunks), vendor.name.clone()));
    all
}

/// As with whole copies (case 26): nobody asks for it.
#[test]
fn erasure_shards_of_a_vendor_that_lost_its_disk_are_made_again_without_being_asked() {
    let user = [("user.erasure", "3+2"), ("user.check_seconds", "1")];
    let net = Network::up(Spec { devices: 1, user_set: set(&user), ..small(1, 6) });
    let user = net.user("user-1");
    let source = random_file(net.scratch().join("source"), "erasure disk", 12 * MIB);
    user.put(&source, "file");
    let shadow = Client::of_user(&net, "user-1");
    let whole = shadow.read_every_copy(&net);
    let (_, victim) = by_fullness(&net, &[]).remove(0);
    crate::repair::lose_disk(&net, &victim, 0);
    wait_for("every shard is where the final FAT says", || match shadow.every_copy(&net)? {
        shards if shards == whole => Ok(()),
        shards => Err(format!("{shards} of {whole} shards")),
    });
    assert_fetched(&net, &user, "file", &source);
    check(&net);
}

/// Orders by hand: one that is good, and those that no honest owner gives.
#[test]
fn erasure_a_vendor_makes_what_its_order_says_or_nothing() {
    let net = Network::up(Spec { users: 0, ..network(3) });
    let client = Client::new(&net, "orders");
    let all = vendors(&net);
    let code = Code::new(2, 1).unwrap();
    let data = [random_bytes("shard 0", 100_000), random_bytes("shard 1", 60_000)];
    let parity = encode(code, &[&data[0], &data[1]]).unwrap().remove(0);
    for (vendor, shard) in all.iter().zip(&data) {
        let slot = client.lock(&net, vendor, shard.len() as u64);
        client.store(vendor, &client.header(shard, &[&slot]), shard).stored();
    }
    let slot = client.lock(&net, &all[2], 2 * parity.len() as u64);
    let order = |lost: &[u8]| {
        let source = |at: usize| {
            let fetch = client.wants(id(&all[at]), ChunkId::of(&data[at]), data[at].len() as u32);
            let Response::Heads(heads) =
                client.call(net.node("mirror-1").unwrap(), &Request::Heads(bounded(vec![id(&all[at])])))
            else {
                panic!("no head")
            };
            Source { position: at as u8, head: heads[0].clone(), fetch: forge(&fetch, client.keys.signing()) }
        };
        Rebuild {
            version: VERSION,
            owner: client.keys.owner(),
            vendor: id(&all[2]),
            hop: client.signed(&client.hops(lost, &[&slot])).remove(0),
            code,
            lengths: bounded(data.iter().map(|shard| shard.len() as u32).collect()),
            position: 2,
            sources: bounded(vec![source(0), source(1)]),
            expires: now().plus_seconds(60),
        }
    };
    let give = |order: &Rebuild, key: &SigningKey| client.call(&all[2], &Request::Rebuild(Box::new(forge(order, key))));
    let refused = |order: &Rebuild, key: &SigningKey| match give(order, key) {
        Response::Refused(refusal) => refusal.kind,
        other => panic!("{other:?}"),
    };
    let own = client.keys.signing();
    // Of the right length and something else: what is made has another identifier.
    let mut other = parity.clone();
    other[0] ^= 1;
    assert_eq!(refused(&order(&other), own), RefusalKind::WrongHash);
    let stranger = SigningKey::from_bytes(&[9; 32]);
    assert_eq!(refused(&order(&parity), &stranger), RefusalKind::NotAuthorised);
    let late = Rebuild { expires: UnixMs(1), ..order(&parity) };
    assert_eq!(refused(&late, own), RefusalKind::LeaseExpired);
    let elsewhere = Rebuild { vendor: id(&all[1]), ..order(&parity) };
    assert_eq!(refused(&elsewhere, own), RefusalKind::NotAuthorised);
    // A head that its vendor did not sign: nobody is dialled at the addresses in it.
    let trap = Trap::new("orders");
    let mut lured = order(&parity);
    let mut sources = lured.sources.clone().into_vec();
    let head = VendorHead { addresses: trap.slot(&client).addresses, ..sources[0].head.peek().unwrap() };
    sources[0].head = forge(&head, &stranger);
    lured.sources = bounded(sources);
    assert_eq!(refused(&lured, own), RefusalKind::NotAuthorised);
    assert!(!trap.dialled());
    assert_eq!(figure(&net, &all[2].name, "chunks"), 0);
    // The good one, twice: counted once.
    for _ in 0..2 {
        let Response::Stored(receipt) = give(&order(&parity), own) else { panic!("not stored") };
        let receipt = receipt.verify().unwrap();
        assert_eq!((receipt.vendor, receipt.chunk), (id(&all[2]), ChunkId::of(&parity)));
    }
    client.read(&all[2], ChunkId::of(&parity), parity.len() as u32).unwrap();
    assert_eq!((figure(&net, &all[2].name, "chunks"), figure(&net, &all[2].name, "used")), (1, parity.len() as u64));
    check(&net);
}
