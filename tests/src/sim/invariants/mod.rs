//! What must hold, whatever happens: the twelve invariants of the design, each a checker of its own.
//!
//! The [`Oracle`] sees every node from outside. It knows what was truly signed, said, stored and released, and by the true
//! time; no node reads it. A checker that finds a promise broken notes the first such violation, which ends the run.

mod checks;
mod drops;
mod end;
mod moves;
mod restores;

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::fat::{FinalFat, Follows, Lineage, Place, Tag};
use fathom_protocol::header::Hop;
use fathom_protocol::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use fathom_protocol::lease::{Lease, LeaseState};
use fathom_protocol::limits::FOLLOWS_MAX;
use fathom_protocol::moves::Move;
use fathom_protocol::receipt::Receipt;
use fathom_protocol::sign::{Carried, Signed, SignerId};
use fathom_protocol::table::{MoveKey, Verified};
use fathom_protocol::time::UnixMs;
use fathom_store::ChunkKey;

pub(super) use checks::After;
pub(super) use end::Quiet;

/// A file of a user.
pub(super) type FileKey = (OwnerId, FileId);
/// Where a version of a file lies: chunks, lengths and holders.
pub(super) type Stored = Vec<(ChunkId, u32, Vec<Place>)>;

/// A final FAT that its owner signed.
#[derive(Debug)]
struct Final {
    seq: Tag,
    base: Tag,
    follows: Follows,
    uses: Vec<NodeId>,
    frees: Vec<NodeId>,
    /// True time.
    at: u64,
}

impl Final {
    fn lineage(&self) -> Lineage<'_> {
        Lineage { base: self.base, seq: self.seq, follows: &self.follows }
    }
}

/// A final FAT of which its user was told that it is stored.
#[derive(Debug, Clone)]
pub(super) struct Acked {
    seq: Tag,
    /// The tag of its chunks, too.
    base: Tag,
    follows: Follows,
    hash: Hash,
    stored: Option<Stored>,
}

/// A chunk in a vendor's local FAT.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    lease: LeaseId,
    length: u32,
    seq: u64,
    file: FileId,
}

/// What a vendor had after its last step.
#[derive(Debug, Default)]
struct VendorView {
    writes: u64,
    chunks: BTreeMap<ChunkKey, Held>,
    leases: BTreeSet<LeaseId>,
    head: (u64, u64),
}

/// What a vendor granted for a request.
#[derive(Debug)]
struct Granted {
    lease: LeaseId,
    /// Bytes until they were withdrawn.
    bytes: u64,
    until: UnixMs,
    withdrawn: bool,
}

