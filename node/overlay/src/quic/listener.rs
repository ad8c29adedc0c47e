//! One socket that listens: the connections that arrive at it, and the addresses under which it is reached.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use if_watch::IfEvent;
use if_watch::tokio::IfWatcher;
use libp2p::PeerId;
use libp2p::core::transport::{ListenerId, TransportEvent};

use super::address::{multiaddr_of, same_family};
use super::connection::{Connection, NO_ERROR, establish};
use super::error::Error;
use super::settings::Settings;
use super::socket;

/// A handshake that another side has begun.
pub(super) type Upgrade = Pin<Box<dyn Future<Output = Result<(PeerId, Connection), Error>> + Send>>;
/// What the swarm hears of a listener.
pub(super) type Event = TransportEvent<Upgrade, Error>;

/// What a listener tells its transport.
pub(super) enum News {
    /// To be passed on to the swarm.
    Event(Event),
    /// Somebody connects, from `remote`, to `local`.
    Arrival { listener: ListenerId, local: SocketAddr, remote: SocketAddr, upgrade: Upgrade },
}

/// Ends after it was closed, or when its socket fails.
pub(super) struct Listener {
    id: ListenerId,
    endpoint: quinn::Endpoint,
    /// The endpoint's socket, for datagrams that are not QUIC's.
    socket: Arc<UdpSocket>,
    bound: SocketAddr,
    arriving: BoxStream<'static, quinn::Incoming>,
    /// Set if the socket is bound to all interfaces, of which some come and go.
    interfaces: Option<IfWatcher>,
    handshake_max: Duration,
    /// The last event of a listener that was closed, or the only address of one that is bound to it.
    pending: Option<Event>,
    closed: bool,
    waker: Option<Waker>,
}

impl Listener {
    /// Binds `address`. Must be called within a tokio runtime.
    pub(super) fn bind(id: ListenerId, address: SocketAddr, settings: &Settings) -> Result<Self, Error> {
        let socket = socket::bind(address)?;
        let bound = socket.local_addr()?;
        let copy = socket.try_clone()?;
        let interfaces = if bound.ip().is_unspecified() { Some(IfWatcher::new()?) } else { None };
        let endpoint =
            quinn::Endpoint::new(settings.endpoint.clone(), Some(settings.server.clone()), socket, settings.runtime())?;
        let arriving = stream::unfold(endpoint.clone(), |endpoint| async move {
            let incoming = endpoint.accept().await?;
            Some((incoming, endpoint))
        });
        let pending = interfaces
            .is_none()
            .then(|| TransportEvent::NewAddress { listener_id: id, listen_addr: multiaddr_of(bound) });
        Ok(Self {
            id,
            endpoint,
            socket: Arc::new(copy),
            bound,
            arriving: arriving.boxed(),
            interfaces,
            handshake_max: settings.handshake_max,
            pending,
            closed: false,
            waker: None,
        })
    }

    pub(super) fn id(&self) -> ListenerId {
        self.id
    }

    pub(super) fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    pub(super) fn socket(&self) -> &Arc<UdpSocket> {
        &self.socket
    }

    /// Whether a dial to `remote` can go out from this socket and be answered at it.
    pub(super) fn reaches(&self, remote: IpAddr) -> bool {
        let here = self.bound.ip();
        !self.closed
            && same_family(here, remote)
            && (here.is_unspecified() || here.is_loopback() == remote.is_loopback())
    }

    /// Closes the listener and every connection of its socket, and says so.
    pub(super) fn close(&mut self, reason: Result<(), Error>) {
        if self.closed {
            return;
        }
        self.endpoint.close(NO_ERROR, &[]);
        self.pending = Some(TransportEvent::ListenerClosed { listener_id: self.id, reason });
        self.closed = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_interfaces(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Some(watcher) = &mut self.interfaces else { return Poll::Pending };
        loop {
            let (ip, up) = match std::task::ready!(watcher.poll_if_event(cx)) {
                Ok(IfEvent::Up(net)) => (net.addr(), true),
                Ok(IfEvent::Down(net)) => (net.addr(), false),
                Err(error) => {
                    return Poll::Ready(TransportEvent::ListenerError { listener_id: self.id, error: error.into() });
                }
            };
            if !same_family(ip, self.bound.ip()) {
                continue;
            }
            let listen_addr = multiaddr_of(SocketAddr::new(ip, self.bound.port()));
            return Poll::Ready(if up {
                TransportEvent::NewAddress { listener_id: self.id, listen_addr }
            } else {
                TransportEvent::AddressExpired { listener_id: self.id, listen_addr }
            });
        }
    }

    /// Begins the handshake of somebody who arrived; `None` if it had ended before it began.
    fn admit(&self, incoming: quinn::Incoming) -> Option<News> {
        let remote = incoming.remote_address();
        let local = SocketAddr::new(incoming.local_ip().unwrap_or(self.bound.ip()), self.bound.port());
        match incoming.accept() {
            Ok(connecting) => {
                let upgrade = Box::pin(establish(connecting, self.handshake_max));
                Some(News::Arrival { listener: self.id, local, remote, upgrade })
            }
            // Anybody can send a broken first packet: that is no error of the listener.
            Err(error) => {
                tracing::debug!(%remote, %error, "a first packet was refused");
                None
            }
        }
    }
}

impl Stream for Listener {
    type Item = News;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<News>> {
        loop {
            if let Some(event) = self.pending.take() {
                return Poll::Ready(Some(News::Event(event)));
            }
            if self.closed {
                return Poll::Ready(None);
            }
            if let Poll::Ready(event) = self.poll_interfaces(cx) {
                return Poll::Ready(Some(News::Event(event)));
            }
            match self.arriving.poll_next_unpin(cx) {
                Poll::Ready(Some(incoming)) => {
                    if let Some(news) = self.admit(incoming) {
                        return Poll::Ready(Some(news));
                    }
                }
                Poll::Ready(None) => self.close(Err(io::Error::other("the UDP socket failed").into())),
                Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}
