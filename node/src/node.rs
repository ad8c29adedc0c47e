//! A node: its directory, its roles and its control socket, from start to shutdown.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::config::{Config, Role};
use crate::control::results::StatusResult;
use crate::control::{
    CommandError, Commands, ControlError, ControlRequest, ControlServer, ErrorKind, EventSink, serve,
};
use crate::home::{Home, HomeError, HomeLock, Ready};
use crate::identity::{IdentityError, NodeKey};

/// How a node is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// For the duration of one command: no control socket and no `ready.json`.
    pub temporary: bool,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Its keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl From<NodeError> for CommandError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Home(error) => error.into(),
            NodeError::Identity(error) => error.into(),
            NodeError::Control(error) => Self::new(ErrorKind::Other, error.to_string()),
        }
    }
}

/// A node that runs.
pub struct RunningNode {
    home: Home,
    _lock: HomeLock,
    options: StartOptions,
    control: Option<ControlServer>,
    commands: Arc<NodeCommands>,
    addresses: Vec<String>,
}

/// Starts a node with the roles of `config`. When this returns the node listens and, unless it is temporary,
/// `ready.json` is there and the control socket is served.
///
/// # Errors
/// [`NodeError`].
pub async fn start(home: &Home, config: Config, options: StartOptions) -> Result<RunningNode, NodeError> {
    let lock = home.lock()?;
    home.remove_ready()?;
    let key = NodeKey::load(home)?;
    let commands = Arc::new(NodeCommands { node: key.node_id().to_string(), roles: config.node.roles });
    let control = match options.temporary {
        true => None,
        false => Some(serve(home, Arc::clone(&commands) as Arc<dyn Commands>)?),
    };
    let addresses = Vec::new();
    if !options.temporary {
        home.write_ready(&Ready {
            pid: std::process::id(),
            node: commands.node.clone(),
            peer_id: key.peer_id(),
            addresses: addresses.clone(),
            roles: commands.role_names(),
        })?;
    }
    Ok(RunningNode { home: home.clone(), _lock: lock, options, control, commands, addresses })
}

impl RunningNode {
    /// What the node can do.
    #[must_use]
    pub fn commands(&self) -> Arc<dyn Commands> {
        Arc::clone(&self.commands) as Arc<dyn Commands>
    }

    /// Where it listens: multiaddresses that end in `/p2p/<peer id>`.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// Ends it: no new command, the running ones cancelled, everything closed.
    pub async fn shutdown(self) {
        if let Some(control) = self.control {
            control.shutdown().await;
        }
        if !self.options.temporary
            && let Err(error) = self.home.remove_ready()
        {
            tracing::warn!(%error, "ready.json stays");
        }
    }
}

struct NodeCommands {
    node: String,
    roles: Vec<Role>,
}

impl NodeCommands {
    fn role_names(&self) -> Vec<String> {
        self.roles.iter().map(|role| role.name().to_owned()).collect()
    }
}

impl Commands for NodeCommands {
    fn run(
        self: Arc<Self>,
        request: ControlRequest,
        _events: EventSink,
    ) -> BoxFuture<'static, Result<Value, CommandError>> {
        Box::pin(async move {
            match request {
                ControlRequest::Status => {
                    let status =
                        StatusResult { node: self.node.clone(), roles: self.role_names(), ..StatusResult::default() };
                    serde_json::to_value(status).map_err(|e| CommandError::new(ErrorKind::Other, e.to_string()))
                }
                other => Err(CommandError::new(
                    ErrorKind::Permission,
                    format!("this node has no role that serves `{}`", other.name()),
                )
                .hint("add the role to [node] roles in fathom.toml and restart the node")),
            }
        })
    }
}
