//! A chain of `fathom floor` processes: what libp2p alone does over as many hops.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::Value;

use super::BenchError;
use super::meter::{Cost, Meter};
use crate::cli::line_reader;
use crate::{Cancel, Stopwatch, TestnetError};

/// How long a process may take to say where it listens.
const START_MAX: Duration = Duration::from_secs(20);
/// How often a wait looks whether it is to end.
const SLICE: Duration = Duration::from_millis(100);
/// Sent once before the measurement, so that all connections stand and their windows are open.
const WARM_UP: u64 = 4 << 20;
/// Bytes per second below which a transfer is given up.
const SLOWEST: u64 = 1_000_000;

/// The processes of one chain, the sender first.
#[derive(Debug)]
pub(super) struct Chain {
    hops: Vec<Hop>,
}

#[derive(Debug)]
struct Hop {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Chain {
    /// Starts a sender and `hops` receivers, each of which passes on to the next.
    pub(super) fn start(binary: &Path, hops: usize, cancel: &Cancel) -> Result<Self, BenchError> {
        let mut chain = Self { hops: Vec::new() };
        let mut next = None;
        for _ in 0..=hops {
            let hop = Hop::start(binary, next.as_deref())?;
            chain.hops.insert(0, hop);
            let answer = chain.hops[0].answer(START_MAX, cancel)?;
            let address = answer["address"].as_str();
            next = Some(address.ok_or_else(|| BenchError::Floor(format!("it gave no address: {answer}")))?.to_owned());
        }
        Ok(chain)
    }

    /// Sends `bytes` bytes along the chain.
    pub(super) fn send(&mut self, bytes: u64, cancel: &Cancel) -> Result<Cost, BenchError> {
        self.transfer(WARM_UP.min(bytes), cancel)?;
        let pids: Vec<u32> = self.hops.iter().map(|hop| hop.child.id()).collect();
        let meter = Meter::start(&pids);
        let seconds = self.transfer(bytes, cancel)?;
        Ok(Cost { time: Duration::from_secs_f64(seconds), ..meter.stop() })
    }

    fn transfer(&mut self, bytes: u64, cancel: &Cancel) -> Result<f64, BenchError> {
        let Some(sender) = self.hops.first_mut() else { return Ok(0.0) };
        let wrote = sender.stdin.as_mut().map(|stdin| writeln!(stdin, "{bytes}"));
        if !matches!(wrote, Some(Ok(()))) {
            return Err(BenchError::Floor("its sender ended".to_owned()));
        }
        let answer = sender.answer(START_MAX + Duration::from_secs(bytes / SLOWEST), cancel)?;
        answer["seconds"].as_f64().ok_or_else(|| BenchError::Floor(format!("a transfer failed: {answer}")))
    }
}

impl Hop {
    fn start(binary: &Path, next: Option<&str>) -> Result<Self, BenchError> {
        let mut command = Command::new(binary);
        command.arg("floor").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        if let Some(next) = next {
            command.args(["--next", next]);
        }
        let spawned = command.spawn();
        let mut child = spawned.map_err(|source| TestnetError::Spawn { binary: binary.to_owned(), source })?;
        let (stdin, lines) = (child.stdin.take(), line_reader(child.stdout.take()));
        Ok(Self { child, stdin, lines })
    }

    /// Its next line.
    fn answer(&self, limit: Duration, cancel: &Cancel) -> Result<Value, BenchError> {
        let watch = Stopwatch::start();
        loop {
            cancel.check()?;
            match self.lines.recv_timeout(SLICE) {
                Ok(line) => {
                    return serde_json::from_str(&line).map_err(|_| BenchError::Floor(format!("it said {line}")));
                }
                Err(RecvTimeoutError::Timeout) if watch.remaining(limit).is_some() => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(BenchError::Floor(format!("it said nothing for {} s", limit.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(BenchError::Floor("a process of it ended".to_owned()));
                }
            }
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for hop in &mut self.hops {
            drop(hop.stdin.take());
            // One that has ended by itself already is just collected.
            let _ = hop.child.kill();
            let _ = hop.child.wait();
        }
    }
}
