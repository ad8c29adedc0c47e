//! Choosing vendors for a request: the mirror's part of an allocation (figure 6). Pure: candidates in, shares out.
//!
//! Each copy is a column. A vendor serves one column only, so any chunk's copies lie at different vendors; zones are kept
//! whole within a column while there are enough of them with room, so copies also lie in different zones. Else operators
//! are kept whole, else nothing, and a warning says so. Whole groups are dealt out greedily, so a plan may be missed where
//! only a perfect partition of unequal vendors fits; it never is where each of as many vendors as copies has room for all.

use std::collections::BTreeMap;

use crate::ids::NodeId;

/// A vendor that might be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub vendor: NodeId,
    /// Its failure domain.
    pub zone: String,
    /// Who runs it.
    pub operator: String,
    /// Bytes that no lease holds.
    pub free: u64,
    /// Transfers under way.
    pub load: u32,
    /// Whether the mirror failed to reach it lately.
    pub suspected: bool,
    /// Whether it may hold a copy of the very chunks that are to be placed.
    pub may_hold: bool,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Copies, each in a column of its own.
    pub copies: u8,
    /// Vendors a column, if there are enough.
    pub width: u8,
    /// Bytes a column.
    pub bytes: u64,
    /// Every share is a multiple of this.
    pub unit: u32,
    /// Zones to use last.
    pub avoid_zones: Vec<String>,
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
        "{copies} copies need {copies} vendors with room, and there are {vendors}; wait for vendors, or ask for fewer copies"
    )]
    Vendors {
        /// Copies wanted.
        copies: u8,
        /// Vendors with room for one unit.
        vendors: usize,
    },
    /// Not enough room.
    #[error(
        "copy {copy} needs {needed} bytes and the vendors left for it have {free} free; store less, ask for fewer copies, or wait for more storage"
    )]
    Space {
        /// Which copy, from 1.
        copy: u8,
        /// Bytes it needs.
        needed: u64,
        /// Bytes its vendors have.
        free: u64,
    },
}

/// Chooses vendors for `want`. Suspected vendors come last, before them those that may hold a copy.
///
/// # Errors
/// [`Shortage`].
pub fn plan(mut candidates: Vec<Candidate>, want: &Want) -> Result<Plan, Shortage> {
    let unit = u64::from(want.unit.max(1));
    candidates.retain(|candidate| candidate.free >= unit);
    if candidates.len() < usize::from(want.copies) {
        return Err(Shortage::Vendors { copies: want.copies, vendors: candidates.len() });
    }
    candidates
        .sort_by(|a, b| rank(a, want).cmp(&rank(b, want)).then(b.free.cmp(&a.free)).then(a.vendor.cmp(&b.vendor)));
    let Some(needed) = want.bytes.div_ceil(unit).checked_mul(unit) else {
        let free = room(&candidates.iter().collect::<Vec<_>>(), unit);
        return Err(Shortage::Space { copy: 1, needed: want.bytes, free });
    };
    let mut shortage = None;
    for spread in Spread::ALL {
        for largest_first in [false, true] {
            let Some(columns) = columns(&candidates, want, needed, unit, spread, largest_first) else { continue };
            match fill(&columns, want, needed, unit) {
                Ok(shares) => return Ok(Plan { shares, warnings: spread.warning(&candidates, want) }),
                Err(short) => shortage = shortage.or(Some(short)),
            }
        }
    }
    Err(shortage.unwrap_or(Shortage::Vendors { copies: want.copies, vendors: candidates.len() }))
}

fn fill(columns: &[Vec<&Candidate>], want: &Want, needed: u64, unit: u64) -> Result<Vec<Share>, Shortage> {
    let mut shares = Vec::new();
    for (column, vendors) in (0..want.copies).zip(columns) {
        let free = room(vendors, unit);
        if free < needed {
            return Err(Shortage::Space { copy: column + 1, needed, free });
        }
        split(column, vendors, want, needed / unit, unit, &mut shares);
    }
    Ok(shares)
}

