//! Mirrors agree again after whatever the network did: the core that the binary drives, in virtual time.

mod world;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use fathom_protocol::codec::Bounded;
use fathom_protocol::fat::{FinalFat, Tag};
use fathom_protocol::head::{VendorHead, VendorRecord};
use fathom_protocol::ids::{FileId, Hash, LeaseId, NodeId};
use fathom_protocol::ledger::{Ledger, Terms};
use fathom_protocol::limits::BAD_RECORDS_MAX;
use fathom_protocol::sync::{BAN_MS, Cursor, Event, FORGIVEN_MS, Settings, Sync, Told, Verdict};
use fathom_protocol::table::{Key, Table};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{AllocateRequest, Gossip, SyncRecord};
use fathom_tests::samples::{self, key, node, signed};

use super::reconcile::user;
use world::{Link, World};

const EXTENT: u64 = 1 << 20;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

/// A vendor: the real ledger, and the head that it signs.
struct Vendor {
    number: u8,
    ledger: Ledger,
    seq: u64,
    leases: u64,
}

impl Vendor {
    fn new(number: u8, extents: u64) -> Self {
        let ledger = Ledger::open(key(number), Terms::default(), extents * EXTENT, Vec::new()).unwrap();
        Self { number, ledger, seq: 0, leases: 0 }
    }

    fn report(&mut self, now: u64) -> SyncRecord {
        self.seq += 1;
        let leases: Vec<_> = self.ledger.leases().cloned().collect();
        let head = VendorHead {
            seq: self.seq,
            issued: UnixMs(now),
            capacity: self.ledger.capacity(),
            ..samples::head(self.number, self.seq, &leases)
        };
        let head = VendorHead { root: self.ledger.root(), ..head };
        let leases = Bounded::first(leases.iter().map(|lease| lease.carried().clone()));
        SyncRecord::Vendor(VendorRecord { head: signed(head, &key(self.number)).into_carried(), leases })
    }

    /// A mirror asks for one extent. Returns the bytes granted.
    fn offer(&mut self, now: u64, nonce: u64) -> u64 {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&nonce.to_le_bytes());
        let request = AllocateRequest {
            owner: user().owner(),
            authority: user().owner().into(),
            bytes: EXTENT,
            nonce: Hash(hash),
            expires: UnixMs(now + 60_000),
            ..request()
        };
        let request = signed(request, user().signing());
        self.leases += 1;
        let fresh = LeaseId(u128::from(self.leases).to_be_bytes());
        self.ledger.offer(UnixMs(now), &request, EXTENT, fresh).map_or(0, |(_, granted)| granted)
    }
}

/// A final FAT that puts and one that releases, made once: each costs a stretched phrase.
fn fats() -> &'static (FinalFat, FinalFat) {
    static FATS: OnceLock<(FinalFat, FinalFat)> = OnceLock::new();
    FATS.get_or_init(|| (samples::final_fat(), samples::release()))
}

fn request() -> AllocateRequest {
    static REQUEST: OnceLock<AllocateRequest> = OnceLock::new();
    REQUEST.get_or_init(samples::allocate).clone()
}

fn fat(file: u8, seq: u64, released: bool) -> SyncRecord {
    // The counter of final FATs; who wrote is the same.
    let seq = seq << 16;
    let (put, release) = fats();
    let body = if released { release.clone() } else { put.clone() };
    let fat = FinalFat {
        owner: user().owner(),
        file: FileId([file; 16]),
        seq,
        base: seq,
        follows: samples::all_before(Tag(seq)),
        ..body
    };
    SyncRecord::Fat(signed(fat, user().signing()).into_carried())
}

/// Cuts or mends all links between the first `side` mirrors and the others.
fn between(world: &mut World, side: usize, link: Link) {
    let count = world.mirrors.len();
    for (a, b) in (0..side).flat_map(|a| (side..count).map(move |b| (a, b))) {
        world.links.insert((a, b), link);
        world.links.insert((b, a), link);
    }
}

