//! Nodes that do not follow the protocol. Each runs the honest code, and what it sends is twisted: it lies with its own
//! key, forges with keys that it has not, leaves out, replays, and keeps silent.

use std::collections::VecDeque;

use fathom_protocol::codec::{self, Bounded, Text};
use fathom_protocol::delta::VendorDelta;
use fathom_protocol::fat::FinalFat;
use fathom_protocol::head::{VendorHead, VendorRecord};
use fathom_protocol::header::{Header, Hop};
use fathom_protocol::ids::Signature;
use fathom_protocol::limits::{FRAME_BYTES_MAX, HEADER_BYTES_MAX};
use fathom_protocol::sign::{Carried, Record, Signed, sign_bytes};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Request, Response, SyncRecord};
use serde::{Deserialize, Serialize};

use super::invariants::Oracle;
use super::node::{Body, Effect, Known};
use super::random::Random;
use super::report::Injected;
use super::world::Actor;

/// Messages and heads remembered for replays.
const REMEMBERED: usize = 64;
/// Acts in 1,000 messages.
const ACTS: u64 = 150;

/// What a liar remembers.
#[derive(Default)]
pub(super) struct Twister {
    sent: VecDeque<(usize, Body)>,
    heads: VecDeque<VendorRecord>,
}

/// What a liar has at hand in one step.
pub(super) struct Stage<'a> {
    pub(super) now: UnixMs,
    pub(super) random: &'a mut Random,
    pub(super) known: &'a Known,
    pub(super) oracle: &'a mut Oracle,
    pub(super) injected: &'a mut Injected,
}

/// The two fields of a carried record, to be put together wrongly.
#[derive(Serialize, Deserialize)]
struct Raw {
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    signature: Signature,
}

/// A record with this body and this signature, whether they belong together or not.
fn carried<T: Record>(body: Vec<u8>, signature: Signature) -> Carried<T> {
    codec::decode(&codec::encode(&Raw { body, signature }), FRAME_BYTES_MAX).expect("a raw record decodes")
}

fn raw<T: Record>(record: &Carried<T>) -> Raw {
    codec::decode(&codec::encode(record), FRAME_BYTES_MAX).expect("a record is raw bytes")
}

