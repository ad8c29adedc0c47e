//! A node: its directory, its roles and its control socket, from start to shutdown.

mod caps;
mod commands;
mod discovery;
mod dispatch;
mod fat;
mod health;
mod lease;

use std::path::PathBuf;
use std::sync::Arc;

use fathom_overlay::{ConnectionCaps, Overlay, OverlayConfig, OverlayError};
use fathom_protocol::ledger::Terms;
use fathom_protocol::wire::Roles as WireRoles;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Role};
use crate::control::{CommandError, Commands, ControlError, ControlServer, ErrorKind, serve};
use crate::home::{Home, HomeError, HomeLock, Ready};
use crate::identity::{IdentityError, NodeKey, UserSecret};
use crate::net::Net;
use crate::net::book::PeerBook;
use crate::network::NetworkError;
use crate::roles::mirror::{Mirror, MirrorError, MirrorSettings};
use crate::roles::user::{Redundancy, User, UserError, UserSettings};
use crate::roles::vendor::{Vendor, VendorError, VendorSettings};
use commands::NodeCommands;
use dispatch::Dispatch;

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
    /// Its network descriptor.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Its connections.
    #[error("failed to start the network: {0}")]
    Overlay(#[from] OverlayError),
    /// The mirror role.
    #[error("failed to start the mirror: {0}")]
    Mirror(#[from] MirrorError),
    /// The vendor role.
    #[error("failed to start the vendor: {0}")]
    Vendor(#[from] VendorError),
    /// The user role.
    #[error("failed to start the user: {0}")]
    User(#[from] UserError),
    /// A worker ended early.
    #[error("failed to start: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

impl From<NodeError> for CommandError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Home(error) => error.into(),
            NodeError::Identity(error) => error.into(),
            NodeError::Network(error) => error.into(),
            other => Self::new(ErrorKind::Other, other.to_string()),
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
    overlay: Overlay,
    addresses: Vec<String>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// The roles of a node that are under way.
#[derive(Default)]
struct Roles {
    mirror: Option<Arc<Mirror>>,
    vendor: Option<Arc<Vendor>>,
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
    let descriptor = crate::network::load(home)?;
    let (overlay, incoming) = fathom_overlay::start(OverlayConfig {
        key_seed: *key.seed(),
        network: descriptor.id(),
        listen: config.node.listen.clone(),
        external: config.node.external.clone(),
        gossip: config.has(Role::Mirror),
        limits: ConnectionCaps::default(),
    })
    .await?;
    caps::apply(&overlay, &config.node);
    if config.node.announce_own == 0 {
        overlay.announce_external_only();
    }
    let book = PeerBook::open(home.dir().join("peers.cbor"));
    let net = Net::new(overlay.clone(), key.signing_key(), wire_roles(&config), book);
    let roles = Arc::new(open_roles(home, &config, &net).await?);
    let user = open_user(home, &config, &net).await?;
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let dispatch = Arc::new(Dispatch::new(net.clone(), Arc::clone(&roles)));
    dispatch.answer_locally();
    tasks.spawn(Arc::clone(&dispatch).serve(incoming, cancel.clone(), tasks.clone()));
    tasks.spawn(discovery::run(net.clone(), descriptor.peers().to_vec(), cancel.clone()));
    tasks.spawn(caps::follow(overlay.clone(), config.node.clone(), cancel.clone()));
    if let Some(mirror) = &roles.mirror {
        tasks.spawn(Arc::clone(mirror).run(cancel.clone()));
    }
    if let Some(vendor) = &roles.vendor {
        tasks.spawn(Arc::clone(vendor).run(cancel.clone()));
    }
    let commands = Arc::new(NodeCommands::new(home.clone(), config, net, roles, user, cancel.clone(), tasks.clone()));
    commands.keep_renewing();
    let addresses = overlay.listen_addresses().await;
    let control = match options.temporary {
        true => None,
        false => {
            let server = serve(home, Arc::clone(&commands) as Arc<dyn Commands>)?;
            home.write_ready(&Ready {
                pid: std::process::id(),
                node: key.node_id().to_string(),
                peer_id: key.peer_id(),
                addresses: addresses.clone(),
                roles: commands.role_names(),
            })?;
            Some(server)
        }
    };
    Ok(RunningNode { home: home.clone(), _lock: lock, options, control, commands, overlay, addresses, cancel, tasks })
}

fn wire_roles(config: &Config) -> WireRoles {
    WireRoles {
        mirror: config.has(Role::Mirror),
        vendor: config.has(Role::Vendor),
        user: config.has(Role::User),
        bootstrap: config.has(Role::Bootstrap),
    }
}

async fn open_roles(home: &Home, config: &Config, net: &Net) -> Result<Roles, NodeError> {
    let mut roles = Roles::default();
    if config.has(Role::Mirror) {
        home.mirror_dir()?;
        let (dir, net) = (home.dir().to_owned(), net.clone());
        let settings = MirrorSettings {
            poll_seconds: config.mirror.poll_seconds,
            reconcile_seconds: config.mirror.reconcile_seconds,
        };
        roles.mirror = Some(tokio::task::spawn_blocking(move || Mirror::open(&dir, net, &settings)).await??);
    }
    if config.has(Role::Vendor) {
        let (dir, net, settings) = (home.vendor_dir()?, net.clone(), vendor_settings(config));
        roles.vendor = Some(tokio::task::spawn_blocking(move || Vendor::open(&dir, net, settings)).await??);
    }
    Ok(roles)
}

fn vendor_settings(config: &Config) -> VendorSettings {
    let (vendor, lease) = (&config.vendor, &config.lease);
    let devices: Vec<(PathBuf, u64, u64)> =
        vendor.devices.iter().map(|device| (device.path.clone(), device.quota, device.reserve)).collect();
    VendorSettings {
        zone: vendor.zone.clone(),
        operator: vendor.operator.clone(),
        report_seconds: vendor.report_seconds,
        hold_seconds: vendor.hold_seconds,
        overload_percent: vendor.overload_percent,
        relief_percent: vendor.relief_percent,
        bandwidth_mb_per_s: vendor.bandwidth_mb_per_s,
        devices,
        terms: Terms {
            offer_ms: lease.offer_seconds.saturating_mul(1000),
            lock_ms: lease.lock_seconds.saturating_mul(1000),
            commit_ms: lease.commit_seconds.saturating_mul(1000),
            grace_ms: lease.grace_seconds.saturating_mul(1000),
            unsealed_percent: vendor.unsealed_percent,
        },
    }
}

/// The user, if the node has that role and its keys are there: they may come later, with `recover`.
async fn open_user(home: &Home, config: &Config, net: &Net) -> Result<Option<Arc<User>>, NodeError> {
    if !config.has(Role::User) || !home.user_key().exists() {
        return Ok(None);
    }
    let keys = UserSecret::load(home)?.keys().clone();
    let (dir, net) = (home.user_dir()?, net.clone());
    let settings = UserSettings {
        redundancy: config.user.erasure.map_or(Redundancy::Copies(config.user.copies), Redundancy::Erasure),
        in_flight: config.user.in_flight,
        part_bytes: config.user.part_bytes,
        // Vendors erase what no final FAT named while it was locked; the other half is for handing the final FAT in.
        trusted_ms: config.lease.lock_seconds.saturating_mul(1000) / 2,
        check: std::time::Duration::from_secs(config.user.check_seconds),
    };
    Ok(Some(tokio::task::spawn_blocking(move || User::open(&dir, net, keys, settings)).await??))
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
        if self.options.temporary {
            self.commands.renew_if_due().await;
        }
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.commands.close_user().await;
        self.commands.save_peers();
        self.overlay.shutdown().await;
        if !self.options.temporary
            && let Err(error) = self.home.remove_ready()
        {
            tracing::warn!(%error, "ready.json stays");
        }
    }
}
