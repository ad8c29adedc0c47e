//! The ways to vendors, as people read them.

use fathom_protocol::erasure::Code;

use super::render::{align_right, printable, table};
use crate::control::results::{PathResult, PathVendor};
use crate::progress::{or_dash, short_id};

/// The candidates with their figures, the best first; the vendors of the chain that is used have their place in it.
pub(crate) fn candidates(vendors: &[PathVendor]) -> String {
    let header =
        ["", "vendor", "zone", "round trip", "lost", "up", "down", "from it", "via", "answered", "load", "expected"];
    let mut table = table(&header);
    let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), human_rate);
    for vendor in vendors {
        table.add_row(vec![
            match (vendor.place, vendor.chosen) {
                (Some(place), _) => place.to_string(),
                (None, true) => "*".to_owned(),
                (None, false) => String::new(),
            },
            short_id(&vendor.vendor).to_owned(),
            printable(or_dash(&vendor.zone)),
            vendor.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ± {:.1} ms", vendor.variation_ms)),
            format!("{:.1} %", vendor.loss * 100.0),
            rate(vendor.up_bytes_per_s),
            rate(vendor.down_bytes_per_s),
            rate(vendor.from_bytes_per_s),
            if vendor.hops > 1 { "relay" } else { "direct" }.to_owned(),
            format!("{:.0} %", vendor.uptime * 100.0),
            format!("{:.0}", vendor.load),
            format!("{:.2} s", vendor.seconds),
        ]);
    }
    align_right(&mut table, &[3, 4, 5, 6, 7, 9, 10, 11]);
    table.trim_fmt()
}

pub(super) fn path(result: &PathResult) -> String {
    if result.vendors.is_empty() {
        return "No vendors are known.".to_owned();
    }
    let erasure = result.erasure.as_ref().and_then(|code| code.parse::<Code>().ok());
    let erasure = erasure
        .map(|code| format!("Erasure-coded {code}: any {} of {} shards are enough.\n", code.data(), code.total()));
    let chain = result.chain_seconds.map(|seconds| {
        format!(
            "\nA number is the place in the chain that would be used; through all of it, a chunk takes {seconds:.2} s."
        )
    });
    format!(
        "{}{}\n{}\n* could be used. Expected is the time of a chunk of 4 MiB with that vendor alone. Up and down are what the\n\
         vendor's link carries, as measured here or as it says; from it: what came here of late.",
        erasure.unwrap_or_default(),
        candidates(&result.vendors),
        chain.unwrap_or_default().trim_start_matches('\n'),
    )
    .replace("\n\n", "\n")
}

/// A rate as people read it, in decimal units.
fn human_rate(bytes_per_s: u64) -> String {
    match bytes_per_s {
        0..1_000 => format!("{bytes_per_s} B/s"),
        1_000..1_000_000 => format!("{:.0} kB/s", bytes_per_s as f64 / 1e3),
        _ => format!("{:.1} MB/s", bytes_per_s as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_candidates_figures_and_choice() {
        let known = PathVendor {
            vendor: "ab".repeat(32),
            zone: "attic".to_owned(),
            rtt_ms: Some(41.25),
            variation_ms: 1.5,
            loss: 0.004,
            up_bytes_per_s: Some(625_000),
            down_bytes_per_s: Some(2_500_000),
            hops: 1,
            uptime: 1.0,
            seconds: 7.125,
            chosen: true,
            place: Some(3),
            ..PathVendor::default()
        };
        let unknown = PathVendor { vendor: "cd".repeat(32), uptime: 0.5, chosen: true, ..PathVendor::default() };
        let result = PathResult { erasure: None, vendors: vec![known, unknown.clone()], chain_seconds: Some(9.5) };
        let text = path(&result);
        for part in ["3", "attic", "41.2 ± 1.5 ms", "0.4 %", "625 kB/s", "2.5 MB/s", "direct", "7.12 s", "takes 9.50 s"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let coded = PathResult { erasure: Some("4+2".to_owned()), vendors: vec![unknown], chain_seconds: None };
        let text = path(&coded);
        assert!(text.contains("any 4 of 6 shards") && text.contains("50 %") && text.contains('*'), "{text}");
    }
}
