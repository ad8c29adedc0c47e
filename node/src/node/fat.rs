//! The FAT as a node that is no mirror shows it: read from a mirror, and verified here.

use std::collections::BTreeMap;
use std::time::Duration;

use fathom_protocol::codec::Bounded;
use fathom_protocol::fork::Offence;
use fathom_protocol::head::VerifiedVendor;
use fathom_protocol::ids::NodeId;
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response, SyncRecord, TableDigest};

use crate::net::Net;

const ANSWER: Duration = Duration::from_secs(6);

/// The digest of `mirror`'s table.
pub(super) async fn digest(net: &Net, mirror: NodeId) -> Result<TableDigest, Refusal> {
    match net.call(mirror, &Request::Digest, ANSWER).await? {
        Response::Digest(digest) => Ok(digest),
        _ => Err(unexpected()),
    }
}

/// All vendors that `mirror` knows, with their leases; a head that does not verify is an error.
pub(super) async fn vendors(net: &Net, mirror: NodeId) -> Result<Vec<VerifiedVendor>, Refusal> {
    let mut vendors: Vec<VerifiedVendor> = Vec::new();
    loop {
        let after = vendors.last().map(|vendor| vendor.head.vendor);
        let Response::Page(page) = net.call(mirror, &Request::Vendors { after }, ANSWER).await? else {
            return Err(unexpected());
        };
        let before = vendors.len();
        for record in page.records {
            if let SyncRecord::Vendor(record) = record {
                let vendor = tokio::task::spawn_blocking(move || record.verify()).await;
                let vendor = vendor.map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))??;
                net.book().learn_addresses(vendor.head.vendor, vendor.head.addresses.iter().map(ToString::to_string));
                vendors.push(vendor);
            }
        }
        if !page.more || vendors.len() == before {
            return Ok(vendors);
        }
    }
}

/// What is proven against which vendor, as `mirror` knows it; a proof that does not verify is an error.
pub(super) async fn proofs(net: &Net, mirror: NodeId) -> Result<BTreeMap<NodeId, Offence>, Refusal> {
    let Response::Page(page) = net.call(mirror, &Request::Proofs(Bounded::default()), ANSWER).await? else {
        return Err(unexpected());
    };
    let verify = move || {
        let proofs = page.records.into_iter().filter_map(|record| match record {
            SyncRecord::Proof(proof) => Some(proof.verify().map(|proof| (proof.vendor(), proof.offence()))),
            _ => None,
        });
        proofs.collect::<Result<BTreeMap<_, _>, _>>()
    };
    let proofs = tokio::task::spawn_blocking(verify).await;
    Ok(proofs.map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))??)
}

pub(super) fn unexpected() -> Refusal {
    Refusal::new(RefusalKind::BadRequest, "a mirror answered something else than was asked")
}
