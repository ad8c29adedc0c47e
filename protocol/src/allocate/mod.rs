//! Choosing vendors for a request: the mirror's part of an allocation (figure 6). Pure: candidates in, shares out.
//!
//! Each copy is a **column**. A vendor serves one column only, so any chunk's copies lie at different vendors. Columns are
//! kept apart as far as they can be, see [`spread`](self): zones before operators before subnets. Where they cannot, the plan
//! says what is missing.
//!
//! Among equals, vendors are drawn at random with the odds of what they offer: room, uptime and little load. The draw's seed
//! comes with the request, so that a repeated request is answered alike, and mirrors that know the same do not all send
//! everybody to one vendor.

mod spread;
mod words;

use crate::ids::NodeId;
pub use crate::market::{Candidate, Name, Names, View};
use spread::Rule;

/// A vendor with room for this many shares, or more, has the best odds.
const ROOM_MAX: f64 = 16.0;
/// Uptimes, in milliseconds, that each double a vendor's odds.
const STEADY_MS: [u64; 2] = [600_000, 86_400_000];
/// Transfers under way that halve a vendor's odds.
const LOAD_HALF: f64 = 16.0;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Number of the first column.
    pub first: u8,
    /// Copies, each in a column of its own.
    pub copies: u8,
    /// Vendors a column, if there are enough.
    pub width: u8,
    /// Bytes a column.
    pub bytes: u64,
    /// Every share is a multiple of this.
    pub unit: u32,
    /// Decides among equals.
    pub seed: u64,
    /// Where other copies are that are not planned here.
    pub avoid: Avoid,
}

/// Zones, operators and subnets to use last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Avoid {
    /// Zones.
    pub zones: Vec<Name>,
    /// Operators.
    pub operators: Vec<Name>,
    /// Subnets.
    pub subnets: Vec<Name>,
}

/// Bytes to ask of one vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which copy.
    pub column: u8,
    /// Who.
    pub vendor: NodeId,
    /// How many bytes: a multiple of the unit.
    pub bytes: u64,
}

/// The choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to ask of whom.
    pub shares: Vec<Share>,
    /// What could not be honoured, for people.
    pub warnings: Vec<String>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Fewer vendors than copies.
    #[error(
        "{copies} copies need {copies} vendors with room, and there are {vendors}{}; wait for vendors, or ask for fewer copies",
        words::unfit(*unfit)
    )]
    Vendors {
        /// Copies wanted.
        copies: u8,
        /// Vendors with room for one unit.
        vendors: usize,
        /// Vendors with room that are not what was asked for.
        unfit: usize,
    },
    /// Not enough room.
    #[error(
        "copy {copy} needs {needed} bytes and the vendors left for it have {free} free{}; store less, ask for fewer copies, or wait for more storage",
        words::unfit(*unfit)
    )]
    Space {
        /// Which copy, from 1.
        copy: u8,
        /// Bytes it needs.
        needed: u64,
        /// Bytes its vendors have.
        free: u64,
        /// Vendors with room that are not what was asked for.
        unfit: usize,
    },
}

/// The request in whole units, and the candidates in the order in which they are preferred.
struct Problem<'a> {
    want: &'a Want,
    unit: u64,
    /// Bytes of each column.
    needed: u64,
    /// Best first.
    candidates: Vec<Candidate>,
    /// How many of them, from the front, are not suspected.
    sound: usize,
    names: usize,
}

/// Chooses vendors for `want`. Suspected vendors come last, before them those that may hold a copy.
///
/// # Errors
/// [`Shortage`].
pub fn plan(view: &View, want: &Want) -> Result<Plan, Shortage> {
    let unit = u64::from(want.unit.max(1));
    let (copies, unfit) = (want.copies, view.unfit);
    let room = |all: &[Candidate]| all.iter().fold(0, |sum: u64, one| sum.saturating_add(whole(one.free, unit)));
    let Some(needed) = want.bytes.div_ceil(unit).checked_mul(unit) else {
        return Err(Shortage::Space { copy: 1, needed: want.bytes, free: room(&view.candidates), unfit });
    };
    let candidates = ranked(view, want, unit, needed);
    if candidates.len() < usize::from(copies) {
        return Err(Shortage::Vendors { copies, vendors: candidates.len(), unfit });
    }
    let sound = candidates.partition_point(|candidate| !candidate.suspected);
    let problem = Problem { want, unit, needed, candidates, sound, names: view.names.len() };
    // Whether there is room at all is known before any spread is tried.
    let enough = room(&problem.candidates) >= needed.saturating_mul(u64::from(copies));
    let rules = if enough { &Rule::ALL[..] } else { &[] };
    for rule in rules {
        for among in [problem.sound, problem.candidates.len()] {
            if let Some(columns) = problem.columns(*rule, among)
                && let Ok(shares) = problem.fill(&columns)
            {
                let warnings = words::warnings(&problem, &columns, &shares, &view.names);
                return Ok(Plan { shares, warnings });
            }
            if problem.sound == problem.candidates.len() {
                break;
            }
        }
    }
    let (copy, free) = problem.short();
    Err(Shortage::Space { copy, needed, free, unfit })
}