/// What is known of the world from outside.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// The first broken promise.
    pub(super) violation: Option<(u8, String)>,
    /// Whether the step under way reclaims expired leases.
    pub(super) lapsing: bool,
    /// Users that fork their own files: nothing is promised to them.
    pub(super) forkers: BTreeSet<OwnerId>,
    /// Twins that were shown to honest mirrors: (vendor, epoch, seq).
    pub(super) twins: BTreeSet<(NodeId, u64, u64)>,
    /// Vendors that lie.
    pub(super) liars: BTreeSet<NodeId>,
    /// Twins that were shown to a mirror while it held the other one.
    twins_shown: BTreeSet<(usize, NodeId)>,
    signed: BTreeSet<Hash>,
    finals: BTreeMap<FileKey, Vec<Final>>,
    /// By file: those that no other one goes on from, which are several if devices wrote at once.
    acked: BTreeMap<FileKey, Vec<Acked>>,
    /// Of all that ever were: who holds something by them.
    ever_acked: BTreeSet<(FileKey, Tag, NodeId)>,
    /// The versions that the author of each final FAT went on from.
    parents: BTreeMap<(FileKey, Tag), BTreeSet<Tag>>,
    /// All versions that each final FAT, by its hash, comes after. A put that is gone on with after a crash signs its number again,
    /// and may have seen others then.
    lineages: BTreeMap<Hash, BTreeSet<Tag>>,
    /// What each number of a file stands for.
    contents: BTreeMap<(FileKey, u64), Hash>,
    /// The final FATs of a file that each vendor heard.
    heard: BTreeMap<(usize, FileKey), BTreeSet<Tag>>,
    heads: BTreeMap<(usize, NodeId), (u64, u64)>,
    best: BTreeMap<(usize, NodeId), (u64, u64, Hash)>,
    mirror_finals: BTreeMap<(usize, FileKey), BTreeSet<Tag>>,
    /// The files of which a mirror took final FATs since it was looked at last.
    mirror_took: BTreeSet<(usize, FileKey)>,
    said_leases: BTreeMap<(usize, LeaseId), u64>,
    renewed: BTreeMap<(usize, LeaseId), u64>,
    stored_at: BTreeMap<(usize, ChunkKey), u64>,
    receipts: BTreeSet<(usize, ChunkKey)>,
    sealed: BTreeMap<([u8; 32], u64, [u8; 8]), Hash>,
    views: BTreeMap<usize, VendorView>,
    /// Leases that vendors dropped although they were in use.
    dropped: BTreeSet<(NodeId, LeaseId)>,
    /// Those that an honest mirror saw vanish, with the final FAT that the vendor had noted.
    pub(super) accusable: Vec<drops::Drop>,
    /// Chunks that went when their vendor's disk was put back, with the leases that they were under: the same chunk may come again,
    /// under another one, and that copy is promised anew.
    forgiven: BTreeSet<(usize, ChunkKey, LeaseId)>,
    /// Chunks whose bytes are there and whose entries went.
    unadopted: BTreeMap<(usize, ChunkKey), Held>,
    /// Entries that came back and whose bytes are gone.
    bare: BTreeSet<(usize, ChunkKey)>,
    /// Vendors whose disk was put back, until they took back what mirrors know.
    behind: BTreeSet<usize>,
    /// Vendors that could not learn that their disk was put back, since one mirror alone answered: nothing is promised of them.
    pub(super) alone: BTreeSet<usize>,
    /// What a vendor took back, in bytes, which may be more than it has: nothing may be added to it.
    over: BTreeMap<usize, u64>,
    /// Moves that mirrors kept, as all of them come to keep them.
    moves: BTreeMap<MoveKey, (Hash, Move)>,
    /// Since when a vendor takes a chunk for moved, true time.
    leaving: BTreeMap<(usize, ChunkKey), u64>,
    /// Chunks that vendors erased after they had moved them.
    left: BTreeSet<(usize, ChunkKey)>,
    /// The same, whatever came there since.
    ever_left: BTreeSet<(usize, ChunkKey)>,
    /// Vendors whose disk was put back at any time.
    was_behind: BTreeSet<usize>,
    /// Answers of vendors that had no such chunk when they were asked.
    had_not: BTreeSet<u64>,
    /// What each vendor granted since it started, by the request.
    granted: BTreeMap<(usize, SignerId, Hash), Granted>,
}

impl Acked {
    fn lineage(&self) -> Lineage<'_> {
        Lineage { base: self.base, seq: self.seq, follows: &self.follows }
    }
}

impl Oracle {
    pub(super) fn broken(&mut self, invariant: u8, what: String) {
        if self.violation.is_none() {
            self.violation = Some((invariant, what));
        }
    }

    /// A key's holder signed the record with this hash.
    pub(super) fn signed(&mut self, hash: Hash) {
        self.signed.insert(hash);
    }

    /// An owner signed a final FAT at this time. Invariant 9, as far as it is about names: one number never stands for two contents,
    /// and what is followed is what its author went on from, which are the versions `seen`, and no other.
    pub(super) fn signed_fat(&mut self, fat: &Signed<FinalFat>, at: u64, content: Option<Hash>, seen: &[(Tag, Hash)]) {
        self.signed.insert(fat.hash());
        let key = (fat.owner, fat.file);
        self.parents.entry((key, fat.tag())).or_default().extend(seen.iter().map(|(tag, _)| tag));
        let followed = seen.iter().flat_map(|(_, hash)| self.lineages.get(hash).into_iter().flatten());
        let before: BTreeSet<Tag> = followed.chain(seen.iter().map(|(tag, _)| tag)).copied().collect();
        self.lineages.insert(fat.hash(), before.clone());
        if !self.forkers.contains(&fat.owner) {
            let others = self.finals.get(&key).into_iter().flatten().map(|other| other.seq);
            let wrong = others.filter(|other| *other != fat.tag() && fat.follows.has(*other) != before.contains(other));
            // Who names as many as can be named follows all that came before those as well.
            if let Some(wrong) = wrong.min().filter(|_| before.len() < FOLLOWS_MAX) {
                self.broken(
                    9,
                    format!("number {} of {} is followed unseen, or seen and not", wrong.0, fat.file.short()),
                );
            }
        }
        self.finals.entry(key).or_default().push(Final {
            seq: fat.tag(),
            base: Tag(fat.base),
            follows: fat.follows.clone(),
            uses: fat.uses.iter().map(|used| used.vendor).collect(),
            frees: fat.frees.to_vec(),
            at,
        });
        let Some(content) = content.filter(|_| !self.forkers.contains(&fat.owner)) else { return };
        if *self.contents.entry((key, fat.seq)).or_insert(content) != content {
            self.broken(9, format!("number {} of {} stands for two contents", fat.seq, fat.file.short()));
        }
    }

