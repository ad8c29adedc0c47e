//! Between Fathom's names for peers and addresses and libp2p's.

use std::net::IpAddr;

use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::ADDRESS_BYTES_MAX;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::error::OverlayError;

/// What precedes the key in the peer id of an ed25519 key, which carries the key itself: the identity multihash of
/// 36 bytes, in which a protobuf holds field 1 (key type) = 1 and field 2 (key) of 32 bytes.
/// Source: the libp2p specification of peer ids.
const ED25519_PEER_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The key pair of a seed, and the node that it is.
pub(crate) fn keypair(mut seed: [u8; 32]) -> Result<(Keypair, NodeId), OverlayError> {
    // The seed is wiped from this copy by the constructor.
    let keypair =
        Keypair::ed25519_from_bytes(&mut seed).map_err(|error| OverlayError::Start { reason: error.to_string() })?;
    let node = node_of(&keypair.public().to_peer_id());
    let node = node.ok_or_else(|| OverlayError::Start { reason: "the key is not an ed25519 key".to_owned() })?;
    Ok((keypair, node))
}

/// The node that `peer` is, or `None` if its key is not ed25519.
pub(crate) fn node_of(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_slice(peer.to_bytes().strip_prefix(&ED25519_PEER_PREFIX)?)
}

/// The libp2p peer id of `node`.
pub(crate) fn peer_of(node: NodeId) -> Result<PeerId, OverlayError> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).map_err(|_| OverlayError::InvalidNode(node))?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// Parses `text`; splits off the peer that it names at its end.
pub(crate) fn parse_address(text: &str) -> Result<(Multiaddr, Option<PeerId>), OverlayError> {
    let invalid = |reason: String| OverlayError::InvalidAddress {
        address: text.chars().take(ADDRESS_BYTES_MAX).collect(),
        reason,
    };
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(invalid(format!("longer than {ADDRESS_BYTES_MAX} bytes")));
    }
    let mut address: Multiaddr = text.parse().map_err(|error: libp2p::multiaddr::Error| invalid(error.to_string()))?;
    let peer = match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            Some(peer)
        }
        _ => None,
    };
    if !address.iter().any(|part| part == Protocol::QuicV1) {
        return Err(invalid("it does not say udp/PORT/quic-v1".to_owned()));
    }
    Ok((address, peer))
}

/// `address` without the peer that it may name at its end.
pub(crate) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

/// The IP address in a multiaddress; none if there is a name instead.
pub(crate) fn ip_of(address: &str) -> Option<IpAddr> {
    address.parse::<Multiaddr>().ok()?.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// `address` as text that names `peer` at its end.
pub(crate) fn with_peer(address: Multiaddr, peer: PeerId) -> String {
    without_peer(address).with(Protocol::P2p(peer)).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_node_is_its_peer_id_and_back() {
        let (pair, node) = keypair([7; 32]).unwrap();
        let peer = pair.public().to_peer_id();
        assert_eq!(peer_of(node), Ok(peer));
        assert_eq!(node_of(&peer), Some(node));
        assert_eq!(node.as_bytes(), &pair.public().try_into_ed25519().unwrap().to_bytes());
        assert_eq!(node_of(&PeerId::random()), None, "a hashed key is no node");
        // y = 2 is on no point of the curve.
        let mut no_point = [0; 32];
        no_point[0] = 2;
        assert_eq!(peer_of(NodeId(no_point)), Err(OverlayError::InvalidNode(NodeId(no_point))));
    }

    #[test]
    fn addresses_are_parsed_and_bounded() {
        let (pair, _) = keypair([7; 32]).unwrap();
        let peer = pair.public().to_peer_id();
        let plain = "/ip4/127.0.0.1/udp/4600/quic-v1";
        let (address, named) = parse_address(plain).unwrap();
        assert_eq!((address.to_string().as_str(), named), (plain, None));
        let full = with_peer(address.clone(), peer);
        assert_eq!(parse_address(&full).unwrap(), (address, Some(peer)));
        for bad in ["", "x", "/ip4/1.2.3.4/tcp/1", "/ip4/300.1.1.1/udp/1/quic-v1"] {
            assert!(matches!(parse_address(bad), Err(OverlayError::InvalidAddress { .. })), "{bad}");
        }
        let long = format!("/dns4/{}/udp/1/quic-v1", "a".repeat(ADDRESS_BYTES_MAX));
        assert!(matches!(parse_address(&long), Err(OverlayError::InvalidAddress { .. })));
    }
}
