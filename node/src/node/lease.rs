//! The whole story of one lease (`fathom fat --lease`): what the vendor signed, what of it is proven here, and who uses it.

use std::collections::BTreeSet;

use fathom_protocol::head::{LeaseEvidence, VerifiedLease};
use fathom_protocol::ids::{LeaseId, NodeId};
use fathom_protocol::moves::Move;
use fathom_protocol::wire::{Refusal, Request, Response};
use serde_json::{Value, json};

use super::fat;
use crate::clock;
use crate::control::{CommandError, ErrorKind};
use crate::net::Net;
use crate::offline::json as record_json;
use crate::roles::user::StoredFile;

/// Leases that are named when a prefix fits several.
const NAMED_MAX: usize = 5;
const ANSWER: std::time::Duration = std::time::Duration::from_secs(6);

/// What is known of a lease before it is proven: its identifier, and a vendor that is said to hold or to have held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) lease: LeaseId,
    pub(super) vendor: NodeId,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Sought {
    prefix: String,
    vendor: Option<NodeId>,
}

impl Sought {
    /// A lease whose identifier begins with `prefix`, at `vendor` if one is named.
    ///
    /// # Errors
    /// [`CommandError`] if that is no vendor's identifier.
    pub(super) fn new(prefix: &str, vendor: Option<&str>) -> Result<Self, CommandError> {
        let parse = |text: &str| {
            text.parse().map_err(|error| {
                CommandError::new(ErrorKind::Usage, format!("{text} is no vendor: {error}"))
                    .hint("with --lease give all 64 digits, as `fathom fat --json` shows them")
            })
        };
        Ok(Self { prefix: prefix.to_ascii_lowercase(), vendor: vendor.map(parse).transpose()? })
    }

    /// What is wanted, if nothing is left to look for. So a lease that nobody names any more is shown to be gone.
    fn whole(&self) -> Option<Wanted> {
        Some(Wanted { lease: self.prefix.parse().ok()?, vendor: self.vendor? })
    }
}

/// The one lease that is sought, among those that are live and those that the user's files name.
///
/// # Errors
/// [`CommandError`]: no lease begins so, or several do.
pub(super) fn find(
    sought: &Sought,
    live: impl IntoIterator<Item = (LeaseId, NodeId)>,
    files: &[StoredFile],
) -> Result<Wanted, CommandError> {
    if let Some(wanted) = sought.whole() {
        return Ok(wanted);
    }
    let prefix = &sought.prefix;
    let named = files.iter().flat_map(|file| {
        let uses = file.versions.iter().flat_map(|version| version.fat.uses.iter());
        let used = uses.map(|used| (used.lease, used.vendor));
        let moved = file.moves.iter().flat_map(|moved| [(moved.from_lease, moved.from), (moved.to_lease, moved.to)]);
        used.chain(moved).collect::<Vec<_>>()
    });
    let found: BTreeSet<(LeaseId, NodeId)> = live
        .into_iter()
        .chain(named)
        .filter(|(lease, at)| lease.to_string().starts_with(prefix) && sought.vendor.is_none_or(|vendor| vendor == *at))
        .collect();
    let ids: BTreeSet<LeaseId> = found.iter().map(|(lease, _)| *lease).collect();
    match (found.first(), ids.len()) {
        (Some((lease, vendor)), 1) => Ok(Wanted { lease: *lease, vendor: *vendor }),
        (None, _) => Err(CommandError::new(ErrorKind::NotFound, format!("no lease begins with {prefix}")).hint(
            "`fathom fat --leases` lists those that are live; the room of a lease that is not there was given back, which \
             --vendor with the vendor's whole id proves",
        )),
        _ => {
            let some: Vec<String> = ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            Err(CommandError::new(
                ErrorKind::Usage,
                format!("{} leases begin with {prefix}: {}", ids.len(), some.join(", ")),
            )
            .hint("give more digits"))
        }
    }
}

/// How a mirror is asked for what proves it.
pub(super) fn request(wanted: Wanted) -> Request {
    Request::LeaseOf { vendor: Some(wanted.vendor), lease: wanted.lease }
}

/// What a mirror shows of it, not yet verified.
pub(super) fn evidence(answer: Response) -> Result<LeaseEvidence, Refusal> {
    match answer {
        Response::Lease(evidence) => Ok(*evidence),
        Response::Refused(refusal) => Err(refusal),
        _ => Err(fat::unexpected()),
    }
}

/// Asks `mirror` for the leases that may be meant, and for what proves the one that is.
pub(super) async fn at(
    net: &Net,
    mirror: NodeId,
    sought: &Sought,
    files: &[StoredFile],
) -> Result<Value, CommandError> {
    let refused = |refusal: Refusal| CommandError::from(crate::roles::user::UserError::from(refusal));
    let wanted = match sought.whole() {
        Some(wanted) => wanted,
        None => {
            let vendors = fat::vendors(net, mirror).await.map_err(refused)?;
            let live = vendors.iter().flat_map(|vendor| vendor.leases.iter().map(|lease| (lease.id, lease.vendor)));
            find(sought, live, files)?
        }
    };
    let answer = net.call(mirror, &request(wanted), ANSWER).await.map_err(refused)?;
    evidence(answer).and_then(|evidence| story(wanted, mirror, evidence, files)).map_err(refused)
}

/// The story. The evidence is verified here; one that does not prove what it says is an error.
///
/// # Errors
/// A refusal if the evidence is no proof.
pub(super) fn story(
    wanted: Wanted,
    mirror: NodeId,
    evidence: LeaseEvidence,
    files: &[StoredFile],
) -> Result<Value, Refusal> {
    let root = evidence.head.peek().map(|head| head.root.hash).ok();
    let path_bytes = fathom_protocol::codec::encode(&evidence.proof).len();
    let VerifiedLease { head, lease } = evidence.verify(Some(wanted.vendor), wanted.lease)?;
    let (mut used_by, mut moves): (Vec<Value>, Vec<&Move>) = (Vec::new(), Vec::new());
    for file in files {
        moves.extend(
            file.moves.iter().filter(|moved| moved.from_lease == wanted.lease || moved.to_lease == wanted.lease),
        );
        for version in &file.versions {
            let uses = version.fat.uses.iter();
            used_by.extend(uses.filter(|used| used.lease == wanted.lease && used.vendor == wanted.vendor).map(
                |used| {
                    json!({
                        "file": file.file.to_string(),
                        "name": version.manifest.as_ref().map(|manifest| manifest.name.to_string()),
                        "seq": version.fat.tag().counter(),
                        "bytes": used.bytes,
                    })
                },
            ));
        }
    }
    let mut story = json!({
        "lease": wanted.lease.to_string(),
        "vendor": wanted.vendor.to_string(),
        "zone": head.characteristics.zone.as_str(),
        "live": lease.is_some(),
        "record": lease.as_ref().map(|lease| record_json::lease(lease)),
        "used_by": used_by,
        "moves": moves.into_iter().map(record_json::moved).collect::<Vec<_>>(),
    });
    story["proof"] = json!({
        "verified": true,
        "proves": if lease.is_some() { "present" } else { "absent" },
        "mirror": mirror.to_string(),
        "epoch": head.epoch,
        "seq": head.seq,
        "issued": head.issued.0,
        "age_seconds": clock::now().since_ms(head.issued) / 1000,
        "root": root.map(|root| root.to_string()),
        "leases": head.leases,
        "bytes": path_bytes,
    });
    Ok(story)
}
