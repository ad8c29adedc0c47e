//! A former benchmark beside a new one.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::BenchError;
use super::report::{Figures, Parameters, Report, round, words};
use crate::table;

/// A former report.
pub(super) struct Former {
    report: Report,
    from: PathBuf,
}

/// One figure, then and now.
pub(super) struct Change {
    pub(super) work: String,
    pub(super) unit: String,
    pub(super) then: f64,
    pub(super) now: f64,
    /// Whether the values of both do not overlap.
    pub(super) clear: bool,
}

impl Former {
    /// The report in the file `path`, or its last one if it is a history. `last` is the last one of `history`.
    pub(super) fn load(path: &Path, history: &Path) -> Result<Self, BenchError> {
        let last = path == Path::new("last");
        let from = if last { history } else { path };
        let text = std::fs::read_to_string(from).map_err(|source| match source.kind() {
            ErrorKind::NotFound if last => {
                let from = from.display();
                BenchError::Usage(format!("there is no former run: the history {from} does not exist yet"))
            }
            _ => BenchError::file("read", from, source),
        })?;
        let whole = serde_json::from_str(&text);
        let report = whole.or_else(|error| match text.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => serde_json::from_str(line),
            None => Err(error),
        });
        let report = report.map_err(|error| BenchError::file("understand", from, error.into()))?;
        Ok(Self { report, from: from.to_owned() })
    }

    /// How the former report was made, for a sentence.
    pub(super) fn named(&self) -> String {
        let commit = self.report.run.commit.as_deref().unwrap_or("an unknown commit");
        format!("fathom {} ({commit}), from {}", self.report.run.version, self.from.display())
    }

    /// Every figure that both have.
    pub(super) fn changes(&self, now: &Report) -> Vec<Change> {
        let mut changes = changes(&self.report.works, &now.works);
        changes.extend(self::changes(&self.report.ratios, &now.ratios));
        changes
    }

    /// What a reader should know before believing the comparison.
    pub(super) fn caveat(&self, now: &Report) -> Option<&'static str> {
        let (then, now) = (&self.report.run, &now.run);
        let like = Parameters::is_like(&then.parameters, &now.parameters);
        match (like, then.machine == now.machine) {
            (true, true) => None,
            (false, _) => Some("The former run measured other amounts: compare with care."),
            (true, false) => {
                Some("The former run was on another machine, or another kernel: only ratios to the floors compare.")
            }
        }
    }

    /// The comparison for people.
    pub(super) fn against(&self, now: &Report) -> String {
        let row = |change: Change| {
            let ratio = change.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let clear = if change.clear { "" } else { "within the spread" };
            let unit = words(&change.unit).to_owned();
            vec![change.work, unit, round(change.then), round(change.now), ratio, clear.to_owned()]
        };
        let rows: Vec<Vec<String>> = self.changes(now).into_iter().map(row).collect();
        let mut text = format!("Compared with {}\n", self.named());
        if let Some(caveat) = self.caveat(now) {
            text.push_str(&format!("{caveat}\n"));
        }
        text + &table::render(&["work", "unit", "then", "now", "now/then", ""], &rows, &[2, 3, 4])
    }
}

impl Change {
    /// Now divided by then.
    pub(super) fn ratio(&self) -> Option<f64> {
        (self.then != 0.0).then(|| self.now / self.then)
    }
}

fn changes(then: &Figures, now: &Figures) -> Vec<Change> {
    let mut changes = Vec::new();
    for (work, units) in now {
        for (unit, summary) in units {
            let Some(former) = then.get(work).and_then(|units| units.get(unit)) else { continue };
            let (work, unit) = (work.clone(), unit.clone());
            let clear = summary.is_apart_from(former);
            changes.push(Change { work, unit, then: former.median, now: summary.median, clear });
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::super::report::tests::sample;
    use super::*;

    #[test]
    fn a_report_and_a_history_are_both_compared_with() {
        let dir = tempfile::tempdir().unwrap();
        let (history, report) = (dir.path().join("h.jsonl"), dir.path().join("r.json"));
        let last = Path::new("last");
        assert!(Former::load(last, &history).err().unwrap().to_string().contains("no former run"));
        sample([1.0, 2.0]).append_to(&history).unwrap();
        sample([50.0, 60.0]).append_to(&history).unwrap();
        sample([50.0, 60.0]).write_json(Some(&report)).unwrap();
        for former in [Former::load(last, &history), Former::load(&report, &history), Former::load(&history, &report)] {
            let former = former.unwrap();
            let now = sample([110.0, 110.0]);
            let changes = former.changes(&now);
            let change = changes.iter().find(|change| change.work == "put_large" && change.unit == "mb_per_s").unwrap();
            assert_eq!((change.then, change.ratio(), change.clear), (55.0, Some(2.0), true));
            assert!(former.caveat(&now).is_none());
            assert!(former.against(&now).contains("within the spread"));
        }
        std::fs::write(&report, "{}").unwrap();
        assert!(Former::load(&report, &history).is_err());
    }

    #[test]
    fn other_amounts_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        sample([1.0, 2.0]).append_to(&path).unwrap();
        let former = Former::load(&path, &path).unwrap();
        let mut now = sample([1.0, 2.0]);
        now.run.parameters.runs = 9;
        assert!(former.caveat(&now).is_none());
        now.run.parameters.size = 1;
        assert!(former.caveat(&now).unwrap().contains("other amounts"));
    }
}
