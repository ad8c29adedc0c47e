//! The end of a history: faults stop, and within bounded time everything is quiet and every promise kept.

use std::collections::VecDeque;

use fathom_protocol::ids::Hash;
use fathom_protocol::table::DROPPED_GRACE_MS;

use super::super::invariants::{Oracle, Quiet};
use super::{Actor, Doom, Event, World};

/// Virtual milliseconds within which everything must be quiet once faults have stopped.
const LIVE_MS: u64 = 240_000;
/// How often the quiet is looked for.
const LOOK_MS: u64 = 1_000;

impl World {
    /// All faults end: links heal, clocks are set right, those that do not follow the protocol go away.
    pub(in crate::sim) fn calm(&mut self) {
        self.links.heal();
        self.queue.retain(|_, event| !matches!(event, Event::Fault(_)));
        for node in &mut self.nodes {
            node.doom = Doom::None;
            node.skew = node.skew.clamp(-1_000, 1_000);
            node.twister = None;
            if let Actor::User(user) = &mut node.actor {
                user.draining = true;
                user.disk.no_fault();
            }
            if let Actor::Vendor(vendor) = &node.actor
                && node.up
            {
                vendor.disk.no_fault();
            }
        }
        self.trace.note(self.now, "faults stop".to_owned());
    }

    /// The liveness phase: within bounded time everything is quiet and every promise kept.
    pub(in crate::sim) fn settle(&mut self) {
        let start = self.now;
        let mut last = "nothing was looked at".to_owned();
        let mut recent: VecDeque<bool> = VecDeque::new();
        // What vanished is waited for before it is held against anybody.
        let within = |oracle: &Oracle| LIVE_MS + if oracle.accusable.is_empty() { 0 } else { DROPPED_GRACE_MS };
        while self.now < start + within(&self.oracle) {
            if !self.run_until(self.now + LOOK_MS) {
                return;
            }
            let missing = self.quiet().missing(&self.oracle).or_else(|| self.busy());
            recent.push_back(missing.is_none());
            match missing {
                None => {
                    self.converged_after = self.now - start;
                    let mut oracle = std::mem::take(&mut self.oracle);
                    oracle.check_quiet(&self.quiet());
                    self.oracle = oracle;
                    self.broken_at = self.now;
                    return;
                }
                Some(what) => last = what,
            }
        }
        self.broken_at = self.now;
        let unproven = self.quiet().unproven(&self.oracle).is_some();
        let invariant = if unproven || self.twins_differ() { 10 } else { 0 };
        self.oracle.broken(invariant, format!("not quiet {} ms after the last fault: {last}", self.now - start));
    }

    /// Whether honest mirrors keep different ones of two heads with one number.
    fn twins_differ(&self) -> bool {
        let quiet = self.quiet();
        self.oracle.twins.iter().any(|(vendor, _, _)| {
            let heads: Vec<Option<Hash>> = quiet
                .mirrors
                .iter()
                .map(|(_, mirror)| mirror.table.vendor(*vendor).map(|known| known.head.hash()))
                .collect();
            heads.windows(2).any(|pair| pair[0] != pair[1])
        })
    }

    fn busy(&self) -> Option<String> {
        let busy = self.nodes.iter().position(|node| matches!(&node.actor, Actor::User(user) if !user.idle()));
        busy.map(|node| format!("user {node} has an operation that neither ended nor was refused"))
    }

    pub(in crate::sim) fn quiet(&self) -> Quiet<'_> {
        let (mut mirrors, mut vendors) = (Vec::new(), Vec::new());
        for (at, node) in self.nodes.iter().enumerate() {
            match &node.actor {
                Actor::Mirror(mirror) if !self.known.byzantine[at] => mirrors.push((at, mirror)),
                Actor::Vendor(vendor) if !self.known.byzantine[at] && !self.oracle.alone.contains(&at) => {
                    vendors.push((at, vendor))
                }
                _ => {}
            }
        }
        Quiet { mirrors, vendors, known: &self.known, at: self.now }
    }
}
