//! The header of a chunk: one signed entry per vendor on its way (figures 9 to 12).
//!
//! Each hop is signed on its own, by the authority of that vendor's lease, over everything that matters to it: the
//! chunk, its length, its place in the list, and who comes next. So a vendor takes itself off the front and the rest still
//! verifies, while hops that were reordered, added, swapped or taken from another chunk are seen before a byte is stored or
//! a peer is dialled.

use serde::{Deserialize, Serialize};

use crate::codec::Bounded;
use crate::familiar::Familiar;
use crate::head::Addresses;
use crate::ids::{ChunkId, FileId, NodeId, OwnerId};
use crate::lease::Lease;
use crate::limits::{BUNDLE_CHUNKS_MAX, CHUNK_BYTES_MAX, HOPS_MAX, PARTS_MAX};
use crate::sign::{Carried, RecordError, Signed, SignerId, record};
use crate::tags;
use crate::time::UnixMs;

/// How far a vendor must split a chunk over its own devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitPolicy {
    /// No sub-chunk is longer, in bytes.
    pub part_bytes_max: u32,
    /// At least so many sub-chunks, where the chunk has as many bytes.
    pub parts_min: u8,
}

impl SplitPolicy {
    /// Number of sub-chunks for a chunk of `length` bytes; 1 to [`PARTS_MAX`].
    #[must_use]
    pub fn parts(self, length: u32) -> usize {
        let by_size = length.div_ceil(self.part_bytes_max.max(1)) as usize;
        by_size.max(self.parts_min as usize).min(length.max(1) as usize).clamp(1, PARTS_MAX)
    }
}

/// The part of a header that is for one vendor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Whose data it is.
    pub owner: OwnerId,
    /// Who signs this hop: the lease's authority.
    pub authority: SignerId,
    /// The file that the chunk belongs to.
    pub file: FileId,
    /// The sequence number of the final FAT for which it is stored.
    pub seq: u64,
    /// BLAKE3 of the ciphertext.
    pub chunk: ChunkId,
    /// Length of the ciphertext, 1 to [`CHUNK_BYTES_MAX`] bytes.
    pub length: u32,
    /// After this the header is refused.
    pub expires: UnixMs,
    /// Place in the list as the sender made it, from 0.
    pub position: u8,
    /// Who stores.
    pub vendor: NodeId,
    /// Where to dial it.
    pub addresses: Addresses,
    /// Its lease: the vendor's own signature shows that it consented.
    pub lease: Carried<Lease>,
    /// How far it must split the chunk.
    pub split: SplitPolicy,
    /// Who comes after it, if anybody.
    pub next: Option<NodeId>,
}

record!(
    Hop,
    tags::sign::HOP,
    4 * 1024,
    authority,
    fn check(&self) -> Result<(), RecordError> {
        if self.length == 0 || self.length as usize > CHUNK_BYTES_MAX {
            return Err(RecordError::Invalid("a chunk's length is out of range"));
        }
        Ok(())
    }
);

/// The header: the hops that are still ahead, the receiver first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version, [`tags::VERSION`].
    pub version: u16,
    /// The hops.
    pub hops: Bounded<Carried<Hop>, HOPS_MAX>,
}

/// Why a header was refused. Nothing was stored and nobody was dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A hop did not decode or verify.
    #[error("hop {position}: {error}")]
    Hop {
        /// Index from the front of the list.
        position: usize,
        /// What was wrong.
        error: RecordError,
    },
    /// An unknown version.
    #[error("version {0} is not known here; one of the two nodes needs an update")]
    Version(u16),
    /// No hop at all.
    #[error("the header has no hop")]
    NoHops,
    /// The first hop is for somebody else.
    #[error("the first hop is for another vendor")]
    NotForMe,
    /// The hops are not the list that was signed.
    #[error("the hops are not in the order that was signed")]
    Order,
    /// The hops do not belong to one chunk.
    #[error("the hops belong to different chunks")]
    Mixed,
    /// A vendor comes twice.
    #[error("the route visits a vendor twice")]
    Loop,
    /// Past its expiry.
    #[error("the header has expired")]
    Expired,
    /// Chunks of one stream that go different ways.
    #[error("the chunks go different ways")]
    Ways,
    /// The chunks of one stream are longer than a chunk can be.
    #[error("the chunks have {0} bytes together, the limit is {CHUNK_BYTES_MAX}")]
    TooMuch(u64),
    /// A hop whose lease was not signed by that vendor for this owner and authority.
    #[error("hop {0} names a vendor that did not consent")]
    NoConsent(usize),
}

/// What opens a stream of chunks: their headers, in the order in which their bytes follow. All go the same way.
pub type Headers = Bounded<Header, BUNDLE_CHUNKS_MAX>;

/// What a vendor reads from a header.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its own hop.
    pub mine: Signed<Hop>,
    /// The next hop, whose vendor consented by its lease's signature.
    pub next: Option<Signed<Hop>>,
    /// The header to send on: this vendor taken off.
    pub rest: Header,
}

impl Header {
    /// A header from hops in sending order.
    ///
    /// # Errors
    /// [`crate::codec::TooMany`] above [`HOPS_MAX`].
    pub fn new(hops: Vec<Signed<Hop>>) -> Result<Self, crate::codec::TooMany> {
        let hops = hops.into_iter().map(Signed::into_carried).collect();
        Ok(Self { version: tags::VERSION, hops: Bounded::new(hops)? })
    }

