//! What every simulated node has in common: messages, timers, its clock, and what it may do in one step.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use fathom_protocol::codec;
use fathom_protocol::ids::NodeId;
use fathom_protocol::ledger::Terms;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::rehome::Thresholds;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{ChunkAnswer, Gossip, Request, Response};

use super::invariants::Oracle;
use super::mutation::Mutation;
use super::random::Random;
use super::report::Injected;

/// When the world begins.
pub(super) const EPOCH_MS: u64 = 1_800_000_000_000;
/// An answer that takes longer is not waited for, milliseconds.
pub(super) const ANSWER_MS: u64 = 2_500;

/// What goes from one node to another, as bytes: the real encodings and their limits are part of the test.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Request {
        call: u64,
        bytes: Vec<u8>,
    },
    Response {
        call: u64,
        bytes: Vec<u8>,
    },
    Chunk {
        call: u64,
        header: Vec<u8>,
        bytes: Vec<u8>,
    },
    Answer {
        call: u64,
        bytes: Vec<u8>,
    },
    Fetch {
        call: u64,
        bytes: Vec<u8>,
    },
    Fetched {
        call: u64,
        bytes: Option<Vec<u8>>,
    },
    Gossip {
        bytes: Vec<u8>,
    },
    /// The beginning of a frame that announces `length` bytes, by a stranger that sends no more.
    Opened {
        length: u64,
    },
}

impl Body {
    /// A short name, for traces.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Request { call, bytes } => match codec::decode::<Request>(bytes, FRAME_BYTES_MAX) {
                Ok(request) => format!("{} #{call}", word(&format!("{request:?}"))),
                Err(_) => format!("malformed request #{call}"),
            },
            Self::Response { call, bytes } => match codec::decode::<Response>(bytes, FRAME_BYTES_MAX) {
                Ok(Response::Refused(refusal)) => format!("Refused({:?}) #{call}", refusal.kind),
                Ok(response) => format!("{} #{call}", word(&format!("{response:?}"))),
                Err(_) => format!("malformed response #{call}"),
            },
            Self::Chunk { call, .. } => format!("Chunk #{call}"),
            Self::Answer { call, bytes } => match codec::decode::<ChunkAnswer>(bytes, FRAME_BYTES_MAX) {
                Ok(ChunkAnswer::Failed { refusal, .. }) => format!("Failed({:?}) #{call}", refusal.kind),
                Ok(answer) => format!("{} #{call}", word(&format!("{answer:?}"))),
                Err(_) => format!("malformed answer #{call}"),
            },
            Self::Fetch { call, .. } => format!("Fetch #{call}"),
            Self::Fetched { call, bytes } => format!("Fetched({}) #{call}", bytes.is_some()),
            Self::Gossip { .. } => "Gossip".to_owned(),
            Self::Opened { length } => format!("Opened({length})"),
        }
    }

    /// The bytes that go over the wire.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Request { bytes, .. }
            | Self::Response { bytes, .. }
            | Self::Answer { bytes, .. }
            | Self::Fetch { bytes, .. }
            | Self::Chunk { bytes, .. }
            | Self::Gossip { bytes } => bytes,
            Self::Fetched { bytes, .. } => bytes.as_deref().unwrap_or_default(),
            Self::Opened { .. } => &[],
        }
    }
}

fn word(debug: &str) -> &str {
    debug.split(['(', ' ', '{']).next().unwrap_or_default()
}

/// What a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Something that comes back regularly; what, its node knows.
    Every(u8),
    /// A call was not answered.
    Call(u64),
    /// A stranger's frame did not arrive.
    Frame(u64),
    /// What an allocation of a mirror waits for.
    Allocation(u64),
}

/// What a step asks of the world.
#[derive(Debug)]
pub(super) enum Effect {
    Send { to: usize, body: Body },
    Wait { ms: u64, timer: Timer },
}

/// What all nodes know of each other: discovery is not simulated.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) mirrors: Vec<usize>,
    pub(super) ids: Vec<NodeId>,
    pub(super) index: BTreeMap<NodeId, usize>,
    /// Nodes that do not follow the protocol.
    pub(super) byzantine: Vec<bool>,
    pub(super) terms: Terms,
    /// When vendors move data away, and how long they keep what they moved, milliseconds.
    pub(super) limits: Thresholds,
    pub(super) hold_ms: u64,
    /// Whether puts follow each other quickly, so that users lock storage ahead.
    pub(super) bursts: bool,
    /// Whether nothing goes wrong at all.
    pub(super) fair: bool,
    pub(super) mutation: Option<Mutation>,
}

impl Known {
    pub(super) fn broken(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

/// One step of one node.
pub(super) struct Cx<'a> {
    pub(super) me: usize,
    /// The node's own wall clock.
    pub(super) now: UnixMs,
    /// The world's true time since its start, for the oracle only.
    pub(super) at: u64,
    pub(super) random: &'a mut Random,
    pub(super) known: &'a Known,
    pub(super) oracle: &'a mut Oracle,
    pub(super) injected: &'a mut Injected,
    pub(super) calls: &'a mut u64,
    pub(super) out: Vec<Effect>,
}

impl Cx<'_> {
    pub(super) fn wait(&mut self, ms: u64, timer: Timer) {
        self.out.push(Effect::Wait { ms, timer });
    }

    pub(super) fn send(&mut self, to: usize, body: Body) {
        self.out.push(Effect::Send { to, body });
    }

    /// A new call's number; it fails after `ms`.
    pub(super) fn number(&mut self, ms: u64) -> u64 {
        *self.calls += 1;
        let call = *self.calls;
        self.wait(ms, Timer::Call(call));
        call
    }

    /// Asks `to`; the answer or `Timer::Call` follows.
    pub(super) fn ask(&mut self, to: usize, request: &Request) -> u64 {
        self.ask_within(to, request, ANSWER_MS)
    }

    pub(super) fn ask_within(&mut self, to: usize, request: &Request, ms: u64) -> u64 {
        let call = self.number(ms);
        self.send(to, Body::Request { call, bytes: codec::encode(request) });
        call
    }

    /// Tells `to`, and does not wait for an answer.
    pub(super) fn tell(&mut self, to: usize, request: &Request) {
        *self.calls += 1;
        let call = *self.calls;
        self.send(to, Body::Request { call, bytes: codec::encode(request) });
    }

    pub(super) fn reply(&mut self, to: usize, call: u64, response: &Response) {
        self.send(to, Body::Response { call, bytes: codec::encode(response) });
    }

    pub(super) fn gossip(&mut self, message: &Gossip) {
        let bytes = codec::encode(message);
        let (known, me) = (self.known, self.me);
        for mirror in known.mirrors.iter().filter(|mirror| **mirror != me) {
            self.send(*mirror, Body::Gossip { bytes: bytes.clone() });
        }
    }

    pub(super) fn id(&self, node: usize) -> NodeId {
        self.known.ids[node]
    }
}

/// A node's key.
pub(super) fn key(random: &mut Random) -> SigningKey {
    SigningKey::from_bytes(&random.bytes())
}