impl Twister {
    /// What is sent instead of `effects`.
    pub(super) fn twist(&mut self, effects: Vec<Effect>, stage: &mut Stage<'_>, actor: &Actor) -> Vec<Effect> {
        let mut out = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { to, body } if stage.random.chance(ACTS) => {
                    stage.injected.byzantine_acts += 1;
                    self.lie(to, body, stage, actor, &mut out);
                }
                Effect::Send { to, body } => {
                    self.remember(to, &body);
                    out.push(Effect::Send { to, body });
                }
                wait @ Effect::Wait { .. } => out.push(wait),
            }
        }
        out
    }

    fn remember(&mut self, to: usize, body: &Body) {
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((to, body.clone()));
    }

    fn lie(&mut self, to: usize, body: Body, stage: &mut Stage<'_>, actor: &Actor, out: &mut Vec<Effect>) {
        match stage.random.below(5) {
            // Silence.
            0 => {}
            // A replay of anything, to anybody.
            1 if !self.sent.is_empty() => {
                let (old, message) = self.sent[stage.random.index(self.sent.len())].clone();
                let anywhere = stage.random.index(stage.known.ids.len());
                let old = if stage.random.chance(500) { old } else { anywhere };
                out.push(Effect::Send { to: old, body: message });
                out.push(Effect::Send { to, body });
            }
            _ => match (actor, body) {
                (Actor::Mirror(_), Body::Response { call, bytes }) => {
                    let bytes = self.lying_mirror(&bytes, stage).unwrap_or(bytes);
                    out.push(Effect::Send { to, body: Body::Response { call, bytes } });
                }
                (Actor::Vendor(vendor), Body::Request { call, bytes }) => {
                    let lie = lying_vendor(&bytes, stage, &vendor.key);
                    // One mirror hears the one, another one the other.
                    if let Some(lie) = lie {
                        let other = stage.known.mirrors[stage.random.index(stage.known.mirrors.len())];
                        out.push(Effect::Send {
                            to: other,
                            body: Body::Request { call: call + (1 << 40), bytes: lie },
                        });
                    }
                    out.push(Effect::Send { to, body: Body::Request { call, bytes } });
                }
                (Actor::User(user), Body::Chunk { call, header, bytes }) => {
                    let (header, bytes) = lying_sender(&header, bytes, stage, &user.keys);
                    out.push(Effect::Send { to, body: Body::Chunk { call, header, bytes } });
                }
                (Actor::User(user), Body::Request { call, bytes }) => {
                    if let Some(lie) = lying_owner(&bytes, stage, &user.keys) {
                        let other = stage.known.mirrors[stage.random.index(stage.known.mirrors.len())];
                        out.push(Effect::Send {
                            to: other,
                            body: Body::Request { call: call + (1 << 40), bytes: lie },
                        });
                    }
                    out.push(Effect::Send { to, body: Body::Request { call, bytes } });
                }
                (_, body) => out.push(Effect::Send { to, body }),
            },
        }
    }

    /// A mirror's answer with old heads, leases left out, forged records, or a wrong clock.
    fn lying_mirror(&mut self, bytes: &[u8], stage: &mut Stage<'_>) -> Option<Vec<u8>> {
        let mut page = match codec::decode::<Response>(bytes, FRAME_BYTES_MAX) {
            Ok(Response::Page(page)) => page,
            // Vendors that ask for their own head are shown an old one, or none.
            Ok(Response::Heads(heads)) => {
                let own = heads.iter().find_map(|head| head.peek().ok())?.vendor;
                let of = |record: &&VendorRecord| record.head.peek().is_ok_and(|head| head.vendor == own);
                let old = self.heads.iter().find(of).map(|record| record.head.clone());
                return Some(codec::encode(&Response::Heads(Bounded::first(old))));
            }
            _ => return None,
        };
        let mut records = page.records.into_vec();
        for record in &mut records {
            if let SyncRecord::Vendor(vendor) = record {
                if self.heads.len() == REMEMBERED {
                    self.heads.pop_front();
                }
                self.heads.push_back(vendor.clone());
                let old = self.heads[stage.random.index(self.heads.len())].clone();
                *record = match stage.random.below(3) {
                    0 => SyncRecord::Vendor(old),
                    1 => SyncRecord::Vendor(without_a_lease(vendor, stage.random)),
                    _ => SyncRecord::Vendor(forged_head(vendor)),
                };
            } else if let SyncRecord::Fat(fat) = record
                && let Ok(mut value) = fat.peek()
            {
                // A newer final FAT that its owner never signed.
                value.seq += 1;
                *record = SyncRecord::Fat(carried(codec::encode(&value), raw(fat).signature));
            }
        }
        page.records = Bounded::first(records);
        page.clock = UnixMs(stage.now.0.saturating_add(stage.random.below(1 << 40)));
        Some(codec::encode(&Response::Page(page)))
    }
}

fn without_a_lease(vendor: &VendorRecord, random: &mut Random) -> VendorRecord {
    let mut leases = vendor.leases.clone().into_vec();
    if !leases.is_empty() {
        leases.remove(random.index(leases.len()));
    }
    VendorRecord { head: vendor.head.clone(), leases: Bounded::first(leases) }
}

/// A higher head under the signature of the one before.
fn forged_head(vendor: &VendorRecord) -> VendorRecord {
    let Ok(mut head) = vendor.head.peek() else { return vendor.clone() };
    head.seq += 1_000;
    let head = carried(codec::encode(&head), raw(&vendor.head).signature);
    VendorRecord { head, leases: vendor.leases.clone() }
}

/// A second head with the number of the first, whole or as a change: a twin, or one that leased out too much.
fn lying_vendor(bytes: &[u8], stage: &mut Stage<'_>, key: &ed25519_dalek::SigningKey) -> Option<Vec<u8>> {
    let request = match codec::decode::<Request>(bytes, FRAME_BYTES_MAX) {
        Ok(Request::Report(record)) => {
            let head = lying_head(&record.head, stage, key)?;
            Request::Report(VendorRecord { head, leases: record.leases })
        }
        Ok(Request::ReportDelta(delta)) => {
            let head = lying_head(&delta.head, stage, key)?;
            Request::ReportDelta(VendorDelta { head, ..delta })
        }
        _ => return None,
    };
    Some(codec::encode(&request))
}

