//! Leases that expire and leases that are fought for (cases 22 and 23).

use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{RefusalKind, Request, Response};
use fathom_testnet::Spec;
use fathom_tests::{Network, list, number, random_file, set, small, wait_for};

use crate::crafted::{Client, now, seed};
use crate::world::{assert_fetched, check, figure, typed, used_by_all};

/// Room at all vendors that is locked and holds nothing.
fn locked_and_empty(net: &Network) -> u64 {
    let fat = net.fat("mirror-1");
    list(&fat, "/leases").iter().map(|lease| number(lease, "/bytes") - number(lease, "/used")).sum()
}

#[test]
fn fault_22_a_user_stopped_past_its_leases_stores_everything_or_ends_typed() {
    const CHUNKS: usize = 16;
    let spec = Spec {
        devices: 2,
        vendor_set: set(&[("lease.offer_seconds", "3"), ("lease.lock_seconds", "6"), ("vendor.report_seconds", "1")]),
        user_set: set(&[("user.copies", "2"), ("user.in_flight", "2"), ("lease.lock_seconds", "6")]),
        ..small(1, 2)
    };
    let net = Network::up(spec);
    let user = net.user("user-1");
    let file = random_file(net.scratch().join("file"), "fault 22", CHUNKS << 20);
    let mut put = user.start_put(&file, "file");
    let mut receipts = 0;
    while receipts < 3 {
        let event = put.event().expect("a put with a middle");
        receipts += u32::from(event["event"] == "receipt");
    }
    net.stop("user-1").unwrap();
    wait_for("the room that was not filled is free again", || match locked_and_empty(&net) {
        0 => Ok(()),
        room => Err(format!("{room} bytes are locked")),
    });
    check(&net);
    // And what no final FAT ever named is erased.
    wait_for("what was stored is erased", || match used_by_all(&net) {
        0 => Ok(()),
        used => Err(format!("{used} bytes are held")),
    });
    net.cont("user-1").unwrap();
    let (code, _, answer) = put.finish();
    println!("after the stop: {code} {answer}");
    if code != 0 {
        typed(code, &answer);
        // What can be lost is the work, not the file: the same command stores it.
        wait_for("the same put succeeds", || {
            let output = user.cli(&["put", file.to_str().unwrap(), "--as", "file"]);
            if output.code == 0 { Ok(()) } else { Err(output.stdout) }
        });
    }
    // Whatever the final FAT names is there.
    assert_eq!(Client::of_user(&net, "user-1").read_every_copy(&net), CHUNKS * 2);
    assert_fetched(&net, &user, "file", &file);
    check(&net);
}

#[test]
fn fault_23_of_a_hundred_users_one_gets_the_last_extent() {
    const USERS: usize = 100;
    // What one vendor has, and more than half of it, which fits once.
    const CAPACITY: u64 = 1 << 20;
    const EXTENT: u64 = 600_000;
    let spec = Spec { devices: 1, device_quota: CAPACITY, users: 0, ..small(2, 1) };
    let net = Network::up(spec);
    let vendor = net.node("vendor-1").unwrap();
    let mirrors: Vec<_> = net.with_role("mirror").collect();
    let client = Client::new(&net, "fault 23");
    let requests: Vec<_> = (0..USERS)
        .map(|number| {
            let user = fathom_protocol::keys::Phrase::from_entropy(seed(&format!("racer {number}"))).user_keys();
            let mut request = client.allocation(EXTENT, &format!("race {number}"), Vec::new());
            request.owner = user.owner();
            request.authority = user.owner().into();
            request.expires = now().plus_seconds(60);
            Signed::sign(request, user.signing()).unwrap().into_carried()
        })
        .collect();
    let race = async {
        let asks = requests.iter().enumerate().map(|(number, request)| {
            // A third asks the vendor itself, past all mirrors.
            let (client, mirrors, request) = (&client, &mirrors, request.clone());
            async move {
                match number % 3 {
                    2 => client.ask(vendor, &Request::Offer { request, bytes: EXTENT }).await,
                    mirror => client.ask(mirrors[mirror], &Request::Allocate(request)).await,
                }
            }
        });
        futures::future::join_all(asks).await
    };
    let mut won = 0;
    for answer in client.run(race) {
        match answer {
            Response::Provisional(fat) => won += fat.locations.len(),
            Response::Offered { granted, .. } => won += usize::from(granted > 0),
            Response::Refused(refusal) | Response::Short { refusal, .. } => assert!(
                matches!(refusal.kind, RefusalKind::NoSpace | RefusalKind::TooFewVendors | RefusalKind::Busy),
                "{refusal:?}"
            ),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1, "users who got the last extent");
    assert_eq!(figure(&net, "vendor-1", "locked"), EXTENT);
    wait_for("the mirrors know who has it", || {
        let fats: Vec<_> = mirrors.iter().map(|mirror| net.fat(&mirror.name)).collect();
        let one = |fat: &serde_json::Value| list(fat, "/leases").len() == 1;
        if fats.iter().all(one) { Ok(()) } else { Err(format!("{fats:?}")) }
    });
    check(&net);
}
