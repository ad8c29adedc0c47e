//! One run: a network of its own, and each work measured on it.

mod coded;
mod stopped;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::floor::Chain;
use super::meter::{Cost, Meter, rss_mib};
use super::stats::percentile;
use super::work::Work;
use super::{BenchError, BenchOptions, SMALL_FILE, Sample, data};
use crate::files::create_dir;
use crate::{Cancel, CliOutput, Net, Spec, Stopwatch, TestnetError};

/// Copies of each chunk.
pub(super) const COPIES: usize = 3;
/// Hops of the chain that is the put's floor: as many as a chunk has vendors.
const HOPS: usize = COPIES;
const MIRRORS: usize = 3;
/// Vendors of the network that has more of them than copies.
const WIDE: usize = 2 * COPIES;
/// Small files on their way at a time.
pub(super) const IN_FLIGHT: usize = 8;
/// Bytes of a file for the latencies.
const LATENCY_FILE: u64 = 16 << 10;
/// How long idle nodes are watched.
const IDLE: Duration = Duration::from_secs(3);
/// How far the put is that is interrupted, in percent.
const INTERRUPTED_AT: u64 = 50;
/// What a command may take beside its bytes, and the bytes per second below which it hangs.
const COMMAND_MAX: Duration = Duration::from_secs(300);
const SLOWEST: u64 = 500_000;
const USER: &str = "user-1";
const MB: f64 = 1e6;
const GB: f64 = 1e9;

/// What is measured on, and what is stored there so far.
pub(super) struct Bed<'a> {
    options: &'a BenchOptions,
    dir: PathBuf,
    number: u32,
    net: Option<Net>,
    /// One with more vendors than copies, which would be in the way of the other works.
    wide: Option<Net>,
    stored: BTreeSet<Work>,
    /// Seconds of the large put.
    undisturbed: Option<f64>,
}

/// Files that are stored and fetched together.
pub(super) struct Files {
    /// Where they are, and the first part of their names on the network.
    pub(super) name: &'static str,
    count: u32,
    bytes: u64,
}

impl Files {
    pub(super) fn total(&self) -> u64 {
        u64::from(self.count) * self.bytes
    }

    pub(super) fn each(&self) -> impl Iterator<Item = String> {
        (0..self.count).map(|number| format!("{number:06}"))
    }
}

impl<'a> Bed<'a> {
    pub(super) fn new(options: &'a BenchOptions, dir: PathBuf, number: u32) -> Self {
        Self { options, dir, number, net: None, wide: None, stored: BTreeSet::new(), undisturbed: None }
    }

    /// Starts the network.
    pub(super) fn start_nodes(&mut self) -> Result<(), BenchError> {
        self.net = Some(self.network("net", self.options.vendors)?);
        Ok(())
    }

    /// Starts the network with more vendors, unless it runs.
    fn start_wide(&mut self) -> Result<(), BenchError> {
        if self.wide.is_none() {
            self.wide = Some(self.network("net-wide", self.options.vendors.max(WIDE))?);
        }
        Ok(())
    }

    fn wide(&self) -> Result<&Net, BenchError> {
        self.wide.as_ref().ok_or_else(|| BenchError::Usage("the network with more vendors was not started".to_owned()))
    }

    /// A network of so many vendors, in a directory of this name.
    fn network(&self, name: &str, vendors: usize) -> Result<Net, BenchError> {
        let small = u64::from(self.options.files) * SMALL_FILE;
        // Far more than will be stored: how a network behaves that is nearly full is not measured here.
        let quota = 8 * (self.options.size + small) + (8 << 30);
        let spec = Spec {
            network: "bench".to_owned(),
            mirrors: MIRRORS,
            vendors,
            devices: self.options.devices,
            zones: COPIES,
            device_quota: quota / self.options.devices as u64,
            exit_with_parent: true,
            cancel: self.options.cancel.clone(),
            ..Spec::default()
        };
        Ok(Net::up(&self.options.binary, &self.dir.join(name), spec)?)
    }

