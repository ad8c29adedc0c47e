//! Which vendors of the FAT are shown, and in which order.

use std::cmp::Ordering;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::Value;

use crate::control::results::FatVendor;
use crate::control::{CommandError, ErrorKind};

/// What narrows and orders the table.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Selection {
    /// Only vendors of this zone; may be given several times
    #[arg(long, value_name = "ZONE")]
    zone: Vec<String>,
    /// Only vendors of this operator; may be given several times
    #[arg(long, value_name = "NAME")]
    operator: Vec<String>,
    /// Only the vendor whose id begins so; may be given several times
    #[arg(long, value_name = "ID")]
    vendor: Vec<String>,
    /// Only vendors with at least so much free, for example 10GiB
    #[arg(long, value_name = "SIZE", value_parser = crate::config::parse_size)]
    min_free: Option<u64>,
    /// Only vendors in this health; may be given several times
    #[arg(long, value_enum, value_name = "HEALTH")]
    health: Vec<Health>,
    /// Order by this column, for example free:desc [default: the vendors' ids]
    #[arg(long, value_name = "COLUMN[:desc]")]
    sort: Option<SortBy>,
}

/// How a vendor is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Health {
    /// Nothing is wrong
    Good,
    /// It has no room left
    Full,
    /// Some of its devices are away
    Degraded,
    /// It does not answer this node, or served bad chunks
    Suspect,
    /// It has not signed anything new for long
    Old,
    /// It broke its word, provably
    Quarantined,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Full => "full",
            Self::Degraded => "degraded",
            Self::Suspect => "suspect",
            Self::Old => "old",
            Self::Quarantined => "quarantined",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    Vendor,
    Zone,
    Operator,
    Capacity,
    Locked,
    Used,
    Free,
    Leases,
    Latency,
    Age,
    Health,
}

/// A column, and whether the largest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SortBy {
    column: Column,
    descending: bool,
}

impl FromStr for SortBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, descending) = match text.split_once(':') {
            None | Some((_, "asc")) => (text.split(':').next().unwrap_or(text), false),
            Some((name, "desc")) => (name, true),
            Some((_, other)) => return Err(format!("`{other}` is no order; it is asc or desc")),
        };
        let column = Column::from_str(name, true).map_err(|_| {
            let names: Vec<String> = Column::value_variants()
                .iter()
                .filter_map(|column| Some(column.to_possible_value()?.get_name().to_owned()))
                .collect();
            format!("there is no column `{name}`; there are {}", names.join(", "))
        })?;
        Ok(Self { column, descending })
    }
}

impl Selection {
    /// The vendor that is named, if one is.
    pub(super) fn one_vendor(&self) -> Result<Option<String>, CommandError> {
        match self.vendor.as_slice() {
            [] => Ok(None),
            [vendor] => Ok(Some(vendor.clone())),
            _ => Err(CommandError::new(ErrorKind::Usage, "a lease is at one vendor; give --vendor once")),
        }
    }

    /// Leaves in `fat` the vendors that are wanted, with their leases, in the wanted order. `total` is that of what is left.
    pub(super) fn apply(&self, fat: &mut Value) {
        let Some(vendors) = fat["vendors"].as_array_mut() else { return };
        let mut rows: Vec<(FatVendor, Value)> = std::mem::take(vendors)
            .into_iter()
            .map(|value| (FatVendor::deserialize(&value).unwrap_or_default(), value))
            .filter(|(vendor, _)| self.wants(vendor))
            .collect();
        if let Some(SortBy { column, descending }) = self.sort {
            rows.sort_by(|(one, _), (other, _)| {
                let order = compare(column, one, other);
                if descending { order.reverse() } else { order }
            });
        }
        let narrowed = self.narrows();
        let kept: Vec<String> = rows.iter().map(|(vendor, _)| vendor.vendor.clone()).collect();
        if narrowed {
            let sum = |key: &str| rows.iter().map(|(_, value)| value[key].as_u64().unwrap_or(0)).sum::<u64>();
            let mut total = serde_json::json!({ "vendors": rows.len() });
            for key in ["capacity", "locked", "used", "free", "leases"] {
                total[key] = sum(key).into();
            }
            fat["total"] = total;
            if let Some(leases) = fat["leases"].as_array_mut() {
                leases.retain(|lease| kept.iter().any(|vendor| lease["vendor"] == vendor.as_str()));
            }
        }
        fat["vendors"] = rows.into_iter().map(|(_, value)| value).collect();
    }