/// The part of `bytes` that is whole units.
fn whole(bytes: u64, unit: u64) -> u64 {
    bytes / unit * unit
}

/// Candidates with room for a unit, the preferred ones first.
fn ranked(view: &View, want: &Want, unit: u64, needed: u64) -> Vec<Candidate> {
    let share = (needed / u64::from(want.width.max(1))).max(unit);
    let avoid = &want.avoid;
    let in_list = |list: &[Name], name: Option<Name>| name.is_some_and(|name| list.contains(&name));
    let mut order: Vec<(u8, u64, NodeId, u32)> = (0u32..)
        .zip(&view.candidates)
        .filter(|(_, candidate)| candidate.free >= unit)
        .map(|(at, candidate)| {
            let class = u8::from(candidate.suspected) << 4
                | u8::from(candidate.may_hold) << 3
                | u8::from(avoid.zones.contains(&candidate.zone)) << 2
                | u8::from(in_list(&avoid.operators, candidate.operator)) << 1
                | u8::from(in_list(&avoid.subnets, candidate.subnet));
            (class, draw(candidate, want.seed, share), candidate.vendor, at)
        })
        .collect();
    order.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| a.2.cmp(&b.2)));
    order.into_iter().map(|(_, _, _, at)| view.candidates[at as usize]).collect()
}

/// A number by which the candidates are sorted: the smallest of several is each one's with odds in proportion to its weight
/// (exponential variates, as in weighted sampling without replacement by Efraimidis and Spirakis, 2006).
fn draw(candidate: &Candidate, seed: u64, share: u64) -> u64 {
    let steady = STEADY_MS.iter().filter(|ms| candidate.up_ms >= **ms).count();
    #[allow(clippy::cast_precision_loss)]
    let room = (candidate.free as f64 / share as f64).clamp(0.1, ROOM_MAX);
    let weight = room * [1.0, 2.0, 4.0][steady] / (1.0 + f64::from(candidate.load) / LOAD_HALF);
    let id = candidate
        .vendor
        .0
        .chunks_exact(8)
        .fold(seed, |mixed, part| mix(mixed ^ part.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))));
    // 53 bits, never 0.
    #[allow(clippy::cast_precision_loss)]
    let uniform = ((id >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    // The order of positive floats is that of their bits.
    (-uniform.ln() / weight).to_bits()
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Vendors of each column, by their place among the candidates.
type Columns = Vec<Vec<u32>>;

impl Problem<'_> {
    fn candidate(&self, at: u32) -> &Candidate {
        &self.candidates[at as usize]
    }

    /// Bytes that these have in whole units. Saturates: what a vendor claims is not to be trusted with a sum.
    fn room(&self, members: &[u32]) -> u64 {
        members.iter().fold(0, |sum, at| sum.saturating_add(whole(self.candidate(*at).free, self.unit)))
    }

    /// A column that does not get what it needs although nothing is kept apart but vendors, from 1, and what there is for it.
    fn short(&self) -> (u8, u64) {
        let dealt = self.deal(Rule::NONE, self.candidates.len(), true).unwrap_or_default();
        self.fill(&dealt).err().unwrap_or_default()
    }

    /// Splits what each column needs over its vendors; else a column and what there is for it.
    fn fill(&self, columns: &Columns) -> Result<Vec<Share>, (u8, u64)> {
        let mut shares = Vec::new();
        for (column, members) in (0..self.want.copies).zip(columns) {
            let free = self.room(members);
            if free < self.needed {
                return Err((column + 1, free));
            }
            self.split(column, members, &mut shares);
        }
        Ok(shares)
    }

    /// Splits a column's units evenly over its first `width` vendors, and over more where those have no room.
    fn split(&self, column: u8, members: &[u32], shares: &mut Vec<Share>) {
        let units = |at: usize| self.candidate(members[at]).free / self.unit;
        let mut left = self.needed / self.unit;
        let mut active = usize::from(self.want.width.max(1)).min(members.len());
        let mut taken = vec![0u64; active];
        while left > 0 {
            let open: Vec<usize> = (0..active).filter(|at| taken[*at] < units(*at)).collect();
            if open.is_empty() {
                if active == members.len() {
                    break;
                }
                active += 1;
                taken.push(0);
                continue;
            }
            for (at, open) in open.iter().copied().zip((1..=open.len() as u64).rev()) {
                let take = left.div_ceil(open).min(units(at) - taken[at]);
                taken[at] += take;
                left -= take;
            }
        }
        for (at, units) in members.iter().zip(taken).filter(|(_, units)| *units > 0) {
            shares.push(Share {
                column: self.want.first.saturating_add(column),
                vendor: self.candidate(*at).vendor,
                bytes: units * self.unit,
            });
        }
    }
}
