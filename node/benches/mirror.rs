//! What one mirror bears: 10^6 leases of 10^4 vendors.
//!
//! `cargo bench -p fathom --bench mirror` prints a table of medians. `FATHOM_BENCH_VENDORS` and `FATHOM_BENCH_LEASES` (of each
//! vendor) set another size. Every phase that measures memory or a start is a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use fathom::clock::now;
use fathom::net::Net;
use fathom::net::book::PeerBook;
use fathom::roles::mirror::{Mirror, MirrorSettings};
use fathom_overlay::{ConnectionCaps, OverlayConfig};
use fathom_protocol::allocation::{Action, Allocation};
use fathom_protocol::codec::{self, Bounded, Text};
use fathom_protocol::head::{Characteristics, VendorHead, VendorRecord};
use fathom_protocol::ids::{Hash, LeaseId, NetworkId, NodeId, OwnerId};
use fathom_protocol::lease::{Lease, LeaseState};
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::market::{Market, Standing};
use fathom_protocol::root::lease_root;
use fathom_protocol::sign::Signed;
use fathom_protocol::table::{Table, Verified, verify};
use fathom_protocol::tags::VERSION;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{AllocateRequest, Request, Response, Roles, SyncRecord, Wants};
use futures::StreamExt;

const RUNS: usize = 5;
/// Requests over which the CPU time of one is taken.
const REQUESTS: u64 = 2_000;
const GIB: u64 = 1 << 30;
/// Vendor reports under way at once.
const REPORTS_AT_ONCE: usize = 64;

fn size(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn key(vendor: u32) -> SigningKey {
    let mut seed = [3; 32];
    seed[..4].copy_from_slice(&vendor.to_le_bytes());
    SigningKey::from_bytes(&seed)
}

/// A vendor's record with so many leases; with each `seq` one of them has changed.
fn record(vendor: u32, leases: u32, seq: u64) -> VendorRecord {
    let key = key(vendor);
    let node = NodeId(key.verifying_key().to_bytes());
    let leases = (0..leases).map(|number| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        id[4..8].copy_from_slice(&vendor.to_be_bytes());
        let owner = OwnerId(*blake3::hash(&(number * 7 + vendor).to_le_bytes()).as_bytes());
        let lease = Lease {
            named: None,
            version: VERSION,
            vendor: node,
            id: LeaseId(id),
            revision: if number == 0 { seq } else { 7 },
            owner,
            authority: owner.into(),
            bytes: GIB / 4 + u64::from(number),
            used: GIB / 8,
            state: LeaseState::Committed,
            room_expires: now(),
            expires: now().plus_seconds(86_400),
        };
        Signed::sign(lease, &key).unwrap()
    });
    let leases: Vec<Signed<Lease>> = leases.collect();
    let text = |kind: &str, number: u32| Text::cut(&format!("{kind} {number}"));
    let head = VendorHead {
        version: VERSION,
        vendor: node,
        epoch: 1,
        seq,
        prev: Hash([0; 32]),
        issued: now(),
        capacity: GIB * (64 + u64::from(vendor % 64)),
        used: 0,
        root: lease_root(leases.iter().map(|lease| (lease.id, lease.carried().commitment(), lease.bytes))),
        leases: u32::try_from(leases.len()).unwrap(),
        characteristics: Characteristics {
            zone: text("zone", vendor % 300),
            operator: text("operator", vendor % 4_000),
            media: Text::cut("ssd"),
            bandwidth_bytes_per_s: 100_000_000,
            up_since: UnixMs(0),
            load: vendor % 5 * 4,
            up_bytes_per_s: 0,
            down_bytes_per_s: 0,
            coordinate: None,
        },
        addresses: Bounded::first([Text::cut(&format!(
            "/ip4/198.{}.{}.7/udp/4600/quic-v1",
            vendor >> 8 & 255,
            vendor & 255
        ))]),
        devices: Bounded::default(),
    };
    let head = Signed::sign(head, &key).unwrap().into_carried();
    VendorRecord { head, leases: Bounded::first(leases.into_iter().map(Signed::into_carried)) }
}

/// The records of all vendors, made on all cores.
fn records(vendors: u32, leases: u32, seq: u64) -> Vec<SyncRecord> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let part = vendors.div_ceil(threads);
    std::thread::scope(|scope| {
        let make = |thread: u32| {
            let all = thread * part..(thread * part + part).min(vendors);
            all.map(|vendor| SyncRecord::Vendor(record(vendor, leases, seq))).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || make(thread))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn row(what: &str, wanted: &str, figure: String) {
    println!("| {what} | {wanted} | {figure} |");
}

/// Resident memory of this process, MiB: now, and at its highest.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    (of("VmRSS"), of("VmHWM"))
}

/// This thread's CPU time.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

async fn open(dir: &Path) -> Arc<Mirror> {
    let config = OverlayConfig {
        key_seed: [9; 32],
        network: NetworkId([9; 16]),
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()],
        external: Vec::new(),
        gossip: false,
        limits: ConnectionCaps::default(),
    };
    let (overlay, incoming) = fathom_overlay::start(config).await.unwrap();
    std::mem::forget(incoming);
    let roles = Roles { mirror: true, ..Roles::default() };
    let net = Net::new(overlay, SigningKey::from_bytes(&[9; 32]), roles, PeerBook::default());
    Mirror::open(dir, net, &MirrorSettings::default()).unwrap()
}

