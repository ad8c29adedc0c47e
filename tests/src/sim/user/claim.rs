//! Asking mirrors for storage, one after the other, and giving back what those that failed locked in vain.

use std::collections::BTreeSet;

use fathom_protocol::allocation::elsewhere;
use fathom_protocol::codec::Bounded;
use fathom_protocol::ids::{Hash, NodeId};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::tags;
use fathom_protocol::wire::{AllocateRequest, Cancel, Location, ProvisionalFat, RefusalKind, Request, Response, Wants};

use super::put::slot_of;
use super::{CHUNK_PLAIN, Op, REQUEST_SECONDS, User};
use crate::sim::node::Cx;

const ALLOCATE_MS: u64 = 4_000;

/// A request for storage under way.
#[derive(Debug)]
pub(super) struct Claim {
    request: Carried<AllocateRequest>,
    nonce: Hash,
    mirrors: Vec<usize>,
    asking: usize,
    pub(super) call: u64,
    /// Vendors that may hold room for the request, and the mirror that asked them.
    held: Vec<(usize, NodeId)>,
    /// The column that it is for; all of them if none is named.
    column: Option<u8>,
    /// It is for the storage that is locked ahead.
    pub(super) ahead: bool,
}

impl User {
    /// Asks for room for `chunks` in each of `copies` columns.
    pub(super) fn claim(
        &mut self,
        cx: &mut Cx<'_>,
        (copies, chunks): (u8, u64),
        exclude: Vec<NodeId>,
        column: Option<u8>,
    ) {
        let unit = fathom_protocol::seal::sealed_len(CHUNK_PLAIN);
        let nonce = Hash(cx.random.bytes());
        let request = AllocateRequest {
            version: tags::VERSION,
            owner: self.keys.owner(),
            authority: self.keys.owner().into(),
            file: None,
            copies,
            width: 1,
            bytes: chunks * u64::from(unit),
            unit,
            exclude: Bounded::first(exclude),
            avoid_zones: Bounded::default(),
            wants: Wants::default(),
            nonce,
            expires: cx.now.plus_seconds(REQUEST_SECONDS),
        };
        let request = Signed::sign(request, self.keys.signing()).expect("a request signs").into_carried();
        let mut mirrors = cx.known.mirrors.clone();
        cx.random.shuffle(&mut mirrors);
        let Some(Op::Put(put)) = &mut self.op else { return };
        put.claim = Some(Claim { request, nonce, mirrors, asking: 0, call: 0, held: Vec::new(), column, ahead: false });
        self.ask_for_storage(cx, RefusalKind::Silent);
    }

    fn ask_for_storage(&mut self, cx: &mut Cx<'_>, last: RefusalKind) {
        let Some(Op::Put(put)) = &mut self.op else { return };
        let Some(claim) = &mut put.claim else { return };
        let Some(mirror) = claim.mirrors.pop().filter(|_| elsewhere(last)) else {
            self.withdraw(cx);
            return self.no_room(cx, last);
        };
        claim.asking = mirror;
        claim.call = cx.ask_within(mirror, &Request::Allocate(claim.request.clone()), ALLOCATE_MS);
    }

    pub(super) fn allocated(&mut self, cx: &mut Cx<'_>, response: Response) {
        let Some(Op::Put(put)) = &mut self.op else { return };
        let Some(claim) = &mut put.claim else { return };
        match response {
            Response::Provisional(fat) => {
                // The same request asked at several mirrors locks a vendor's room once.
                let used = fat.locations.iter().filter_map(|location| Some(location.head.peek().ok()?.vendor));
                let used: BTreeSet<NodeId> = used.collect();
                claim.held.retain(|(_, vendor)| !used.contains(vendor));
                self.withdraw(cx);
                self.granted(cx, fat);
            }
            Response::Short { refusal, asked } => {
                let mirror = claim.asking;
                claim.held.extend(asked.iter().map(|vendor| (mirror, *vendor)));
                self.ask_for_storage(cx, refusal.kind);
            }
            Response::Refused(refusal) => self.ask_for_storage(cx, refusal.kind),
            _ => self.no_room(cx, RefusalKind::BadRequest),
        }
    }

    /// Nobody has room; for what was to be locked ahead that is no harm.
    fn no_room(&mut self, cx: &mut Cx<'_>, kind: RefusalKind) {
        let Some(Op::Put(put)) = &mut self.op else { return };
        if put.claim.take_if(|claim| claim.ahead).is_some() { self.not_stocked(cx) } else { self.give_up(cx, kind) }
    }

    /// Tells vendors, through the mirrors that asked them, that what they hold for the request is free. One that does not hear it
    /// holds it until it lapses.
    fn withdraw(&mut self, cx: &mut Cx<'_>) {
        let authority = self.keys.owner().into();
        let Some(Op::Put(put)) = &mut self.op else { return };
        let Some(claim) = &mut put.claim else { return };
        for (mirror, vendor) in std::mem::take(&mut claim.held) {
            let cancel = Cancel { version: tags::VERSION, authority, vendor, request: claim.nonce };
            let cancel = Signed::sign(cancel, self.keys.signing()).expect("a withdrawal signs");
            cx.injected.cancels += 1;
            cx.tell(mirror, &Request::Cancel(cancel.into_carried()));
        }
    }

    /// Takes the locations into the put. Those that the put began with are noted before anything is sent there.
    fn granted(&mut self, cx: &mut Cx<'_>, provisional: ProvisionalFat) {
        let owner = self.keys.owner();
        let Some(Op::Put(put)) = &mut self.op else { return };
        let Some(Claim { column, ahead, .. }) = put.claim.take() else { return };
        let mut locations: Vec<Location> = provisional.locations.into_vec();
        if ahead {
            for location in locations {
                if let Some(slot) = slot_of(cx, &location, owner) {
                    self.stock.add(slot, location);
                }
            }
            return self.stocked(cx);
        }
        for location in &mut locations {
            location.column = column.unwrap_or(location.column);
            // A mirror's word is checked: each lease must be its vendor's, and have the room.
            if !put.add_location(cx, location, owner) {
                return self.give_up(cx, RefusalKind::BadRequest);
            }
        }
        put.locations.locations.append(&mut locations);
        if column.is_none() && self.journal.begin(put.name, &put.locations, None).is_err() {
            return;
        }
        self.advance(cx);
    }
}
