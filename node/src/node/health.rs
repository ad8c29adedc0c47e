//! What a node adds to a FAT that it shows: how far each vendor is from here, how it is in words, and the sums.

use serde_json::{Value, json};

use fathom_protocol::ids::NodeId;

use crate::net::Net;

/// Seconds without a new head after which a vendor counts as silent: it signs one every 300 s, changed or not.
const OLD_AFTER_SECONDS: u64 = 660;

/// Adds `latency_ms` (this node's own measurement, null if there is none), `health` and `health_note` to each vendor, and `total`.
/// Measures first what was not measured lately: a mirror, for one, sends vendors next to nothing by itself.
pub(super) async fn complete(net: &Net, mut fat: Value) -> Value {
    net.measure(fat["vendors"].as_array().into_iter().flatten().filter_map(id)).await;
    let mut total = Total::default();
    for vendor in fat["vendors"].as_array_mut().into_iter().flatten() {
        let behaviour = id(vendor).map(|id| net.book().behaviour(id));
        let round_trip = behaviour.and_then(|behaviour| behaviour.round_trip);
        let silent = behaviour.is_some_and(|behaviour| behaviour.suspected);
        let (health, note) = judge(vendor, silent);
        vendor["latency_ms"] = round_trip.map(|time| time.as_secs_f64() * 1e3).into();
        vendor["health"] = health.into();
        vendor["health_note"] = note.into();
        total.add(vendor);
    }
    fat["total"] = total.json();
    fat
}

fn id(vendor: &Value) -> Option<NodeId> {
    vendor["vendor"].as_str()?.parse().ok()
}

#[derive(Default)]
struct Total {
    vendors: u64,
    sums: [u64; 5],
}

/// What is summed over all vendors.
const SUMMED: [&str; 5] = ["capacity", "locked", "used", "free", "leases"];

impl Total {
    fn add(&mut self, vendor: &Value) {
        self.vendors += 1;
        for (sum, key) in self.sums.iter_mut().zip(SUMMED) {
            *sum = sum.saturating_add(vendor[key].as_u64().unwrap_or(0));
        }
    }

    fn json(&self) -> Value {
        let mut total = json!({ "vendors": self.vendors });
        for (sum, key) in self.sums.iter().zip(SUMMED) {
            total[key] = (*sum).into();
        }
        total
    }
}

/// The worst that is known of a vendor: a word for programs and a few for people.
fn judge(vendor: &Value, silent: bool) -> (&'static str, String) {
    let number = |key: &str| vendor[key].as_u64().unwrap_or(0);
    if !vendor["quarantined"].is_null() {
        let why = match vendor["quarantined"]["offence"].as_str() {
            Some("twins") => "signed two heads in one place",
            Some("dropped") => "dropped a lease in use",
            _ => "broke its word",
        };
        return ("quarantined", format!("quarantined: {why}"));
    }
    let age = number("age_seconds");
    if age >= OLD_AFTER_SECONDS {
        return ("old", format!("silent for {}", crate::progress::human_seconds(age)));
    }
    if silent {
        return ("suspect", "does not answer".to_owned());
    }
    let bad = number("bad");
    if bad > 0 {
        return ("suspect", format!("served {bad} bad {}", if bad == 1 { "chunk" } else { "chunks" }));
    }
    let devices = vendor["devices"].as_array().map_or(&[][..], Vec::as_slice);
    let away = devices.iter().filter(|device| device["health"] != "healthy").count();
    if away > 0 {
        return ("degraded", format!("{away} of {} devices away", devices.len()));
    }
    if number("free") == 0 {
        return ("full", "full".to_owned());
    }
    ("good", "good".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_worst_is_told() {
        let device = |health: &str| json!({ "health": health });
        let mut vendor =
            json!({ "free": 5, "age_seconds": 3, "bad": 0, "devices": [device("healthy")], "quarantined": null });
        assert_eq!(judge(&vendor, false), ("good", "good".to_owned()));
        vendor["free"] = 0.into();
        assert_eq!(judge(&vendor, false).0, "full");
        vendor["devices"] = json!([device("healthy"), device("suspended")]);
        assert_eq!(judge(&vendor, false), ("degraded", "1 of 2 devices away".to_owned()));
        vendor["bad"] = 1.into();
        assert_eq!(judge(&vendor, false), ("suspect", "served 1 bad chunk".to_owned()));
        assert_eq!(judge(&vendor, true).1, "does not answer");
        vendor["age_seconds"] = 7_260.into();
        assert_eq!(judge(&vendor, true), ("old", "silent for 2 h 1 min".to_owned()));
        vendor["quarantined"] = json!({ "offence": "twins" });
        assert_eq!(judge(&vendor, true).1, "quarantined: signed two heads in one place");
    }

    #[test]
    fn the_sums_are_those_of_the_vendors() {
        let mut total = Total::default();
        for free in [1, 2] {
            total.add(&json!({ "capacity": 10, "free": free, "locked": 3 }));
        }
        assert_eq!(
            total.json(),
            json!({ "vendors": 2, "capacity": 20, "locked": 6, "used": 0, "free": 3, "leases": 0 })
        );
    }
}