/// Two sides that do not see each other give out the same vendors' last bytes for a minute: the vendors are the only ones who
/// can, so nothing is given out twice; and soon after the sides see each other again they hold the same.
#[test]
fn fault_17_partitioned_mirrors_oversubscribe_nothing_and_agree_within_30_s() {
    for seed in 1..=8 {
        let mut world = World::new(4, seed);
        let mut vendors: Vec<Vendor> = (1..=6).map(|number| Vendor::new(number, 20)).collect();
        for vendor in &mut vendors {
            let report = vendor.report(0);
            world.bring(usize::from(vendor.number) % 4, report);
        }
        assert!(world.run(20_000, World::equal), "equal before");
        between(&mut world, 2, Link::CUT);
        let (start, mut granted) = (world.now, BTreeMap::<u8, u64>::new());
        for step in 0..240u64 {
            world.run(start + step * 250, |_| false);
            let (now, drawn) = (world.now, world.draw());
            // Vendors 1 and 2 report to one side only, 3 and 4 to the other, the others to both.
            let vendor = &mut vendors[drawn as usize % 6];
            let sides: &[usize] = match vendor.number {
                1 | 2 => &[0],
                3 | 4 => &[2],
                _ => &[1, 3],
            };
            let asking = sides[(drawn >> 8) as usize % sides.len()];
            let shown = world.mirrors[asking].table.vendor(node(vendor.number)).unwrap().head.free();
            // By what its table shows, which may be old.
            if shown >= EXTENT {
                *granted.entry(vendor.number).or_default() += vendor.offer(now, drawn);
            }
            let report = vendor.report(now);
            sides.iter().for_each(|at| world.bring(*at, report.clone()));
        }
        assert!(!world.equal(), "the sides differ");
        for vendor in &vendors {
            let given = granted.get(&vendor.number).copied().unwrap_or(0);
            assert!(given <= vendor.ledger.capacity() && vendor.ledger.root().sum <= vendor.ledger.capacity());
            assert_eq!(given, vendor.ledger.root().sum, "every byte is given out once");
        }
        between(&mut world, 2, Link::GOOD);
        let healed = world.now;
        assert!(world.run(healed + 30_000, World::equal), "seed {seed}: not equal 30 s after healing");
        for (mirror, vendor) in world.mirrors.iter().flat_map(|mirror| vendors.iter().map(move |v| (mirror, v))) {
            let head = &mirror.table.vendor(node(vendor.number)).unwrap().head;
            assert_eq!((head.seq, head.root), (vendor.seq, vendor.ledger.root()));
        }
    }
}

