//! A vendor that was restored from a backup: it takes its leases back from mirrors, and what its devices still hold of them.
//!
//! Its local FAT is older than its devices. Leases that mirrors know and it does not are put back; chunks that the devices hold
//! under them are entered anew; entries whose parts are gone are forgotten. A lease that is left without data is
//! dropped, openly: the head of a new epoch says what is there. Final FATs since the backup are read from the mirrors
//! like any that were missed ([`super::polling`]), and commit or release what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fathom_protocol::codec;
use fathom_protocol::delta::HeadId;
use fathom_protocol::head::VerifiedVendor;
use fathom_protocol::ids::{DeviceId, Hash, LeaseId, NodeId};
use fathom_protocol::ledger::Ledger;
use fathom_protocol::limits::EXTENT_BYTES_MAX;
use fathom_protocol::reporter::Event;
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response, SyncRecord};
use fathom_store::{ChunkKey, FatError, StoredPart};

use super::accounts::Persisted;
use super::polling::ORDERS_PREFIX;
use super::report::MIRROR_WAIT;
use super::{UNADOPTED_KEY, Vendor, capacity, fat_refusal, lock, read_leases};
use crate::clock;

/// How long who asks for room waits for a vendor that was just started; less than mirrors wait for an offer.
const STEP_WAIT: Duration = Duration::from_millis(700);
/// Entries forgotten in one transaction.
const FORGET_BATCH: usize = 1_024;

impl Vendor {
    /// Takes back what `mirror` knows of this vendor's leases. What fails is said in the log.
    pub(super) async fn take_back_leases(self: &Arc<Self>, mirror: NodeId) -> Event {
        self.out_of_step.send_replace(true);
        tracing::warn!(mirror = %mirror.short(), "mirrors know a newer head than this vendor: it takes its leases back and begins a new epoch");
        let record = match self.own_record(mirror).await {
            Ok(record) => record,
            Err(refusal) => {
                tracing::error!(%refusal, "this vendor's leases were not read from the mirror; others are asked, and if none gives them it goes on with those it knows");
                return Event::Unread(mirror);
            }
        };
        let done = self.blocking(move |vendor| vendor.readopt(&record)).await;
        if let Err(refusal) = done {
            tracing::error!(%refusal, "not all leases were taken back");
        }
        Event::TakenBack
    }

    async fn own_record(&self, mirror: NodeId) -> Result<VerifiedVendor, Refusal> {
        let Response::Page(page) = self.net.call(mirror, &Request::VendorOf(self.me), MIRROR_WAIT).await? else {
            return Err(Refusal::new(RefusalKind::BadRequest, "the mirror did not answer with a record"));
        };
        for record in page.records {
            if let SyncRecord::Vendor(record) = record {
                let record = record.verify()?;
                let own = *lock(&self.head);
                // A mirror that shows an older one than this vendor has would have it forget leases.
                let newer = own.seq == 0 || HeadId::of(&record.head).height() >= own.height();
                if record.head.vendor == self.me && newer {
                    return Ok(record);
                }
            }
        }
        Err(Refusal::new(RefusalKind::NotFound, "the mirror does not have this vendor's record"))
    }

