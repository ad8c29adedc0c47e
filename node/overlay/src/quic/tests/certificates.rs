//! Who a peer is, is what its certificate proves, and nothing else is let through.

use std::sync::Arc;

use libp2p::tls::certificate;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::super::address::{multiaddr_of, udp_of};
use super::super::{socket, tls};
use super::*;
use crate::config::Cipher;

type Chain = (Vec<CertificateDer<'static>>, Option<PrivateKeyDer<'static>>);

/// libp2p's extension of certificates, and what a node signs in it.
const EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];
const SIGNED: &[u8] = b"libp2p-tls-handshake:";

/// A certificate of `key` that says that it belongs to `node`, with `signature` for a proof.
fn certificate_of(key: &rcgen::KeyPair, extension: Option<(&Keypair, Vec<u8>)>) -> Chain {
    let mut params = rcgen::CertificateParams::default();
    if let Some((node, signature)) = extension {
        let public = node.public().encode_protobuf();
        // SEQUENCE { OCTET STRING, OCTET STRING }, each shorter than 128 bytes.
        let octets = |bytes: &[u8]| [&[0x04, bytes.len() as u8], bytes].concat();
        let body = [octets(&public), octets(&signature)].concat();
        let content = [&[0x30, body.len() as u8], body.as_slice()].concat();
        params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&EXTENSION, content));
    }
    let made = params.self_signed(key).unwrap();
    (vec![made.der().clone()], Some(PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

fn new_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn proof(node: &Keypair, key: &rcgen::KeyPair) -> Vec<u8> {
    node.sign(&[SIGNED, &key.public_key_der()].concat()).unwrap()
}

/// Certificates by which somebody pretends to be `victim`, or nobody.
fn forged(victim: &Keypair) -> Vec<(&'static str, Chain)> {
    let (own, stranger) = (new_key(), Keypair::generate_ed25519());
    let (real, real_key) = certificate::generate(victim).unwrap();
    let own_der = || Some(PrivatePkcs8KeyDer::from(own.serialize_der()).into());
    let (good, good_key) = certificate::generate(&stranger).unwrap();
    vec![
        ("no certificate", (Vec::new(), None)),
        ("no extension", certificate_of(&own, None)),
        ("another key was signed", certificate_of(&own, Some((victim, proof(victim, &new_key()))))),
        ("another node signed", certificate_of(&own, Some((victim, proof(&stranger, &own))))),
        ("the node's certificate without its key", (vec![real.clone()], own_der())),
        ("two certificates", (vec![good, real], Some(good_key.clone_key()))),
        ("a damaged certificate", (vec![CertificateDer::from(vec![0x30, 3, 1, 2, 3])], Some(real_key.clone_key()))),
    ]
}

/// Presents `chain`, however wrong it is, as either side.
#[derive(Debug)]
struct Presented(Option<Arc<rustls::sign::CertifiedKey>>);

impl Presented {
    fn new((chain, key): Chain) -> Self {
        let key = key.map(|key| rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).unwrap());
        Self(key.map(|key| Arc::new(rustls::sign::CertifiedKey::new(chain, key))))
    }
}

impl rustls::client::ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl rustls::server::ResolvesServerCert for Presented {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.clone()
    }
}

fn endpoint(server: Option<quinn::ServerConfig>) -> quinn::Endpoint {
    let socket = socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    quinn::Endpoint::new(quinn::EndpointConfig::default(), server, socket, Arc::new(quinn::TokioRuntime)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_dialer_is_not_let_in() {
    let mut side = Side::new(Make::Ours);
    let here = side.listen(V4).await;
    let victim = Keypair::generate_ed25519();
    let key = new_key();
    let honest = certificate_of(&key, Some((&victim, proof(&victim, &key))));
    for (what, chain) in forged(&victim).into_iter().chain([("honest", honest)]) {
        let mut config = tls::client(&victim, Cipher::Fastest).unwrap();
        config.client_auth_cert_resolver = Arc::new(Presented::new(chain));
        let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
        let endpoint = endpoint(None);
        // The dialer is done before the listener has seen its certificate: the listener's word counts.
        let connecting = endpoint.connect_with(client, udp_of(&here).unwrap(), "l").unwrap();
        let dialer = tokio::spawn(async move {
            if let Ok(connection) = connecting.await {
                connection.closed().await;
            }
        });
        let upgrade = loop {
            if let TransportEvent::Incoming { upgrade, .. } = within(side.transport.next()).await.unwrap() {
                break upgrade;
            }
        };
        let admitted = within(upgrade).await.map(|(peer, _)| peer);
        if what == "honest" {
            assert_eq!(admitted.unwrap(), victim.public().to_peer_id());
        } else {
            assert!(admitted.is_err(), "{what}: {admitted:?}");
        }
        drop(endpoint);
        dialer.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_listener_is_not_connected_to() {
    let mut side = Side::new(Make::Ours);
    let victim = Keypair::generate_ed25519();
    let key = new_key();
    let honest = certificate_of(&key, Some((&victim, proof(&victim, &key))));
    for (what, chain) in forged(&victim).into_iter().chain([("honest", honest)]) {
        let mut config = tls::server(&victim, Cipher::Fastest).unwrap();
        config.cert_resolver = Arc::new(Presented::new(chain));
        let tls = QuicServerConfig::try_from(config).unwrap();
        let endpoint = endpoint(Some(quinn::ServerConfig::with_crypto(Arc::new(tls))));
        let there = multiaddr_of(endpoint.local_addr().unwrap());
        let server = tokio::spawn(async move {
            if let Ok(connection) = endpoint.accept().await.unwrap().await {
                connection.closed().await;
            }
        });
        let reached = within(side.dial(there, Endpoint::Dialer, PortUse::Reuse)).await.map(|(peer, _)| peer);
        if what == "honest" {
            assert_eq!(reached.unwrap(), victim.public().to_peer_id());
        } else {
            assert!(reached.is_err(), "{what}: {reached:?}");
        }
        server.abort();
    }
}

/// Which cipher a dialer and a listener agree on.
fn agreed(dialer: Cipher, listener: Cipher) -> rustls::CipherSuite {
    let (one, two) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let client = Arc::new(tls::client(&one, dialer).unwrap());
    let server = Arc::new(tls::server(&two, listener).unwrap());
    let mut client = rustls::ClientConnection::new(client, "l".try_into().unwrap()).unwrap();
    let mut server = rustls::ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        pump(&wire, |bytes| server.read_tls(bytes));
        server.process_new_packets().unwrap();
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        pump(&wire, |bytes| client.read_tls(bytes));
        client.process_new_packets().unwrap();
    }
    let suite = client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), suite);
    suite
}

fn pump(mut wire: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !wire.is_empty() {
        read(&mut wire).unwrap();
    }
}

/// A side that computes AES slowly is not made to.
#[test]
fn aes_is_used_only_if_both_are_fast_at_it() {
    use rustls::CipherSuite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256};
    // Where the processor has none, the fastest is ChaCha20 as well.
    let fastest = if tls::has_aes() { TLS13_AES_128_GCM_SHA256 } else { TLS13_CHACHA20_POLY1305_SHA256 };
    assert_eq!(agreed(Cipher::Fastest, Cipher::Fastest), fastest);
    for (dialer, listener) in
        [(Cipher::Fastest, Cipher::ChaCha20), (Cipher::ChaCha20, Cipher::Fastest), (Cipher::ChaCha20, Cipher::ChaCha20)]
    {
        assert_eq!(agreed(dialer, listener), TLS13_CHACHA20_POLY1305_SHA256, "{dialer:?} {listener:?}");
    }
}
