//! The end of a put: final FATs are built and handed in, and room that is left is given back (figures 14 and 15).

use std::collections::BTreeMap;
use std::sync::Arc;

use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::fat::{ChunkRef, FileMeta, FinalFat, Manifest, ParityRef, Place, Use};
use fathom_protocol::ids::NodeId;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{Request, Unused};

use super::super::mirrors::HandedIn;
use super::super::store::{PutFile, Putting, lock, places};
use super::super::{User, UserError, blocking, nonce, random};
use super::LIVENESS;
use crate::clock;

/// How long vendors act on a final FAT as an order to erase, in seconds: longer than any lease lives unrenewed.
pub(in crate::roles::user) const ORDER_SECONDS: u64 = 45 * 86_400;

impl User {
    /// Builds and hands in the final FATs, gives unused room back, and forgets the put (figure 15).
    pub(super) async fn hand_in(self: &Arc<Self>, put: &Arc<Putting>) -> Result<HandedIn, UserError> {
        let mut unused: BTreeMap<Place, u64> = BTreeMap::new();
        if let Some(drawn) = lock(&put.drawn).take() {
            drawn.end(&mut lock(&put.placement));
        }
        for (place, bytes) in lock(&put.placement).take_unused() {
            *unused.entry(place).or_default() += bytes;
        }
        let mut fats = Vec::with_capacity(put.files.len());
        for file in &put.files {
            fats.push(self.final_fat(put, file, &mut unused)?);
        }
        // A mirror that has them may answer nobody. Whoever goes on after a crash then goes on with these very chunks under their
        // number, or sees that the source changed.
        let user = Arc::clone(self);
        blocking(move || user.journal.flush()).await?;
        let handed = self.submit(fats).await?;
        let (user, name) = (Arc::clone(self), put.name.clone());
        let files: Vec<_> = put.files.iter().map(|file| file.file).collect();
        // Everything is stored, whatever becomes of this.
        if let Err(error) = blocking(move || user.journal.end(&name, &files)).await {
            tracing::warn!(%error, "a put that is stored was not taken out of the journal");
        }
        self.give_back(unused).await;
        lock(&self.used).extend(lock(&put.placement).slots().iter().map(|slot| (slot.place.vendor, slot.head.epoch)));
        Ok(handed)
    }

    fn final_fat(
        &self,
        put: &Putting,
        file: &PutFile,
        unused: &mut BTreeMap<Place, u64>,
    ) -> Result<Signed<FinalFat>, UserError> {
        let chunks = lock(&file.chunks);
        let mut index_of: BTreeMap<Place, u16> = BTreeMap::new();
        let (mut order, mut refs, mut parity) = (Vec::new(), Vec::with_capacity(chunks.len()), Vec::new());
        let mut uses: BTreeMap<Place, u64> = BTreeMap::new();
        for (index, chunk) in chunks.iter() {
            let mut copies = Vec::new();
            for place in places(chunk) {
                let next = u16::try_from(order.len()).map_err(|_| UserError::Internal("too many places".to_owned()))?;
                copies.push(*index_of.entry(place).or_insert_with(|| {
                    order.push(place);
                    next
                }));
                *uses.entry(place).or_default() += u64::from(file.piece_len(*index));
            }
            match *index < file.chunk_count() {
                true => refs.push(ChunkRef { id: chunk.id, salt: chunk.salt, copies }),
                false => parity.push(ParityRef { id: chunk.id, place: copies.first().copied() }),
            }
        }
        let meta = FileMeta {
            name: Text::new(file.source.name.clone()).map_err(|error| UserError::Source(error.to_string()))?,
            size: file.source.size,
            mode: file.source.mode,
            modified: file.source.modified,
            chunk_plain: file.chunk_plain,
        };
        let manifest = match file.code {
            None => Manifest::new(meta, file.file_key, order, put.copies, &refs),
            Some(code) => Manifest::coded(meta, file.file_key, order, code, (&refs, &parity)),
        }?;
        self.seen.note_manifest(file.file, &manifest);
        let body = self.keys.seal_manifest(&manifest, file.file, file.seq, random()?)?;
        let mut frees: Vec<NodeId> = file.old_holders.clone();
        frees.extend(lock(&put.placement).failed().iter().copied());
        frees.retain(|vendor| !uses.keys().any(|place| place.vendor == *vendor));
        frees.sort_unstable();
        frees.dedup();
        let uses = uses.into_iter().map(|(place, bytes)| Use {
            vendor: place.vendor,
            lease: place.lease,
            bytes,
            unused: unused.remove(&place).unwrap_or(0),
        });
        let now = clock::now();
        let fat = FinalFat {
            version: fathom_protocol::tags::VERSION,
            owner: self.owner(),
            file: file.file,
            seq: file.seq,
            base: file.seq,
            follows: file.follows.clone(),
            uses: Bounded::new(uses.collect()).map_err(|error| UserError::Internal(error.to_string()))?,
            frees: Bounded::first(frees),
            issued: now,
            order_expires: now.plus_seconds(ORDER_SECONDS),
            body,
        };
        Ok(Signed::sign(fat, self.signing())?)
    }

    /// Gives room back that no final FAT of this put could carry. Best effort: it expires by itself.
    pub(in crate::roles::user) async fn give_back(&self, unused: BTreeMap<Place, u64>) {
        for (place, bytes) in unused {
            let Ok(nonce) = nonce() else { return };
            let unused = Unused {
                version: fathom_protocol::tags::VERSION,
                authority: self.owner().into(),
                vendor: place.vendor,
                lease: place.lease,
                bytes,
                nonce,
            };
            if let Ok(unused) = Signed::sign(unused, self.signing())
                && let Err(error) = self.net.call(place.vendor, &Request::Unused(unused.into_carried()), LIVENESS).await
            {
                tracing::debug!(vendor = %place.vendor.short(), %error, "unused room was not given back; it expires");
            }
        }
    }
}
