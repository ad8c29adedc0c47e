//! What is known of the links to and between other nodes: by transfers that happened, by probes, and by what nodes say of themselves.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fathom_protocol::head::VendorHead;
use fathom_protocol::ids::NodeId;
use fathom_protocol::route::coordinate::{Coordinate, Position};
use fathom_protocol::route::rates::{Experience, Meter, Sending};
use fathom_protocol::route::{ASSUMED_BYTES_PER_S, ASSUMED_ROUND_TRIP_S, End};

use super::Net;

/// Bytes of which losses say something.
const LOSS_BYTES_MIN: u64 = 256 * 1024;

/// What a peer says of itself, and how fast bytes came from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    /// Bytes per second that it sends and receives, 0 if not known, and that its devices write.
    announced: (u64, u64, u64),
    /// Transfers that it has under way.
    load: u32,
    /// Where it is.
    coordinate: Option<Coordinate>,
    /// What came from it.
    meter: Meter,
}

impl Link {
    /// Takes note of what a vendor says in its head.
    pub(super) fn announce(&mut self, head: &VendorHead) {
        let traits = &head.characteristics;
        self.announced = (traits.up_bytes_per_s, traits.down_bytes_per_s, traits.bandwidth_bytes_per_s);
        self.load = traits.load;
        self.coordinate = traits.coordinate.or(self.coordinate);
    }
}

/// Where this node is, and what it learnt by sending.
#[derive(Debug)]
pub(super) struct Links {
    position: Mutex<Position>,
    experience: Mutex<Experience>,
    began: Instant,
}

impl Default for Links {
    fn default() -> Self {
        Self { position: Mutex::default(), experience: Mutex::default(), began: Instant::now() }
    }
}

impl Links {
    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn experience(&self) -> MutexGuard<'_, Experience> {
        self.experience.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Known of the way to one vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkView {
    /// Its link and behaviour.
    pub end: End,
    /// Bytes per second that came from it of late.
    pub measured: Option<f64>,
    /// Whether there is a relay in between.
    pub relayed: bool,
}

impl Net {
    /// Where this node is among the others, as far as it has found out.
    #[must_use]
    pub fn coordinate(&self) -> Coordinate {
        self.0.links.position().coordinate()
    }

    /// Keeps what a vendor's head says of its way: addresses, rates and place.
    pub fn learn_head(&self, head: &VendorHead) {
        self.0.book.learn_addresses(head.vendor, head.addresses.iter().map(ToString::to_string));
        self.0.book.link(head.vendor, |link| link.announce(head));
    }

    /// `from` answered a probe after `round_trip_us` and says where it is.
    pub(super) fn placed(&self, from: NodeId, round_trip_us: f64, at: Coordinate) {
        if !at.is_bounded() {
            return;
        }
        self.0.book.link(from, |link| link.coordinate = Some(at));
        // Two nodes at one place part in a direction that both keep to.
        let chance = u64::from_be_bytes(std::array::from_fn(|byte| from.0[byte] ^ self.0.me.0[byte]));
        self.0.links.position().sample(round_trip_us, &at, chance);
    }

    /// What is known of the link of `node`, of whom `in_flight` chunks of this node are under way. What was measured here wins over
    /// what is said.
    #[must_use]
    pub fn link(&self, node: NodeId, in_flight: u32) -> LinkView {
        let behaviour = self.0.book.behaviour(node);
        let now = self.0.links.now_us();
        let link = self.0.book.link(node, |link| link.clone()).unwrap_or_default();
        let (up, down, seen) = {
            let experience = self.0.links.experience();
            (experience.up(node, now), experience.down(node, now), experience.seen(node))
        };
        let said = |rate: u64| (rate > 0).then_some(rate as f64);
        let sent = self.0.overlay.sent_to(node).filter(|sent| sent.arrived + sent.lost > LOSS_BYTES_MIN);
        let end = End {
            up: up.or(said(link.announced.0).map(|rate| rate.max(seen.0))),
            // It may have received no faster because nobody sent faster: that is no reason to think it slow.
            down: down
                .or(said(link.announced.1).map(|rate| rate.max(seen.1)).filter(|rate| *rate > ASSUMED_BYTES_PER_S)),
            disk: said(link.announced.2),
            loss: sent.map_or(0.0, |sent| sent.lost as f64 / (sent.arrived + sent.lost) as f64),
            answered: behaviour.answered,
            load: link.load,
            in_flight,
            suspected: behaviour.suspected,
        };
        LinkView { end, measured: link.meter.rate(now), relayed: self.0.book.is_relayed(node) }
    }