    /// Brings local FAT, devices and ledger to what `record` and the devices say together. Blocks.
    pub(super) fn readopt(&self, record: &VerifiedVendor) -> Result<(), Refusal> {
        let _nothing_is_stored = self.storing.write().unwrap_or_else(PoisonError::into_inner);
        // Nor is the ledger written meanwhile.
        let mut persisted = lock(&self.persisted);
        let failed = |error: FatError| fat_refusal(&error);
        // First what is gone, so that it takes no room in a lease from what came since.
        let gone = self.without_parts().map_err(failed)?;
        for batch in gone.chunks(FORGET_BATCH) {
            self.fat.erase_chunks(batch).map_err(failed)?;
        }
        self.fat.finish_erases(&self.devices).map_err(failed)?;
        // Final FATs that were read before the leases were here were nobody's: they are read again.
        let read = self.fat.kv_with_prefix(ORDERS_PREFIX).map_err(failed)?;
        self.fat
            .write(|tx| {
                for (cursor, _) in &read {
                    tx.remove_kv(cursor)?;
                }
                for lease in &record.leases {
                    // What was stored after that head has its place, too; the next head says how much it was.
                    let room = lease.bytes.max(EXTENT_BYTES_MAX);
                    tx.put_lease(lease.id, &codec::encode(lease.carried()), room)?;
                }
                Ok::<_, FatError>(())
            })
            .map_err(failed)?;
        self.fat.rely_on_sent().map_err(failed)?;
        let found = self.fat.rebuild(&self.devices, clock::now()).map_err(failed)?;
        let empty = self.fat.leases().map_err(failed)?.into_iter().filter(|(_, lease)| lease.used == 0);
        let empty: Vec<LeaseId> = empty.map(|(id, _)| id).collect();
        self.fat
            .write(|tx| {
                for id in &empty {
                    tx.remove_lease(*id)?;
                }
                tx.remove_kv(UNADOPTED_KEY)?;
                Ok::<_, FatError>(())
            })
            .map_err(failed)?;
        let mut leases =
            read_leases(&self.fat).map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))?;
        // What the notes are about may be gone, and the lease with the rest that is under it: that would look like a lie. Final FATs
        // that commit something here are noted as they are read again.
        leases.iter_mut().for_each(|lease| lease.named = None);
        tracing::warn!(
            leases = leases.len(),
            chunks = found.chunks,
            forgotten = gone.len(),
            dropped = empty.len(),
            "leases taken back"
        );
        let capacity = capacity(&self.devices.report());
        let mut ledger = lock(&self.ledger);
        *ledger = Ledger::open(self.net.key().clone(), self.settings.terms, capacity, leases)?;
        // Renewals since what was read here are forgotten.
        ledger.doubt_all();
        *persisted = Persisted::of(&self.fat).map_err(failed)?;
        // Moves of copies that are here no more are forgotten.
        self.moves_open.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Chunks of which a device that answers does not have a part.
    fn without_parts(&self) -> Result<Vec<ChunkKey>, FatError> {
        let mut there: BTreeMap<DeviceId, BTreeSet<Hash>> = BTreeMap::new();
        for device in self.devices.report() {
            match self.devices.list_parts(device.id) {
                Ok(parts) => drop(there.insert(device.id, parts.iter().map(|entry| entry.part).collect())),
                Err(error) => tracing::warn!(device = %device.id, %error, "device not listed"),
            }
        }
        let mut gone = Vec::new();
        self.fat.for_each_chunk(|entry| {
            let lost = |part: &StoredPart| there.get(&part.device).is_some_and(|parts| !parts.contains(&part.part));
            if entry.parts.iter().any(lost) {
                gone.push(entry.key());
            }
        })?;
        Ok(gone)
    }

    /// The disk is the newest this vendor ever had: parts that no entry names were left by a crash.
    pub(super) async fn clear_leftovers(self: &Arc<Self>) {
        let done = self.blocking(|vendor| {
            let _nothing_is_stored = vendor.storing.write().unwrap_or_else(PoisonError::into_inner);
            super::tidy(&vendor.fat, &vendor.devices)
                .map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))
        });
        if let Err(refusal) = done.await {
            tracing::warn!(%refusal, "what a crash left on the devices was not cleared");
        }
    }

    /// Another node signs with this vendor's key: nothing is offered or signed any more.
    pub(super) fn stop_signing(&self) {
        tracing::error!("{ELSEWHERE}");
        self.elsewhere.store(true, Ordering::SeqCst);
        self.in_step();
    }

    /// Whether mirrors may know more of this vendor than its disk does: it is not known yet which leases and final FATs there
    /// are. Until then nothing is offered, no chunk is taken or receipted, no order is taken for read, and nothing is reclaimed.
    pub(super) fn is_out_of_step(&self) -> bool {
        *self.out_of_step.borrow()
    }

    /// It is known now, as far as it ever will be.
    pub(super) fn in_step(&self) {
        self.out_of_step.send_replace(false);
    }

    /// Waits for that, for a moment: one that was just started knows it as soon as a mirror answers.
    pub(super) async fn wait_for_step(&self) {
        let mut step = self.out_of_step.subscribe();
        let _ = tokio::time::timeout(STEP_WAIT, step.wait_for(|out| !out)).await;
    }

    /// What its operator must know and do, if anything.
    pub(super) fn warning(&self) -> Option<String> {
        let proven = *lock(&self.proven);
        let elsewhere = self.elsewhere.load(Ordering::SeqCst).then(|| ELSEWHERE.to_owned());
        proven.map(|offence| offence.explain()).or(elsewhere)
    }

    /// Whether room can be offered now.
    ///
    /// # Errors
    /// A [`Refusal`] that says why not.
    pub(super) fn may_offer(&self) -> Result<(), Refusal> {
        if self.elsewhere.load(Ordering::SeqCst) {
            return Err(Refusal::new(RefusalKind::Busy, "this vendor's key is in use at another node"));
        }
        self.in_step_or_busy()
    }

    /// Whether anything can be promised now.
    ///
    /// # Errors
    /// `Busy`.
    pub(super) fn in_step_or_busy(&self) -> Result<(), Refusal> {
        let reason = "this vendor asks mirrors whether its records are the newest; ask again";
        if self.is_out_of_step() { Err(Refusal::new(RefusalKind::Busy, reason)) } else { Ok(()) }
    }
}

/// What a vendor tells whose key signs at another node.
const ELSEWHERE: &str = "another node runs with this vendor's key. This one has stopped offering storage, so that the two do not contradict \
each other; it goes on serving what it stores. Run only one node with a key: stop the other one and start this one again, or, if both \
are to run, give one of them a key of its own with `fathom init` in a new directory";
