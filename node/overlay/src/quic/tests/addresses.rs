//! From which port a dial goes out, and what a node learns of its own address.

use libp2p::swarm::dial_opts::DialOpts as SwarmDial;
use libp2p::swarm::{DialError, NetworkBehaviour, SwarmEvent, dummy};
use libp2p::{Swarm, SwarmBuilder, identify};

use super::*;

fn port(address: &Multiaddr) -> String {
    address.to_string().split('/').nth(4).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_goes_out_from_the_listening_port_unless_another_is_asked_for() {
    for other in [Make::Ours, Make::Libp2p] {
        let (mut ours, mut theirs) = (Side::new(Make::Ours), Side::new(other));
        let address = theirs.listen(V4).await;
        // Not listening: two dials share a port.
        let first = meet(&mut ours, &mut theirs, address.clone(), PortUse::Reuse).await;
        let second = meet(&mut ours, &mut theirs, address.clone(), PortUse::Reuse).await;
        assert_eq!(first.seen_at, second.seen_at);
        // Listening on the other family changes nothing.
        ours.listen(V6).await;
        let third = meet(&mut ours, &mut theirs, address.clone(), PortUse::Reuse).await;
        assert_eq!(first.seen_at, third.seen_at);
        let here = ours.listen(V4).await;
        let fourth = meet(&mut ours, &mut theirs, address.clone(), PortUse::Reuse).await;
        assert_eq!(fourth.seen_at, here);
        let fifth = meet(&mut ours, &mut theirs, address, PortUse::New).await;
        assert!(fifth.seen_at != here && fifth.seen_at != first.seen_at, "{}", fifth.seen_at);
        // Connections of before live on.
        let echo = tokio::spawn(echo(first.listener.1, 1));
        let mut old = first.dialer.1;
        call(open(&mut old).await, bytes(1000, 1)).await;
        within(echo).await.unwrap();
        // Both sides can reach each other at the same pair of ports.
        meet(&mut theirs, &mut ours, here, PortUse::Reuse).await;
    }
}

/// The addresses that a peer sees and tells by identify: they become candidates for this node's own address, with
/// the listening port also if the dial went out from another.
#[tokio::test(flavor = "multi_thread")]
async fn observed_addresses_are_translated_to_the_listening_port() {
    for (make, other) in PAIRS {
        for new_port in [false, true] {
            let (mut here, mut there) = (swarm(make, identify), swarm(other, identify));
            let listening = listening(&mut here).await;
            let address = self::listening(&mut there).await;
            let dial = SwarmDial::peer_id(*there.local_peer_id()).addresses(vec![address]);
            here.dial(if new_port { dial.allocate_new_port().build() } else { dial.build() }).unwrap();
            let candidate = async {
                loop {
                    tokio::select! {
                        event = here.select_next_some() => {
                            if let SwarmEvent::NewExternalAddrCandidate { address } = event {
                                break address;
                            }
                        }
                        _ = there.select_next_some() => {}
                    }
                }
            };
            let candidate = within(candidate).await;
            assert_eq!(candidate, listening, "{make:?} {other:?} {new_port}");
            assert_ne!(port(&candidate), "0");
        }
    }
}

/// Somebody else answers: the swarm of either make says who.
#[tokio::test(flavor = "multi_thread")]
async fn another_peer_than_the_one_asked_for_is_refused() {
    for (make, other) in PAIRS {
        let (mut here, mut there) = (swarm(make, |_| dummy::Behaviour), swarm(other, |_| dummy::Behaviour));
        let address = listening(&mut there).await;
        let asked_for = PeerId::random();
        here.dial(SwarmDial::peer_id(asked_for).addresses(vec![address]).build()).unwrap();
        let error = async {
            loop {
                tokio::select! {
                    event = here.select_next_some() => match event {
                        SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => break (peer_id, error),
                        SwarmEvent::ConnectionEstablished { .. } => panic!("connected to somebody else"),
                        _ => {}
                    },
                    _ = there.select_next_some() => {}
                }
            }
        };
        let (peer, error) = within(error).await;
        assert_eq!(peer, Some(asked_for));
        assert!(matches!(error, DialError::WrongPeerId { obtained, .. } if obtained == *there.local_peer_id()));
    }
}

fn identify(keypair: &Keypair) -> identify::Behaviour {
    identify::Behaviour::new(identify::Config::new("/test/1".to_owned(), keypair.public()))
}

fn swarm<B: NetworkBehaviour>(make: Make, behaviour: impl FnOnce(&Keypair) -> B) -> Swarm<B> {
    let keypair = Keypair::generate_ed25519();
    let builder = SwarmBuilder::with_existing_identity(keypair.clone()).with_tokio();
    let config = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(SOON);
    match make {
        Make::Ours => builder
            .with_other_transport(|_| ours(&keypair, Tuning::default()))
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(config)
            .build(),
        Make::Libp2p => builder
            .with_other_transport(|_| libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(&keypair)))
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(config)
            .build(),
    }
}

async fn listening<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
    swarm.listen_on(V4.parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = within(swarm.select_next_some()).await {
            return address;
        }
    }
}
