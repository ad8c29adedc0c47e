//! What it costs two mirrors to find out where they differ, in bytes: two tables in memory, every message encoded as it goes
//! over the wire, with its frame.

use fathom_protocol::codec::{Bounded, decode, encode};
use fathom_protocol::head::{VendorHead, VendorRecord};
use fathom_protocol::ids::{Hash, LeaseId, NodeId, SessionKey};
use fathom_protocol::lease::Lease;
use fathom_protocol::reconcile::{Session, Step, answer, wanted_keys};
use fathom_protocol::sign::Signed;
use fathom_protocol::table::{Key, Table, verify};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Page, Request, Response, SyncRecord};

use ed25519_dalek::SigningKey;

use crate::samples;

/// Bytes of a frame's length.
const FRAME: usize = 4;

/// What one comparison cost, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Questions and their answers.
    pub rounds: usize,
    /// Bytes of all messages but for the records in them.
    pub bytes: usize,
    /// Records that were sent.
    pub records: usize,
    /// Bytes of those records.
    pub record_bytes: usize,
}

/// A table of vendors, each of whom is an owner of one record: its head with all its leases.
pub struct Mirrors {
    /// The mirror that missed the changes.
    pub behind: Table,
    /// The mirror that has them.
    pub ahead: Table,
    leases_each: u64,
    changed: u64,
}

fn vendor_key(number: u64) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// A vendor's record. Nothing is sent of a vendor that did not change, so those are made without their leases.
fn vendor(number: u64, seq: u64, leases: u64) -> SyncRecord {
    let key = vendor_key(number);
    let vendor = NodeId(key.verifying_key().to_bytes());
    let lease = |at: u64| {
        let lease = Lease { vendor, id: LeaseId(u128::from(at).to_be_bytes()), revision: seq, ..sample_lease() };
        samples::signed(lease, &key)
    };
    let leases: Vec<Signed<Lease>> = (0..leases).map(lease).collect();
    let head = VendorHead { vendor, capacity: 1 << 50, ..samples::head(1, seq, &leases) };
    let leases = Bounded::first(leases.iter().map(|lease| lease.carried().clone()));
    SyncRecord::Vendor(VendorRecord { head: samples::signed(head, &key).into_carried(), leases })
}

fn sample_lease() -> Lease {
    static LEASE: std::sync::OnceLock<Lease> = std::sync::OnceLock::new();
    LEASE.get_or_init(|| samples::lease(1, 1)).clone()
}

fn merge(table: &mut Table, record: SyncRecord) {
    let verified = verify(record).expect("a sound record");
    table.merge(&verified).expect("a new record");
}

impl Mirrors {
    /// Two mirrors that hold `owners` vendors with `leases` leases in all, of which `changed` changed at one of them.
    #[must_use]
    pub fn new(leases: u64, owners: u64, changed: u64) -> Self {
        let leases_each = leases / owners;
        let (mut behind, mut ahead) = (Table::default(), Table::default());
        for number in 0..owners {
            if number < changed {
                merge(&mut behind, vendor(number, 1, leases_each));
                merge(&mut ahead, vendor(number, 2, leases_each));
            } else {
                let record = vendor(number, 1, 0);
                merge(&mut behind, record.clone());
                merge(&mut ahead, record);
            }
        }
        Self { behind, ahead, leases_each, changed }
    }

    /// The comparison that the mirror which is behind begins.
    #[must_use]
    pub fn behind_asks(&self) -> Cost {
        self.compare(&self.behind, &self.ahead)
    }

    /// The comparison that the mirror which is ahead begins.
    #[must_use]
    pub fn ahead_asks(&self) -> Cost {
        self.compare(&self.ahead, &self.behind)
    }

    fn record(&self, key: Key) -> SyncRecord {
        let number =
            (0..self.changed).find(|number| key == Key::Vendor(NodeId(vendor_key(*number).verifying_key().to_bytes())));
        vendor(number.expect("only what changed is sent"), 2, self.leases_each)
    }

    fn compare(&self, asks: &Table, answers: &Table) -> Cost {
        let mut cost = Cost::default();
        let mut session = Session::new(SessionKey([0x5a; 16]));
        loop {
            let (request, answered) = match session.next(asks.index()) {
                Step::Done => return cost,
                Step::Ask(compare) => {
                    let told = answer(answers.index(), &compare);
                    session.told(asks, &told).expect("an honest answer");
                    (Request::Compare(compare), Response::Compared(told))
                }
                Step::Fetch(wanted) => {
                    let found = wanted_keys(answers, &wanted);
                    let looked_at = found.len() as u64;
                    let records: Vec<SyncRecord> = found.into_iter().flatten().map(|key| self.record(key)).collect();
                    let bytes: usize = records.iter().map(|record| encode(record).len()).sum();
                    session.fetched(looked_at, records.len()).expect("an honest answer");
                    cost.records += records.len();
                    cost.record_bytes += bytes;
                    let log = Hash([7; 32]);
                    let clock = UnixMs(1_800_000_000_000);
                    let page = Page { log, next: looked_at, more: false, clock, records: Bounded::first(records) };
                    (Request::Wanted(wanted), Response::Page(page))
                }
            };
            cost.rounds += 1;
            cost.bytes += on_the_wire(&request) + on_the_wire(&answered) - record_bytes(&answered);
        }
    }
}

fn on_the_wire<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) -> usize {
    let bytes = encode(message);
    assert!(decode::<T>(&bytes, usize::MAX).is_ok());
    FRAME + bytes.len()
}

fn record_bytes(response: &Response) -> usize {
    match response {
        Response::Page(page) => page.records.iter().map(|record| encode(record).len()).sum(),
        _ => 0,
    }
}

/// What one look at a log costs when there is nothing new.
#[must_use]
pub fn idle_log_bytes() -> usize {
    let (log, cursor) = (Hash([7; 32]), 1_000_000);
    let clock = UnixMs(1_800_000_000_000);
    let page = Page { log, next: cursor, more: false, clock, records: Bounded::default() };
    on_the_wire(&Request::Since { log, cursor }) + on_the_wire(&Response::Page(page))
}

/// The limits that were asked for, as (leases, owners, changed owners, bytes at most).
pub const BOUNDS: [(u64, u64, u64, usize); 6] = [
    (10_000, 100, 0, 100),
    (100_000, 1_000, 0, 100),
    (1_000_000, 10_000, 0, 100),
    (10_000, 100, 10, 4_096),
    (10_000, 10_000, 10, 4_096),
    (1_000_000, 10_000, 100, 65_536),
];
