//! Asking mirrors for storage, for a user's put or a vendor's move: one request to one mirror after the other, and what those
//! that failed locked in vain is given back at once instead of being held until it lapses.

use std::collections::BTreeSet;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::sign::{Signed, SignerId};
use fathom_protocol::tags;
use fathom_protocol::wire::{AllocateRequest, Cancel, ProvisionalFat, Refusal, RefusalKind, Request, Response};
use futures::future::join_all;

use crate::net::Net;

/// Longest wait for a mirror to pass a withdrawal on. One that is not passed on lapses.
const CANCEL: Duration = Duration::from_secs(2);

/// Who asks, and how.
pub(super) struct Claim<'a> {
    pub(super) net: &'a Net,
    /// Of the request's authority.
    pub(super) key: &'a SigningKey,
    /// Longest wait for one mirror.
    pub(super) wait: Duration,
    /// Whether another mirror may do better after this refusal.
    pub(super) elsewhere: fn(RefusalKind) -> bool,
}

impl Claim<'_> {
    /// Asks `mirrors` in turn until one has locked storage, or refuses for good.
    ///
    /// # Errors
    /// What each of them said, in order; none if there was none to ask.
    pub(super) async fn ask(
        &self,
        request: AllocateRequest,
        mirrors: &[NodeId],
    ) -> Result<ProvisionalFat, Vec<Refusal>> {
        let (authority, nonce) = (request.authority, request.nonce);
        let request = match Signed::sign(request, self.key) {
            Ok(request) => Request::Allocate(request.into_carried()),
            Err(error) => return Err(vec![error.into()]),
        };
        let (mut refusals, mut held) = (Vec::new(), Vec::new());
        for mirror in mirrors {
            let refusal = match self.net.call(*mirror, &request, self.wait).await {
                Ok(Response::Provisional(fat)) => {
                    // The same request asked at several mirrors locks a vendor's room once.
                    let used = fat.locations.iter().filter_map(|location| Some(location.head.peek().ok()?.vendor));
                    let used: BTreeSet<NodeId> = used.collect();
                    held.retain(|(_, vendor)| !used.contains(vendor));
                    self.withdraw(authority, nonce, &held).await;
                    return Ok(fat);
                }
                Ok(Response::Short { refusal, asked }) => {
                    held.extend(asked.iter().map(|vendor| (*mirror, *vendor)));
                    refusal
                }
                Ok(_) => Refusal::new(RefusalKind::BadRequest, "a mirror answered a request for storage strangely"),
                Err(refusal) => refusal,
            };
            let last = !(self.elsewhere)(refusal.kind);
            refusals.push(refusal);
            if last {
                break;
            }
        }
        self.withdraw(authority, nonce, &held).await;
        Err(refusals)
    }

    /// Tells vendors, through the mirrors that asked them, that what they hold for the request is free.
    async fn withdraw(&self, authority: SignerId, request: Hash, held: &[(NodeId, NodeId)]) {
        let calls = held.iter().map(|(mirror, vendor)| async move {
            let cancel = Cancel { version: tags::VERSION, authority, vendor: *vendor, request };
            let cancel = Signed::sign(cancel, self.key)?.into_carried();
            self.net.call(*mirror, &Request::Cancel(cancel), CANCEL).await
        });
        for refusal in join_all(calls).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%refusal, "a request for storage was not withdrawn; it lapses");
        }
    }
}
