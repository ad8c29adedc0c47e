//! A mirror in a few lines: it believes everybody, keeps what it is told, and offers the first vendor that is not excluded.

use std::collections::BTreeMap;
use std::sync::Mutex;

use fathom_protocol::fat::FinalFat;
use fathom_protocol::fork::ForkProof;
use fathom_protocol::head::{VendorRecord, VerifiedVendor};
use fathom_protocol::moves::Move;
use fathom_protocol::wire::{Location, Page, ProvisionalFat, SyncRecord};

use super::*;

pub(super) struct TestMirror {
    net: Net,
    pub(super) heads: Mutex<BTreeMap<NodeId, VerifiedVendor>>,
    pub(super) moves: Mutex<Vec<Move>>,
    pub(super) fats: Mutex<Vec<Carried<FinalFat>>>,
    pub(super) refuse_moves: std::sync::atomic::AtomicBool,
    /// Moves come too late: their files were released.
    pub(super) void_moves: std::sync::atomic::AtomicBool,
    /// Against any vendor that asks.
    pub(super) proof: Mutex<Option<ForkProof>>,
}

impl TestMirror {
    pub(super) async fn start(seed: u8) -> (Peer, Arc<Self>) {
        let mut made = None;
        let peer = peer(seed, Roles { mirror: true, ..Roles::default() }, |net| {
            let mirror = Arc::new(Self {
                net: net.clone(),
                heads: Mutex::default(),
                moves: Mutex::default(),
                fats: Mutex::default(),
                refuse_moves: std::sync::atomic::AtomicBool::new(false),
                void_moves: std::sync::atomic::AtomicBool::new(false),
                proof: Mutex::default(),
            });
            made = Some(Arc::clone(&mirror));
            Role::Mirror(mirror)
        })
        .await;
        (peer, made.unwrap())
    }

    pub(super) async fn handle(&self, request: Request) -> Response {
        match request {
            Request::Report(record) => self.report(record),
            Request::ReportDelta(delta) => {
                let known =
                    delta.head.peek().ok().and_then(|head| self.heads.lock().unwrap().get(&head.vendor).cloned());
                match known.and_then(|known| delta.apply(&known).ok()) {
                    Some(vendor) => self.report(vendor.to_record()),
                    None => Response::Refused(Refusal::new(RefusalKind::NotFound, "the base is not known")),
                }
            }
            Request::Heads(vendors) => {
                let heads = self.heads.lock().unwrap();
                let known = vendors.iter().filter_map(|vendor| Some(heads.get(vendor)?.head.carried().clone()));
                Response::Heads(Bounded::first(known))
            }
            Request::VendorOf(vendor) => {
                let record = self.heads.lock().unwrap().get(&vendor).map(VerifiedVendor::to_record);
                Self::page(record.map(SyncRecord::Vendor))
            }
            Request::Proofs(_) => {
                Self::page(self.proof.lock().unwrap().clone().map(|proof| SyncRecord::Proof(Box::new(proof))))
            }
            Request::Allocate(request) => self.allocate(request).await,
            Request::SubmitMove(moved) => {
                if self.refuse_moves.load(Ordering::SeqCst) {
                    return Response::Refused(Refusal::new(RefusalKind::Busy, "not now"));
                }
                if self.void_moves.load(Ordering::SeqCst) {
                    return Response::Refused(Refusal::new(RefusalKind::Stale, "a newer final FAT is known"));
                }
                let moved = moved.verify().unwrap();
                let mut moves = self.moves.lock().unwrap();
                if !moves.contains(&moved) {
                    moves.push(moved);
                }
                Response::Done
            }
            Request::Orders { cursor, .. } => {
                let fats = self.fats.lock().unwrap();
                let records = fats.iter().skip(usize::try_from(cursor).unwrap()).cloned().map(SyncRecord::Fat);
                Response::Page(Page {
                    log: Hash([1; 32]),
                    next: fats.len() as u64,
                    more: false,
                    clock: clock::now(),
                    records: Bounded::first(records),
                })
            }
            // It has them all.
            Request::SubmitFats(_) => Response::Done,
            other => panic!("{other:?}"),
        }
    }

    fn page(records: impl IntoIterator<Item = SyncRecord>) -> Response {
        let records = Bounded::first(records);
        Response::Page(Page { log: Hash([1; 32]), next: 0, more: false, clock: clock::now(), records })
    }

    fn report(&self, record: VendorRecord) -> Response {
        let vendor = record.verify().unwrap();
        let mut heads = self.heads.lock().unwrap();
        let order = |vendor: &VerifiedVendor| (vendor.head.epoch, vendor.head.seq);
        if heads.get(&vendor.head.vendor).is_some_and(|known| order(known) > order(&vendor)) {
            return Response::Refused(Refusal::new(RefusalKind::Stale, "a newer head is known"));
        }
        heads.insert(vendor.head.vendor, vendor);
        Response::Done
    }

    async fn allocate(&self, carried: Carried<AllocateRequest>) -> Response {
        let request = carried.clone().verify().unwrap();
        let heads: Vec<VerifiedVendor> = self.heads.lock().unwrap().values().cloned().collect();
        for vendor in heads {
            let node = vendor.head.vendor;
            if request.exclude.contains(&node) {
                continue;
            }
            self.net.book().learn_addresses(node, vendor.head.addresses.iter().map(ToString::to_string));
            let offer = Request::Offer { request: carried.clone(), bytes: request.bytes };
            if let Ok(Response::Offered { lease, granted }) = self.net.call(node, &offer, WAIT).await {
                let location = Location { column: 0, granted, lease, head: vendor.head.carried().clone() };
                let locations = Bounded::first([location]);
                return Response::Provisional(ProvisionalFat { locations, warnings: Bounded::default() });
            }
        }
        Response::Refused(Refusal::new(RefusalKind::TooFewVendors, "nobody has room"))
    }
}
