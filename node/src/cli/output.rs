//! What goes to stdout and stderr, in both forms.

use std::io::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::CommandError;

/// How this invocation prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Output {
    /// One JSON object on stdout.
    pub(super) json: bool,
    /// Events as JSON lines before it.
    pub(super) progress: bool,
    /// Show the provisional FAT and the path.
    pub(super) explain: bool,
}

/// What a command prints in the end, in both forms. The text may be empty.
#[derive(Debug)]
pub(super) struct Answer {
    json: Value,
    text: String,
}

impl Answer {
    /// An answer of this process's own making.
    pub(super) fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json, text: text.into() }
    }

    /// A node's result, for people as `render` writes it. A result that is not understood, as that of a node of
    /// another version may be, is shown as it is.
    pub(super) fn of<T: DeserializeOwned + Serialize>(result: Value, render: impl FnOnce(T) -> String) -> Self {
        let text = match T::deserialize(&result) {
            Ok(typed) => render(typed),
            Err(_) => format!("{result:#}"),
        };
        Self { json: result, text }
    }
}

impl Output {
    /// Prints how the command ended and returns its exit code.
    pub(super) fn finish(self, outcome: Result<Answer, CommandError>) -> u8 {
        match outcome {
            Ok(answer) if self.json => line(&answer.json.to_string()),
            Ok(answer) if answer.text.is_empty() => {}
            Ok(answer) => line(answer.text.trim_end()),
            Err(error) => {
                self.fail(&error);
                return error.kind.exit_code();
            }
        }
        0
    }

    fn fail(self, error: &CommandError) {
        if self.json {
            line(&serde_json::json!({ "error": error }).to_string());
            return;
        }
        let hint = error.hint.as_ref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        // With stderr closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "error: {}{hint}", error.message);
    }
}

/// Prints to stdout. A reader that went away (`| head`) is no failure of the command.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
