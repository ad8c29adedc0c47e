//! The play up to the final FAT and the migration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::put::{Outcome, USER, Watch, seek_locks};
use super::source::Source;
use super::tables::{self, list, text};
use super::{DemoError, DemoOptions, Report};
use crate::stage::{Stage, percent};
use crate::units::{bytes, count, mb_per_s, seconds};
use crate::{CliOutput, Net, Spec, Stopwatch, VendorOverride};

/// The name under which the source is stored.
pub(super) const NAME: &str = "demo";
/// The zone in which a vendor is killed, and the vendor in another that is overloaded.
const KILL_ZONE: &str = "zone-2";
const OVERLOADED: usize = 6;
/// The other vendor of that zone.
const NEIGHBOUR: usize = 3;
/// Capacity of these two in hundredths of the source. Each zone gets one copy, and the neighbour
/// cannot hold a whole one: at least a quarter of the source falls to the overloaded vendor.
const NEIGHBOUR_CAPACITY: u64 = 75;
const OVERLOADED_CAPACITY: u64 = 150;
/// A quarter of the source is 16 % of the overloaded vendor's capacity.
const OVERLOAD_PERCENT: u64 = 14;
const RELIEF_PERCENT: u64 = 10;
/// Devices of each vendor, and the quota of those that have room enough.
const DEVICES: u64 = 3;
const QUOTA: u64 = 1 << 30;
/// How long the mirrors may take to agree on something.
pub(super) const AGREEMENT: Duration = Duration::from_secs(30);
/// How long the migration may take.
const MIGRATION: Duration = Duration::from_secs(90);
/// What a transfer may take: some time, and the source at this many bytes per second.
const TRANSFER: Duration = Duration::from_secs(120);
const SLOWEST: u64 = 2_000_000;

/// A running demonstration.
pub(super) struct Play<'a> {
    pub(super) stage: &'a Stage,
    pub(super) net: Net,
    pub(super) source: Source,
    pub(super) work: PathBuf,
    pub(super) mirrors: Vec<String>,
    pub(super) report: Report,
}

/// Says what this is about.
pub(super) fn prologue(stage: &Stage) {
    stage.print("Fathom: storage among peers\n");
    stage.say(
        "Vendors offer the storage of the devices on their network. Mirrors keep a common table of all \
         of it, the File Allocation Table (FAT). Users encrypt their data, lock storage, and send \
         each chunk from vendor to vendor; later they fetch it from several vendors at once, even after \
         it has moved. All of this now happens on this machine, between real processes that speak \
         QUIC to each other. The figures are those of the design.",
    );
}

impl<'a> Play<'a> {
    /// Starts the network.
    pub(super) fn open(
        options: &DemoOptions,
        stage: &'a Stage,
        work: &Path,
        source: Source,
    ) -> Result<Self, DemoError> {
        stage.step(
            "",
            "A network of one's own",
            "Starting a bootstrap node through which the others find each other, 3 mirrors, 6 vendors in \
             3 zones with 3 devices each, and a user.",
        );
        let watch = Stopwatch::start();
        let mut spec = spec(source.bytes);
        spec.cancel = options.cancel.clone();
        let net = Net::up(&options.binary, &work.join("net"), spec)?;
        let processes = count(net.nodes().len() as u64, "process is", "processes are");
        stage.done(&format!("{processes} ready after {}", seconds(watch.elapsed())));
        let mirrors = net.with_role("mirror").map(|node| node.name.clone()).collect();
        let report = Report {
            files: source.sums.len() as u64,
            bytes: source.bytes,
            overloaded: format!("vendor-{OVERLOADED}"),
            ..Report::default()
        };
        Ok(Self { stage, net, source, work: work.to_owned(), mirrors, report })
    }

    pub(super) fn figures_1_to_4(&mut self) -> Result<(), DemoError> {
        self.stage.step(
            "Figures 1-4",
            "Devices report to vendors, vendors to mirrors, mirrors compile the FAT",
            "Each vendor signed what its devices have to offer. Every mirror checked the signatures and \
             holds the same table; this is what the first one says.",
        );
        let fat = self.fat(0)?;
        tables::vendors(self.stage, &self.net, &fat.json);
        let digest = self.equal_digests()?;
        let mirrors = self.mirrors.len();
        self.stage.done(&format!("all {mirrors} mirrors have the same FAT: digest {digest}"));
        Ok(())
    }

