//! What every role uses to reach other nodes: the overlay, the book of known peers, and calls with deadlines.
//!
//! A peer that is silent for [`SILENCE_MS`] or cannot be dialled is *suspected* for a while: it is asked last. Every wait in
//! here ends, so a peer that is stopped costs its callers about two seconds once, and then nothing.

pub mod book;
mod fetch;
mod links;
mod probe;
mod serve;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use fathom_overlay::{FrameError, Overlay, OverlayError, PeerStream, Proto, frame};
use fathom_protocol::codec;
use fathom_protocol::head::{Address, Addresses};
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{PeerRecord, Refusal, RefusalKind, Request, Response, Roles, SILENCE_MS};
use futures::future::BoxFuture;

use crate::clock;
use book::PeerBook;
pub use fetch::{Encoded, Fetching};
pub use links::LinkView;
use links::Links;
pub(crate) use links::UnderWay;
pub use serve::{Handler, serve_rpc};

/// Longest wait for a connection and a stream to a peer.
pub const DIAL: Duration = Duration::from_millis(1_500);
/// Longest silence of a peer that owes an answer.
pub const SILENCE: Duration = Duration::from_millis(SILENCE_MS);

/// The network as one node sees it. Cheap to clone.
#[derive(Clone)]
pub struct Net(Arc<Inner>, Class);

/// For what streams are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Somebody waits for it: put, get, and all that nodes ask each other.
    #[default]
    Foreground,
    /// Data that moves and copies that are made again: such streams have a share of the caps, and give way.
    Background,
}

struct Inner {
    overlay: Overlay,
    key: SigningKey,
    me: NodeId,
    roles: Roles,
    book: PeerBook,
    local: OnceLock<Local>,
    links: Links,
}

/// What answers a node's calls to itself: its roles call each other like any other node.
pub type Local = Box<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Net({})", self.0.me.short())
    }
}

impl Net {
    /// A network view over a started overlay.
    #[must_use]
    pub fn new(overlay: Overlay, key: SigningKey, roles: Roles, book: PeerBook) -> Self {
        let me = NodeId(key.verifying_key().to_bytes());
        let inner = Inner { overlay, key, me, roles, book, local: OnceLock::new(), links: Links::default() };
        Self(Arc::new(inner), Class::Foreground)
    }

    /// The same network, whose streams are opened for work of this class.
    #[must_use]
    pub fn class(&self, class: Class) -> Self {
        Self(Arc::clone(&self.0), class)
    }

    /// `stream`, which was opened without [`Net::open`], in the class of this view.
    #[must_use]
    pub fn classed(&self, stream: PeerStream) -> PeerStream {
        match self.1 {
            Class::Foreground => stream,
            Class::Background => self.0.overlay.in_background(stream),
        }
    }

    /// Sets what answers calls of this node to itself. Only the first setting counts.
    pub fn set_local(&self, local: Local) {
        // A second setting would come from a second dispatcher of one node, which does not happen.
        let _ = self.0.local.set(local);
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.0.me
    }

