//! quinn's configuration, from what the node configures and what was measured.

use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;

use super::congestion::SoundingConfig;
use super::error::Error;
use super::flows::Flows;
use super::socket::Paced;
use super::tls;
use crate::config::{self, Congestion, ConnectionCaps, Tuning};
use crate::traffic::Traffic;

/// Separates the key of stateless resets from everything else that is derived from the node's key.
const RESET_LABEL: &[u8] = b"fathom quic stateless reset";
/// The same for the key of connection identifiers, which everybody on the path sees and which hide their key badly.
const IDENTIFIERS_LABEL: &[u8] = b"fathom quic connection identifiers";
/// Handshakes that wait for the swarm to look at them; more are refused by QUIC.
const INCOMING_MAX: usize = 512;
/// Bytes buffered for all handshakes that the swarm has not looked at.
const INCOMING_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Configurations for both sides and for the socket.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(super) client: quinn::ClientConfig,
    pub(super) server: quinn::ServerConfig,
    pub(super) endpoint: quinn::EndpointConfig,
    /// How long a handshake, or the wait for a peer behind a hole, may take.
    pub(super) handshake_max: Duration,
    /// What all sockets together may send and receive.
    pub(super) traffic: Arc<Traffic>,
    flows: Arc<Flows>,
}

impl Settings {
    /// The settings of the node that `keypair` is.
    ///
    /// # Errors
    /// [`Error::Setup`]: no certificate can be made, or the constants of this file contradict each other.
    pub(crate) fn new(keypair: &Keypair, caps: &ConnectionCaps, tuning: Tuning) -> Result<Self, Error> {
        let setup = |error: &dyn std::fmt::Display| Error::Setup(error.to_string());
        let flows = Arc::new(Flows::default());
        let transport = Arc::new(transport(caps, tuning, &flows)?);
        let tls = QuicClientConfig::try_from(tls::client(keypair, tuning.cipher)?).map_err(|error| setup(&error))?;
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(Arc::clone(&transport));
        let tls = QuicServerConfig::try_from(tls::server(keypair, tuning.cipher)?).map_err(|error| setup(&error))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        server.transport_config(transport);
        // libp2p's connections have one address for life; a peer whose address changes dials again.
        server.migration(false);
        server.max_incoming(INCOMING_MAX).incoming_buffer_size_total(INCOMING_BYTES_MAX);
        // The same keys after a restart: peers then learn at once that their connections have ended.
        let mut endpoint = match keypair.derive_secret(RESET_LABEL) {
            Some(secret) => quinn::EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret))),
            None => quinn::EndpointConfig::default(),
        };
        // A packet whose connection identifier was made with another key would be dropped rather than answered with a reset.
        if let Some(key) =
            keypair.derive_secret(IDENTIFIERS_LABEL).and_then(|secret| secret.first_chunk::<8>().copied())
        {
            let key = u64::from_le_bytes(key);
            endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
        }
        endpoint.supported_versions(vec![1]);
        Ok(Self { client, server, endpoint, handshake_max: config::HANDSHAKE_MAX, traffic: Arc::default(), flows })
    }

    /// What becomes of what is sent.
    pub(crate) fn flows(&self) -> &Arc<Flows> {
        &self.flows
    }

    /// The same with these caps and counts.
    pub(crate) fn shaped(self, traffic: Arc<Traffic>) -> Self {
        Self { traffic, ..self }
    }

    /// What drives quinn's sockets.
    pub(super) fn runtime(&self) -> Arc<Paced> {
        Arc::new(Paced(Arc::clone(&self.traffic)))
    }
}

fn transport(caps: &ConnectionCaps, tuning: Tuning, flows: &Arc<Flows>) -> Result<TransportConfig, Error> {
    let silence = IdleTimeout::try_from(config::SILENCE_MAX).map_err(|error| Error::Setup(error.to_string()))?;
    let streams = caps.inbound_streams_per_peer.saturating_add(config::STREAMS_OF_LIBP2P);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        // libp2p has neither one-way streams nor datagrams.
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(silence))
        .keep_alive_interval(Some(config::KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(config::STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(config::CONNECTION_WINDOW_BYTES))
        .send_window(config::SEND_WINDOW_BYTES)
        // Tells observers on the path the round trip; nobody needs it.
        .allow_spin(false)
        .congestion_controller_factory(controller(tuning.congestion, flows));
    Ok(transport)
}

fn controller(congestion: Congestion, flows: &Arc<Flows>) -> Arc<dyn ControllerFactory + Send + Sync> {
    match congestion {
        Congestion::Sounding => {
            Arc::new(SoundingConfig { initial_window: config::INITIAL_WINDOW_BYTES, flows: Arc::clone(flows) })
        }
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
    }
}
