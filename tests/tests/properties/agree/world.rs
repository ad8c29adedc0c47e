//! Mirrors with the real core and table on a network that loses, repeats, delays and cuts, in virtual time. One seed, one run.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::codec::{Bounded, encode};
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::reconcile::{Compared, Probe, answer, wanted_keys};
use fathom_protocol::sign::RecordError;
use fathom_protocol::sync::{Action, Cursor, Event, Settings, Sync, Told, Verdict};
use fathom_protocol::table::{Key, Merged, Table, Verified, verify};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Gossip, Page, Request, Response, SyncRecord};
use fathom_tests::samples::node;

/// A caller gives up after so much silence.
const SILENCE_MS: u64 = 2_000;
/// Records in one page of a log.
const PAGE: usize = 16;

/// What a link does to one message.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) cut: bool,
    /// Messages lost, of 100.
    pub(crate) lost: u64,
    /// Messages that arrive once more, later, of 100.
    pub(crate) again: u64,
    /// Longest delay, milliseconds.
    pub(crate) delay_ms: u64,
}

impl Link {
    pub(crate) const GOOD: Self = Self { cut: false, lost: 0, again: 0, delay_ms: 20 };
    pub(crate) const CUT: Self = Self { cut: true, ..Self::GOOD };
    pub(crate) const BAD: Self = Self { cut: false, lost: 30, again: 50, delay_ms: 800 };
}

#[derive(Clone, Debug)]
enum Message {
    Request(u64, Request),
    Response(u64, Box<Response>),
    Gossip(Box<Gossip>),
}

enum Due {
    Arrive { from: usize, to: usize, message: Message },
    Tick { at: usize },
    Silence { at: usize, peer: NodeId, ask: u64 },
}

/// A mirror: the core, the table, and a disk that keeps records, the log and cursors.
pub(crate) struct Mirror {
    pub(crate) id: NodeId,
    pub(crate) table: Table,
    pub(crate) store: BTreeMap<Key, SyncRecord>,
    pub(crate) log: Hash,
    pub(crate) positions: BTreeMap<u64, Key>,
    pub(crate) next: u64,
    pub(crate) cursors: BTreeMap<NodeId, Cursor>,
    pub(crate) banned: Vec<NodeId>,
    pub(crate) up: bool,
    core: Sync,
    seen: BTreeSet<Hash>,
}

impl Mirror {
    fn new(number: u8) -> Self {
        Self {
            id: node(number),
            table: Table::default(),
            store: BTreeMap::new(),
            log: Hash([number; 32]),
            positions: BTreeMap::new(),
            next: 1,
            cursors: BTreeMap::new(),
            banned: Vec::new(),
            up: true,
            core: core(node(number), BTreeMap::new()),
            seen: BTreeSet::new(),
        }
    }

    fn take(&mut self, record: &Verified) -> bool {
        let Ok(Merged::New { drops, .. }) = self.table.merge(record) else { return false };
        let key = record.key();
        for key in drops.into_iter().chain([key]) {
            self.store.remove(&key);
            self.positions.retain(|_, known| *known != key);
        }
        self.store.insert(key, record.to_record());
        self.positions.insert(self.next, key);
        self.next += 1;
        true
    }

    fn since(&self, log: Hash, cursor: u64) -> Page {
        let page = |next, more, records| Page { log: self.log, next, more, clock: UnixMs(0), records };
        let newest = self.next - 1;
        let first = log == Cursor::NONE.log;
        if !first && (log != self.log || cursor > newest) {
            return page(newest, false, Bounded::default());
        }
        let from = if first { 1 } else { cursor + 1 };
        let found: Vec<(u64, Key)> = self.positions.range(from..).take(PAGE).map(|(at, key)| (*at, *key)).collect();
        let next = found.last().map_or(from - 1, |(at, _)| *at);
        let more = self.positions.range(next + 1..).next().is_some();
        page(next, more, Bounded::first(found.iter().map(|(_, key)| self.store[key].clone())))
    }

