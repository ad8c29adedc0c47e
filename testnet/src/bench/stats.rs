//! Several measurements of one thing.

use serde::{Deserialize, Serialize};

/// What several runs gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// How many.
    pub(super) n: usize,
}

impl Summary {
    /// `None` of nothing.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min, max, n: sorted.len() })
    }

    /// Whether no value of one lies between two of the other.
    pub(super) fn is_apart_from(&self, other: &Self) -> bool {
        self.min > other.max || other.min > self.max
    }
}

/// The value that `percent` of `values` do not exceed (nearest rank); 0 of nothing.
pub(super) fn percentile(values: &[f64], percent: u32) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent as usize).div_ceil(100).max(1);
    sorted.get(rank - 1).or(sorted.last()).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]).unwrap(), Summary { median: 2.0, min: 1.0, max: 3.0, n: 3 });
        assert_eq!(Summary::of(&[4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99), percentile(&values, 100)), (50.0, 99.0, 100.0));
        assert_eq!((percentile(&[7.0], 1), percentile(&[], 50)), (7.0, 0.0));
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 50), 2.0);
    }

    #[test]
    fn ranges_that_touch_are_not_apart() {
        let of = |values: &[f64]| Summary::of(values).unwrap();
        assert!(!of(&[1.0, 2.0]).is_apart_from(&of(&[2.0, 3.0])));
        assert!(of(&[1.0, 2.0]).is_apart_from(&of(&[2.1, 3.0])));
        assert!(of(&[4.0]).is_apart_from(&of(&[2.1, 3.0])));
    }
}
