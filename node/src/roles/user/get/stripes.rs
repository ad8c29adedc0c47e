//! Fetching a stripe: its chunks from the vendors that have them, and from parity what they do not give.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fathom_protocol::erasure::Stripes;
use fathom_protocol::ids::{ChunkId, NodeId};

use super::super::gather::{Got, Held, make, shards_of};
use super::super::stripes::StripeRoom;
use super::{Getting, Progress, Sources, User, UserError, blocking, held, lost, open_to_write, write_chunk};

/// Room for the stripes of `files`.
pub(super) fn stripe_room(files: &[Arc<Getting>], in_flight: usize) -> StripeRoom {
    let stripes = || files.iter().filter_map(|file| file.manifest.stripes());
    let columns = stripes().map(|stripes| stripes.code.data()).max().unwrap_or(1);
    let longest = stripes().filter(|stripes| !stripes.is_empty()).map(|stripes| stripes.len(0)).max().unwrap_or(0);
    StripeRoom::new(in_flight, u8::try_from(columns).unwrap_or(u8::MAX), longest)
}

impl User {
    /// Brings the chunks of one stripe into the file.
    pub(super) async fn get_stripe(
        self: &Arc<Self>,
        file: &Arc<Getting>,
        (stripes, stripe): (Stripes, u64),
        room: &StripeRoom,
        sources: &Sources,
        progress: &Progress,
    ) -> Result<(), UserError> {
        let lengths = stripes.lengths(stripe);
        let _room = room.take(lengths.iter().map(|length| u64::from(*length)).sum()).await;
        let first = stripe * stripes.code.data() as u64;
        let mut got = match file.begun.load(Ordering::Relaxed) {
            true => {
                let (file, chunks) = (Arc::clone(file), lengths.len());
                blocking(move || Ok(here(&file, first, chunks))).await?
            }
            false => Got::new(),
        };
        let chunks = lengths.len() as u64;
        let missing: Vec<usize> = (0..lengths.len()).filter(|position| !got.contains_key(position)).collect();
        if let Some(at) = missing.first() {
            let index = usize::try_from(first).unwrap_or(usize::MAX) + at;
            let name = file.manifest.name.to_string();
            let lost = |reason| lost(&name, index, reason);
            let ids = self.gather_stripe(file, stripes, stripe, &mut got, sources).await.map_err(lost)?;
            let file = Arc::clone(file);
            let wanted: Vec<(usize, ChunkId)> = missing.into_iter().map(|position| (position, ids[position])).collect();
            let written = blocking(move || write(&file, stripes, (first, &lengths), &got, &wanted)).await?;
            written.map_err(lost)?;
        }
        let plain: u32 = (first..first + chunks).map(|index| stripes.plain_len(index)).sum();
        progress.add(plain, chunks);
        Ok(())
    }

    /// Fetches shards of a stripe from where the FAT says, and if they are too few from where a fresh FAT says, since they, or their
    /// vendors, may have moved. Returns the identifiers of its chunks.
    async fn gather_stripe(
        self: &Arc<Self>,
        file: &Getting,
        stripes: Stripes,
        stripe: u64,
        got: &mut Got,
        sources: &Sources,
    ) -> Result<Vec<ChunkId>, String> {
        let (data, needed) = (stripes.code.data(), stripes.lengths(stripe).len());
        let shards = shards_of(&file.manifest, &stripes, stripe, |_, _| true);
        let ids: Vec<ChunkId> = shards.iter().map(|shard| shard.id).take(needed).collect();
        let Err(first) = self.gather(&shards, data, needed, got, sources).await else { return Ok(ids) };
        let fresh = self.newest(file.file).await.map_err(|error| error.to_string())?;
        let versions = fresh.iter().flat_map(|stored| &stored.versions).filter_map(|version| version.manifest.as_ref());
        let same = |now: &Vec<Held>| now.iter().map(|shard| shard.id).eq(shards.iter().map(|shard| shard.id));
        let now = versions
            .filter(|manifest| manifest.stripes() == Some(stripes))
            .map(|manifest| shards_of(manifest, &stripes, stripe, |_, _| true))
            .find(same);
        let Some(now) = now else { return Err(first) };
        let holders: std::collections::BTreeSet<NodeId> = now.iter().flat_map(|shard| shard.holders.clone()).collect();
        self.heads(holders).await.map_err(|error| error.to_string())?;
        self.gather(&now, data, needed, got, sources).await.map(|()| ids)
    }
}

/// The chunks of a stripe that an earlier get left in the file, sealed again. Blocks.
fn here(file: &Getting, first: u64, chunks: usize) -> Got {
    let sealed = |position: usize| {
        let index = usize::try_from(first).ok()? + position;
        Some((position, held(file, index, &file.manifest.chunk(index)?)?))
    };
    (0..chunks).filter_map(sealed).collect()
}

/// Makes what is `wanted` of what was got, and writes it. Blocks.
fn write(
    file: &Getting,
    stripes: Stripes,
    (first, lengths): (u64, &[u32]),
    got: &Got,
    wanted: &[(usize, ChunkId)],
) -> Result<Result<(), String>, UserError> {
    let absent: Vec<(usize, ChunkId)> =
        wanted.iter().filter(|(position, _)| !got.contains_key(position)).copied().collect();
    let made = match absent.is_empty() {
        true => Vec::new(),
        false => match make(stripes, lengths, got, &absent) {
            Ok(made) => made,
            Err(reason) => return Ok(Err(reason)),
        },
    };
    let made: Got = absent.into_iter().map(|(position, _)| position).zip(made).collect();
    let part = open_to_write(file)?;
    for (position, _) in wanted {
        let index = usize::try_from(first).unwrap_or(usize::MAX) + position;
        let sealed = got.get(position).or_else(|| made.get(position));
        if let (Some(sealed), Some(chunk)) = (sealed, file.manifest.chunk(index)) {
            write_chunk(file, &part, index, &chunk, sealed)?;
        }
    }
    Ok(Ok(()))
}
