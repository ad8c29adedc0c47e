//! Records as JSON objects with stable field names: identifiers are hexadecimal, sizes bytes, times Unix milliseconds.

use fathom_protocol::fat::FinalFat;
use fathom_protocol::head::VendorHead;
use fathom_protocol::lease::Lease;
use fathom_protocol::moves::Move;
use serde_json::{Value, json};

pub(crate) fn head(kind: &str, head: &VendorHead) -> Value {
    let traits = &head.characteristics;
    json!({
        "type": kind,
        "vendor": head.vendor.to_string(),
        "epoch": head.epoch,
        "seq": head.seq,
        "prev": head.prev.to_string(),
        "issued": head.issued.0,
        "capacity": head.capacity,
        "locked": head.root.sum,
        "used": head.used,
        "free": head.free(),
        "root": head.root.hash.to_string(),
        "leases": head.leases,
        "zone": traits.zone.as_str(),
        "operator": traits.operator.as_str(),
        "media": traits.media.as_str(),
        "addresses": head.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

pub(crate) fn lease(lease: &Lease) -> Value {
    json!({
        "type": "lease",
        "vendor": lease.vendor.to_string(),
        "lease": lease.id.to_string(),
        "revision": lease.revision,
        "owner": lease.owner.to_string(),
        "bytes": lease.bytes,
        "used": lease.used,
        "state": lease.state.name(),
        "room_expires": lease.room_expires.0,
        "expires": lease.expires.0,
    })
}

pub(crate) fn final_fat(fat: &FinalFat) -> Value {
    let uses = fat.uses.iter().map(|used| {
        json!({
            "vendor": used.vendor.to_string(),
            "lease": used.lease.to_string(),
            "bytes": used.bytes,
            "unused": used.unused,
        })
    });
    let follows = fat.follows.fates().map(|(tag, fate)| json!({ "seq": tag.0, "chunks": fate.name() }));
    json!({
        "type": "final_fat",
        "owner": fat.owner.to_string(),
        "file": fat.file.to_string(),
        "seq": fat.seq,
        "base": fat.base,
        "follows": follows.collect::<Vec<_>>(),
        "released": fat.is_release(),
        "uses": uses.collect::<Vec<_>>(),
        "frees": fat.frees.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "issued": fat.issued.0,
        "order_expires": fat.order_expires.0,
        "body_bytes": fat.body.len(),
    })
}

pub(crate) fn moved(moved: &Move) -> Value {
    json!({
        "type": "move",
        "owner": moved.owner.to_string(),
        "file": moved.file.to_string(),
        "seq": moved.seq,
        "chunk": moved.chunk.to_string(),
        "length": moved.length,
        "from": moved.from.to_string(),
        "from_lease": moved.from_lease.to_string(),
        "to": moved.to.to_string(),
        "to_lease": moved.to_lease.to_string(),
        "at": moved.at.0,
    })
}
