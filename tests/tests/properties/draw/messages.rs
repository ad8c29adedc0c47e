//! Arbitrary messages of every kind, and what only they carry.

use fathom_protocol::codec::{Blob, Bounded};
use fathom_protocol::delta::{HeadId, VendorDelta};
use fathom_protocol::fork::{Dropped, ForkProof};
use fathom_protocol::head::{LeaseEvidence, VendorHead};
use fathom_protocol::ids::{Fingerprint, LeaseId, SessionKey};
use fathom_protocol::limits::{KEY_BYTES_MAX, LEASES_MAX};
use fathom_protocol::reconcile::{Ask, Below, Compare, Compared, Probe, Wanted};
use fathom_protocol::root::LeaseProof;
use fathom_protocol::sign::Carried;
use fathom_protocol::table::index::Prefix;
use fathom_protocol::wire::{
    ChunkAnswer, FetchAnswer, FilesPage, Gossip, Location, LogCursor, Page, PeerRecord, ProvisionalFat, Refusal,
    Request, Response, SyncRecord, TableDigest,
};
use fathom_tests::samples::{REFUSAL_KINDS, lease_id};

use super::Draw;

impl Draw {
    pub(super) fn log_cursor(&mut self) -> LogCursor {
        LogCursor { log: self.hash(), position: self.number() }
    }

    pub(super) fn key_bytes(&mut self) -> Blob<KEY_BYTES_MAX> {
        let length = self.length(KEY_BYTES_MAX, 49);
        Blob::new(vec![0xff; length]).unwrap()
    }

    pub(crate) fn refusal(&mut self) -> Refusal {
        Refusal { kind: REFUSAL_KINDS[self.below(REFUSAL_KINDS.len() as u64) as usize], reason: self.text() }
    }

    pub(crate) fn sync_record(&mut self, kind: u64) -> SyncRecord {
        match kind % 5 {
            0 => SyncRecord::Vendor(self.vendor_record()),
            1 => SyncRecord::Fat(self.final_fat().into_carried()),
            2 => SyncRecord::Move(self.carried_move()),
            3 => SyncRecord::Proof(Box::new(ForkProof::Twins(self.head().into_carried(), self.head().into_carried()))),
            _ => SyncRecord::Proof(Box::new(ForkProof::Dropped(Box::new(Dropped {
                older: self.evidence(),
                newer: self.evidence(),
                fat: self.final_fat().into_carried(),
            })))),
        }
    }

    /// Changes of leases that may not fit the head: what a peer may send.
    fn delta(&mut self) -> VendorDelta {
        VendorDelta {
            head: self.head().into_carried(),
            base: HeadId { epoch: self.number(), seq: self.number(), hash: self.hash() },
            changed: self.list(|draw| draw.lease().into_carried()),
            gone: self.list(|draw| LeaseId(draw.bytes())),
        }
    }

    pub(crate) fn request(&mut self, kind: u64) -> Request {
        match kind % 26 {
            0 => Request::Ping,
            1 => Request::Announce(self.peer().into_carried()),
            2 => Request::Report(self.vendor_record()),
            3 => Request::Allocate(self.allocate().into_carried()),
            4 => Request::Offer { request: self.allocate().into_carried(), bytes: self.number() },
            5 => Request::SubmitFats(self.list(|draw| draw.final_fat().into_carried())),
            6 => Request::FatsOf(self.query().into_carried()),
            7 => Request::Vendors { after: self.maybe(Self::node) },
            8 => Request::Since { log: self.hash(), cursor: self.number() },
            9 => Request::Orders { vendor: self.node(), log: self.hash(), cursor: self.number() },
            10 => Request::Order(self.list(|draw| draw.final_fat().into_carried())),
            11 => Request::Cosign(self.carried_move()),
            12 => Request::SubmitMove(self.carried_move()),
            13 => Request::Validate(self.list(|draw| draw.validation().into_carried())),
            14 => Request::Unused(self.unused().into_carried()),
            15 => Request::Renew(self.renew().into_carried()),
            23 => Request::Cancel(self.cancel().into_carried()),
            16 => Request::Compare(self.compare()),
            17 => Request::Wanted(self.list(|draw| {
                let height = draw.maybe(|draw| (draw.number(), draw.number()));
                Wanted(draw.number(), draw.small(), height)
            })),
            22 => Request::LeaseOf { vendor: self.maybe(Self::node), lease: LeaseId(self.bytes()) },
            21 => Request::Heads(self.list(Self::node)),
            18 => Request::VendorOf(self.node()),
            19 => Request::Proofs(self.list(Self::node)),
            20 => Request::ReportDelta(self.delta()),
            24 => Request::Rebuild(Box::new(self.rebuild().into_carried())),
            _ => Request::Digest,
        }
    }

