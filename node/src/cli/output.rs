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
    json: Option<Value>,
    text: String,
    failed: Option<CommandError>,
}

impl Answer {
    /// An answer of this process's own making.
    pub(super) fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json: Some(json), text: text.into(), failed: None }
    }

    /// Nothing, because everything was printed.
    pub(super) fn nothing() -> Self {
        Self { json: None, text: String::new(), failed: None }
    }

    /// The same answer, of a command that came to its end and found something wrong. As JSON the answer tells it itself.
    pub(super) fn failed(mut self, error: CommandError) -> Self {
        self.failed = Some(error);
        self
    }

    /// A node's result, for people as `render` writes it. A result that is not understood, as that of a node of
    /// another version may be, is shown as it is.
    pub(super) fn of<T: DeserializeOwned + Serialize>(result: Value, render: impl FnOnce(T) -> String) -> Self {
        let text = match T::deserialize(&result) {
            Ok(typed) => render(typed),
            Err(_) => format!("{result:#}"),
        };
        Self { json: Some(result), text, failed: None }
    }
}

impl Output {
    /// Prints how the command ended and returns its exit code.
    pub(super) fn finish(self, outcome: Result<Answer, CommandError>) -> u8 {
        match outcome {
            Ok(answer) => {
                match answer.json {
                    Some(json) if self.json => line(&json.to_string()),
                    _ if answer.text.is_empty() => {}
                    _ => line(answer.text.trim_end()),
                }
                let Some(error) = answer.failed else { return 0 };
                if !self.json {
                    self.fail(&error);
                }
                error.kind.exit_code()
            }
            Err(error) => {
                self.fail(&error);
                error.kind.exit_code()
            }
        }
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