    /// Measures one work. What it needs to be there first, it does unmeasured.
    pub(super) fn measure(&mut self, work: Work) -> Result<Sample, BenchError> {
        let large = self.options.size;
        match work {
            Work::Idle => self.idle(),
            Work::FloorChain => self.floor(HOPS),
            Work::FloorSingle => self.floor(1),
            Work::FloorDisk => self.floor_disk(),
            Work::PutLarge => Ok(bulk(self.put_large()?, large)),
            Work::GetLarge => self.get_large(),
            Work::PutSmall => self.put_each(&self.small(), IN_FLIGHT),
            Work::GetSmall => self.get_each(Work::PutSmall, &self.small(), IN_FLIGHT),
            Work::PutTree => self.put_tree(),
            Work::GetTree => self.get_tree(),
            Work::LatencyPut => Ok(latency(self.put_each(&self.latency_files(), 1)?)),
            Work::LatencyGet => Ok(latency(self.get_each(Work::LatencyPut, &self.latency_files(), 1)?)),
            Work::Resume => self.resume(),
            Work::PutErasure => self.put_coded(),
            Work::GetErasure => self.get_coded(),
            Work::PutStopped => self.put_stopped(),
            Work::GetStopped => self.get_stopped(),
            Work::Remove => self.remove_large(),
        }
    }

    pub(super) fn small(&self) -> Files {
        Files { name: "small", count: self.options.files, bytes: SMALL_FILE }
    }

    fn tree(&self) -> Files {
        Files { name: "tree", ..self.small() }
    }

    pub(super) fn latency_files(&self) -> Files {
        Files { name: "latency", count: self.options.operations, bytes: LATENCY_FILE }
    }

    /// Bytes of the large file.
    pub(super) fn size(&self) -> u64 {
        self.options.size
    }

