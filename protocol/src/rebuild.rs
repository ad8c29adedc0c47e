//! A shard is made again by a vendor: the order of its owner, and what the vendor checks before it acts on it.
//!
//! The order holds all that the vendor needs and no key: the hop under which it stores the shard, as if it came in a chunk's header; the
//! shape of the stripe; and for each shard that is left its vendor's head, which shows that this vendor offers storage and where it is reached, with
//! a request for the shard that the owner signed. What comes out is stored only if it has the identifier in the hop.

use serde::{Deserialize, Serialize};

use crate::codec::Bounded;
use crate::erasure::{Code, parity_len};
use crate::head::VendorHead;
use crate::header::Hop;
use crate::ids::{NodeId, OwnerId};
use crate::limits::SHARDS_MAX;
use crate::sign::{Carried, RecordError, Signed, SignerId, record};
use crate::tags;
use crate::time::UnixMs;
use crate::wire::{FetchRequest, Refusal, RefusalKind};

/// Where a vendor finds one of the other shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its position in the stripe.
    pub position: u8,
    /// The head of the vendor that has it.
    pub head: Carried<VendorHead>,
    /// The owner's request for all of it.
    pub fetch: Carried<FetchRequest>,
}

/// A user has a vendor make a shard of a stripe again from the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// Record version, [`tags::VERSION`].
    pub version: u16,
    /// Who signs.
    pub owner: OwnerId,
    /// Who is to do it.
    pub vendor: NodeId,
    /// How the shard is stored: its identifier, length, file, tag and lease.
    pub hop: Carried<Hop>,
    /// The stripe's code.
    pub code: Code,
    /// Lengths of its data shards, bytes; fewer than the code has in the last stripe of a file.
    pub lengths: Bounded<u32, SHARDS_MAX>,
    /// Position of the shard that is wanted.
    pub position: u8,
    /// The others, as far as they are left.
    pub sources: Bounded<Source, SHARDS_MAX>,
    /// After this the order is refused.
    pub expires: UnixMs,
}

record!(
    Rebuild,
    tags::sign::REBUILD,
    256 * 1024,
    owner,
    fn check(&self) -> Result<(), RecordError> {
        if self.lengths.is_empty() || self.lengths.len() > self.code.data() || self.lengths.contains(&0) {
            return Err(RecordError::Invalid("the lengths are not those of a stripe"));
        }
        if self.sources.len() < self.lengths.len() {
            return Err(RecordError::Invalid("the shards that are named are too few to make another"));
        }
        Ok(())
    }
);

/// A shard that is to be fetched.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its position in the stripe.
    pub position: usize,
    /// The head of the vendor that has it.
    pub head: Signed<VendorHead>,
    /// What it is asked.
    pub fetch: Signed<FetchRequest>,
}

/// An order that a vendor may act on.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// How the shard is stored.
    pub hop: Signed<Hop>,
    /// The stripe's code.
    pub code: Code,
    /// Lengths of its data shards.
    pub lengths: Vec<u32>,
    /// Position of the shard that is wanted.
    pub position: usize,
    /// What it can be made of.
    pub shards: Vec<Shard>,
}

fn refused(kind: RefusalKind, reason: &str) -> Refusal {
    Refusal::new(kind, reason)
}

/// Reads a verified order at vendor `me`: comparisons first, then the signatures inside. Whether there is a lease is for the
/// ledger to say.
///
/// # Errors
/// [`Refusal`]: nothing was fetched and nobody was dialled.
pub fn accept(order: Signed<Rebuild>, me: NodeId, now: UnixMs) -> Result<Accepted, Refusal> {
    if order.vendor != me {
        return Err(refused(RefusalKind::NotAuthorised, "the order is for another vendor"));
    }
    if order.expires < now {
        return Err(refused(RefusalKind::LeaseExpired, "the order has expired; sign a new one"));
    }
    let Rebuild { owner, hop, code, lengths, position, sources, .. } = order.into_value();
    let length_of = |position: usize| match lengths.get(position) {
        Some(length) => Some(*length),
        None => (code.data()..code.total()).contains(&position).then(|| parity_len(&lengths)),
    };
    let position = usize::from(position);
    let body = hop.peek()?;
    let own = (body.vendor, body.owner, body.authority) == (me, owner, SignerId::from(owner));
    if !own || body.next.is_some() || length_of(position) != Some(body.length) {
        return Err(refused(RefusalKind::BadRequest, "the hop is not for this shard at this vendor"));
    }
    if body.expires < now {
        return Err(refused(RefusalKind::LeaseExpired, "the hop has expired; sign a new one"));
    }
    let mut seen = vec![position];
    for source in &sources {
        let (at, fetch) = (usize::from(source.position), source.fetch.peek()?);
        let whole = fetch.offset == 0 && Some(fetch.length) == length_of(at);
        if seen.contains(&at) || !whole || fetch.owner != owner || fetch.vendor == me {
            return Err(refused(RefusalKind::BadRequest, "a source is not one of the other shards of the stripe"));
        }
        seen.push(at);
    }
    let hop = hop.verify()?;
    let mut shards = Vec::with_capacity(sources.len());
    for source in sources {
        let (head, fetch) = (source.head.verify()?, source.fetch.verify()?);
        if head.vendor != fetch.vendor {
            return Err(refused(RefusalKind::NotAuthorised, "a source's head is another vendor's"));
        }
        shards.push(Shard { position: usize::from(source.position), head, fetch });
    }
    Ok(Accepted { hop, code, lengths: lengths.into_vec(), position, shards })
}
