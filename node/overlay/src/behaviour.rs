//! What the swarm is made of. Each part's events have their own file under `swarm/`.

use libp2p::allow_block_list::BlockedPeers;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{allow_block_list, connection_limits, gossipsub, identify, ping};

use crate::streams;

/// The parts, in the order in which they judge a new connection: caps and bans before anything is set up for it.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) bans: allow_block_list::Behaviour<BlockedPeers>,
    pub(crate) streams: streams::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) gossip: gossipsub::Behaviour,
}
