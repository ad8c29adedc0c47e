//! How much is under way: bounds on chunks in memory, the load, and the rate of bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use fathom_protocol::ids::NodeId;
use fathom_protocol::wire::{Refusal, RefusalKind};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Vendor, lock};

/// Chunks that are held in memory at once while they come in. Each costs up to twice its length while it is stored.
const INCOMING_MAX: usize = 32;
/// Of these, chunks of one peer, so that a slow peer leaves room for others.
const INCOMING_PER_PEER_MAX: usize = 24;
/// Chunks that are held in memory at once while they go out. Each costs up to three times its length.
const OUTGOING_MAX: usize = 16;
/// Bytes of stripes that are held in memory at once while a shard is made of them; a stripe that is longer has it to itself. Each byte
/// costs up to four.
const REBUILDING_MAX: u64 = 32 << 20;
/// Bytes for one permit.
const GRAIN: u64 = 64 << 10;
/// How long a transfer waits for its place. Bytes of a chunk that waits fill its connection's window, so not for long.
const PLACE_WAIT: Duration = Duration::from_millis(1_500);
/// How long an order to make a shard waits for its place.
const REBUILD_WAIT: Duration = Duration::from_secs(20);
/// Seconds over which the rate of bytes is looked at.
const RATE_SECONDS: usize = 10;

/// What is under way.
pub(super) struct Transfers {
    incoming: Semaphore,
    outgoing: Semaphore,
    /// Room for stripes of which a shard is made here.
    rebuilding: Semaphore,
    by_peer: Mutex<BTreeMap<NodeId, usize>>,
    active: AtomicU32,
    bytes: AtomicU64,
    /// Bytes of each of the last seconds.
    seconds: Mutex<VecDeque<u64>>,
}

/// A transfer's place; freed on drop.
pub(super) struct Place<'a> {
    transfers: &'a Transfers,
    _share: Option<Share<'a>>,
    _permit: SemaphorePermit<'a>,
}

fn busy(what: &str) -> Refusal {
    Refusal::new(RefusalKind::Busy, format!("too many chunks are {what} here at once; try again or elsewhere"))
}

impl Transfers {
    pub(super) fn new() -> Self {
        Self {
            incoming: Semaphore::new(INCOMING_MAX),
            outgoing: Semaphore::new(OUTGOING_MAX),
            rebuilding: Semaphore::new((REBUILDING_MAX / GRAIN) as usize),
            by_peer: Mutex::default(),
            active: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
            seconds: Mutex::default(),
        }
    }

    /// A place for a chunk from `peer`.
    pub(super) async fn incoming(&self, peer: NodeId) -> Result<Place<'_>, Refusal> {
        {
            let mut by_peer = lock(&self.by_peer);
            let count = by_peer.entry(peer).or_default();
            if *count >= INCOMING_PER_PEER_MAX {
                return Err(busy("coming in from this peer"));
            }
            *count += 1;
        }
        let share = Share { transfers: self, peer };
        match tokio::time::timeout(PLACE_WAIT, self.incoming.acquire()).await {
            Ok(Ok(permit)) => {
                self.active.fetch_add(1, Ordering::Relaxed);
                Ok(Place { transfers: self, _share: Some(share), _permit: permit })
            }
            _ => Err(busy("coming in")),
        }
    }

    /// A place for a chunk that goes out.
    pub(super) async fn outgoing(&self) -> Result<Place<'_>, Refusal> {
        match tokio::time::timeout(PLACE_WAIT, self.outgoing.acquire()).await {
            Ok(Ok(permit)) => {
                self.active.fetch_add(1, Ordering::Relaxed);
                Ok(Place { transfers: self, _share: None, _permit: permit })
            }
            _ => Err(busy("going out")),
        }
    }

    /// A place for a stripe of `bytes` bytes of which a shard is made.
    pub(super) async fn rebuilding(&self, bytes: u64) -> Result<SemaphorePermit<'_>, Refusal> {
        let permits = bytes.clamp(GRAIN, REBUILDING_MAX).div_ceil(GRAIN);
        let taken = self.rebuilding.acquire_many(u32::try_from(permits).unwrap_or(u32::MAX));
        match tokio::time::timeout(REBUILD_WAIT, taken).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(busy("being made")),
        }
    }

    /// Counts bytes received or served.
    pub(super) fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Transfers under way, in steps of 4.
    pub(super) fn load(&self) -> u32 {
        self.active.load(Ordering::Relaxed) / 4 * 4
    }

    /// Whether every one of the last ten seconds had more than `bytes_per_s`.
    pub(super) fn above(&self, bytes_per_s: u64) -> bool {
        let seconds = lock(&self.seconds);
        seconds.len() == RATE_SECONDS && seconds.iter().all(|bytes| *bytes > bytes_per_s)
    }

    /// Forgets the rates of the last seconds.
    pub(super) fn measure_anew(&self) {
        lock(&self.seconds).clear();
    }

    fn leave(&self, peer: NodeId) {
        let mut by_peer = lock(&self.by_peer);
        if let Some(count) = by_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                by_peer.remove(&peer);
            }
        }
    }
}

/// One of a peer's places.
struct Share<'a> {
    transfers: &'a Transfers,
    peer: NodeId,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.transfers.leave(self.peer);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.transfers.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Vendor {
    /// Takes the rate of bytes each second.
    pub(super) async fn metering(&self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let bytes = self.transfers.bytes.swap(0, Ordering::Relaxed);
            let mut seconds = lock(&self.transfers.seconds);
            seconds.push_back(bytes);
            while seconds.len() > RATE_SECONDS {
                seconds.pop_front();
            }
        }
    }
}
