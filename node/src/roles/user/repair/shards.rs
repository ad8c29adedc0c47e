//! Making a lost shard again: by the vendor that is to have it, at this user's order, and if that vendor cannot, here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fathom_protocol::codec::Bounded;
use fathom_protocol::erasure::Stripes;
use fathom_protocol::fat::Place;
use fathom_protocol::header::{Hop, SplitPolicy};
use fathom_protocol::ids::NodeId;
use fathom_protocol::rebuild::{Rebuild, Source};
use fathom_protocol::seal::sealed_len;
use fathom_protocol::sign::Signed;
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{FetchRequest, Refusal, RefusalKind, Request, Response};

use super::super::fetch::{Sources, lost as chunk_lost};
use super::super::gather::{Held, shards_of};
use super::super::path::Heads;
use super::super::placement::Slot;
use super::super::send::PARTS_MIN;
use super::super::{User, UserError};
use super::{Broken, Step};
use crate::clock;

/// Longest wait for a vendor that makes a shard: it reads as many as a stripe has chunks from others.
const REBUILD: Duration = Duration::from_secs(120);
/// How long what is signed for it stays good.
const GOOD_SECONDS: u64 = 180;

/// What a shard that is wanted is made of.
pub(super) struct Recipe {
    stripes: Stripes,
    stripe: u64,
    wanted: Held,
    /// The others, as far as they are left.
    others: Vec<Held>,
}

impl Recipe {
    /// For the shard that is broken; none if its file has no parity.
    fn of(step: &Step<'_>, broken: &Broken) -> Option<Self> {
        let stripes = step.manifest.stripes()?;
        let (stripe, position) = stripes.place(broken.index as u64);
        let there = |id, place| !step.missing.contains(&(id, place));
        let (wanted, others): (Vec<Held>, Vec<Held>) =
            shards_of(step.manifest, &stripes, stripe, there).into_iter().partition(|shard| shard.position == position);
        Some(Self { stripes, stripe, wanted: wanted.into_iter().next()?, others })
    }
}

impl User {
    /// Has the vendor of `slot` make the shard, if its file has parity. `None`: it is to be sent there.
    ///
    /// # Errors
    /// What the vendor said, if it cannot take the shard from here either.
    pub(super) async fn order_shard(
        self: &Arc<Self>,
        step: &Step<'_>,
        broken: &Broken,
        slot: &Slot,
    ) -> Result<Option<Place>, UserError> {
        let Some(recipe) = Recipe::of(step, broken) else { return Ok(None) };
        let vendors: BTreeSet<NodeId> = recipe.others.iter().flat_map(|shard| shard.holders.clone()).collect();
        let (heads, _) = self.heads_lately(vendors).await?;
        let Some(order) = self.rebuild_order(step, broken, slot, &recipe, &heads)? else { return Ok(None) };
        let vendor = slot.place.vendor;
        self.net.book().learn_addresses(vendor, slot.head.addresses.iter().map(ToString::to_string));
        let request = Request::Rebuild(Box::new(order.into_carried()));
        let refusal = match self.net.call(vendor, &request, REBUILD).await {
            Ok(Response::Stored(receipt)) => match receipt.verify() {
                Ok(receipt)
                    if (receipt.vendor, receipt.owner, receipt.chunk, receipt.file)
                        == (vendor, self.owner(), broken.chunk, step.file.file) =>
                {
                    step.rebuilt.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(Place { vendor, lease: receipt.lease }));
                }
                _ => Refusal::new(RefusalKind::BadRequest, "the vendor signed a receipt for something else"),
            },
            Ok(_) => Refusal::new(RefusalKind::BadRequest, "the vendor answered an order strangely"),
            Err(refusal) => refusal,
        };
        tracing::debug!(vendor = %vendor.short(), %refusal, "a shard was not made by its vendor");
        match refusal.kind {
            // What it has no room for, or is not there to take, need not be made here either.
            RefusalKind::OverLease
            | RefusalKind::NoSpace
            | RefusalKind::LeaseExpired
            | RefusalKind::UnknownLease
            | RefusalKind::Silent
            | RefusalKind::Unreachable => Err(refusal.into()),
            _ => Ok(None),
        }
    }

    /// The order for a vendor; none if too few of the others' vendors are known.
    fn rebuild_order(
        &self,
        step: &Step<'_>,
        broken: &Broken,
        slot: &Slot,
        recipe: &Recipe,
        heads: &Heads,
    ) -> Result<Option<Signed<Rebuild>>, UserError> {
        let (owner, expires) = (self.owner(), clock::now().plus_seconds(GOOD_SECONDS));
        let hop = Hop {
            version: VERSION,
            owner,
            authority: owner.into(),
            file: step.file.file,
            seq: step.tag.0,
            chunk: broken.chunk,
            length: broken.length,
            expires,
            position: 0,
            vendor: slot.place.vendor,
            addresses: slot.head.addresses.clone(),
            lease: slot.lease.clone(),
            split: SplitPolicy { part_bytes_max: sealed_len(self.settings.part_bytes), parts_min: PARTS_MIN },
            next: None,
        };
        let mut sources = Vec::with_capacity(recipe.others.len());
        for shard in &recipe.others {
            let known = shard
                .holders
                .iter()
                .find_map(|vendor| heads.get(vendor))
                .filter(|head| head.vendor != slot.place.vendor);
            let Some(head) = known else { continue };
            let fetch = FetchRequest {
                version: VERSION,
                owner,
                vendor: head.vendor,
                chunk: shard.id,
                offset: 0,
                length: shard.length,
                expires,
            };
            let fetch = Signed::sign(fetch, self.signing())?.into_carried();
            sources.push(Source { position: small(shard.position), head: head.carried().clone(), fetch });
        }
        let lengths = recipe.stripes.lengths(recipe.stripe);
        if sources.len() < lengths.len() {
            return Ok(None);
        }
        let order = Rebuild {
            version: VERSION,
            owner,
            vendor: slot.place.vendor,
            hop: Signed::sign(hop, self.signing())?.into_carried(),
            code: recipe.stripes.code,
            lengths: Bounded::first(lengths),
            position: small(recipe.wanted.position),
            sources: Bounded::first(sources),
            expires,
        };
        Ok(Some(Signed::sign(order, self.signing())?))
    }

    /// The bytes of what is broken: of a copy that is left, or made of the other shards.
    pub(super) async fn bytes_of(self: &Arc<Self>, step: &Step<'_>, broken: &Broken) -> Result<Vec<u8>, UserError> {
        let sources: Vec<NodeId> = broken.copies().into_iter().chain(broken.given_up.iter().copied()).collect();
        let lost = |reason| chunk_lost(step.manifest.name.as_str(), broken.index, reason);
        let sources_of_all: &Sources = &step.sources;
        let reason = match Recipe::of(step, broken) {
            None => None,
            Some(Recipe { stripes, stripe, wanted, others }) => {
                match self.remake(stripes, stripe, &wanted, &others, sources_of_all).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(reason) => Some(reason),
                }
            }
        };
        let fetched = self.fetch_chunk(broken.chunk, broken.length, &sources, sources_of_all).await;
        fetched.map_err(|alone| lost(reason.unwrap_or(alone)))
    }
}

/// A position in a stripe, which has few shards.
fn small(position: usize) -> u8 {
    u8::try_from(position).unwrap_or(u8::MAX)
}