fn lying_head(
    told: &Carried<VendorHead>,
    stage: &mut Stage<'_>,
    key: &ed25519_dalek::SigningKey,
) -> Option<Carried<VendorHead>> {
    let mut head = told.peek().ok()?;
    head.characteristics.media = Text::cut("twin");
    if head.root.sum > 0 && stage.random.chance(300) {
        // More than it has: no honest code signs this.
        head.capacity = head.root.sum.saturating_sub(1);
        let body = codec::encode(&head);
        let signature = sign_bytes(VendorHead::LABEL, &body, key);
        return Some(carried(body, signature));
    }
    let number = (head.vendor, head.epoch, head.seq);
    let twin = Signed::sign(head, key).ok()?;
    stage.oracle.signed(twin.hash());
    stage.oracle.twins.insert(number);
    Some(twin.into_carried())
}

/// A chunk under a hop that somebody else signed, a byte too long, or under a lease of somebody else.
fn lying_sender(
    header: &[u8],
    mut bytes: Vec<u8>,
    stage: &mut Stage<'_>,
    keys: &fathom_protocol::keys::UserKeys,
) -> (Vec<u8>, Vec<u8>) {
    let Ok(mut read) = codec::decode::<Header>(header, HEADER_BYTES_MAX) else { return (header.to_vec(), bytes) };
    let mut hops: Vec<Carried<Hop>> = read.hops.into_vec();
    let choice = stage.random.below(3);
    for hop in &mut hops {
        let Ok(mut value) = hop.peek() else { continue };
        match choice {
            // Signed by nobody for this.
            0 => {
                value.seq += 1;
                *hop = carried(codec::encode(&value), raw(hop).signature);
            }
            // As many bytes as the lease has, and one.
            1 => {
                let room = value.lease.peek().map_or(0, |lease| lease.bytes);
                bytes.resize(room as usize + 1, 7);
                value.length = bytes.len() as u32;
                value.chunk = fathom_protocol::ids::ChunkId::of(&bytes);
                if let Ok(signed) = Signed::sign(value, keys.signing()) {
                    *hop = signed.into_carried();
                }
            }
            // Years after it was signed for.
            _ => {
                value.expires = UnixMs(1);
                if let Ok(signed) = Signed::sign(value, keys.signing()) {
                    *hop = signed.into_carried();
                }
            }
        }
    }
    read.hops = Bounded::first(hops);
    (codec::encode(&read), bytes)
}

/// A second final FAT with the number of the first, as two devices of one user may write; or one that uses a lease of
/// somebody else; or one of somebody else.
fn lying_owner(bytes: &[u8], stage: &mut Stage<'_>, keys: &fathom_protocol::keys::UserKeys) -> Option<Vec<u8>> {
    let Ok(Request::SubmitFats(fats)) = codec::decode::<Request>(bytes, FRAME_BYTES_MAX) else { return None };
    let first = fats.into_vec().into_iter().next()?;
    let mut fat: FinalFat = first.peek().ok()?;
    match stage.random.below(3) {
        0 => fat.issued = fat.issued.plus_ms(1),
        1 => {
            let mut uses = fat.uses.clone().into_vec();
            for used in &mut uses {
                used.lease = fathom_protocol::ids::LeaseId(stage.random.bytes());
            }
            fat.uses = Bounded::first(uses);
        }
        _ => {
            // In the name of another user: its signature does not match.
            fat.owner = fathom_protocol::ids::OwnerId(stage.known.ids[stage.random.index(stage.known.ids.len())].0);
            let forged: Carried<FinalFat> = carried(codec::encode(&fat), raw(&first).signature);
            return Some(codec::encode(&Request::SubmitFats(Bounded::first([forged]))));
        }
    }
    let signed = Signed::sign(fat, keys.signing()).ok()?;
    stage.oracle.signed_fat(&signed, 0, None, &[]);
    Some(codec::encode(&Request::SubmitFats(Bounded::first([signed.into_carried()]))))
}