    pub(super) fn figures_5_to_14(&mut self) -> Result<(), DemoError> {
        let files = count(self.report.files, "file", "files");
        self.stage.step(
            "Figures 5-14",
            &format!("Storing {files}, {}", bytes(self.source.bytes)),
            &format!("This is {}. Three copies of everything are made.", self.source.description),
        );
        let time = Stopwatch::start();
        let (answer, outcome) = self.put()?;
        let time = time.elapsed();
        self.report.put_seconds = time.as_secs_f64();
        self.report.put_mb_per_s = mb_per_s(self.source.bytes, time);
        self.report.chunks = answer.u64_at("/chunks")?;
        self.report.killed.clone_from(&outcome.killed);
        let chunks = count(self.report.chunks, "chunk", "chunks");
        let rate = self.report.put_mb_per_s;
        self.stage.done(&format!("{chunks} stored in {} ({rate:.0} MB/s)", seconds(time)));
        self.show_replaced(&answer, outcome)
    }

    fn put(&self) -> Result<(CliOutput, Outcome), DemoError> {
        let path = self.source.path.to_string_lossy().into_owned();
        let name = match self.source.path.file_name() {
            Some(file) if self.source.is_file => format!("{NAME}/{}", file.to_string_lossy()),
            _ => NAME.to_owned(),
        };
        let args = ["put", &path, "--as", &name, "--progress"];
        let measured = self.net.cli(USER, &["path"])?.ok()?.json;
        let (net, mirror) = (&self.net, self.mirrors[0].as_str());
        let (sender, locks) = sync_channel(1);
        let over = AtomicBool::new(false);
        let mut watch = Watch::new(net, self.stage, KILL_ZONE, &measured, locks, self.source.bytes);
        let answer = thread::scope(|scope| {
            scope.spawn(|| seek_locks(net, mirror, &over, &sender));
            let answer = net.cli_with(USER, &args, b"", self.transfer_limit(), |e| watch.see(e));
            over.store(true, Ordering::SeqCst);
            answer
        });
        let outcome = watch.finish();
        // A put that failed says more than what was missed while it ran.
        let answer = answer?.ok()?;
        Ok((answer, outcome?))
    }

    fn show_replaced(&mut self, answer: &CliOutput, outcome: Outcome) -> Result<(), DemoError> {
        let killed = outcome.killed;
        self.stage.step(
            "Figure 14",
            "A failed location is replaced",
            &format!(
                "{killed} stopped answering in the middle. The user saw which copies got no receipt, \
                 locked storage elsewhere, and sent just those copies again."
            ),
        );
        // The answer has all of them, the events may be a sample.
        let listed = list(&answer.json, "replaced");
        let mut replaced = BTreeMap::new();
        for copy in listed {
            let key = (self.net.name_of(text(copy, "vendor")), text(copy, "reason").to_owned());
            *replaced.entry(key).or_insert(0) += 1;
        }
        if replaced.is_empty() {
            replaced = outcome.replaced;
        }
        let copies: u64 = replaced.values().sum();
        let row = |((vendor, reason), copies): (&(String, String), &u64)| {
            vec![vendor.clone(), copies.to_string(), reason.clone()]
        };
        let rows: Vec<_> = replaced.iter().map(row).collect();
        self.stage.table(&["vendor", "copies replaced", "reason"], &rows, &[1]);
        self.report.replaced_copies = copies;
        if copies == 0 {
            let text = format!("{killed} was killed during the put, but no copy was replaced");
            return Err(DemoError::NotShown(text));
        }
        let copies = count(copies, "copy was", "copies were");
        self.stage.done(&format!("{copies} sent elsewhere; the put did not fail"));
        Ok(())
    }