/// What stays together in one column, the best first.
#[derive(Clone, Copy)]
enum Spread {
    Zones,
    Operators,
    Vendors,
}

impl Spread {
    const ALL: [Self; 3] = [Self::Zones, Self::Operators, Self::Vendors];

    fn groups(self, candidates: &[Candidate]) -> Vec<Vec<&Candidate>> {
        groups(candidates, |candidate| match self {
            Self::Zones => candidate.zone.clone(),
            Self::Operators => format!("{}\n{}", candidate.zone, candidate.operator),
            Self::Vendors => candidate.vendor.to_string(),
        })
    }

    fn warning(self, candidates: &[Candidate], want: &Want) -> Vec<String> {
        if want.copies < 2 || matches!(self, Self::Zones) {
            return Vec::new();
        }
        let zones = Self::Zones.groups(candidates).len();
        let what = match self {
            Self::Vendors => "zones and operators",
            _ => "zones",
        };
        vec![format!(
            "{} copies share {what}, since {zones} zone(s) have room: a zone that fails may take more than one copy",
            want.copies
        )]
    }
}

/// Bytes that `vendors` have in whole units. Saturates: what a vendor claims is not to be trusted with a sum.
fn room(vendors: &[&Candidate], unit: u64) -> u64 {
    vendors.iter().fold(0, |sum, candidate| sum.saturating_add(candidate.free / unit * unit))
}

fn rank(candidate: &Candidate, want: &Want) -> (bool, bool, bool, u32) {
    (candidate.suspected, candidate.may_hold, want.avoid_zones.contains(&candidate.zone), candidate.load)
}

/// Deals the groups out to columns, in rank order or the largest first; `None` if there are fewer than columns.
fn columns<'a>(
    candidates: &'a [Candidate],
    want: &Want,
    needed: u64,
    unit: u64,
    spread: Spread,
    largest_first: bool,
) -> Option<Vec<Vec<&'a Candidate>>> {
    let mut groups = spread.groups(candidates);
    if groups.len() < usize::from(want.copies) {
        return None;
    }
    if largest_first {
        groups.sort_by_key(|group| std::cmp::Reverse(room(group, unit)));
    }
    let mut columns: Vec<Vec<&Candidate>> = vec![Vec::new(); usize::from(want.copies)];
    for group in groups {
        // An empty column first, then the one that is furthest from what it needs.
        let target = columns.iter_mut().min_by_key(|column| {
            let room = room(column, unit);
            (!column.is_empty(), room >= needed, column.len(), room)
        });
        if let Some(target) = target {
            target.extend(group);
        }
    }
    Some(columns)
}

/// Groups in the order in which their best member comes.
fn groups(candidates: &[Candidate], key: impl Fn(&Candidate) -> String) -> Vec<Vec<&Candidate>> {
    let mut order: Vec<Vec<&Candidate>> = Vec::new();
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    for candidate in candidates {
        let at = *index.entry(key(candidate)).or_insert_with(|| {
            order.push(Vec::new());
            order.len() - 1
        });
        order[at].push(candidate);
    }
    order
}

/// Splits a column's units evenly over its first `width` vendors, and over more where those have no room.
fn split(column: u8, vendors: &[&Candidate], want: &Want, units: u64, unit: u64, shares: &mut Vec<Share>) {
    let mut left = units;
    let mut taken = vec![0u64; vendors.len()];
    let mut active = usize::from(want.width.max(1)).min(vendors.len());
    while left > 0 {
        let open: Vec<usize> = (0..active).filter(|i| taken[*i] < vendors[*i].free / unit).collect();
        if open.is_empty() {
            if active == vendors.len() {
                break;
            }
            active += 1;
            continue;
        }
        for (i, open) in open.iter().copied().zip((1..=open.len() as u64).rev()) {
            let take = left.div_ceil(open).min(vendors[i].free / unit - taken[i]).min(left);
            taken[i] += take;
            left -= take;
        }
    }
    for (candidate, units) in vendors.iter().zip(taken).filter(|(_, units)| *units > 0) {
        shares.push(Share { column, vendor: candidate.vendor, bytes: units * unit });
    }
}
