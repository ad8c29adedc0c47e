//! `fathom fat --watch`: the table as it changes.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use serde::Deserialize;
use serde_json::{Value, json};

use super::select::Selection;
use super::{table, terminal_width};
use crate::cli::output::line;
use crate::cli::render::instant;
use crate::control::CommandError;
use crate::control::results::{FatResult, FatVendor};

/// What of a vendor counts as a change. Ages, round trips and heads that say the same come and go.
const WATCHED: [&str; 10] =
    ["zone", "operator", "capacity", "locked", "used", "free", "leases", "epoch", "health", "health_note"];

/// Shows each FAT that comes.
pub(super) struct Watch {
    selection: Selection,
    json: bool,
    terminal: bool,
    leases: bool,
    seen: Option<BTreeMap<String, Value>>,
}

impl Watch {
    pub(super) fn new(selection: Selection, json: bool, leases: bool) -> Self {
        Self { selection, json, terminal: !json && std::io::stdout().is_terminal(), leases, seen: None }
    }

    /// Shows `outcome`. Only a first one that failed ends it: later the mirror or the node may come back.
    pub(super) fn show(&mut self, outcome: Result<Value, CommandError>) -> Result<(), CommandError> {
        let mut fat = match outcome {
            Ok(fat) => fat,
            Err(error) if self.seen.is_none() => return Err(error),
            Err(error) => {
                // With stderr closed there is nobody to tell.
                let _ = writeln!(std::io::stderr(), "not read: {error}");
                return Ok(());
            }
        };
        self.selection.apply(&mut fat);
        if self.terminal {
            self.seen.get_or_insert_default();
            let typed = FatResult::deserialize(&fat).unwrap_or_default();
            let text = table::render(&typed, terminal_width(), self.leases);
            // Home, and clear what was there.
            line(&format!("\u{1b}[H\u{1b}[J{text}\n\nCtrl-C ends this."));
            return Ok(());
        }
        for change in self.changes(&fat) {
            self.print(&change);
        }
        Ok(())
    }

    /// Vendors that are new, changed or gone since the last time, as events.
    fn changes(&mut self, fat: &Value) -> Vec<Value> {
        let now: BTreeMap<String, Value> = fat["vendors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|vendor| Some((vendor["vendor"].as_str()?.to_owned(), vendor.clone())))
            .collect();
        let before = self.seen.replace(now.clone()).unwrap_or_default();
        let mut changes = Vec::new();
        for (id, vendor) in &now {
            match before.get(id) {
                None => changes.push(change_of("new", vendor)),
                Some(old) if WATCHED.iter().any(|key| old[key] != vendor[key]) => {
                    changes.push(change_of("changed", vendor));
                }
                Some(_) => {}
            }
        }
        let gone = before.iter().filter(|(id, _)| !now.contains_key(*id));
        changes.extend(gone.map(|(_, vendor)| change_of("gone", vendor)));
        changes
    }

    fn print(&self, change: &Value) {
        if self.json {
            return line(&change.to_string());
        }
        let vendor = FatVendor::deserialize(&change["vendor"]).unwrap_or_default();
        let time = instant(crate::clock::now().0);
        let row = table::rows(std::slice::from_ref(&vendor));
        let mut lines = row.lines();
        let (header, row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        line(&format!("{time} {}\n  {header}\n  {row}", change["change"].as_str().unwrap_or_default()));
    }
}

fn change_of(change: &str, vendor: &Value) -> Value {
    json!({ "event": "fat", "change": change, "vendor": vendor })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn only_what_changed_is_told() {
        let mut watch =
            Watch { selection: Selection::default(), json: true, terminal: false, leases: false, seen: None };
        let fat = |vendors: &[(&str, u64, u64)]| {
            let vendors =
                vendors.iter().map(|(id, free, age)| json!({ "vendor": id, "free": free, "age_seconds": age }));
            json!({ "vendors": vendors.collect::<Vec<_>>() })
        };
        let mut told = |vendors: &[(&str, u64, u64)]| {
            let changes = watch.changes(&fat(vendors));
            let word = |change: &Value| format!("{} {}", change["change"], change["vendor"]["vendor"]).replace('"', "");
            changes.iter().map(word).collect::<Vec<_>>()
        };
        assert_eq!(told(&[("a", 1, 1), ("b", 1, 1)]), ["new a", "new b"]);
        assert_eq!(told(&[("a", 1, 2), ("b", 1, 2)]), [""; 0]);
        assert_eq!(told(&[("a", 2, 3), ("b", 1, 3)]), ["changed a"]);
        assert_eq!(told(&[("a", 2, 4), ("c", 1, 0)]), ["new c", "gone b"]);
    }
}
