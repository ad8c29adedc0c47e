//! Looking after what is stored: leases are renewed, and what is no longer where the final FATs say is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fathom_protocol::fat::Place;
use fathom_protocol::fork::Offence;
use fathom_protocol::ids::{ChunkId, FileId, NodeId};
use fathom_protocol::lease::Lease;
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::wire::{RefusalKind, Renew, Request, Response};
use futures::StreamExt;

use super::catalogue::FILES_AT_ONCE;
use super::store::lock;
use super::{StoredFile, User, UserError};
use crate::clock;
use crate::net::Class;

const ANSWER: Duration = Duration::from_secs(3);
const REQUEST_SECONDS: u64 = 300;
/// Leases that are renewed at a time.
const AT_ONCE: usize = 16;
/// Chunks that one vendor is asked for at a time: each costs it a read of its disk.
const PROBES: usize = 4;

/// Bytes of this user's files under each lease, as the final FATs say.
pub(super) type Claims = BTreeMap<Place, u64>;

/// Copies that are not, or not to be left, where the final FATs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    /// Leases that their vendors no longer have.
    pub(super) leases: BTreeSet<Place>,
    /// Leases that hold less than they should: which chunks are missing is to be found out.
    pub(super) short: BTreeSet<Place>,
    /// Vendors that broke their word, or that their user gives up. They are asked last for what they have.
    pub(super) vendors: BTreeSet<NodeId>,
}

impl Gone {
    /// Whether something is missing, or may be, at `place`.
    pub(super) fn concerns(&self, place: Place) -> bool {
        self.has(place) || self.short.contains(&place)
    }

    /// Whether nothing at `place` counts any more.
    pub(super) fn has(&self, place: Place) -> bool {
        self.leases.contains(&place) || self.vendors.contains(&place.vendor)
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.leases.extend(other.leases);
        self.short.extend(other.short);
        self.vendors.extend(other.vendors);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.short.is_empty() && self.vendors.is_empty()
    }
}

/// What came of renewing leases.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Leases whose vendors did not answer, or did not confirm what they answered.
    pub(super) open: Claims,
    /// What is gone.
    pub(super) gone: Gone,
}

/// What became of one lease.
enum Standing {
    Renewed,
    Open,
    Gone,
    Short,
}

impl User {
    /// What all files claim.
    pub(super) async fn claims(self: &Arc<Self>) -> Result<Claims, UserError> {
        let files: Vec<FileId> = self.list().await?.files.into_iter().map(|line| line.file).collect();
        let mut claims = Claims::new();
        for some in files.chunks(FILES_AT_ONCE) {
            for file in self.load(some.to_vec()).await?.values() {
                add_claims(file, &mut claims);
            }
        }
        Ok(claims)
    }

    /// Renews every lease of `claims`, and says what is gone.
    pub(super) async fn survey(&self, claims: Claims) -> Survey {
        let silent: Mutex<BTreeSet<NodeId>> = Mutex::default();
        let asked = futures::stream::iter(claims).map(|(place, bytes)| {
            let silent = &silent;
            async move {
                // One that was silent just now would cost its silence again for each of its leases.
                if lock(silent).contains(&place.vendor) {
                    return (place, bytes, Standing::Open);
                }
                let standing = self.renew(place, bytes).await.unwrap_or_else(|()| {
                    lock(silent).insert(place.vendor);
                    Standing::Open
                });
                (place, bytes, standing)
            }
        });
        let answers: Vec<(Place, u64, Standing)> = asked.buffer_unordered(AT_ONCE).collect().await;
        let mut survey = Survey::default();
        for (place, bytes, standing) in answers {
            match standing {
                Standing::Renewed => {}
                Standing::Open => drop(survey.open.insert(place, bytes)),
                Standing::Gone => drop(survey.gone.leases.insert(place)),
                Standing::Short => drop(survey.gone.short.insert(place)),
            }
        }
        survey
    }

