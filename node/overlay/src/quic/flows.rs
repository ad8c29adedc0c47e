//! What became of what was sent, by peer and in all: counted where acknowledgements are, in the congestion controller.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libp2p::PeerId;

/// Peers whose counts are kept; beyond that one of them is forgotten.
const PEERS_MAX: usize = 4_096;
/// Counts of a peer are halved when so many bytes have arrived: what happened lately counts.
const HALVED_AT: u64 = 64 * 1024 * 1024;

/// Bytes that were sent, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes that arrived.
    pub arrived: u64,
    /// Those of them that were sent while the path, and nothing else, was what limited them.
    pub limited: u64,
    /// Bytes that were lost and sent again.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Counts {
    arrived: AtomicU64,
    limited: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    fn arrived(&self, bytes: u64, limited: bool) -> u64 {
        if limited {
            self.limited.fetch_add(bytes, Ordering::Relaxed);
        }
        self.arrived.fetch_add(bytes, Ordering::Relaxed)
    }

    fn halve(&self) {
        for count in [&self.arrived, &self.limited, &self.lost] {
            // A count that comes in between is lost: these are shares.
            count.store(count.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Sent {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Sent { arrived: read(&self.arrived), limited: read(&self.limited), lost: read(&self.lost) }
    }
}

/// All paths of a node.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    all: Counts,
    peers: Mutex<BTreeMap<PeerId, Arc<Counts>>>,
}

impl Flows {
    fn of(&self, peer: PeerId) -> Arc<Counts> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_MAX && !peers.contains_key(&peer) {
            // One that has no path now, if there is any.
            let unused = peers.iter().find(|(_, counts)| Arc::strong_count(counts) == 1).map(|(peer, _)| *peer);
            unused.or(peers.keys().next().copied()).map(|out| peers.remove(&out));
        }
        Arc::clone(peers.entry(peer).or_default())
    }

    /// What became of what was sent to all peers since the start.
    pub(crate) fn in_all(&self) -> Sent {
        self.all.read()
    }

    /// What became of what was sent to `peer` lately; none if it never was connected.
    pub(crate) fn to(&self, peer: &PeerId) -> Option<Sent> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(peer).map(|counts| counts.read())
    }
}

/// One path.
#[derive(Debug)]
pub(super) struct Flow {
    flows: Arc<Flows>,
    /// Set once the handshake told who is at the other end.
    peer: OnceLock<Arc<Counts>>,
}

impl Flow {
    pub(super) fn new(flows: Arc<Flows>) -> Arc<Self> {
        Arc::new(Self { flows, peer: OnceLock::new() })
    }

    /// `peer` is at the other end.
    pub(super) fn leads_to(&self, peer: PeerId) {
        let _ = self.peer.set(self.flows.of(peer));
    }

    /// `bytes` arrived; whether the path is what limited them.
    pub(super) fn arrived(&self, bytes: u64, limited: bool) {
        self.flows.all.arrived(bytes, limited);
        if let Some(peer) = self.peer.get()
            && peer.arrived(bytes, limited) >= HALVED_AT
        {
            peer.halve();
        }
    }

    /// `bytes` were lost.
    pub(super) fn lost(&self, bytes: u64) {
        self.flows.all.lost.fetch_add(bytes, Ordering::Relaxed);
        if let Some(peer) = self.peer.get() {
            peer.lost.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn counts_are_by_peer_and_of_late() {
        let flows = Arc::new(Flows::default());
        let (flow, other) = (Flow::new(Arc::clone(&flows)), Flow::new(Arc::clone(&flows)));
        let peer = PeerId::random();
        flow.arrived(5, true);
        assert_eq!(flows.to(&peer), None);
        flow.leads_to(peer);
        other.leads_to(PeerId::random());
        other.lost(7);
        flow.arrived(100, false);
        flow.lost(10);
        assert_eq!(flows.to(&peer), Some(Sent { arrived: 100, limited: 0, lost: 10 }));
        assert_eq!(flows.in_all(), Sent { arrived: 105, limited: 5, lost: 17 });
        flow.arrived(HALVED_AT, true);
        flow.arrived(2, false);
        let of_late = flows.to(&peer).unwrap();
        assert!(of_late.arrived < HALVED_AT && of_late.lost == 5, "{of_late:?}");
    }

    #[test]
    fn memory_has_a_bound() {
        let flows = Arc::new(Flows::default());
        let kept = Flow::new(Arc::clone(&flows));
        let peer = PeerId::random();
        kept.leads_to(peer);
        for _ in 0..PEERS_MAX + 10 {
            Flow::new(Arc::clone(&flows)).leads_to(PeerId::random());
        }
        assert!(flows.peers.lock().unwrap().len() <= PEERS_MAX);
        assert!(flows.to(&peer).is_some(), "one that is in use stays");
    }
}