/// One direction is cut, another one is; then every link clogs for a while, one after the other.
#[test]
fn fault_19_asymmetric_partitions_and_links_that_clog_in_turn_lose_nothing() {
    for seed in 1..=8 {
        let mut world = World::new(4, 1_000 + seed);
        let mut brought = 0u8;
        let mut bring = |world: &mut World, at: usize| -> usize {
            brought += 1;
            world.bring(at, fat(brought, 1, false));
            usize::from(brought)
        };
        let links: Vec<(usize, usize)> =
            (0..4).flat_map(|a| (0..4).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
        // Nobody hears mirror 0, which hears everybody; mirror 3 hears nobody.
        world.links.extend(links.iter().filter(|(a, b)| *a == 0 || *b == 3).map(|link| (*link, Link::CUT)));
        for _ in 0..20 {
            let until = world.now + 1_000;
            world.run(until, |_| false);
            let at = world.draw() as usize % 4;
            bring(&mut world, at);
        }
        for link in &links {
            world.all_links(Link::GOOD);
            let clogged = if world.draw().is_multiple_of(2) { Link::CUT } else { Link::BAD };
            world.links.insert(*link, clogged);
            let until = world.now + 3_000;
            world.run(until, |_| false);
            let at = world.draw() as usize % 4;
            bring(&mut world, at);
        }
        world.all_links(Link::GOOD);
        let healed = world.now;
        assert!(world.run(healed + 60_000, World::equal), "seed {seed}: not equal 60 s after healing");
        // And alive: what is brought now arrives everywhere, as everything before did.
        let count = bring(&mut world, 0);
        let until = world.now + 10_000;
        assert!(world.run(until, |world| world.mirrors.iter().all(|mirror| mirror.store.len() == count)));
        assert!(world.mirrors.iter().all(|mirror| mirror.banned.is_empty()));
    }
}

/// What is brought to which mirror when, the same in each run.
fn story(world: &mut World) {
    let mut vendors: Vec<Vendor> = (1..=4).map(|number| Vendor::new(number, 1_000)).collect();
    for step in 0..80u64 {
        let until = step * 500;
        world.run(until, |_| false);
        let at = (step % 3) as usize;
        let vendor = &mut vendors[(step % 4) as usize];
        vendor.offer(until, step);
        let report = vendor.report(until);
        world.bring(at, report);
        // Files are put, put again and released, at different mirrors.
        let (file, seq) = ((step % 10) as u8, step / 10 + 1);
        world.bring((at + 1) % 3, fat(file, seq, seq == 8 && file % 2 == 0));
    }
}

#[test]
fn fault_20_loss_replay_and_reordering_end_in_the_state_of_a_clean_run() {
    let mut clean = World::new(3, 1);
    story(&mut clean);
    let until = clean.now + 60_000;
    assert!(clean.run(until, World::equal));
    let digest = clean.mirrors[0].table.digest();
    assert_eq!((digest.heads, digest.files), (4, 5));
    for seed in 1..=8 {
        let mut world = World::new(3, 2_000 + seed);
        world.all_links(Link::BAD);
        story(&mut world);
        // The network stays as bad as it is; it takes longer and ends the same.
        let until = world.now + 600_000;
        assert!(world.run(until, World::equal), "seed {seed}: not equal over a bad network");
        assert_eq!(world.mirrors[0].table.digest(), digest, "seed {seed}");
        assert!(world.mirrors.iter().all(|mirror| mirror.banned.is_empty()), "nobody is banned for old news");
    }
}

/// A mirror that slept for a year knows files that were released since, vendors that left and heads long replaced; and the log
/// that it read is gone.
#[test]
fn fault_50_a_mirror_that_rejoins_after_a_year_resurrects_nothing() {
    for seed in 1..=4 {
        let mut world = World::new(3, 3_000 + seed);
        let mut vendors: Vec<Vendor> = (1..=20).map(|number| Vendor::new(number, 100)).collect();
        for vendor in &mut vendors {
            vendor.offer(0, u64::from(vendor.number));
            let report = vendor.report(0);
            world.bring(usize::from(vendor.number) % 3, report);
        }
        (0..100).for_each(|file| world.bring(usize::from(file) % 3, fat(file, 1, false)));
        assert!(world.run(60_000, World::equal));
        world.mirrors[2].up = false;
        world.now += YEAR_MS;
        // Leases were released, half of the files too, and others were put anew.
        for vendor in vendors.iter_mut().skip(5) {
            vendor.ledger = Ledger::open(key(vendor.number), Terms::default(), 100 * EXTENT, Vec::new()).unwrap();
            vendor.seq += 1_000_000;
            let report = vendor.report(world.now);
            world.bring(0, report);
        }
        (0..100).for_each(|file| world.bring(1, fat(file, 9, file % 2 == 0)));
        // One mirror was set up again, so that its log is another.
        let fresh = Hash([77; 32]);
        world.mirrors[0].log = fresh;
        let until = world.now + 60_000;
        let pair = |world: &World| world.mirrors[0].table.digest() == world.mirrors[1].table.digest();
        assert!(world.run(until, pair));
        let truth = world.mirrors[0].table.digest();
        assert_eq!((truth.heads, truth.leases, truth.files), (20, 5, 50));

        world.restart(2);
        let (back, mut wrong) = (world.now, false);
        let agreed = world.run(back + 60_000, |world| {
            // At no moment does anybody else hold anything but the truth.
            wrong |= world.mirrors[..2].iter().any(|mirror| mirror.table.digest() != truth);
            world.equal()
        });
        assert!(agreed && !wrong, "seed {seed}: agreed {agreed}, somebody believed the old records: {wrong}");
        assert_eq!(world.mirrors[2].cursors[&world.mirrors[0].id].log, fresh, "it goes on reading the new log");
        assert!(world.mirrors.iter().all(|mirror| mirror.banned.is_empty()));
    }
}

/// A mirror restored from a backup: its log is shorter than what the others read of it, then grows again over their cursors.
#[test]
fn what_a_restored_mirror_took_again_reaches_the_others() {
    let mut world = World::new(2, 5);
    (0..10).for_each(|file| world.bring(0, fat(file, 1, false)));
    assert!(world.run(30_000, World::equal));
    // The backup has nothing. What it takes now lies at positions that the other has read.
    let mirror = &mut world.mirrors[0];
    (mirror.table, mirror.next) = (Table::default(), 1);
    mirror.store.clear();
    mirror.positions.clear();
    mirror.cursors.clear();
    world.restart(0);
    world.all_links(Link::CUT);
    (50..65).for_each(|file| world.bring(0, fat(file, 1, false)));
    world.all_links(Link::GOOD);
    let until = world.now + 300_000;
    assert!(world.run(until, World::equal));
    assert_eq!(world.mirrors[1].store.len(), 25);
}

fn alone() -> Sync {
    Sync::new(Settings { me: node(1), poll_ms: 2_000, compare_ms: 180_000 }, BTreeMap::new())
}

/// 100,000 bad messages of one peer: as many are verified as a ban takes and no more, whatever it does.
#[test]
fn fault_29_of_100_000_bad_messages_a_few_are_looked_at_and_the_peer_is_banned() {
    let (mut core, table, liar, honest) = (alone(), Table::default(), node(66), node(67));
    let (mut looked_at, mut banned) = (0u32, 0);
    for at in 0..100_000u64 {
        // A hundred of them a millisecond.
        let now = at / 100;
        if core.admits(liar, now) {
            looked_at += 1;
            let event = match at % 3 {
                0 => Event::Checked { from: liar, bad: 1 },
                _ => Event::Gossip { from: liar, told: Told::Bad },
            };
            let actions = core.handle(event, &table, now, [7; 16]);
            banned += actions.iter().filter(|action| format!("{action:?}").starts_with("Ban")).count();
        }
        // An honest mirror relays what is known, old, or of another version, a thousand times as often as anybody is banned for.
        assert!(core.admits(honest, now));
        let told = [Told::Known, Told::Unclear, Told::New][at as usize % 3];
        let actions = core.handle(Event::Gossip { from: honest, told }, &table, now, [7; 16]);
        assert!(!format!("{actions:?}").contains("Ban"));
    }
    assert_eq!((looked_at, banned), (BAD_RECORDS_MAX, 1));
    assert!(core.banned(liar, 1_000) && !core.banned(honest, 1_000));
    // It may come back, and the next ban is longer.
    let later = 1_000 + BAN_MS;
    assert!(!core.banned(liar, later) && core.admits(liar, later));
    core.handle(Event::Checked { from: liar, bad: 100 }, &table, later, [7; 16]);
    assert!(core.banned(liar, later + BAN_MS + 1) && !core.banned(liar, later + 2 * BAN_MS));
    // One bad record now and then, as of a failing disk, bans nobody.
    for at in 0..1_000 {
        let now = 10 * BAN_MS + at * FORGIVEN_MS;
        assert!(core.admits(honest, now));
        core.handle(Event::Checked { from: honest, bad: 1 }, &table, now, [7; 16]);
    }
    assert!(!core.banned(honest, 10 * BAN_MS + 1_000 * FORGIVEN_MS));
}

/// A mirror of the network that forges: it is banned by those who hear it, and nothing of it is kept or passed on.
#[test]
fn fault_29_a_mirror_that_forges_is_banned_and_the_others_agree() {
    let mut world = World::new(4, 9);
    (0..10).for_each(|file| world.bring(0, fat(file, 1, false)));
    assert!(world.run(30_000, World::equal));
    let truth = world.mirrors[0].table.digest();
    for number in 0..200u16 {
        let SyncRecord::Fat(good) = fat(200, 1, false) else { panic!() };
        let mut bytes = fathom_protocol::codec::encode(&good);
        // The last byte of the signature is changed, and one before it so that each is another.
        let end = bytes.len();
        bytes[end - 1] ^= 1;
        bytes[end - 3..end - 1].copy_from_slice(&number.to_le_bytes());
        let forged = fathom_protocol::codec::decode(&bytes, 1 << 20).unwrap();
        world.gossip(3, &Gossip::Record(Box::new(SyncRecord::Fat(forged))), usize::MAX);
    }
    let until = world.now + 10_000;
    let liar = world.mirrors[3].id;
    assert!(world.run(until, |world| world.mirrors[..3].iter().all(|mirror| mirror.banned == [liar])));
    world.bring(0, fat(11, 1, false));
    let until = world.now + 30_000;
    assert!(world.run(until, |world| world.mirrors[..3].iter().all(|mirror| mirror.store.len() == 11)));
    assert!(
        world.mirrors[..3]
            .iter()
            .all(|mirror| !mirror.store.contains_key(&Key::Fat(user().owner(), FileId([200; 16]))))
    );
    assert_ne!(world.mirrors[0].table.digest(), truth);
}

/// A hint makes a mirror read at once and is passed on once in a while, not as often as somebody says it.
#[test]
fn hints_are_passed_on_sparingly() {
    let (mut core, table, mirror) = (alone(), Table::default(), node(2));
    core.handle(Event::Mirrors(vec![node(1), mirror]), &table, 0, [7; 16]);
    let hint = |core: &mut Sync, mirror: NodeId, position: u64, now: u64| {
        assert!(core.admits(node(9), now));
        let told = Told::Hint { mirror, position };
        let actions = core.handle(Event::Gossip { from: node(9), told }, &table, now, [7; 16]);
        actions.into_iter().find_map(|action| match action {
            fathom_protocol::sync::Action::Verdict(verdict) => Some(verdict),
            _ => None,
        })
    };
    assert_eq!(hint(&mut core, mirror, 5, 10), Some(Verdict::Accept));
    assert_eq!(hint(&mut core, mirror, 6, 11), Some(Verdict::Ignore));
    assert_eq!(hint(&mut core, mirror, 7, 300), Some(Verdict::Accept));
    assert_eq!(hint(&mut core, node(3), 7, 300), Some(Verdict::Ignore), "not a mirror that is known");
    assert_eq!(hint(&mut core, node(1), 7, 600), Some(Verdict::Ignore), "this mirror itself");
    assert_eq!(core.cursor(mirror), None::<Cursor>);
}
