//! Running one command of the node to its end, with a deadline.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::{Cancel, Stopwatch, TestnetError};

/// Lines of a command's output that may wait to be looked at.
const LINES_WAITING: usize = 64;
/// Bytes of a command's standard error that are kept; the rest is read and dropped.
const STDERR_KEPT: usize = 1 << 20;
/// How often a waiting command is checked for the caller's wish to stop.
const SLICE: Duration = Duration::from_millis(100);
/// How long the output of an ended command may still come in.
const DRAIN: Duration = Duration::from_secs(1);

/// What a command of the node answered.
#[derive(Clone, Debug)]
pub struct CliOutput {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; 128 + the signal's number when a signal ended it.
    pub code: i32,
    /// The last JSON value on standard output that is not an event; `Null` when there is none.
    pub json: Value,
    /// Standard output, events included.
    pub stdout: String,
    /// Standard error, up to 1 MiB.
    pub stderr: String,
}

impl CliOutput {
    /// Itself, when the command succeeded.
    ///
    /// # Errors
    /// [`TestnetError::Command`] with the message of the command otherwise.
    pub fn ok(self) -> Result<Self, TestnetError> {
        if self.code == 0 {
            return Ok(self);
        }
        let message = match self.json.pointer("/error/message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => self.stderr.trim().to_owned(),
        };
        Err(TestnetError::Command { command: self.command, code: self.code, message })
    }

    /// The value at `pointer` (`/vendor/used`) of the answer.
    ///
    /// # Errors
    /// [`TestnetError::Answer`] when the answer has none.
    pub fn at(&self, pointer: &str) -> Result<&Value, TestnetError> {
        self.json.pointer(pointer).ok_or_else(|| self.lacks(pointer))
    }

    /// The whole number at `pointer`.
    ///
    /// # Errors
    /// [`TestnetError::Answer`] when the answer has none.
    pub fn u64_at(&self, pointer: &str) -> Result<u64, TestnetError> {
        self.at(pointer)?.as_u64().ok_or_else(|| self.lacks(pointer))
    }

    /// The text at `pointer`.
    ///
    /// # Errors
    /// [`TestnetError::Answer`] when the answer has none.
    pub fn str_at(&self, pointer: &str) -> Result<&str, TestnetError> {
        self.at(pointer)?.as_str().ok_or_else(|| self.lacks(pointer))
    }

    /// The list at `pointer`.
    ///
    /// # Errors
    /// [`TestnetError::Answer`] when the answer has none.
    pub fn list_at(&self, pointer: &str) -> Result<&[Value], TestnetError> {
        self.at(pointer)?.as_array().map(Vec::as_slice).ok_or_else(|| self.lacks(pointer))
    }

    fn lacks(&self, pointer: &str) -> TestnetError {
        TestnetError::Answer { command: self.command.clone(), missing: pointer.to_owned() }
    }
}

/// Runs `binary --dir DIR --json ARGS...` to its end, `stdin` given to it.
///
/// # Errors
/// [`TestnetError::Spawn`] when it cannot be started, [`TestnetError::CommandTimeout`] when it has
/// not ended after `limit` (it is killed). An exit code other than 0 is no error here: see
/// [`CliOutput::ok`].
pub fn run_cli(
    binary: &Path,
    dir: &Path,
    args: &[&str],
    stdin: &[u8],
    limit: Duration,
) -> Result<CliOutput, TestnetError> {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    Call { binary, dir, args: &args, stdin, limit, cancel: &Cancel::default() }.run(&mut |_| {})
}

/// One command of one node.
pub(crate) struct Call<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) dir: &'a Path,
    pub(crate) args: &'a [OsString],
    pub(crate) stdin: &'a [u8],
    pub(crate) limit: Duration,
    pub(crate) cancel: &'a Cancel,
}

