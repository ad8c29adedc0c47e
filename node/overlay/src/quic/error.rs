//! What can go wrong below libp2p, worded to follow "cannot reach PEER:".

use std::io;
use std::net::SocketAddr;

use libp2p::core::transport::TransportError;

/// Why a listener, a dial or a connection failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A dial could not begin.
    #[error(transparent)]
    Dial(#[from] quinn::ConnectError),
    /// A connection was refused, broke, or was closed.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Certificates, ciphers or limits that do not fit together.
    #[error("cannot set up QUIC: {0}")]
    Setup(String),
    /// Nothing, or not enough, came back in time.
    #[error("no handshake in time")]
    HandshakeTimedOut,
    /// The other side's certificate names nobody.
    #[error("the other side did not say who it is")]
    Anonymous,
    /// A hole is punched from a socket that listens, and there is none of that address family.
    #[error("not listening, so the other side cannot be let in")]
    NotListening,
    /// Two holes to one place would take each other's connection.
    #[error("{0} is being let in already")]
    PunchingAlready(SocketAddr),
}

impl From<Error> for TransportError<Error> {
    fn from(error: Error) -> Self {
        TransportError::Other(error)
    }
}
