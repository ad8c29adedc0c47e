//! Vendors that drop a lease which is in use: whoever saw it must prove it in the end, unless the owner let it go meanwhile.

use fathom_protocol::fat::Tag;
use fathom_protocol::head::VerifiedVendor;
use fathom_protocol::ids::{FileId, LeaseId, NodeId, OwnerId};
use fathom_protocol::table::Table;

use super::{Oracle, Quiet};

/// A lease in use that was dropped before the eyes of an honest mirror.
#[derive(Debug)]
pub(in crate::sim) struct Drop {
    vendor: NodeId,
    lease: LeaseId,
    owner: OwnerId,
    file: FileId,
    /// The final FAT that the vendor had noted.
    seq: Tag,
}

impl Oracle {
    /// A vendor breaks its word.
    pub(in crate::sim) fn dropped(&mut self, vendor: NodeId, lease: LeaseId) {
        self.dropped.insert((vendor, lease));
    }

    /// An honest mirror with this table is shown a vendor's record.
    pub(in crate::sim) fn mirror_replaces(&mut self, table: &Table, new: &VerifiedVendor) {
        let Some(old) = table.vendor(new.head.vendor) else { return };
        if old.head.epoch != new.head.epoch || old.head.seq >= new.head.seq {
            return;
        }
        for lease in &old.leases {
            let key = (old.head.vendor, lease.id);
            let held = lease.used > 0 && lease.expires > new.head.issued && new.lease(lease.id).is_none();
            let Some(named) = lease.named.filter(|_| held && self.dropped.contains(&key)) else { continue };
            let mut versions = table.versions(lease.owner, named.file);
            if let Some(fat) = versions.find(|fat| fat.hash == named.fat) {
                let (owner, file, seq) = (lease.owner, named.file, Tag(fat.seq));
                self.accusable.push(Drop { vendor: key.0, lease: key.1, owner, file, seq });
            }
        }
    }
}

impl Drop {
    /// The mirror that does not know what this vendor did, if any.
    pub(super) fn unproven(&self, quiet: &Quiet<'_>) -> Option<String> {
        let unaware = quiet.mirrors.iter().find(|(_, mirror)| {
            let table = &mirror.table;
            let newer = table.versions(self.owner, self.file).any(|fat| fat.follows.has(self.seq));
            let moved = table.moves_of(self.owner, self.file).any(|(key, _)| key.from_lease == self.lease);
            !newer && !moved && table.quarantined(self.vendor).is_none()
        });
        let (vendor, lease) = (self.vendor.short(), self.lease);
        unaware.map(|(node, _)| format!("mirror {node} has no proof against {vendor}, which dropped lease {lease}"))
    }
}
