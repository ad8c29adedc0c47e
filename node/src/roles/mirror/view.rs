//! The FAT as people and programs see it: the JSON of `fathom fat`.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use fathom_protocol::fork::Offence;
use fathom_protocol::head::{DeviceSummary, VerifiedVendor};
use fathom_protocol::ids::{LeaseId, NodeId};
use fathom_protocol::wire::TableDigest;
use serde_json::{Value, json};

use super::{Mirror, Quality};
use crate::clock;

impl Mirror {
    /// This mirror's table: vendors with their devices, leases, and counts of files and moves. Identifiers are
    /// hexadecimal, sizes bytes, ages seconds by this node's clock.
    #[must_use]
    pub fn view(&self) -> Value {
        let quality = self.quality.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut state = self.writer.shared().state();
        let digest = state.digest();
        let proofs = state.table.proofs().map(|(vendor, proof)| (vendor, proof.offence)).collect();
        table_view(self.net.me(), &digest, state.table.vendors(), &quality, &proofs)
    }
}

impl Mirror {
    /// Every live lease with its vendor, for who looks for one by a part of its identifier.
    #[must_use]
    pub fn lease_ids(&self) -> Vec<(LeaseId, NodeId)> {
        let state = self.writer.shared().state();
        let leases = state.table.vendors().flat_map(|vendor| &vendor.leases);
        leases.map(|lease| (lease.id, lease.vendor)).collect()
    }
}

/// The JSON of [`Mirror::view`], of records that were read from `mirror`.
#[must_use]
pub fn fat_view(
    mirror: NodeId,
    digest: &TableDigest,
    vendors: &[VerifiedVendor],
    proofs: &BTreeMap<NodeId, Offence>,
) -> Value {
    table_view(mirror, digest, vendors.iter(), &BTreeMap::new(), proofs)
}

fn table_view<'a>(
    mirror: NodeId,
    digest: &TableDigest,
    vendors: impl Iterator<Item = &'a VerifiedVendor>,
    quality: &BTreeMap<NodeId, Quality>,
    proofs: &BTreeMap<NodeId, Offence>,
) -> Value {
    let vendors: Vec<&VerifiedVendor> = vendors.collect();
    let leases = vendors.iter().flat_map(|vendor| &vendor.leases).map(|lease| {
        json!({
            "vendor": lease.vendor.to_string(),
            "id": lease.id.to_string(),
            "owner": lease.owner.to_string(),
            "bytes": lease.bytes,
            "used": lease.used,
            "state": lease.state.name(),
            "expires": lease.expires.0,
        })
    });
    let seen = |vendor: &&VerifiedVendor| quality.get(&vendor.head.vendor).copied().unwrap_or_default();
    json!({
        "mirror": mirror.to_string(),
        "digest": digest.digest.to_string(),
        "vendors": vendors.iter().map(|vendor| vendor_view(vendor, seen(vendor), proofs.get(&vendor.head.vendor))).collect::<Vec<_>>(),
        "leases": leases.collect::<Vec<_>>(),
        "files": digest.files,
        "moves": digest.moves,
    })
}

fn vendor_view(vendor: &VerifiedVendor, quality: Quality, proof: Option<&Offence>) -> Value {
    let head = &vendor.head;
    let traits = &head.characteristics;
    json!({
        "vendor": head.vendor.to_string(),
        "zone": traits.zone.as_str(),
        "operator": traits.operator.as_str(),
        "media": traits.media.as_str(),
        "bandwidth_bytes_per_s": traits.bandwidth_bytes_per_s,
        "load": traits.load,
        "up_since": traits.up_since.0,
        "capacity": head.capacity,
        "locked": head.root.sum,
        "used": head.used,
        "free": head.free(),
        "leases": vendor.leases.len(),
        "epoch": head.epoch,
        "seq": head.seq,
        "age_seconds": clock::now().since_ms(head.issued) / 1000,
        "devices": head.devices.iter().map(device_view).collect::<Vec<_>>(),
        "addresses": head.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "good": quality.good,
        "bad": quality.bad,
        "quarantined": proof.map(|offence| json!({ "offence": offence.name(), "reason": offence.explain() })),
    })
}

fn device_view(device: &DeviceSummary) -> Value {
    json!({
        "id": device.id.to_string(),
        "capacity": device.capacity,
        "free": device.free,
        "health": device.health.as_str(),
        "write_bytes_per_s": device.write_bytes_per_s,
        "write_latency_us": device.write_latency_us,
    })
}