    fn cancel(&self) -> &'a Cancel {
        &self.options.cancel
    }

    fn net(&self) -> Result<&Net, BenchError> {
        self.net.as_ref().ok_or_else(|| BenchError::Usage("the network was not started".to_owned()))
    }

    /// Starts to measure all nodes, when what was written before is on the disk and cannot get in the way.
    fn meter(&self) -> Result<Meter, BenchError> {
        Ok(meter(self.net()?))
    }

    fn cli(
        &self,
        args: &[&str],
        stdin: &[u8],
        bytes: u64,
        on_event: impl FnMut(&Value),
    ) -> Result<CliOutput, BenchError> {
        self.cli_on(self.net()?, args, stdin, bytes, on_event)
    }

    fn cli_on(
        &self,
        net: &Net,
        args: &[&str],
        stdin: &[u8],
        bytes: u64,
        on_event: impl FnMut(&Value),
    ) -> Result<CliOutput, BenchError> {
        let limit = COMMAND_MAX + Duration::from_secs(bytes / SLOWEST);
        Ok(net.cli_with(USER, args, stdin, limit, on_event)?)
    }

    fn idle(&self) -> Result<Sample, BenchError> {
        let meter = self.meter()?;
        pause(IDLE, self.cancel())?;
        let cost = meter.stop();
        let nodes = self.net()?.status();
        let mut sample = Sample::new();
        let most = |role: Option<&str>| {
            let these = nodes.iter().filter(|node| role.is_none_or(|role| node.roles.iter().any(|own| own == role)));
            these.filter_map(|node| rss_mib(node.pid?)).fold(0.0, f64::max)
        };
        sample.push(("rss_mib", most(None)));
        for (role, unit) in [("user", "rss_user_mib"), ("vendor", "rss_vendor_mib"), ("mirror", "rss_mirror_mib")] {
            sample.push((unit, most(Some(role))));
        }
        sample.push(("cpu_percent", cost.cpu_s * 100.0 / cost.time.as_secs_f64() / nodes.len().max(1) as f64));
        Ok(sample)
    }

    fn floor(&self, hops: usize) -> Result<Sample, BenchError> {
        rustix::fs::sync();
        let mut chain = Chain::start(&self.options.binary, hops, self.cancel())?;
        Ok(bulk(chain.send(self.options.size, self.cancel())?, self.options.size))
    }

    fn floor_disk(&self) -> Result<Sample, BenchError> {
        rustix::fs::sync();
        let path = self.dir.join("floor");
        let seconds = data::write_and_sync(&path, self.options.size, self.cancel())?;
        remove(&path)?;
        Ok(vec![("mb_per_s", self.options.size as f64 / MB / seconds)])
    }

    fn put_large(&mut self) -> Result<Cost, BenchError> {
        let source = self.large()?;
        let meter = self.meter()?;
        self.cli(&["put", text(&source)?, "--as", "large"], b"", self.options.size, |_| {})?.ok()?;
        let cost = meter.stop();
        self.undisturbed = Some(cost.time.as_secs_f64());
        self.stored.insert(Work::PutLarge);
        Ok(cost)
    }

    fn get_large(&mut self) -> Result<Sample, BenchError> {
        if !self.stored.contains(&Work::PutLarge) {
            self.put_large()?;
        }
        let cost = self.fetch("large", self.options.size)?;
        self.check("large", &self.large()?)?;
        Ok(bulk(cost, self.options.size))
    }

    /// The large file's source, made when it is first needed.
    pub(super) fn large(&self) -> Result<PathBuf, BenchError> {
        let path = self.dir.join("large.source");
        if !path.exists() {
            data::generate(&path, self.options.size, self.number.into(), self.cancel())?;
        }
        Ok(path)
    }

    pub(super) fn fetched(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.fetched"))
    }

    fn fetch(&self, name: &str, bytes: u64) -> Result<Cost, BenchError> {
        let target = self.fetched(name);
        let meter = self.meter()?;
        self.cli(&["get", name, "-o", text(&target)?], b"", bytes, |_| {})?.ok()?;
        Ok(meter.stop())
    }

    /// Compares what was fetched with its source, and removes it.
    pub(super) fn check(&self, name: &str, source: &Path) -> Result<(), BenchError> {
        let fetched = self.fetched(name);
        data::compare(source, &fetched, self.cancel())?;
        remove(&fetched)
    }

    /// The sources of `files`, below one directory.
    pub(super) fn sources(&self, files: &Files) -> Result<PathBuf, BenchError> {
        let dir = self.dir.join(format!("{}.source", files.name));
        if !dir.exists() {
            create_dir(&dir)?;
            for (index, file) in files.each().enumerate() {
                let seed = u64::from(self.number) << 32 | index as u64;
                data::generate(&dir.join(file), files.bytes, seed, self.cancel())?;
            }
        }
        Ok(dir)
    }

    /// Each file as a put of its own, `jobs` at a time.
    fn put_each(&mut self, files: &Files, jobs: usize) -> Result<Sample, BenchError> {
        let dir = self.sources(files)?;
        let line = |file: String| json!({ "command": "put", "path": dir.join(&file), "name": format!("{}/{file}", files.name) });
        let sample = self.batch("put", files.each().map(line), files, jobs)?;
        self.stored.insert(if jobs == 1 { Work::LatencyPut } else { Work::PutSmall });
        Ok(sample)
    }

    /// Each file as a get of its own, `jobs` at a time; `put` is what stores them.
    fn get_each(&mut self, put: Work, files: &Files, jobs: usize) -> Result<Sample, BenchError> {
        if !self.stored.contains(&put) {
            self.put_each(files, jobs)?;
        }
        let (from, to) = (self.sources(files)?, self.fetched(files.name));
        create_dir(&to)?;
        let line = |file: String| json!({ "command": "get", "name": format!("{}/{file}", files.name), "output": to.join(&file) });
        let sample = self.batch("get", files.each().map(line), files, jobs)?;
        for file in files.each() {
            data::compare(&from.join(&file), &to.join(&file), self.cancel())?;
        }
        crate::files::remove_dir(&to)?;
        Ok(sample)
    }

    fn batch(
        &self,
        what: &'static str,
        lines: impl Iterator<Item = Value>,
        files: &Files,
        jobs: usize,
    ) -> Result<Sample, BenchError> {
        let stdin: String = lines.map(|line| format!("{line}\n")).collect();
        let (mut times, mut failure) = (Vec::with_capacity(files.count as usize), None);
        let (meter, jobs) = (self.meter()?, jobs.to_string());
        let ended = self.cli(&["--progress", "batch", "--jobs", &jobs], stdin.as_bytes(), files.total(), |event| {
            match event["error"]["message"].as_str() {
                Some(message) => failure = failure.take().or(Some(message.to_owned())),
                None => times.extend(event["seconds"].as_f64().map(|seconds| seconds * 1e3)),
            }
        });
        let cost = meter.stop();
        if let Some(message) = failure {
            return Err(BenchError::Operation { what, message });
        }
        ended?.ok()?;
        if times.len() != files.count as usize {
            let message = format!("{} of {} were answered", times.len(), files.count);
            return Err(BenchError::Operation { what, message });
        }
        let mut sample = bulk(cost, files.total());
        sample.push(("ops_per_s", f64::from(files.count) / cost.time.as_secs_f64()));
        sample.push(("p50_ms", percentile(&times, 50)));
        sample.push(("p99_ms", percentile(&times, 99)));
        Ok(sample)
    }

    fn put_tree(&mut self) -> Result<Sample, BenchError> {
        let files = self.tree();
        let dir = self.sources(&files)?;
        let meter = self.meter()?;
        self.cli(&["put", text(&dir)?, "--as", files.name], b"", files.total(), |_| {})?.ok()?;
        let cost = meter.stop();
        self.stored.insert(Work::PutTree);
        Ok(counted(cost, &files))
    }

    fn get_tree(&mut self) -> Result<Sample, BenchError> {
        if !self.stored.contains(&Work::PutTree) {
            self.put_tree()?;
        }
        let files = self.tree();
        let cost = self.fetch(files.name, files.total())?;
        let (from, to) = (self.sources(&files)?, self.fetched(files.name));
        for file in files.each() {
            data::compare(&from.join(&file), &to.join(&file), self.cancel())?;
        }
        crate::files::remove_dir(&to)?;
        Ok(counted(cost, &files))
    }

    /// Kills the user's node in the middle of a put, starts it again and lets the put go on. `extra_s` is what that takes longer than
    /// the undisturbed put of this run; `sent_again_mb` the user's data in copies that vendors had stored and that were sent
    /// once more. Chunks that were on their way when the node died are in neither.
    fn resume(&mut self) -> Result<Sample, BenchError> {
        if self.undisturbed.is_none() {
            self.put_large()?;
        }
        let source = self.large()?;
        let put = ["--progress", "put", text(&source)?, "--as", "resumed"];
        let before = self.chunks_at_vendors()?;
        rustix::fs::sync();
        let watch = Stopwatch::start();
        let mut killed = None;
        let net = self.net()?;
        let interrupted = self.cli(&put, b"", self.options.size, |event| {
            let (bytes, total) = (event["bytes"].as_u64().unwrap_or(0), event["total"].as_u64().unwrap_or(0));
            if killed.is_none() && bytes > 0 && bytes.saturating_mul(100) >= total.saturating_mul(INTERRUPTED_AT) {
                killed = Some(net.kill(USER));
            }
        })?;
        killed.ok_or_else(|| BenchError::Operation { what: "put", message: "it told of no progress".to_owned() })??;
        if interrupted.code == 0 {
            let message = "it ended before its node could be killed; choose a larger --size".to_owned();
            return Err(BenchError::Operation { what: "put that is interrupted", message });
        }
        net.start(USER)?;
        let looking = Stopwatch::start();
        let stored = self.chunks_at_vendors()?.saturating_sub(before);
        let looked = looking.elapsed();
        let result = self.cli(&put, b"", self.options.size, |_| {})?.ok()?;
        let seconds = (watch.elapsed() - looked).as_secs_f64();
        let (chunks, resumed) = (result.u64_at("/chunks")?, result.u64_at("/resumed_chunks")?);
        self.fetch("resumed", self.options.size)?;
        self.check("resumed", &source)?;
        let again = stored.saturating_sub(resumed) as f64 * self.options.size as f64 / chunks.max(1) as f64;
        let extra = seconds - self.undisturbed.unwrap_or(0.0);
        Ok(vec![("extra_s", extra), ("sent_again_mb", again / MB)])
    }

    /// Copies of chunks that all vendors have.
    fn chunks_at_vendors(&self) -> Result<u64, BenchError> {
        let net = self.net()?;
        let mut chunks = 0;
        for vendor in net.with_role("vendor") {
            chunks += net.cli(&vendor.name, &["status"])?.ok()?.u64_at("/vendor/chunks")?;
        }
        Ok(chunks)
    }
}

