//! Checks after every step of a node, and after every restart.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::fat::{Fate, Place, Tag};
use fathom_protocol::ids::{ChunkId, Hash, NodeId};
use fathom_protocol::ledger::Terms;
use fathom_protocol::limits::FIRST_FRAME_BYTES_MAX;
use fathom_store::ChunkKey;

use super::{Acked, FileKey, Final, Held, Oracle};
use crate::sim::mirror::Mirror;
use crate::sim::node::Known;
use crate::sim::vendor::Vendor;

/// Honest clocks differ by so much, milliseconds.
const SLACK_MS: u64 = 5_000;

/// What happened to a node before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum After {
    /// An ordinary step.
    Step,
    /// A restart after a crash between two steps.
    Restart,
    /// A restart after a crash within a write, which may or may not have become durable.
    RestartInWrite,
    /// A restart after its disk was put back to an earlier state.
    Restored,
}

impl Oracle {
    pub(in crate::sim) fn check_mirror(&mut self, me: usize, mirror: &Mirror, after: After, known: &Known) {
        self.mirror_durable(me, mirror, after);
        self.gives_way_only_to_followers(me, mirror);
        self.heads_only_grow(me, mirror);
        self.time_orders_nothing(me, mirror);
        self.twins_are_proven(me, mirror);
        self.signed_capacity_holds(me, mirror, known);
        self.strangers_cost_little(me, mirror.frames.values());
    }

    pub(in crate::sim) fn check_vendor(&mut self, me: usize, vendor: &Vendor, after: After, at: u64, known: &Known) {
        let Some(run) = &vendor.running else { return };
        if after == After::Restored {
            return self.restored(me, vendor);
        }
        self.strangers_cost_little(me, run.frames.values());
        self.capacity_holds(me, vendor);
        let unseen = self.views.get(&me).is_none_or(|view| view.writes != run.writes);
        if after != After::Step || unseen {
            self.leases_durable(me, vendor, after);
            self.chunks_kept(me, vendor, after, at, &known.terms);
        }
    }

    /// Invariant 4, at a mirror: what it acknowledged is there after a restart.
    fn mirror_durable(&mut self, me: usize, mirror: &Mirror, after: After) {
        if after == After::Step {
            return;
        }
        let mut lost = Vec::new();
        for ((_, key), said) in self.mirror_finals.iter().filter(|((node, _), _)| *node == me) {
            for seq in said.iter().filter(|seq| !self.stands(mirror, *key, **seq)) {
                let file = key.1.short();
                lost.push(format!("mirror {me} lost final FAT {} of {file} that it acknowledged", seq.0));
            }
        }
        for ((node, vendor), (epoch, seq, _)) in &self.best {
            let head = mirror.table.vendor(*vendor).map_or((0, 0), |known| (known.head.epoch, known.head.seq));
            if *node == me && head < (*epoch, *seq) {
                lost.push(format!("mirror {me} lost head {epoch}/{seq} of {} that it took", vendor.short()));
            }
        }
        for what in lost {
            self.broken(4, what);
        }
    }

    /// Invariant 8, at a mirror: what it acknowledged gives way to no version whose author had not seen it.
    fn gives_way_only_to_followers(&mut self, me: usize, mirror: &Mirror) {
        for (node, key) in std::mem::take(&mut self.mirror_took) {
            let said = self.mirror_finals.get(&(me, key)).into_iter().flatten();
            let gone = said.filter(|seq| !self.stands(mirror, key, **seq)).min().copied();
            if let Some(seq) = gone.filter(|_| node == me) {
                self.broken(8, format!("final FAT {} of {} gave way unseen at mirror {me}", seq.0, key.1.short()));
            }
        }
    }

