//! Running one command: at the node that runs in the directory, or at one for the command's own duration.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use crate::config::{Config, Role};
use crate::control::{CommandError, Commands, ControlClient, ControlEvent, ControlRequest, ErrorKind, EventSink};
use crate::home::{Home, HomeError};
use crate::identity::UserSecret;
use crate::node::{self, RunningNode, StartOptions};
use crate::progress::{EventForm, Reporter};

/// How long a node may take to end.
pub(super) const SHUTDOWN_WITHIN: Duration = Duration::from_secs(9);

/// What a command needs of the node that is started for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    /// It makes sense at a running node only.
    No,
    /// A node with the user's role.
    AsUser,
    /// Any node; with the user's role if there is a user.
    AsAnybody,
}

/// Ctrl-C and SIGTERM. From the moment it is made, neither ends the process by itself.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Must be called within a tokio runtime.
    pub(super) fn new() -> Result<Self, CommandError> {
        let failed = |error: std::io::Error| {
            CommandError::new(ErrorKind::Other, format!("failed to listen for signals: {error}"))
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// What `work` gives, unless a signal comes first; `work` is then dropped.
    pub(super) async fn guard<T>(
        &mut self,
        work: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        tokio::select! {
            biased;
            () = self.next() => Err(CommandError::new(ErrorKind::Interrupted, "interrupted")
                .hint("repeat the same command to go on where it was")),
            outcome = work => outcome,
        }
    }
}

/// A runtime for one command.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::new(ErrorKind::Other, format!("failed to start: {error}")))
}

