//! Which vendors a chunk goes through, and in which order (figures 7 and 8): of the locked locations those that are expected to have all
//! copies first, the slowest uplink last.

use std::sync::Arc;

use fathom_protocol::ids::NodeId;
use fathom_protocol::route::chain::{self, Choice, Link};
use fathom_protocol::route::{End, sources};

use super::placement::Slot;
use super::store::{Putting, lock};
use super::{User, UserError};
use crate::net::{LinkView, Net};

/// What is known of the way to one vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Way {
    /// Running mean of its round trips, milliseconds.
    pub(super) round_trip_ms: Option<f64>,
    /// By how much they vary, milliseconds.
    pub(super) variation_ms: f64,
    /// Its link, as it was measured or is announced.
    pub(super) link: LinkView,
    /// Expected round trip, seconds, whether measured or not.
    pub(super) round_trip_s: f64,
}

impl Way {
    /// Whether it failed lately.
    pub(super) fn suspected(&self) -> bool {
        self.link.end.suspected
    }

    /// Expected seconds until `bytes` bytes from there are here.
    pub(super) fn fetch_seconds(&self, bytes: u64) -> f64 {
        sources::seconds(&self.link.end, self.link.measured, None, self.round_trip_s, bytes)
    }
}

/// The way to `vendor` as it is known now, with so many chunks of this node under way there.
pub(super) fn way(net: &Net, vendor: NodeId, in_flight: u32) -> Way {
    let behaviour = net.book().behaviour(vendor);
    Way {
        round_trip_ms: behaviour.round_trip.map(|time| time.as_secs_f64() * 1e3),
        variation_ms: behaviour.variation.as_secs_f64() * 1e3,
        link: net.link(vendor, in_flight),
        round_trip_s: net.round_trip_s(None, vendor),
    }
}

/// Expected seconds until `bytes` bytes that go to `vendor` alone are stored there.
pub(super) fn store_seconds(net: &Net, vendor: NodeId, in_flight: u32, bytes: u64) -> f64 {
    let away = net.round_trip_s(None, vendor);
    chain::seconds(&net.own_end(0), &[net.link(vendor, in_flight).end], |_, _| away, bytes)
}

/// The best chain through one vendor of each column, no vendor twice, for `bytes` bytes; `vendors` with what is under way to each.
pub(super) fn best(
    net: &Net,
    in_flight: u32,
    vendors: &[(NodeId, u32)],
    columns: &[Vec<usize>],
    bytes: u64,
) -> Option<Choice> {
    let ends: Vec<End> = vendors.iter().map(|(vendor, in_flight)| net.link(*vendor, *in_flight).end).collect();
    // Each is looked at many times in the search.
    let from = |from: Option<usize>| {
        let from = from.map(|from| vendors[from].0);
        vendors.iter().map(|(to, _)| net.round_trip_s(from, *to)).collect::<Vec<f64>>()
    };
    let away: Vec<Vec<f64>> = (0..vendors.len()).map(|at| from(Some(at))).collect();
    let first = from(None);
    let round_trip_s = |from: Option<usize>, to: usize| from.map_or(first[to], |from| away[from][to]);
    chain::choose(&net.own_end(in_flight), &ends, columns, round_trip_s, bytes)
}

/// Puts a chain in the order that a measurement asks for.
fn via(chain: &mut [Slot], order: &[String]) {
    if !order.is_empty() {
        let place = |slot: &Slot| {
            let vendor = slot.place.vendor.to_string();
            order.iter().position(|digits| vendor.starts_with(digits)).unwrap_or(order.len())
        };
        chain.sort_by_key(place);
    }
}

impl User {
    /// A chain of slots, one for each column that is `wanted`, with room for `length` bytes, at different vendors, none of which is one of
    /// `holders`: the one that is expected to be done first.
    pub(super) async fn choose_chain(
        &self,
        put: &Arc<Putting>,
        at: usize,
        holders: impl IntoIterator<Item = NodeId>,
        wanted: &[u8],
        length: u64,
    ) -> Result<Vec<Slot>, UserError> {
        let avoid: Vec<NodeId> = holders.into_iter().collect();
        loop {
            let pick = |in_flight: u32, vendors: &[(NodeId, u32)], columns: &[Vec<usize>]| {
                best(&self.net, in_flight, vendors, columns, length).map(|choice| choice.chain)
            };
            let taken = lock(&put.placement).take_chain(wanted, length, &avoid, pick);
            match taken {
                Ok(Some(mut chain)) => {
                    via(&mut chain, &put.via);
                    return Ok(chain);
                }
                Ok(None) => break,
                Err(column) => self.replenish(put, at, column, length, &avoid).await?,
            }
        }
        // Two columns have but one vendor between them: another one is looked for.
        let each: Vec<(u8, u64)> = wanted.iter().map(|column| (*column, length)).collect();
        let slots = self.choose(put, at, avoid, &each).await?;
        let vendors: Vec<(NodeId, u32)> = slots.iter().map(|slot| (slot.place.vendor, 0)).collect();
        let columns: Vec<Vec<usize>> = (0..slots.len()).map(|at| vec![at]).collect();
        let order = best(&self.net, 0, &vendors, &columns, length);
        let order = order.map_or_else(Vec::new, |choice| choice.chain);
        let ordered: Vec<Slot> = order.into_iter().map(|Link { node, .. }| slots[node].clone()).collect();
        Ok(if ordered.len() == slots.len() { ordered } else { slots })
    }
}
