//! `fathom batch`: many commands from stdin, several at a time, with one process and one node.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Context;
use super::files::{absolute, check_name};
use super::output::{Answer, line};
use super::session::{Alone, Interrupts, SHUTDOWN_WITHIN, run_here, runtime, start_alone, start_logging};
use crate::control::{CommandError, Commands, ControlClient, ControlRequest, ErrorKind, REQUEST_BYTES_MAX};
use crate::home::Home;

/// A line of stdin: its number, from 1, and what it says.
type Line = (u64, Result<String, CommandError>);

/// How the commands ended.
#[derive(Default)]
struct Tally {
    commands: u64,
    failed: u64,
    first: Option<CommandError>,
}

pub(super) fn batch(context: &Context, jobs: u8) -> Result<Answer, CommandError> {
    start_logging(context, "error");
    let home = Home::open(&context.dir)?;
    let runtime = runtime()?;
    let began = Instant::now();
    let outcome = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let running = interrupts.guard(ControlClient::connect(&home)).await?.is_some();
        let node = if running { None } else { Some(start_alone(&home, Alone::AsUser, &mut interrupts).await?) };
        let commands = node.as_ref().map(|node| node.commands());
        let mut tally = Tally::default();
        let answers = futures::stream::unfold(lines(jobs), async |mut lines| Some((lines.recv().await?, lines)))
            .map(|(number, text)| answer(&home, commands.clone(), number, text))
            .buffer_unordered(usize::from(jobs.max(1)));
        let work = answers.for_each(|answered| {
            tally.note(context, answered);
            std::future::ready(())
        });
        let worked = interrupts.guard(work.map(Ok)).await;
        if let Some(node) = node
            && tokio::time::timeout(SHUTDOWN_WITHIN, node.shutdown()).await.is_err()
        {
            tracing::warn!("the node did not end in time");
        }
        worked.map(|()| tally)
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    let Tally { commands, failed, first } = outcome?;
    let seconds = began.elapsed().as_secs_f64();
    let text = format!("{commands} commands, {failed} failed, in {seconds:.1} s.");
    let answer = Answer::new(json!({ "commands": commands, "failed": failed, "seconds": seconds }), text);
    Ok(match first {
        Some(error) => answer.failed(error),
        None => answer,
    })
}

/// What one command came to.
struct Answered {
    number: u64,
    seconds: f64,
    outcome: Result<Value, CommandError>,
}

impl Tally {
    fn note(&mut self, context: &Context, answered: Answered) {
        let Answered { number, seconds, outcome } = answered;
        self.commands += 1;
        let output = &context.output;
        if output.json && output.progress {
            let (key, value) = match &outcome {
                Ok(result) => ("result", result.clone()),
                Err(error) => ("error", json!(error)),
            };
            line(&json!({ "event": "answer", "line": number, "seconds": seconds, key: value }).to_string());
        } else if !output.json {
            match &outcome {
                Ok(_) => line(&format!("line {number}: done in {:.1} ms", seconds * 1e3)),
                Err(error) => line(&format!("line {number}: {}", error.message)),
            }
        }
        if let Err(error) = outcome {
            self.failed += 1;
            self.first.get_or_insert(error);
        }
    }
}

async fn answer(
    home: &Home,
    commands: Option<Arc<dyn Commands>>,
    number: u64,
    text: Result<String, CommandError>,
) -> Answered {
    let began = Instant::now();
    let outcome = async {
        let request = parse(&text?)?;
        match commands {
            Some(commands) => run_here(commands, request, drop).await,
            None => match ControlClient::connect(home).await? {
                Some(client) => client.call_quietly(&request).await,
                None => Err(CommandError::new(ErrorKind::Interrupted, "the node has ended")),
            },
        }
    };
    let outcome = outcome.await;
    Answered { number, seconds: began.elapsed().as_secs_f64(), outcome }
}

/// A line as the request that it is, with absolute paths and checked names.
fn parse(text: &str) -> Result<ControlRequest, CommandError> {
    let mut request: ControlRequest = serde_json::from_str(text).map_err(|error| {
        CommandError::new(ErrorKind::Usage, format!("the line is not understood: {error}"))
            .hint("a line is like {\"command\": \"put\", \"path\": \"a.txt\", \"name\": \"docs/a.txt\"}")
    })?;
    match &mut request {
        ControlRequest::Put { path, name, .. } => {
            *path = absolute(path)?;
            check_name(name)?;
        }
        ControlRequest::Get { name, output, .. } => {
            *output = absolute(output)?;
            check_name(name)?;
        }
        ControlRequest::Ls { prefix } => prefix.as_deref().map_or(Ok(()), check_name)?,
        ControlRequest::Rm { names } => names.iter().try_for_each(|name| check_name(name))?,
        other => {
            let message = format!("`{}` is no command of a batch", other.name());
            return Err(CommandError::new(ErrorKind::Usage, message).hint("put, get, ls and rm are"));
        }
    }
    Ok(request)
}

/// The lines of stdin that are not empty, as they are wanted. The thread ends with stdin, or with the first line that nobody wants.
fn lines(ahead: u8) -> mpsc::Receiver<Line> {
    let (sender, receiver) = mpsc::channel(usize::from(ahead.max(1)));
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        for number in 1.. {
            let text = match next_line(&mut stdin) {
                Ok(Some(text)) if text.trim().is_empty() => continue,
                Ok(Some(text)) => Ok(text),
                Ok(None) => return,
                Err(error) => Err(CommandError::new(ErrorKind::Usage, format!("failed to read stdin: {error}"))),
            };
            let broken = text.is_err();
            if sender.blocking_send((number, text)).is_err() || broken {
                return;
            }
        }
    });
    receiver
}

fn next_line(input: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let max = REQUEST_BYTES_MAX as u64;
    let read = std::io::Read::take(&mut *input, max).read_until(b'\n', &mut bytes)?;
    if read as u64 == max && bytes.last() != Some(&b'\n') {
        return Err(std::io::Error::other(format!("a line is longer than {max} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| std::io::Error::other("a line is not UTF-8"))?;
    Ok((read > 0).then_some(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn lines_are_checked_as_the_command_line_is() {
        let put = parse(r#"{"command":"put","path":"/a.txt","name":"docs/a.txt"}"#).unwrap();
        assert!(matches!(put, ControlRequest::Put { ref name, .. } if name == "docs/a.txt"), "{put:?}");
        let get = parse(r#"{"command":"get","name":"a","output":"here"}"#).unwrap();
        assert!(matches!(get, ControlRequest::Get { ref output, .. } if output.is_absolute()), "{get:?}");
        for bad in [
            "put a",
            r#"{"command":"put","path":"/a","name":"../a"}"#,
            r#"{"command":"get","name":"/a","output":"/b"}"#,
            r#"{"command":"rm","names":["a","a//b"]}"#,
            r#"{"command":"status"}"#,
            r#"{"command":"put","path":"/a","name":"a","unknown":1}"#,
        ] {
            assert_eq!(parse(bad).unwrap_err().kind, ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let mut input = &b"one\ntwo"[..];
        assert_eq!(next_line(&mut input).unwrap().unwrap(), "one\n");
        assert_eq!(next_line(&mut input).unwrap().unwrap(), "two");
        assert_eq!(next_line(&mut input).unwrap(), None);
        let long = vec![b'x'; REQUEST_BYTES_MAX + 1];
        assert!(next_line(&mut &long[..]).is_err());
        assert!(next_line(&mut &[0xff, b'\n'][..]).is_err());
    }
}
