//! The streams of one connection.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use fathom_protocol::ids::NodeId;
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ProtocolsChange,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{PollSemaphore, PollSender};

use super::upgrade::{Accept, Propose};
use super::{Counters, InboundStream, OpenRequest};
use crate::config::{OPENS_PER_CONNECTION_MAX, STREAM_OPEN_MAX};
use crate::error::OverlayError;
use crate::names::{Names, Proto};
use crate::stream::PeerStream;

/// Opens streams when asked and passes inbound ones on, as far as the peer's share and the node's queue have room.
pub(crate) struct Handler {
    names: Arc<Names>,
    node: NodeId,
    remote: String,
    /// Requests not yet begun.
    opens: VecDeque<OpenRequest>,
    /// Requests whose stream is being opened.
    opening: usize,
    /// What the peer has said that it speaks; empty until it has said so.
    spoken: HashSet<StreamProtocol>,
    /// Inbound streams without room in the queue, oldest first.
    backlog: VecDeque<(Proto, Stream)>,
    backlog_max: usize,
    share: PollSemaphore,
    /// The oldest inbound stream's part of the share, once it has it.
    permit: Option<OwnedSemaphorePermit>,
    queue: PollSender<InboundStream>,
    counters: Arc<Counters>,
}

impl Handler {
    pub(super) fn new(
        names: Arc<Names>,
        node: NodeId,
        remote: String,
        share: Arc<Semaphore>,
        inbound: mpsc::Sender<InboundStream>,
        backlog_max: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            names,
            node,
            remote,
            opens: VecDeque::new(),
            opening: 0,
            spoken: HashSet::new(),
            backlog: VecDeque::new(),
            backlog_max,
            share: PollSemaphore::new(share),
            permit: None,
            queue: PollSender::new(inbound),
            counters,
        }
    }

    /// The next request that somebody still waits for and that the peer may understand.
    fn next_open(&mut self) -> Option<OpenRequest> {
        while let Some(request) = self.opens.pop_front() {
            if request.reply.is_closed() {
                continue;
            }
            if self.spoken.is_empty() || self.spoken.contains(&self.names.stream(request.proto)) {
                return Some(request);
            }
            let error = OverlayError::Unsupported { peer: self.node, proto: request.proto };
            // A caller that has given up needs no answer, here and below.
            let _ = request.reply.send(Err(error));
        }
        None
    }

    /// Passes the backlog on, oldest first, until something has no room.
    fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.backlog.is_empty() {
            if self.permit.is_none() {
                self.permit = ready!(self.share.poll_acquire(cx));
            }
            if ready!(self.queue.poll_reserve(cx)).is_err() {
                // Nobody takes streams any more: the node is shutting down.
                self.backlog.clear();
                break;
            }
            if let Some((proto, stream)) = self.backlog.pop_front() {
                let stream = PeerStream::new(stream, self.node, self.remote.clone(), self.permit.take());
                let inbound = InboundStream { peer: self.node, proto, stream, remote_address: self.remote.clone() };
                // Cannot fail: room was reserved just above.
                let _ = self.queue.send_item(inbound);
            }
        }
        // An unused permit would count as a stream.
        self.permit = None;
        Poll::Ready(())
    }

    fn accept(&mut self, proto: Proto, stream: Stream) {
        if self.backlog.len() < self.backlog_max {
            self.backlog.push_back((proto, stream));
        } else {
            drop(stream);
            self.counters.count_reset(self.node);
        }
    }

    fn opened(&mut self, stream: Stream, request: OpenRequest) {
        self.opening = self.opening.saturating_sub(1);
        let stream = PeerStream::new(stream, self.node, self.remote.clone(), None);
        let _ = request.reply.send(Ok(stream));
    }

    fn failed(&mut self, request: OpenRequest, error: StreamUpgradeError<Infallible>) {
        self.opening = self.opening.saturating_sub(1);
        let peer = self.node;
        let error = match error {
            StreamUpgradeError::Timeout => OverlayError::Timeout { peer, after: STREAM_OPEN_MAX },
            StreamUpgradeError::NegotiationFailed => OverlayError::Unsupported { peer, proto: request.proto },
            StreamUpgradeError::Io(_) => OverlayError::ConnectionLost { peer },
            StreamUpgradeError::Apply(never) => match never {},
        };
        let _ = request.reply.send(Err(error));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = Infallible;
    type InboundProtocol = Accept;
    type OutboundProtocol = Propose;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenRequest;

    fn listen_protocol(&self) -> SubstreamProtocol<Accept> {
        SubstreamProtocol::new(Accept(Arc::clone(&self.names)), ()).with_timeout(STREAM_OPEN_MAX)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Propose, OpenRequest, Infallible>> {
        if let Some(request) = self.next_open() {
            self.opening += 1;
            let upgrade = Propose(self.names.stream(request.proto));
            let protocol = SubstreamProtocol::new(upgrade, request).with_timeout(STREAM_OPEN_MAX);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        // Pending or not, there is nothing more to tell the connection; the wakers are registered.
        let _ = self.poll_backlog(cx);
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, request: OpenRequest) {
        if self.opens.len() + self.opening < OPENS_PER_CONNECTION_MAX {
            self.opens.push_back(request);
        } else {
            let _ = request.reply.send(Err(OverlayError::Busy { peer: self.node }));
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Accept, Propose, (), OpenRequest>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: Some((proto, stream)), ..
            }) => self.accept(proto, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.opened(protocol, info)
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => self.failed(info, error),
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Added(added)) => self.spoken.extend(added.cloned()),
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Removed(removed)) => {
                for name in removed {
                    self.spoken.remove(name);
                }
            }
            _ => {}
        }
    }
}
