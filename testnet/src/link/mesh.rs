//! A home-like link for each node of a network: what one node sends to another goes up the sender's link and down the receiver's.
//!
//! Each node has one front, the only address that others know of it. A node sends from the port on which it listens, so a front
//! knows by a datagram's source who sent it; the receiver sees the sender's front as the source, and answers to it. Datagrams of
//! a node that is not part of the mesh lead nowhere.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::front::{receive_until, socket};
use super::pipe::Pipe;
use super::{Counts, Direction, LinkSpec};

/// Nodes with links of their own, all of which reach each other over them. It ends when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// By the port on which the node listens.
    members: Mutex<BTreeMap<u16, Arc<Member>>>,
    ended: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Member {
    port: u16,
    front: Arc<UdpSocket>,
    down: Arc<Pipe>,
    up: Arc<Pipe>,
}

impl Default for Mesh {
    fn default() -> Self {
        Self { state: Arc::new(State { members: Mutex::default(), ended: Arc::default() }) }
    }
}

impl State {
    fn members(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mesh {
    /// Puts the node that listens on `port` of 127.0.0.1 behind a link of its own: `spec.forth` leads to it, `spec.back` from it.
    /// Returns the port under which the others reach it.
    ///
    /// # Errors
    /// There is no port, or no thread can be started.
    pub fn join(&self, port: u16, spec: LinkSpec) -> io::Result<u16> {
        let down = Pipe::start(spec.forth, spec.seed, &self.state.ended)?;
        let up = Pipe::start(spec.back, spec.seed ^ u64::MAX, &self.state.ended)?;
        let front = Arc::new(socket()?);
        let known_as = front.local_addr()?.port();
        let member = Arc::new(Member { port, front, down, up });
        self.state.members().insert(port, Arc::clone(&member));
        let state = Arc::clone(&self.state);
        thread::Builder::new().name("mesh front".to_owned()).spawn(move || {
            let ended = || state.ended.load(Ordering::SeqCst);
            receive_until(&member.front, ended, |datagram, from| {
                let Some(sender) = state.members().get(&from.port()).cloned() else { return };
                let to = SocketAddr::from((Ipv4Addr::LOCALHOST, member.port));
                sender.up.carry_on(datagram, &member.down, &sender.front, to);
            });
        })?;
        Ok(known_as)
    }

    /// The link of the node that listens on `port` is like this from now on.
    pub fn change(&self, port: u16, forth: Direction, back: Direction) {
        if let Some(member) = self.state.members().get(&port) {
            member.down.change(forth);
            member.up.change(back);
        }
    }

    /// What became of the datagrams to, and from, the node that listens on `port`.
    #[must_use]
    pub fn counts(&self, port: u16) -> (Counts, Counts) {
        self.state
            .members()
            .get(&port)
            .map_or_else(Default::default, |member| (member.down.counts(), member.up.counts()))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        for member in self.state.members().values() {
            member.down.wake();
            member.up.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::wait::Stopwatch;

    const MS: Duration = Duration::from_millis(1);

    fn node() -> UdpSocket {
        let socket = socket().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    #[test]
    fn a_datagram_goes_up_one_link_and_down_the_other_and_its_answer_back() {
        let mesh = Mesh::default();
        let spec = |up: Duration, down: Duration| LinkSpec {
            forth: Direction { delay: down, ..Direction::default() },
            back: Direction { delay: up, ..Direction::default() },
            seed: 1,
        };
        let (a, b, stranger) = (node(), node(), node());
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let front_a = mesh.join(port(&a), spec(10 * MS, 20 * MS)).unwrap();
        let front_b = mesh.join(port(&b), spec(30 * MS, 40 * MS)).unwrap();
        let clock = Stopwatch::start();
        stranger.send_to(b"lost", ("127.0.0.1", front_b)).unwrap();
        a.send_to(b"there", ("127.0.0.1", front_b)).unwrap();
        let mut buffer = [0; 100];
        let (length, from) = b.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.port()), (&b"there"[..], front_a));
        assert!(clock.elapsed() >= 50 * MS);
        let sent = clock.elapsed();
        b.send_to(b"back", from).unwrap();
        let (length, from) = a.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.port()), (&b"back"[..], front_b));
        assert!(clock.elapsed() - sent >= 50 * MS);
        let (to_a, from_a) = mesh.counts(port(&a));
        assert_eq!((to_a.passed_bytes, from_a.passed_bytes), (4, 5));
    }
}
