//! The TLS side of a handshake: libp2p's self-signed certificates, which carry the node's key, and the order of ciphers.
//!
//! `libp2p-tls` makes and reads the certificates. Its verifier is private and its cipher order fixed, with ChaCha20
//! first; so the verifier here is ours, on top of its certificate parser.
//!
//! Source: the libp2p specification of the TLS handshake.

use std::sync::Arc;

use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use libp2p::{PeerId, tls};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use super::error::Error;
use crate::config::Cipher;

/// What libp2p's QUIC peers agree to speak.
const ALPN: &[u8] = b"libp2p";
/// The specification allows nothing older.
static VERSIONS: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// The side that dials. It does not ask for a certain peer: whom it has reached, the swarm compares with whom it
/// meant, and says which of the two it was.
pub(crate) fn client(keypair: &Keypair, cipher: Cipher) -> Result<ClientConfig, Error> {
    // The certificate with its resolver is taken over; the rest of this configuration is not.
    let made = tls::make_client_config(keypair, None).map_err(setup)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider(cipher)))
        .with_protocol_versions(&VERSIONS)
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier))
        .with_client_cert_resolver(made.client_auth_cert_resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Tickets are filed by the server's name, and all peers have the same one.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The side that listens.
pub(crate) fn server(keypair: &Keypair, cipher: Cipher) -> Result<ServerConfig, Error> {
    let made = tls::make_server_config(keypair).map_err(setup)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider(cipher)))
        .with_protocol_versions(&VERSIONS)
        .map_err(setup)?
        .with_client_cert_verifier(Arc::new(Verifier))
        .with_cert_resolver(made.cert_resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    // The dialing side's order counts, so that AES is used where both have it in hardware, unless this side has not.
    config.ignore_client_order = !first_is_aes(cipher);
    Ok(config)
}

/// The peer whose certificate the handshake of `connection` has verified.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Result<PeerId, Error> {
    let identity = connection.peer_identity().ok_or(Error::Anonymous)?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| Error::Anonymous)?;
    let certificate = certificate::parse(chain.first().ok_or(Error::Anonymous)?).map_err(|_| Error::Anonymous)?;
    Ok(certificate.peer_id())
}

fn provider(cipher: Cipher) -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // QUIC's first packets are always AES-128-GCM, so it has to be among them, whatever the order.
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    if !first_is_aes(cipher) {
        provider.cipher_suites.rotate_right(1);
    }
    provider
}

fn first_is_aes(cipher: Cipher) -> bool {
    match cipher {
        Cipher::Fastest => has_aes(),
        Cipher::ChaCha20 => false,
    }
}

/// Whether the processor computes AES-GCM itself. Without, it is slower than ChaCha20.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
pub(super) fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn has_aes() -> bool {
    false
}

/// Accepts exactly one certificate, signed by its own key, that carries a node's key and that node's signature over
/// the certificate's key; and the handshake's signature by the certificate's key.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn chain(end_entity: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("a libp2p peer has exactly one certificate".to_owned()));
        }
        // Parsing verifies.
        certificate::parse(end_entity).map(|_| ()).map_err(rustls::Error::from)
    }

    fn handshake(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let certificate = certificate::parse(certificate).map_err(rustls::Error::from)?;
        certificate.verify_signature(signed.scheme, message, signed.signature()).map_err(rustls::Error::from)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Elliptic curves before RSA, as the specification asks.
    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::chain(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::handshake(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    // A peer that does not say who it is, is none: by default a certificate is asked for and is mandatory.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::chain(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::handshake(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

fn too_old() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn setup(error: impl std::fmt::Display) -> Error {
    Error::Setup(error.to_string())
}
