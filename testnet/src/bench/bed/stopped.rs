//! What a vendor that hangs costs, and how soon an erased file's room is free again. On the network with more vendors than copies:
//! what was to go to the one that hangs needs somewhere to go.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Bed, BenchError, COPIES, Sample, Work, text};
use crate::Stopwatch;

/// How far the transfer is when its vendor stops, in percent.
const STOPPED_AT: u64 = 40;
/// Longest wait for devices to have their room back.
const FREED_MAX: Duration = Duration::from_secs(60);
const WHOLE: &str = "whole";
const STOPPED: &str = "stopped";

impl Bed<'_> {
    /// Stores the large file, and once more while a vendor that has chunks of it hangs from the middle on. `extra_s` is how much longer
    /// that takes.
    pub(super) fn put_stopped(&mut self) -> Result<Sample, BenchError> {
        self.start_wide()?;
        let undisturbed = self.put_whole()?;
        let source = self.large()?;
        let put = ["put", text(&source)?, "--as", STOPPED];
        let disturbed = self.while_stopped(&put, |event| event["vendors"][0].as_str())?;
        self.fetch_wide(STOPPED)?;
        self.check(STOPPED, &source)?;
        self.erase(STOPPED)?;
        Ok(vec![("extra_s", disturbed - undisturbed)])
    }

    /// Fetches the large file, and once more while the best of its vendors hangs from the middle on.
    pub(super) fn get_stopped(&mut self) -> Result<Sample, BenchError> {
        self.start_wide()?;
        if !self.stored.contains(&Work::PutStopped) {
            self.put_whole()?;
        }
        let undisturbed = self.fetch_wide(WHOLE)?;
        self.check(WHOLE, &self.large()?)?;
        let target = self.fetched(WHOLE);
        let get = ["get", WHOLE, "-o", text(&target)?];
        let disturbed = self.while_stopped(&get, |event| event["order"][0]["vendor"].as_str())?;
        self.check(WHOLE, &self.large()?)?;
        Ok(vec![("extra_s", disturbed - undisturbed)])
    }

    /// Erases the large file: `freed_s` is when all devices have had the room back.
    pub(super) fn remove_large(&mut self) -> Result<Sample, BenchError> {
        self.start_wide()?;
        if !self.stored.contains(&Work::PutStopped) {
            self.put_whole()?;
        }
        self.stored.remove(&Work::PutStopped);
        Ok(vec![("freed_s", self.erase(WHOLE)?)])
    }

    /// Seconds until a file of the large one's size is erased, and the devices have its room back.
    fn erase(&self, name: &str) -> Result<f64, BenchError> {
        let net = self.wide()?;
        let used = || -> u64 {
            let devices = net.with_role("vendor").flat_map(|vendor| &vendor.devices);
            devices.map(|device| bytes_below(device)).sum()
        };
        let after = used().saturating_sub(COPIES as u64 * self.options.size);
        let watch = Stopwatch::start();
        self.cli_on(net, &["rm", name], b"", self.options.size, |_| {})?.ok()?;
        net.wait_until(FREED_MAX, "the devices have their room back", || used() <= after)?;
        Ok(watch.elapsed().as_secs_f64())
    }

    /// Seconds of a command in whose middle the vendor stops that `named` saw last in its events; it goes on when the command has
    /// ended.
    fn while_stopped(
        &self,
        command: &[&str],
        named: impl for<'e> Fn(&'e Value) -> Option<&'e str>,
    ) -> Result<f64, BenchError> {
        let net = self.wide()?;
        rustix::fs::sync();
        let (mut vendor, mut stopped) = (None, None);
        let args: Vec<&str> = ["--progress"].iter().chain(command).copied().collect();
        let watch = Stopwatch::start();
        let ended = self.cli_on(net, &args, b"", self.options.size, |event| {
            let (bytes, total) = (event["bytes"].as_u64().unwrap_or(0), event["total"].as_u64().unwrap_or(0));
            vendor = named(event).map(|vendor| net.name_of(vendor)).or(vendor.take());
            let time = bytes > 0 && bytes.saturating_mul(100) >= total.saturating_mul(STOPPED_AT);
            if time && stopped.is_none() {
                stopped = vendor.clone().map(|name| net.stop(&name).map(|()| name));
            }
        });
        let seconds = watch.elapsed().as_secs_f64();
        let what = "transfer from or to a vendor that hangs";
        let name =
            stopped.ok_or_else(|| BenchError::Operation { what, message: "it told of no vendor".to_owned() })??;
        net.cont(&name)?;
        ended?.ok()?;
        Ok(seconds)
    }

    /// Seconds of the undisturbed put.
    fn put_whole(&mut self) -> Result<f64, BenchError> {
        let (source, net) = (self.large()?, self.wide()?);
        rustix::fs::sync();
        let watch = Stopwatch::start();
        self.cli_on(net, &["put", text(&source)?, "--as", WHOLE], b"", self.options.size, |_| {})?.ok()?;
        let seconds = watch.elapsed().as_secs_f64();
        self.stored.insert(Work::PutStopped);
        Ok(seconds)
    }

    /// Seconds of a get from the network with more vendors.
    fn fetch_wide(&self, name: &str) -> Result<f64, BenchError> {
        let (target, net) = (self.fetched(name), self.wide()?);
        rustix::fs::sync();
        let watch = Stopwatch::start();
        self.cli_on(net, &["get", name, "-o", text(&target)?], b"", self.options.size, |_| {})?.ok()?;
        Ok(watch.elapsed().as_secs_f64())
    }
}

/// Bytes that the files below `path` take on the disk; what vanishes meanwhile takes none.
fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