    fn compare(&mut self) -> Compare {
        let session = SessionKey(self.bytes());
        let probe = match self.below(3) {
            0 => Probe::Root(Fingerprint(self.bytes())),
            _ => Probe::Parts(
                self.list(|draw| Ask { prefix: Prefix::new(draw.below(17) as u8, draw.number()), skip: draw.small() }),
            ),
        };
        Compare { session, probe }
    }

    fn blob<const MAX: usize>(&mut self) -> Blob<MAX> {
        let length = self.length(MAX, 200);
        Blob::new((0..length).map(|_| self.bytes::<1>()[0]).collect()).unwrap()
    }

    fn compared(&mut self) -> Compared {
        match self.below(3) {
            0 => Compared::Same,
            _ => Compared::Below(self.list(|draw| match draw.below(2) {
                0 => Below::Parts(draw.blob()),
                _ => Below::Entries(draw.blob(), draw.flag()),
            })),
        }
    }

    fn location(&mut self) -> Location {
        Location {
            column: self.number() as u8,
            granted: self.number(),
            lease: self.lease().into_carried(),
            head: self.head().into_carried(),
        }
    }

    pub(crate) fn response(&mut self, kind: u64) -> Response {
        match kind % 17 {
            0 => Response::Alive,
            1 => Response::Done,
            2 => Response::Peers(self.list(|draw| -> Carried<PeerRecord> { draw.peer().into_carried() })),
            3 => Response::Provisional(ProvisionalFat {
                locations: self.list(Self::location),
                warnings: self.list(Self::text),
            }),
            13 => Response::Short { refusal: self.refusal(), asked: self.list(Self::node) },
            4 => Response::Offered { lease: self.lease().into_carried(), granted: self.number() },
            5 => Response::Submitted(self.list(|draw| draw.maybe(Self::refusal))),
            6 => Response::Page(Page {
                log: self.hash(),
                next: self.number(),
                more: self.flag(),
                clock: self.time(),
                records: self.list(|draw| {
                    let kind = draw.next();
                    draw.sync_record(kind)
                }),
            }),
            12 => Response::Files(FilesPage {
                cursor: self.log_cursor(),
                whole: self.flag(),
                after: self.maybe(|draw| draw.key_bytes()),
                more: self.flag(),
                records: self.list(|draw| {
                    let kind = draw.next();
                    draw.sync_record(kind)
                }),
            }),
            9 => Response::Heads(self.list(|draw| -> Carried<VendorHead> { draw.head().into_carried() })),
            7 => Response::Cosigned(self.carried_move()),
            8 => Response::Digest(TableDigest {
                digest: self.hash(),
                heads: self.number(),
                leases: self.number(),
                files: self.number(),
                moves: self.number(),
                proofs: self.number(),
            }),
            10 => Response::Compared(self.compared()),
            11 => Response::Lease(Box::new(self.evidence())),
            14 => Response::Stored(self.receipt().into_carried()),
            15 => Response::Here(self.coordinate()),
            _ => Response::Refused(self.refusal()),
        }
    }

    /// The longest path, whatever it proves.
    fn evidence(&mut self) -> LeaseEvidence {
        let count = self.length(LEASES_MAX, 9);
        let entries: Vec<_> = (0..count).map(|at| (lease_id(at as u32), self.hash(), self.number())).collect();
        let at = lease_id(self.small());
        LeaseEvidence {
            head: self.head().into_carried(),
            proof: LeaseProof::new(entries, at),
            lease: self.maybe(|draw| draw.lease().into_carried()),
        }
    }

    pub(crate) fn chunk_answer(&mut self, kind: u64) -> ChunkAnswer {
        match kind % 4 {
            0 => ChunkAnswer::Alive,
            1 => ChunkAnswer::Receipt(self.receipt().into_carried()),
            2 => ChunkAnswer::Failed { vendor: self.node(), refusal: self.refusal() },
            _ => ChunkAnswer::Done,
        }
    }

    pub(crate) fn fetch_answer(&mut self, kind: u64) -> FetchAnswer {
        match kind % 3 {
            0 => FetchAnswer::Alive,
            1 => FetchAnswer::Found { chunk_length: self.small(), encoded_length: self.small() },
            _ => FetchAnswer::Refused(self.refusal()),
        }
    }

    pub(crate) fn gossip(&mut self, kind: u64) -> Gossip {
        match kind % 9 {
            5 => {
                let count = self.below(4);
                Gossip::Records(Bounded::first((0..count).map(|kind| self.sync_record(kind))))
            }
            6 => Gossip::Delta(Box::new(self.delta())),
            7 => Gossip::Grew { mirror: self.node(), cursor: self.number() },
            kind => Gossip::Record(Box::new(self.sync_record(kind))),
        }
    }
}
