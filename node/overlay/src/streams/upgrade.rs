//! Agreeing on a stream's name; nothing else happens before the stream is handed on.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::{Stream, StreamProtocol};

use crate::names::{Names, Proto};

/// Accepts any of the node's names.
pub(crate) struct Accept(pub(super) Arc<Names>);

impl UpgradeInfo for Accept {
    type Info = StreamProtocol;
    type InfoIter = std::array::IntoIter<StreamProtocol, 3>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.streams().into_iter()
    }
}

impl InboundUpgrade<Stream> for Accept {
    /// `None` for a name that was not offered, which libp2p does not let happen.
    type Output = Option<(Proto, Stream)>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok(self.0.proto(&name).map(|proto| (proto, stream))))
    }
}

/// Proposes one name.
pub(crate) struct Propose(pub(super) StreamProtocol);

impl UpgradeInfo for Propose {
    type Info = StreamProtocol;
    type InfoIter = std::iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.0.clone())
    }
}

impl OutboundUpgrade<Stream> for Propose {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}
