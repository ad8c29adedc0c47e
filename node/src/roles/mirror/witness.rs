//! What a mirror sees of vendors that break their word: it makes the proof, keeps it and passes it on. It judges nothing:
//! each proof verifies by itself at whoever gets it ([`fathom_protocol::fork`]).

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::delta::{DeltaError, VendorDelta};
use fathom_protocol::ids::NodeId;
use fathom_protocol::sign::RecordError;
use fathom_protocol::table::{Key, Verified};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Refusal, RefusalKind, Response, SyncRecord};

use super::{Mirror, Origin};

/// How often leases that vanished are looked at.
const LOOK: Duration = Duration::from_secs(15);

impl Mirror {
    /// Makes proofs of dropped leases for ever.
    pub(super) async fn watch_leases(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.accuse(self.writer.shared().steady()).await;
        }
    }

    /// Makes the proofs that are due at `now`: leases that vanished some minutes ago, and were not released since.
    pub(super) async fn accuse(&self, now: UnixMs) {
        let due = {
            let mut state = self.writer.shared().state();
            let state = &mut *state;
            if state.suspicions.first_due().is_none_or(|first| first > now) {
                return;
            }
            state.suspicions.due(&state.table, now)
        };
        let mut proofs = Vec::new();
        for suspicion in due {
            let shared = Arc::clone(self.writer.shared());
            let (vendor, lease) = (suspicion.vendor, suspicion.lease);
            let proof = self.off_reactor(move || {
                let keys: Vec<Key> = shared.state().table.version_keys(suspicion.owner, suspicion.file).collect();
                let (records, _) = shared.store.records(&keys).ok()?;
                records.into_iter().find_map(|record| match record {
                    SyncRecord::Fat(fat) => suspicion.prove(fat),
                    _ => None,
                })
            });
            let Ok(Some(proof)) = proof.await else { continue };
            tracing::warn!(vendor = %vendor.short(), lease = %lease, "a vendor dropped a lease that is in use: it is quarantined");
            proofs.push(Verified::Proof(Box::new(proof)));
        }
        // In one write: a mirror that ends in between looks at them again.
        match self.writer.keep_proofs(proofs, now).await {
            Ok(outcomes) => self.spread(&outcomes, Origin::Author),
            Err(refusal) => tracing::warn!(%refusal, "what became of leases that vanished was not kept"),
        }
    }

    /// Takes a vendor's head and what changed since one that is known here.
    ///
    /// # Errors
    /// `NotFound` if that one is not the newest known here: the vendor then sends all its leases.
    pub(super) async fn report_delta(&self, from: NodeId, delta: VendorDelta) -> Result<Response, Refusal> {
        let mut admission = self.admit(from)?;
        let applied = self.apply_delta(delta.clone()).await?;
        admission.note([&applied]);
        let record = applied?;
        let outcomes = self.writer.keep(vec![record], None).await?;
        self.spread_delta(&outcomes, delta);
        outcomes.into_iter().next().map_or(Ok(()), |outcome| outcome.kept.map(drop)).map(|()| Response::Done)
    }

    /// The whole record that a delta makes of what is known here, or why it does not verify.
    ///
    /// # Errors
    /// `NotFound` if its base is not here.
    pub(super) async fn apply_delta(&self, delta: VendorDelta) -> Result<Result<Verified, RecordError>, Refusal> {
        // The signature first: all leases are copied and hashed only for what the vendor itself signed.
        let head = delta.head.clone();
        let head = match self.off_reactor(move || head.verify()).await? {
            Ok(head) => head,
            Err(error) => return Ok(Err(error)),
        };
        let known = self.writer.shared().state().table.vendor(head.vendor).cloned();
        let unknown = || Refusal::new(RefusalKind::NotFound, DeltaError::Base.to_string());
        let known = known.ok_or_else(unknown)?;
        match self.off_reactor(move || delta.apply(&known)).await? {
            Ok(vendor) => Ok(Ok(Verified::Vendor(vendor))),
            Err(DeltaError::Base) => Err(unknown()),
            Err(DeltaError::Record(error)) => Ok(Err(error)),
        }
    }
}
