//! The FAT as a table for people, as wide as the terminal is.

use std::fmt::Write as _;

use crate::cli::render::{align_right, count, instant, printable, table};
use crate::control::results::{FatResult, FatTotal, FatVendor};
use crate::progress::{human_bytes, human_seconds, or_dash, short_id};

/// How much is left out so that the table fits; each step leaves out more.
const STEPS: [Form; 8] = [
    Form { hidden: &[], short: false, words: true },
    Form { hidden: &["leases"], short: false, words: true },
    Form { hidden: &["leases"], short: true, words: true },
    Form { hidden: &["leases", "operator"], short: true, words: true },
    Form { hidden: &["leases", "operator"], short: true, words: false },
    Form { hidden: &["leases", "operator", "used"], short: true, words: false },
    Form { hidden: &["leases", "operator", "used", "zone"], short: true, words: false },
    Form { hidden: &["leases", "operator", "used", "zone", "locked", "latency"], short: true, words: false },
];

struct Form {
    hidden: &'static [&'static str],
    /// 1.5G instead of 1.50 GiB.
    short: bool,
    /// What is wrong, not only that something is.
    words: bool,
}

/// The table of vendors with a last line of sums, what it is a table of, and with `leases` those too. `width` is that of the
/// terminal, in columns.
pub(super) fn render(fat: &FatResult, width: Option<usize>, leases: bool) -> String {
    let mut text = format!("FAT of mirror {}\n\n{}\n", short_id(&fat.mirror), vendors(fat, width));
    if leases && !fat.leases.is_empty() {
        let _ = write!(text, "\n{}\n", lease_table(fat));
    }
    let _ = write!(
        text,
        "\n{}, {}, {}, {}; digest {}",
        count(fat.vendors.len() as u64, "vendor", "vendors"),
        count(fat.total.leases, "lease", "leases"),
        count(fat.files, "file", "files"),
        count(fat.moves, "move", "moves"),
        short_id(&fat.digest)
    );
    text
}

fn vendors(fat: &FatResult, width: Option<usize>) -> String {
    if fat.vendors.is_empty() {
        return "No vendor is known, or none is as asked for.".to_owned();
    }
    let mut text = String::new();
    for form in &STEPS {
        text = with_form(&fat.vendors, &fat.total, form);
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        if width.is_none_or(|width| longest <= width) {
            break;
        }
    }
    text
}

/// The lines of some vendors, each as one text, for a table that grows.
pub(super) fn rows(vendors: &[FatVendor]) -> String {
    with_form(vendors, &FatTotal::default(), &STEPS[0])
}

fn with_form(vendors: &[FatVendor], total: &FatTotal, form: &Form) -> String {
    let names =
        ["vendor", "zone", "operator", "capacity", "locked", "used", "free", "leases", "latency", "age", "health"];
    let shown: Vec<usize> = (0..names.len()).filter(|at| !form.hidden.contains(&names[*at])).collect();
    let header: Vec<&str> = shown.iter().map(|at| names[*at]).collect();
    let size = |bytes| if form.short { short_bytes(bytes) } else { human_bytes(bytes) };
    let mut rows = table(&header);
    let mut add = |cells: [String; 11]| {
        let cells: Vec<String> =
            cells.into_iter().enumerate().filter(|(at, _)| shown.contains(at)).map(|(_, cell)| cell).collect();
        rows.add_row(cells);
    };
    for vendor in vendors {
        add([
            short_id(&vendor.vendor).to_owned(),
            printable(or_dash(&vendor.zone)),
            printable(or_dash(&vendor.operator)),
            size(vendor.capacity),
            size(vendor.locked),
            size(vendor.used),
            size(vendor.free),
            vendor.leases.to_string(),
            vendor.latency_ms.map_or_else(|| "-".to_owned(), |latency| format!("{latency:.1} ms")),
            human_seconds(vendor.age_seconds as u64),
            printable(or_dash(if form.words { &vendor.health_note } else { &vendor.health })),
        ]);
    }
    if total.vendors > 0 {
        let nothing = String::new;
        add([
            "total".to_owned(),
            nothing(),
            nothing(),
            size(total.capacity),
            size(total.locked),
            size(total.used),
            size(total.free),
            total.leases.to_string(),
            nothing(),
            nothing(),
            nothing(),
        ]);
    }
    let right: Vec<usize> =
        shown.iter().enumerate().filter(|(_, at)| (3..=9).contains(*at)).map(|(place, _)| place).collect();
    align_right(&mut rows, &right);
    rows.trim_fmt()
}