    /// Renews one lease that should hold `bytes`. Fails if its vendor is silent.
    async fn renew(&self, place: Place, bytes: u64) -> Result<Standing, ()> {
        let renew = Renew {
            version: fathom_protocol::tags::VERSION,
            owner: self.owner(),
            vendor: place.vendor,
            lease: place.lease,
            expires: clock::now().plus_seconds(REQUEST_SECONDS),
        };
        let Ok(renew) = Signed::sign(renew, self.signing()) else { return Ok(Standing::Open) };
        match self.net.call(place.vendor, &Request::Renew(renew.into_carried()), ANSWER).await {
            Ok(Response::Offered { lease, .. }) => Ok(standing(lease, place, bytes)),
            Err(refusal) if refusal.kind == RefusalKind::UnknownLease => match self.is_absent(place).await {
                true => Ok(Standing::Gone),
                false => Ok(Standing::Open),
            },
            Err(refusal) if matches!(refusal.kind, RefusalKind::Silent | RefusalKind::Unreachable) => Err(()),
            Ok(_) | Err(_) => Ok(Standing::Open),
        }
    }

    /// Whether a mirror proves that the vendor's newest head has no such lease. A vendor that was restored from a backup knows
    /// less, until it has taken its leases back, than its head says.
    async fn is_absent(&self, place: Place) -> bool {
        let request = Request::LeaseOf { vendor: Some(place.vendor), lease: place.lease };
        match self.ask_mirrors(&request).await {
            Ok(Response::Lease(evidence)) => {
                evidence.verify(Some(place.vendor), place.lease).is_ok_and(|proven| proven.lease.is_none())
            }
            _ => false,
        }
    }

    /// What the mirrors' proofs say of the vendors in `used`: those that signed twice under one number, and leases of this user that
    /// were dropped.
    pub(super) async fn proven(&self, used: &BTreeSet<NodeId>) -> Gone {
        let mut gone = Gone::default();
        for proof in self.proofs(&used.iter().copied().collect::<Vec<_>>()).await {
            let vendor = proof.vendor();
            match proof.offence() {
                _ if !used.contains(&vendor) => {}
                Offence::Twins => drop(gone.vendors.insert(vendor)),
                Offence::Dropped { owner, lease, .. } if owner == self.owner() => {
                    gone.leases.insert(Place { vendor, lease });
                }
                Offence::Dropped { .. } => {}
            }
        }
        gone
    }

    /// Those of `chunks`, with their ciphertext's lengths, that `vendor` says it does not have, or not whole. One that does not
    /// answer says nothing.
    pub(super) async fn missing_at(&self, vendor: NodeId, chunks: Vec<(ChunkId, u32)>) -> BTreeSet<ChunkId> {
        let asked = futures::stream::iter(chunks).map(|(chunk, length)| async move {
            let read = self.fetch_range(Class::Background, vendor, chunk, 0, length.min(1)).await;
            let missing = |kind| matches!(kind, RefusalKind::NotFound | RefusalKind::Corrupt);
            read.is_err_and(|refusal| missing(refusal.kind)).then_some(chunk)
        });
        asked.buffer_unordered(PROBES).filter_map(|missing| async move { missing }).collect().await
    }
}

/// What a lease that was renewed holds of the `bytes` that it should.
fn standing(lease: Carried<Lease>, place: Place, bytes: u64) -> Standing {
    match lease.verify() {
        Ok(lease) if (lease.vendor, lease.id) != (place.vendor, place.lease) => Standing::Open,
        Ok(lease) if lease.used < bytes => Standing::Short,
        Ok(_) => Standing::Renewed,
        Err(_) => Standing::Open,
    }
}

/// Adds what every version of `file` has where.
fn add_claims(file: &StoredFile, claims: &mut Claims) {
    for manifest in file.versions.iter().filter_map(|version| version.manifest.as_ref()) {
        for piece in manifest.pieces() {
            for place in manifest.places_of_piece(&piece) {
                *claims.entry(place).or_default() += u64::from(piece.length);
            }
        }
    }
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
