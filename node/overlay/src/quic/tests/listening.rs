//! Listeners that come and go.

use std::collections::BTreeSet;

use libp2p::core::transport::TransportError;
use libp2p::multiaddr::Protocol;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_says_so_and_frees_its_port() {
    let mut side = Side::new(Make::Ours);
    let mut address = V4.to_owned();
    for _ in 0..3 {
        // Without a listener nothing happens, and it is no end.
        assert!(is_pending(side.transport.next()).await);
        let id = ListenerId::next();
        side.transport.listen_on(id, address.parse().unwrap()).unwrap();
        match within(side.transport.next()).await.unwrap() {
            TransportEvent::NewAddress { listener_id, listen_addr } => {
                assert_eq!(listener_id, id);
                address = listen_addr.to_string();
            }
            other => panic!("{other:?}"),
        }
        assert!(side.transport.remove_listener(id));
        match within(side.transport.next()).await.unwrap() {
            TransportEvent::ListenerClosed { listener_id, reason: Ok(()) } => assert_eq!(listener_id, id),
            other => panic!("{other:?}"),
        }
        let udp = address.parse().ok().and_then(|address| super::super::address::udp_of(&address)).unwrap();
        // The socket closes when quinn's task has said goodbye to everybody.
        let free = async {
            while super::super::socket::bind(udp).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(side.drive(free)).await;
    }
    assert!(!side.transport.remove_listener(ListenerId::next()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_becomes_the_addresses_of_the_interfaces() {
    let mut side = Side::new(Make::Ours);
    let listening = side.listen("/ip4/0.0.0.0/udp/0/quic-v1").await;
    let mut found = BTreeSet::from([listening.to_string()]);
    let loopback = |address: &String| address.starts_with("/ip4/127.0.0.1/");
    while !found.iter().any(loopback) {
        if let TransportEvent::NewAddress { listen_addr, .. } = within(side.transport.next()).await.unwrap() {
            found.insert(listen_addr.to_string());
        }
    }
    assert!(found.iter().all(|address| !address.contains("0.0.0.0") && !address.contains("udp/0/")), "{found:?}");
    let address: Multiaddr = found.into_iter().find(loopback).unwrap().parse().unwrap();
    for make in [Make::Ours, Make::Libp2p] {
        let mut dialer = Side::new(make);
        let there = dialer.listen(V4).await;
        meet(&mut dialer, &mut side, address.clone(), PortUse::Reuse).await;
        // Back from the wildcard's port.
        let back = meet(&mut side, &mut dialer, there, PortUse::Reuse).await;
        assert_eq!(back.seen_at, address);
    }
}

/// Both address families on one port.
#[tokio::test(flavor = "multi_thread")]
async fn ipv4_and_ipv6_share_a_port() {
    let mut side = Side::new(Make::Ours);
    // The port may be taken on the other family by somebody else; then another is tried.
    let both = async {
        loop {
            let v4 = side.listen("/ip4/0.0.0.0/udp/0/quic-v1").await;
            let port = v4.iter().find_map(|part| if let Protocol::Udp(port) = part { Some(port) } else { None });
            let v6 = format!("/ip6/::/udp/{}/quic-v1", port.unwrap()).parse().unwrap();
            if side.transport.listen_on(ListenerId::next(), v6).is_ok() {
                break;
            }
        }
    };
    within(both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_other_transports_are_left_to_them() {
    let mut transport = ours(&Keypair::generate_ed25519(), Tuning::default());
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    for text in ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1", "/dns4/example.org/udp/1/quic-v1"] {
        let address: Multiaddr = text.parse().unwrap();
        let listened = transport.listen_on(ListenerId::next(), address.clone()).err().unwrap();
        assert!(matches!(listened, TransportError::MultiaddrNotSupported(_)), "{listened:?}");
        let dialed = transport.dial(address, options).err().unwrap();
        assert!(matches!(dialed, TransportError::MultiaddrNotSupported(_)), "{dialed:?}");
    }
    for nowhere in ["/ip4/0.0.0.0/udp/1/quic-v1", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let dialed = transport.dial(nowhere.parse().unwrap(), options).err().unwrap();
        assert!(matches!(dialed, TransportError::MultiaddrNotSupported(_)), "{dialed:?}");
    }
}

/// A dial that nobody waits for any more leaves the other side no half-open connection for long.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_and_the_dial_ends() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let there = super::super::address::multiaddr_of(silent.local_addr().unwrap());
    let mut side = Side::new(Make::Ours);
    let begun = std::time::Instant::now();
    let error = within(side.dial(there, Endpoint::Dialer, PortUse::Reuse)).await.unwrap_err();
    assert!(begun.elapsed() < crate::config::HANDSHAKE_MAX + Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(crate::error::innermost(&error).contains("time"), "{error}");
}
