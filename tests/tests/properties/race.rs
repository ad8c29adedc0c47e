//! A thousand users race for the same vendors, in virtual time: the ledgers and the allocation core as they are, behind a
//! network with delays and mirrors whose heads are some seconds old.
//!
//! Nothing is ever oversubscribed: that is checked after every offer. Nobody starves: where the vendors have room for all, each
//! user has its storage after at most [`ATTEMPTS_MAX`] requests and within [`FAIR_MS`] of virtual time; and where they have
//! not, who goes without asks for more than is left at the end, what was locked in vain is free again, and it was told that room
//! lacks. Who was refused asks again after a pause that is twice as long each time, as requests that cross hold parts of what
//! others need until they are withdrawn. One that locks all it can and fills nothing holds up nobody else.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fathom_protocol::allocate::Share;
use fathom_protocol::allocation::{Action, Allocation, Event};
use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::head::VendorHead;
use fathom_protocol::header::Hop;
use fathom_protocol::ids::{Hash, LeaseId, NodeId, OwnerId};
use fathom_protocol::ledger::{Ledger, Terms, UNSEALED_PERCENT};
use fathom_protocol::market::{Market, Standing, View};
use fathom_protocol::root::LeaseRoot;
use fathom_protocol::sign::SignerId;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{AllocateRequest, Cancel, Refusal, RefusalKind, Wants};
use fathom_tests::samples::{self, NOW, key};

const MIB: u64 = 1 << 20;
const UNIT: u64 = MIB;
const USERS: usize = 1_000;
const VENDORS: u8 = 40;
const ZONES: u8 = 5;
const MIRRORS: usize = 3;
/// Vendors report so often.
const REPORT_MS: u64 = 5_000;
/// Requests of one user until it has its storage, if there is room for all.
const ATTEMPTS_MAX: u32 = 3;
/// And the time until then.
const FAIR_MS: u64 = 10_000;
/// Attempts after which a user goes away without.
const PATIENCE: u32 = 15;
/// Its longest pause before an attempt.
const PAUSE_MS_MAX: u64 = 60_000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Report,
    Ask { user: usize },
    Offer { user: usize, attempt: u32, vendor: u8, bytes: u64 },
    Answer { user: usize, attempt: u32, answer: usize },
    Timer { user: usize, attempt: u32, at: u64 },
    Cancel { user: usize, attempt: u32, vendor: u8 },
    Cancelled { user: usize, attempt: u32, vendor: u8 },
    Filled { user: usize, parts: Vec<(u8, LeaseId, u64)> },
}

struct User {
    owner: OwnerId,
    copies: u8,
    bytes: u64,
    /// It locks and never fills, again and again.
    hog: bool,
    attempt: u32,
    work: Option<Allocation>,
    served_at: Option<u64>,
    refusal: Option<Refusal>,
}

struct World {
    dice: Dice,
    now: u64,
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    made: u64,
    ledgers: Vec<Ledger>,
    markets: Vec<Market>,
    users: Vec<User>,
    answers: BTreeMap<usize, Event>,
    ended: usize,
    ids: Vec<NodeId>,
    /// What all heads have in common.
    head: VendorHead,
    /// And all hops.
    hop: Hop,
}

impl World {
    fn new(seed: u64, capacity: u64, users: Vec<(u8, u64, bool)>) -> Self {
        let terms = Terms { offer_ms: 30_000, ..Terms::default() };
        let ledger = |vendor| Ledger::open(key(vendor + 1), terms, capacity, Vec::new()).unwrap();
        let users = (0u32..).zip(users).map(|(number, (copies, bytes, hog))| {
            let mut owner = [7; 32];
            owner[..4].copy_from_slice(&number.to_le_bytes());
            let owner = OwnerId(owner);
            User { owner, copies, bytes, hog, attempt: 0, work: None, served_at: None, refusal: None }
        });
        let mut world = Self {
            dice: Dice(seed),
            now: 0,
            due: BinaryHeap::new(),
            made: 0,
            ledgers: (0..VENDORS).map(ledger).collect(),
            markets: (0..MIRRORS).map(|_| Market::default()).collect(),
            users: users.collect(),
            answers: BTreeMap::new(),
            ended: 0,
            ids: (0..VENDORS).map(|vendor| samples::node(vendor + 1)).collect(),
            head: samples::vendor_record(1, 1).head.peek().unwrap(),
            hop: samples::hop(&[1], 0),
        };
        world.at(0, Due::Report);
        for user in 0..world.users.len() {
            let start = 1 + world.dice.below(2_000);
            world.at(start, Due::Ask { user });
        }
        world
    }

