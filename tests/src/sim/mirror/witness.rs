//! What a mirror sees of vendors: the changes that they tell, and those that break their word.

use fathom_protocol::delta::{DeltaError, VendorDelta};
use fathom_protocol::sign::RecordError;
use fathom_protocol::sync::{Event, Told};
use fathom_protocol::table::Verified;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Refusal, RefusalKind, Response, SyncRecord};

use super::store::Change;
use super::sync::is_bad;
use super::{Mirror, refused};
use crate::sim::mutation::Mutation;
use crate::sim::node::Cx;

impl Mirror {
    /// Leases that a vendor's record that is about to be merged leaves out; they may yet turn out to have been released.
    pub(super) fn suspect(&mut self, cx: &mut Cx<'_>, record: &Verified) -> Vec<Change> {
        let Verified::Vendor(vendor) = record else { return Vec::new() };
        if !cx.known.byzantine[cx.me] {
            cx.oracle.mirror_replaces(&self.table, vendor);
        }
        if cx.known.broken(Mutation::DropsOverlooked) {
            return Vec::new();
        }
        let found = self.suspicions.notice(&self.table, vendor, self.steady(cx));
        found.into_iter().map(|suspicion| Change::Suspect(Box::new(suspicion))).collect()
    }

    /// The time by a clock that nobody sets while this mirror runs.
    fn steady(&self, cx: &Cx<'_>) -> UnixMs {
        let (wall, since) = self.started;
        wall.plus_ms(cx.at - since)
    }

    /// Makes the proofs that are due: of leases that vanished some minutes ago, and were not released since.
    pub(super) fn accuse(&mut self, cx: &mut Cx<'_>) {
        let now = self.steady(cx);
        if self.suspicions.first_due().is_none_or(|first| first > now) {
            return;
        }
        let mut proofs = Vec::new();
        for suspicion in self.suspicions.due(&self.table, now) {
            let keys = self.table.version_keys(suspicion.owner, suspicion.file);
            let mut records = keys.filter_map(|key| self.store.records.get(&key).cloned());
            let proof = records.find_map(|record| match record {
                SyncRecord::Fat(fat) => suspicion.prove(fat),
                _ => None,
            });
            proofs.extend(proof.map(|proof| Verified::Proof(Box::new(proof))));
        }
        cx.injected.drops_proven += proofs.len() as u64;
        self.keep(cx, proofs, None);
        self.store.apply(vec![Change::LookedAt(now)]);
    }

    /// Takes a vendor's head and what changed since one that is known here.
    pub(super) fn report_delta(&mut self, cx: &mut Cx<'_>, from: usize, delta: VendorDelta) -> Response {
        let peer = cx.id(from);
        if !self.sync.as_mut().is_some_and(|sync| sync.admits(peer, cx.at)) {
            return refused(RefusalKind::NotAuthorised, "come back later");
        }
        let applied = self.apply_delta(delta.clone());
        let bad = applied.as_ref().is_ok_and(is_bad);
        self.decide(cx, Event::Checked { from: peer, bad: usize::from(bad) });
        let record = match applied {
            Ok(Ok(record)) => record,
            Ok(Err(error)) => return Response::Refused(error.into()),
            Err(refusal) => return Response::Refused(refusal),
        };
        match self.keep_delta(cx, record, delta) {
            Ok(_) => Response::Done,
            Err(refusal) => Response::Refused(refusal),
        }
    }

    /// A delta whose base is not here is no fault of its sender: the record is read from a log.
    pub(super) fn hear_delta(&mut self, cx: &mut Cx<'_>, delta: VendorDelta) -> Told {
        match self.apply_delta(delta.clone()) {
            Ok(Ok(record)) => match self.keep_delta(cx, record, delta) {
                Ok(true) => Told::New,
                _ => Told::Known,
            },
            Ok(result) if is_bad(&result) => Told::Bad,
            Ok(Err(_)) | Err(_) => Told::Unclear,
        }
    }

    /// The whole record that a delta makes of what is known here, or why it does not verify.
    ///
    /// # Errors
    /// `NotFound` if its base is not here.
    fn apply_delta(&self, delta: VendorDelta) -> Result<Result<Verified, RecordError>, Refusal> {
        let head = match delta.head.clone().verify() {
            Ok(head) => head,
            Err(error) => return Ok(Err(error)),
        };
        let unknown = || Refusal::new(RefusalKind::NotFound, DeltaError::Base.to_string());
        match delta.apply(self.table.vendor(head.vendor).ok_or_else(unknown)?) {
            Ok(vendor) => Ok(Ok(Verified::Vendor(vendor))),
            Err(DeltaError::Base) => Err(unknown()),
            Err(DeltaError::Record(error)) => Ok(Err(error)),
        }
    }
}
