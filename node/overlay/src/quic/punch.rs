//! Holes in NATs and firewalls: both sides send at about the same moment. The one that dials sends QUIC; the other
//! sends datagrams without meaning, which only have to open the way in, and waits for the dial to arrive.
//!
//! Source: the libp2p specification of DCUtR, section on QUIC.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rand::RngExt;

use super::error::Error;
use crate::traffic::{Traffic, Way};

const DATAGRAM_BYTES: usize = 64;
const PAUSE_MS: std::ops::RangeInclusive<u64> = 10..=200;

/// Sends datagrams from `socket` to `remote` until dropped. Returns only if that fails.
pub(super) async fn knock(socket: &UdpSocket, remote: SocketAddr, traffic: &Traffic) -> Error {
    loop {
        let mut datagram: [u8; DATAGRAM_BYTES] = rand::random();
        // The second bit is set in all of QUIC's packets. Without it, nobody takes this for one and answers.
        datagram[0] &= 0x3f;
        match socket.send_to(&datagram, remote) {
            Ok(bytes) => {
                traffic.count(Way::Up, remote.ip(), bytes);
                if traffic.cap(Way::Up, remote.ip()).is_some() {
                    traffic.gone(Way::Up, Instant::now(), bytes);
                }
            }
            // The socket does not block; what it has no room for is not worth waiting for. What was refused may be
            // an earlier datagram, before the other side was there.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused) => {}
            Err(error) => return error.into(),
        }
        let pause = rand::rng().random_range(PAUSE_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}
