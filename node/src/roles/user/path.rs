//! Choosing among vendors by what was measured (figures 7, 8, 17 and 18).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fathom_protocol::codec::Bounded;
use fathom_protocol::fork::VerifiedProof;
use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::{CHUNK_BYTES_MAX, HEADS_MAX};
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{Request, Response, SyncRecord};

use super::catalogue::StoredFile;
use super::chain::{Way, best, store_seconds, way};
use super::mirrors::{ANSWER, unexpected};
use super::{Redundancy, User, UserError};
use crate::control::results::{PathResult, PathVendor};

/// Bytes for which the time is shown that a way is expected to take: those of the longest chunk.
const SHOWN: u64 = CHUNK_BYTES_MAX as u64;
/// Vendors that are put in order together.
const ORDERED_MAX: usize = 12;

/// Verified heads by vendor.
pub(super) type Heads = BTreeMap<NodeId, Signed<VendorHead>>;

/// One vendor as a person sees it: what is known of its way, and in how many `seconds` it is expected to be done.
fn shown(head: &VendorHead, way: &Way, seconds: f64) -> PathVendor {
    let end = &way.link.end;
    let rate = |rate: Option<f64>| rate.map(|rate| rate as u64);
    PathVendor {
        vendor: head.vendor.to_string(),
        zone: head.characteristics.zone.to_string(),
        rtt_ms: way.round_trip_ms,
        variation_ms: way.variation_ms,
        loss: end.loss,
        up_bytes_per_s: rate(end.up),
        down_bytes_per_s: rate(end.down),
        from_bytes_per_s: rate(way.link.measured),
        hops: if way.link.relayed { 2 } else { 1 },
        uptime: end.answered,
        load: f64::from(end.load),
        seconds,
        score: seconds * 1e3,
        chosen: !way.suspected(),
        place: None,
    }
}

fn sort(vendors: &mut [PathVendor]) {
    vendors.sort_by(|a, b| a.seconds.total_cmp(&b.seconds).then_with(|| a.vendor.cmp(&b.vendor)));
}

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
                self.net.learn_head(&head);
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
                        self.net.learn_head(&head);
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

    /// The vendors in the order in which a chunk should come from them.
    pub(super) fn fetch_order(&self, heads: &Heads) -> Vec<PathVendor> {
        let entry = |head: &Signed<VendorHead>| {
            let way = way(&self.net, head.vendor, 0);
            shown(head, &way, way.fetch_seconds(SHOWN))
        };
        let mut vendors: Vec<PathVendor> = heads.values().map(entry).collect();
        sort(&mut vendors);
        vendors
    }

    /// The vendors in the order in which a chunk is stored at each alone, with their places in the chain that would be used through one of
    /// each of `columns`, and the seconds that it is expected to take. In shards that all go at once there is no chain.
    pub(super) fn store_order(&self, heads: &Heads, columns: Option<&[Vec<NodeId>]>) -> (Vec<PathVendor>, Option<f64>) {
        let entry = |head: &Signed<VendorHead>| {
            let seconds = store_seconds(&self.net, head.vendor, 0, SHOWN);
            shown(head, &way(&self.net, head.vendor, 0), seconds)
        };
        let mut vendors: Vec<PathVendor> = heads.values().map(entry).collect();
        sort(&mut vendors);
        let Some(columns) = columns else { return (vendors, None) };
        let nodes: BTreeSet<NodeId> = columns.iter().flatten().copied().collect();
        let nodes: Vec<(NodeId, u32)> = nodes.into_iter().map(|node| (node, 0)).collect();
        let number = |vendor: &NodeId| nodes.iter().position(|(node, _)| node == vendor);
        let columns: Vec<Vec<usize>> =
            columns.iter().map(|column| column.iter().filter_map(number).collect()).collect();
        let Some(choice) = best(&self.net, 0, &nodes, &columns, SHOWN) else { return (vendors, None) };
        for (place, link) in choice.chain.iter().enumerate() {
            let vendor = nodes[link.node].0.to_string();
            if let Some(entry) = vendors.iter_mut().find(|entry| entry.vendor == vendor) {
                entry.place = Some(place as u64 + 1);
            }
        }
        (vendors, Some(choice.seconds))
    }

    /// Probes all vendors, or those of one file, and explains the order (figures 7 and 8).
    ///
    /// # Errors
    /// [`UserError`] if no mirror answers or there is no such file.
    pub async fn explain(self: &Arc<Self>, name: Option<&str>) -> Result<PathResult, UserError> {
        if let Some(name) = name {
            let files = self.find(name).await?;
            let code = files.iter().find_map(|file| file.manifest()?.code());
            let heads = self.heads(files.iter().flat_map(StoredFile::sources).collect()).await?;
            self.net.probe(heads.keys().copied()).await;
            let erasure = code.map(|code| code.to_string());
            return Ok(PathResult { erasure, vendors: self.fetch_order(&heads), ..PathResult::default() });
        }
        let heads = self.vendors().await?;
        self.net.probe(heads.keys().copied()).await;
        let copies = match self.redundancy() {
            Redundancy::Copies(copies) => copies,
            Redundancy::Erasure(code) => {
                let erasure = Some(code.to_string());
                return Ok(PathResult { erasure, vendors: self.store_order(&heads, None).0, chain_seconds: None });
            }
        };
        // Mirrors choose who is asked, by zones and room; here the quickest of all are put in order.
        let mut quickest: Vec<(f64, NodeId)> =
            heads.keys().map(|vendor| (store_seconds(&self.net, *vendor, 0, SHOWN), *vendor)).collect();
        quickest.sort_by(|a, b| a.0.total_cmp(&b.0));
        let quickest: Vec<NodeId> = quickest.into_iter().map(|(_, vendor)| vendor).take(ORDERED_MAX).collect();
        let columns = vec![quickest.clone(); copies.min(quickest.len())];
        let (vendors, chain_seconds) = self.store_order(&heads, Some(&columns));
        Ok(PathResult { erasure: None, vendors, chain_seconds })
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
pub(super) mod tests;
