//! What a running node does for the command line.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fathom_protocol::codec::{Bounded, Text};
use fathom_protocol::ids::NodeId;
use fathom_protocol::wire::{Refusal, Request, TableDigest, Wants};
use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::complete;
use super::{Roles, fat, lease, open_user};
use crate::config::{Config, Role};
use crate::control::results::{
    DevicesResult, FatDigestResult, FileEntry, LsResult, MirrorSeen, MirrorStatus, PathResult, RecoverResult,
    StatusResult, UserStatus, VendorStatus,
};
use crate::control::{CommandError, Commands, ControlRequest, ErrorKind, EventSink, Wanted};
use crate::home::Home;
use crate::net::Net;
use crate::roles::mirror::fat_view;
use crate::roles::user::{Listed, Redundancy, User, UserError, select};

/// Longest wait for a mirror that `status` asks.
const PROBE: Duration = Duration::from_millis(1_000);

pub(super) struct NodeCommands {
    home: Home,
    config: Config,
    net: Net,
    roles: Arc<Roles>,
    user: RwLock<Option<Arc<User>>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

fn json(value: &impl Serialize) -> Result<Value, CommandError> {
    serde_json::to_value(value).map_err(|error| CommandError::new(ErrorKind::Other, error.to_string()))
}

fn refused(refusal: Refusal) -> CommandError {
    UserError::from(refusal).into()
}

impl NodeCommands {
    pub(super) fn new(
        home: Home,
        config: Config,
        net: Net,
        roles: Arc<Roles>,
        user: Option<Arc<User>>,
        cancel: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self { home, config, net, roles, user: RwLock::new(user), cancel, tasks }
    }

    pub(super) fn role_names(&self) -> Vec<String> {
        self.config.node.roles.iter().map(|role| role.name().to_owned()).collect()
    }

    pub(super) fn save_peers(&self) {
        self.net.book().save();
    }

    /// Starts the renewal of the user's leases, if there is a user.
    pub(super) fn keep_renewing(&self) {
        if let Ok(user) = self.user() {
            self.tasks.spawn(user.run(self.cancel.clone()));
        }
    }

    /// Renews what is due, for a node that ends with its command.
    pub(super) async fn renew_if_due(&self) {
        if let Ok(user) = self.user()
            && let Err(error) = user.renew_if_due().await
        {
            tracing::warn!(%error, "leases were not renewed; the next command tries again");
        }
    }

    /// Before the node ends: what its user holds and nobody needs any more is given back.
    pub(super) async fn close_user(&self) {
        if let Ok(user) = self.user() {
            user.close().await;
        }
    }

    fn user(&self) -> Result<Arc<User>, CommandError> {
        let user = self.user.read().unwrap_or_else(PoisonError::into_inner).clone();
        user.ok_or_else(|| match self.config.has(Role::User) {
            true => CommandError::new(ErrorKind::Permission, "this node has no user yet")
                .hint("`fathom recover` brings one back from its recovery phrase"),
            false => CommandError::new(ErrorKind::Permission, "this node does not have the user role")
                .hint("add \"user\" to [node] roles in fathom.toml and restart the node"),
        })
    }

    async fn run(&self, request: ControlRequest, events: EventSink) -> Result<Value, CommandError> {
        match request {
            ControlRequest::Put { path, name, copies, erasure, wanted } => {
                let via = wanted.via.clone();
                let (wants, redundancy) = (wants(wanted)?, redundancy(copies, erasure.as_deref())?);
                json(&self.user()?.put(&path, &name, redundancy, (wants, via), events).await?)
            }
            ControlRequest::Get { name, output, release, version } => {
                json(&self.user()?.get(&name, &output, release, version, events).await?)
            }
            ControlRequest::GetRange { name, output, first, last, version } => {
                json(&self.user()?.get_range(&name, version, (first, last), &output, events).await?)
            }
            ControlRequest::Resolve { name, keep } => json(&self.user()?.resolve(&name, keep).await?),
            ControlRequest::Repair { names, without } => json(&self.user()?.repair(&names, &without, events).await?),
            ControlRequest::Ls { prefix } => json(&self.list(prefix.as_deref()).await?),
            ControlRequest::Rm { names } => json(&self.user()?.remove(&names).await?),
            ControlRequest::Status => json(&self.status().await?),
            ControlRequest::Fat { digest, mirror } => self.fat(digest, mirror.as_deref()).await,
            ControlRequest::Lease { lease, vendor, mirror } => {
                self.lease(&lease, vendor.as_deref(), mirror.as_deref()).await
            }
            ControlRequest::Path { name } => json(&self.path(name.as_deref()).await?),
            ControlRequest::Recover => json(&self.recover().await?),
            ControlRequest::DeviceList => json(&self.devices()?),
        }
    }

