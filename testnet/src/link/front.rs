//! A UDP port in front of a node, and one port for each peer of the node behind the link.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::pipe::Pipe;

/// The longest UDP datagram.
const DATAGRAM_BYTES: usize = 65_536;
/// How often a waiting thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);
/// Asked of the system for each socket, so that datagrams are lost on the link only.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Peers of one front, each of which is a port and a thread; more are not let through.
const PEERS_MAX: usize = 1024;

#[derive(Debug, Default)]
struct State {
    target: Mutex<Option<SocketAddr>>,
    /// Bytes that came from each source port, towards the target.
    sent: Mutex<BTreeMap<u16, u64>>,
    /// Bytes that the target sent back to each source port.
    returned: Mutex<BTreeMap<u16, u64>>,
    ended: AtomicBool,
}

/// A port of 127.0.0.1 in front of one node. What arrives before [`Front::aim`] is lost, as UDP may. It ends when it
/// is dropped.
#[derive(Debug)]
pub struct Front {
    port: u16,
    state: Arc<State>,
}

impl Front {
    pub(super) fn open(forth: &Arc<Pipe>, back: &Arc<Pipe>) -> io::Result<Self> {
        let socket = Arc::new(socket()?);
        let port = socket.local_addr()?.port();
        let state = Arc::new(State::default());
        let (forth, back, theirs) = (Arc::clone(forth), Arc::clone(back), Arc::clone(&state));
        thread::Builder::new().name("link front".to_owned()).spawn(move || admit(&socket, &forth, &back, &theirs))?;
        Ok(Self { port, state })
    }

    /// The port to which the node's peers send.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on it leads to this port of 127.0.0.1.
    pub fn aim(&self, port: u16) {
        *held(&self.state.target) = Some((Ipv4Addr::LOCALHOST, port).into());
    }

    /// Bytes that came from each source port so far, towards the target.
    #[must_use]
    pub fn sent(&self) -> BTreeMap<u16, u64> {
        held(&self.state.sent).clone()
    }

    /// Bytes that the target sent back to each source port so far.
    #[must_use]
    pub fn returned(&self) -> BTreeMap<u16, u64> {
        held(&self.state.returned).clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn socket() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket.into())
}

/// Sends what arrives at `front` over the link to the target, from one socket for each peer.
fn admit(front: &Arc<UdpSocket>, forth: &Pipe, back: &Arc<Pipe>, state: &Arc<State>) {
    let mut peers: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    receive(front, forth, state, |datagram, from| {
        let Some(target) = *held(&state.target) else { return };
        if !peers.contains_key(&from) {
            if peers.len() == PEERS_MAX {
                return;
            }
            match answer(front, from, back, state) {
                Ok(socket) => peers.insert(from, socket),
                Err(_) => return,
            };
        }
        *held(&state.sent).entry(from.port()).or_default() += datagram.len() as u64;
        if let Some(socket) = peers.get(&from) {
            forth.carry(datagram, socket, target);
        }
    });
}

/// A socket that stands for the peer at `to`: what the node sends to it goes back over the link, and on from `front`.
fn answer(front: &Arc<UdpSocket>, to: SocketAddr, back: &Arc<Pipe>, state: &Arc<State>) -> io::Result<Arc<UdpSocket>> {
    let socket = Arc::new(socket()?);
    let (reader, front, back, state) = (Arc::clone(&socket), Arc::clone(front), Arc::clone(back), Arc::clone(state));
    thread::Builder::new().name("link peer".to_owned()).spawn(move || {
        receive(&reader, &back, &state, |datagram, _| {
            *held(&state.returned).entry(to.port()).or_default() += datagram.len() as u64;
            back.carry(datagram, &front, to);
        });
    })?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, pipe: &Pipe, state: &State, take: impl FnMut(&[u8], SocketAddr)) {
    receive_until(socket, || state.ended.load(Ordering::SeqCst) || pipe.has_ended(), take);
}

