//! A local network of node processes.
//!
//! What never changes about a node (its name, directory, address) is in a [`NodeHandle`]; what does
//! (its process) is behind a lock, so that one thread can kill a node while another waits for a
//! command. `testnet.json` is rewritten after each change, before anything is waited for: a parent
//! that dies at any moment leaves a file by which `down` finds every process.

mod control;
mod up;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::{Call, os_args};
use crate::files::{NodeState, State, log_tail};
use crate::link::{Counts, LinkSpec, Mesh};
use crate::wait::wait_for;
use crate::{Cancel, CliOutput, ProcessId, ProcessState, TestnetError};

/// Limit of a command that was given none.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// A network of real processes below one directory. Dropping it kills all of them, unless it was
/// attached or told to [`Net::leave_running`].
#[derive(Debug)]
pub struct Net {
    dir: PathBuf,
    binary: PathBuf,
    invite: Option<String>,
    exit_with_parent: bool,
    cancel: Cancel,
    ready_timeout: Duration,
    nodes: Vec<NodeHandle>,
    phrases: BTreeMap<String, Phrase>,
    processes: Mutex<BTreeMap<String, Process>>,
    kill_on_drop: AtomicBool,
    links: Option<Links>,
}

/// The links of a network's nodes.
#[derive(Debug)]
struct Links {
    mesh: Mesh,
    specs: BTreeMap<String, LinkSpec>,
    /// The port on which each node listens.
    ports: BTreeMap<String, u16>,
}

/// What stays the same about a node for as long as the network exists.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeHandle {
    /// Its name in this network: `bootstrap`, `mirror-1`, `vendor-1`, `user-1`.
    pub name: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// A vendor's zone.
    pub zone: Option<String>,
    /// Its directory, given to `fathom --dir`.
    pub dir: PathBuf,
    /// Its node id as it prints it; empty until it was first ready.
    pub node: String,
    /// Its libp2p peer id; empty until it was first ready.
    pub peer_id: String,
    /// Its multiaddresses with `/p2p`; empty until it was first ready.
    pub addresses: Vec<String>,
    /// The directories of its devices.
    pub devices: Vec<PathBuf>,
}

impl NodeHandle {
    /// The file that its output goes to.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Its first multiaddress, or an empty text before it was first ready.
    #[must_use]
    pub fn address(&self) -> &str {
        self.addresses.first().map_or("", String::as_str)
    }

    /// Whether it has `role`.
    #[must_use]
    pub fn is(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }

    fn error(&self, why: impl Into<String>) -> TestnetError {
        let path = self.log_path();
        let log = log_tail(&path);
        TestnetError::Node { name: self.name.clone(), why: why.into(), path, log }
    }
}

/// A line of [`Net::status`].
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// A vendor's zone.
    pub zone: Option<String>,
    /// The process that it has or had last.
    pub pid: Option<u32>,
    /// What that process is doing.
    pub state: ProcessState,
    /// The node's directory.
    pub dir: PathBuf,
    /// Its first multiaddress.
    pub address: String,
}

#[derive(Debug)]
struct Process {
    id: ProcessId,
    /// The handle by which it is collected when it ends; `None` for a child of another process.
    child: Option<Child>,
}

impl Process {
    /// Its state; once dead, collected, with the exit code (128 + signal) when that is known.
    fn state(&mut self) -> (ProcessState, Option<i32>) {
        use std::os::unix::process::ExitStatusExt;
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            return (ProcessState::Dead, code);
        }
        (self.id.state(), None)
    }
}

/// A user's recovery phrase. It is kept in memory alone and never shown by `Debug`.
struct Phrase(String);

impl std::fmt::Debug for Phrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Phrase(..)")
    }
}

impl Net {
    /// The network that another process left in `dir`. Dropping it leaves the nodes running.
    ///
    /// # Errors
    /// [`TestnetError::NoTestnet`] when there is none, [`TestnetError::File`] when its state cannot
    /// be read.
    pub fn attach(dir: &Path) -> Result<Self, TestnetError> {
        let state = State::load(dir)?;
        let mut processes = BTreeMap::new();
        let mut nodes = Vec::new();
        for NodeState { node, process } in state.nodes {
            if let Some(id) = process {
                processes.insert(node.name.clone(), Process { id, child: None });
            }
            nodes.push(node);
        }
        Ok(Self {
            dir: absolute(dir)?,
            binary: state.binary,
            invite: state.invite,
            exit_with_parent: state.exit_with_parent,
            cancel: Cancel::default(),
            ready_timeout: crate::Spec::default().ready_timeout,
            nodes,
            phrases: BTreeMap::new(),
            processes: Mutex::new(processes),
            kill_on_drop: AtomicBool::new(false),
            links: None,
        })
    }

    /// From now on dropping this value leaves the processes running.
    pub fn leave_running(&self) {
        self.kill_on_drop.store(false, Ordering::SeqCst);
    }

    /// The network's directory, absolute.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The invite by which nodes join.
    #[must_use]
    pub fn invite(&self) -> Option<&str> {
        self.invite.as_deref()
    }

    /// All nodes in the order in which they were made.
    #[must_use]
    pub fn nodes(&self) -> &[NodeHandle] {
        &self.nodes
    }

    /// All nodes that have `role`.
    pub fn with_role<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a NodeHandle> {
        self.nodes.iter().filter(move |node| node.is(role))
    }

