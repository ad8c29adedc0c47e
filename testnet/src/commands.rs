//! `fathom testnet ...`: local networks from the command line.
//!
//! Each function prints for a person, or with `json` one JSON object, and returns the exit code.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::files::{State, remove_dir};
use crate::{Net, NodeStatus, ProcessState, Spec, TestnetError, table};

/// Where a testnet lives when no directory is given, below the home directory.
const DEFAULT_DIR: &str = ".fathom-testnet";

/// What `fathom testnet up` is told.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The `fathom` program.
    pub binary: PathBuf,
    /// The network's directory; `None` is `~/.fathom-testnet`.
    pub dir: Option<PathBuf>,
    /// The nodes to make. It is not looked at when `dir` holds a network that is down: that one is
    /// started again.
    pub spec: Spec,
    /// Print JSON.
    pub json: bool,
}

/// What the commands on an existing network are told.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// The network's directory; `None` is `~/.fathom-testnet`.
    pub dir: Option<PathBuf>,
    /// Print JSON.
    pub json: bool,
}

impl NetOptions {
    fn attach(&self) -> Result<Net, TestnetError> {
        Net::attach(&network_dir(self.dir.as_deref())?)
    }
}

/// `fathom testnet up`: makes and starts a network, or starts one that is down, and leaves it
/// running. As JSON: `{"dir","nodes":[{"name","roles","zone","pid","state","dir","address"}],
/// "phrases":{user: words},"started_again":bool}`.
#[must_use]
pub fn up(options: &UpOptions) -> u8 {
    finish(options.json, try_up(options))
}

/// `fathom testnet status`: `{"dir","nodes":[..]}`.
#[must_use]
pub fn status(options: &NetOptions) -> u8 {
    let shown = options
        .attach()
        .map(|net| Answer { text: format!("{}\n\n{}", overview(&net), usage(&net)), json: net_json(&net) });
    finish(options.json, shown)
}

/// `fathom testnet kill NODE`: SIGKILL.
#[must_use]
pub fn kill(options: &NetOptions, name: &str) -> u8 {
    finish(options.json, on_node(options, name, "was killed (SIGKILL)", Net::kill))
}

/// `fathom testnet stop NODE`: SIGSTOP.
#[must_use]
pub fn stop(options: &NetOptions, name: &str) -> u8 {
    let done = "is stopped (SIGSTOP): it is alive and answers nothing";
    finish(options.json, on_node(options, name, done, Net::stop))
}

/// `fathom testnet cont NODE`: SIGCONT.
#[must_use]
pub fn cont(options: &NetOptions, name: &str) -> u8 {
    finish(options.json, on_node(options, name, "goes on (SIGCONT)", Net::cont))
}

/// `fathom testnet start NODE`: starts a dead node again at its address.
#[must_use]
pub fn start(options: &NetOptions, name: &str) -> u8 {
    finish(options.json, on_node(options, name, "is ready again", Net::start))
}

/// `fathom testnet down`: ends all processes; with `remove`, removes the network's directory too.
/// As JSON: `{"dir","nodes":[..],"killed":[name],"removed":bool}`, `killed` being the nodes that did not end by
/// themselves.
#[must_use]
pub fn down(options: &NetOptions, remove: bool) -> u8 {
    finish(options.json, try_down(options, remove))
}

/// The directory of the network that is meant by `dir`.
///
/// # Errors
/// [`TestnetError::Usage`] when none is given and there is no home directory.
pub fn network_dir(dir: Option<&Path>) -> Result<PathBuf, TestnetError> {
    match (dir, std::env::home_dir()) {
        (Some(dir), _) => Ok(dir.to_owned()),
        (None, Some(home)) => Ok(home.join(DEFAULT_DIR)),
        (None, None) => {
            let text = "there is no home directory: say where with --dir DIR";
            Err(TestnetError::Usage(text.to_owned()))
        }
    }
}

/// What a command prints, in both forms.
struct Answer {
    text: String,
    json: Value,
}

fn try_up(options: &UpOptions) -> Result<Answer, TestnetError> {
    let dir = network_dir(options.dir.as_deref())?;
    let started_again = State::path(&dir).exists();
    let net = if started_again { start_again(&dir)? } else { Net::up(&options.binary, &dir, options.spec.clone())? };
    net.leave_running();
    let mut text = overview(&net);
    if started_again {
        text.push_str("\n\nThis directory held a testnet, which was started again with its data.");
        text.push_str("\n`fathom testnet down --remove` removes it, to begin anew.");
    }
    let mut phrases = serde_json::Map::new();
    for user in net.with_role("user") {
        if let Some(phrase) = net.phrase(&user.name) {
            let _ = write!(text, "\n\nRecovery phrase of {}:\n  {phrase}", user.name);
            phrases.insert(user.name.clone(), phrase.into());
        }
    }
    text = format!("{text}\n\n{}", usage(&net));
    let mut json = net_json(&net);
    json["phrases"] = phrases.into();
    json["started_again"] = started_again.into();
    Ok(Answer { text, json })
}

fn start_again(dir: &Path) -> Result<Net, TestnetError> {
    let net = Net::attach(dir)?;
    let living = net.status().into_iter().find(|line| line.state != ProcessState::Dead);
    if let Some(living) = living {
        return Err(TestnetError::Usage(format!(
            "a testnet is running in {} ({} is {}); see `fathom testnet status`, end it with \
             `fathom testnet down`",
            dir.display(),
            living.name,
            living.state.as_str()
        )));
    }
    if net.invite().is_none() || net.nodes().iter().any(|node| node.addresses.is_empty()) {
        let dir = dir.display();
        return Err(TestnetError::Usage(format!(
            "{dir} holds a testnet that was never completely up; remove it with \
             `fathom testnet down --remove --dir {dir}`"
        )));
    }
    net.start_all()?;
    Ok(net)
}