    /// This node's signing key.
    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.0.key
    }

    /// The overlay, for gossip and shutdown.
    #[must_use]
    pub fn overlay(&self) -> &Overlay {
        &self.0.overlay
    }

    /// Who is known, and how they behaved.
    #[must_use]
    pub fn book(&self) -> &PeerBook {
        &self.0.book
    }

    /// Addresses under which others can dial this node, at most as many as a record takes.
    pub async fn addresses(&self) -> Addresses {
        let listening = self.0.overlay.listen_addresses().await;
        Addresses::first(listening.into_iter().filter_map(|address| Address::new(address).ok()))
    }

    /// This node's signed announcement.
    pub async fn announcement(&self) -> Option<Signed<PeerRecord>> {
        let record = PeerRecord {
            version: fathom_protocol::tags::VERSION,
            node: self.0.me,
            roles: self.0.roles,
            addresses: self.addresses().await,
            issued: clock::now(),
        };
        Signed::sign(record, &self.0.key).ok()
    }

    /// Opens a stream to a known peer, dialling if needed.
    ///
    /// # Errors
    /// A [`Refusal`] of kind `Unreachable` or `Silent`; the peer is then suspected.
    pub async fn open(&self, to: NodeId, proto: Proto) -> Result<PeerStream, Refusal> {
        let addresses = self.0.book.addresses(to);
        match self.0.overlay.open(to, &addresses, proto, DIAL).await {
            Ok(stream) => Ok(self.classed(stream)),
            Err(error) => {
                self.suspect(to);
                Err(overlay_refusal(to, &error))
            }
        }
    }

    /// Asks `to` one thing. Ends after `deadline`, or after [`SILENCE`] without a sign of life.
    ///
    /// # Errors
    /// The peer's own [`Refusal`], or one of kind `Unreachable` or `Silent`.
    pub async fn call(&self, to: NodeId, request: &Request, deadline: Duration) -> Result<Response, Refusal> {
        if to == self.0.me
            && let Some(local) = self.0.local.get()
        {
            return match tokio::time::timeout(deadline, local(request.clone())).await {
                Ok(Response::Refused(refusal)) => Err(refusal),
                Ok(response) => Ok(response),
                Err(_) => Err(silent(to)),
            };
        }
        let answer = tokio::time::timeout(deadline, self.ask(to, request)).await;
        match answer {
            Ok(Ok((Response::Refused(refusal), _))) => Err(refusal),
            Ok(Ok((response, took))) => {
                self.0.book.answered(to, matches!(request, Request::Ping).then_some(took));
                if let Response::Here(at) = response {
                    self.placed(to, took.as_secs_f64() * 1e6, at);
                }
                Ok(response)
            }
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => {
                self.suspect(to);
                Err(silent(to))
            }
        }
    }

    /// Notes that `node` failed: it is asked last for a while, and the next stream to it dials anew.
    pub fn suspect(&self, node: NodeId) {
        self.0.book.suspect(node);
        self.0.overlay.suspect(node);
    }

    /// Waits until a header was handed to the transport (`begun`), or until `to` is suspected: a stream that waits for the window
    /// of a connection shares its fate with those that have begun.
    pub async fn begun(&self, to: NodeId, begun: tokio::sync::oneshot::Receiver<()>) {
        self.0.book.begun(to, begun).await;
    }

    /// The answer, and how long it took once there was a connection.
    async fn ask(&self, to: NodeId, request: &Request) -> Result<(Response, Duration), Refusal> {
        let mut stream = self.open(to, Proto::Rpc).await?;
        let asked = Instant::now();
        let failed = |error: FrameError| {
            self.suspect(to);
            frame_refusal(to, &error)
        };
        frame::write_frame_within(&mut stream, &codec::encode(request), SILENCE).await.map_err(failed)?;
        loop {
            let answer = frame::read_frame_within(&mut stream, FRAME_BYTES_MAX, SILENCE).await.map_err(failed)?;
            let answer: Response = codec::decode(&answer, FRAME_BYTES_MAX).map_err(|error| {
                Refusal::new(RefusalKind::BadRequest, format!("{} answered badly: {error}", to.short()))
            })?;
            if answer != Response::Alive {
                return Ok((answer, asked.elapsed()));
            }
        }
    }
}

/// The refusal for a peer that said nothing in time.
#[must_use]
pub fn silent(peer: NodeId) -> Refusal {
    Refusal::new(RefusalKind::Silent, format!("{} said nothing for {} s", peer.short(), SILENCE_MS / 1000))
}

/// The refusal for an overlay failure.
#[must_use]
pub fn overlay_refusal(peer: NodeId, error: &OverlayError) -> Refusal {
    Refusal::new(RefusalKind::Unreachable, format!("{} cannot be reached: {error}", peer.short()))
}

/// The refusal for a stream that broke or went silent.
#[must_use]
pub fn frame_refusal(peer: NodeId, error: &FrameError) -> Refusal {
    match error {
        FrameError::TimedOut(_) => silent(peer),
        other => Refusal::new(RefusalKind::Unreachable, format!("{} broke off: {other}", peer.short())),
    }
}
