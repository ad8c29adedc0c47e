//! What a mirror needs of each vendor's head to choose among vendors, in a form that is copied without copying text.
//!
//! [`Market::note`] is fed with every head that the table takes; [`Market::view`] gives the candidates for one request, to be
//! planned with outside of any lock. Zones, operators, subnets and media are [`Name`]s, numbers for their texts.
//!
//! A **subnet** is a /24 of IPv4 or a /48 of IPv6, of the vendor's first address that is reachable everywhere, IPv4 before
//! IPv6. Loopback, link-local and private addresses say nothing: every home has the same ones. A vendor without another address
//! shares its subnet with nobody, and one that names no operator shares its operator with nobody, as nothing is known; but
//! vendors that name no zone share one, since a zone is what a copy's safety rests on.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, HashMap};

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::head::VendorHead;
use crate::ids::{Hash, NodeId};
use crate::sign::SignerId;
use crate::time::UnixMs;
use crate::wire::Wants;

/// Texts that no head uses any more are dropped once there are so many for each vendor.
const NAMES_PER_VENDOR_MAX: usize = 8;
/// ... and this many in all.
const NAMES_KEPT: usize = 1_024;
/// Offers of one vendor since its newest head that can be taken off again when they are withdrawn; of more, only the sum is kept.
const OFFERS_NOTED_MAX: usize = 256;

/// A text of [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(NonZeroU32);

impl Name {
    /// Its place among all names, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Texts by number.
#[derive(Clone, Debug, Default)]
pub struct Names {
    texts: Vec<Arc<str>>,
    index: HashMap<Arc<str>, Name>,
}

impl Names {
    /// The name for `text`.
    pub fn name(&mut self, text: &str) -> Name {
        if let Some(name) = self.index.get(text) {
            return *name;
        }
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        // There is at least one text now, and never 2^32: each comes with a head that is larger than its number.
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let name = Name(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN));
        self.index.insert(text, name);
        name
    }

    /// The name for `text`, if it has one.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Name> {
        self.index.get(text).copied()
    }

    /// The text as people read it.
    #[must_use]
    pub fn text(&self, name: Name) -> &str {
        match self.texts.get(name.index()).map(AsRef::as_ref) {
            None | Some("") => "(unstated)",
            Some(text) => text,
        }
    }

    /// The text as it was given; empty if it was.
    #[must_use]
    pub fn raw(&self, name: Name) -> &str {
        self.texts.get(name.index()).map_or("", AsRef::as_ref)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

/// A vendor that might be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub vendor: NodeId,
    /// Where it stands.
    pub zone: Name,
    /// Who runs it, if it says so.
    pub operator: Option<Name>,
    /// The network that it is reached in, if that tells it from others.
    pub subnet: Option<Name>,
    /// Bytes that no lease holds.
    pub free: u64,
    /// Transfers under way.
    pub load: u32,
    /// Milliseconds since this run of it began.
    pub up_ms: u64,
    /// Whether the mirror failed to reach it lately.
    pub suspected: bool,
    /// Whether it may hold a copy of the very chunks that are to be placed.
    pub may_hold: bool,
}

/// What the mirror knows of a vendor beside its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It must not be chosen.
    pub barred: bool,
    /// See [`Candidate::suspected`].
    pub suspected: bool,
    /// See [`Candidate::may_hold`].
    pub may_hold: bool,
    /// The mirror's own round trip to it, microseconds, if it was measured.
    pub round_trip_us: Option<u64>,
}

/// The candidates for one request.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Who might be chosen.
    pub candidates: Vec<Candidate>,
    /// Vendors with free storage that are not what was asked for.
    pub unfit: usize,
    /// The texts behind the names.
    pub names: Arc<Names>,
}

#[derive(Clone, Debug)]
struct Entry {
    zone: Name,
    operator: Option<Name>,
    subnet: Option<Name>,
    media: Name,
    free: u64,
    bandwidth: u64,
    write_us: u64,
    up_since: UnixMs,
    load: u32,
    /// Locked there by this mirror's requests since the head was signed, which does not count it yet.
    offered: u64,
    /// By which request, as far as they are noted.
    offers: Vec<(SignerId, Hash, u64)>,
}

/// What all vendors offer.
#[derive(Debug, Default)]
pub struct Market {
    names: Arc<Names>,
    vendors: BTreeMap<NodeId, Entry>,
}