fn try_down(options: &NetOptions, remove: bool) -> Result<Answer, TestnetError> {
    let net = options.attach()?;
    let killed = net.down()?;
    let mut text = format!("The testnet in {} is down", net.dir().display());
    if !killed.is_empty() {
        let _ = write!(text, "; {} had to be killed", killed.join(", "));
    }
    let mut json = net_json(&net);
    if remove {
        remove_dir(net.dir())?;
        text.push_str("; its files are removed");
    } else {
        let _ = write!(text, ". Its files are still there: `fathom testnet up` starts it again");
    }
    text.push('.');
    json["killed"] = killed.into();
    json["removed"] = remove.into();
    Ok(Answer { text, json })
}

fn on_node(
    options: &NetOptions,
    name: &str,
    done: &str,
    action: impl Fn(&Net, &str) -> Result<(), TestnetError>,
) -> Result<Answer, TestnetError> {
    let net = options.attach()?;
    action(&net, name)?;
    Ok(Answer { text: format!("{name} {done}."), json: net_json(&net) })
}

fn net_json(net: &Net) -> Value {
    json!({ "dir": net.dir(), "nodes": net.status() })
}

fn overview(net: &Net) -> String {
    let header = ["name", "role", "zone", "pid", "state", "address", "dir"];
    let row = |line: NodeStatus| {
        vec![
            line.name,
            line.roles.join(","),
            line.zone.unwrap_or_default(),
            line.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            line.state.as_str().to_owned(),
            // The peer id would double the width of the table; `ready.json` has it.
            line.address.split("/p2p/").next().unwrap_or_default().to_owned(),
            line.dir.strip_prefix(net.dir()).unwrap_or(&line.dir).display().to_string(),
        ]
    };
    let rows: Vec<_> = net.status().into_iter().map(row).collect();
    format!("Testnet in {}\n\n{}", net.dir().display(), table::render(&header, &rows, &[3]))
}

/// The commands that a person may want next.
fn usage(net: &Net) -> String {
    let mut lines = vec!["Use it:".to_owned()];
    let mut line = |dir: &Path, args: &str| {
        lines.push(format!("  fathom --dir {} {args}", dir.display()));
    };
    if let Some(user) = net.with_role("user").next() {
        for args in ["put FILE", "ls", "get NAME -o OUT", "path"] {
            line(&user.dir, args);
        }
    }
    if let Some(mirror) = net.with_role("mirror").next() {
        line(&mirror.dir, "fat");
    }
    let vendor = net.with_role("vendor").next().map_or("NODE", |vendor| vendor.name.as_str());
    let dir = net.dir().display();
    lines.push("Disturb it:".to_owned());
    for verb in ["stop", "cont", "kill", "start"] {
        lines.push(format!("  fathom testnet {verb} {vendor} --dir {dir}"));
    }
    lines.push("Look at it, end it:".to_owned());
    lines.push(format!("  fathom testnet status --dir {dir}"));
    lines.push(format!("  fathom testnet down --dir {dir}"));
    lines.join("\n")
}

/// Prints and gives the exit code. A reader that went away is no failure of the command.
fn finish(json: bool, result: Result<Answer, TestnetError>) -> u8 {
    let mut out = std::io::stdout().lock();
    match result {
        Ok(answer) if json => {
            let _ = writeln!(out, "{}", answer.json);
            0
        }
        Ok(answer) => {
            let _ = writeln!(out, "{}", answer.text);
            0
        }
        Err(error) if json => {
            let object = json!({ "kind": error.kind(), "message": error.to_string(), "hint": "" });
            let _ = writeln!(out, "{}", json!({ "error": object }));
            error.exit_code()
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn binary() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/node.sh")
    }

    #[test]
    fn up_status_disturb_down_and_up_again() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("net");
        let options = NetOptions { dir: Some(dir.clone()), json: true };
        assert_eq!(status(&options), 3);
        let spec = Spec { mirrors: 1, vendors: 1, ..Spec::default() };
        let up_options = UpOptions { binary: binary(), dir: Some(dir.clone()), spec, json: true };
        let answer = try_up(&up_options).unwrap();
        assert_eq!(answer.json["nodes"][2]["name"], "vendor-1");
        assert_eq!(answer.json["nodes"][2]["state"], "running");
        assert_eq!(answer.json["phrases"]["user-1"], "words of user-1");
        assert!(answer.text.contains("/user-1 put FILE"), "{}", answer.text);
        assert_eq!(up(&up_options), 2);
        assert_eq!((stop(&options, "vendor-1"), cont(&options, "vendor-1")), (0, 0));
        assert_eq!((kill(&options, "vendor-1"), start(&options, "vendor-1")), (0, 0));
        assert_eq!(kill(&options, "vendor-7"), 3);
        assert_eq!(down(&options, false), 0);
        assert_eq!(try_up(&up_options).unwrap().json["started_again"], true);
        assert_eq!(down(&options, true), 0);
        assert!(!dir.exists());
    }

    /// Keeps away: `up` takes up what an `up` that failed left, and reports half a network as one.
    #[test]
    fn a_network_that_never_came_up_is_not_started_again() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().to_owned();
        std::fs::write(dir.join("fail-mirror-1"), "").unwrap();
        let spec = Spec { mirrors: 1, vendors: 1, ..Spec::default() };
        let options = UpOptions { binary: binary(), dir: Some(dir.clone()), spec, json: true };
        assert_eq!(up(&options), 1);
        std::fs::remove_file(dir.join("fail-mirror-1")).unwrap();
        let error = try_up(&options).err().unwrap().to_string();
        assert!(error.contains("never completely up"), "{error}");
    }
}
