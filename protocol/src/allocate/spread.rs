//! Keeping columns apart.
//!
//! A [`Rule`] says which failure domains no two columns may share; they are tried from the strictest on. For each rule:
//!
//! 1. If enough vendors have room for a whole copy on their own, one for each column is looked for. With two kinds of domain
//!    that is a bipartite matching, of zones with operators, say, in which each vendor is an edge: augmenting paths find one
//!    whenever there is one. With three kinds it is a bounded search, since a matching in three dimensions is NP-complete.
//! 2. Else vendors that a domain connects are dealt out to columns together, the preferred or the largest first.
//! 3. Else, of few vendors, every way to deal them out is tried.
//!
//! So up to [`EXACT_MAX`] vendors a spread is found whenever there is one; beyond, whenever single vendors can hold the copies
//! and no more than two kinds of domain stand in the way; and else it is sought with a bounded effort.

use super::{Candidate, Columns, Problem};
use crate::market::Name;

/// Candidates of which every way to deal them out is tried.
pub(super) const EXACT_MAX: usize = 12;
/// Steps of the search through every way.
const EXACT_STEPS: usize = 100_000;
/// Steps of the search for vendors that are apart in three ways.
const SEARCH_STEPS: usize = 30_000;
/// Nobody.
const NONE: u32 = u32::MAX;

/// Which failure domains no two columns may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule(&'static [Domain]);

/// A kind of failure domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Zone,
    Operator,
    Subnet,
}

impl Domain {
    pub(super) fn of(self, candidate: &Candidate) -> Option<Name> {
        match self {
            Self::Zone => Some(candidate.zone),
            Self::Operator => candidate.operator,
            Self::Subnet => candidate.subnet,
        }
    }

    /// Whether two candidates share it. What is not known is not shared.
    pub(super) fn shared(self, a: &Candidate, b: &Candidate) -> bool {
        self.of(a).is_some_and(|name| self.of(b) == Some(name))
    }
}

impl Rule {
    /// The strictest first.
    pub(super) const ALL: [Self; 8] = {
        use Domain::{Operator, Subnet, Zone};
        [
            Self(&[Zone, Operator, Subnet]),
            Self(&[Zone, Operator]),
            Self(&[Zone, Subnet]),
            Self(&[Zone]),
            Self(&[Operator, Subnet]),
            Self(&[Operator]),
            Self(&[Subnet]),
            Self::NONE,
        ]
    };

    /// Only vendors are kept apart.
    pub(super) const NONE: Self = Self(&[]);

    fn clash(self, a: &Candidate, b: &Candidate) -> bool {
        self.0.iter().any(|domain| domain.shared(a, b))
    }
}

