//! The rest of the play: another machine, the download, the release and the erase.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::events::Event;
use super::put::USER;
use super::script::{NAME, Play};
use super::tables::{list, text};
use super::{DemoError, Report, tree};
use crate::stage::percent;
use crate::units::{bytes, count, mb_per_s, seconds};
use crate::{NodeHandle, Stopwatch, TestnetError};

/// How long the vendors may take to erase everything.
const ERASE: Duration = Duration::from_secs(90);
/// Names that are given to one `rm`.
const NAMES_AT_ONCE: usize = 100;
/// The user on another machine.
const OTHER_USER: &str = "user-2";

impl Play<'_> {
    pub(super) fn figures_16_to_19(&mut self) -> Result<(), DemoError> {
        self.stage.step(
            "Figure 16",
            "The user logs on from an empty machine",
            "Here is a second node, which has nothing but the 24 words of the first user's recovery \
             phrase. From them it derives all keys, and asks the mirrors for the authoritative FAT: every \
             file, every duplicate, and where moved chunks are now.",
        );
        let Some(phrase) = self.net.phrase(USER).map(str::to_owned) else {
            let text = "`fathom init --role user` showed no recovery phrase";
            return Err(DemoError::NotShown(text.to_owned()));
        };
        self.net.add_user(OTHER_USER, Some(&phrase), &[])?;
        let files = self.files_of(OTHER_USER)?;
        if files.len() != self.source.sums.len() {
            let (stored, found) = (self.source.sums.len(), files.len());
            let line = format!("{stored} files were stored, {found} are listed");
            return Err(DemoError::Differs(vec![line]));
        }
        self.stage.done(&format!("{} listed", count(files.len() as u64, "file is", "files are")));
        self.stage.step(
            "Figures 17-19",
            "Fetching everything, from several vendors at once",
            &format!(
                "The user searches the best sources anew; {} is still dead. Each range is checked \
                 as it comes, and each vendor is told the result.",
                self.report.killed
            ),
        );
        self.fetch()?;
        let fetched = tree::sums(&self.work.join("fetched"))?;
        let differences = tree::differences(&self.source.sums, &fetched);
        if !differences.is_empty() {
            return Err(DemoError::Differs(differences));
        }
        self.report.every_byte_identical = true;
        let files = count(self.report.files, "file", "files");
        self.stage.done(&format!("{files}, {}: every byte identical", bytes(self.source.bytes)));
        Ok(())
    }

    fn fetch(&mut self) -> Result<(), DemoError> {
        let out = self.work.join("fetched").to_string_lossy().into_owned();
        let args = ["get", NAME, "-o", &out, "--progress"];
        let mut progress = self.stage.progress("fetched", self.source.bytes);
        let time = Stopwatch::start();
        let answer = self.net.cli_with(OTHER_USER, &args, b"", self.transfer_limit(), |event| {
            if let Event::Progress { bytes, total, .. } = Event::parse(event) {
                progress.set(bytes, total);
            }
        });
        progress.finish();
        let answer = answer?.ok()?;
        let time = time.elapsed();
        self.report.get_seconds = time.as_secs_f64();
        self.report.get_mb_per_s = mb_per_s(self.source.bytes, time);
        let by_vendor = answer.json.get("by_vendor").and_then(Value::as_object);
        let total: u64 = by_vendor.into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        let row = |(vendor, figure): (&String, &Value)| {
            let part = figure.as_u64().unwrap_or(0);
            vec![self.net.name_of(vendor), bytes(part), format!("{} %", percent(part, total))]
        };
        let mut rows: Vec<_> = by_vendor.into_iter().flatten().map(row).collect();
        rows.sort();
        self.stage.table(&["vendor", "fetched from it", "share"], &rows, &[1, 2]);
        let mut failed = BTreeMap::new();
        for source in list(&answer.json, "failed_sources") {
            failed.insert(self.net.name_of(text(source, "vendor")), text(source, "reason"));
        }
        for (vendor, reason) in failed {
            self.stage.print(&format!("  {vendor} was of no use: {reason}"));
        }
        let rate = self.report.get_mb_per_s;
        self.stage.done(&format!("fetched in {} ({rate:.0} MB/s)", seconds(time)));
        Ok(())
    }

    pub(super) fn figures_20_to_22(&mut self) -> Result<(), DemoError> {
        let killed = self.report.killed.clone();
        self.stage.step(
            "Figures 20-22",
            "Release: mirrors free the space, vendors erase",
            &format!(
                "{killed} is started again; it still holds what it had acknowledged before it was \
                 killed. Then the user releases everything: one file by `get --release`, which fetches and \
                 frees in one go, the others by `rm`. The mirrors free the space and tell the vendors, \
                 which erase."
            ),
        );
        self.net.start(&killed)?;
        self.release()?;
        let left = self.files_of(USER)?.len() + self.files_of(OTHER_USER)?.len();
        if left > 0 {
            return Err(DemoError::NotShown(format!("{left} files are listed after the release")));
        }
        self.stage.done("neither of the user's nodes lists a file any more");
        self.await_empty()?;
        self.report.devices_empty = true;
        let devices: usize = self.net.with_role("vendor").map(|node| node.devices.len()).sum();
        let vendors = self.net.with_role("vendor").count();
        self.stage.done(&format!("all {devices} devices of {vendors} vendors are empty again, {killed} included"));
        let digest = self.equal_digests()?;
        self.report.fat_digests_equal = true;
        let mirrors = self.mirrors.len();
        self.stage.done(&format!("all {mirrors} mirrors have the same FAT: digest {digest}"));
        Ok(())
    }

    /// Fetches and frees the smallest file, frees all others.
    fn release(&self) -> Result<(), DemoError> {
        let mut files = self.files_of(OTHER_USER)?;
        files.sort_by(|one, two| (one.1, &one.0).cmp(&(two.1, &two.0)));
        let mut names = files.iter().map(|(name, _)| name.as_str());
        let Some(first) = names.next() else {
            return Ok(());
        };
        let out = self.work.join("released").to_string_lossy().into_owned();
        let args = ["get", first, "-o", &out, "--release"];
        self.net.cli_with(OTHER_USER, &args, b"", self.transfer_limit(), |_| {})?.ok()?;
        let names: Vec<_> = names.collect();
        for names in names.chunks(NAMES_AT_ONCE) {
            let args: Vec<_> = std::iter::once("rm").chain(names.iter().copied()).collect();
            self.net.cli(OTHER_USER, &args)?.ok()?;
        }
        Ok(())
    }

    /// Waits until no vendor uses a byte and no device holds a file.
    fn await_empty(&self) -> Result<(), DemoError> {
        let mut last = Vec::new();
        let waited = self.net.wait_for(ERASE, "all devices are empty", || {
            last.clear();
            for vendor in self.net.with_role("vendor") {
                let used = self.net.cli(&vendor.name, &["status"])?.ok()?.u64_at("/vendor/used")?;
                let (files, size) = parts(vendor);
                if used > 0 || files > 0 {
                    last.push(format!(
                        "{} says {} are used, its devices hold {} of {}",
                        vendor.name,
                        bytes(used),
                        count(files, "file", "files"),
                        bytes(size)
                    ));
                }
            }
            Ok(last.is_empty().then_some(()))
        });
        match waited {
            Err(TestnetError::Deadline { seconds, .. }) => Err(DemoError::NotShown(format!(
                "the devices are not empty {seconds} s after the release:\n  {}",
                last.join("\n  ")
            ))),
            other => Ok(other?),
        }
    }

    /// Ends the network and sums up.
    pub(super) fn close(mut self, watch: Stopwatch) -> Result<Report, DemoError> {
        let stragglers = self.net.down()?;
        if !stragglers.is_empty() {
            let text = format!("{} did not end when asked to", stragglers.join(", "));
            return Err(DemoError::NotShown(text));
        }
        self.report.seconds = watch.elapsed().as_secs_f64();
        let report = &self.report;
        self.stage.step("", "Summary", "");
        let line = |what: &str, figure: String| vec![what.to_owned(), figure];
        let rate = |time: f64, rate: f64| format!("{time:.1} s, {rate:.0} MB/s");
        let rows = [
            line("stored", format!("{} in {} files", bytes(report.bytes), report.files)),
            line("put", rate(report.put_seconds, report.put_mb_per_s)),
            line("get", rate(report.get_seconds, report.get_mb_per_s)),
            line("replaced copies", format!("{} ({} killed)", report.replaced_copies, report.killed)),
            line("moved chunks", format!("{} ({} overloaded)", report.moved_chunks, report.overloaded)),
            line("comparison", "every byte identical".to_owned()),
            line("after the release", "devices empty, FAT digests equal".to_owned()),
            line("in all", format!("{:.1} s", report.seconds)),
        ];
        self.stage.table(&["what", "result"], &rows, &[]);
        Ok(self.report)
    }
}

/// Files and bytes in the part stores of a vendor's devices.
fn parts(vendor: &NodeHandle) -> (u64, u64) {
    let used = vendor.devices.iter().map(|device: &std::path::PathBuf| {
        let dir: &Path = device;
        ["parts", "packs"].map(|below| tree::usage(&dir.join(below)))
    });
    used.flatten().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}
