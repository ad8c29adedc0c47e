//! What the audience sees: headings with figure numbers, sentences, tables and progress bars.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::table;

/// Columns that a paragraph is broken at.
const WIDTH: usize = 92;
/// How often a spinner turns.
const SPIN_EVERY: Duration = Duration::from_millis(150);
/// Without a terminal, progress is told in steps of this many percent.
const STEP_PERCENT: u64 = 20;

/// Tells the story on standard output; with JSON on standard error, where it leaves the one JSON
/// object on standard output alone.
#[derive(Debug)]
pub(crate) struct Stage {
    json: bool,
}

impl Stage {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints lines as they are. An audience that has left does not end the play.
    pub(crate) fn print(&self, text: &str) {
        if self.json {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        } else {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// A step of the design: its figures, what happens, and why.
    pub(crate) fn step(&self, figures: &str, title: &str, why: &str) {
        let heading = if figures.is_empty() { title.to_owned() } else { format!("{figures} · {title}") };
        let rule = "─".repeat(WIDTH.saturating_sub(heading.chars().count() + 4).max(4));
        self.print(&format!("\n── {heading} {rule}"));
        if !why.is_empty() {
            self.say(why);
        }
    }

    /// A paragraph.
    pub(crate) fn say(&self, text: &str) {
        for line in wrap(text, WIDTH) {
            self.print(&line);
        }
    }

    /// A result: something that was looked at and holds.
    pub(crate) fn done(&self, text: &str) {
        for (index, line) in wrap(text, WIDTH - 4).iter().enumerate() {
            self.print(&format!("  {} {line}", if index == 0 { "✓" } else { " " }));
        }
    }

    /// A table, `right` being the columns with figures.
    pub(crate) fn table(&self, header: &[&str], rows: &[Vec<String>], right: &[usize]) {
        self.print(&table::render(header, rows, right));
    }

    /// Something that turns while `what` goes on, drawn on terminals only.
    pub(crate) fn spinner(&self, what: &'static str) -> ProgressBar {
        let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}  {elapsed}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(SPIN_EVERY);
        spinner
    }

    /// A progress bar for `total` bytes, drawn on terminals only.
    pub(crate) fn progress(&self, what: &'static str, total: u64) -> Progress<'_> {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = "  {msg:6} {bar:40} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▌ "));
        }
        bar.set_message(what);
        Progress { stage: self, bar, what, told: 0 }
    }
}

/// A running transfer.
pub(crate) struct Progress<'a> {
    stage: &'a Stage,
    bar: ProgressBar,
    what: &'static str,
    /// Percent that were told last where there is no terminal.
    told: u64,
}

impl Progress<'_> {
    /// `bytes` of `total` are done.
    pub(crate) fn set(&mut self, bytes: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(bytes);
        let percent = percent(bytes, total);
        if self.bar.is_hidden() && percent >= self.told + STEP_PERCENT {
            self.told = percent - percent % STEP_PERCENT;
            let (done, all) = (crate::units::bytes(bytes), crate::units::bytes(total));
            self.stage.print(&format!("  {} {percent:>3} %  {done} of {all}", self.what));
        }
    }

    /// Tells something without tearing the bar.
    pub(crate) fn aside(&self, tell: impl FnOnce(&Stage)) {
        self.bar.suspend(|| tell(self.stage));
    }

    /// Takes the bar away.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// How many hundredths of `total` are `part`; nothing of nothing is all of it.
pub(crate) fn percent(part: u64, total: u64) -> u64 {
    if total == 0 {
        return 100;
    }
    u64::try_from(u128::from(part) * 100 / u128::from(total)).unwrap_or(u64::MAX)
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > width {
            lines.push(String::new());
            length = 0;
        }
        if let Some(line) = lines.last_mut() {
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.push_str(word);
            length += letters;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn percents() {
        assert_eq!((percent(1, 3), percent(0, 0), percent(3, 3)), (33, 100, 100));
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
    }
}