    /// What became of the datagrams to, and from, the node called `name`, if the network has links.
    #[must_use]
    pub fn link_counts(&self, name: &str) -> Option<(Counts, Counts)> {
        let links = self.links.as_ref()?;
        Some(links.mesh.counts(*links.ports.get(name)?))
    }

    /// The node called `name`.
    ///
    /// # Errors
    /// [`TestnetError::NoSuchNode`].
    pub fn node(&self, name: &str) -> Result<&NodeHandle, TestnetError> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
            let known: Vec<_> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            TestnetError::NoSuchNode { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// The name of the node with this node id, or the id's first characters for a stranger.
    #[must_use]
    pub fn name_of(&self, node_id: &str) -> String {
        let known = self.nodes.iter().find(|node| node.node == node_id);
        known.map_or_else(|| crate::units::short(node_id).to_owned(), |node| node.name.clone())
    }

    /// The recovery phrase that `init` showed for the user called `name`; known only to the `Net`
    /// that made the user.
    #[must_use]
    pub fn phrase(&self, name: &str) -> Option<&str> {
        self.phrases.get(name).map(|phrase| phrase.0.as_str())
    }

    /// Every node with its process and what that is doing.
    #[must_use]
    pub fn status(&self) -> Vec<NodeStatus> {
        let mut processes = self.processes();
        let line = |node: &NodeHandle| {
            let process = processes.get_mut(&node.name);
            let pid = process.as_ref().map(|process| process.id.pid);
            NodeStatus {
                name: node.name.clone(),
                roles: node.roles.clone(),
                zone: node.zone.clone(),
                pid,
                state: process.map_or(ProcessState::Dead, |process| process.state().0),
                dir: node.dir.clone(),
                address: node.address().to_owned(),
            }
        };
        self.nodes.iter().map(line).collect()
    }

    /// What the process of the node called `name` is doing.
    ///
    /// # Errors
    /// [`TestnetError::NoSuchNode`].
    pub fn state(&self, name: &str) -> Result<ProcessState, TestnetError> {
        self.node(name)?;
        Ok(self.process_state(name).0)
    }

    /// Runs `fathom --dir NODE --json ARGS...` for the node called `name`, at most 3 minutes long.
    /// An exit code other than 0 is no error here: see [`CliOutput::ok`].
    ///
    /// # Errors
    /// [`TestnetError::NoSuchNode`], [`TestnetError::Spawn`], [`TestnetError::CommandTimeout`],
    /// [`TestnetError::Cancelled`].
    pub fn cli<A: AsRef<OsStr>>(&self, name: &str, args: &[A]) -> Result<CliOutput, TestnetError> {
        self.cli_with(name, args, b"", COMMAND_LIMIT, |_| {})
    }

    /// Like [`Net::cli`], with `stdin` as its standard input.
    ///
    /// # Errors
    /// As [`Net::cli`].
    pub fn cli_stdin<A: AsRef<OsStr>>(&self, name: &str, args: &[A], stdin: &[u8]) -> Result<CliOutput, TestnetError> {
        self.cli_with(name, args, stdin, COMMAND_LIMIT, |_| {})
    }

    /// Like [`Net::cli_stdin`] with a limit of its own; `on_event` sees each JSON line that has an
    /// `event` as it is printed. While it runs, the command may block on its full output pipe.
    ///
    /// # Errors
    /// As [`Net::cli`].
    pub fn cli_with<A: AsRef<OsStr>>(
        &self,
        name: &str,
        args: &[A],
        stdin: &[u8],
        limit: Duration,
        mut on_event: impl FnMut(&Value),
    ) -> Result<CliOutput, TestnetError> {
        let call = Call {
            binary: &self.binary,
            dir: &self.node(name)?.dir,
            args: &os_args(args),
            stdin,
            limit,
            cancel: &self.cancel,
        };
        call.run(&mut on_event)
    }

    /// Waits until `condition` holds; see [`crate::wait_until`]. Ends early when the network's
    /// [`Cancel`] is set.
    ///
    /// # Errors
    /// [`TestnetError::Deadline`], [`TestnetError::Cancelled`].
    pub fn wait_until(
        &self,
        deadline: Duration,
        what: &str,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), TestnetError> {
        self.wait_for(deadline, what, || Ok(condition().then_some(())))
    }

    /// Waits until `attempt` gives a value; its errors end the wait.
    ///
    /// # Errors
    /// [`TestnetError::Deadline`], [`TestnetError::Cancelled`], and those of `attempt`.
    pub fn wait_for<T>(
        &self,
        deadline: Duration,
        what: &str,
        attempt: impl FnMut() -> Result<Option<T>, TestnetError>,
    ) -> Result<T, TestnetError> {
        wait_for(deadline, what, &self.cancel, attempt)
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<String, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// State and, once dead and known, exit code.
    fn process_state(&self, name: &str) -> (ProcessState, Option<i32>) {
        let mut processes = self.processes();
        processes.get_mut(name).map_or((ProcessState::Dead, None), Process::state)
    }

    fn save(&self) -> Result<(), TestnetError> {
        // The lock is held over the write, so that an older state never replaces a newer one.
        let processes = self.processes();
        let nodes = self
            .nodes
            .iter()
            .map(|node| NodeState { node: node.clone(), process: processes.get(&node.name).map(|process| process.id) });
        let nodes = nodes.collect();
        State::new(self.binary.clone(), self.invite.clone(), self.exit_with_parent, nodes).save(&self.dir)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if self.kill_on_drop.load(Ordering::SeqCst) {
            self.kill_all();
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, TestnetError> {
    std::path::absolute(path).map_err(|source| TestnetError::File { what: "find", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