impl Call<'_> {
    /// Runs the command; `on_event` sees each event line (an object with `event`) as it comes.
    pub(crate) fn run(&self, on_event: &mut dyn FnMut(&Value)) -> Result<CliOutput, TestnetError> {
        let watch = Stopwatch::start();
        let mut child = self.spawn()?;
        let stderr = Collected::from(child.stderr.take());
        let lines = line_reader(child.stdout.take());
        let writer = stdin_writer(child.stdin.take(), self.stdin.to_vec());
        let mut stdout = String::new();
        let followed = self.follow(&mut child, watch, &lines, &mut stdout, on_event);
        let status = match followed {
            Ok(status) => status,
            Err(error) => {
                // It may have ended by itself in the meantime: then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        drop(writer);
        Ok(CliOutput {
            command: self.command_line(),
            code: exit_code(status),
            json: last_answer(&stdout),
            stdout,
            stderr: stderr.finish(),
        })
    }

    fn spawn(&self) -> Result<Child, TestnetError> {
        Command::new(self.binary)
            .arg("--dir")
            .arg(self.dir)
            .arg("--json")
            .args(self.args)
            .env_remove("FATHOM_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| TestnetError::Spawn { binary: self.binary.to_owned(), source })
    }

    fn follow(
        &self,
        child: &mut Child,
        watch: Stopwatch,
        lines: &Receiver<String>,
        stdout: &mut String,
        on_event: &mut dyn FnMut(&Value),
    ) -> Result<ExitStatus, TestnetError> {
        loop {
            match lines.recv_timeout(self.slice(watch)?) {
                Ok(line) => {
                    if let Some(event) = parse_event(&line) {
                        on_event(&event);
                    }
                    stdout.push_str(&line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        loop {
            let failed = |source| TestnetError::Spawn { binary: self.binary.to_owned(), source };
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Ok(status);
            }
            thread::sleep(self.slice(watch)?.min(Duration::from_millis(2)));
        }
    }

    /// How long to wait before the deadline and the cancel flag are looked at again.
    fn slice(&self, watch: Stopwatch) -> Result<Duration, TestnetError> {
        self.cancel.check()?;
        match watch.remaining(self.limit) {
            Some(left) => Ok(left.min(SLICE)),
            None => Err(TestnetError::CommandTimeout { command: self.command_line(), seconds: self.limit.as_secs() }),
        }
    }

    fn command_line(&self) -> String {
        let words = self.args.iter().map(|arg| arg.to_string_lossy());
        let args: Vec<_> = words.collect();
        format!("fathom --dir {} {}", self.dir.display(), args.join(" "))
    }
}

/// Builds the argument list of a [`Call`].
pub(crate) fn os_args<A: AsRef<OsStr>>(args: &[A]) -> Vec<OsString> {
    args.iter().map(|arg| arg.as_ref().to_owned()).collect()
}

/// What a thread has read from a pipe so far.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Collected {
    fn from(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = pipe.map(|mut pipe| {
            thread::spawn(move || {
                let mut buffer = [0; 8192];
                while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                    let mut kept = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = STDERR_KEPT.saturating_sub(kept.len()).min(n);
                    kept.extend_from_slice(&buffer[..room]);
                }
            })
        });
        Self { bytes, reader }
    }

    /// The text once the pipe is closed; a descendant that keeps it open is not waited for.
    fn finish(self) -> String {
        let watch = Stopwatch::start();
        if let Some(reader) = self.reader {
            while !reader.is_finished() && watch.remaining(DRAIN).is_some() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Lines of `pipe`, each with its line end. The reader thread ends with the pipe, or when nobody
/// listens any more.
pub(crate) fn line_reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, lines) = sync_channel(LINES_WAITING);
    if let Some(pipe) = pipe {
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while let Ok(1..) = pipe.read_until(b'\n', &mut line) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    lines
}

/// Writes from a thread: a command that never reads its input must not block the caller. A command
/// that ends without reading it closes the pipe, which is its right.
fn stdin_writer(pipe: Option<impl Write + Send + 'static>, bytes: Vec<u8>) -> Option<thread::JoinHandle<()>> {
    pipe.map(|mut pipe| {
        thread::spawn(move || {
            let _ = pipe.write_all(&bytes);
        })
    })
}

fn parse_event(line: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    value.get("event").is_some().then_some(value)
}

/// The last JSON value that is not an event. Values may span lines.
fn last_answer(stdout: &str) -> Value {
    serde_json::Deserializer::from_str(stdout)
        .into_iter::<Value>()
        .map_while(Result::ok)
        .filter(|value| value.get("event").is_none())
        .last()
        .unwrap_or(Value::Null)
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use serde_json::json;

    fn shell(script: &str, stdin: &[u8], limit: Duration) -> (Result<CliOutput, TestnetError>, u32) {
        // `sh` is handed `--dir D --json` first, as a node is; `-c` cannot come after them, so a
        // stand-in script evaluates its last argument.
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/eval.sh");
        let mut events = 0;
        let args = os_args(&[script]);
        let call =
            Call { binary: &binary, dir: Path::new("/d"), args: &args, stdin, limit, cancel: &Cancel::default() };
        let output = call.run(&mut |_| events += 1);
        (output, events)
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn events_and_the_answer_are_told_apart() {
        let script = r#"echo '{"event":"progress"}'; echo noise >&2; echo '{"event":"x"}'
            echo '{'; echo '"files": 3}'; exit 4"#;
        let (output, events) = shell(script, b"", LIMIT);
        let output = output.unwrap();
        assert_eq!((events, output.code), (2, 4));
        assert_eq!(output.json, json!({"files": 3}));
        assert_eq!(output.stderr, "noise\n");
        assert!(output.at("/bytes").is_err());
        assert_eq!(output.u64_at("/files").unwrap(), 3);
        assert!(matches!(output.ok(), Err(TestnetError::Command { code: 4, .. })));
    }

    #[test]
    fn the_message_of_an_error_object_is_reported() {
        let script = r#"echo '{"error":{"kind":"k","message":"no mirror","hint":"h"}}'; exit 5"#;
        let error = shell(script, b"", LIMIT).0.unwrap().ok().unwrap_err();
        assert!(error.to_string().contains("no mirror"), "{error}");
    }

    #[test]
    fn standard_input_reaches_the_command() {
        let (output, _) = shell(r#"read -r w; echo "{\"w\":\"$w\"}""#, b"abandon art\n", LIMIT);
        assert_eq!(output.unwrap().str_at("/w").unwrap(), "abandon art");
    }

    /// Keeps away: a hung command, or one that leaves a descendant holding its output, blocks
    /// a test run for ever.
    #[test]
    fn a_command_that_hangs_is_killed_at_its_deadline() {
        let watch = Stopwatch::start();
        let (output, _) = shell("exec sleep 60", b"", Duration::from_millis(200));
        assert!(matches!(output, Err(TestnetError::CommandTimeout { .. })));
        assert!(watch.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_signal_is_a_code_above_128() {
        assert_eq!(shell("kill -9 $$", b"", LIMIT).0.unwrap().code, 137);
    }
}
