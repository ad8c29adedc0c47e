//! Making a shard of a stripe again, at its owner's order: the other shards come from their vendors by requests that the owner signed,
//! what is lost is computed from them, and stored if it has the identifier that the owner named. All of it is ciphertext.

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::erasure;
use fathom_protocol::ids::NodeId;
use fathom_protocol::rebuild::{self, Accepted, Rebuild, Shard};
use fathom_protocol::sign::Carried;
use fathom_protocol::wire::{ChunkAnswer, Refusal, RefusalKind, Response};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::Vendor;
use super::ingest::Task;
use super::keep::Keeping;
use crate::net::{Class, Encoded, silent};
use crate::{bao, clock};

/// Longest time for one shard to come in: a slow link is no fault, but room is held for it.
const SHARD_WAIT: Duration = Duration::from_secs(60);

impl Vendor {
    /// Carries an order out. The shard that is here already is receipted again.
    pub(super) async fn rebuild_shard(
        self: &Arc<Self>,
        from: NodeId,
        order: Carried<Rebuild>,
    ) -> Result<Response, Refusal> {
        let accepted = rebuild::accept(order.verify()?, self.me, clock::now())?;
        let _place = self.transfers.incoming(from).await?;
        self.wait_for_step().await;
        let hop = accepted.hop.clone();
        let (task, receipt) = self.blocking(move |vendor| vendor.admit(&hop)).await?;
        if let Some(receipt) = receipt {
            return Ok(Response::Stored(receipt));
        }
        let Task::Store(admission) = task else {
            return Err(Refusal::new(RefusalKind::Internal, "a chunk that is here has no receipt"));
        };
        let bytes = accepted.lengths.iter().map(|length| u64::from(*length)).sum();
        let _stripe = self.transfers.rebuilding(bytes).await?;
        let present = self.fetch_shards(&accepted).await?;
        let Accepted { hop, code, lengths, position, .. } = accepted;
        let receipt = self.blocking(move |vendor| {
            let shards: Vec<(usize, &[u8])> = present.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
            let made = erasure::rebuild(code, &lengths, &shards, &[position])
                .map_err(|error| Refusal::new(RefusalKind::BadRequest, error.to_string()))?;
            let bytes = made.into_iter().next().unwrap_or_default().into();
            match vendor.store(vec![Keeping { number: 0, admission, hop, bytes }]).pop().map(|said| said.answer) {
                Some(ChunkAnswer::Receipt(receipt)) => Ok(receipt),
                Some(ChunkAnswer::Failed { refusal, .. }) => Err(refusal),
                _ => Err(Refusal::new(RefusalKind::Internal, "the shard was not stored")),
            }
        });
        receipt.await.map(Response::Stored)
    }

    /// As many of the other shards as are needed, each verified against its identifier.
    async fn fetch_shards(&self, accepted: &Accepted) -> Result<Vec<(usize, Vec<u8>)>, Refusal> {
        let needed = accepted.lengths.len();
        let mut left = accepted.shards.iter();
        let (mut present, mut reasons) = (Vec::with_capacity(needed), Vec::new());
        let mut asked = FuturesUnordered::new();
        loop {
            while present.len() + asked.len() < needed
                && let Some(shard) = left.next()
            {
                asked.push(async move { (shard, self.fetch_shard(shard).await) });
            }
            match asked.next().await {
                Some((shard, Ok(bytes))) => {
                    self.transfers.count(bytes.len());
                    present.push((shard.position, bytes));
                    if present.len() == needed {
                        return Ok(present);
                    }
                }
                Some((shard, Err(refusal))) => reasons.push(format!("{}: {refusal}", shard.fetch.vendor.short())),
                None => {
                    let (had, why) = (present.len(), reasons.join("; "));
                    let reason = format!("{had} of the {needed} shards that are needed could be read: {why}");
                    return Err(Refusal::new(RefusalKind::NotFound, reason));
                }
            }
        }
    }

    async fn fetch_shard(&self, shard: &Shard) -> Result<Vec<u8>, Refusal> {
        let vendor = shard.fetch.vendor;
        // By its own signature that vendor offers storage there.
        self.net.book().learn_addresses(vendor, shard.head.addresses.iter().map(ToString::to_string));
        let read = async {
            let mut fetching = self.net.class(Class::Background).fetch(vendor, [shard.fetch.carried().clone()]).await?;
            let length = shard.fetch.length;
            let Encoded { chunk_length, bytes } = fetching.next(length).await??;
            if chunk_length != length {
                return Err(Refusal::new(RefusalKind::WrongLength, "the vendor announced another length"));
            }
            let chunk = shard.fetch.chunk;
            let decoding = tokio::task::spawn_blocking(move || bao::decode(chunk, length, 0, length, &bytes));
            let decoded = decoding.await.map_err(|error| super::join_refusal(&error))?;
            decoded.map_err(|error| Refusal::new(RefusalKind::Corrupt, error.to_string()))
        };
        tokio::time::timeout(SHARD_WAIT, read).await.unwrap_or_else(|_| Err(silent(vendor)))
    }
}