    async fn list(&self, prefix: Option<&str>) -> Result<LsResult, CommandError> {
        let listing = self.user()?.list().await?;
        let age_seconds = listing.age.map(|age| age.as_secs_f64());
        let entry = |file: Listed| FileEntry {
            name: file.name,
            bytes: file.bytes,
            chunks: file.chunks,
            copies: file.copies,
            erasure: file.code.map(|code| code.to_string()),
            seq: file.counter,
            modified: file.modified.0,
            versions: file.versions,
        };
        let files = select(listing.files, prefix.unwrap_or_default())?;
        Ok(LsResult { files: files.into_iter().map(entry).collect(), age_seconds })
    }

    async fn status(&self) -> Result<StatusResult, CommandError> {
        let mirrors = self.net.book().mirrors();
        let seen = mirrors.into_iter().map(|mirror| async move {
            let reachable = self.net.call(mirror, &Request::Ping, PROBE).await.is_ok();
            let round_trip = self.net.book().behaviour(mirror).round_trip;
            let rtt_ms = round_trip.filter(|_| reachable).map(|time| time.as_secs_f64() * 1e3);
            MirrorSeen { node: mirror.to_string(), reachable, rtt_ms }
        });
        let user = self.user().ok();
        let user = user.map(|user| async move {
            let files = user.list().await.map_or(0, |listing| listing.files.len() as u64);
            let redundancy = user.redundancy().to_string();
            UserStatus { owner: user.owner().to_string(), files, redundancy, pending_puts: user.pending_puts() }
        });
        let (mirrors, user) = tokio::join!(futures::future::join_all(seen), futures::future::OptionFuture::from(user));
        Ok(StatusResult {
            node: self.net.me().to_string(),
            roles: self.role_names(),
            peers: self.net.overlay().connected().await.len() as u64,
            traffic: super::caps::status(self.net.overlay(), &self.config.node),
            mirrors,
            vendor: self.vendor_status()?,
            mirror: self.roles.mirror.as_ref().map(|mirror| mirror_status(mirror.digest())),
            user,
        })
    }

    fn vendor_status(&self) -> Result<Option<VendorStatus>, CommandError> {
        let Some(vendor) = &self.roles.vendor else { return Ok(None) };
        let status = serde_json::from_value(vendor.status());
        status.map(Some).map_err(|error| CommandError::new(ErrorKind::Other, error.to_string()))
    }

    fn devices(&self) -> Result<DevicesResult, CommandError> {
        match self.vendor_status()? {
            Some(status) => Ok(DevicesResult { devices: status.devices }),
            None => Err(CommandError::new(ErrorKind::Permission, "this node does not have the vendor role")
                .hint("add \"vendor\" to [node] roles in fathom.toml and restart the node")),
        }
    }

    /// The FAT of the mirror named, of this node if it is one, or of the best mirror.
    async fn fat(&self, only_digest: bool, mirror: Option<&str>) -> Result<Value, CommandError> {
        let asked = asked(mirror)?;
        if let Some(own) = &self.roles.mirror
            && asked.is_none_or(|asked| asked == self.net.me())
        {
            return if only_digest {
                json(&digest_result(own.digest()))
            } else {
                Ok(complete(&self.net, own.view()).await)
            };
        }
        let mirrors = match asked {
            Some(mirror) => vec![mirror],
            None => self.net.book().mirrors(),
        };
        let mut failure = CommandError::from(UserError::NoMirror(mirrors.len()));
        for mirror in mirrors {
            match self.fat_of(mirror, only_digest).await {
                Ok(value) => return Ok(value),
                Err(refusal) => failure = refused(refusal),
            }
        }
        Err(failure)
    }

