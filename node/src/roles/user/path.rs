//! Choosing among vendors by what was measured (figures 7, 8, 17 and 18).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fathom_protocol::codec::Bounded;
use fathom_protocol::erasure::Code;
use fathom_protocol::fork::VerifiedProof;
use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::HEADS_MAX;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{Request, Response, SyncRecord};

use super::catalogue::StoredFile;
use super::mirrors::{ANSWER, unexpected};
use super::{User, UserError};
use crate::control::PathEntry;
use crate::net::Net;

/// Round trip assumed of a vendor that did not answer, in milliseconds.
const UNKNOWN_MS: f64 = 1_000.0;

/// Verified heads by vendor.
pub(super) type Heads = BTreeMap<NodeId, Signed<VendorHead>>;

/// What is known of the way to one vendor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Running mean of its round trips, milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Peers in between, plus one.
    pub hops: u32,
    /// Share of calls that it answered.
    pub answered: f64,
    /// Transfers it says it has under way.
    pub load: u32,
    /// Whether it failed lately.
    pub suspected: bool,
}

impl Way {
    /// Expected cost, in milliseconds; the smaller the better. The round trip, once for each hop, stretched by the vendor's load
    /// and by how often it did not answer.
    #[must_use]
    pub fn score(&self) -> f64 {
        let base = self.round_trip_ms.unwrap_or(UNKNOWN_MS) * f64::from(self.hops);
        let load = 1.0 + f64::from(self.load) / 32.0;
        let missing = if self.suspected { UNKNOWN_MS * 10.0 } else { 0.0 };
        base * load / self.answered.clamp(0.05, 1.0).powi(2) + missing
    }
}

/// The way to `vendor` as it is known now.
pub(super) fn way(net: &Net, vendor: NodeId, head: Option<&VendorHead>) -> Way {
    let behaviour = net.book().behaviour(vendor);
    Way {
        round_trip_ms: behaviour.round_trip.map(|time| time.as_secs_f64() * 1e3),
        hops: 1,
        answered: behaviour.answered,
        load: head.map_or(0, |head| head.characteristics.load),
        suspected: behaviour.suspected,
    }
}

/// Vendors in order of preference with the figures that made it, and the code of a file that has parity.
pub type Explained = (Vec<(Signed<VendorHead>, Way)>, Option<Code>);

impl User {
    /// Every vendor that the best mirror knows; their addresses are learnt on the way. A mirror whose answer does not verify, or
    /// that leaves a lease out, is no better than one that does not answer: the next one is asked.
    pub(super) async fn vendors(&self) -> Result<Heads, UserError> {
        let mirrors = self.mirrors().await?;
        let mut failure = UserError::NoMirror(mirrors.len());
        for mirror in mirrors {
            match self.vendors_of(mirror).await {
                Ok(heads) => return Ok(heads),
                Err(error) => {
                    tracing::warn!(mirror = %mirror.short(), %error, "a mirror's vendors were not read");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn vendors_of(&self, mirror: NodeId) -> Result<Heads, UserError> {
        let mut heads = BTreeMap::new();
        let mut after = None;
        loop {
            let page = match self.net.call(mirror, &Request::Vendors { after }, ANSWER).await? {
                Response::Page(page) => page,
                other => return Err(unexpected(&other)),
            };
            let before = after;
            for record in page.records {
                let SyncRecord::Vendor(vendor) = record else { continue };
                let head = vendor.verify()?.head;
                after = after.max(Some(head.vendor));
                self.net.book().learn_addresses(head.vendor, head.addresses.iter().map(ToString::to_string));
                heads.insert(head.vendor, head);
            }
            if !page.more || after == before {
                return Ok(heads);
            }
        }
    }

    /// The heads of `vendors`, the newer one where two mirrors differ: one of them may be behind, or hold back. Their addresses are
    /// learnt on the way; a vendor that neither knows is left out.
    pub(super) async fn heads(&self, vendors: BTreeSet<NodeId>) -> Result<Heads, UserError> {
        let mut heads = Heads::new();
        let vendors: Vec<NodeId> = vendors.into_iter().collect();
        for some in vendors.chunks(HEADS_MAX) {
            for head in self.ask_two(&Request::Heads(Bounded::first(some.iter().copied()))).await? {
                let Response::Heads(answered) = head else { continue };
                // What does not verify is no head: the other mirror may have it.
                for head in answered.into_iter().filter_map(|head| head.verify().ok()) {
                    let newest = heads.get(&head.vendor).map_or((0, 0), |known| (known.epoch, known.seq));
                    if some.contains(&head.vendor) && (head.epoch, head.seq) > newest {
                        self.net.book().learn_addresses(head.vendor, head.addresses.iter().map(ToString::to_string));
                        heads.insert(head.vendor, head);
                    }
                }
            }
        }
        Ok(heads)
    }

    /// Those of `vendors` against which a proof is known that verifies here. They are asked last for what they have.
    pub(super) async fn quarantined(&self, vendors: &[NodeId]) -> BTreeSet<NodeId> {
        self.proofs(vendors).await.iter().map(VerifiedProof::vendor).collect()
    }

    /// Proofs against `vendors` that verify here.
    pub(super) async fn proofs(&self, vendors: &[NodeId]) -> Vec<VerifiedProof> {
        let mut proven = Vec::new();
        for some in vendors.chunks(HEADS_MAX) {
            // No answer is no proof.
            let answers =
                self.ask_two(&Request::Proofs(Bounded::first(some.iter().copied()))).await.unwrap_or_default();
            for answer in answers {
                let Response::Page(page) = answer else { continue };
                proven.extend(page.records.into_iter().filter_map(|record| match record {
                    SyncRecord::Proof(proof) => proof.verify().ok(),
                    _ => None,
                }));
            }
        }
        proven
    }

    /// The vendors in order of preference, with the figures that made it.
    pub(super) fn order(&self, heads: &Heads) -> Vec<(NodeId, Way)> {
        let mut ways: Vec<(NodeId, Way)> =
            heads.iter().map(|(vendor, head)| (*vendor, way(&self.net, *vendor, Some(head)))).collect();
        ways.sort_by(|a, b| a.1.score().total_cmp(&b.1.score()).then(a.0.cmp(&b.0)));
        ways
    }

    /// Probes all vendors, or those of one file, and explains the order (figures 7 and 8); with the code of a file that has parity.
    ///
    /// # Errors
    /// [`UserError`] if no mirror answers or there is no such file.
    pub async fn explain(self: &Arc<Self>, name: Option<&str>) -> Result<Explained, UserError> {
        let (mut heads, code) = match name {
            Some(name) => {
                let files = self.find(name).await?;
                let code = files.iter().find_map(|file| file.manifest()?.code());
                (self.heads(files.iter().flat_map(StoredFile::sources).collect()).await?, code)
            }
            None => (self.vendors().await?, None),
        };
        self.net.probe(heads.keys().copied()).await;
        let order = self.order(&heads);
        let ways = order.into_iter().filter_map(|(vendor, way)| heads.remove(&vendor).map(|head| (head, way)));
        Ok((ways.collect(), code))
    }

    /// The order as an event.
    pub(super) fn path_entries(&self, heads: &Heads) -> Vec<PathEntry> {
        let entry = |(vendor, way): (NodeId, Way)| PathEntry {
            vendor: vendor.to_string(),
            zone: heads.get(&vendor).map(|head| head.characteristics.zone.to_string()).unwrap_or_default(),
            rtt_ms: way.round_trip_ms,
            score: way.score(),
        };
        self.order(heads).into_iter().map(entry).collect()
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
pub(super) mod tests;