    pub(super) fn figure_15(&mut self) -> Result<(), DemoError> {
        self.stage.step(
            "Figure 15",
            "The final FAT",
            "The user compiled the final FAT, which says where each chunk is, sealed what only the user may \
             read, signed the rest and handed it to the mirrors. What was locked but not used is \
             released.",
        );
        let files = self.report.files;
        let what = format!("all mirrors hold the final FAT of {files} files");
        self.net.wait_for(AGREEMENT, &what, || {
            for mirror in &self.mirrors {
                if self.net.cli(mirror, &["fat"])?.ok()?.u64_at("/files")? < files {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        let fat = self.fat(0)?;
        tables::vendors(self.stage, &self.net, &fat.json);
        self.stage.done(&what);
        Ok(())
    }

    pub(super) fn figures_15b_to_e(&mut self) -> Result<(), DemoError> {
        let name = format!("vendor-{OVERLOADED}");
        self.stage.step(
            "Figures 15b-e",
            "An overloaded vendor moves data elsewhere",
            &format!(
                "{name} was told to hold at most {OVERLOAD_PERCENT} % of its space, and the put took it \
                 over that. It locks storage at another vendor, sends chunks there by an ordinary header, \
                 both sign the move, the mirrors note it in the user's final FAT, and only then \
                 it erases its own."
            ),
        );
        let what = format!("{name} has moved chunks away and is below {RELIEF_PERCENT} %");
        let (used, capacity) = self.net.wait_for(MIGRATION, &what, || {
            let status = self.net.cli(&name, &["status"])?.ok()?;
            let used = status.u64_at("/vendor/used")?;
            let capacity = status.u64_at("/vendor/capacity")?;
            let relieved = used.saturating_mul(100) <= capacity.saturating_mul(RELIEF_PERCENT);
            let moved = status.u64_at("/vendor/migrations")? > 0;
            Ok((moved && relieved).then_some((used, capacity)))
        })?;
        let share = percent(used, capacity);
        self.stage.done(&format!("{name} is down to {} ({share} %)", bytes(used)));
        let moves = self.net.wait_for(AGREEMENT, "all mirrors know of the moves", || {
            let mut least = u64::MAX;
            for mirror in &self.mirrors {
                least = least.min(self.net.cli(mirror, &["fat"])?.ok()?.u64_at("/moves")?);
            }
            Ok((least > 0).then_some(least))
        })?;
        self.report.moved_chunks = moves;
        let moved = count(moves, "chunk", "chunks");
        self.stage.done(&format!("{moved} moved, and every mirror knows where to"));
        Ok(())
    }

    /// The FAT of the mirror with this index.
    pub(super) fn fat(&self, mirror: usize) -> Result<CliOutput, DemoError> {
        Ok(self.net.cli(&self.mirrors[mirror], &["fat"])?.ok()?)
    }

    /// Waits until all mirrors have the same digest, and returns its beginning.
    pub(super) fn equal_digests(&self) -> Result<String, DemoError> {
        let digest = self.net.wait_for(AGREEMENT, "all mirrors have the same FAT", || {
            let mut digests = Vec::new();
            for mirror in &self.mirrors {
                let answer = self.net.cli(mirror, &["fat", "--digest"])?.ok()?;
                digests.push(answer.str_at("/digest")?.to_owned());
            }
            digests.dedup();
            Ok(if digests.len() == 1 { digests.pop() } else { None })
        })?;
        Ok(digest.chars().take(16).collect())
    }

    /// How long a transfer of the whole source may take.
    pub(super) fn transfer_limit(&self) -> Duration {
        TRANSFER + Duration::from_secs(self.source.bytes / SLOWEST)
    }

    /// The names of all files that the user has.
    pub(super) fn files_of(&self, user: &str) -> Result<Vec<(String, u64)>, DemoError> {
        let answer = self.net.cli(user, &["ls"])?.ok()?;
        let file = |file: &Value| (text(file, "name").to_owned(), file["bytes"].as_u64().unwrap_or(u64::MAX));
        Ok(answer.list_at("/files")?.iter().map(file).collect())
    }
}

/// The network for a source of `total` bytes: roomy vendors, except for two.
fn spec(total: u64) -> Spec {
    let set = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let device = |percent: u64| Some((total * percent).div_ceil(100 * DEVICES));
    let neighbour = VendorOverride { device_quota: device(NEIGHBOUR_CAPACITY), ..VendorOverride::default() };
    let overloaded = VendorOverride {
        device_quota: device(OVERLOADED_CAPACITY),
        set: set(&[
            ("vendor.overload_percent", &OVERLOAD_PERCENT.to_string()),
            ("vendor.relief_percent", &RELIEF_PERCENT.to_string()),
        ]),
        ..VendorOverride::default()
    };
    // The neighbour may fill up to the brim: it must not be the one that sheds load.
    let neighbour = VendorOverride { set: set(&[("vendor.overload_percent", "100")]), ..neighbour };
    Spec {
        network: "demo".to_owned(),
        device_quota: QUOTA.max(total),
        vendor_set: set(&[("vendor.report_seconds", "1"), ("vendor.hold_seconds", "1")]),
        mirror_set: set(&[("mirror.poll_seconds", "1")]),
        overrides: BTreeMap::from([(NEIGHBOUR, neighbour), (OVERLOADED, overloaded)]),
        exit_with_parent: true,
        ..Spec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps away: a demonstration in which the overload depends on which vendor was preferred.
    #[test]
    fn the_overload_follows_from_the_sizes_alone() {
        for total in [64 << 20, 256 << 20, 10 << 30] {
            let spec = spec(total);
            let capacity = |number| {
                let vendor = spec.vendor(number);
                vendor.device_quota * vendor.devices as u64
            };
            assert_eq!(spec.vendor(NEIGHBOUR).zone, spec.vendor(OVERLOADED).zone);
            assert_ne!(spec.vendor(OVERLOADED).zone, KILL_ZONE);
            let least = total - capacity(NEIGHBOUR);
            assert!(least * 100 > capacity(OVERLOADED) * OVERLOAD_PERCENT);
            // One whole copy fits into each zone, even with a vendor of it gone.
            assert!(capacity(OVERLOADED) + capacity(NEIGHBOUR) > total * 2);
            assert!((1..=5).filter(|n| *n != NEIGHBOUR).all(|n| capacity(n) > total * 2));
        }
    }
}