    fn wanted(&self, keys: &[Option<Key>]) -> Page {
        let records = keys.iter().take(PAGE).flatten().map(|key| self.store[key].clone());
        let next = keys.len().min(PAGE) as u64;
        Page { log: self.log, next, more: keys.len() > PAGE, clock: UnixMs(0), records: Bounded::first(records) }
    }
}

fn core(me: NodeId, cursors: BTreeMap<NodeId, Cursor>) -> Sync {
    Sync::new(Settings { me, poll_ms: 2_000, compare_ms: 180_000 }, cursors)
}

/// See the module.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) mirrors: Vec<Mirror>,
    /// What the link from one mirror to another is like now.
    pub(crate) links: BTreeMap<(usize, usize), Link>,
    due: BTreeMap<(u64, u64), Due>,
    count: u64,
    random: u64,
}

impl World {
    pub(crate) fn new(mirrors: u8, seed: u64) -> Self {
        let mirrors: Vec<Mirror> = (0..mirrors).map(|number| Mirror::new(100 + number)).collect();
        let mut world = Self { now: 0, mirrors, links: BTreeMap::new(), due: BTreeMap::new(), count: 0, random: seed };
        (0..world.mirrors.len()).for_each(|at| world.introduce(at));
        world
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A restart: what was in memory is gone, what was on disk is there.
    pub(crate) fn restart(&mut self, at: usize) {
        let mirror = &mut self.mirrors[at];
        mirror.core = core(mirror.id, mirror.cursors.clone());
        mirror.up = true;
        self.introduce(at);
    }

    fn introduce(&mut self, at: usize) {
        let all = self.mirrors.iter().map(|mirror| mirror.id).collect();
        self.handle(at, Event::Mirrors(all));
    }

    pub(crate) fn all_links(&mut self, link: Link) {
        let count = self.mirrors.len();
        self.links = (0..count).flat_map(|a| (0..count).map(move |b| ((a, b), link))).collect();
    }

    pub(crate) fn equal(&self) -> bool {
        self.mirrors.windows(2).all(|pair| pair[0].table.digest() == pair[1].table.digest())
    }

    /// An author brings a record to a mirror.
    pub(crate) fn bring(&mut self, at: usize, record: SyncRecord) {
        let record = verify(record).unwrap();
        if self.mirrors[at].take(&record) {
            let record = record.to_record();
            self.gossip(at, &Gossip::Record(Box::new(record)), usize::MAX);
        }
    }

    /// Passes a gossip message on to everybody but who brought it.
    pub(crate) fn gossip(&mut self, from: usize, message: &Gossip, but: usize) {
        self.mirrors[from].seen.insert(Hash::of(&encode(message)));
        for to in (0..self.mirrors.len()).filter(|to| *to != from && *to != but) {
            self.send(from, to, Message::Gossip(Box::new(message.clone())));
        }
    }

    fn at(&mut self, ms: u64, due: Due) {
        self.count += 1;
        self.due.insert((ms, self.count), due);
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let link = self.links.get(&(from, to)).copied().unwrap_or(Link::GOOD);
        let [lost, again, delay, later] = std::array::from_fn(|_| self.draw());
        if link.cut || lost % 100 < link.lost {
            return;
        }
        let arrives = self.now + 1 + delay % link.delay_ms;
        if again % 100 < link.again {
            let arrive = Due::Arrive { from, to, message: message.clone() };
            self.at(arrives + later % 5_000, arrive);
        }
        self.at(arrives, Due::Arrive { from, to, message });
    }

    /// Lets time pass until `until` or until `done`, which is looked at every 100 ms. Returns whether it was.
    pub(crate) fn run(&mut self, until: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let mut look = self.now;
        loop {
            if look <= self.now {
                if done(self) {
                    return true;
                }
                look = self.now + 100;
            }
            let next = self.due.first_key_value().map_or(u64::MAX, |((ms, _), _)| *ms);
            if next.min(look) > until {
                self.now = until;
                return done(self);
            }
            if look < next {
                self.now = look;
                continue;
            }
            let Some(((ms, _), due)) = self.due.pop_first() else { continue };
            self.now = self.now.max(ms);
            match due {
                Due::Tick { at } => drop(self.handle(at, Event::Tick)),
                Due::Silence { at, peer, ask } => drop(self.handle(at, Event::Failed { peer, ask, refused: false })),
                Due::Arrive { from, to, message } if self.mirrors[to].up => self.arrive(from, to, message),
                Due::Arrive { .. } => {}
            }
        }
    }

    fn arrive(&mut self, from: usize, to: usize, message: Message) {
        let peer = self.mirrors[from].id;
        match message {
            Message::Request(ask, request) => {
                let mirror = &self.mirrors[to];
                let response = match request {
                    Request::Since { log, cursor } => Response::Page(mirror.since(log, cursor)),
                    Request::Wanted(wanted) => Response::Page(mirror.wanted(&wanted_keys(&mirror.table, &wanted))),
                    Request::Compare(compare) => {
                        let told = answer(mirror.table.index(), &compare);
                        if matches!(compare.probe, Probe::Root(_)) {
                            self.handle(to, Event::Compared { by: peer, differ: told != Compared::Same });
                        }
                        Response::Compared(told)
                    }
                    other => panic!("a mirror asks another for {other:?}"),
                };
                self.send(to, from, Message::Response(ask, Box::new(response)));
            }
            Message::Response(ask, response) => {
                self.handle(to, Event::Answered { peer, ask, response: *response });
            }
            Message::Gossip(gossip) => self.hear(from, to, &gossip),
        }
    }

    fn hear(&mut self, from: usize, to: usize, gossip: &Gossip) {
        let (now, peer) = (self.now, self.mirrors[from].id);
        let mirror = &mut self.mirrors[to];
        if !mirror.seen.insert(Hash::of(&encode(gossip))) || !mirror.core.admits(peer, now) {
            return;
        }
        let told = match gossip {
            Gossip::Delta(_) | Gossip::Records(_) => Told::Unclear,
            Gossip::Grew { mirror, cursor } => Told::Hint { mirror: *mirror, position: *cursor },
            Gossip::Record(record) => match verify((**record).clone()) {
                Ok(record) if mirror.take(&record) => Told::New,
                Ok(_) => Told::Known,
                Err(RecordError::Version(_)) => Told::Unclear,
                Err(_) => Told::Bad,
            },
        };
        if self.handle(to, Event::Gossip { from: peer, told }) == Some(Verdict::Accept) {
            self.gossip(to, gossip, from);
        }
    }

    /// Gives a mirror's core an event and carries out what it says.
    fn handle(&mut self, at: usize, event: Event) -> Option<Verdict> {
        let mut verdict = None;
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            if !self.mirrors[at].up {
                return None;
            }
            let random = std::array::from_fn(|_| self.draw() as u8);
            let mirror = &mut self.mirrors[at];
            for action in mirror.core.handle(event, &mirror.table, self.now, random) {
                match action {
                    Action::Ask { peer, ask, request, .. } => {
                        self.at(self.now + SILENCE_MS, Due::Silence { at, peer, ask });
                        let to = self.mirrors.iter().position(|mirror| mirror.id == peer).unwrap();
                        self.send(at, to, Message::Request(ask, request));
                    }
                    Action::Keep { peer, ask, records, cursor } => {
                        let verified: Vec<_> = records.into_iter().map(verify).collect();
                        let bad = verified.iter().filter(|result| result.is_err()).count();
                        let mirror = &mut self.mirrors[at];
                        let new = verified.into_iter().flatten().filter(|record| mirror.take(record)).count();
                        mirror.cursors.extend(cursor.map(|cursor| (peer, cursor)));
                        events.push(Event::Kept { peer, ask, new, bad, stored: true });
                    }
                    Action::Verdict(decided) => verdict = Some(decided),
                    Action::Ban { peer, .. } => self.mirrors[at].banned.push(peer),
                    Action::Wake { at_ms } => self.at(at_ms.max(self.now + 1), Due::Tick { at }),
                }
            }
        }
        verdict
    }
}
