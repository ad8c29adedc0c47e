//! What is said on the streams that carry chunks: to a vendor, and back from one.

use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::codec::Bounded;
use crate::ids::{ChunkId, NodeId, OwnerId};
use crate::limits::{ANSWERS_MAX, BUNDLE_CHUNKS_MAX};
use crate::receipt::Receipt;
use crate::sign::{Carried, record};
use crate::tags;
use crate::time::UnixMs;

/// What a vendor says back along the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkAnswer {
    /// Still at work.
    Alive,
    /// A vendor of the chain has it.
    Receipt(Carried<Receipt>),
    /// A vendor of the chain does not have it.
    Failed {
        /// Which.
        vendor: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing more will come.
    Done,
}

/// What is said of one of the chunks that came on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// Which: its place among the headers, from 0. Without meaning for [`ChunkAnswer::Alive`] and [`ChunkAnswer::Done`].
    pub number: u8,
    /// What.
    pub answer: ChunkAnswer,
}

/// One frame of answers about the chunks that came on a stream.
pub type ChunkAnswers = Bounded<Numbered, ANSWERS_MAX>;

/// What opens a fetch stream: the chunks that are wanted on it, each asked for by its owner.
pub type FetchRequests = Bounded<Carried<FetchRequest>, BUNDLE_CHUNKS_MAX>;

/// A request for the bytes of a chunk (figure 19).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who asks and signs.
    pub owner: OwnerId,
    /// Who is asked.
    pub vendor: NodeId,
    /// What.
    pub chunk: ChunkId,
    /// First byte wanted.
    pub offset: u32,
    /// Bytes wanted; the answer covers whole groups of 16 KiB around them.
    pub length: u32,
    /// After this the request is refused.
    pub expires: UnixMs,
}

record!(FetchRequest, tags::sign::FETCH, 1024, owner);

/// What precedes the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchAnswer {
    /// Still reading.
    Alive,
    /// The bao encoding of the range follows.
    Found {
        /// Length of the whole chunk, bytes.
        chunk_length: u32,
        /// Length of the encoding that follows, bytes.
        encoded_length: u32,
    },
    /// No.
    Refused(Refusal),
}
