//! The report for people: a table on the terminal, and Markdown with plots in files.

use std::fmt::Write as _;
use std::path::Path;

use super::BenchError;
use super::compare::Former;
use super::plot::{Bar, bars};
use super::report::{Figures, Report, round, words};
use super::stats::Summary;
use super::work::Work;
use crate::files::create_dir;
use crate::table;

/// The report's file in its directory.
pub(super) const FILE: &str = "report.md";
/// The same as JSON.
const JSON_FILE: &str = "report.json";
/// The columns of the table; other units are told in lines of their own.
const COLUMNS: [&str; 6] = ["mb_per_s", "ops_per_s", "p50_ms", "p99_ms", "cpu_s_per_gb", "rss_peak_mib"];
/// The plots: file, unit, title.
const PLOTS: [(&str, &str, &str); 6] = [
    ("throughput.svg", "mb_per_s", "MB/s, more is better"),
    ("cpu.svg", "cpu_s_per_gb", "CPU seconds per GB over all processes, less is better"),
    ("operations.svg", "ops_per_s", "files per second, more is better"),
    ("latency-p50.svg", "p50_ms", "ms for a file, the middle one, less is better"),
    ("latency-p99.svg", "p99_ms", "ms for a file, 99 of 100 are faster, less is better"),
    ("memory.svg", "rss_peak_mib", "MiB resident at most, of the largest process, less is better"),
];

/// The table for a terminal.
pub(super) fn text(report: &Report) -> String {
    let (header, rows) = grid(report);
    let right: Vec<usize> = (1..header.len()).collect();
    let mut text = table::render(&header, &rows, &right);
    for line in lines(report) {
        let _ = write!(text, "\n   {line}");
    }
    text
}

/// Writes the report, its plots and its JSON to `dir`.
pub(super) fn write(report: &Report, former: Option<&Former>, dir: &Path) -> Result<(), BenchError> {
    create_dir(dir)?;
    let mut plots = Vec::new();
    for (file, unit, title) in PLOTS {
        let shown: Vec<Bar<'_>> =
            ordered(&report.works).filter_map(|(name, units)| Some(Bar { name, summary: *units.get(unit)? })).collect();
        if let Some(svg) = bars(title, &shown) {
            save(&dir.join(file), &svg)?;
            plots.push((file, title));
        }
    }
    save(&dir.join(FILE), &markdown(report, former, &plots))?;
    report.write_json(Some(&dir.join(JSON_FILE)))
}

fn save(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(|source| BenchError::file("write", path, source))
}

fn markdown(report: &Report, former: Option<&Former>, plots: &[(&str, &str)]) -> String {
    let run = &report.run;
    let commit = run.commit.as_deref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
    let mut text = format!(
        "# Fathom {}{commit}\n\n{} cores, {}, {} MiB of memory, Linux {}. Load {:.1} before and {:.1} after.\n\n{}.\n\n\
         Each figure is the median, with the least and the greatest. MB is 10^6 bytes, GB 10^9.\n\n",
        run.version,
        run.machine.cores,
        run.machine.cpu,
        run.machine.memory_mib,
        run.machine.kernel,
        run.load_before,
        run.load_after,
        run.parameters.line(),
    );
    let (header, rows) = grid(report);
    let _ = writeln!(text, "| {} |\n|---|{}", header.join(" | "), "--:|".repeat(header.len() - 1));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push('\n');
    for line in lines(report) {
        let _ = writeln!(text, "- {line}");
    }
    if let Some(former) = former {
        let _ = write!(text, "\n## Compared with {}\n\n", former.named());
        if let Some(caveat) = former.caveat(report) {
            let _ = write!(text, "{caveat}\n\n");
        }
        text.push_str("| work | unit | then | now | now/then | beyond the spread |\n|---|---|--:|--:|--:|---|\n");
        for change in former.changes(report) {
            let ratio = change.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let (work, unit, clear) = (&change.work, words(&change.unit), if change.clear { "yes" } else { "no" });
            let _ = writeln!(
                text,
                "| {work} | {unit} | {} | {} | {ratio} | {clear} |",
                round(change.then),
                round(change.now)
            );
        }
    }
    for (file, title) in plots {
        let _ = write!(text, "\n![{title}]({file})\n");
    }
    text
}