    fn at(&mut self, when: u64, what: Due) {
        self.made += 1;
        self.due.push(Reverse((when, self.made, what)));
    }

    fn soon(&mut self, what: Due) {
        let when = self.now + 2 + self.dice.below(80);
        self.at(when, what);
    }

    fn clock(&self) -> UnixMs {
        NOW.plus_ms(self.now)
    }

    fn request(&self, user: usize) -> AllocateRequest {
        let of = &self.users[user];
        let nonce = Hash::of(format!("{user} {}", of.attempt).as_bytes());
        AllocateRequest {
            version: fathom_protocol::tags::VERSION,
            owner: of.owner,
            authority: SignerId::from(of.owner),
            file: None,
            copies: of.copies,
            width: 2,
            bytes: of.bytes,
            unit: UNIT as u32,
            exclude: Bounded::default(),
            avoid_zones: Bounded::default(),
            wants: Wants::default(),
            nonce,
            expires: self.clock().plus_seconds(60),
        }
    }

    fn head(&self, vendor: u8) -> VendorHead {
        let ledger = &self.ledgers[usize::from(vendor)];
        let mut head = self.head.clone();
        head.vendor = self.ids[usize::from(vendor)];
        head.capacity = ledger.capacity();
        head.root = LeaseRoot { hash: Hash([0; 32]), sum: ledger.leased() };
        head.characteristics.zone = Text::cut(&format!("zone {}", vendor % ZONES));
        head.characteristics.operator = Text::cut(&format!("operator {vendor}"));
        head.characteristics.load = 0;
        head.addresses = Bounded::default();
        head
    }

    fn view(&self, user: usize, attempt: u32) -> View {
        self.markets[(user + attempt as usize) % MIRRORS].view(&Wants::default(), self.clock(), |_| Standing::default())
    }

    /// What vendors have, as nobody knows it.
    fn truth(&self) -> View {
        let heads: Vec<VendorHead> = (0..VENDORS).map(|vendor| self.head(vendor)).collect();
        Market::of(&heads).view(&Wants::default(), self.clock(), |_| Standing::default())
    }

    /// What the mirror knows that a user asks.
    fn market(&mut self, user: usize, attempt: u32) -> &mut Market {
        &mut self.markets[(user + attempt as usize) % MIRRORS]
    }

    /// Nothing is given out twice, and no key holds more than its part.
    fn check(&self, vendor: u8) {
        let ledger = &self.ledgers[usize::from(vendor)];
        let mut held: BTreeMap<OwnerId, u64> = BTreeMap::new();
        for lease in ledger.leases() {
            *held.entry(lease.owner).or_default() += lease.room();
        }
        assert!(ledger.leases().map(|lease| lease.bytes).sum::<u64>() <= ledger.capacity());
        assert!(held.values().all(|held| *held <= ledger.capacity() * u64::from(UNSEALED_PERCENT) / 100));
    }

    fn run(&mut self) {
        while let Some(Reverse((when, _, what))) = self.due.pop() {
            self.now = when;
            match what {
                Due::Report => {
                    for vendor in 0..VENDORS {
                        self.ledgers[usize::from(vendor)].tick(NOW.plus_ms(when), None).unwrap();
                        let head = self.head(vendor);
                        self.markets.iter_mut().for_each(|market| market.note(&head));
                    }
                    let waiting = self.users.iter().filter(|user| !user.hog).count();
                    if self.ended < waiting {
                        self.at(when + REPORT_MS, Due::Report);
                    }
                }
                Due::Ask { user } => self.ask(user),
                Due::Offer { user, attempt, vendor, bytes } => {
                    let request = AllocateRequest { ..self.request_of(user, attempt) };
                    let (id, now) =
                        (LeaseId(Hash::of(&self.made.to_le_bytes()).0[..16].try_into().unwrap()), self.clock());
                    let offered = self.ledgers[usize::from(vendor)].offer(now, &request, bytes, id);
                    self.check(vendor);
                    let of = self.ids[usize::from(vendor)];
                    let event = match offered {
                        Ok((lease, granted)) => Event::Offered { vendor: of, lease: Box::new(lease), granted },
                        Err(refusal) => Event::Refused { vendor: of, refusal },
                    };
                    let answer = self.made as usize;
                    self.answers.insert(answer, event);
                    self.soon(Due::Answer { user, attempt, answer });
                }
                Due::Answer { user, attempt, answer } => {
                    let event = self.answers.remove(&answer).unwrap();
                    if let Event::Offered { vendor, granted, .. } = &event {
                        let AllocateRequest { authority, nonce, .. } = self.request_of(user, attempt);
                        self.market(user, attempt).offered(*vendor, (authority, nonce), *granted);
                    }
                    self.feed(user, attempt, event);
                }
                Due::Timer { user, attempt, at } => {
                    assert!(at <= when);
                    self.feed(user, attempt, Event::Timer);
                }
                Due::Cancel { user, attempt, vendor } => {
                    let AllocateRequest { authority, nonce, .. } = self.request_of(user, attempt);
                    let of = self.ids[usize::from(vendor)];
                    let cancel =
                        Cancel { version: fathom_protocol::tags::VERSION, authority, vendor: of, request: nonce };
                    self.ledgers[usize::from(vendor)].cancel(&cancel).unwrap();
                    self.soon(Due::Cancelled { user, attempt, vendor });
                }
                Due::Cancelled { user, attempt, vendor } => {
                    let AllocateRequest { authority, nonce, .. } = self.request_of(user, attempt);
                    let vendor = self.ids[usize::from(vendor)];
                    self.market(user, attempt).withdrawn(vendor, (authority, nonce));
                }
                Due::Filled { user, parts } => self.fill(user, &parts),
            }
        }
    }

