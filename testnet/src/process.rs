//! Processes that are told apart from a later one with the same process id.
//!
//! The kernel reuses process ids. A network may have been left alone for days before `down` is
//! called, so a process is remembered by its id together with its start time, and a signal goes
//! through a pidfd that is opened *before* the start time is compared: between the comparison and
//! the signal the id cannot come to mean another process.

use std::fs;
use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process of this boot of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The kernel's process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Alive, and scheduled when it has something to do.
    Running,
    /// Alive, but stopped by SIGSTOP: it answers nothing.
    Stopped,
    /// Ended with all of its threads (a zombie that nobody has collected yet counts as ended).
    Dead,
}

impl ProcessState {
    /// The word used in tables and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
        }
    }
}

impl ProcessId {
    /// The identity of the process that has `pid` now.
    ///
    /// # Errors
    /// When there is no such process, or `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        let Stat { start_ticks, .. } = read_stat(pid)?;
        Ok(Self { pid, start_ticks })
    }

    /// What this very process is doing; another one that took over its id does not count.
    #[must_use]
    pub fn state(self) -> ProcessState {
        match read_stat(self.pid) {
            Ok(stat) if stat.start_ticks == self.start_ticks => stat.state(),
            _ => ProcessState::Dead,
        }
    }

    /// Sends `signal` to this very process. Returns false when it has ended already.
    ///
    /// # Errors
    /// When the kernel refuses the signal, such as for a process of another user.
    pub(crate) fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(false);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if self.state() == ProcessState::Dead {
            return Ok(false);
        }
        match pidfd_send_signal(pidfd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is looked at of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    letter: char,
    threads: u64,
    start_ticks: u64,
}

impl Stat {
    fn state(&self) -> ProcessState {
        match self.letter {
            // Threads that end later than the first one still hold its files and locks.
            'Z' if self.threads > 1 => ProcessState::Running,
            'Z' | 'X' | 'x' => ProcessState::Dead,
            'T' | 't' => ProcessState::Stopped,
            _ => ProcessState::Running,
        }
    }
}

fn read_stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not readable")))
}

/// State, number of threads and start time out of a line of `/proc/PID/stat`. The second field is the program's
/// name in parentheses and may itself hold spaces and parentheses, so counting starts after the
/// last one.
fn parse_stat(text: &str) -> Option<Stat> {
    /// `num_threads` is field 20; the state, field 3, is the first one after the name.
    const THREADS_AFTER_STATE: usize = 20 - 3;
    /// `starttime` is field 22.
    const START_TIME_AFTER_THREADS: usize = 22 - 20;
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let letter = fields.next()?.chars().next()?;
    let threads = fields.nth(THREADS_AFTER_STATE - 1)?.parse().ok()?;
    let start_ticks = fields.nth(START_TIME_AFTER_THREADS - 1)?.parse().ok()?;
    Some(Stat { letter, threads, start_ticks })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::wait_until;
    use std::process::{Child, Command};
    use std::time::Duration;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn the_name_of_a_program_may_hold_spaces_and_parentheses() {
        let line = "42 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        assert_eq!(parse_stat(line), Some(Stat { letter: 'S', threads: 17, start_ticks: 777 }));
        assert_eq!(parse_stat("42 (short) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_process_is_seen_running_stopped_and_dead() {
        let mut child = sleeper();
        let id = ProcessId::of(child.id()).unwrap();
        assert_eq!(id.state(), ProcessState::Running);
        assert!(id.signal(Signal::STOP).unwrap());
        let state = |wanted| wait_until(Duration::from_secs(5), "the state changes", || id.state() == wanted);
        state(ProcessState::Stopped).unwrap();
        assert!(id.signal(Signal::CONT).unwrap());
        state(ProcessState::Running).unwrap();
        assert!(id.signal(Signal::KILL).unwrap());
        // Not collected yet: a zombie is dead too.
        state(ProcessState::Dead).unwrap();
        child.wait().unwrap();
        assert_eq!(id.state(), ProcessState::Dead);
        assert!(!id.signal(Signal::KILL).unwrap());
    }

    /// Keeps away: a node is started again while a thread of the killed one, in the middle of a sync, holds its lock.
    #[test]
    fn a_process_is_dead_when_its_last_thread_is() {
        let state = |letter, threads| Stat { letter, threads, start_ticks: 7 }.state();
        assert_eq!(
            (state('Z', 3), state('Z', 1), state('X', 1)),
            (ProcessState::Running, ProcessState::Dead, ProcessState::Dead)
        );
        assert_eq!((state('T', 3), state('S', 3)), (ProcessState::Stopped, ProcessState::Running));
    }

    /// Keeps away: `down`, days later, kills a stranger that got the process id of a node.
    #[test]
    fn a_recycled_process_id_is_never_signalled() {
        let mut child = sleeper();
        let real = ProcessId::of(child.id()).unwrap();
        let earlier = ProcessId { start_ticks: real.start_ticks - 1, ..real };
        assert_eq!(earlier.state(), ProcessState::Dead);
        assert!(!earlier.signal(Signal::KILL).unwrap());
        assert_eq!(real.state(), ProcessState::Running);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn impossible_ids_are_dead() {
        for pid in [0, u32::MAX] {
            let id = ProcessId { pid, start_ticks: 1 };
            assert_eq!(id.state(), ProcessState::Dead);
            assert!(!id.signal(Signal::KILL).unwrap());
        }
    }
}
