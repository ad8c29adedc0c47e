//! Network coordinates: each node has a place such that the distance of two is about their round trip.
//!
//! Source: F. Dabek, R. Cox, F. Kaashoek, R. Morris, "Vivaldi: A Decentralized Network Coordinate System", SIGCOMM 2004: a place
//! in Euclidean space, a height (what the node's own access link adds to every way), and an error by which samples are weighed.
//! Three dimensions and a height predict as well as more do (ibid., section 5.4).
//!
//! Everything from others is hostile. A coordinate is checked when it is decoded; a sample moves a place by 50 ms at most,
//! and no place leaves the bounds, so that a liar bends the space around itself and not everybody's.

use serde::{Deserialize, Serialize};

use super::bounded;

/// Dimensions of a place, beside the height.
pub const DIMENSIONS: usize = 3;
/// How far from the middle a place may be in each dimension, and how high, microseconds.
pub const PLACE_US_MAX: i32 = 5_000_000;
/// The least height, microseconds: every node has an access link.
const HEIGHT_US_MIN: f64 = 50.0;
/// How far one sample moves a place, microseconds.
const STEP_US_MAX: f64 = 50_000.0;
/// A round trip that is longer says nothing of the way, microseconds.
const ROUND_TRIP_US_MAX: f64 = 5_000_000.0;
/// Relative error of a node that knows nothing, per mille; also the greatest.
pub const ERROR_PERMILLE_MAX: u32 = 1_000;
/// The least error, per mille: nobody is so sure that samples stop to count.
const ERROR_MIN: f64 = 0.02;
/// How much of a sample's error is taken over (`c_e` and `c_c` of the source).
const WEIGHT: f64 = 0.25;

/// Where a node says it is. Microseconds of round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinate {
    /// Its place, within [`PLACE_US_MAX`] of the middle in each dimension.
    pub place: [i32; DIMENSIONS],
    /// What its access link adds, at most [`PLACE_US_MAX`].
    pub height: u32,
    /// How wrong its distances are, per mille, at most [`ERROR_PERMILLE_MAX`].
    pub error: u32,
}

impl Coordinate {
    /// Whether it is within all bounds.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let inside = |at: &i32| (-PLACE_US_MAX..=PLACE_US_MAX).contains(at);
        self.place.iter().all(inside) && self.height <= PLACE_US_MAX.unsigned_abs() && self.error <= ERROR_PERMILLE_MAX
    }

    /// The expected round trip to a node at `other`, microseconds.
    #[must_use]
    pub fn round_trip_us(&self, other: &Self) -> f64 {
        Position::of(self).to(&Position::of(other)).2
    }

    /// Whether its distances are worth more than a guess.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.error < ERROR_PERMILLE_MAX / 2
    }
}

/// Where this node is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    place: [f64; DIMENSIONS],
    height: f64,
    error: f64,
}

impl Default for Position {
    fn default() -> Self {
        Self { place: [0.0; DIMENSIONS], height: HEIGHT_US_MIN, error: 1.0 }
    }
}

impl Position {
    fn of(coordinate: &Coordinate) -> Self {
        Self {
            place: coordinate.place.map(f64::from),
            height: f64::from(coordinate.height).max(HEIGHT_US_MIN),
            error: bounded(f64::from(coordinate.error) / 1_000.0, ERROR_MIN, 1.0),
        }
    }

    /// As it is told to others.
    #[must_use]
    pub fn coordinate(&self) -> Coordinate {
        let max = f64::from(PLACE_US_MAX);
        Coordinate {
            place: self.place.map(|at| bounded(at, -max, max) as i32),
            height: bounded(self.height, 0.0, max) as u32,
            error: bounded((self.error * 1_000.0).round(), 0.0, f64::from(ERROR_PERMILLE_MAX)) as u32,
        }
    }

