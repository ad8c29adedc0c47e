//! Streams and gossip from other nodes, handed to the role that they are for.

use std::sync::Arc;

use fathom_overlay::{GossipMessage, InboundStream, Incoming, Proto, Verdict};
use fathom_protocol::codec::Bounded;
use fathom_protocol::ids::NodeId;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Roles;
use crate::net::{Handler, Net, serve_rpc};

/// Requests answered at a time; each may hold one frame. Further ones wait in their streams.
const REQUESTS_MAX: usize = 48;

pub(super) struct Dispatch {
    net: Net,
    roles: Arc<Roles>,
    requests: Arc<Semaphore>,
}

impl Dispatch {
    pub(super) fn new(net: Net, roles: Arc<Roles>) -> Self {
        Self { net, roles, requests: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }

    /// Lets this node's roles call each other like any other node.
    pub(super) fn answer_locally(self: &Arc<Self>) {
        let this = Arc::downgrade(self);
        let me = self.net.me();
        self.net.set_local(Box::new(move |request| {
            let this = this.upgrade();
            Box::pin(async move {
                match this {
                    Some(this) => this.handle(me, request).await,
                    None => Response::Refused(Refusal::new(RefusalKind::Unreachable, "the node is ending")),
                }
            })
        }));
    }

    /// Serves everything that arrives, until cancelled.
    pub(super) async fn serve(self: Arc<Self>, mut incoming: Incoming, cancel: CancellationToken, tasks: TaskTracker) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                stream = incoming.streams.recv() => match stream {
                    Some(stream) => self.stream(stream, &cancel, &tasks),
                    None => return,
                },
                message = incoming.gossip.recv() => match message {
                    Some(message) => self.gossip(message, &cancel, &tasks),
                    None => return,
                },
            }
        }
    }

    fn stream(self: &Arc<Self>, inbound: InboundStream, cancel: &CancellationToken, tasks: &TaskTracker) {
        let this = Arc::clone(self);
        let work = async move {
            let InboundStream { proto, stream, .. } = inbound;
            match (proto, &this.roles.vendor) {
                (Proto::Rpc, _) => {
                    let Ok(_permit) = this.requests.acquire().await else { return };
                    let peer = stream.peer();
                    if let Err(error) = serve_rpc(stream, &*this).await {
                        tracing::debug!(peer = %peer.short(), %error, "a request was not answered");
                    }
                }
                (Proto::Chunk, Some(vendor)) => vendor.chunk(stream).await,
                (Proto::Fetch, Some(vendor)) => vendor.fetch(stream).await,
                // Dropped: a node without devices takes and gives no chunks.
                (Proto::Chunk | Proto::Fetch, None) => {}
            }
        };
        tasks.spawn(cancel.clone().run_until_cancelled_owned(work));
    }

    fn gossip(self: &Arc<Self>, message: GossipMessage, cancel: &CancellationToken, tasks: &TaskTracker) {
        let this = Arc::clone(self);
        let work = async move {
            match &this.roles.mirror {
                Some(mirror) => mirror.gossip(message).await,
                None => this.net.overlay().report_gossip(message.id, Verdict::Ignore).await,
            }
        };
        tasks.spawn(cancel.clone().run_until_cancelled_owned(work));
    }

    async fn announce(
        &self,
        from: NodeId,
        record: fathom_protocol::sign::Carried<fathom_protocol::wire::PeerRecord>,
    ) -> Response {
        match record.verify() {
            Ok(record) if record.node == from => {
                self.net.book().learn(record);
                let known = self.net.book().announcements().into_iter().map(Signed::into_carried);
                Response::Peers(Bounded::first(known))
            }
            Ok(_) => Response::Refused(Refusal::new(RefusalKind::NotAuthorised, "a node can only announce itself")),
            Err(error) => Response::Refused(error.into()),
        }
    }
}

/// Whether a request is for the vendor role of `me`, where both roles could take it.
fn for_vendor(me: NodeId, request: &Request) -> bool {
    match request {
        Request::Offer { .. } | Request::Order(_) | Request::Cosign(_) | Request::Renew(_) | Request::Rebuild(_) => {
            true
        }
        Request::Validate(words) => {
            words.first().is_some_and(|word| word.peek().is_ok_and(|validation| validation.vendor == me))
        }
        Request::Unused(unused) => unused.peek().is_ok_and(|unused| unused.vendor == me),
        _ => false,
    }
}

impl Handler for Dispatch {
    async fn handle(&self, from: NodeId, request: Request) -> Response {
        let wrong_role =
            || Response::Refused(Refusal::new(RefusalKind::WrongRole, "this node does not have the role for that"));
        match request {
            Request::Ping => Response::Here(self.net.coordinate()),
            Request::Announce(record) => self.announce(from, record).await,
            request if for_vendor(self.net.me(), &request) => match &self.roles.vendor {
                Some(vendor) => vendor.handle(from, request).await,
                None => wrong_role(),
            },
            request => match &self.roles.mirror {
                Some(mirror) => mirror.handle(from, request).await,
                None => wrong_role(),
            },
        }
    }
}