fn lease_table(fat: &FatResult) -> String {
    let mut leases = table(&["vendor", "lease", "user", "locked", "used", "state", "until"]);
    for lease in &fat.leases {
        leases.add_row(vec![
            short_id(&lease.vendor).to_owned(),
            short_id(&lease.id).to_owned(),
            short_id(&lease.owner).to_owned(),
            human_bytes(lease.bytes),
            human_bytes(lease.used),
            lease.state.clone(),
            instant(lease.expires),
        ]);
    }
    align_right(&mut leases, &[3, 4]);
    leases.trim_fmt()
}

/// Bytes in at most five characters, in binary units.
fn short_bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "");
    for next in ["K", "M", "G", "T", "P", "E"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit.is_empty() || value >= 99.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn fat() -> FatResult {
        let vendor = |id: &str, age: f64, note: &str| FatVendor {
            vendor: id.repeat(32),
            zone: "attic\u{1b}[2J".to_owned(),
            operator: "somebody".to_owned(),
            capacity: 2 << 40,
            locked: 300 << 30,
            used: 100 << 30,
            free: (2 << 40) - (300 << 30),
            leases: 12,
            latency_ms: (id == "ab").then_some(12.34),
            age_seconds: age,
            health: "good".to_owned(),
            health_note: note.to_owned(),
            ..FatVendor::default()
        };
        FatResult {
            vendors: vec![vendor("ab", 5.0, "good"), vendor("cd", 7_500.0, "silent for 2 h 5 min")],
            total: FatTotal { vendors: 2, capacity: 4 << 40, leases: 24, ..FatTotal::default() },
            ..FatResult::default()
        }
    }

    #[test]
    fn the_table_says_everything_and_sums_it_up() {
        let text = render(&fat(), None, false);
        for part in [
            "VENDOR",
            "abababab",
            "2.00 TiB",
            "12.3 ms",
            "2 h 5 min",
            "silent for 2 h 5 min",
            "total",
            "4.00 TiB",
            "2 vendors, 24 leases",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(render(&FatResult::default(), None, true).contains("No vendor is known"));
    }

    /// Keeps away: lines that a terminal breaks, so that no column stands under its name.
    #[test]
    fn the_table_is_as_wide_as_the_terminal() {
        for (width, there, not) in [(140, "OPERATOR", "?!"), (80, "LOCKED", "OPERATOR"), (60, "FREE", "LEASES")] {
            let text = render(&fat(), Some(width), false);
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width, "{longest} columns:\n{text}");
            assert!(text.contains(there) && !text.contains(not), "{width}:\n{text}");
        }
        assert!(render(&fat(), Some(10), false).contains("HEALTH"), "the narrowest form is shown whatever the width");
    }

    #[test]
    fn short_sizes_have_five_characters_at_most() {
        let sizes = [0, 999, 1000, 1023, 1 << 20, 1_048_576_000, 999 << 30, 1000 << 30, 123 << 40, u64::MAX];
        for size in sizes {
            assert!(short_bytes(size).len() <= 5, "{size}: {}", short_bytes(size));
        }
        assert_eq!(
            (short_bytes(0), short_bytes(1536 << 20), short_bytes(256 << 20)),
            ("0".into(), "1.5G".into(), "256M".into())
        );
    }
}
