//! What a person, or a program, sees while a command runs.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::path::candidates;
use crate::control::results::PathVendor;
use crate::control::{ControlEvent, ProvisionalLocation};

/// Redraws of the bar per second.
const REDRAWS_PER_SECOND: u8 = 10;
/// How often the spinner turns while nothing is known.
const SPIN_EVERY: Duration = Duration::from_millis(120);

const BAR: &str = "{msg:>10} [{bar:30}] {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
const SPINNER: &str = "{msg:>10} {spinner} {binary_bytes}";

/// In which form events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventForm {
    /// A bar on a terminal, sentences on stderr; the provisional FAT and the path as well if `explain`.
    Human {
        /// Show why, too.
        explain: bool,
    },
    /// JSON lines on stdout.
    JsonLines,
    /// Not at all.
    Silent,
}

/// Shows the events of one command. Dropping it takes the bar away.
pub struct Reporter {
    form: EventForm,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// A reporter for the command that `verb` describes, for example "storing". A bar is drawn only if stderr is a
    /// terminal.
    #[must_use]
    pub fn new(form: EventForm, verb: &'static str) -> Self {
        let wants_bar = matches!(form, EventForm::Human { .. }) && std::io::stderr().is_terminal();
        let bar = wants_bar.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND));
            bar.set_style(style(SPINNER, ProgressStyle::default_spinner()));
            bar.set_message(verb);
            bar.enable_steady_tick(SPIN_EVERY);
            bar
        });
        Self { form, bar }
    }

    /// Shows one event.
    pub fn event(&self, event: &ControlEvent) {
        match self.form {
            EventForm::Silent => {}
            EventForm::JsonLines => {
                let line = serde_json::to_string(event).unwrap_or_default();
                // A reader that went away is no failure of the command.
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            }
            EventForm::Human { explain } => self.human(event, explain),
        }
    }

    fn human(&self, event: &ControlEvent, explain: bool) {
        match event {
            ControlEvent::Progress { bytes, total, .. } => self.progress(*bytes, *total),
            ControlEvent::Provisional { locations } if explain => self.say(&provisional(locations)),
            ControlEvent::Path { order } if explain => self.say(&path(order)),
            ControlEvent::Replaced { chunk, vendor, reason } => {
                let (chunk, vendor) = (short_id(chunk), short_id(vendor));
                self.say(&format!("vendor {vendor} failed for chunk {chunk} ({reason}); its copy goes elsewhere"));
            }
            ControlEvent::Note { text } => self.say(text),
            ControlEvent::Provisional { .. } | ControlEvent::Path { .. } | ControlEvent::Receipt { .. } => {}
        }
    }

    fn progress(&self, bytes: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if total > 0 && bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(style(BAR, ProgressStyle::default_bar()).progress_chars("=> "));
        }
        bar.set_position(bytes);
    }

    /// A sentence on stderr, above the bar if there is one.
    fn say(&self, text: &str) {
        let print = || {
            // With stderr closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The template's style; a template that does not parse is caught by a test, and drawn as `otherwise`.
fn style(template: &str, otherwise: ProgressStyle) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or(otherwise)
}

/// The first eight digits of an identifier.
#[must_use]
pub fn short_id(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Bytes as people read them, in binary units.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A time as people say it, in its two largest units: `42 s`, `5 min`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn human_seconds(seconds: u64) -> String {
    let two = |large: u64, name: &str, small: u64, of: &str| match small {
        0 => format!("{large} {name}"),
        _ => format!("{large} {name} {small} {of}"),
    };
    match seconds {
        0..120 => format!("{seconds} s"),
        120..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

fn provisional(locations: &[ProvisionalLocation]) -> String {
    let mut text = String::from("storage locked for you:");
    for location in locations {
        text.push_str(&format!(
            "\n  {:>12} at vendor {} in zone {}",
            human_bytes(location.bytes),
            short_id(&location.vendor),
            or_dash(&location.zone)
        ));
    }
    text
}

fn path(order: &[PathVendor]) -> String {
    format!("path, best vendor first; a number is the place in the chain:\n{}", candidates(order))
}

/// A text that may be empty, as it is shown.
#[must_use]
pub fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_templates_parse() {
        ProgressStyle::with_template(BAR).unwrap();
        ProgressStyle::with_template(SPINNER).unwrap();
    }

    #[test]
    fn explanations_name_what_counts() {
        let location = ProvisionalLocation {
            vendor: "0123456789abcdef".to_owned(),
            zone: String::new(),
            lease: "ff".to_owned(),
            bytes: 3 << 29,
        };
        let text = provisional(&[location]);
        assert!(text.contains("1.50 GiB at vendor 01234567 in zone -"), "{text}");
        let entry = PathVendor {
            vendor: "ab".to_owned(),
            zone: "attic".to_owned(),
            rtt_ms: Some(1.25),
            seconds: 0.5,
            place: Some(2),
            ..PathVendor::default()
        };
        let text = path(&[entry]);
        assert!(["2", "attic", "1.2 ± 0.0 ms", "0.50 s"].iter().all(|part| text.contains(part)), "{text}");
    }
}