    /// The story of the lease whose identifier begins with `prefix`, at `vendor` if one is named, from the mirror named, this node or
    /// any mirror.
    async fn lease(&self, prefix: &str, vendor: Option<&str>, mirror: Option<&str>) -> Result<Value, CommandError> {
        let (asked, sought) = (asked(mirror)?, lease::Sought::new(prefix, vendor)?);
        let files = match self.user() {
            // Without it the story is told all the same, but for the user's own files.
            Ok(user) => user.files_under(prefix).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        if let Some(own) = &self.roles.mirror
            && asked.is_none_or(|asked| asked == self.net.me())
        {
            let me = self.net.me();
            let wanted = lease::find(&sought, own.lease_ids(), &files)?;
            let answer = own.handle(me, lease::request(wanted)).await;
            let story = lease::evidence(answer).and_then(|evidence| lease::story(wanted, me, evidence, &files));
            return story.map_err(refused);
        }
        let mirrors = asked.map_or_else(|| self.net.book().mirrors(), |mirror| vec![mirror]);
        let mut failure = CommandError::from(UserError::NoMirror(mirrors.len()));
        for mirror in mirrors {
            match lease::at(&self.net, mirror, &sought, &files).await {
                // Which lease is meant is for the user to say.
                Err(error) if error.kind != ErrorKind::Usage => failure = error,
                answer => return answer,
            }
        }
        Err(failure)
    }

    async fn fat_of(&self, mirror: NodeId, only_digest: bool) -> Result<Value, Refusal> {
        let digest = fat::digest(&self.net, mirror).await?;
        if only_digest {
            return Ok(serde_json::to_value(digest_result(digest)).unwrap_or_default());
        }
        let vendors = fat::vendors(&self.net, mirror).await?;
        let proofs = fat::proofs(&self.net, mirror).await?;
        Ok(complete(&self.net, fat_view(mirror, &digest, &vendors, &proofs)).await)
    }

    async fn path(&self, name: Option<&str>) -> Result<PathResult, CommandError> {
        let user = self.user()?;
        Ok(user.explain(name).await?)
    }

    /// Reads the user's key anew and the list of files from the mirrors.
    async fn recover(&self) -> Result<RecoverResult, CommandError> {
        let known = self.user.read().unwrap_or_else(PoisonError::into_inner).clone();
        let secret = crate::identity::UserSecret::load(&self.home)?;
        let user = match known {
            Some(user) if user.owner() == secret.owner() => user,
            _ => {
                let Some(user) = open_user(&self.home, &self.config, &self.net).await? else {
                    return self.user().map(|_| RecoverResult::default());
                };
                *self.user.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&user));
                self.keep_renewing();
                user
            }
        };
        let files = user.list().await?.files;
        let bytes = files.iter().map(|file| file.bytes).sum();
        Ok(RecoverResult { owner: user.owner().to_string(), files: files.len() as u64, bytes })
    }
}

/// The mirror that a command names.
fn asked(mirror: Option<&str>) -> Result<Option<NodeId>, CommandError> {
    let parse = |text: &str| {
        text.parse().map_err(|error| {
            CommandError::new(ErrorKind::Usage, format!("{text} is no node: {error}"))
                .hint("`fathom status` lists the mirrors")
        })
    };
    mirror.map(parse).transpose()
}

fn mirror_status(digest: TableDigest) -> MirrorStatus {
    MirrorStatus {
        heads: digest.heads,
        leases: digest.leases,
        files: digest.files,
        moves: digest.moves,
        digest: digest.digest.to_string(),
    }
}

fn digest_result(digest: TableDigest) -> FatDigestResult {
    FatDigestResult {
        digest: digest.digest.to_string(),
        heads: digest.heads,
        leases: digest.leases,
        files: digest.files,
        moves: digest.moves,
    }
}

impl Commands for NodeCommands {
    fn run(
        self: Arc<Self>,
        request: ControlRequest,
        events: EventSink,
    ) -> BoxFuture<'static, Result<Value, CommandError>> {
        Box::pin(async move { Self::run(&self, request, events).await })
    }
}

/// How a file is to be stored; as the configuration says if nothing is asked for.
fn redundancy(copies: Option<usize>, erasure: Option<&str>) -> Result<Option<Redundancy>, CommandError> {
    let usage = |text: String| CommandError::new(ErrorKind::Usage, text);
    match (copies, erasure) {
        (Some(_), Some(_)) => {
            Err(usage("copies and erasure exclude each other".to_owned()).hint("give --copies N or --erasure k+m"))
        }
        (copies, None) => Ok(copies.map(Redundancy::Copies)),
        (None, Some(text)) => {
            let code = text.parse().map_err(|error| usage(format!("`{text}`: {error}")))?;
            Ok(Some(Redundancy::Erasure(code)))
        }
    }
}

/// What is asked of vendors, as it goes over the wire.
fn wants(wanted: Wanted) -> Result<Wants, CommandError> {
    let label = |text: String| {
        Text::new(text).map_err(|error| CommandError::new(ErrorKind::Usage, format!("a zone or medium: {error}")))
    };
    let zones = wanted.zones.into_iter().map(label).collect::<Result<Vec<_>, _>>()?;
    let zones = Bounded::new(zones).map_err(|error| CommandError::new(ErrorKind::Usage, format!("zones: {error}")))?;
    Ok(Wants {
        zones,
        media: wanted.media.map(label).transpose()?,
        bandwidth_min: wanted.bandwidth_mb_per_s.saturating_mul(1_000_000),
        latency_us_max: wanted.latency_ms.saturating_mul(1_000),
    })
}