    fn request_of(&self, user: usize, attempt: u32) -> AllocateRequest {
        let nonce = Hash::of(format!("{user} {attempt}").as_bytes());
        AllocateRequest { nonce, ..self.request(user) }
    }

    fn ask(&mut self, user: usize) {
        self.users[user].attempt += 1;
        let attempt = self.users[user].attempt;
        let view = self.view(user, attempt);
        let (work, actions) = Allocation::start(self.request(user), self.now, &view);
        self.users[user].work = Some(work);
        self.act(user, attempt, actions);
    }

    fn feed(&mut self, user: usize, attempt: u32, event: Event) {
        if self.users[user].attempt != attempt {
            return;
        }
        let Some(mut work) = self.users[user].work.take() else { return };
        let now = self.now;
        let actions = work.handle(event, now, || self.view(user, attempt));
        self.users[user].work = Some(work);
        self.act(user, attempt, actions);
    }

    fn act(&mut self, user: usize, attempt: u32, actions: Vec<Action>) {
        let ids = self.ids.clone();
        let number = |vendor: &NodeId| ids.iter().position(|id| id == vendor).unwrap() as u8;
        for action in actions {
            match action {
                Action::Ask { share: Share { vendor, bytes, .. }, .. } => {
                    self.soon(Due::Offer { user, attempt, vendor: number(&vendor), bytes });
                }
                Action::SetTimer { at_ms } => self.at(at_ms, Due::Timer { user, attempt, at: at_ms }),
                Action::Done { parts, .. } => {
                    self.users[user].work = None;
                    let needed = self.users[user].bytes.div_ceil(UNIT) * UNIT;
                    for column in 0..self.users[user].copies {
                        let here = parts.iter().filter(|part| part.column == column).map(|part| part.granted);
                        assert!(here.sum::<u64>() >= needed, "a copy without its room");
                    }
                    if self.users[user].hog {
                        let again = self.now + 1_000;
                        if again < FAIR_MS {
                            self.at(again, Due::Ask { user });
                        }
                        continue;
                    }
                    self.users[user].served_at = Some(self.now);
                    self.ended += 1;
                    let parts = parts.iter().map(|part| (number(&part.lease.vendor), part.lease.id, part.granted));
                    let (parts, when) = (parts.collect(), self.now + 500 + self.dice.below(20_000));
                    self.at(when, Due::Filled { user, parts });
                }
                Action::Failed { refusal, asked } => {
                    self.users[user].work = None;
                    for vendor in &asked {
                        self.soon(Due::Cancel { user, attempt, vendor: number(vendor) });
                    }
                    let hog = self.users[user].hog;
                    self.users[user].refusal = Some(refusal);
                    if hog && self.now < FAIR_MS || !hog && attempt < PATIENCE {
                        let longest = (1_000 << attempt.min(6)).min(PAUSE_MS_MAX);
                        let pause = self.now + 200 + self.dice.below(longest);
                        self.at(pause, Due::Ask { user });
                    } else if !hog {
                        self.ended += 1;
                    }
                }
            }
        }
    }

