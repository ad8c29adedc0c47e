//! What a plan could not honour, in words.

use std::collections::BTreeMap;

use super::spread::Domain;
use super::{Columns, Problem, Share, whole};
use crate::market::{Candidate, Name, Names};

/// Names listed in one warning.
const LISTED_MAX: usize = 4;

/// To follow a number of vendors.
pub(super) fn unfit(unfit: usize) -> String {
    match unfit {
        0 => String::new(),
        1 => " (1 more is not what was asked for)".to_owned(),
        more => format!(" ({more} more are not what was asked for)"),
    }
}

/// "a", "a and b", or "a, b, c, d and 3 more".
fn list(names: &[&str]) -> String {
    let shown = &names[..names.len().min(LISTED_MAX)];
    match (shown.split_last(), names.len() - shown.len()) {
        (None, _) => "none".to_owned(),
        (Some(_), more) if more > 0 => format!("{} and {more} more", shown.join(", ")),
        (Some((last, [])), _) => (*last).to_owned(),
        (Some((last, first)), _) => format!("{} and {last}", first.join(", ")),
    }
}

impl Domain {
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Zone => ("in", "zone", "zones"),
            Self::Operator => ("at", "operator", "operators"),
            Self::Subnet => ("in", "subnet", "subnets"),
        }
    }
}

/// A warning for each kind of domain that columns share, or share with what was to be avoided.
pub(super) fn warnings(problem: &Problem<'_>, columns: &Columns, shares: &[Share], names: &Names) -> Vec<String> {
    let chosen: Vec<(u8, &Candidate)> = (problem.want.first..)
        .zip(columns)
        .flat_map(|(column, members)| members.iter().map(move |at| (column, problem.candidate(*at))))
        .filter(|(column, one)| shares.iter().any(|share| (share.column, share.vendor) == (*column, one.vendor)))
        .collect();
    let avoid = &problem.want.avoid;
    let kinds = [(Domain::Zone, &avoid.zones), (Domain::Operator, &avoid.operators), (Domain::Subnet, &avoid.subnets)];
    let mut warnings = Vec::new();
    for (domain, avoided) in kinds {
        if let Some(name) = chosen.iter().find_map(|(_, one)| domain.of(one).filter(|name| avoided.contains(name))) {
            warnings.push(shared(domain, name, names));
        } else if chosen.iter().any(|(a, x)| chosen.iter().any(|(b, y)| a != b && domain.shared(x, y))) {
            warnings.push(missing(problem, domain, names));
        }
    }
    warnings
}

/// A copy that is placed where another one is.
fn shared(domain: Domain, name: Name, names: &Names) -> String {
    let (_, one, many) = domain.words();
    let name = names.text(name);
    format!("a copy shares the {one} {name} with another, as no other {many} have room: losing it may lose both")
}

/// What would have to be there for a spread.
fn missing(problem: &Problem<'_>, domain: Domain, names: &Names) -> String {
    let copies = usize::from(problem.want.copies);
    let mut room: BTreeMap<Name, u64> = BTreeMap::new();
    for one in &problem.candidates {
        if let Some(name) = domain.of(one) {
            let sum = room.entry(name).or_default();
            *sum = sum.saturating_add(whole(one.free, problem.unit));
        }
    }
    let (within, one, many) = domain.words();
    let texts = |room: &mut dyn Iterator<Item = (&Name, &u64)>| {
        let mut texts: Vec<&str> = room.map(|(name, _)| names.text(*name)).collect();
        texts.sort_unstable();
        list(&texts)
    };
    let more = |there: usize| match copies - there {
        1 => format!("one more {one}"),
        more => format!("{more} more {many}"),
    };
    let able = room.values().filter(|room| **room >= problem.needed).count();
    let (all, are) = (texts(&mut room.iter()), if room.len() == 1 { "is" } else { "are" });
    if room.len() < copies {
        return format!("{copies} copies {within} {copies} {many} need {}; there {are} {all}", more(room.len()));
    }
    if able < copies {
        let full = texts(&mut room.iter().filter(|(_, room)| **room >= problem.needed));
        return format!(
            "{copies} copies {within} {copies} {many} need {} with {} bytes free; with so much there {} {full}",
            more(able),
            problem.needed,
            if able == 1 { "is" } else { "are" },
        );
    }
    format!(
        "{copies} copies share {many}: the room at others does not let them lie {within} {copies} {many} and apart otherwise"
    )
}
