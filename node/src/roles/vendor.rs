//! The vendor: it offers the storage of its devices, takes chunks and passes them on, serves them, moves them away when it
//! is overloaded, and erases what their owners release.
//!
//! One rule orders everything here (invariant 4): what a signature says is on disk before the signature leaves. Leases live
//! in the [`Ledger`], chunks in the [`LocalFat`]; each change of either is made in one blocking closure that runs to its end
//! whatever becomes of the task that asked for it, so a cancelled or broken stream leaves no half-made change.
//!
//! | file | figures | what |
//! |---|---|---|
//! | `ingest`, `body`, `forward` | 11 to 13 | a chunk comes in, is stored, and goes on to the next hop |
//! | `serve` | 19 | a chunk goes out |
//! | `shards` | - | a lost shard is made of others, at its owner's order and without a key |
//! | `requests`, `orders` | 6, 15, 22 | offers, final FATs, moves, validations |
//! | `report`, `links` | 1 to 3 | devices to vendor, vendor to mirrors; how fast its link is, and where it is |
//! | `readopt` | - | leases taken back after a restore from a backup |
//! | `migrate`, `rehome` | 15b to 15e | away with data when there is too much |
//! | `polling`, `expiry` | 22 | what was missed while away, and what has lapsed |
//! | `rebuild`, `inspect` | | a local FAT that is damaged, and one that is looked at from outside |

