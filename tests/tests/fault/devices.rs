//! Devices that lie or are full (cases 8 and 12).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fathom_protocol::ids::ChunkId;
use fathom_protocol::receipt::Receipt;
use fathom_protocol::sign::Carried;
use fathom_protocol::wire::RefusalKind;
use fathom_testnet::Spec;
use fathom_tests::{
    Network, assert_same_bytes, list, part_files, random_bytes, random_file, set, small, text, wait_for, wait_until,
};

use crate::crafted::{Client, Said, id};
use crate::world::{assert_fetched, await_fetched, check, figure, parts, temporary, typed_output};

/// Flips one bit in the middle of a file.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], middle).unwrap();
}

#[test]
fn fault_08_a_flipped_bit_is_never_served_and_the_get_names_its_source() {
    let spec = Spec { devices: 2, user_set: set(&[("user.copies", "2")]), ..small(1, 2) };
    let net = Network::up(spec);
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fault 08", 8 << 20);
    user.put(&file, "file");
    let shadow = Client::of_user(&net, "user-1");
    let mirror = net.node("mirror-1").unwrap();
    let (bad, good) = (net.node("vendor-1").unwrap(), net.node("vendor-2").unwrap());
    let all = parts(bad);
    assert!(!all.is_empty());
    all.iter().for_each(|part| flip(part));

    let copy = net.scratch().join("copy");
    let named = wait_for("a get asks the damaged vendor", || {
        let answer = user.get("file", &copy);
        assert_same_bytes(&file, &copy);
        std::fs::remove_file(&copy).unwrap();
        let failed = list(&answer, "/failed_sources").to_vec();
        if failed.is_empty() { Err(answer.to_string()) } else { Ok(failed) }
    });
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!(text(&named[0], "/vendor"), bad.node);
    assert!(!text(&named[0], "/reason").is_empty());
    // Not one of its chunks is served, not even to who asks for nothing else.
    for (vendor, chunk, length) in shadow.copies(mirror) {
        match vendor == id(bad) {
            true => assert_eq!(shadow.read(bad, chunk, length).unwrap_err().kind, RefusalKind::Corrupt),
            false => shadow.read(good, chunk, length).unwrap(),
        }
    }
    // Without the good copy there is an error, and no file.
    net.stop("vendor-2").unwrap();
    let output = user.cli(&["get", "file", "-o", copy.to_str().unwrap()]);
    assert_eq!(typed_output(&output), "integrity", "{}", output.stdout);
    assert!(!copy.exists());
    net.cont("vendor-2").unwrap();
    await_fetched("the good copy is fetched again", &user, "file", &copy, &file);
    check(&net);
}

/// A mebibyte.
const CHUNK: usize = 1 << 20;

#[test]
fn fault_12_a_full_vendor_refuses_by_kind_and_leaves_nothing_half_written() {
    // Room for four chunks by the lease, for three on the devices: each part takes a little more than its bytes.
    let spec = Spec { devices: 2, device_quota: 2 * CHUNK as u64, users: 0, ..small(1, 1) };
    let net = Network::up(spec);
    let vendor = net.node("vendor-1").unwrap().clone();
    let client = Client::new(&net, "fault 12");
    let slot = client.lock(&net, &vendor, figure(&net, "vendor-1", "free"));
    let chunks: Vec<Vec<u8>> = (0..8).map(|number| random_bytes(&format!("fault 12 {number}"), CHUNK - 1)).collect();
    // All at once: how the halves of those that are admitted fall on the devices is chance, so two or three chunks fit.
    let sends = async {
        let send = |chunk: &Vec<u8>| {
            let (client, vendor, header, chunk) = (&client, &vendor, client.header(chunk, &[&slot]), chunk.clone());
            async move { client.send(vendor, &header, &chunk, false).await }
        };
        futures::future::join_all(chunks.iter().map(send)).await
    };
    let mut stored = Vec::new();
    let mut note = |chunk, said: &Said| match said.receipts.is_empty() {
        true => assert!(matches!(said.refused(), RefusalKind::NoSpace | RefusalKind::OverLease), "{said:?}"),
        false => stored.push((chunk, said.stored().clone())),
    };
    chunks.iter().zip(client.run(sends)).for_each(|(chunk, said)| note(chunk, &said));
    // One after the other: now whatever was taken for those that were refused must be free again.
    for chunk in &chunks {
        note(chunk, &client.store(&vendor, &client.header(chunk, &[&slot]), chunk));
    }
    let mut kept: BTreeMap<ChunkId, Carried<Receipt>> = BTreeMap::new();
    for (chunk, receipt) in stored {
        let first = kept.entry(ChunkId::of(chunk)).or_insert_with(|| receipt.clone());
        assert_eq!(*first, receipt, "another receipt for the same chunk");
    }
    assert_eq!(kept.len(), 3, "chunks that fit");
    wait_until("no temporary file is left", || temporary(&vendor).is_empty());
    assert_eq!(parts(&vendor).len(), 6, "parts of chunks that have no receipt");
    assert_eq!(figure(&net, "vendor-1", "used"), 3 * (CHUNK as u64 - 1), "bytes of chunks that have no receipt");
    for chunk in kept.keys() {
        client.read(&vendor, *chunk, CHUNK as u32 - 1).unwrap();
    }
    check(&net);
}

#[test]
fn fault_12_a_full_device_is_passed_over_and_a_full_network_is_exit_4() {
    let quota = 8 * CHUNK as u64;
    let spec = Spec { devices: 2, device_quota: quota, user_set: set(&[("user.copies", "1")]), ..small(1, 1) };
    let net = Network::up(spec);
    let user = net.user("user-1");
    let vendor = net.node("vendor-1").unwrap().clone();
    // The first device shrinks to less than two parts of the chunks to come.
    net.terminate("vendor-1").unwrap();
    let path = vendor.dir.join("fathom.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let line = config.lines().find(|line| line.trim_start().starts_with("quota")).expect("a device's quota");
    std::fs::write(&path, config.replacen(line, "quota = 800000", 1)).unwrap();
    net.start("vendor-1").unwrap();
    wait_until("the mirror knows the smaller vendor", || {
        let fat = net.fat("mirror-1");
        list(&fat, "/vendors").iter().any(|vendor| vendor["capacity"].as_u64() == Some(quota + 800_000))
    });
    let file = random_file(net.scratch().join("file"), "fault 12 file", 4 * CHUNK);
    user.put(&file, "file");
    let by_device: Vec<usize> = vendor.devices.iter().map(|device| part_files(device).len()).collect();
    assert_eq!(by_device.iter().sum::<usize>(), 8, "{by_device:?}");
    assert_eq!(by_device[0], 1, "{by_device:?}");

    // More than there is room for: at once, typed, and nothing stays.
    let large = random_file(net.scratch().join("large"), "fault 12 large", 8 * CHUNK);
    let output = user.cli(&["put", large.to_str().unwrap(), "--as", "large"]);
    assert_eq!((output.code, typed_output(&output).as_str()), (4, "no_space"), "{}", output.stdout);
    wait_until("no temporary file is left", || temporary(&vendor).is_empty());
    assert_eq!(parts(&vendor).len(), 8);
    assert_fetched(&net, &user, "file", &file);
    check(&net);
}