/// The works in the order in which they are measured; then whatever else there is.
fn ordered(works: &Figures) -> impl Iterator<Item = (&str, &std::collections::BTreeMap<String, Summary>)> {
    // Another system's figures follow those of Fathom's same work.
    let place = |name: &str| {
        let other = name.strip_prefix("garage_");
        (Work::ALL.iter().position(|work| work.name() == other.unwrap_or(name)), other.is_some())
    };
    let mut ordered: Vec<_> = works.iter().map(|(name, units)| (name.as_str(), units)).collect();
    ordered.sort_by_key(|(name, _)| place(name));
    ordered.into_iter()
}

/// The table's header and rows: works that have a figure of one of the columns.
fn grid(report: &Report) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let has = |unit: &str| report.works.values().any(|units| units.contains_key(unit));
    let columns: Vec<&'static str> = COLUMNS.into_iter().filter(|unit| has(unit)).collect();
    let rows = ordered(&report.works).filter(|(_, units)| columns.iter().any(|unit| units.contains_key(*unit)));
    let rows = rows.map(|(name, units)| {
        let cells = columns.iter().map(|unit| units.get(*unit).map(cell).unwrap_or_default());
        std::iter::once(name.to_owned()).chain(cells).collect()
    });
    let rows = rows.collect();
    let header = std::iter::once("work").chain(columns.into_iter().map(words)).collect();
    (header, rows)
}

fn cell(summary: &Summary) -> String {
    let Summary { median, min, max, n } = *summary;
    if n == 1 { round(median) } else { format!("{} ({}-{})", round(median), round(min), round(max)) }
}

/// What is not in the table: other units, ratios, and what cannot be measured.
fn lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, units) in ordered(&report.works) {
        let others = units.iter().filter(|(unit, _)| !COLUMNS.contains(&unit.as_str()));
        let others: Vec<String> = others.map(|(unit, value)| format!("{} {}", cell(value), words(unit))).collect();
        if !others.is_empty() {
            lines.push(format!("{name}: {}", others.join(", ")));
        }
    }
    for (pair, units) in &report.ratios {
        // Speed before cost.
        let figures = units.iter().rev().map(|(unit, value)| format!("{} of the {}", cell(value), words(unit)));
        let figures: Vec<String> = figures.collect();
        lines.push(format!("{pair}: {}", figures.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::super::report::tests::sample;
    use super::*;

    #[test]
    fn the_report_names_its_plots_and_every_figure() {
        let dir = tempfile::tempdir().unwrap();
        let (out, history) = (dir.path().join("out"), dir.path().join("h"));
        sample([40.0, 40.0]).append_to(&history).unwrap();
        let former = Former::load(&history, &history).unwrap();
        write(&sample([50.0, 60.0]), Some(&former), &out).unwrap();
        let text = std::fs::read_to_string(out.join(FILE)).unwrap();
        for part in ["| put_large | 55.0 (50.0-60.0) |", "latency-p50.svg", "| 1.38 | yes |"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        // No figure, no plot.
        assert!(!text.contains("memory.svg") && !out.join("memory.svg").exists());
        assert!(out.join("throughput.svg").exists() && out.join(JSON_FILE).exists());
    }

    #[test]
    fn a_terminal_gets_a_table_in_the_order_of_the_works() {
        let text = text(&sample([50.0, 60.0]));
        let at = |word: &str| text.find(word).unwrap();
        assert!(at("floor_chain") < at("put_large") && at("put_large") < at("latency_put"), "{text}");
        assert!(text.contains("put_large/floor_chain: "), "{text}");
    }
}