impl Market {
    /// The market of these heads.
    pub fn of<'a>(heads: impl IntoIterator<Item = &'a VendorHead>) -> Self {
        let mut market = Self::default();
        heads.into_iter().for_each(|head| market.note(head));
        market
    }

    /// Takes a vendor's newest head.
    pub fn note(&mut self, head: &VendorHead) {
        let traits = &head.characteristics;
        if self.names.len() > NAMES_KEPT + NAMES_PER_VENDOR_MAX * self.vendors.len() {
            self.forget_names();
        }
        let subnet = head.addresses.iter().map(|address| subnet(address.as_str()));
        let subnet = subnet.flatten().min_by_key(|(v6, _)| *v6).map(|(_, text)| text);
        let mut name = |text: &str| match self.names.find(text) {
            Some(name) => name,
            None => Arc::make_mut(&mut self.names).name(text),
        };
        let stated = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let working = head.devices.iter().filter(|device| device.health.as_str() == "healthy");
        let entry = Entry {
            zone: name(traits.zone.as_str()),
            operator: stated(traits.operator.as_str()).map(|text| name(&text)),
            subnet: subnet.map(|text| name(&text)),
            media: name(traits.media.as_str()),
            free: head.free(),
            bandwidth: traits.bandwidth_bytes_per_s,
            // A chunk is spread over the devices, so the slowest counts.
            write_us: working.map(|device| device.write_latency_us).max().unwrap_or(0),
            up_since: traits.up_since,
            load: traits.load,
            offered: 0,
            offers: Vec::new(),
        };
        self.vendors.insert(head.vendor, entry);
    }

    /// Forgets a vendor that the table keeps no more.
    pub fn forget(&mut self, vendor: NodeId) {
        self.vendors.remove(&vendor);
    }

    /// Notes that `bytes` were locked at a vendor since its newest head, for a request that is named by who signed it and its nonce.
    pub fn offered(&mut self, vendor: NodeId, request: (SignerId, Hash), bytes: u64) {
        if let Some(entry) = self.vendors.get_mut(&vendor) {
            entry.offered = entry.offered.saturating_add(bytes);
            if entry.offers.len() < OFFERS_NOTED_MAX {
                entry.offers.push((request.0, request.1, bytes));
            }
        }
    }

    /// Notes that a vendor has freed what it had locked for a request. If a newer head came in between, that counts it still and
    /// the next one will not.
    pub fn withdrawn(&mut self, vendor: NodeId, request: (SignerId, Hash)) {
        if let Some(entry) = self.vendors.get_mut(&vendor) {
            let freed = entry.offers.extract_if(.., |(who, nonce, _)| (*who, *nonce) == request);
            let freed = freed.fold(0, |sum: u64, (.., bytes)| sum.saturating_add(bytes));
            entry.offered = entry.offered.saturating_sub(freed);
        }
    }

    /// Bytes that the mirror believes free at a vendor.
    #[must_use]
    pub fn free(&self, vendor: NodeId) -> u64 {
        self.vendors.get(&vendor).map_or(0, |entry| entry.free.saturating_sub(entry.offered))
    }

    /// The candidates for a request that asks for `wants`. `standing` says what the mirror knows of each vendor; it is called
    /// in the order of vendors. A vendor that never measured what is bounded does not keep the bound.
    pub fn view(&self, wants: &Wants, now: UnixMs, mut standing: impl FnMut(NodeId) -> Standing) -> View {
        let zones: Vec<Option<Name>> = wants.zones.iter().map(|zone| self.names.find(zone.as_str())).collect();
        let media = wants.media.as_ref().map(|media| self.names.find(media.as_str()));
        let mut view = View { candidates: Vec::with_capacity(self.vendors.len()), ..View::default() };
        for (vendor, entry) in &self.vendors {
            let standing = standing(*vendor);
            let free = entry.free.saturating_sub(entry.offered);
            if standing.barred || free == 0 {
                continue;
            }
            let round_trip = standing.round_trip_us.unwrap_or(0);
            let latency = (entry.write_us > 0).then(|| round_trip.saturating_add(entry.write_us));
            let fits = (zones.is_empty() || zones.contains(&Some(entry.zone)))
                && media.is_none_or(|media| media == Some(entry.media))
                && entry.bandwidth >= wants.bandwidth_min
                && (wants.latency_us_max == 0 || latency.is_some_and(|us| us <= u64::from(wants.latency_us_max)));
            if !fits {
                view.unfit += 1;
                continue;
            }
            view.candidates.push(Candidate {
                vendor: *vendor,
                zone: entry.zone,
                operator: entry.operator,
                subnet: entry.subnet,
                free,
                load: entry.load,
                up_ms: now.since_ms(entry.up_since),
                suspected: standing.suspected,
                may_hold: standing.may_hold,
            });
        }
        view.names = Arc::clone(&self.names);
        view
    }

    /// Drops texts that no vendor uses: one that changes its zone with each head would else fill the memory.
    fn forget_names(&mut self) {
        let mut names = Names::default();
        for entry in self.vendors.values_mut() {
            let mut renew = |name: Name| names.name(self.names.texts.get(name.index()).map_or("", AsRef::as_ref));
            entry.zone = renew(entry.zone);
            entry.operator = entry.operator.map(&mut renew);
            entry.subnet = entry.subnet.map(&mut renew);
            entry.media = renew(entry.media);
        }
        self.names = Arc::new(names);
    }
}

/// The subnet of a multiaddress, and whether it is one of IPv6; none of an address that is not reachable everywhere, or a name.
fn subnet(address: &str) -> Option<(bool, String)> {
    let mut parts = address.split('/').skip(1);
    match (parts.next()?, parts.next()?) {
        ("ip4", text) => {
            let ip: Ipv4Addr = text.parse().ok()?;
            let [a, b, c, _] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let local = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared;
            (!local).then(|| (false, format!("{a}.{b}.{c}.0/24")))
        }
        ("ip6", text) => {
            let ip: Ipv6Addr = text.parse().ok()?;
            let [a, b, c, ..] = ip.segments();
            let local = ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local();
            (!local).then(|| (true, format!("{a:x}:{b:x}:{c:x}::/48")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_are_reachable_everywhere_make_a_subnet() {
        for local in [
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/192.168.1.7/udp/1/quic-v1",
            "/ip4/10.1.2.3/udp/1/quic-v1",
            "/ip4/100.64.0.1/udp/1/quic-v1",
            "/ip4/0.0.0.0/udp/1/quic-v1",
            "/ip6/::1/udp/1/quic-v1",
            "/ip6/fd00::1/udp/1/quic-v1",
            "/ip6/fe80::1/udp/1/quic-v1",
            "/dns4/home.example.org/udp/1/quic-v1",
            "/ip4/",
            "nonsense",
        ] {
            assert_eq!(subnet(local), None, "{local}");
        }
        assert_eq!(subnet("/ip4/203.0.113.7/udp/1/quic-v1"), Some((false, "203.0.113.0/24".to_owned())));
        assert_eq!(subnet("/ip6/2001:db8:1:2::3/udp/1/quic-v1"), Some((true, "2001:db8:1::/48".to_owned())));
    }
}
