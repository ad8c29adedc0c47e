//! One node of a network as a test speaks to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fathom_testnet::{CliOutput, Net, run_cli};
use serde_json::Value;

use crate::{Job, Scratch, binary, wait_for};

/// Limit of one command.
const LIMIT: Duration = Duration::from_secs(180);

/// A node with the user's role (its commands serve for any node). Dropping it ends the node that was
/// made for it.
#[derive(Debug)]
pub struct User {
    dir: PathBuf,
    child: Option<Child>,
    /// Removed last: the fields before it are dropped before it.
    _scratch: Option<Scratch>,
}

impl User {
    /// The node called `name` of `net`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn of(net: &Net, name: &str) -> Self {
        let dir = net.node(name).expect("a node of that name").dir.clone();
        Self { dir, child: None, _scratch: None }
    }

    /// A new user's directory that knows the network of `invite`; no node runs in it. `set` are
    /// arguments of `init` such as `--no-phrase` or `--set`, `user.copies=2`.
    ///
    /// # Panics
    /// When `init` fails.
    #[must_use]
    pub fn idle(invite: &str, set: &[&str]) -> Self {
        Self::made(invite, set).0
    }

    /// As [`User::idle`], with what `init` answered: the phrase is shown there and nowhere else.
    ///
    /// # Panics
    /// When `init` fails.
    #[must_use]
    pub fn made(invite: &str, set: &[&str]) -> (Self, Value) {
        let scratch = Scratch::new();
        let user = Self { dir: scratch.join("user"), child: None, _scratch: Some(scratch) };
        let listen = "/ip4/127.0.0.1/udp/0/quic-v1";
        let mut args = vec!["init", "--role", "user", "--network", invite, "--listen", listen];
        args.extend(set);
        let answer = user.ok(&args);
        (user, answer)
    }

    /// A new user with a running node that reaches a mirror.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn running(invite: &str, set: &[&str]) -> Self {
        let mut user = Self::idle(invite, set);
        user.run();
        user
    }

    /// Starts its node and waits until that reaches three mirrors, or all there are.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn run(&mut self) {
        let log = std::fs::File::create(self.dir.join("log")).expect("a log");
        let child = Command::new(binary())
            .arg("--dir")
            .arg(&self.dir)
            .arg("run")
            .env("FATHOM_PARENT_PID", std::process::id().to_string())
            .env_remove("FATHOM_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("fathom starts");
        self.child = Some(child);
        wait_for("the user's node is ready", || {
            self.dir.join("ready.json").exists().then_some(()).ok_or_else(String::new)
        });
        wait_for("the user's node reaches all mirrors", || {
            let status = self.cli(&["status"]).json;
            let mirrors = list(&status, "/mirrors");
            let reached = mirrors.iter().filter(|mirror| mirror["reachable"] == true).count();
            (reached > 0 && reached == mirrors.len()).then_some(()).ok_or(status.to_string())
        });
    }

    /// Ends its node, so that commands run without one.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is killed");
            child.wait().expect("it ends");
        }
    }

    /// The node's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command with `--json` to its end, whatever that is.
    ///
    /// # Panics
    /// When it does not end within three minutes.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> CliOutput {
        self.cli_stdin(args, "")
    }

    /// As [`User::cli`], with standard input.
    ///
    /// # Panics
    /// When it does not end within three minutes.
    #[track_caller]
    pub fn cli_stdin(&self, args: &[&str], stdin: &str) -> CliOutput {
        run_cli(&binary(), &self.dir, args, stdin.as_bytes(), LIMIT).expect("the command ends")
    }

    /// The answer of a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Value {
        match self.cli(args).ok() {
            Ok(output) => output.json,
            Err(error) => panic!("{error}"),
        }
    }

    /// The `error` object of a command that must fail with this exit code and say what to do.
    ///
    /// # Panics
    /// When it does something else.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> Value {
        let output = self.cli(args);
        assert_eq!(output.code, code, "{}: {} {}", output.command, output.stdout, output.stderr);
        let error = output.json["error"].clone();
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{}", output.stdout);
        error
    }

    /// Stores `path` as `name`.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn put(&self, path: &Path, name: &str) -> Value {
        self.ok(&["put", path.to_str().expect("UTF-8"), "--as", name])
    }

    /// Fetches `name` to `out`.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn get(&self, name: &str, out: &Path) -> Value {
        self.ok(&["get", name, "-o", out.to_str().expect("UTF-8")])
    }

    /// Starts storing `path` as `name`.
    #[must_use]
    pub fn start_put(&self, path: &Path, name: &str) -> Job {
        Job::start(&self.dir, &["put", path.to_str().expect("UTF-8"), "--as", name])
    }

    /// Names that `ls` lists.
    ///
    /// # Panics
    /// When `ls` fails.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let answer = self.ok(&["ls"]);
        list(&answer, "/files").iter().map(|file| text(file, "/name").to_owned()).collect()
    }

    /// The user's public key.
    ///
    /// # Panics
    /// When `status` fails.
    #[track_caller]
    pub fn owner(&self) -> String {
        text(&self.ok(&["status"]), "/user/owner").to_owned()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The list at `pointer`; empty if there is none.
#[must_use]
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The whole number at `pointer`.
///
/// # Panics
/// When there is none.
#[track_caller]
#[must_use]
pub fn number(value: &Value, pointer: &str) -> u64 {
    match value.pointer(pointer).and_then(Value::as_u64) {
        Some(number) => number,
        None => panic!("there is no number at {pointer} of {value}"),
    }
}

/// The text at `pointer`.
///
/// # Panics
/// When there is none.
#[track_caller]
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    match value.pointer(pointer).and_then(Value::as_str) {
        Some(text) => text,
        None => panic!("there is no text at {pointer} of {value}"),
    }
}