impl Problem<'_> {
    /// Columns that the rule keeps apart, made of the first `among` candidates, if they are found.
    pub(super) fn columns(&self, rule: Rule, among: usize) -> Option<Columns> {
        let all = &self.candidates[..among];
        let copies = usize::from(self.want.copies);
        if all.len() < copies || rule.0.iter().any(|domain| !self.enough(*domain, all)) {
            return None;
        }
        let able: Vec<u32> = (0u32..).zip(all).filter(|(_, one)| one.free >= self.needed).map(|(at, _)| at).collect();
        if able.len() >= copies
            && let Some(homes) = self.homes(rule, &able)
        {
            return Some(self.widened(rule, homes, among));
        }
        let full = |columns: &Columns| self.fill(columns).is_ok();
        let dealt = [false, true].into_iter().find_map(|largest| self.deal(rule, among, largest).filter(full));
        dealt.or_else(|| if among <= EXACT_MAX { self.exact(rule, among) } else { None })
    }

    /// Whether there are as many domains as columns.
    fn enough(&self, domain: Domain, all: &[Candidate]) -> bool {
        let copies = usize::from(self.want.copies);
        let mut seen = Vec::with_capacity(copies);
        all.iter().any(|candidate| {
            let name = domain.of(candidate);
            if name.is_none() || !seen.contains(&name) {
                seen.push(name);
            }
            seen.len() >= copies
        })
    }

    /// One vendor for each column, of those that can hold a whole copy: the preferred ones that the rule allows.
    fn homes(&self, rule: Rule, able: &[u32]) -> Option<Vec<u32>> {
        let mut homes = Vec::new();
        match rule.0 {
            [left, right] => homes = Matching::new(self, able, *left, *right).find(usize::from(self.want.copies))?,
            _ => {
                let mut steps = SEARCH_STEPS + able.len();
                if !self.search(rule, able, &mut homes, &mut steps) {
                    return None;
                }
            }
        }
        homes.sort_unstable();
        Some(homes)
    }

    fn search(&self, rule: Rule, able: &[u32], homes: &mut Vec<u32>, steps: &mut usize) -> bool {
        if homes.len() == usize::from(self.want.copies) {
            return true;
        }
        for (at, one) in able.iter().enumerate() {
            if *steps == 0 {
                return false;
            }
            *steps -= 1;
            if homes.iter().any(|home| rule.clash(self.candidate(*home), self.candidate(*one))) {
                continue;
            }
            homes.push(*one);
            if self.search(rule, &able[at + 1..], homes, steps) {
                return true;
            }
            homes.pop();
            if rule.0.len() < 2 {
                // With one kind of domain any member of it is as good as the one that was tried.
                return false;
            }
        }
        false
    }

    /// Gives each column more vendors, up to the width wanted: of its own zone first, and none that is worse than the worst home.
    fn widened(&self, rule: Rule, homes: Vec<u32>, among: usize) -> Columns {
        let width = usize::from(self.want.width.max(1));
        let worst = homes.iter().map(|home| self.doubt(*home)).max().unwrap_or_default();
        let mut columns: Columns = homes.iter().map(|home| vec![*home]).collect();
        let mut open = if width > 1 { columns.len() } else { 0 };
        for own_zone in [true, false] {
            for (at, one) in (0u32..).zip(&self.candidates[..among]) {
                if open == 0 {
                    return columns;
                }
                if self.doubt(at) > worst || columns.iter().any(|members| members.contains(&at)) {
                    continue;
                }
                let near = |members: &[u32]| self.candidate(members[0]).zone == one.zone;
                let fits = |column: usize| {
                    let others = columns.iter().enumerate().filter(|(other, _)| *other != column);
                    !others.flat_map(|(_, members)| members).any(|other| rule.clash(self.candidate(*other), one))
                };
                let wide = (0..columns.len()).filter(|column| columns[*column].len() < width);
                let home = wide.filter(|column| near(&columns[*column]) || !own_zone).filter(|column| fits(*column));
                if let Some(column) = home.min_by_key(|column| columns[*column].len()) {
                    columns[column].push(at);
                    open -= usize::from(columns[column].len() == width);
                }
            }
        }
        columns
    }

    fn doubt(&self, at: u32) -> (bool, bool) {
        (self.candidate(at).suspected, self.candidate(at).may_hold)
    }

    /// Deals out groups of vendors that a domain connects, the preferred or the largest first; none if there are too few.
    pub(super) fn deal(&self, rule: Rule, among: usize, largest_first: bool) -> Option<Columns> {
        let mut groups: Vec<(u64, Vec<u32>)> =
            self.groups(rule, among).into_iter().map(|group| (self.room(&group), group)).collect();
        let copies = usize::from(self.want.copies);
        if groups.len() < copies {
            return None;
        }
        if largest_first {
            groups.sort_by_key(|(room, _)| std::cmp::Reverse(*room));
        }
        let mut columns: Vec<(u64, Vec<u32>)> = vec![(0, Vec::new()); copies];
        for (room, group) in groups {
            // An empty column first, then the one that is furthest from what it needs.
            let rank = |(room, members): &&mut (u64, Vec<u32>)| (!members.is_empty(), *room >= self.needed, *room);
            if let Some((sum, members)) = columns.iter_mut().min_by_key(rank) {
                *sum = sum.saturating_add(room);
                members.extend(group);
            }
        }
        Some(columns.into_iter().map(|(_, members)| members).collect())
    }

    /// The first `among` candidates in groups that share no domain of the rule, in the order of the best of each.
    fn groups(&self, rule: Rule, among: usize) -> Vec<Vec<u32>> {
        let mut parent: Vec<u32> = (0u32..).take(among).collect();
        fn root(parent: &mut [u32], mut at: u32) -> u32 {
            while parent[at as usize] != at {
                parent[at as usize] = parent[parent[at as usize] as usize];
                at = parent[at as usize];
            }
            at
        }
        for domain in rule.0 {
            let mut first = vec![NONE; self.names];
            for (at, one) in (0u32..).zip(&self.candidates[..among]) {
                let Some(name) = domain.of(one) else { continue };
                match &mut first[name.index()] {
                    slot if *slot == NONE => *slot = at,
                    slot => {
                        let (a, b) = (root(&mut parent, *slot), root(&mut parent, at));
                        // The best stays in front.
                        parent[a.max(b) as usize] = a.min(b);
                    }
                }
            }
        }
        let mut place = vec![NONE; among];
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for at in (0u32..).take(among) {
            let root = root(&mut parent, at) as usize;
            if place[root] == NONE {
                place[root] = u32::try_from(groups.len()).unwrap_or(NONE);
                groups.push(Vec::new());
            }
            groups[place[root] as usize].push(at);
        }
        groups
    }

    /// Tries every way to deal the first `among` candidates out, the largest first.
    fn exact(&self, rule: Rule, among: usize) -> Option<Columns> {
        let mut order: Vec<u32> = (0u32..).take(among).collect();
        order.sort_by_key(|at| std::cmp::Reverse(self.candidate(*at).free));
        let mut columns: Columns = vec![Vec::new(); usize::from(self.want.copies)];
        let mut steps = EXACT_STEPS;
        self.exact_from(rule, &order, &mut columns, &mut steps).then(|| {
            columns.iter_mut().for_each(|members| members.sort_unstable());
            columns
        })
    }

    fn exact_from(&self, rule: Rule, order: &[u32], columns: &mut Columns, steps: &mut usize) -> bool {
        let missing = |members: &Vec<u32>| self.needed.saturating_sub(self.room(members));
        let all_missing = columns.iter().map(missing).fold(0, u64::saturating_add);
        if all_missing == 0 {
            return true;
        }
        let Some((at, rest)) = order.split_first() else { return false };
        if *steps == 0 || self.room(order) < all_missing {
            return false;
        }
        *steps -= 1;
        for column in 0..columns.len() {
            let others = columns.iter().enumerate().filter(|(other, _)| *other != column);
            let clash = |other: &u32| rule.clash(self.candidate(*other), self.candidate(*at));
            if missing(&columns[column]) == 0 || others.flat_map(|(_, members)| members).any(clash) {
                continue;
            }
            let empty = columns[column].is_empty();
            columns[column].push(*at);
            if self.exact_from(rule, rest, columns, steps) {
                return true;
            }
            columns[column].pop();
            if empty {
                // One empty column is as good as another.
                break;
            }
        }
        self.exact_from(rule, rest, columns, steps)
    }
}