/// Starts to measure the nodes of a network.
fn meter(net: &Net) -> Meter {
    rustix::fs::sync();
    let pids: Vec<u32> = net.status().into_iter().filter_map(|node| node.pid).collect();
    Meter::start(&pids)
}

/// The figures of moving `bytes` bytes of the user's data.
pub(super) fn bulk(cost: Cost, bytes: u64) -> Sample {
    vec![
        ("mb_per_s", bytes as f64 / MB / cost.time.as_secs_f64()),
        ("cpu_s_per_gb", cost.cpu_s * GB / bytes as f64),
        ("rss_peak_mib", cost.rss_peak_mib),
    ]
}

fn counted(cost: Cost, files: &Files) -> Sample {
    let mut sample = bulk(cost, files.total());
    sample.push(("ops_per_s", f64::from(files.count) / cost.time.as_secs_f64()));
    sample
}

/// What of a batch is of interest where one file follows another: megabytes per second are not.
pub(super) fn latency(mut sample: Sample) -> Sample {
    sample.retain(|(unit, _)| matches!(*unit, "p50_ms" | "p99_ms" | "ops_per_s"));
    sample
}

fn pause(time: Duration, cancel: &Cancel) -> Result<(), TestnetError> {
    let watch = Stopwatch::start();
    while let Some(left) = watch.remaining(time) {
        cancel.check()?;
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), BenchError> {
    std::fs::remove_file(path).map_err(|source| BenchError::file("remove", path, source))
}

fn text(path: &Path) -> Result<&str, BenchError> {
    path.to_str().ok_or_else(|| BenchError::Usage(format!("{} is not UTF-8", path.display())))
}
