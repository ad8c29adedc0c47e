//! Letting a peer in through a NAT: one side sends anything, the other dials, at about the same moment.

use std::net::UdpSocket;

use libp2p::multiaddr::Protocol;

use super::*;

/// The side that lets in gets the connection as the outcome of its dial and not as an arrival.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_expected_is_let_in() {
    for (dialer, listener) in PAIRS {
        let (mut dialer, mut listener) = (Side::new(dialer), Side::new(listener));
        let from = dialer.listen(V4).await;
        let to = listener.listen(V4).await;
        // libp2p punches with a port of this kind only, whatever it is.
        let expected = listener.dial(from.with(Protocol::P2p(dialer.peer)), Endpoint::Listener, PortUse::New);
        let dial = dialer.dial(to, Endpoint::Dialer, PortUse::Reuse);
        let both = dialer.drive(listener.drive(futures::future::join(dial, expected)));
        let (dialed, let_in) = within(both).await;
        let (mut dialed, let_in) = (dialed.unwrap(), let_in.unwrap());
        assert_eq!((dialed.0, let_in.0), (listener.peer, dialer.peer));
        let echo = tokio::spawn(echo(let_in.1, 1));
        call(open(&mut dialed.1).await, bytes(100_000, 1)).await;
        within(echo).await.unwrap();
    }
}

/// What opens the way comes from the listening port, again and again, and is not QUIC.
#[tokio::test(flavor = "multi_thread")]
async fn knocks_come_from_the_listening_port() {
    let mut side = Side::new(Make::Ours);
    let here = side.listen(V4).await;
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(SOON)).unwrap();
    let there = super::super::address::multiaddr_of(peer.local_addr().unwrap());
    let expected = side.dial(there, Endpoint::Listener, PortUse::Reuse);
    let waiting = tokio::spawn(expected);
    let knocks = tokio::task::spawn_blocking(move || {
        let mut knocks = Vec::new();
        for _ in 0..3 {
            let mut datagram = [0; 2000];
            let (length, from) = peer.recv_from(&mut datagram).unwrap();
            knocks.push((datagram[..length].to_vec(), from));
        }
        knocks
    });
    let knocks = within(side.drive(knocks)).await.unwrap();
    for (datagram, from) in &knocks {
        assert_eq!(super::super::address::multiaddr_of(*from), here);
        assert_eq!((datagram.len(), datagram[0] & 0x40), (64, 0));
    }
    assert_ne!(knocks[0].0, knocks[1].0);
    // Nobody comes.
    let error = within(side.drive(waiting)).await.unwrap().unwrap_err();
    assert!(crate::error::innermost(&error).contains("no handshake in time"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letting_in_needs_a_listener_and_one_attempt_at_a_time() {
    let there: Multiaddr = "/ip4/127.0.0.1/udp/9/quic-v1".parse().unwrap();
    let options = DialOpts { role: Endpoint::Listener, port_use: PortUse::Reuse };
    let mut transport = ours(&Keypair::generate_ed25519(), Tuning::default());
    let refused = transport.dial(there.clone(), options).err().unwrap();
    assert!(format!("{refused:?}").contains("NotListening"), "{refused:?}");
    transport.listen_on(ListenerId::next(), V4.parse().unwrap()).unwrap();
    let first = transport.dial(there.clone(), options).unwrap();
    let refused = transport.dial(there.clone(), options).err().unwrap();
    assert!(format!("{refused:?}").contains("PunchingAlready"), "{refused:?}");
    // One that was given up leaves nothing behind.
    drop(first);
    drop(transport.dial(there, options).unwrap());
}
