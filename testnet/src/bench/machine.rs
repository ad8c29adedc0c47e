//! On what was measured, so that figures are compared with their like only.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Machine {
    /// Processors that this process may use.
    pub(super) cores: usize,
    pub(super) cpu: String,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
}

impl Machine {
    pub(super) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = value(&read("/proc/cpuinfo"), "model name");
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.split_ascii_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: if cpu.is_empty() { std::env::consts::ARCH.to_owned() } else { cpu },
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// What follows `key :` in a text like `/proc/cpuinfo`, of the first such line.
fn value(text: &str, key: &str) -> String {
    let found = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key);
    found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// Processes that wanted to run, on average over the last minute.
pub(super) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// The commit of the checkout at `dir`, with `+` if files differ from it; `None` outside of one, or without git.
pub(super) fn commit(dir: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(dir).args(args).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Another project's commit says nothing.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    Path::new(&top).join("testnet/src/bench").is_dir().then_some(())?;
    let mut commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
        commit.push('+');
    }
    Some(commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_mib > 0 && !machine.cpu.is_empty(), "{machine:?}");
    }

    #[test]
    fn values_are_found_by_their_key() {
        let text = "processor\t: 0\nmodel name\t: A: B\nmodel name\t: C\n";
        assert_eq!((value(text, "model name"), value(text, "cache")), ("A: B".to_owned(), String::new()));
    }

    #[test]
    fn outside_of_a_checkout_there_is_no_commit() {
        assert_eq!(commit(Path::new("/")), None);
    }
}