    fn narrows(&self) -> bool {
        !(self.zone.is_empty()
            && self.operator.is_empty()
            && self.vendor.is_empty()
            && self.min_free.is_none()
            && self.health.is_empty())
    }

    fn wants(&self, vendor: &FatVendor) -> bool {
        let one_of = |wanted: &[String], text: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == text);
        one_of(&self.zone, &vendor.zone)
            && one_of(&self.operator, &vendor.operator)
            && (self.vendor.is_empty()
                || self.vendor.iter().any(|id| vendor.vendor.starts_with(&id.to_ascii_lowercase())))
            && self.min_free.is_none_or(|least| vendor.free >= least)
            && (self.health.is_empty() || self.health.iter().any(|health| health.word() == vendor.health))
    }
}

fn compare(column: Column, one: &FatVendor, other: &FatVendor) -> Ordering {
    match column {
        Column::Vendor => one.vendor.cmp(&other.vendor),
        Column::Zone => one.zone.cmp(&other.zone),
        Column::Operator => one.operator.cmp(&other.operator),
        Column::Capacity => one.capacity.cmp(&other.capacity),
        Column::Locked => one.locked.cmp(&other.locked),
        Column::Used => one.used.cmp(&other.used),
        Column::Free => one.free.cmp(&other.free),
        Column::Leases => one.leases.cmp(&other.leases),
        Column::Latency => {
            let far = |vendor: &FatVendor| vendor.latency_ms.unwrap_or(f64::INFINITY);
            far(one).total_cmp(&far(other))
        }
        Column::Age => one.age_seconds.total_cmp(&other.age_seconds),
        Column::Health => one.health.cmp(&other.health),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use serde_json::json;

    fn fat() -> Value {
        let vendor = |id: &str, zone: &str, free: u64, health: &str| json!({ "vendor": id, "zone": zone, "free": free, "capacity": 100, "health": health, "extra": 1 });
        json!({
            "vendors": [vendor("aa11", "north", 5, "good"), vendor("bb22", "south", 50, "old"), vendor("cc33", "north", 20, "good")],
            "leases": [{ "vendor": "aa11", "id": "1" }, { "vendor": "bb22", "id": "2" }],
            "total": { "vendors": 3, "capacity": 300 },
        })
    }

    fn ids(selection: &Selection) -> Vec<String> {
        let mut fat = fat();
        selection.apply(&mut fat);
        assert!(fat["vendors"].as_array().unwrap().iter().all(|vendor| vendor["extra"] == 1), "fields are kept");
        fat["vendors"].as_array().unwrap().iter().map(|vendor| vendor["vendor"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn filters_narrow_and_sums_follow() {
        let all = Selection::default();
        assert_eq!(ids(&all), ["aa11", "bb22", "cc33"]);
        assert_eq!(ids(&Selection { zone: vec!["north".into()], ..all.clone() }), ["aa11", "cc33"]);
        assert_eq!(ids(&Selection { vendor: vec!["BB".into()], ..all.clone() }), ["bb22"]);
        assert_eq!(ids(&Selection { min_free: Some(20), ..all.clone() }), ["bb22", "cc33"]);
        assert_eq!(ids(&Selection { health: vec![Health::Old], ..all.clone() }), ["bb22"]);
        assert_eq!(ids(&Selection { operator: vec!["nobody".into()], ..all }), [""; 0]);
        let mut fat = fat();
        Selection { vendor: vec!["aa".into()], ..Selection::default() }.apply(&mut fat);
        assert_eq!((&fat["total"]["vendors"], &fat["total"]["free"]), (&1.into(), &5.into()));
        assert_eq!(fat["leases"], json!([{ "vendor": "aa11", "id": "1" }]));
    }

    #[test]
    fn the_order_is_that_of_a_column() {
        let sorted = |text: &str| ids(&Selection { sort: Some(text.parse().unwrap()), ..Selection::default() });
        assert_eq!(sorted("free"), ["aa11", "cc33", "bb22"]);
        assert_eq!(sorted("free:desc"), ["bb22", "cc33", "aa11"]);
        assert_eq!(sorted("zone:asc"), ["aa11", "cc33", "bb22"]);
        assert!("size".parse::<SortBy>().unwrap_err().contains("capacity, locked"));
        assert!("free:up".parse::<SortBy>().is_err());
    }
}
