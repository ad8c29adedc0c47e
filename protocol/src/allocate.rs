//! Choosing vendors for a request: the mirror's part of an allocation (figure 6). Pure: candidates in, shares out.
//!
//! Each copy is a column. A vendor serves one column only, so any chunk's copies lie at different vendors; zones are kept
//! whole within a column while there are enough of them, so copies also lie in different zones.

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

/// Chooses vendors for `want`. Suspected vendors come last.
///
/// # Errors
/// [`Shortage`].
pub fn plan(mut candidates: Vec<Candidate>, want: &Want) -> Result<Plan, Shortage> {
    let unit = u64::from(want.unit.max(1));
    let needed = want.bytes.div_ceil(unit).saturating_mul(unit);
    candidates.retain(|candidate| candidate.free >= unit);
    if candidates.len() < usize::from(want.copies) {
        return Err(Shortage::Vendors { copies: want.copies, vendors: candidates.len() });
    }
    candidates
        .sort_by(|a, b| rank(a, want).cmp(&rank(b, want)).then(b.free.cmp(&a.free)).then(a.vendor.cmp(&b.vendor)));
    let (columns, warnings) = columns(&candidates, want, needed);
    let mut shares = Vec::new();
    for (column, vendors) in (0..want.copies).zip(&columns) {
        let free = vendors.iter().map(|candidate| candidate.free / unit * unit).sum();
        if free < needed {
            return Err(Shortage::Space { copy: column + 1, needed, free });
        }
        split(column, vendors, want, needed / unit, unit, &mut shares);
    }
    Ok(Plan { shares, warnings })
}

fn rank(candidate: &Candidate, want: &Want) -> (bool, bool, u32) {
    (candidate.suspected, want.avoid_zones.contains(&candidate.zone), candidate.load)
}

/// Deals the vendors out to columns: whole zones while there are enough, else operators, else single vendors.
fn columns<'a>(candidates: &'a [Candidate], want: &Want, needed: u64) -> (Vec<Vec<&'a Candidate>>, Vec<String>) {
    let copies = usize::from(want.copies);
    let mut warnings = Vec::new();
    let zones = groups(candidates, |candidate| candidate.zone.clone());
    let groups = if zones.len() >= copies {
        zones
    } else {
        if copies > 1 {
            warnings.push(format!(
                "{copies} copies share {} zone(s): a zone that fails takes more than one copy",
                zones.len()
            ));
        }
        let operators = groups(candidates, |candidate| format!("{}\n{}", candidate.zone, candidate.operator));
        if operators.len() >= copies && operators.len() > zones.len() {
            operators
        } else {
            candidates.iter().map(|candidate| vec![candidate]).collect()
        }
    };
    let mut columns: Vec<Vec<&Candidate>> = vec![Vec::new(); copies];
    for group in groups {
        // An empty column first, then the one that is furthest from what it needs.
        let target = columns.iter_mut().min_by_key(|column| {
            let free: u64 = column.iter().map(|candidate| candidate.free).sum();
            (!column.is_empty(), free >= needed, column.len(), free)
        });
        if let Some(target) = target {
            target.extend(group);
        }
    }
    (columns, warnings)
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
        let each = left.div_ceil(open.len() as u64);
        for i in open {
            let take = each.min(vendors[i].free / unit - taken[i]).min(left);
            taken[i] += take;
            left -= take;
        }
    }
    for (candidate, units) in vendors.iter().zip(taken).filter(|(_, units)| *units > 0) {
        shares.push(Share { column, vendor: candidate.vendor, bytes: units * unit });
    }
}
