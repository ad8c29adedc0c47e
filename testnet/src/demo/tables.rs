//! The node's answers as tables.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Net;
use crate::stage::{Stage, percent};
use crate::units::{bytes, short};

/// Leases that are listed; more are counted.
const LEASES_LISTED: usize = 12;

/// The vendors of a mirror's `fat --json`.
pub(crate) fn vendors(stage: &Stage, net: &Net, fat: &Value) {
    let header = ["vendor", "zone", "operator", "devices", "capacity", "locked", "used", "free", "full"];
    let mut rows: Vec<_> = list(fat, "vendors").iter().map(|vendor| vendor_row(net, vendor)).collect();
    rows.sort();
    stage.table(&header, &rows, &[3, 4, 5, 6, 7, 8]);
}

fn vendor_row(net: &Net, vendor: &Value) -> Vec<String> {
    let figure = |key: &str| vendor[key].as_u64().unwrap_or(0);
    vec![
        net.name_of(text(vendor, "vendor")),
        text(vendor, "zone").to_owned(),
        text(vendor, "operator").to_owned(),
        list(vendor, "devices").len().to_string(),
        bytes(figure("capacity")),
        bytes(figure("locked")),
        bytes(figure("used")),
        bytes(figure("free")),
        format!("{} %", percent(figure("used"), figure("capacity"))),
    ]
}

/// The leases of a mirror's `fat --json` that are offered or locked: the provisional FAT.
pub(crate) fn provisional_leases(fat: &Value) -> Vec<&Value> {
    let provisional = |lease: &&Value| {
        let state = text(lease, "state").to_ascii_lowercase();
        state == "offered" || state == "locked"
    };
    list(fat, "leases").iter().filter(provisional).collect()
}

/// Shows leases; `zones` by node id.
pub(crate) fn leases(stage: &Stage, net: &Net, leases: &[&Value], zones: &BTreeMap<String, String>) {
    let row = |lease: &&Value| {
        let vendor = text(lease, "vendor");
        vec![
            net.name_of(vendor),
            zones.get(vendor).cloned().unwrap_or_default(),
            short(text(lease, "id")).to_owned(),
            short(text(lease, "owner")).to_owned(),
            bytes(lease["bytes"].as_u64().unwrap_or(0)),
            bytes(lease["used"].as_u64().unwrap_or(0)),
            text(lease, "state").to_ascii_lowercase(),
        ]
    };
    let mut rows: Vec<_> = leases.iter().map(row).collect();
    rows.sort();
    let more = rows.len().saturating_sub(LEASES_LISTED);
    rows.truncate(LEASES_LISTED);
    let header = ["vendor", "zone", "lease", "user", "locked", "filled", "state"];
    stage.table(&header, &rows, &[4, 5]);
    if more > 0 {
        stage.print(&format!("   and {more} more"));
    }
}

/// The vendors of `path --json`, best first.
pub(crate) fn path(stage: &Stage, net: &Net, path: &Value) {
    let mut vendors: Vec<_> = list(path, "vendors").iter().collect();
    // Chosen ones first; the node's own order within each group is by its score.
    vendors.sort_by_key(|vendor| vendor["chosen"] != true);
    let row = |vendor: &&Value| {
        vec![
            net.name_of(text(vendor, "vendor")),
            text(vendor, "zone").to_owned(),
            decimal(&vendor["rtt_ms"], 2),
            decimal(&vendor["hops"], 0),
            decimal(&vendor["uptime"], 2),
            decimal(&vendor["load"], 2),
            decimal(&vendor["score"], 2),
            if vendor["chosen"] == true { "yes" } else { "" }.to_owned(),
        ]
    };
    let rows: Vec<_> = vendors.iter().map(row).collect();
    let header = ["vendor", "zone", "round trip ms", "hops", "answered", "load", "score", "chosen"];
    stage.table(&header, &rows, &[2, 3, 4, 5, 6]);
}

/// Zone by node id of every vendor in a `fat --json`.
pub(crate) fn zones(fat: &Value) -> BTreeMap<String, String> {
    let pair = |vendor: &Value| (text(vendor, "vendor").to_owned(), text(vendor, "zone").to_owned());
    list(fat, "vendors").iter().map(pair).collect()
}

/// The list at `key`, empty when there is none.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The text at `key`, empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

fn decimal(value: &Value, digits: usize) -> String {
    value.as_f64().map_or_else(|| "?".to_owned(), |number| format!("{number:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_offered_or_locked_is_provisional() {
        let fat = json!({"leases": [
            {"id": "a", "state": "offered"}, {"id": "b", "state": "LOCKED"},
            {"id": "c", "state": "committed"}, {"id": "d"},
        ]});
        let ids: Vec<_> = provisional_leases(&fat).iter().map(|lease| text(lease, "id")).collect();
        assert_eq!(ids, ["a", "b"]);
        assert!(provisional_leases(&Value::Null).is_empty());
    }

    #[test]
    fn figures_that_are_missing_are_shown_as_such() {
        assert_eq!(decimal(&json!(0.456), 2), "0.46");
        assert_eq!(decimal(&json!(3), 0), "3");
        assert_eq!(decimal(&Value::Null, 2), "?");
    }

    #[test]
    fn zones_are_found_by_vendor() {
        let fat = json!({"vendors": [{"vendor": "ab", "zone": "zone-1"}]});
        assert_eq!(zones(&fat).get("ab").map(String::as_str), Some("zone-1"));
    }
}