    /// Invariant 2: no node replaces a head with a lower one.
    fn heads_only_grow(&mut self, me: usize, mirror: &Mirror) {
        let mut fell = Vec::new();
        for vendor in mirror.table.vendors() {
            let now = (vendor.head.epoch, vendor.head.seq);
            let before = self.heads.entry((me, vendor.head.vendor)).or_insert(now);
            if now < *before {
                fell.push(format!("mirror {me} replaced head {before:?} of {} by {now:?}", vendor.head.vendor.short()));
            }
            *before = now;
        }
        for what in fell {
            self.broken(2, what);
        }
    }

    /// Invariant 7: of all heads that came, the one with the highest (epoch, seq) is kept, whenever it was signed.
    fn time_orders_nothing(&mut self, me: usize, mirror: &Mirror) {
        let lower = mirror.table.vendors().find(|vendor| {
            let best = self.best.get(&(me, vendor.head.vendor));
            best.is_some_and(|(epoch, seq, _)| (vendor.head.epoch, vendor.head.seq) != (*epoch, *seq))
        });
        if let Some(vendor) = lower {
            let vendor = vendor.head.vendor.short();
            self.broken(7, format!("mirror {me} does not keep the highest head of {vendor} that it was shown"));
        }
    }

    /// Invariant 10: two heads with one number are a proof against their signer, and nothing is one against who signed none.
    fn twins_are_proven(&mut self, me: usize, mirror: &Mirror) {
        let unseen =
            self.twins_shown.iter().find(|(node, vendor)| *node == me && mirror.table.quarantined(*vendor).is_none());
        let unseen =
            unseen.map(|(_, vendor)| format!("mirror {me} was shown twins of {} and proves nothing", vendor.short()));
        let framed = mirror.table.proofs().find(|(vendor, _)| !self.liars.contains(vendor));
        let framed =
            framed.map(|(vendor, _)| format!("mirror {me} holds a proof against {}, which is honest", vendor.short()));
        if let Some(what) = unseen.or(framed) {
            self.broken(10, what);
        }
    }

    /// Invariant 3, as mirrors see it: an honest vendor's head never holds more than its devices.
    fn signed_capacity_holds(&mut self, me: usize, mirror: &Mirror, known: &Known) {
        let over = mirror.table.vendors().find(|vendor| {
            let node = known.index.get(&vendor.head.vendor).copied();
            let sum: u64 = vendor.leases.iter().map(|lease| lease.bytes).sum();
            node.is_some() && sum > vendor.head.capacity
        });
        if let Some(vendor) = over {
            self.broken(3, format!("mirror {me} keeps an oversubscribed head of {}", vendor.head.vendor.short()));
        }
    }

    /// Invariant 3: the sum of live leases never exceeds the capacity.
    fn capacity_holds(&mut self, me: usize, vendor: &Vendor) {
        let Some(run) = &vendor.running else { return };
        let leased = run.ledger.leased();
        // What was released before a restore and came back with it goes as its orders are read again.
        let over = self.over.get_mut(&me).map_or(0, |over| {
            *over = leased.min(*over);
            *over
        });
        if leased > vendor.capacity.max(over) {
            self.broken(3, format!("vendor {me} leased {leased} bytes and has {}", vendor.capacity));
        }
    }