/// Reports all records, each by its vendor, and returns how many a second were durable.
async fn report(mirror: &Arc<Mirror>, records: Vec<SyncRecord>) -> f64 {
    let (count, began) = (records.len(), Instant::now());
    let reports = records.into_iter().map(|record| {
        let SyncRecord::Vendor(record) = record else { unreachable!() };
        let mirror = Arc::clone(mirror);
        let from = record.head.peek().unwrap().vendor;
        tokio::spawn(async move { mirror.handle(from, Request::Report(record)).await })
    });
    futures::stream::iter(reports)
        .buffer_unordered(REPORTS_AT_ONCE)
        .for_each(|answer| async move { assert_eq!(answer.unwrap(), Response::Done) })
        .await;
    count as f64 / began.elapsed().as_secs_f64()
}

/// Verifying and merging records as they lie on disk or arrive, on one core: records (heads and leases) a second.
fn load(encoded: &[Vec<u8>], leases: u32) -> f64 {
    let rates = (0..RUNS).map(|_| {
        let mut table = Table::default();
        let began = cpu();
        for bytes in encoded {
            let record = verify(codec::decode(bytes, FRAME_BYTES_MAX).unwrap()).unwrap();
            table.merge(&record).unwrap();
        }
        (encoded.len() * (leases as usize + 1)) as f64 / (cpu() - began).as_secs_f64()
    });
    median(rates.collect())
}

/// Mean milliseconds of CPU to choose vendors for a request, the view of the market included. The mean of many: the kernel counts
/// in ticks that are longer than one of them.
fn allocate(market: &Market, bytes: u64) -> f64 {
    let began = cpu();
    for nonce in 0..REQUESTS {
        let owner = OwnerId([5; 32]);
        let request = AllocateRequest {
            version: VERSION,
            owner,
            authority: owner.into(),
            file: None,
            copies: 3,
            width: 2,
            bytes,
            unit: 4 << 20,
            exclude: Bounded::default(),
            avoid_zones: Bounded::default(),
            wants: Wants::default(),
            nonce: Hash::of(&nonce.to_le_bytes()),
            expires: now().plus_seconds(60),
        };
        let view = market.view(&request.wants, now(), |_| Standing::default());
        let (_, actions) = Allocation::start(request, 0, &view);
        assert!(actions.iter().any(|action| matches!(action, Action::Ask { .. } | Action::Failed { .. })));
    }
    (cpu() - began).as_secs_f64() * 1e3 / REQUESTS as f64
}

/// Another process: opens the mirror under `dir` and prints seconds and memory.
fn start_from_disk(dir: &Path) -> (f64, u64, u64) {
    let me = std::env::current_exe().unwrap();
    let output = std::process::Command::new(me).env("FATHOM_BENCH_OPEN", dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut figures = text.split_whitespace();
    let seconds = figures.next().unwrap().parse().unwrap();
    let mut mib = || figures.next().unwrap().parse().unwrap();
    (seconds, mib(), mib())
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some(dir) = std::env::var_os("FATHOM_BENCH_OPEN") {
        runtime.block_on(async {
            let began = Instant::now();
            let mirror = open(Path::new(&dir)).await;
            let seconds = began.elapsed().as_secs_f64();
            let (now, most) = memory();
            println!("{seconds} {now} {most}");
            drop(mirror);
        });
        return;
    }
    let (vendors, leases) = (size("FATHOM_BENCH_VENDORS", 10_000), size("FATHOM_BENCH_LEASES", 100));
    println!("{vendors} vendors with {leases} leases each\n\n| what | wanted | measured |\n|---|---|---|");
    let all = records(vendors, leases, 1);
    let sample: Vec<Vec<u8>> = all.iter().take(1_000).map(codec::encode).collect();
    row("verify and merge, records/s and core", ">= 100000", format!("{:.0}", load(&sample, leases)));
    drop(sample);
    let heads = all.iter().map(|record| match verify(record.clone()).unwrap() {
        Verified::Vendor(vendor) => vendor.head.into_value(),
        _ => unreachable!(),
    });
    let market = Market::of(&heads.collect::<Vec<_>>());
    for (what, bytes) in [("1 GiB", GIB), ("more than one vendor has", 120 * GIB)] {
        let spent = allocate(&market, bytes);
        row(&format!("choose vendors for 3 copies of {what}, CPU"), "< 2 ms", format!("{spent:.2} ms"));
    }
    drop(market);
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let mirror = open(dir.path()).await;
        let first = report(&mirror, all).await;
        row("first reports taken, vendors/s, durable", "-", format!("{first:.0}"));
        let mut rates = Vec::new();
        for seq in 2..5 {
            let changed = records(vendors.min(4_000), leases, seq);
            rates.push(report(&mirror, changed).await);
        }
        row("record updates, whole vendor records/s, durable", ">= 2000", format!("{:.0}", median(rates)));
    });
    let starts: Vec<(f64, u64, u64)> = (0..RUNS).map(|_| start_from_disk(dir.path())).collect();
    row("start from disk", "< 5 s", format!("{:.2} s", median(starts.iter().map(|start| start.0).collect())));
    let of = |pick: fn(&(f64, u64, u64)) -> u64| starts.iter().map(pick).max().unwrap();
    row(
        "resident memory after the start",
        "<= 1024 MiB",
        format!("{} MiB (peak {})", of(|one| one.1), of(|one| one.2)),
    );
}
