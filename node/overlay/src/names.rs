//! Every name that this crate puts on the wire. All carry the network's id, so that nodes of two networks that
//! meet by accident agree on nothing.

use std::fmt;

use fathom_protocol::ids::NetworkId;
use libp2p::StreamProtocol;
use libp2p::gossipsub::IdentTopic;

/// Hexadecimal digits of the network id in a name: 64 bits tell networks apart without making each stream pay for 128.
const NETWORK_DIGITS: usize = 16;

/// What identify reports as the software.
pub(crate) const AGENT: &str = concat!("fathom/", env!("CARGO_PKG_VERSION"));

/// The kinds of stream between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proto {
    /// One request frame and one answer frame a stream.
    Rpc,
    /// The pipelined put of chunks.
    Chunk,
    /// The get of chunks.
    Fetch,
}

impl Proto {
    /// Every kind, in the order in which a node offers them.
    pub const ALL: [Self; 3] = [Self::Rpc, Self::Chunk, Self::Fetch];

    /// The word for it in stream names and messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Chunk => "chunk",
            Self::Fetch => "fetch",
        }
    }

    /// The version of what is said on such streams.
    fn version(self) -> u8 {
        match self {
            Self::Rpc => 1,
            // Several chunks on one stream.
            Self::Chunk | Self::Fetch => 2,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The names of one network.
#[derive(Debug)]
pub(crate) struct Names {
    streams: [(Proto, StreamProtocol); 3],
    /// What identify announces as the protocol version; two nodes talk only if theirs are equal. It carries the whole id.
    pub(crate) identify: String,
    /// The gossip topic of hints.
    pub(crate) topic: IdentTopic,
}

impl Names {
    pub(crate) fn of(network: NetworkId) -> Self {
        let whole = network.to_string();
        let short = &whole[..NETWORK_DIGITS];
        let stream = |proto: Proto| {
            let name = format!("/fathom/{short}/{}/{}", proto.word(), proto.version());
            // The only refusal is of a name without the leading slash.
            let name = StreamProtocol::try_from_owned(name).unwrap_or(StreamProtocol::new("/fathom/unnamed"));
            (proto, name)
        };
        Self {
            streams: Proto::ALL.map(stream),
            identify: format!("/fathom/{whole}/1"),
            topic: IdentTopic::new(format!("/fathom/{short}/hint/1")),
        }
    }

    /// A node of the network that speaks a later version of `proto`'s streams only.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn with_later(mut self, proto: Proto) -> Self {
        let later = format!("{}0", self.stream(proto).as_ref());
        self.streams[proto as usize].1 = StreamProtocol::try_from_owned(later).unwrap();
        self
    }

    /// The name of `proto`'s streams.
    pub(crate) fn stream(&self, proto: Proto) -> StreamProtocol {
        self.streams[proto as usize].1.clone()
    }

    /// All stream names, in the order of [`Proto::ALL`].
    pub(crate) fn streams(&self) -> [StreamProtocol; 3] {
        Proto::ALL.map(|proto| self.stream(proto))
    }

    /// Which kind of stream `name` is.
    pub(crate) fn proto(&self, name: &StreamProtocol) -> Option<Proto> {
        self.streams.iter().find(|(_, known)| known == name).map(|(proto, _)| *proto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_network() {
        let names = Names::of(NetworkId([0xab; 16]));
        assert_eq!(names.stream(Proto::Rpc).as_ref(), "/fathom/abababababababab/rpc/1");
        assert_eq!(names.stream(Proto::Chunk).as_ref(), "/fathom/abababababababab/chunk/2");
        assert_eq!(names.stream(Proto::Fetch).as_ref(), "/fathom/abababababababab/fetch/2");
        assert_eq!(names.identify, "/fathom/abababababababababababababababab/1");
        assert_eq!(names.topic.to_string(), "/fathom/abababababababab/hint/1");
        for proto in Proto::ALL {
            assert_eq!(names.proto(&names.stream(proto)), Some(proto));
        }
    }
}
