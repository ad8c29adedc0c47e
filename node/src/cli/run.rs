//! `fathom run`: the node in the foreground.

use std::time::Duration;

use serde_json::json;

use super::Context;
use super::args::RunOptions;
use super::output::Answer;
use super::session::{Interrupts, SHUTDOWN_WITHIN, runtime, start_logging};
use crate::config::{Config, Role};
use crate::control::{CommandError, ErrorKind};
use crate::home::Home;
use crate::node::{self, StartOptions};

/// How often the parent process is looked for.
const PARENT_EVERY: Duration = Duration::from_secs(1);
/// How long blocking work may go on after the node has ended.
const BLOCKING_WITHIN: Duration = Duration::from_millis(500);

pub(super) fn run(context: &Context, options: &RunOptions) -> Result<Answer, CommandError> {
    start_logging(context, "info");
    let parent = Parent::from_environment()?;
    let home = Home::open(&context.dir)?;
    let mut config = Config::load(&home.config())?;
    if !options.role.is_empty() {
        config.node.roles.clone_from(&options.role);
        config.node.roles.sort_unstable();
        config.node.roles.dedup();
    }
    let descriptor = crate::network::load(&home)?;
    if config.has(Role::User) && !home.user_key().exists() {
        tracing::warn!("there is no user yet; `fathom recover` brings one back from its recovery phrase");
    }
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let gone = parent.map_or_else(
            || futures::future::Either::Left(std::future::pending()),
            |parent| futures::future::Either::Right(parent.gone()),
        );
        tokio::pin!(gone);
        let node = tokio::select! {
            biased;
            () = interrupts.next() => return Ok(()),
            () = &mut gone => return Ok(()),
            node = node::start(&home, config, StartOptions::default()) => node?,
        };
        tracing::info!(network = descriptor.name(), addresses = ?node.addresses(), "the node runs");
        tokio::select! {
            biased;
            () = interrupts.next() => tracing::info!("ending"),
            () = &mut gone => tracing::info!("the parent process is gone; ending"),
        }
        tokio::select! {
            biased;
            () = interrupts.next() => tracing::warn!("ending at once"),
            ended = tokio::time::timeout(SHUTDOWN_WITHIN, node.shutdown()) => match ended {
                Ok(()) => tracing::info!("ended"),
                Err(_) => tracing::warn!("some work did not end in time; ending anyway"),
            },
        }
        Ok(())
    });
    runtime.shutdown_timeout(BLOCKING_WITHIN);
    outcome.map(|()| Answer::new(json!({ "ended": true }), ""))
}

/// A process with which this one ends, told apart from a later one of the same number by when it started.
struct Parent {
    pid: u32,
    started: Option<String>,
}

impl Parent {
    /// `FATHOM_PARENT_PID`, if it is set.
    fn from_environment() -> Result<Option<Self>, CommandError> {
        let Ok(text) = std::env::var("FATHOM_PARENT_PID") else { return Ok(None) };
        let pid = text.trim().parse().map_err(|_| {
            CommandError::new(ErrorKind::Usage, format!("FATHOM_PARENT_PID is `{text}`, which is no process id"))
        })?;
        Ok(Some(Self { pid, started: start_time(pid) }))
    }

    /// Resolves once the process is gone, which may be at once.
    async fn gone(self) {
        while self.started.is_some() && start_time(self.pid) == self.started {
            tokio::time::sleep(PARENT_EVERY).await;
        }
    }
}

/// When the process started, in the system's ticks; `None` if it is gone, a process that only waits to be
/// collected included. Reads fields 3 and 22 of `/proc/PID/stat`; see proc(5).
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn this_process_is_there_and_a_collected_one_is_gone() {
        assert!(start_time(std::process::id()).unwrap().parse::<u64>().is_ok());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!(start_time(pid), None);
    }

    #[tokio::test]
    async fn a_parent_that_is_gone_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let parent = Parent { pid: child.id(), started: start_time(child.id()) };
        let gone = tokio::spawn(parent.gone());
        assert!(!gone.is_finished());
        // Not collected yet: a zombie counts as gone.
        child.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap().unwrap();
        child.wait().unwrap();
    }
}
