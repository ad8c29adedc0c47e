//! A command that is watched while it runs.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;

use fathom_testnet::Stopwatch;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{LONG, binary};

/// Lines of output that may wait to be looked at; more than any test makes, so that a command never
/// waits for its test.
const LINES_WAITING: usize = 65_536;

/// `fathom --dir DIR --json --progress ARGS...` while it runs. Dropping it kills it.
#[derive(Debug)]
pub struct Job {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    command: String,
    answer: Value,
}

impl Job {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .arg("--dir")
            .arg(dir)
            .args(["--json", "--progress"])
            .args(args)
            .env_remove("FATHOM_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("fathom starts");
        let (sender, lines) = sync_channel(LINES_WAITING);
        let stdout = child.stdout.take().expect("a piped stdout");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut errors = child.stderr.take().expect("a piped stderr");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read until an error is what there is to show.
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let command = format!("fathom --dir {} {}", dir.display(), args.join(" "));
        Self { child, lines, stderr: Some(stderr), command, answer: Value::Null }
    }

    /// The next event, `None` once there is no more.
    ///
    /// # Panics
    /// When nothing comes for [`LONG`].
    pub fn event(&mut self) -> Option<Value> {
        loop {
            match self.lines.recv_timeout(LONG) {
                Ok(line) => {
                    let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
                    if value.get("event").is_some() {
                        return Some(value);
                    }
                    self.answer = value;
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("`{}` says nothing any more", self.command),
            }
        }
    }

    /// All events up to the first progress of at least `percent`, that one included.
    ///
    /// # Panics
    /// When it ends before.
    pub fn until(&mut self, percent: u64) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.event() {
            let done = event["bytes"].as_u64().unwrap_or(0) * 100;
            let here =
                event["event"] == "progress" && done >= percent * event["total"].as_u64().unwrap_or(u64::MAX / 1000);
            events.push(event);
            if here {
                return events;
            }
        }
        let (code, answer) = self.wait();
        panic!("`{}` ended with {code} before {percent} %: {answer}", self.command);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When that fails.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().try_into().ok().and_then(Pid::from_raw).expect("its process id");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// Waits for its end: the exit code, the remaining events and the answer.
    ///
    /// # Panics
    /// When it says nothing for [`LONG`].
    pub fn finish(mut self) -> (i32, Vec<Value>, Value) {
        let mut events = Vec::new();
        while let Some(event) = self.event() {
            events.push(event);
        }
        let (code, answer) = self.wait();
        (code, events, answer)
    }

    /// As [`Job::finish`], for one that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok(mut self) -> (Vec<Value>, Value) {
        let mut events = Vec::new();
        while let Some(event) = self.event() {
            events.push(event);
        }
        let (code, answer) = self.wait();
        let stderr = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        assert_eq!(code, 0, "`{}` failed: {answer} {stderr}", self.command);
        (events, answer)
    }

    fn wait(&mut self) -> (i32, Value) {
        let watch = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                use std::os::unix::process::ExitStatusExt;
                let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                return (code, std::mem::take(&mut self.answer));
            }
            assert!(watch.elapsed() < LONG, "`{}` does not end", self.command);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Both fail when it has ended by itself, which is usual.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