mod accounts;
mod body;
mod expiry;
mod forward;
mod ingest;
mod inspect;
mod keep;
mod links;
mod migrate;
mod orders;
mod polling;
mod readopt;
mod rebuild;
mod rehome;
mod report;
mod requests;
mod returns;
mod serve;
mod shards;
mod transfers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use fathom_protocol::caught_up::CaughtUp;
use fathom_protocol::clocks::Clocks;
use fathom_protocol::codec;
use fathom_protocol::delta::HeadId;
use fathom_protocol::familiar::Familiar;
use fathom_protocol::fork::Offence;
use fathom_protocol::ids::NodeId;
use fathom_protocol::lease::{Lease, LeaseState};
use fathom_protocol::ledger::{Ledger, Terms};
use fathom_protocol::rehome::Thresholds;
use fathom_protocol::sign::{Carried, Record, RecordError};
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Refusal, RefusalKind};
use fathom_store::{
    ChunkKey, Device, DeviceError, DeviceReport, DeviceSet, DirectoryConfig, DirectoryDevice, FatError, LocalFat,
    PACK_BYTES_MAX, SetConfig, StoreError,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::net::Net;
use accounts::Persisted;
pub(crate) use inspect::inspect;
use links::OwnLink;
use migrate::Leaving;
use transfers::Transfers;

/// The local FAT's file in the vendor's directory.
const FAT_FILE: &str = "local-fat.redb";
/// Leases that are remembered as verified.
const FAMILIAR: usize = 4_096;
/// Name in the local FAT of the number of chunks that were moved away.
const MIGRATIONS_KEY: &str = "migrations";
/// Name in the local FAT of the note that the devices held parts before it was made.
const UNADOPTED_KEY: &str = "unadopted";

/// How a vendor is run.
#[derive(Clone, Debug)]
pub struct VendorSettings {
    /// Failure domain, such as a town.
    pub zone: String,
    /// Who runs it.
    pub operator: String,
    /// How often the devices are asked for their figures, in seconds.
    pub report_seconds: u64,
    /// How long a chunk that was moved away is kept, in seconds.
    pub hold_seconds: u64,
    /// Stored share of the capacity from which on chunks are moved away, in per cent.
    pub overload_percent: u8,
    /// Stored share of the capacity at which that ends, in per cent.
    pub relief_percent: u8,
    /// Transfer rate from which on chunks are moved away, in MB/s (10^6 bytes); 0 for none.
    pub bandwidth_mb_per_s: u64,
    /// Directories, with quota and reserve in bytes.
    pub devices: Vec<(PathBuf, u64, u64)>,
    /// How long leases last.
    pub terms: Terms,
}

impl VendorSettings {
    fn thresholds(&self) -> Thresholds {
        Thresholds { overload_percent: self.overload_percent, relief_percent: self.relief_percent }
    }
}

/// Why a vendor did not start. Texts follow "the vendor failed to start: ".
#[derive(Debug, thiserror::Error)]
pub enum VendorError {
    /// The local FAT cannot be used.
    #[error("the local FAT failed to {0}")]
    Fat(#[from] FatError),
    /// A device cannot be used.
    #[error("the device failed to {0}")]
    Device(#[from] DeviceError),
    /// The devices cannot be used together.
    #[error("it failed to {0}")]
    Devices(#[from] StoreError),
    /// A record in the local FAT is not this vendor's.
    #[error("a record of its own did not verify ({0}); is this the key that the directory was made with?")]
    Record(#[from] RecordError),
}

/// The vendor role of one node.
pub struct Vendor {
    me: NodeId,
    net: Net,
    settings: VendorSettings,
    up_since: UnixMs,
    fat: LocalFat,
    devices: DeviceSet,
    ledger: Mutex<Ledger>,
    persisted: Mutex<Persisted>,
    /// The newest head in the local FAT.
    head: Mutex<HeadId>,
    /// Held for reading while a chunk's parts and its entry are made.
    storing: RwLock<()>,
    /// Mirrors may know more than this disk: they were not asked yet, or leases are being taken back.
    out_of_step: watch::Sender<bool>,
    /// Another node signs with this vendor's key.
    elsewhere: AtomicBool,
    /// What mirrors hold a proof of against this vendor.
    proven: Mutex<Option<Offence>>,
    /// Held while a final FAT is acted on.
    ordering: Mutex<()>,
    /// Something that the head tells has changed.
    changed: Notify,
    transfers: Transfers,
    link: OwnLink,
    /// What the mirrors say the time is; it goes on by `started`.
    clocks: Mutex<Clocks>,
    started: std::time::Instant,
    /// When each mirror's orders were read to their end, by `started`.
    caught_up: Mutex<CaughtUp>,
    /// Chunks whose bytes were found damaged in this run.
    damaged: Mutex<BTreeSet<ChunkKey>>,
    /// Whether a device is away: its capacity is missing, and its data is not.
    device_away: AtomicBool,
    /// Vendors that hold a copy of a chunk which was to be moved there, while this one is overloaded.
    held_at: Mutex<BTreeMap<ChunkKey, BTreeSet<NodeId>>>,
    migrations: AtomicU64,
    /// Chunks that were moved away and are kept for their hold time.
    leaving: Mutex<BTreeMap<ChunkKey, Leaving>>,
    /// Chunks that were moved here, since it was last asked whether a mirror has the move.
    unconfirmed: Mutex<BTreeMap<ChunkKey, std::time::Instant>>,
    /// There may be moves that no mirror has taken yet.
    moves_open: AtomicBool,
    /// Leases that chunks came under a moment ago.
    familiar: Familiar,
    /// Downloads that users confirmed, and chunks that they found bad, in this run.
    validated: AtomicU64,
    invalidated: AtomicU64,
}

impl std::fmt::Debug for Vendor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vendor({})", self.me.short())
    }
}

/// The value behind a lock; a panic elsewhere does not make it worse.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The refusal for a local FAT that failed.
fn fat_refusal(error: &FatError) -> Refusal {
    let kind = match error {
        FatError::NoSpace { .. } => RefusalKind::NoSpace,
        FatError::OverLease { .. } => RefusalKind::OverLease,
        FatError::NoLease { .. } => RefusalKind::UnknownLease,
        FatError::NoChunk { .. } => RefusalKind::NotFound,
        _ => {
            tracing::error!(%error, "the local FAT failed");
            RefusalKind::Internal
        }
    };
    Refusal::new(kind, format!("the local FAT failed to {error}"))
}

/// The refusal for devices that failed.
fn store_refusal(error: &StoreError) -> Refusal {
    let kind = match error {
        StoreError::NoSpace { .. } => RefusalKind::NoSpace,
        StoreError::Unavailable { .. } | StoreError::Silent { .. } => RefusalKind::Busy,
        StoreError::Part { source: DeviceError::Corrupt { .. } | DeviceError::NotFound { .. }, .. } => {
            RefusalKind::Corrupt
        }
        StoreError::Part { source: DeviceError::Suspended { .. }, .. } => RefusalKind::Busy,
        _ => RefusalKind::Internal,
    };
    Refusal::new(kind, format!("the vendor failed to {error}"))
}

/// The refusal for a blocking task that panicked or was dropped at shutdown.
fn join_refusal(error: &tokio::task::JoinError) -> Refusal {
    tracing::error!(%error, "a blocking task failed");
    Refusal::new(RefusalKind::Internal, "the vendor failed; its log says more")
}

impl Vendor {
    /// Opens the vendor whose local FAT is in `dir`, which is made anew if it is damaged: opens its devices, recomputes what each
    /// lease uses, and finishes erases that were cut short. Blocks; the time grows with the number of chunks.
    ///
    /// # Errors
    /// [`VendorError`].
    pub fn open(dir: &Path, net: Net, settings: VendorSettings) -> Result<Arc<Self>, VendorError> {
        let fat = rebuild::open(&dir.join(FAT_FILE))?;
        let me = net.me();
        let mut devices: Vec<Arc<dyn Device>> = Vec::new();
        for (path, quota, reserve) in &settings.devices {
            let config = DirectoryConfig {
                path: path.clone(),
                quota: *quota,
                reserve: *reserve,
                pack_bytes_max: PACK_BYTES_MAX,
            };
            let known = fat.device_at(path)?;
            let device = DirectoryDevice::open(config, me, known)?;
            if known.is_none() {
                fat.put_device(path, device.id())?;
            }
            devices.push(Arc::new(device));
        }
        let devices = DeviceSet::new(devices, SetConfig::default())?;
        Self::over(net, settings, fat, devices)
    }

    /// A vendor over an open local FAT and devices.
    fn over(net: Net, settings: VendorSettings, fat: LocalFat, devices: DeviceSet) -> Result<Arc<Self>, VendorError> {
        let head = report::read_head(&fat)?;
        let entered = note_unadopted(&fat, &devices, head.seq == 0)?;
        let leases = read_leases(&fat)?;
        let capacity = capacity(&devices.report());
        let mut ledger = Ledger::open(net.key().clone(), settings.terms, capacity, leases)?;
        let persisted = Persisted::of(&fat)?;
        if entered || persisted.doubts() {
            ledger.doubt_all();
        }
        let migrations = fat.kv(MIGRATIONS_KEY)?.and_then(|value| Some(u64::from_be_bytes(value.try_into().ok()?)));
        Ok(Arc::new(Self {
            me: net.me(),
            net,
            settings,
            up_since: clock::now(),
            fat,
            devices,
            ledger: Mutex::new(ledger),
            persisted: Mutex::new(persisted),
            head: Mutex::new(head),
            storing: RwLock::default(),
            out_of_step: watch::Sender::new(false),
            elsewhere: AtomicBool::new(false),
            proven: Mutex::default(),
            ordering: Mutex::default(),
            changed: Notify::new(),
            transfers: Transfers::new(),
            link: OwnLink::default(),
            clocks: Mutex::default(),
            started: std::time::Instant::now(),
            caught_up: Mutex::default(),
            damaged: Mutex::default(),
            device_away: AtomicBool::new(false),
            held_at: Mutex::default(),
            migrations: AtomicU64::new(migrations.unwrap_or(0)),
            leaving: Mutex::default(),
            unconfirmed: Mutex::default(),
            moves_open: AtomicBool::new(true),
            familiar: Familiar::new(FAMILIAR),
            validated: AtomicU64::new(0),
            invalidated: AtomicU64::new(0),
        }))
    }

    /// Works until `cancel`: reports, asks mirrors for orders, lets time pass, and moves chunks away when it must.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let work = async {
            tokio::join!(
                self.reporting(),
                self.watching_devices(),
                self.polling(),
                self.expiring(),
                self.migrating(),
                self.metering(),
                self.measuring(),
                self.placing(),
            )
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            _ = work => {}
        }
    }

    /// The `vendor` part of `fathom status --json`.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let (capacity, locked, used, free) = {
            let ledger = lock(&self.ledger);
            let used: u64 = ledger.leases().map(|lease| lease.used).sum();
            (ledger.capacity(), ledger.leased(), used, ledger.free())
        };
        let devices: Vec<serde_json::Value> = self.devices.report().iter().map(device_json).collect();
        serde_json::json!({
            "capacity": capacity,
            "locked": locked,
            "used": used,
            "free": free,
            "chunks": self.fat.totals().unwrap_or_default().chunks,
            "devices": devices,
            "migrations": self.migrations.load(Ordering::Relaxed),
            "damaged": lock(&self.damaged).len(),
            "validated": self.validated.load(Ordering::Relaxed),
            "invalidated": self.invalidated.load(Ordering::Relaxed),
            "warning": self.warning(),
        })
    }

    /// Says that the head is out of date.
    fn touch(&self) {
        self.changed.notify_one();
    }

    /// Runs `work` on a blocking thread, to its end even if the caller is gone.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let vendor = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&vendor)).await {
            Ok(result) => result,
            Err(error) => Err(join_refusal(&error)),
        }
    }
}

