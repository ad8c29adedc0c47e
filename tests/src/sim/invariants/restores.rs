//! Vendors whose disk was put back to an earlier state: what they promised since is broken, honestly, and nothing else is.

use fathom_protocol::head::VerifiedVendor;
use fathom_protocol::ids::LeaseId;
use fathom_store::ChunkKey;

use super::{Held, Oracle};
use crate::sim::vendor::Vendor;

impl Oracle {
    /// A vendor's disk was put back. Chunks whose bytes went with it are lost; those whose bytes are there must be taken back as
    /// far as mirrors know their leases.
    pub(in crate::sim) fn restored(&mut self, me: usize, vendor: &Vendor) {
        let Some(run) = &vendor.running else { return };
        let entries = run.fat.chunks_after(None, 4_096).unwrap_or_default();
        let view = self.views.entry(me).or_default();
        view.writes = run.writes;
        view.leases = run.ledger.leases().map(|lease| lease.id).collect();
        let now = entries.iter().map(|entry| {
            let held = Held { lease: entry.lease, length: entry.length, seq: entry.seq, file: entry.file };
            (entry.key(), held)
        });
        let before = std::mem::replace(&mut view.chunks, now.collect());
        self.behind.insert(me);
        self.was_behind.insert(me);
        let bytes = &vendor.data;
        let went = self.unadopted.iter().filter(|((node, key), _)| *node == me && !bytes.contains_key(key));
        for (key, lease) in went.map(|((_, key), held)| (*key, held.lease)).collect::<Vec<_>>() {
            self.unadopted.remove(&(me, key));
            self.forgive(me, key, lease);
        }
        // An entry that an earlier restore lost came back with this one.
        let back = &self.views[&me].chunks;
        self.unadopted.retain(|(node, key), _| *node != me || !back.contains_key(key));
        self.said_leases.retain(|(node, _), _| *node != me);
        for (key, held) in &before {
            // An entry that the backup has under another lease is not the one that was lost.
            if self.views[&me].chunks.get(key).is_some_and(|back| back.lease == held.lease) {
                continue;
            }
            // What was left over of an earlier put lies under another lease.
            match vendor.data.get(key).is_some_and(|part| part.tag.lease == held.lease) {
                true => drop(self.unadopted.insert((me, *key), held.clone())),
                false => self.forgive(me, *key, held.lease),
            }
        }
        // What was released since is nobody's any more.
        for key in self.views[&me].chunks.keys().filter(|key| !before.contains_key(key)) {
            self.receipts.remove(&(me, *key));
            self.stored_at.remove(&(me, *key));
            if !vendor.data.contains_key(key) {
                self.bare.insert((me, *key));
            }
        }
    }

    /// The vendor took back what a mirror knew of its leases.
    pub(in crate::sim) fn taken_back(&mut self, me: usize, vendor: &Vendor, record: &VerifiedVendor) {
        let Some(run) = &vendor.running else { return };
        self.bare.retain(|(node, _)| *node != me);
        self.behind.remove(&me);
        let waiting =
            self.unadopted.iter().filter(|((node, _), held)| *node == me && record.lease(held.lease).is_some());
        let left =
            waiting.map(|((_, key), _)| key).find(|key| run.fat.chunk(key.owner, key.chunk).ok().flatten().is_none());
        if let Some(key) = left {
            let chunk = key.chunk.short();
            self.broken(4, format!("vendor {me} has the bytes of chunk {chunk} and its lease, and takes it not back"));
        }
    }

    /// The vendor takes its disk for the newest that it ever had; so many mirrors said what they know.
    pub(in crate::sim) fn in_step(&mut self, me: usize, heard: usize) {
        if self.behind.contains(&me) && heard > 1 {
            self.broken(
                10,
                format!("vendor {me} was put back, {heard} mirrors answered, and it goes on with an old number"),
            );
        }
    }

    /// The vendor goes on, with what it took back or, if no mirror gave it anything, with what it has.
    pub(in crate::sim) fn settled(&mut self, me: usize, vendor: &Vendor) {
        let Some(run) = &vendor.running else { return };
        self.over.insert(me, run.ledger.leased());
        if self.behind.remove(&me) {
            self.alone.insert(me);
            self.liars.insert(vendor.id());
        }
        let lost =
            self.unadopted.iter().filter(|((node, _), _)| *node == me).map(|((_, key), held)| (*key, held.lease));
        let lost = lost.collect::<Vec<_>>();
        self.unadopted.retain(|(node, _), _| *node != me);
        for (key, lease) in lost {
            if run.fat.chunk(key.owner, key.chunk).ok().flatten().is_none() {
                self.forgive(me, key, lease);
            }
        }
    }

    /// A chunk went with the disk: its vendor's promise is broken, and nobody else's.
    fn forgive(&mut self, me: usize, key: ChunkKey, lease: LeaseId) {
        self.receipts.remove(&(me, key));
        self.stored_at.remove(&(me, key));
        self.forgiven.insert((me, key, lease));
    }
}
