//! What a mirror sees of vendors: the changes that they tell.

use fathom_protocol::delta::{DeltaError, VendorDelta};
use fathom_protocol::sign::RecordError;
use fathom_protocol::sync::{Event, Told};
use fathom_protocol::table::Verified;
use fathom_protocol::wire::{Refusal, RefusalKind, Response};

use super::sync::is_bad;
use super::{Mirror, refused};
use crate::sim::node::Cx;

impl Mirror {
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
