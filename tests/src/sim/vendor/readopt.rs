//! A vendor whose disk is older than what it signed: put back from a backup, and how it takes its leases back, as the vendor's
//! role does.

use std::collections::BTreeSet;

use fathom_protocol::codec;
use fathom_protocol::delta::HeadId;
use fathom_protocol::head::VerifiedVendor;
use fathom_protocol::ids::{LeaseId, NodeId};
use fathom_protocol::lease::{Lease, LeaseState};
use fathom_protocol::ledger::Ledger;
use fathom_protocol::limits::EXTENT_BYTES_MAX;
use fathom_protocol::reporter::Event;
use fathom_protocol::sign::{Carried, Record};
use fathom_protocol::wire::{Refusal, Response, SyncRecord};
use fathom_store::{ChunkEntry, ChunkKey, FatError, LocalFat};

use super::polling::ORDERS_PREFIX;
use super::{Data, Vendor, internal};
use crate::sim::disk::Disk;
use crate::sim::node::Cx;

/// A copy of what a vendor has, as a snapshot of its directories makes it.
#[derive(Debug)]
pub(in crate::sim) struct Backup {
    disk: Vec<u8>,
    data: Data,
    pub(in crate::sim) head: HeadId,
}

/// What is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Restore {
    /// The local FAT and the devices.
    All,
    /// The local FAT alone: the devices hold what came since.
    FatOnly,
    /// Nothing: the local FAT is lost, and the devices are as they were.
    Nothing,
}

/// The leases as the local FAT has them, with `used` as its chunks say.
pub(super) fn read_leases(fat: &LocalFat) -> Result<Vec<Lease>, FatError> {
    let mut leases = Vec::new();
    for (_, entry) in fat.leases()? {
        let carried: Carried<Lease> =
            codec::decode(&entry.signed, 2 * Lease::BYTES_MAX).expect("a lease on disk decodes");
        let mut lease = carried.peek().expect("a lease on disk is one");
        lease.used = entry.used;
        lease.bytes = lease.bytes.max(entry.used);
        if matches!(lease.state, LeaseState::Committed | LeaseState::Grace) {
            lease.bytes = entry.used;
        }
        lease.revision += 1;
        leases.push(lease);
    }
    leases.retain(|lease| lease.bytes > 0);
    Ok(leases)
}

impl Vendor {
    pub(in crate::sim) fn back_up(&mut self) {
        if let Some(run) = &self.running {
            self.backup = Some(Backup { disk: self.disk.backup(), data: self.data.clone(), head: run.life.head() });
        }
    }

    /// Puts back what there is a backup of. The vendor is down and is opened afterwards.
    pub(in crate::sim) fn put_back(&mut self, what: Restore) {
        match (what, &self.backup) {
            (Restore::Nothing, _) => self.disk = Disk::new(),
            (_, None) => {}
            (_, Some(backup)) => {
                self.disk = Disk::of(backup.disk.clone());
                if what == Restore::All {
                    self.data = backup.data.clone();
                }
            }
        }
    }

    /// The disk is the newest this vendor ever had: parts that no entry names were left by a crash. Those of leases that are
    /// not known are not touched.
    pub(super) fn clear_leftovers(&mut self) {
        let Some(run) = &self.running else { return };
        let entries = run.fat.chunks_after(None, 4_096).unwrap_or_default();
        let named: BTreeSet<ChunkKey> = entries.iter().map(ChunkEntry::key).collect();
        let leases: BTreeSet<LeaseId> =
            run.fat.leases().unwrap_or_default().into_iter().map(|(lease, _)| lease).collect();
        self.data.retain(|key, part| named.contains(key) || !leases.contains(&part.tag.lease));
    }

    /// Breaks its word: a lease that is in use goes with all that is under it, and the next head says so as if that were nothing.
    pub(in crate::sim) fn drop_a_lease(&mut self, cx: &mut Cx<'_>) -> Result<(), FatError> {
        let Some(run) = &mut self.running else { return Ok(()) };
        let used = run.ledger.leases().filter(|lease| lease.named.is_some() && lease.used > 0);
        let used: Vec<LeaseId> = used.map(|lease| lease.id).collect();
        if used.is_empty() {
            return Ok(());
        }
        let victim = used[cx.random.index(used.len())];
        let keys: Vec<ChunkKey> = run.fat.chunks_of_lease(victim)?.iter().map(ChunkEntry::key).collect();
        run.writes += 1;
        run.fat.write(|tx| {
            for key in &keys {
                tx.erase_chunk(key)?;
            }
            tx.remove_lease(victim)
        })?;
        self.data.retain(|key, _| !keys.contains(key));
        run.persisted.remove(&victim);
        let leases = run.ledger.leases().filter(|lease| lease.id != victim).map(|lease| (**lease).clone()).collect();
        let doubts = run.ledger.doubts();
        run.ledger =
            Ledger::open(self.key.clone(), cx.known.terms, self.capacity, leases).expect("its own leases sign");
        if doubts {
            run.ledger.doubt_all();
        }
        cx.injected.leases_dropped += 1;
        cx.oracle.dropped(self.id(), victim);
        self.touch(cx);
        Ok(())
    }

