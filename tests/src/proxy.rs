//! A UDP relay that counts who sends how much through it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The longest UDP datagram.
const DATAGRAM: usize = 65_536;
/// How often a waiting relay looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct State {
    target: Mutex<Option<SocketAddr>>,
    /// Bytes that came from each source port, towards the target.
    sent: Mutex<BTreeMap<u16, u64>>,
    /// Bytes that the target sent back to each source port.
    returned: Mutex<BTreeMap<u16, u64>>,
    ended: AtomicBool,
}

/// A relay on 127.0.0.1 in front of one node's UDP port. What arrives before [`Proxy::aim`] is lost,
/// as UDP may. Dropping it ends it.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// A relay without a target.
    ///
    /// # Panics
    /// When there is no port for it.
    #[must_use]
    pub fn new() -> Self {
        let front = socket();
        let port = front.local_addr().expect("its address").port();
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        thread::spawn(move || forward(&front, &theirs));
        Self { port, state }
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on it relays to this port of 127.0.0.1.
    ///
    /// # Panics
    /// When another thread of it has.
    pub fn aim(&self, port: u16) {
        *self.state.target.lock().unwrap() = Some((Ipv4Addr::LOCALHOST, port).into());
    }

    /// Bytes that came from each source port so far, towards the target.
    ///
    /// # Panics
    /// When a thread of it has.
    #[must_use]
    pub fn sent(&self) -> BTreeMap<u16, u64> {
        self.state.sent.lock().unwrap().clone()
    }

    /// Bytes that the target sent back to each source port so far.
    ///
    /// # Panics
    /// When a thread of it has.
    #[must_use]
    pub fn returned(&self) -> BTreeMap<u16, u64> {
        self.state.returned.lock().unwrap().clone()
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port");
    socket.set_read_timeout(Some(LOOK)).expect("a timeout");
    socket
}

/// Sends what arrives at `front` to the target, from one socket for each source.
fn forward(front: &UdpSocket, state: &Arc<State>) {
    let mut backs: BTreeMap<SocketAddr, UdpSocket> = BTreeMap::new();
    receive(front, state, |datagram, from| {
        let Some(target) = *state.target.lock().unwrap() else {
            return;
        };
        *state.sent.lock().unwrap().entry(from.port()).or_default() += datagram.len() as u64;
        let back = backs.entry(from).or_insert_with(|| answer(front, from, state));
        // A datagram that cannot be sent is one that is lost.
        let _ = back.send_to(datagram, target);
    });
}

/// A socket whose datagrams go back to `to` through `front`.
fn answer(front: &UdpSocket, to: SocketAddr, state: &Arc<State>) -> UdpSocket {
    let back = socket();
    let (reader, front, state) =
        (back.try_clone().expect("a socket"), front.try_clone().expect("a socket"), Arc::clone(state));
    thread::spawn(move || {
        receive(&reader, &state, |datagram, _| {
            *state.returned.lock().unwrap().entry(to.port()).or_default() += datagram.len() as u64;
            let _ = front.send_to(datagram, to);
        });
    });
    back
}

fn receive(socket: &UdpSocket, state: &State, mut take: impl FnMut(&[u8], SocketAddr)) {
    let mut buffer = vec![0; DATAGRAM];
    while !state.ended.load(Ordering::SeqCst) {
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
