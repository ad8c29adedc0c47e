//! Telling vendors of final FATs (figure 22). A vendor that is not reached asks by itself later, so nothing is repeated here.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::codec::Bounded;
use fathom_protocol::fat::FinalFat;
use fathom_protocol::ids::{FileId, NodeId, OwnerId};
use fathom_protocol::limits::{FATS_PER_SUBMIT_MAX, VERSIONS_MAX};
use fathom_protocol::sign::Carried;
use fathom_protocol::table::Key;
use fathom_protocol::wire::{Request, SyncRecord};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Mirror;
use super::writer::Shared;

/// Orders that wait for delivery. Beyond that they are left to the vendors' polling.
pub(super) const ORDERS_QUEUED_MAX: usize = 4_096;
/// Orders that come within this time are delivered together.
const GATHER: Duration = Duration::from_millis(50);
/// And within this time while there are many: each delivery costs three nodes a question and a durable write.
const GATHER_MANY: Duration = Duration::from_millis(250);
/// Orders delivered together after which more are expected.
const MANY: usize = 4;
/// Orders that are delivered together, at most.
const ORDERS_AT_ONCE: usize = 128;
/// Deliveries under way. A vendor that is slow holds up one of them.
const DELIVERIES_AT_ONCE: usize = 4;
/// Vendors of one delivery told at once.
const VENDORS_AT_ONCE: usize = 8;
/// Bytes of final FATs in one request, if there is more than one in it.
const REQUEST_BYTES: usize = 2 * 1024 * 1024;
/// Longest wait for one vendor.
const DEADLINE: Duration = Duration::from_secs(2);

/// A final FAT that vendors must see. Its bytes stay on disk until it is their turn.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) owner: OwnerId,
    pub(super) file: FileId,
    pub(super) vendors: Vec<NodeId>,
}

impl Mirror {
    /// Delivers orders for ever.
    pub(super) async fn deliver_orders(self: &Arc<Self>, mut orders: mpsc::Receiver<Order>) {
        let mut working = JoinSet::new();
        let (mut gathered, mut wait) = (Vec::new(), GATHER);
        while orders.recv_many(&mut gathered, ORDERS_AT_ONCE).await > 0 {
            tokio::time::sleep(wait).await;
            while gathered.len() < ORDERS_AT_ONCE
                && let Ok(order) = orders.try_recv()
            {
                gathered.push(order);
            }
            wait = if gathered.len() >= MANY { GATHER_MANY } else { GATHER };
            while working.len() >= DELIVERIES_AT_ONCE {
                working.join_next().await;
            }
            let (mirror, orders) = (Arc::clone(self), std::mem::take(&mut gathered));
            working.spawn(async move { mirror.deliver(orders).await });
        }
    }

    async fn deliver(&self, orders: Vec<Order>) {
        let mut orders = orders.into_iter().peekable();
        while orders.peek().is_some() {
            let shared = Arc::clone(self.writer.shared());
            // A little at a time: a large file's final FAT has megabytes.
            let load = self.off_reactor(move || Ok::<_, redb::Error>((by_vendor(&shared, &mut orders)?, orders)));
            let Ok(Ok((by_vendor, rest))) = load.await else { return };
            orders = rest;
            futures::stream::iter(by_vendor)
                .for_each_concurrent(VENDORS_AT_ONCE, async |(vendor, fats)| self.show(vendor, fats).await)
                .await;
        }
    }

    async fn show(&self, vendor: NodeId, fats: Vec<Carried<FinalFat>>) {
        let mut fats = fats.into_iter().peekable();
        while fats.peek().is_some() {
            let (mut some, mut bytes) = (Vec::new(), 0);
            while let Some(fat) = fats.next_if(|fat| some.is_empty() || bytes + fat.body_len() <= REQUEST_BYTES) {
                bytes += fat.body_len();
                some.push(fat);
            }
            // One that just fell silent would hold up the others; it asks once it is back.
            if self.net.book().behaviour(vendor).suspected {
                return;
            }
            if let Err(refusal) = self.net.call(vendor, &Request::Order(Bounded::first(some)), DEADLINE).await {
                tracing::debug!(vendor = %vendor.short(), %refusal, "orders not delivered; the vendor will ask for them");
            }
        }
    }
}

/// What each vendor is to be shown of the next orders, about as many as fit one request. Blocks.
fn by_vendor(
    shared: &Shared,
    orders: &mut Peekable<std::vec::IntoIter<Order>>,
) -> Result<BTreeMap<NodeId, Vec<Carried<FinalFat>>>, redb::Error> {
    let mut by_vendor: BTreeMap<NodeId, Vec<Carried<FinalFat>>> = BTreeMap::new();
    let (mut count, mut bytes) = (0, 0);
    while let Some(Order { owner, file, vendors }) =
        orders.next_if(|_| bytes < REQUEST_BYTES && count + VERSIONS_MAX <= FATS_PER_SUBMIT_MAX)
    {
        // The lock is not held while the disk is read.
        let keys: Vec<Key> = shared.state().table.version_keys(owner, file).collect();
        for record in shared.store.records(&keys)?.0 {
            let SyncRecord::Fat(fat) = record else { continue };
            (count, bytes) = (count + 1, bytes + fat.body_len());
            for vendor in &vendors {
                by_vendor.entry(*vendor).or_default().push(fat.clone());
            }
        }
    }
    Ok(by_vendor)
}
