//! When a chunk will be here from a source, and when it is late.
//!
//! Each chunk is asked for where it is expected first, given what is under way there. So sources get work in proportion to their
//! rates, and a slow one holds up no more than what it was given; a chunk that is late as others go is fetched from another.

use super::{ASSUMED_BYTES_PER_S, End, RATE_MAX, bounded};

/// A chunk is late after so many times the time that chunks take.
const LATE: f64 = 2.0;

/// The longest time that is expected of a chunk before any came, seconds.
const UNKNOWN_S: f64 = 2.5;

/// Seconds until `bytes` bytes from `source` are here. `measured` is the rate at which bytes came from it of late, `down` what comes in
/// here at best.
#[must_use]
pub fn seconds(source: &End, measured: Option<f64>, down: Option<f64>, round_trip_s: f64, bytes: u64) -> f64 {
    let rate = match measured {
        // With whatever else it had to do.
        Some(rate) => bounded(rate, 1.0, RATE_MAX as f64) / (f64::from(source.in_flight) + 1.0),
        None => source.up_share().min(bounded(down.unwrap_or(ASSUMED_BYTES_PER_S * 8.0), 1.0, RATE_MAX as f64)),
    };
    // What is asked of it at once waits for its devices in turn, however near it is.
    let waits = bounded(round_trip_s, 0.0, 60.0) * (1.0 + f64::from(source.in_flight));
    waits + bytes as f64 / rate + source.risk()
}

/// After how many seconds a chunk is late that was expected after `expected` seconds, if chunks take `pace` seconds on average
/// so far. Never less than `least`.
#[must_use]
pub fn patience(expected: f64, pace: Option<f64>, least: f64) -> f64 {
    // Before any came, it is the expectation that is wrong as likely as the source.
    let usual = pace.unwrap_or(bounded(expected, 0.0, UNKNOWN_S));
    bounded(LATE * usual, least, 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_goes_in_proportion_to_the_rates() {
        let mut under_way = [0_u32; 3];
        let rates = [8e6, 4e6, 1e6];
        for _ in 0..26 {
            let cost = |at: &usize| {
                let source = End { in_flight: under_way[*at], ..End::default() };
                seconds(&source, Some(rates[*at]), None, 0.0, 1 << 20)
            };
            let best = (0..3).min_by(|a, b| cost(a).total_cmp(&cost(b)));
            under_way[best.unwrap_or_default()] += 1;
        }
        assert_eq!(under_way, [16, 8, 2]);
    }

    #[test]
    fn what_is_measured_wins_over_what_is_said() {
        let boaster = End { up: Some(1e11), ..End::default() };
        let modest = End { up: Some(1e6), ..End::default() };
        assert!(seconds(&boaster, None, None, 0.0, 1 << 20) < seconds(&modest, None, None, 0.0, 1 << 20));
        assert!(seconds(&boaster, Some(1e5), None, 0.0, 1 << 20) > seconds(&modest, None, None, 0.0, 1 << 20));
    }

    #[test]
    fn patience_is_that_of_the_others() {
        assert!((patience(9.0, Some(0.1), 1.0) - 1.0).abs() < 1e-9);
        assert!((patience(0.1, Some(3.0), 1.0) - 6.0).abs() < 1e-9);
        assert!((patience(0.1, None, 1.0) - 1.0).abs() < 1e-9);
        assert!(patience(f64::NAN, None, 1.0) >= 1.0);
    }
}
