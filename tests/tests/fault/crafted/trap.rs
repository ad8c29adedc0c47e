//! A vendor that nobody runs, to see whether anybody is lured to it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};

use ed25519_dalek::SigningKey;
use fathom_protocol::codec::Text;
use fathom_protocol::head::Addresses;
use fathom_protocol::ids::{LeaseId, NodeId};
use fathom_protocol::lease::{Lease, LeaseState};
use fathom_protocol::sign::Signed;
use fathom_protocol::tags::VERSION;

use super::{Client, Slot, bounded, forge, now, seed};

/// A vendor that nobody runs: a key, and a port that counts what comes in.
pub(crate) struct Trap {
    key: SigningKey,
    socket: UdpSocket,
}

impl Trap {
    /// A trap whose key follows from `name`.
    pub(crate) fn new(name: &str) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        socket.set_nonblocking(true).expect("a socket that does not wait");
        Self { key: SigningKey::from_bytes(&seed(&format!("trap of {name}"))), socket }
    }

    pub(crate) fn id(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }

    fn addresses(&self) -> Addresses {
        let port = self.socket.local_addr().expect("its address").port();
        let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
        bounded(vec![Text::cut(&address)])
    }

    /// A lease of this vendor for `owner`: its consent.
    fn lease(&self, client: &Client) -> Lease {
        Lease {
            version: VERSION,
            vendor: self.id(),
            id: LeaseId([7; 16]),
            revision: 0,
            owner: client.keys.owner(),
            authority: client.keys.owner().into(),
            bytes: 1 << 24,
            used: 0,
            state: LeaseState::Offered,
            room_expires: now().plus_seconds(600),
            expires: now().plus_seconds(600),
            named: None,
        }
    }

    /// Where `client` may send, with this vendor's consent.
    pub(crate) fn slot(&self, client: &Client) -> Slot {
        let lease = Signed::sign(self.lease(client), &self.key).expect("a lease").into_carried();
        Slot { vendor: self.id(), addresses: self.addresses(), lease }
    }

    /// As [`Trap::slot`], with a lease that somebody else signed: no consent.
    pub(crate) fn unwilling(&self, client: &Client, signer: &SigningKey) -> Slot {
        Slot { lease: forge(&self.lease(client), signer), ..self.slot(client) }
    }

    /// Whether a single datagram has come.
    pub(crate) fn dialled(&self) -> bool {
        let mut datagram = [0; 2048];
        match self.socket.recv(&mut datagram) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                false
            }
        }
    }
}
