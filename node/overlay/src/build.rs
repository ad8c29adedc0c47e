//! Puts the swarm together from a configuration. All tuning of libp2p is here, the numbers in `config`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::ids::Hash;
use fathom_protocol::limits::GOSSIP_BYTES_MAX;
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{
    self, MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicScoreParams, ValidationMode,
};
use libp2p::identity::Keypair;
use libp2p::{Swarm, SwarmBuilder, allow_block_list, connection_limits, identify, ping, swarm};

use crate::behaviour::Behaviour;
use crate::config::{self, ConnectionCaps, OverlayConfig, Tuning};
use crate::error::OverlayError;
use crate::names::{AGENT, Names};
use crate::quic::{Flows, Settings, Transport};
use crate::streams;
use crate::traffic::Traffic;

/// Connection tasks' events and commands that wait for the other side, each.
const CONNECTION_BUFFER: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
/// Inbound streams of one connection whose name is being agreed on; more wait unaccepted.
const NEGOTIATING_MAX: usize = 256;

/// A swarm that listens nowhere yet, and where it counts what it sends.
pub(crate) fn swarm(
    keypair: &Keypair,
    names: &Names,
    config: &OverlayConfig,
    tuning: Tuning,
    traffic: Arc<Traffic>,
    streams: streams::Behaviour,
) -> Result<(Swarm<Behaviour>, Arc<Flows>), OverlayError> {
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits(&config.limits)),
        bans: allow_block_list::Behaviour::default(),
        streams,
        identify: identify::Behaviour::new(identity(names, keypair)),
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(config::PING_EVERY).with_timeout(config::PING_MAX),
        ),
        gossip: gossip(names, keypair, config.gossip)?,
    };
    let start = |error: &dyn std::fmt::Display| OverlayError::Start { reason: error.to_string() };
    let settings = Settings::new(keypair, &config.limits, tuning).map_err(|error| start(&error))?.shaped(traffic);
    let builder = || {
        let settings = settings.clone();
        SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_other_transport(|_| Transport::new(settings))
            .map_err(|error| start(&error))
    };
    let swarm = match builder()?.with_dns() {
        Ok(builder) => builder.with_behaviour(|_| behaviour).map(|builder| builder.with_swarm_config(tuned).build()),
        // A machine without a readable resolver configuration can still use addresses that need no resolver.
        Err(error) => {
            tracing::warn!(%error, "no name resolution: addresses with names in them cannot be used");
            builder()?.with_behaviour(|_| behaviour).map(|builder| builder.with_swarm_config(tuned).build())
        }
    };
    // The error type has no values: this constructor of a behaviour cannot fail.
    Ok((swarm.map_err(|error| start(&error))?, Arc::clone(settings.flows())))
}

fn tuned(config: swarm::Config) -> swarm::Config {
    config
        .with_idle_connection_timeout(config::IDLE_MAX)
        .with_notify_handler_buffer_size(CONNECTION_BUFFER)
        .with_per_connection_event_buffer_size(CONNECTION_BUFFER.get())
        .with_max_negotiating_inbound_streams(NEGOTIATING_MAX)
        // Saves a round trip a stream. That the peer speaks a name is known before, from identify.
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
}

fn limits(caps: &ConnectionCaps) -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_established(Some(caps.connections))
        .with_max_established_per_peer(Some(caps.connections_per_peer))
        .with_max_pending_incoming(Some(caps.pending_inbound))
        .with_max_pending_outgoing(Some(caps.pending_outbound))
}

fn identity(names: &Names, keypair: &Keypair) -> identify::Config {
    identify::Config::new(names.identify.clone(), keypair.public())
        .with_agent_version(AGENT.to_owned())
        .with_interval(config::IDENTIFY_EVERY)
        // Addresses come from signed records; those of identify are unverified and would only be weight.
        .with_hide_listen_addrs(true)
        .with_push_listen_addr_updates(false)
        .with_cache_size(0)
}

/// A mesh for 2 to 100 mirrors: with up to 12 of them everybody is everybody's neighbour, beyond that each has 6 to 12.
fn gossip(names: &Names, keypair: &Keypair, subscribe: bool) -> Result<gossipsub::Behaviour, OverlayError> {
    let start = |reason: String| OverlayError::Start { reason };
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(GOSSIP_BYTES_MAX + config::GOSSIP_OVERHEAD_BYTES)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(config::GOSSIP_HEARTBEAT)
        .mesh_outbound_min(2)
        .mesh_n_low(6)
        .mesh_n(8)
        .mesh_n_high(12)
        .flood_publish(true)
        // A mirror that restarts is back in the mesh within seconds instead of a minute.
        .prune_backoff(Duration::from_secs(5))
        .unsubscribe_backoff(Duration::from_secs(1))
        .graft_flood_threshold(Duration::from_secs(2))
        .duplicate_cache_time(config::GOSSIP_DUPLICATE)
        // The same record from two publishers is one message.
        .message_id_fn(|message: &gossipsub::Message| MessageId::new(Hash::of(&message.data).as_bytes()))
        .build()
        .map_err(|error| start(error.to_string()))?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), config)
        .map_err(|error| start(error.to_owned()))?;
    gossip.with_peer_score(scores(names), PeerScoreThresholds::default()).map_err(start)?;
    if subscribe {
        gossip.subscribe(&names.topic).map_err(|error| start(error.to_string()))?;
    }
    Ok(gossip)
}

/// Only forgeries count against a peer: hints are rare, so that silence proves nothing, and many honest nodes may
/// share one address.
fn scores(names: &Names) -> PeerScoreParams {
    let topic = TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // Squared: 4 recent rejections and the peer gets no gossip, 9 and it is not listened to.
        invalid_message_deliveries_weight: -1.0,
        invalid_message_deliveries_decay: gossipsub::score_parameter_decay(Duration::from_secs(600)),
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: [(names.topic.hash(), topic)].into(),
        ip_colocation_factor_weight: 0.0,
        retain_score: Duration::from_secs(600),
        ..PeerScoreParams::default()
    }
}
