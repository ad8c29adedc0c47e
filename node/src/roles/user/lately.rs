//! What mirrors said of vendors a moment ago, so that many small transfers do not each ask for it again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::NodeId;
use fathom_protocol::sign::Signed;

use super::path::Heads;
use super::store::lock;
use super::{User, UserError};

/// What is older is asked for again.
const FRESH: Duration = Duration::from_secs(10);
/// Vendors remembered; beyond that all are forgotten.
const VENDORS_MAX: usize = 1_024;

/// What was heard of one vendor.
#[derive(Clone)]
struct Heard {
    at: Instant,
    /// None if no mirror knew the vendor.
    head: Option<Signed<VendorHead>>,
    quarantined: bool,
}

/// What was heard of vendors within the last seconds.
#[derive(Default)]
pub(super) struct Lately(Mutex<BTreeMap<NodeId, Heard>>);

impl Lately {
    fn heard(&self, vendor: NodeId) -> Option<Heard> {
        lock(&self.0).get(&vendor).filter(|heard| heard.at.elapsed() < FRESH).cloned()
    }

    fn note(&self, heard: impl IntoIterator<Item = (NodeId, Heard)>) {
        let mut vendors = lock(&self.0);
        vendors.extend(heard);
        if vendors.len() > VENDORS_MAX {
            vendors.clear();
        }
    }
}

impl User {
    /// Those of `vendors` against which there is a proof, as far as that was heard a moment ago.
    pub(super) fn quarantined_lately(&self, vendors: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let bad = |vendor: &NodeId| self.lately.heard(*vendor).is_some_and(|heard| heard.quarantined);
        vendors.iter().copied().filter(bad).collect()
    }

    /// The heads of `vendors`, and those of them against which there is a proof: as they were a few seconds ago, but for vendors
    /// that failed since. Those that no mirror knows are left out.
    pub(super) async fn heads_lately(&self, vendors: BTreeSet<NodeId>) -> Result<(Heads, BTreeSet<NodeId>), UserError> {
        let usable =
            |vendor: NodeId| self.lately.heard(vendor).filter(|_| !self.net.book().behaviour(vendor).suspected);
        let known: Vec<(NodeId, Heard)> =
            vendors.iter().filter_map(|vendor| Some((*vendor, usable(*vendor)?))).collect();
        let unknown: BTreeSet<NodeId> =
            vendors.into_iter().filter(|vendor| !known.iter().any(|(other, _)| other == vendor)).collect();
        let mut heard = known;
        if !unknown.is_empty() {
            let named: Vec<NodeId> = unknown.iter().copied().collect();
            let at = Instant::now();
            let (heads, quarantined) = tokio::join!(self.heads(unknown), self.quarantined(&named));
            let mut heads = heads?;
            let news = named.into_iter().map(|vendor| {
                (vendor, Heard { at, head: heads.remove(&vendor), quarantined: quarantined.contains(&vendor) })
            });
            let news: Vec<(NodeId, Heard)> = news.collect();
            self.lately.note(news.clone());
            heard.extend(news);
        }
        let quarantined = heard.iter().filter(|(_, heard)| heard.quarantined).map(|(vendor, _)| *vendor).collect();
        let heads = heard.into_iter().filter_map(|(vendor, heard)| Some((vendor, heard.head?))).collect();
        Ok((heads, quarantined))
    }
}
