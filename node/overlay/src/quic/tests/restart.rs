//! A node that was killed and started again.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use libp2p::identity::Keypair;
use quinn::ConnectionError;
use tokio::sync::watch;
use tokio::time::timeout;

use super::SOON;
use crate::config::{ConnectionCaps, Tuning};
use crate::quic::Settings;

const ANY: &str = "127.0.0.1:0";

fn endpoint(settings: &Settings) -> quinn::Endpoint {
    let (socket, server) = (UdpSocket::bind(ANY).unwrap(), Some(settings.server.clone()));
    quinn::Endpoint::new(settings.endpoint.clone(), server, socket, Arc::new(quinn::TokioRuntime)).unwrap()
}

/// An address behind which is whoever `target` names at the moment.
async fn address_of(target: watch::Receiver<SocketAddr>) -> SocketAddr {
    let front = tokio::net::UdpSocket::bind(ANY).await.unwrap();
    let back = tokio::net::UdpSocket::bind(ANY).await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut out, mut home) = ([0; 65_536], [0; 65_536]);
        let mut peer = None;
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut out) => {
                    peer = Some(from);
                    let to = *target.borrow();
                    back.send_to(&out[..length], to).await.unwrap();
                }
                Ok((length, from)) = back.recv_from(&mut home) => {
                    if let Some(peer) = peer.filter(|_| from == *target.borrow()) {
                        front.send_to(&home[..length], peer).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

/// Keeps away: a restarted node drops packets of its former life's connections unseen, and whoever holds one waits for its silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_says_that_it_knows_no_such_connection() {
    let settings = |keypair: &Keypair| Settings::new(keypair, &ConnectionCaps::default(), Tuning::default()).unwrap();
    let (keypair, other) = (Keypair::generate_ed25519(), settings(&Keypair::generate_ed25519()));
    let (before, client) = (endpoint(&settings(&keypair)), endpoint(&other));
    let (at, target) = watch::channel(before.local_addr().unwrap());
    let address = address_of(target).await;
    let connecting = async { client.connect_with(other.client.clone(), address, "l").unwrap().await.unwrap() };
    let accepting = async { before.accept().await.unwrap().await.unwrap() };
    let (connection, _accepted) = tokio::join!(connecting, accepting);

    let again = endpoint(&settings(&keypair));
    at.send(again.local_addr().unwrap()).unwrap();
    let (mut stream, _) = connection.open_bi().await.unwrap();
    stream.write_all(&[0; 1_000]).await.unwrap();
    assert_eq!(timeout(SOON, connection.closed()).await.unwrap(), ConnectionError::Reset);
}
