//! Rates as people write them: `5 Mbit/s`, `600 KiB/s`.

use super::size::{format_size, parse_size};

/// The lowest and the highest cap, bytes per second: below it a node could not talk at all, above it nothing is capped.
pub(super) const RATE_MIN: u64 = 10_000;
pub(super) const RATE_MAX: u64 = 125_000_000_000;

/// Units of bits by name.
const BITS: [(&str, u64); 7] = [
    ("bit", 1),
    ("kbit", 1_000),
    ("kibit", 1 << 10),
    ("mbit", 1_000_000),
    ("mibit", 1 << 20),
    ("gbit", 1_000_000_000),
    ("gibit", 1 << 30),
];

/// The bytes per second that `text` states: a size or a number of bits, and `/s`. `None` if it is no rate.
pub(super) fn parse_rate(text: &str) -> Option<u64> {
    let amount = text.trim().strip_suffix("/s")?.trim();
    if amount.bytes().next_back()?.is_ascii_digit() {
        // Bits and bytes are taken for each other too easily.
        return None;
    }
    let digits_end = amount.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '_')))?;
    let (number, unit) = amount.split_at(digits_end);
    let unit = unit.trim().to_ascii_lowercase();
    match BITS.iter().find(|(name, _)| *name == unit) {
        // A number of so many millionths of a unit, so that fractions are read as sizes' are.
        Some((_, factor)) => {
            let millionths = parse_size(&format!("{number} MB")).ok()?;
            u64::try_from(u128::from(millionths) * u128::from(*factor) / 8_000_000).ok()
        }
        None => parse_size(amount).ok(),
    }
}

/// `rate` in bits where that is exact, as lines are sold, else in bytes; reading it gives the same number.
#[must_use]
pub fn format_rate(rate: u64) -> String {
    for (name, unit) in [("Gbit", 125_000_000), ("Mbit", 125_000), ("kbit", 125)] {
        if rate >= unit && rate.is_multiple_of(unit) {
            return format!("{} {name}/s", rate / unit);
        }
    }
    format!("{}/s", format_size(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, rate) in [
            ("5 Mbit/s", 625_000),
            ("5Mbit/s", 625_000),
            ("1.5 Mbit/s", 187_500),
            ("80 kbit/s", 10_000),
            ("1 Gbit/s", 125_000_000),
            ("1 Mibit/s", 131_072),
            ("600 KiB/s", 614_400),
            ("2.5 MB/s", 2_500_000),
            (" 10000 B/s ", 10_000),
        ] {
            assert_eq!(parse_rate(text), Some(rate), "{text}");
        }
        for text in ["", "5", "5/s", "5 Mbit", "Mbit/s", "-1 Mbit/s", "5 Mbps", "1e3 kbit/s", "fast"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }

    #[test]
    fn a_formatted_rate_reads_back_exactly() {
        for rate in [RATE_MIN, 10_001, 131_072, 187_500, 625_000, 614_400, 125_000_000, RATE_MAX] {
            assert_eq!(parse_rate(&format_rate(rate)), Some(rate), "{}", format_rate(rate));
        }
    }
}
