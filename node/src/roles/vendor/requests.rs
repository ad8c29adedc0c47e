//! What others ask of a vendor by rpc.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use fathom_protocol::codec;
use fathom_protocol::ids::{LeaseId, NodeId};
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::rehome::may_cosign;
use fathom_protocol::sign::Carried;
use fathom_protocol::wire::{
    AllocateRequest, Cancel, Refusal, RefusalKind, Renew, Request, Response, Unused, Validation,
};
use fathom_store::ChunkKey;

use super::accounts::in_transaction;
use super::migrate::{custody, held};
use super::{Vendor, fat_refusal, lock};

fn refused(kind: RefusalKind, reason: &str) -> Refusal {
    Refusal::new(kind, reason)
}

fn answered(from: NodeId, answer: Result<Response, Refusal>) -> Response {
    answer.unwrap_or_else(|refusal| {
        tracing::debug!(from = %from.short(), %refusal, "request refused");
        Response::Refused(refusal)
    })
}

impl Vendor {
    /// Answers one request of the authenticated peer `from`.
    pub async fn handle(self: &Arc<Self>, from: NodeId, request: Request) -> Response {
        let request = match request {
            Request::Rebuild(order) => return answered(from, self.rebuild_shard(from, *order).await),
            request => request,
        };
        if matches!(request, Request::Offer { .. }) {
            self.wait_for_step().await;
        }
        let answer = self
            .blocking(move |vendor| match request {
                Request::Offer { request, bytes } => vendor.offer(request, bytes),
                Request::Order(fats) => {
                    vendor.order(fats.into_vec()).into_iter().collect::<Result<(), _>>().map(|()| Response::Done)
                }
                Request::Cosign(moved) => vendor.cosign(moved),
                Request::Validate(words) => vendor.validate(words.into_vec()),
                Request::Unused(unused) => vendor.unused(unused),
                Request::Cancel(cancel) => vendor.cancel(cancel),
                Request::Renew(renew) => vendor.renew(renew),
                _ => Err(refused(RefusalKind::WrongRole, "a vendor does not answer this")),
            })
            .await;
        answered(from, answer)
    }

    /// Countersigns room (figure 6).
    fn offer(&self, request: Carried<AllocateRequest>, bytes: u64) -> Result<Response, Refusal> {
        self.may_offer()?;
        let request = request.verify()?;
        let mut fresh = [0; LeaseId::LEN];
        getrandom::fill(&mut fresh)
            .map_err(|error| refused(RefusalKind::Internal, &format!("no randomness for a lease: {error}")))?;
        let (lease, granted) =
            self.account(|ledger| ledger.offer(self.dating_clock(), &request, bytes, LeaseId(fresh)))?;
        Ok(Response::Offered { lease: lease.into_carried(), granted })
    }

    /// Signs that a moved chunk is here (figure 15d). It stays as it is until a mirror has the move: see `Vendor::confirm`.
    fn cosign(&self, moved: CarriedMove) -> Result<Response, Refusal> {
        let body = moved.proposal()?;
        // A local FAT from a backup may name chunks that are not here.
        self.in_step_or_busy()?;
        self.holds(&body)?;
        let dated = self.dating_clock();
        let cosigned = moved.cosign(self.net.key());
        let key = ChunkKey { owner: body.owner, chunk: body.chunk };
        self.durable(|tx| {
            tx.set_stored_at(&key, dated.at)?;
            tx.put_move(&key, &codec::encode(&cosigned))?;
            lock(&self.ledger).commit(dated, body.to_lease, 0).map_err(|refusal| in_transaction(&refusal))?;
            Ok(())
        })?;
        lock(&self.unconfirmed).insert(key, Instant::now());
        self.touch();
        Ok(Response::Cosigned(cosigned))
    }

    /// Whether the chunk of a move is here as the move says, stored by its source.
    fn holds(&self, moved: &Move) -> Result<(), Refusal> {
        let entry = self.fat.chunk(moved.owner, moved.chunk).map_err(|error| fat_refusal(&error))?;
        let authority = lock(&self.ledger).lease(moved.to_lease).map(|lease| lease.authority);
        may_cosign(self.me, moved, entry.map(|entry| (held(&entry), custody(&entry))), authority)
    }

    /// Takes users' words on downloads.
    fn validate(&self, words: Vec<Carried<Validation>>) -> Result<Response, Refusal> {
        for validation in words {
            let validation = validation.verify()?;
            if validation.vendor != self.me {
                return Err(refused(RefusalKind::NotAuthorised, "the validation is about another vendor"));
            }
            self.validated.fetch_add(validation.good.len() as u64, Ordering::Relaxed);
            self.invalidated.fetch_add(validation.bad.len() as u64, Ordering::Relaxed);
        }
        Ok(Response::Done)
    }

    /// Takes room back (figure 14).
    fn unused(&self, unused: Carried<Unused>) -> Result<Response, Refusal> {
        let unused = unused.verify()?;
        if unused.vendor != self.me {
            return Err(refused(RefusalKind::NotAuthorised, "the lease is another vendor's"));
        }
        self.in_step_or_busy()?;
        self.account(|ledger| ledger.give_back(self.dating_clock().at, &unused))?;
        Ok(Response::Done)
    }

    /// Gives back what a request that was withdrawn still holds.
    fn cancel(&self, cancel: Carried<Cancel>) -> Result<Response, Refusal> {
        let cancel = cancel.verify()?;
        if cancel.vendor != self.me {
            return Err(refused(RefusalKind::NotAuthorised, "the request was withdrawn at another vendor"));
        }
        self.account(|ledger| ledger.cancel(&cancel))?;
        Ok(Response::Done)
    }

    /// Prolongs a lease.
    fn renew(&self, renew: Carried<Renew>) -> Result<Response, Refusal> {
        let renew = renew.verify()?;
        if renew.vendor != self.me {
            return Err(refused(RefusalKind::NotAuthorised, "the lease is another vendor's"));
        }
        // What is promised on the word of an old disk is forgotten when the leases are taken back.
        self.in_step_or_busy()?;
        let lease = self.account(|ledger| ledger.renew(self.dating_clock(), &renew))?;
        Ok(Response::Offered { lease: lease.into_carried(), granted: 0 })
    }
}