fn device_json(report: &DeviceReport) -> serde_json::Value {
    serde_json::json!({
        "id": report.id.to_string(),
        "path": report.path.to_string_lossy(),
        "quota": report.quota,
        "used": report.used,
        "free": report.free,
        "state": report.state.as_str(),
        "parts": report.parts,
    })
}

/// What the devices offer together, in bytes: what is stored and what still fits, each within its quota.
fn capacity(reports: &[DeviceReport]) -> u64 {
    reports.iter().map(|report| report.used.saturating_add(report.free).min(report.quota)).sum()
}

/// Finishes erases that were cut short, and notes if the local FAT was made after what the devices hold: what it has leases for
/// is entered at once, the rest when mirrors have said which leases there were ([`readopt`]). Returns whether anything may have
/// been entered, dated by the wall clock.
fn note_unadopted(fat: &LocalFat, devices: &DeviceSet, new: bool) -> Result<bool, VendorError> {
    if new && devices.report().iter().any(|report| report.parts > 0) {
        fat.put_many(&[(UNADOPTED_KEY, &[])])?;
    }
    fat.finish_erases(devices)?;
    let unadopted = fat.kv(UNADOPTED_KEY)?.is_some();
    if unadopted {
        rebuild::enter(fat, devices)?;
    }
    Ok(unadopted)
}