    /// All versions that the author of a final FAT went on from, and their authors, and so on.
    fn ancestors(&self, file: FileKey, of: Tag) -> BTreeSet<Tag> {
        let (mut known, mut open) = (BTreeSet::new(), vec![of]);
        while let Some(next) = open.pop() {
            for parent in self.parents.get(&(file, next)).into_iter().flatten() {
                if known.insert(*parent) {
                    open.push(*parent);
                }
            }
        }
        known
    }

    /// Invariant 1: a record that a mirror takes was signed by its owner.
    pub(super) fn mirror_took(&mut self, mirror: usize, record: &Verified) {
        let hash = match record {
            Verified::Vendor(vendor) => {
                let (head, hash) = (&vendor.head, vendor.head.hash());
                let best = self.best.entry((mirror, head.vendor)).or_insert((0, 0, hash));
                let (new, old) = ((head.epoch, head.seq), (best.0, best.1));
                if new == old && hash != best.2 {
                    self.twins_shown.insert((mirror, head.vendor));
                }
                if new > old || new == old && hash < best.2 {
                    *best = (head.epoch, head.seq, hash);
                }
                hash
            }
            Verified::Fat(fat) => {
                self.mirror_took.insert((mirror, (fat.owner, fat.file)));
                fat.hash()
            }
            _ => return,
        };
        if !self.signed.contains(&hash) {
            self.broken(1, format!("mirror {mirror} took a record that nobody signed: {:?}", record.key()));
        }
    }

    /// Invariant 1, at a vendor.
    pub(super) fn vendor_acted(&mut self, vendor: usize, fat: &Signed<FinalFat>) {
        self.heard.entry((vendor, (fat.owner, fat.file))).or_default().insert(fat.tag());
        if !self.signed.contains(&fat.hash()) {
            self.broken(1, format!("vendor {vendor} acts on a final FAT that nobody signed"));
        }
    }

    /// A mirror acknowledged a final FAT.
    pub(super) fn mirror_said_final(&mut self, mirror: usize, owner: OwnerId, file: FileId, seq: u64) {
        self.mirror_finals.entry((mirror, (owner, file))).or_default().insert(Tag(seq));
    }

    pub(super) fn vendor_offered(&mut self, vendor: usize, _: u64, lease: &Lease) {
        let said = self.said_leases.entry((vendor, lease.id)).or_default();
        *said = (*said).max(lease.revision);
    }

    /// A vendor forgets requests that have expired by what it takes for the time, which may be ahead and come back.
    pub(super) fn vendor_remembers(&mut self, vendor: usize, now: UnixMs) {
        self.granted.retain(|(node, ..), granted| *node != vendor || granted.until >= now);
    }

    /// Which requests it granted, a vendor knows until it crashes or takes its leases back; what it held for them then lapses.
    pub(super) fn vendor_forgot(&mut self, vendor: usize) {
        self.granted.retain(|(node, ..), _| *node != vendor);
    }

    /// A vendor holds room for a request, which it remembers until then. One that was withdrawn there gets none.
    pub(super) fn vendor_granted(
        &mut self,
        vendor: usize,
        (who, nonce): (SignerId, Hash),
        (lease, bytes): (LeaseId, u64),
        until: UnixMs,
    ) {
        let granted = Granted { lease, bytes, until, withdrawn: false };
        if self.granted.entry((vendor, who, nonce)).or_insert(granted).withdrawn {
            self.broken(0, format!("vendor {vendor} locks room for a request that was withdrawn"));
        }
    }

    /// The lease under which a vendor holds room for a request.
    pub(super) fn held_for(&self, vendor: usize, (who, nonce): (SignerId, Hash)) -> Option<LeaseId> {
        self.granted.get(&(vendor, who, nonce)).map(|granted| granted.lease)
    }

    /// A vendor says that it holds nothing for a request any more: of its lease's room, `before` and `after` are left.
    pub(super) fn vendor_withdrew(&mut self, vendor: usize, (who, nonce): (SignerId, Hash), before: u64, after: u64) {
        let Some(granted) = self.granted.get_mut(&(vendor, who, nonce)) else { return };
        granted.withdrawn = true;
        let bytes = std::mem::take(&mut granted.bytes);
        if after > before.saturating_sub(bytes) {
            self.broken(
                0,
                format!("vendor {vendor} keeps room locked for a request that was withdrawn: {after} bytes"),
            );
        }
    }