/// Logging to stderr: FATHOM_LOG, or else `level` and what `-v` adds.
pub(super) fn start_logging(context: &Context, level: &str) {
    use tracing_subscriber::EnvFilter;
    let level = match context.verbose {
        0 => &format!("{level},{}", fathom_overlay::QUIET_LOG),
        1 => "info,fathom=debug,fathom_overlay=debug,fathom_store=debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("FATHOM_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // Only the first call in a process counts; a second one changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}

/// Runs `request`, showing its events as `verb` goes on.
pub(super) fn execute(
    context: &Context,
    request: ControlRequest,
    alone: Alone,
    verb: &'static str,
) -> Result<Value, CommandError> {
    start_logging(context, "error");
    let form = match (context.output.json, context.output.progress) {
        (true, true) => EventForm::JsonLines,
        (true, false) => EventForm::Silent,
        (false, _) => EventForm::Human { explain: context.output.explain },
    };
    let home = Home::open(&context.dir)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let reporter = Reporter::new(form, verb);
        let mut interrupts = Interrupts::new()?;
        let on_event = |event: ControlEvent| reporter.event(&event);
        match interrupts.guard(ControlClient::connect(&home)).await? {
            Some(client) => interrupts.guard(client.call(&request, on_event)).await,
            None => run_alone(&home, request, alone, &mut interrupts, on_event).await,
        }
    });
    // Blocking work that was cancelled must not keep the command from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// What is followed: `request`, which is asked when the answer to the cheaper `changed` is another one than before, and on every
/// `full`th look, each `every` after the one before.
pub(super) struct Following {
    pub(super) request: ControlRequest,
    pub(super) changed: ControlRequest,
    pub(super) full: u32,
    pub(super) every: Duration,
}

/// Follows something and shows each outcome, until a signal or until `show` gives an error.
pub(super) fn follow(
    context: &Context,
    following: &Following,
    alone: Alone,
    mut show: impl FnMut(Result<Value, CommandError>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    start_logging(context, "error");
    let home = Home::open(&context.dir)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let running = interrupts.guard(ControlClient::connect(&home)).await?.is_some();
        let node = if running { None } else { Some(start_alone(&home, alone, &mut interrupts).await?) };
        let ask = async |request: &ControlRequest| match &node {
            Some(node) => run_here(node.commands(), request.clone(), drop).await,
            None => match ControlClient::connect(&home).await? {
                Some(client) => client.call(request, drop).await,
                None => Err(CommandError::new(ErrorKind::Other, "the node has ended")),
            },
        };
        let mut seen = None;
        let mut looks = 0;
        let mut look = async || {
            let now = ask(&following.changed).await?;
            let full = looks % following.full.max(1) == 0 || seen.as_ref() != Some(&now);
            looks += 1;
            seen = Some(now);
            if full { ask(&following.request).await.map(Some) } else { Ok(None) }
        };
        let outcome = loop {
            tokio::select! {
                biased;
                // The way to end this.
                () = interrupts.next() => break Ok(()),
                answer = look() => if let Some(answer) = answer.transpose()
                    && let Err(error) = show(answer)
                {
                    break Err(error);
                },
            }
            tokio::select! {
                biased;
                () = interrupts.next() => break Ok(()),
                () = tokio::time::sleep(following.every) => {}
            }
        };
        if let Some(node) = node
            && tokio::time::timeout(SHUTDOWN_WITHIN, node.shutdown()).await.is_err()
        {
            tracing::warn!("the node did not end in time");
        }
        outcome
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run_alone(
    home: &Home,
    request: ControlRequest,
    alone: Alone,
    interrupts: &mut Interrupts,
    on_event: impl FnMut(ControlEvent),
) -> Result<Value, CommandError> {
    let node = start_alone(home, alone, interrupts).await?;
    let outcome = interrupts.guard(run_here(node.commands(), request, on_event)).await;
    if tokio::time::timeout(SHUTDOWN_WITHIN, node.shutdown()).await.is_err() {
        tracing::warn!("the node did not end in time");
    }
    outcome
}

/// A node for the duration of one command.
pub(super) async fn start_alone(
    home: &Home,
    alone: Alone,
    interrupts: &mut Interrupts,
) -> Result<RunningNode, CommandError> {
    let config = config_alone(home, alone)?;
    let options = StartOptions { temporary: true };
    // Taken and released at once, only to tell why: the node takes it for good.
    home.lock().map_err(|error| match error {
        HomeError::Locked { .. } => CommandError::from(error)
            .hint("wait until it has ended, or keep a node running (`fathom run`), which serves many commands"),
        other => other.into(),
    })?;
    interrupts.guard(async { Ok(node::start(home, config, options).await?) }).await
}

/// The configuration of a node for one command: no role but the user's, and ports that no other node has.
fn config_alone(home: &Home, alone: Alone) -> Result<Config, CommandError> {
    let has_user = home.user_key().exists();
    match alone {
        Alone::No => {
            return Err(CommandError::new(ErrorKind::Other, format!("no node runs in {}", home.dir().display()))
                .hint("start it with `fathom run`"));
        }
        // Loading tells what is wrong with the key, if anything is.
        Alone::AsUser => drop(UserSecret::load(home)?),
        Alone::AsAnybody => {}
    }
    let mut config = Config::load(&home.config())?;
    let network = crate::network::load(home)?;
    if network.peers().is_empty() {
        let message = format!("this node founded the network \"{}\" and knows no other node of it", network.name());
        return Err(CommandError::new(ErrorKind::Network, message)
            .hint("keep it running with `fathom run`, and let others join by its `fathom invite`"));
    }
    config.node.roles = if has_user { vec![Role::User] } else { Vec::new() };
    config.node.external.clear();
    for address in &mut config.node.listen {
        *address = with_any_port(address);
    }
    Ok(config)
}

/// `/ip4/0.0.0.0/udp/4600/quic-v1` with port 0, which lets the system choose.
fn with_any_port(address: &str) -> String {
    let mut parts: Vec<&str> = address.split('/').collect();
    if let Some(udp) = parts.iter().position(|part| *part == "udp")
        && let Some(port) = parts.get_mut(udp + 1)
    {
        *port = "0";
    }
    parts.join("/")
}

/// Runs `request` in this process.
pub(super) async fn run_here(
    commands: Arc<dyn Commands>,
    request: ControlRequest,
    mut on_event: impl FnMut(ControlEvent),
) -> Result<Value, CommandError> {
    let (sink, mut events) = EventSink::channel();
    let mut command = commands.run(request, sink);
    let outcome = loop {
        tokio::select! {
            biased;
            Some(event) = events.recv() => on_event(event),
            outcome = &mut command => break outcome,
        }
    };
    while let Ok(event) = events.try_recv() {
        on_event(event);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_for_one_command_lets_the_system_choose_its_port() {
        assert_eq!(with_any_port("/ip4/0.0.0.0/udp/4600/quic-v1"), "/ip4/0.0.0.0/udp/0/quic-v1");
        assert_eq!(with_any_port("/ip6/::/udp/1/quic-v1"), "/ip6/::/udp/0/quic-v1");
    }
}