/// Removes parts that a crash left behind. Only once it is known that this local FAT is not older than the devices: what looks
/// like an orphan to one that was lost or restored is somebody's data.
fn tidy(fat: &LocalFat, devices: &DeviceSet) -> Result<(), VendorError> {
    if fat.kv(UNADOPTED_KEY)?.is_some() {
        tracing::warn!("the local FAT was made after what the devices hold: parts that it does not know are kept");
        return Ok(());
    }
    let report = fat.recover(devices)?;
    if report.orphans > 0 || !report.missing.is_empty() {
        let missing = report.missing.len();
        tracing::warn!(orphans = report.orphans, missing, "parts without an entry removed, and parts missing");
    }
    Ok(())
}

/// The leases as the local FAT has them, with `used` as its chunks say.
fn read_leases(fat: &LocalFat) -> Result<Vec<Lease>, VendorError> {
    let mut leases = Vec::new();
    for (_, entry) in fat.leases()? {
        let carried: Carried<Lease> = codec::decode(&entry.signed, 2 * Lease::BYTES_MAX).map_err(RecordError::from)?;
        let mut lease = carried.verify()?.into_value();
        lease.used = entry.used;
        lease.bytes = lease.bytes.max(entry.used);
        if matches!(lease.state, LeaseState::Committed | LeaseState::Grace) {
            // An erase that was cut short had freed these bytes already.
            lease.bytes = entry.used;
        }
        lease.revision += 1;
        leases.push(lease);
    }
    leases.retain(|lease| lease.bytes > 0);
    Ok(leases)
}
