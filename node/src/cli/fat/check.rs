//! `fathom fat check`: a node's databases verified while it does not run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::args::{What, parts};
use crate::cli::Context;
use crate::cli::output::Answer;
use crate::control::{CommandError, ErrorKind};
use crate::home::Home;
use crate::identity::NodeKey;
use crate::offline::{Part, Seen};

/// Problems of one database that are kept; all are counted.
const PROBLEMS_MAX: usize = 1_000;
/// Problems of one database that a person is shown.
const SHOWN_MAX: usize = 20;

/// What was found in one database.
struct Report {
    part: Part,
    path: String,
    records: BTreeMap<String, u64>,
    problems: Vec<(String, String)>,
    problem_count: u64,
}

pub(super) fn check(context: &Context, what: &[What]) -> Result<Answer, CommandError> {
    let home = Home::open(&context.dir)?;
    // Nobody writes while it is read.
    let _lock = home.lock()?;
    let me = NodeKey::load(&home).ok().map(|key| key.node_id());
    let mut reports = Vec::new();
    for part in parts(what) {
        let path = part.path(&home);
        if !path.exists() {
            continue;
        }
        let mut report = Report {
            part,
            path: path.display().to_string(),
            records: BTreeMap::new(),
            problems: Vec::new(),
            problem_count: 0,
        };
        part.inspect(&home, me, &mut |seen| report.take(seen))?;
        reports.push(report);
    }
    Ok(answer(&reports))
}

impl Report {
    fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Record(record) => {
                let kind = record["type"].as_str().unwrap_or("record");
                match self.records.get_mut(kind) {
                    Some(count) => *count += 1,
                    None => drop(self.records.insert(kind.to_owned(), 1)),
                }
            }
            Seen::Wrong { what, problem } => {
                self.problem_count += 1;
                if self.problems.len() < PROBLEMS_MAX {
                    self.problems.push((what, problem));
                }
            }
        }
    }

    fn json(&self) -> Value {
        let problems = self.problems.iter().map(|(what, problem)| json!({ "what": what, "problem": problem }));
        json!({
            "part": self.part.name(),
            "path": self.path,
            "records": self.records,
            "problems": problems.collect::<Vec<_>>(),
            "problem_count": self.problem_count,
            "advice": (self.problem_count > 0).then(|| self.part.advice()),
        })
    }

    fn text(&self) -> String {
        let counts: Vec<String> =
            self.records.iter().map(|(kind, count)| format!("{count} {}", kind.replace('_', " "))).collect();
        let counts = if counts.is_empty() { "no records".to_owned() } else { counts.join(", ") };
        let mut text = format!("{:<7} {}\n        {counts}\n", self.part.name(), self.path);
        // Writing to a String cannot fail.
        if self.problem_count == 0 {
            text.push_str("        sound: every check and signature holds\n");
            return text;
        }
        for (what, problem) in self.problems.iter().take(SHOWN_MAX) {
            let _ = writeln!(text, "        wrong: {what}: {problem}");
        }
        let more = self.problem_count.saturating_sub(self.problems.len().min(SHOWN_MAX) as u64);
        if more > 0 {
            let _ = writeln!(text, "        and {more} more (--json lists up to {PROBLEMS_MAX})");
        }
        let _ = writeln!(text, "        what to do: {}", self.part.advice());
        text
    }
}

fn answer(reports: &[Report]) -> Answer {
    let problems: u64 = reports.iter().map(|report| report.problem_count).sum();
    let mut json = json!({
        "sound": problems == 0,
        "databases": reports.iter().map(Report::json).collect::<Vec<_>>(),
    });
    let mut text: String = reports.iter().map(Report::text).collect();
    if reports.is_empty() {
        text.push_str("There is no database here yet.");
    }
    if problems == 0 {
        return Answer::new(json, text);
    }
    let damaged: Vec<&str> =
        reports.iter().filter(|report| report.problem_count > 0).map(|report| report.part.name()).collect();
    let message = format!("{problems} things are wrong in the database of the {}", damaged.join(" and the "));
    let error =
        CommandError::new(ErrorKind::Integrity, message).hint("see `what to do` above, or `advice` with --json");
    json["error"] = serde_json::to_value(&error).unwrap_or_default();
    Answer::new(json, text).failed(error)
}