    /// From `other` to here: the vector, its length, and with the heights the distance.
    fn to(&self, other: &Self) -> ([f64; DIMENSIONS], f64, f64) {
        let mut way = [0.0; DIMENSIONS];
        for (way, (here, there)) in way.iter_mut().zip(self.place.iter().zip(other.place)) {
            *way = here - there;
        }
        let length = way.iter().map(|at| at * at).sum::<f64>().sqrt();
        (way, length, length + self.height + other.height)
    }

    /// A node at `other` answered after `round_trip_us`. `chance` decides the direction in which two nodes at one place part.
    pub fn sample(&mut self, round_trip_us: f64, other: &Coordinate, chance: u64) {
        let plausible = round_trip_us > 0.0 && round_trip_us <= ROUND_TRIP_US_MAX && other.is_bounded();
        if !plausible {
            return;
        }
        let other = Self::of(other);
        let (mut way, mut length, distance) = self.to(&other);
        if length < 1.0 {
            way = direction(chance);
            length = way.iter().map(|at| at * at).sum::<f64>().sqrt().max(1.0);
        }
        let trust = self.error / (self.error + other.error);
        let wrong = bounded((distance - round_trip_us).abs() / round_trip_us, 0.0, 1.0);
        self.error = bounded(self.error + WEIGHT * trust * (wrong - self.error), ERROR_MIN, 1.0);
        let step = bounded(WEIGHT * trust * (round_trip_us - distance), -STEP_US_MAX, STEP_US_MAX);
        let high = (self.height + other.height) / distance.max(1.0);
        let max = f64::from(PLACE_US_MAX);
        for (at, way) in self.place.iter_mut().zip(way) {
            *at = bounded(*at + step * way / length, -max, max);
        }
        self.height = bounded(self.height + step * high, HEIGHT_US_MIN, max);
    }
}

/// Any direction: three numbers of -1 to 1 out of the bits of `chance`, not all of them small.
fn direction(chance: u64) -> [f64; DIMENSIONS] {
    let mut way = [0.0; DIMENSIONS];
    for (at, way) in way.iter_mut().enumerate() {
        let bits = chance.rotate_right(21 * at as u32) & 0x1f_ffff;
        *way = 2.0 * bits as f64 / f64::from(0x1f_ffff) - 1.0;
    }
    way[0] += if way[0] < 0.0 { -0.5 } else { 0.5 };
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: Coordinate = Coordinate { place: [0; DIMENSIONS], height: 0, error: 100 };

    #[test]
    fn two_nodes_come_to_their_round_trip() {
        let (mut a, mut b) = (Position::default(), Position::default());
        for chance in 0..200 {
            let (at_a, at_b) = (a.coordinate(), b.coordinate());
            a.sample(80_000.0, &at_b, chance);
            b.sample(80_000.0, &at_a, chance + 1_000);
        }
        let found = a.coordinate().round_trip_us(&b.coordinate());
        assert!((70_000.0..90_000.0).contains(&found), "{found}");
        assert!(a.coordinate().is_settled() && b.coordinate().is_settled());
    }

    #[test]
    fn one_sample_moves_little_whatever_it_says() {
        let extreme = Coordinate { place: [PLACE_US_MAX; DIMENSIONS], height: PLACE_US_MAX.unsigned_abs(), error: 0 };
        for (round_trip, other) in [(1.0, extreme), (5_000_000.0, MIDDLE), (5_000_000.0, extreme)] {
            let mut position = Position::default();
            position.sample(round_trip, &other, 7);
            let (_, moved, _) = position.to(&Position::default());
            assert!(moved <= STEP_US_MAX + 1.0, "{moved}");
        }
    }

    #[test]
    fn what_is_no_round_trip_changes_nothing() {
        let outside = Coordinate { place: [PLACE_US_MAX + 1, 0, 0], ..MIDDLE };
        assert!(!outside.is_bounded());
        let mut position = Position::default();
        for round_trip in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            position.sample(round_trip, &MIDDLE, 1);
        }
        position.sample(10.0, &outside, 1);
        assert_eq!(position, Position::default());
    }
}