    /// What was locked is filled, and named by a final FAT.
    fn fill(&mut self, user: usize, parts: &[(u8, LeaseId, u64)]) {
        let (owner, now) = (self.users[user].owner, self.clock());
        let hop = Hop { owner, authority: owner.into(), ..self.hop.clone() };
        for (vendor, lease, bytes) in parts {
            let ledger = &mut self.ledgers[usize::from(*vendor)];
            let mut left = *bytes;
            while left > 0 {
                let length = left.min(UNIT) as u32;
                let hop = Hop { length, ..hop.clone() };
                ledger.admit(now, &hop, *lease).unwrap();
                ledger.settle(now, *lease, u64::from(length), true).unwrap();
                left -= u64::from(length);
            }
            ledger.commit(now, *lease, 0).unwrap();
            self.check(*vendor);
        }
    }
}

/// So many users with a request each, and the bytes that all of them want.
fn users(seed: u64) -> (Vec<(u8, u64, bool)>, u64) {
    let mut dice = Dice(seed ^ 0xfa7);
    let users: Vec<(u8, u64, bool)> =
        (0..USERS).map(|_| (1 + dice.below(3) as u8, MIB * (1 + dice.below(16)), false)).collect();
    let wanted = users.iter().map(|(copies, bytes, _)| u64::from(*copies) * bytes).sum();
    (users, wanted)
}

fn all_are_served(world: &World) {
    let honest = || world.users.iter().filter(|user| !user.hog);
    let slowest = honest().map(|user| user.served_at.unwrap_or(u64::MAX)).max().unwrap();
    let attempts = honest().map(|user| user.attempt).max().unwrap();
    let refusal = honest().find(|user| user.served_at.is_none()).and_then(|user| user.refusal.clone());
    assert!(slowest <= FAIR_MS && attempts <= ATTEMPTS_MAX, "{slowest} ms, {attempts} attempts, {refusal:?}");
    println!("all served: the slowest after {slowest} ms, {attempts} requests at most");
}

#[test]
fn a_thousand_users_that_race_are_all_served_where_there_is_room() {
    for seed in 0..2 {
        let (users, wanted) = users(seed);
        // A fifth more than is wanted.
        let mut world = World::new(seed, wanted * 6 / 5 / u64::from(VENDORS), users);
        world.run();
        all_are_served(&world);
    }
}

#[test]
fn who_locks_all_it_can_and_fills_nothing_starves_nobody() {
    let (mut users, wanted) = users(9);
    let capacity = wanted * 6 / 5 / u64::from(VENDORS) * 4;
    users.truncate(USERS - 1);
    // One that asks for half of a vendor for each copy, and again, and again.
    users.push((3, capacity / 2, true));
    let mut world = World::new(9, capacity, users);
    world.run();
    all_are_served(&world);
}

#[test]
fn where_there_is_no_room_for_all_nothing_is_oversubscribed_and_whoever_fits_is_served() {
    for seed in 5..8 {
        scarcity(seed);
    }
}

fn scarcity(seed: u64) {
    let (users, wanted) = users(seed);
    let capacity = wanted * 3 / 5 / u64::from(VENDORS);
    let mut world = World::new(seed, capacity, users);
    world.run();
    let (served, unserved): (Vec<_>, Vec<_>) = world.users.iter().partition(|user| user.served_at.is_some());
    assert!(!served.is_empty() && !unserved.is_empty());
    let stored: u64 = served.iter().map(|user| u64::from(user.copies) * user.bytes).sum();
    assert_eq!(world.ledgers.iter().map(Ledger::leased).sum::<u64>(), stored, "what was locked in vain is free again");
    for refusal in unserved.iter().filter_map(|user| user.refusal.as_ref()) {
        assert!(matches!(refusal.kind, RefusalKind::NoSpace | RefusalKind::TooFewVendors), "{refusal}");
    }
    // Nobody starves: whoever went without asks for more than there is.
    let view = world.truth();
    for user in (0..USERS).filter(|user| world.users[*user].served_at.is_none()) {
        let (_, actions) = Allocation::start(world.request(user), 0, &view);
        let of = &world.users[user];
        let fits = actions.iter().any(|action| matches!(action, Action::Ask { .. }));
        assert!(!fits, "{} copies of {} bytes would fit after {} requests", of.copies, of.bytes, of.attempt);
    }
    let all = capacity * u64::from(VENDORS);
    assert!(stored >= all * 99 / 100, "{stored} of {all} bytes are used");
    println!("{} of {USERS} served, {stored} of {} bytes", served.len(), capacity * u64::from(VENDORS));
}
