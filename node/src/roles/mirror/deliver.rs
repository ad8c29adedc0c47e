//! Telling vendors of final FATs (figure 22). A vendor that is not reached asks by itself later, so nothing is repeated here.

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::ids::{FileId, NodeId, OwnerId};
use fathom_protocol::table::Key;
use fathom_protocol::wire::{Request, SyncRecord};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Mirror;

/// Orders that wait for delivery. Beyond that they are left to the vendors' polling.
pub(super) const ORDERS_QUEUED_MAX: usize = 4_096;
/// Orders delivered at once.
const ORDERS_AT_ONCE: usize = 16;
/// Vendors of one order told at once.
const VENDORS_AT_ONCE: usize = 8;
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
        while let Some(order) = orders.recv().await {
            while working.len() >= ORDERS_AT_ONCE {
                working.join_next().await;
            }
            let mirror = Arc::clone(self);
            working.spawn(async move { mirror.deliver(order).await });
        }
    }

    async fn deliver(&self, order: Order) {
        let shared = Arc::clone(self.writer.shared());
        let versions = self.off_reactor(move || {
            // The lock is not held while the disk is read.
            let keys: Vec<Key> = shared.state().table.version_keys(order.owner, order.file).collect();
            shared.store.records(&keys)
        });
        let Ok(Ok((records, _))) = versions.await else { return };
        for record in records {
            let SyncRecord::Fat(fat) = record else { continue };
            self.show(&Request::Order(fat), &order.vendors).await;
        }
    }

    async fn show(&self, request: &Request, vendors: &[NodeId]) {
        // One that just fell silent would hold up the others; it asks once it is back.
        let vendors = vendors.iter().filter(|vendor| !self.net.book().behaviour(**vendor).suspected);
        futures::stream::iter(vendors)
            .for_each_concurrent(VENDORS_AT_ONCE, async |vendor| {
                if let Err(refusal) = self.net.call(*vendor, request, DEADLINE).await {
                    tracing::debug!(vendor = %vendor.short(), %refusal, "order not delivered; the vendor will ask for it");
                }
            })
            .await;
    }
}
