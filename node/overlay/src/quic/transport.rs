//! Listening and dialing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use futures::stream::SelectAll;
use futures::{FutureExt, StreamExt};
use libp2p::core::Endpoint as Role;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId, core};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::address::{dialable, multiaddr_of, udp_of};
use super::connection::{Connection, establish};
use super::error::Error;
use super::listener::{Event, Listener, News, Upgrade};
use super::settings::Settings;
use super::{punch, socket};

/// TLS asks for a name; libp2p's peers have none, and an empty one is not allowed.
const NAME: &str = "l";

type Dial = BoxFuture<'static, Result<(PeerId, Connection), Error>>;

/// The node's QUIC sockets. Listening and dialing must be called within a tokio runtime.
pub(crate) struct Transport {
    settings: Settings,
    listeners: SelectAll<Listener>,
    /// Sockets for dials while nothing listens, one for each address family.
    dialers: HashMap<Family, quinn::Endpoint>,
    /// Who is let in at which address: their connections are outcomes of dials and not arrivals. Those whose receiver
    /// has gone are removed with the next one.
    expected: HashMap<SocketAddr, oneshot::Sender<Upgrade>>,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl Transport {
    /// A transport that listens nowhere.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, listeners: SelectAll::new(), dialers: HashMap::new(), expected: HashMap::new(), waker: None }
    }

    /// The listener for traffic with `remote`, always the same one while the listeners are the same.
    fn listener_towards(&self, remote: SocketAddr) -> Option<&Listener> {
        let suited = || self.listeners.iter().filter(|listener| listener.reaches(remote.ip()));
        let number = usize::from(remote.port()) % suited().count().max(1);
        suited().nth(number)
    }

    /// The socket from which to dial `remote`.
    fn endpoint(&mut self, remote: SocketAddr, port: PortUse) -> Result<quinn::Endpoint, Error> {
        if port == PortUse::New {
            return self.new_endpoint(remote.ip());
        }
        if let Some(listener) = self.listener_towards(remote) {
            return Ok(listener.endpoint().clone());
        }
        let family = Family::of(remote.ip());
        if let Some(endpoint) = self.dialers.get(&family) {
            return Ok(endpoint.clone());
        }
        let endpoint = self.new_endpoint(remote.ip())?;
        self.dialers.insert(family, endpoint.clone());
        Ok(endpoint)
    }

    fn new_endpoint(&self, remote: IpAddr) -> Result<quinn::Endpoint, Error> {
        let socket = socket::towards(remote)?;
        Ok(quinn::Endpoint::new(self.settings.endpoint.clone(), None, socket, self.settings.runtime())?)
    }

    /// Opens the way in for a peer at `remote`, and waits for its connection.
    fn let_in(&mut self, remote: SocketAddr) -> Result<Dial, Error> {
        let listener = self.listener_towards(remote).ok_or(Error::NotListening)?;
        let socket = Arc::clone(listener.socket());
        self.expected.retain(|_, waiting| !waiting.is_closed());
        if self.expected.contains_key(&remote) {
            return Err(Error::PunchingAlready(remote));
        }
        let (sender, arrival) = oneshot::channel();
        self.expected.insert(remote, sender);
        let (within, traffic) = (self.settings.handshake_max, Arc::clone(&self.settings.traffic));
        let wait = async move {
            let arrival = tokio::select! {
                arrival = arrival => arrival.map_err(|_| Error::NotListening)?,
                error = punch::knock(&socket, remote, &traffic) => return Err(error),
            };
            arrival.await
        };
        Ok(async move { timeout(within, wait).await.unwrap_or(Err(Error::HandshakeTimedOut)) }.boxed())
    }

    /// What the swarm hears of `news`; nothing if somebody arrived who was let in.
    fn event(&mut self, news: News) -> Option<Event> {
        let (listener_id, local, remote, mut upgrade) = match news {
            News::Event(event) => return Some(event),
            News::Arrival { listener, local, remote, upgrade } => (listener, local, remote, upgrade),
        };
        if let Some(waiting) = self.expected.remove(&remote) {
            match waiting.send(upgrade) {
                Ok(()) => return None,
                Err(unwanted) => upgrade = unwanted,
            }
        }
        let (local_addr, send_back_addr) = (multiaddr_of(local), multiaddr_of(remote));
        Some(TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr })
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl core::Transport for Transport {
    type Output = (PeerId, Connection);
    type Error = Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Error>> {
        let udp = udp_of(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        self.listeners.push(Listener::bind(id, udp, &self.settings)?);
        // Dials go out from the listener's port from now on. The dialer's connections keep its socket while they last.
        self.dialers.remove(&Family::of(udp.ip()));
        self.wake();
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        match self.listeners.iter_mut().find(|listener| listener.id() == id) {
            Some(listener) => {
                listener.close(Ok(()));
                true
            }
            None => false,
        }
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Dial, TransportError<Error>> {
        let remote = dialable(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        if options.role == Role::Listener {
            return Ok(self.let_in(remote)?);
        }
        let endpoint = self.endpoint(remote, options.port_use)?;
        let (client, within) = (self.settings.client.clone(), self.settings.handshake_max);
        Ok(async move { establish(endpoint.connect_with(client, remote, NAME)?, within).await }.boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        // Without listeners the stream of their news has ended, until there is one again.
        while let Poll::Ready(Some(news)) = self.listeners.poll_next_unpin(cx) {
            if let Some(event) = self.event(news) {
                return Poll::Ready(event);
            }
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
