//! Between multiaddresses and UDP addresses: `/ip4/A/udp/P/quic-v1` and `/ip6/A/udp/P/quic-v1`, optionally with
//! `/p2p/ID` at the end.

use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// The UDP address that `address` names; `None` if it is of another form. Names are resolved before.
pub(crate) fn udp_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else { return None };
    let Protocol::QuicV1 = parts.next()? else { return None };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// As [`udp_of`], and something can be sent there.
pub(crate) fn dialable(address: &Multiaddr) -> Option<SocketAddr> {
    udp_of(address).filter(|to| to.port() != 0 && !to.ip().is_unspecified())
}

/// The multiaddress of `udp`.
pub(crate) fn multiaddr_of(udp: SocketAddr) -> Multiaddr {
    Multiaddr::from(udp.ip()).with(Protocol::Udp(udp.port())).with(Protocol::QuicV1)
}

/// Whether both are IPv4 or both IPv6, so that one socket serves both.
pub(crate) fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PEER: &str = "12D3KooW9xk7Zp1gejwfwNpfm6L9zH5NL4Bx5rm94LRYJJHJuARZ";

    #[test]
    fn addresses_are_read_and_written() {
        for (text, udp) in [
            ("/ip4/127.0.0.1/udp/1/quic-v1", "127.0.0.1:1"),
            ("/ip4/0.0.0.0/udp/0/quic-v1", "0.0.0.0:0"),
            ("/ip6/::1/udp/65535/quic-v1", "[::1]:65535"),
        ] {
            let address: Multiaddr = text.parse().unwrap();
            let udp: SocketAddr = udp.parse().unwrap();
            assert_eq!(udp_of(&address), Some(udp));
            assert_eq!(multiaddr_of(udp), address);
            let named: Multiaddr = format!("{text}/p2p/{PEER}").parse().unwrap();
            assert_eq!(udp_of(&named), Some(udp));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let circuit = format!("/ip4/1.2.3.4/udp/1/quic-v1/p2p/{PEER}/p2p-circuit");
        for text in [
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/udp/1",
            "/ip4/1.2.3.4/udp/1/quic",
            "/ip4/1.2.3.4/tcp/1",
            "/ip4/1.2.3.4/udp/1/quic-v1/webtransport",
            "/dns4/example.org/udp/1/quic-v1",
            &circuit,
        ] {
            assert_eq!(udp_of(&text.parse().unwrap()), None, "{text}");
        }
        for text in ["/ip4/0.0.0.0/udp/1/quic-v1", "/ip6/::1/udp/0/quic-v1"] {
            assert_eq!(dialable(&text.parse().unwrap()), None, "{text}");
        }
    }
}
