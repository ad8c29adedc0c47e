//! Disturbing and ending the processes of a network.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::{Net, NodeHandle, Process};
use crate::files::Ready;
use crate::{ProcessId, ProcessState, Stopwatch, TestnetError};

/// How long a signal that cannot be caught may take to show.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);
/// How long a node may take to end by itself after SIGTERM.
const TERMINATE_LIMIT: Duration = Duration::from_secs(10);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(10);

impl Net {
    /// Kills the node's process with SIGKILL, as a power cut would, and waits until it is gone.
    /// One that is dead already is fine.
    ///
    /// # Errors
    /// [`TestnetError::NoSuchNode`], [`TestnetError::Signal`].
    pub fn kill(&self, name: &str) -> Result<(), TestnetError> {
        self.send(name, Signal::KILL)?;
        self.await_state(name, "is killed", |state| state == ProcessState::Dead)
    }

    /// Stops the node's process with SIGSTOP: it stays alive and answers nothing.
    ///
    /// # Errors
    /// [`TestnetError::NoSuchNode`], [`TestnetError::Node`] when it is dead,
    /// [`TestnetError::Signal`].
    pub fn stop(&self, name: &str) -> Result<(), TestnetError> {
        if !self.send(name, Signal::STOP)? {
            return Err(self.node(name)?.error("is dead and cannot be stopped"));
        }
        self.await_state(name, "is stopped", |state| state == ProcessState::Stopped)
    }

    /// Continues the node's process after [`Net::stop`].
    ///
    /// # Errors
    /// [`TestnetError::NoSuchNode`], [`TestnetError::Node`] when it is dead,
    /// [`TestnetError::Signal`].
    pub fn cont(&self, name: &str) -> Result<(), TestnetError> {
        if !self.send(name, Signal::CONT)? {
            return Err(self.node(name)?.error("is dead and cannot be continued"));
        }
        self.await_state(name, "continues", |state| state != ProcessState::Stopped)
    }

    /// Asks the node to end (SIGTERM, continued first when it is stopped) and waits up to 10 s.
    /// Returns the exit code, if this process started the node and it was alive.
    ///
    /// # Errors
    /// [`TestnetError::NoSuchNode`], [`TestnetError::Node`] when it is still there after 10 s (it is
    /// then left alone), [`TestnetError::Signal`].
    pub fn terminate(&self, name: &str) -> Result<Option<i32>, TestnetError> {
        let node = self.node(name)?;
        self.send(name, Signal::TERM)?;
        self.send(name, Signal::CONT)?;
        let watch = Stopwatch::start();
        loop {
            match self.process_state(name) {
                (ProcessState::Dead, code) => return Ok(code),
                _ if watch.remaining(TERMINATE_LIMIT).is_none() => {
                    let limit = TERMINATE_LIMIT.as_secs();
                    return Err(node.error(format!("did not end within {limit} s of SIGTERM")));
                }
                _ => std::thread::sleep(POLL),
            }
        }
    }

    /// Starts the node again, at the address that it had, and waits until it is ready.
    ///
    /// # Errors
    /// [`TestnetError::NoSuchNode`], [`TestnetError::Usage`] when it is alive,
    /// [`TestnetError::Node`] with the end of its log when it does not become ready.
    pub fn start(&self, name: &str) -> Result<(), TestnetError> {
        let node = self.node(name)?;
        self.spawn(node)?;
        let ready = self.await_ready(node)?;
        if !node.addresses.is_empty() && ready.addresses != node.addresses {
            let (had, has) = (node.address(), ready.addresses.join(", "));
            return Err(node.error(format!("came back at {has} instead of {had}")));
        }
        Ok(())
    }

    /// Starts every dead node again, in the order in which they were made, and waits until all are
    /// ready.
    ///
    /// # Errors
    /// As [`Net::start`].
    pub fn start_all(&self) -> Result<(), TestnetError> {
        let dead = |node: &&NodeHandle| self.process_state(&node.name).0 == ProcessState::Dead;
        let nodes: Vec<_> = self.nodes.iter().filter(dead).collect();
        for node in &nodes {
            self.spawn(node)?;
        }
        for node in nodes {
            self.await_ready(node)?;
        }
        Ok(())
    }