    /// Reads and checks the header at vendor `me`: cheap comparisons first, then every hop's signature, then the next
    /// vendor's consent.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn arrive(self, me: NodeId, now: UnixMs) -> Result<Arrived, HeaderError> {
        self.arrive_knowing(me, now, &Familiar::new(1))
    }

    /// As [`Self::arrive`] at a vendor that remembers which leases verified.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn arrive_knowing(self, me: NodeId, now: UnixMs, leases: &Familiar) -> Result<Arrived, HeaderError> {
        self.look(me, now)?;
        self.verify(leases)
    }

    /// What can be seen without a signature being verified. The vendor's own hop and who is next, as they were read.
    fn look(&self, me: NodeId, now: UnixMs) -> Result<(u32, Option<NodeId>), HeaderError> {
        if self.version != tags::VERSION {
            return Err(HeaderError::Version(self.version));
        }
        let hops: Vec<Hop> = self
            .hops
            .iter()
            .enumerate()
            .map(|(position, hop)| hop.peek().map_err(|error| HeaderError::Hop { position, error }))
            .collect::<Result<_, _>>()?;
        check_route(&hops, me, now)?;
        hops.first().map(|hop| (hop.length, hop.next)).ok_or(HeaderError::NoHops)
    }

    /// Verifies every hop, and the next vendor's consent.
    fn verify(self, leases: &Familiar) -> Result<Arrived, HeaderError> {
        let mut signed = Vec::with_capacity(self.hops.len());
        for (position, hop) in self.hops.iter().enumerate() {
            signed.push(hop.clone().verify().map_err(|error| HeaderError::Hop { position, error })?);
        }
        let mut signed = signed.into_iter();
        let Some(mine) = signed.next() else { return Err(HeaderError::NoHops) };
        let next = signed.next();
        if let Some(next) = &next {
            consents_knowing(next, leases).map_err(|_| HeaderError::NoConsent(1))?;
        }
        let rest = Self { version: self.version, hops: Bounded::first(self.hops.into_iter().skip(1)) };
        Ok(Arrived { mine, next, rest })
    }
}

/// Headers of chunks that come on one stream, looked at and not yet verified.
#[derive(Clone, Debug)]
pub struct Looked(Headers);

impl Looked {
    /// Looks at headers at vendor `me`, without verifying a signature: each by itself, that all go the same way, and that their
    /// chunks are together no longer than one may be.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn at(headers: Headers, me: NodeId, now: UnixMs) -> Result<Self, HeaderError> {
        let looked: Vec<_> = headers.iter().map(|header| header.look(me, now)).collect::<Result<_, _>>()?;
        let (_, way) = looked.first().ok_or(HeaderError::NoHops)?;
        if looked.iter().any(|(_, next)| next != way) {
            return Err(HeaderError::Ways);
        }
        let bytes = looked.iter().map(|(length, _)| u64::from(*length)).sum();
        if bytes > CHUNK_BYTES_MAX as u64 {
            return Err(HeaderError::TooMuch(bytes));
        }
        Ok(Self(headers))
    }

    /// Verifies them, as [`Header::arrive_knowing`] does; in their order.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn verify(self, leases: &Familiar) -> Result<Vec<Arrived>, HeaderError> {
        self.0.into_iter().map(|header| header.verify(leases)).collect()
    }
}

fn check_route(hops: &[Hop], me: NodeId, now: UnixMs) -> Result<(), HeaderError> {
    let first = hops.first().ok_or(HeaderError::NoHops)?;
    if first.vendor != me {
        return Err(HeaderError::NotForMe);
    }
    for (index, hop) in hops.iter().enumerate() {
        if hop.expires < now {
            return Err(HeaderError::Expired);
        }
        if (hop.owner, hop.file, hop.seq, hop.chunk, hop.length)
            != (first.owner, first.file, first.seq, first.chunk, first.length)
        {
            return Err(HeaderError::Mixed);
        }
        let next = hops.get(index + 1);
        if hop.next != next.map(|next| next.vendor) || usize::from(hop.position) != usize::from(first.position) + index
        {
            return Err(HeaderError::Order);
        }
        if hops[..index].iter().any(|before| before.vendor == hop.vendor) {
            return Err(HeaderError::Loop);
        }
    }
    Ok(())
}

/// Whether the vendor of `hop` signed a lease for this owner and this authority.
///
/// # Errors
/// [`RecordError`] if it did not.
pub fn consents(hop: &Hop) -> Result<Signed<Lease>, RecordError> {
    consents_knowing(hop, &Familiar::new(1))
}

/// As [`consents`] with a memory of leases that verified.
///
/// # Errors
/// [`RecordError`] if it did not.
pub fn consents_knowing(hop: &Hop, leases: &Familiar) -> Result<Signed<Lease>, RecordError> {
    let lease = leases.verify(hop.lease.clone())?;
    if lease.vendor != hop.vendor || lease.owner != hop.owner || lease.authority != hop.authority {
        return Err(RecordError::Invalid("the hop's lease is not for this vendor, owner and authority"));
    }
    Ok(lease)
}