    /// This node as the source of a chain, with `in_flight` chunks under way.
    #[must_use]
    pub fn own_end(&self, in_flight: u32) -> End {
        let now = self.0.links.now_us();
        End { up: self.0.links.experience().up(self.0.me, now), in_flight, ..End::default() }
    }

    /// The expected round trip between two nodes, in seconds: between this one and another as it was measured, between others by their
    /// coordinates.
    #[must_use]
    pub fn round_trip_s(&self, from: Option<NodeId>, to: NodeId) -> f64 {
        let measured = |node: NodeId| self.0.book.behaviour(node).round_trip.map(|time| time.as_secs_f64());
        let place = |node: NodeId| self.0.book.link(node, |link| link.coordinate).flatten();
        let apart = |a: Option<Coordinate>, b: Option<Coordinate>| {
            let (a, b) = (a.filter(Coordinate::is_settled)?, b.filter(Coordinate::is_settled)?);
            Some(a.round_trip_us(&b) / 1e6)
        };
        match from {
            None => measured(to).or_else(|| apart(Some(self.coordinate()), place(to))).unwrap_or(ASSUMED_ROUND_TRIP_S),
            Some(from) => apart(place(from), place(to)).unwrap_or_else(|| {
                let half = |node: NodeId| measured(node).unwrap_or(ASSUMED_ROUND_TRIP_S) / 2.0;
                half(from) + half(to)
            }),
        }
    }

    /// `length` bytes begin to go from here along `chain`.
    pub(crate) fn sending(&self, chain: &[NodeId], length: u64) -> UnderWay<'_> {
        let mut nodes = vec![self.0.me];
        nodes.extend(chain);
        let now = self.0.links.now_us();
        UnderWay { net: self, sending: Some(self.0.links.experience().begin(nodes, length, now)) }
    }

    /// Bytes begin to come from `node`.
    pub(crate) fn coming(&self, node: NodeId) -> Coming {
        let now = self.0.links.now_us();
        self.0.book.link(node, |link| link.meter.begin(now));
        Coming { net: self.clone(), node }
    }
}

/// A chunk on its way along a chain; given up when it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    net: &'a Net,
    sending: Option<Sending>,
}

impl UnderWay<'_> {
    /// The receipt of `vendor` came.
    pub(crate) fn arrived(&mut self, vendor: NodeId) {
        let links = &self.net.0.links;
        let round_trip_us = self.net.round_trip_s(None, vendor) * 1e6;
        if let Some(sending) = &mut self.sending {
            links.experience().arrived(sending, vendor, links.now_us(), round_trip_us as u64);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let links = &self.net.0.links;
        if let Some(sending) = self.sending.take() {
            links.experience().end(sending, links.now_us());
        }
    }
}

/// Bytes that are coming from a peer.
#[derive(Debug)]
pub(crate) struct Coming {
    net: Net,
    node: NodeId,
}

impl Coming {
    /// So many came.
    pub(crate) fn came(&self, bytes: usize) {
        let now = self.net.0.links.now_us();
        self.net.0.book.link(self.node, |link| link.meter.came(now, bytes as u64));
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let now = self.net.0.links.now_us();
        self.net.0.book.link(self.node, |link| link.meter.end(now));
    }
}