    /// Invariant 11: before it is known, a peer costs at most 64 KiB; the frame's deadline is a timer of the node.
    fn strangers_cost_little<'a>(&mut self, me: usize, mut frames: impl Iterator<Item = &'a u64>) {
        if let Some(length) = frames.find(|length| **length > FIRST_FRAME_BYTES_MAX as u64) {
            self.broken(11, format!("node {me} lets a stranger send {length} bytes"));
        }
    }

    /// Invariant 4, at a vendor: what it offered is there after a restart.
    fn leases_durable(&mut self, me: usize, vendor: &Vendor, after: After) {
        let Some(run) = &vendor.running else { return };
        let now: BTreeMap<_, _> = run.ledger.leases().map(|lease| (lease.id, lease.revision)).collect();
        let mut lost = Vec::new();
        if after != After::Step {
            for ((node, lease), revision) in &self.said_leases {
                // A restart signs each lease anew, with the next revision.
                if *node == me && now.get(lease).is_some_and(|found| found <= revision) {
                    lost.push(format!(
                        "vendor {me} forgot revision {revision} of lease {} that it signed",
                        lease.short()
                    ));
                }
            }
        }
        let view = self.views.entry(me).or_default();
        if after == After::Restart
            && let Some(lease) = view.leases.iter().find(|lease| !now.contains_key(lease))
        {
            lost.push(format!("vendor {me} forgot lease {} in a crash", lease.short()));
        }
        view.leases = now.keys().copied().collect::<BTreeSet<_>>();
        for what in lost {
            self.broken(4, what);
        }
    }

    /// Invariants 5, 6 and 9: chunks lie within their leases, and none goes without its owner's release or its time.
    fn chunks_kept(&mut self, me: usize, vendor: &Vendor, after: After, at: u64, terms: &Terms) {
        let Some(run) = &vendor.running else { return };
        let entries = run.fat.chunks_after(None, 4_096).unwrap_or_default();
        let mut chunks = BTreeMap::new();
        let mut used: BTreeMap<_, u64> = BTreeMap::new();
        for entry in &entries {
            *used.entry(entry.lease).or_default() += u64::from(entry.length);
            let held = Held { lease: entry.lease, length: entry.length, seq: entry.seq, file: entry.file };
            chunks.insert(entry.key(), held);
        }
        for (lease, bytes) in used {
            match run.ledger.lease(lease) {
                Some(lease) if bytes <= lease.bytes => {}
                Some(lease) => {
                    self.broken(5, format!("vendor {me} holds {bytes} bytes under a lease of {}", lease.bytes));
                }
                None => self.broken(5, format!("vendor {me} holds {bytes} bytes under no lease")),
            }
        }
        if let Some(key) = chunks.keys().find(|key| !vendor.data.contains_key(key) && !self.bare.contains(&(me, **key)))
        {
            self.broken(9, format!("vendor {me} has no bytes of chunk {} that it says it has", key.chunk.short()));
        }
        let view = self.views.entry(me).or_default();
        view.writes = run.writes;
        let before = std::mem::replace(&mut view.chunks, chunks.clone());
        for (key, held) in before {
            if !chunks.contains_key(&key) {
                self.chunk_went(me, vendor.id(), &key, &held, after, at, terms);
            }
        }
    }

    /// A chunk is gone: was it its owner's wish, or its time?
    #[allow(clippy::too_many_arguments)]
    fn chunk_went(&mut self, me: usize, id: NodeId, key: &ChunkKey, held: &Held, after: After, at: u64, terms: &Terms) {
        let stored_at = self.stored_at.remove(&(me, *key)).unwrap_or(0);
        if self.left.contains(&(me, *key)) {
            return;
        }
        let file = (key.owner, held.file);
        let tag = Tag(held.seq);
        let finals = || self.finals.get(&file).into_iter().flatten();
        let released = finals().any(|fat| {
            let fate = fat.lineage().fate(tag);
            fate == Fate::Past || fate == Fate::Live && fat.frees.contains(&id) && !fat.uses.contains(&id)
        });
        if released {
            return;
        }
        let renewed = self.renewed.get(&(me, held.lease)).copied();
        let past = |since: u64, ms: u64| at + SLACK_MS >= since + ms;
        let expired = past(renewed.unwrap_or(0).max(stored_at), terms.commit_ms + terms.grace_ms);
        let acked = self.acked.get(&file).into_iter().flatten();
        // Of several versions one was chosen: the others stay for as long as a put has before it is named.
        let lost = finals().filter(|fat| fat.lineage().fate(tag) == Fate::Lost).map(|fat| fat.at).min();
        let chosen_here = self.lives_at(me, file, tag);
        let let_go = lost.is_some_and(|since| past(since, terms.lock_ms)) && !chosen_here;
        let names = |acked: &Acked| {
            // Where it is by now, and where it was until it was let go there: the copy under that lease, and no other one that came
            // later to a vendor which lost it.
            let was = !self.ever_left.contains(&(me, *key));
            let this = Place { vendor: id, lease: held.lease };
            let here = |place: &Place| *place == this && was || self.place_now(file, key.chunk, *place) == this;
            acked.lineage().fate(tag) == Fate::Live
                && acked.stored.iter().flatten().any(|(chunk, _, at)| *chunk == key.chunk && at.iter().any(here))
        };
        let named = !let_go && acked.clone().any(names);
        // A vendor that only heard of the choice holds it on for as long as what no final FAT names.
        let heard = self.heard.get(&(me, file));
        let heard = |fat: &&Final| heard.is_some_and(|heard| heard.contains(&fat.seq));
        let was_named = finals().filter(heard).any(|fat| fat.lineage().fate(tag) == Fate::Live);
        let held_on = lost.is_some() && !let_go && was_named && self.ever_acked.contains(&(file, tag, id));
        let named = named || held_on;
        let unnamed = !named && past(stored_at, terms.lock_ms);
        // Without a receipt, nothing was promised.
        if expired || unnamed || let_go || !self.receipts.contains(&(me, *key)) {
            return;
        }
        let chunk = key.chunk.short();
        match (after, self.lapsing, named) {
            (After::Step, false, true) => {
                self.broken(9, format!("vendor {me} erased chunk {chunk} which a stored final FAT names"));
            }
            (After::Step, ..) => {
                let age = at - renewed.unwrap_or(0).max(stored_at);
                self.broken(
                    6,
                    format!("vendor {me} reclaimed chunk {chunk} early, {age} ms after it was last promised"),
                );
            }
            _ => {
                self.broken(4, format!("vendor {me} lost chunk {chunk} in a crash, after its receipt"));
            }
        }
    }

    /// Whether one of the final FATs of a file that a vendor heard, and that none of them follows, names a tag.
    fn lives_at(&self, vendor: usize, file: FileKey, tag: Tag) -> bool {
        let Some(heard) = self.heard.get(&(vendor, file)) else { return false };
        let heard = || self.finals.get(&file).into_iter().flatten().filter(|fat| heard.contains(&fat.seq));
        let holds = |fat: &&Final| !heard().any(|other| other.follows.has(fat.seq));
        heard().filter(holds).any(|fat| fat.lineage().fate(tag) == Fate::Live)
    }

    /// Whether a mirror has a version of a file, or one whose author went on from it. Those of one number stand for one content,
    /// handed in twice.
    pub(super) fn stands(&self, mirror: &Mirror, file: FileKey, seq: Tag) -> bool {
        let mut versions = mirror.table.versions(file.0, file.1).map(|version| Tag(version.seq));
        versions.any(|version| version == seq || self.ancestors(file, version).contains(&seq))
    }

    /// A vendor that is asked for a chunk has none.
    pub(in crate::sim) fn had_not(&mut self, call: u64) {
        self.had_not.insert(call);
    }

    /// Invariant 9: who gave a receipt answers for the chunk, as long as the file is stored and not released.
    pub(in crate::sim) fn read(
        &mut self,
        call: u64,
        vendor: usize,
        file: FileKey,
        version: Hash,
        chunk: ChunkId,
        good: bool,
    ) {
        // What was answered before a restore says nothing of what is there now, nor does it of what came since.
        if good || self.had_not.remove(&call) || self.behind.contains(&vendor) {
            return;
        }
        let key = ChunkKey { owner: file.0, chunk };
        let held = self.views.get(&vendor).is_some_and(|view| view.chunks.contains_key(&key));
        let live = self.acked.get(&file).into_iter().flatten().any(|acked| acked.hash == version);
        if live && held {
            self.broken(9, format!("vendor {vendor} does not give chunk {} that it holds", chunk.short()));
        }
    }
}