/// A matching of two kinds of domain; each vendor is an edge. Lefts are taken in the order of their best vendor, and one that
/// was matched stays matched, so that the preferred are in the result (Kuhn's algorithm on a transversal matroid).
struct Matching<'a> {
    problem: &'a Problem<'a>,
    left: Domain,
    right: Domain,
    /// Vendors of each left, best first, by the order in which they came up.
    edges: Vec<Vec<u32>>,
    /// Which of `edges` a left is.
    place: Vec<u32>,
    /// The vendor that matches each right.
    taken: Vec<u32>,
    /// The round in which a right was last looked at.
    seen: Vec<u32>,
    round: u32,
}

impl<'a> Matching<'a> {
    fn new(problem: &'a Problem<'a>, able: &[u32], left: Domain, right: Domain) -> Self {
        let nodes = problem.names + problem.candidates.len();
        let (place, taken, seen) = (vec![NONE; nodes], vec![NONE; nodes], vec![0; nodes]);
        let mut this = Self { problem, left, right, edges: Vec::new(), place, taken, seen, round: 1 };
        for at in able {
            let node = this.node(left, *at);
            if this.place[node] == NONE {
                this.place[node] = u32::try_from(this.edges.len()).unwrap_or(NONE);
                this.edges.push(Vec::new());
            }
            this.edges[this.place[node] as usize].push(*at);
        }
        this
    }

    /// A domain that is not known is nobody else's.
    fn node(&self, domain: Domain, at: u32) -> usize {
        domain.of(self.problem.candidate(at)).map_or(self.problem.names + at as usize, Name::index)
    }

    fn find(mut self, copies: usize) -> Option<Vec<u32>> {
        let mut matched = 0;
        for left in 0..self.edges.len() {
            if self.augment(left) {
                matched += 1;
                self.round += 1;
                if matched == copies {
                    return Some(self.taken.into_iter().filter(|at| *at != NONE).collect());
                }
            }
        }
        None
    }

    fn augment(&mut self, left: usize) -> bool {
        for edge in 0..self.edges[left].len() {
            let at = self.edges[left][edge];
            let right = self.node(self.right, at);
            // What was looked at since the last success leads nowhere.
            if self.seen[right] == self.round {
                continue;
            }
            self.seen[right] = self.round;
            let before = self.taken[right];
            let free = before == NONE || {
                let other = self.place[self.node(self.left, before)] as usize;
                self.augment(other)
            };
            if free {
                self.taken[right] = at;
                return true;
            }
        }
        false
    }
}