    /// Invariant 2, at the vendor: its heads go up.
    pub(super) fn vendor_signed(&mut self, vendor: usize, epoch: u64, seq: u64) {
        let view = self.views.entry(vendor).or_default();
        let before = view.head;
        view.head = view.head.max((epoch, seq));
        if (epoch, seq) <= before && !self.alone.contains(&vendor) {
            self.broken(2, format!("vendor {vendor} signed head {epoch}/{seq} after {}/{}", before.0, before.1));
        }
    }

    /// Invariant 10: no vendor that is alone with its key takes itself for two.
    pub(super) fn elsewhere(&mut self, vendor: usize, byzantine: bool) {
        if !byzantine {
            self.broken(10, format!("vendor {vendor} takes its own heads for those of another node"));
        }
    }

    /// Committed bytes under this lease were promised anew now.
    pub(super) fn renewed(&mut self, vendor: usize, lease: LeaseId, at: u64) {
        self.renewed.insert((vendor, lease), at);
    }

    /// A chunk came under this lease now.
    pub(super) fn renewed_lock(&mut self, _: usize, _: LeaseId, _: u64) {}

    pub(super) fn relied_again(&mut self, vendor: usize, key: ChunkKey, at: u64) {
        self.stored_at.insert((vendor, key), at);
    }

    pub(super) fn receipt(&mut self, vendor: usize, receipt: &Carried<Receipt>) {
        if let Ok(receipt) = receipt.peek() {
            self.receipts.insert((vendor, ChunkKey { owner: receipt.owner, chunk: receipt.chunk }));
        }
    }

    /// Whether the vendor may take this chunk: invariant 5, before the ledger is asked.
    pub(super) fn may_take(&self, lease: Option<&Signed<Lease>>, hop: &Hop, now: UnixMs) -> bool {
        lease.is_some_and(|lease| {
            lease.owner == hop.owner
                && lease.authority == hop.authority
                && lease.state != LeaseState::Grace
                && lease.room_expires >= now
                && lease.room() >= u64::from(hop.length)
        })
    }

    /// Invariant 5: bytes are taken only under a live lease of that user with room for them.
    pub(super) fn took(&mut self, at: u64, vendor: usize, hop: &Hop, lease: LeaseId, allowed: bool) {
        let key = (vendor, ChunkKey { owner: hop.owner, chunk: hop.chunk });
        self.stored_at.insert(key, at);
        self.left.remove(&key);
        self.forgiven.remove(&(key.0, key.1, lease));
        if !allowed {
            self.broken(
                5,
                format!("vendor {vendor} took {} bytes that lease {} does not allow", hop.length, lease.short()),
            );
        }
    }

    /// Invariant 12: no key and nonce ever meet two plaintexts.
    pub(super) fn sealed(&mut self, file_key: [u8; 32], index: u64, salt: [u8; 8], plain: &[u8]) {
        let hash = Hash::of(plain);
        if *self.sealed.entry((file_key, index, salt)).or_insert(hash) != hash {
            self.broken(12, format!("two plaintexts were sealed under one key as chunk {index}"));
        }
    }

    /// Invariant 8: a final FAT counts as stored at min(3, mirrors) acknowledgements, or a majority of those where one
    /// does not answer. Whether it is the second of two contents that were stored at once.
    pub(super) fn acknowledged(
        &mut self,
        mirrors: usize,
        byzantine: &[bool],
        fat: &Signed<FinalFat>,
        stored: Option<Stored>,
        acked: &BTreeSet<usize>,
    ) -> bool {
        let needed = mirrors.min(3) / 2 + 1;
        let key = (fat.owner, fat.file);
        let holding = acked.iter().filter(|mirror| {
            byzantine[**mirror]
                || self.mirror_finals.get(&(**mirror, key)).is_some_and(|said| said.contains(&fat.tag()))
        });
        let holding = holding.count();
        if holding < needed {
            self.broken(8, format!("a final FAT counts as stored, {holding} mirrors have it and {needed} must"));
        }
        if self.forkers.contains(&fat.owner) {
            return false;
        }
        self.ever_acked.extend(fat.uses.iter().map(|used| (key, fat.tag(), used.vendor)));
        let mut known = self.acked.remove(&key).unwrap_or_default();
        let before = self.ancestors(key, fat.tag());
        known.retain(|known| !before.contains(&known.seq));
        let late = known.iter().any(|known| self.ancestors(key, known.seq).contains(&fat.tag()));
        let content = |seq: Tag| self.contents.get(&(key, seq.0));
        let forked = !late && known.iter().any(|known| content(known.seq) != content(fat.tag()));
        if !late {
            let (base, follows) = (Tag(fat.base), fat.follows.clone());
            known.push(Acked { seq: fat.tag(), base, follows, hash: fat.hash(), stored });
        }
        self.acked.insert(key, known);
        forked
    }
}