/// Hands over what arrives, until `ended`.
pub(super) fn receive_until(socket: &UdpSocket, ended: impl Fn() -> bool, mut take: impl FnMut(&[u8], SocketAddr)) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    while !ended() {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => take(&buffer[..length], from),
            // A refused datagram of before is reported here; nothing is lost by going on.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused | ErrorKind::Interrupted
                ) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Direction, Link, LinkSpec};
    use super::*;
    use crate::wait::Stopwatch;

    const MS: Duration = Duration::from_millis(1);

    fn udp() -> UdpSocket {
        let socket = super::socket().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    /// A node that sends everything back.
    fn echo() -> u16 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if &buffer[..length] == b"end" {
                    return;
                }
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
        port
    }

    #[test]
    fn datagrams_go_there_and_back_after_the_delay() {
        let direction = Direction { delay: 30 * MS, ..Direction::default() };
        let link = Link::new(LinkSpec::both(direction, 1)).unwrap();
        let (front, peer, node) = (link.front().unwrap(), udp(), echo());
        let mut buffer = [0; 2000];
        let clock = Stopwatch::start();
        front.aim(node);
        for _ in 0..3 {
            let begun = clock.elapsed();
            peer.send_to(b"hello", ("127.0.0.1", front.port())).unwrap();
            let (length, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.port()), (&b"hello"[..], front.port()));
            assert!(clock.elapsed() - begun >= 60 * MS);
        }
        let port = peer.local_addr().unwrap().port();
        assert_eq!((front.sent()[&port], front.returned()[&port]), (15, 15));
        let (forth, back) = link.counts();
        assert_eq!((forth.passed, back.passed, forth.lost + back.lost), (3, 3, 0));
        peer.send_to(b"end", ("127.0.0.1", front.port())).unwrap();
    }

    /// Two peers, two fronts and one queue: together they get no more than the link has.
    #[test]
    fn fronts_share_the_link() {
        // 200 datagrams of 1,222 bytes take 200 ms; the queue has room for all.
        let direction = Direction::of(10, MS, Duration::from_secs(1));
        let link = Link::new(LinkSpec { forth: direction, ..LinkSpec::default() }).unwrap();
        let clock = Stopwatch::start();
        let nodes = [udp(), udp()];
        let fronts = nodes.each_ref().map(|node| {
            let front = link.front().unwrap();
            front.aim(node.local_addr().unwrap().port());
            front
        });
        let peer = udp();
        let begun = clock.elapsed();
        for _ in 0..100 {
            for front in &fronts {
                peer.send_to(&[0; 1222], ("127.0.0.1", front.port())).unwrap();
            }
        }
        let mut buffer = [0; 2000];
        for _ in 0..100 {
            for node in &nodes {
                node.recv_from(&mut buffer).unwrap();
            }
        }
        assert!(clock.elapsed() - begun >= 200 * MS, "{:?}", clock.elapsed() - begun);
    }

    #[test]
    fn what_is_not_aimed_or_has_ended_leads_nowhere() {
        let link = Link::new(LinkSpec::default()).unwrap();
        let (front, peer, node) = (link.front().unwrap(), udp(), udp());
        peer.send_to(b"early", ("127.0.0.1", front.port())).unwrap();
        front.aim(node.local_addr().unwrap().port());
        let mut buffer = [0; 100];
        peer.send_to(b"late", ("127.0.0.1", front.port())).unwrap();
        // Unless the first was read only after the front was aimed.
        while node.recv_from(&mut buffer).unwrap().0 != b"late".len() {}
        assert_eq!(&buffer[..4], b"late");
        let port = front.port();
        drop(front);
        drop(link);
        // Its port becomes free again.
        let free = || UdpSocket::bind(("127.0.0.1", port)).is_ok();
        crate::wait_until(Duration::from_secs(20), "the port is free", free).unwrap();
    }
}
