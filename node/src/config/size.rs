//! Sizes as people write them: `10 GiB`, `500MB`, `1048576`.

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size like \"10 GiB\", \"500 MB\" or a number of bytes")]
pub struct SizeError(String);

/// Units by name, in bytes. Decimal and binary ones are told apart as the IEC does.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kb", 1_000),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// Digits after the decimal point that are read.
const FRACTION_DIGITS_MAX: usize = 6;

/// The size that `text` states, in bytes. A fraction is allowed (`1.5 GiB`) and rounded down; a bare `G` means GiB.
///
/// # Errors
/// [`SizeError`] if it is no size or exceeds 2^63 - 1, the largest number that TOML has.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let wrong = || SizeError(text.chars().take(40).collect());
    let trimmed = text.trim();
    let digits_end = trimmed.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '_'))).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits_end);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(wrong)?;
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let mut bytes = whole.checked_mul(factor).ok_or_else(wrong)?;
    if !fraction.is_empty() {
        let parts: u64 = fraction.parse().map_err(|_| wrong())?;
        let scale = u64::pow(10, u32::try_from(fraction.len()).map_err(|_| wrong())?);
        // factor <= 2^40 and parts < 10^6, so this product fits.
        bytes = bytes.checked_add(factor * parts / scale).ok_or_else(wrong)?;
    }
    if i64::try_from(bytes).is_err() {
        return Err(wrong());
    }
    Ok(bytes)
}

/// `bytes` in the largest binary unit that states it exactly, so that reading it gives the same number.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    for (name, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let unit = 1_u64 << shift;
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("1 B", 1),
            ("4096", 4096),
            ("1_000", 1000),
            ("10 GiB", 10 << 30),
            ("10GiB", 10 << 30),
            (" 10 gib ", 10 << 30),
            ("10G", 10 << 30),
            ("500MB", 500_000_000),
            ("1.5 GiB", 3 << 29),
            ("0.1 kB", 100),
            ("2 TiB", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            " ",
            "GiB",
            "-1",
            "1 XB",
            "1.2.3 GB",
            ".5 GB",
            "99999999999 TiB",
            "9223372036854775808",
            "1e9",
            "1.1234567 GB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_formatted_size_reads_back_exactly() {
        for bytes in [0, 1, 1023, 1024, 1025, 1 << 20, 3 << 29, (1 << 40) + 1, 7 << 40, i64::MAX as u64] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