    /// Ends all nodes: stopped ones are continued, all get SIGTERM at once, and those that are
    /// still there after 10 s SIGKILL. Returns the names of the latter. Removes no file.
    ///
    /// # Errors
    /// [`TestnetError::Signal`] when a process can neither be ended nor killed.
    pub fn down(&self) -> Result<Vec<String>, TestnetError> {
        let names: Vec<_> = self.nodes.iter().map(|node| node.name.clone()).collect();
        for name in &names {
            self.send(name, Signal::TERM)?;
            self.send(name, Signal::CONT)?;
        }
        let alive = || -> Vec<String> {
            let living = |name: &&String| self.process_state(name).0 != ProcessState::Dead;
            names.iter().filter(living).cloned().collect()
        };
        let watch = Stopwatch::start();
        let mut stragglers = alive();
        while !stragglers.is_empty() && watch.remaining(TERMINATE_LIMIT).is_some() {
            std::thread::sleep(POLL);
            stragglers = alive();
        }
        for name in &stragglers {
            self.kill(name)?;
        }
        Ok(stragglers)
    }

    /// Kills everything, best effort: for `Drop`, which can report nothing.
    pub(super) fn kill_all(&self) {
        let mut processes = self.processes();
        for process in processes.values() {
            let _ = process.id.signal(Signal::KILL);
        }
        let watch = Stopwatch::start();
        while watch.remaining(SIGNAL_LIMIT).is_some()
            && processes.values_mut().any(|process| process.state().0 != ProcessState::Dead)
        {
            std::thread::sleep(POLL);
        }
    }

    /// Starts the node's process, detached: its own process group, no input, output to its log.
    pub(super) fn spawn(&self, node: &NodeHandle) -> Result<(), TestnetError> {
        use std::os::unix::process::CommandExt;
        let state = self.process_state(&node.name).0;
        if state != ProcessState::Dead {
            let text = format!("node {} is {} already", node.name, state.as_str());
            return Err(TestnetError::Usage(text));
        }
        // A node that was killed leaves its ready.json behind.
        let _ = std::fs::remove_file(node.dir.join("ready.json"));
        let path = node.log_path();
        let failed = |source| TestnetError::File { what: "write", path: path.clone(), source };
        let log = File::options().create(true).append(true).open(&path).map_err(failed)?;
        let copy = log.try_clone().map_err(failed)?;
        let mut command = Command::new(&self.binary);
        command.arg("--dir").arg(&node.dir).arg("run").env_remove("FATHOM_DIR");
        command.env_remove("FATHOM_PARENT_PID");
        if self.exit_with_parent {
            command.env("FATHOM_PARENT_PID", std::process::id().to_string());
        }
        command.stdin(Stdio::null()).stdout(log).stderr(copy).process_group(0);
        let failed = |source| TestnetError::Spawn { binary: self.binary.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        let id = match ProcessId::of(child.id()) {
            Ok(id) => id,
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(source));
            }
        };
        self.processes().insert(node.name.clone(), Process { id, child: Some(child) });
        self.save()
    }

    /// Waits until the node's present process has written its `ready.json`.
    pub(super) fn await_ready(&self, node: &NodeHandle) -> Result<Ready, TestnetError> {
        let pid = self.processes().get(&node.name).map(|process| process.id.pid);
        let waited = self.wait_for(self.ready_timeout, "it is ready", || {
            if self.process_state(&node.name).0 == ProcessState::Dead {
                return Err(node.error("ended before it was ready"));
            }
            Ok(Ready::read(&node.dir)?.filter(|ready| Some(ready.pid) == pid))
        });
        match waited {
            Err(TestnetError::Deadline { seconds, .. }) => Err(node.error(format!("was not ready after {seconds} s"))),
            other => other,
        }
    }

    /// Sends a signal; false when the process is dead.
    fn send(&self, name: &str, signal: Signal) -> Result<bool, TestnetError> {
        self.node(name)?;
        let Some(id) = self.processes().get(name).map(|process| process.id) else {
            return Ok(false);
        };
        id.signal(signal).map_err(|source| TestnetError::Signal { name: name.to_owned(), pid: id.pid, source })
    }

    fn await_state(&self, name: &str, what: &str, wanted: impl Fn(ProcessState) -> bool) -> Result<(), TestnetError> {
        let watch = Stopwatch::start();
        while !wanted(self.process_state(name).0) {
            if watch.remaining(SIGNAL_LIMIT).is_none() {
                let seconds = SIGNAL_LIMIT.as_secs();
                return Err(TestnetError::Deadline { what: format!("{name} {what}"), seconds });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}