    /// A mirror's answer to the question for this vendor's own record.
    pub(super) fn take_back(&mut self, cx: &mut Cx<'_>, mirror: NodeId, response: Option<Response>) -> Event {
        let (me, head) = (self.id(), self.running.as_ref().map(|run| run.life.head()));
        let newer = |record: &VerifiedVendor| {
            head.is_some_and(|head| head.seq == 0 || HeadId::of(&record.head).height() >= head.height())
        };
        let own = |record| match record {
            SyncRecord::Vendor(record) => {
                record.verify().ok().filter(|record| record.head.vendor == me && newer(record))
            }
            _ => None,
        };
        let record = match response {
            Some(Response::Page(page)) => page.records.into_iter().find_map(own),
            _ => None,
        };
        let Some(record) = record else {
            cx.injected.unread += 1;
            return Event::Unread(mirror);
        };
        if self.readopt(cx, &record).is_ok() {
            cx.injected.taken_back += 1;
            cx.oracle.vendor_forgot(cx.me);
            if !cx.known.byzantine[cx.me] {
                cx.oracle.taken_back(cx.me, self, &record);
            }
        }
        Event::TakenBack
    }

    /// Brings local FAT, devices and ledger to what `record` and the devices say together.
    fn readopt(&mut self, cx: &mut Cx<'_>, record: &VerifiedVendor) -> Result<(), Refusal> {
        let Some(run) = &mut self.running else { return Ok(()) };
        run.writes += 1;
        let fat = &run.fat;
        let failed = |error: FatError| internal(&error);
        let entries = fat.chunks_after(None, 4_096).map_err(failed)?;
        // Each write of a part has a name of its own: bytes that came again, under another lease, are not those of an older entry.
        let whole = |entry: &ChunkEntry| self.data.get(&entry.key()).is_some_and(|part| part.tag.lease == entry.lease);
        let gone = entries.iter().filter(|entry| !whole(entry)).map(ChunkEntry::key);
        fat.erase_chunks(&gone.collect::<Vec<ChunkKey>>()).map_err(failed)?;
        let read = fat.kv_with_prefix(ORDERS_PREFIX).map_err(failed)?;
        fat.write(|tx| {
            for (cursor, _) in &read {
                tx.remove_kv(cursor)?;
            }
            for lease in &record.leases {
                // What was stored after that head has its place, too; the next head says how much it was.
                tx.put_lease(lease.id, &codec::encode(lease.carried()), lease.bytes.max(EXTENT_BYTES_MAX))?;
            }
            Ok::<_, FatError>(())
        })
        .map_err(failed)?;
        fat.rely_on_sent().map_err(failed)?;
        let data = &self.data;
        fat.write(|tx| {
            for part in data.values() {
                let length = part.bytes.len() as u32;
                match tx.insert_chunk(&ChunkEntry::stored(&part.tag, length, Vec::new(), Vec::new(), cx.now)) {
                    Ok(_) | Err(FatError::NoLease { .. } | FatError::OverLease { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
        .map_err(failed)?;
        let empty = fat.leases().map_err(failed)?.into_iter().filter(|(_, lease)| lease.used == 0);
        let empty: Vec<LeaseId> = empty.map(|(id, _)| id).collect();
        fat.write(|tx| empty.iter().try_for_each(|id| tx.remove_lease(*id).map(drop))).map_err(failed)?;
        let mut leases = read_leases(fat).map_err(failed)?;
        leases.iter_mut().for_each(|lease| lease.named = None);
        run.persisted = fat.leases().map_err(failed)?.into_iter().map(|(id, _)| (id, None)).collect();
        run.ledger = Ledger::open(self.key.clone(), cx.known.terms, self.capacity, leases)?;
        // Renewals since what was read here are forgotten.
        run.ledger.doubt_all();
        run.moving.open = true;
        Ok(())
    }
}
