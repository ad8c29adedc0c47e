//! Garage beside Fathom: three nodes with three copies, doing the same work in the same run.
//!
//! Another system is known here by its command line and its S3 port alone. Its durability is as it comes (no fsync of data), which is
//! said where its figures stand. Its CPU time is that of its three nodes; the client is this process and not counted.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::bed::{Bed, Files, IN_FLIGHT, bulk, latency};
use super::meter::{Meter, rss_mib};
use super::s3::{Bucket, Client};
use super::stats::percentile;
use super::work::Work;
use super::{BenchError, Sample, data};
use crate::files::{create_dir, log_tail};
use crate::wait::wait_for;
use crate::{Cancel, Stopwatch, TestnetError};

/// Nodes, and copies of each object.
const NODES: usize = 3;
/// How long the cluster may take to do what it is told.
const START_MAX: Duration = Duration::from_secs(60);
const NAME: &str = "bench";
const REGION: &str = "garage";

/// A cluster of three nodes on this machine. Dropping it kills them.
pub(super) struct Garage<'a> {
    program: PathBuf,
    dir: PathBuf,
    nodes: Vec<Child>,
    bucket: Bucket,
    cancel: &'a Cancel,
}

/// The program in `PATH`.
///
/// # Errors
/// [`BenchError::Usage`] if there is none.
pub(super) fn program() -> Result<PathBuf, BenchError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join("garage")).find(|file| file.is_file()).ok_or_else(|| {
        BenchError::Usage("there is no program garage in PATH; `cargo install garage --locked` installs it".to_owned())
    })
}

impl<'a> Garage<'a> {
    /// Starts a cluster below `dir` and makes a bucket in it.
    pub(super) fn start(program: &Path, dir: PathBuf, cancel: &'a Cancel) -> Result<Self, BenchError> {
        let ports = free_ports(2 * NODES)?;
        let (s3, rpc) = ports.split_at(NODES);
        let [region, bucket, key, secret] = [REGION, NAME, "", ""].map(str::to_owned);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, s3[0]));
        let bucket = Bucket { address, region, bucket, key, secret };
        let mut garage = Self { program: program.to_owned(), dir, nodes: Vec::new(), bucket, cancel };
        let mut shared = [0; 32];
        getrandom::fill(&mut shared).map_err(|error| BenchError::Beside(format!("no randomness: {error}")))?;
        let shared = shared.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        for node in 0..NODES {
            garage.configure(node, s3[node], rpc[node], &shared)?;
            garage.run(node)?;
        }
        garage.lay_out()?;
        Ok(garage)
    }

    fn config(&self, node: usize) -> PathBuf {
        self.dir.join(format!("{node}/garage.toml"))
    }

    fn configure(&self, node: usize, s3: u16, rpc: u16, secret: &str) -> Result<(), BenchError> {
        let dir = self.dir.join(node.to_string());
        create_dir(&dir)?;
        let data = dir.display();
        let text = format!(
            "metadata_dir = \"{data}/meta\"\ndata_dir = \"{data}/data\"\ndb_engine = \"lmdb\"\nreplication_factor = {NODES}\n\
             rpc_secret = \"{secret}\"\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
             [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"127.0.0.1:{s3}\"\nroot_domain = \".s3.local\"\n"
        );
        let path = self.config(node);
        fs::write(&path, text).map_err(|source| BenchError::file("write", &path, source))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.dir.join(format!("{node}/log"))
    }

    fn run(&mut self, node: usize) -> Result<(), BenchError> {
        let path = self.log(node);
        let failed = |source| BenchError::file("write", &path, source);
        let log = File::create(&path).map_err(failed)?;
        let copy = log.try_clone().map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.config(node)).arg("server").env("RUST_LOG", "garage=warn");
        command.stdin(Stdio::null()).stdout(log).stderr(copy).process_group(0);
        let spawned = command.spawn();
        let child = spawned.map_err(|source| TestnetError::Spawn { binary: self.program.clone(), source })?;
        self.nodes.push(child);
        Ok(())
    }

    /// Makes one cluster of the nodes, and a bucket with a key.
    fn lay_out(&mut self) -> Result<(), BenchError> {
        let mut ids = Vec::new();
        for node in 0..NODES {
            ids.push(self.tell(node, &["node", "id", "-q"])?.trim().to_owned());
        }
        for id in &ids[1..] {
            self.tell(0, &["node", "connect", id])?;
        }
        for (node, id) in ids.iter().enumerate() {
            let key = id.split('@').next().unwrap_or(id);
            self.tell(0, &["layout", "assign", "-z", &format!("dc{node}"), "-c", "60G", key])?;
        }
        self.tell(0, &["layout", "apply", "--version", "1"])?;
        self.tell(0, &["bucket", "create", NAME])?;
        let key = self.tell(0, &["key", "create", NAME])?;
        let value = |name: &str| {
            let found = key.lines().find_map(|line| line.trim().strip_prefix(name));
            found.map(|value| value.trim_start_matches(':').trim().to_owned())
        };
        let (Some(id), Some(secret)) = (value("Key ID"), value("Secret key")) else {
            return Err(BenchError::Beside(format!("garage made a key without a name: {key}")));
        };
        (self.bucket.key, self.bucket.secret) = (id, secret);
        self.tell(0, &["bucket", "allow", "--read", "--write", "--owner", NAME, "--key", NAME]).map(drop)
    }

    /// Runs a command of Garage's at a node, again until it succeeds: a cluster that is starting refuses at first.
    fn tell(&self, node: usize, args: &[&str]) -> Result<String, BenchError> {
        let mut said = String::new();
        let told = wait_for(START_MAX, "garage does as it is told", self.cancel, || {
            let mut command = Command::new(&self.program);
            command.arg("-c").arg(self.config(node)).args(args).env("RUST_LOG", "garage=error").stdin(Stdio::null());
            let output = command.output();
            let output = output.map_err(|source| TestnetError::Spawn { binary: self.program.clone(), source })?;
            said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
        });
        told.map_err(|error| match error {
            TestnetError::Deadline { .. } => {
                let log = log_tail(&self.log(node));
                BenchError::Beside(format!("`garage {}` failed: {said}\n--- end of its log ---\n{log}", args.join(" ")))
            }
            error => error.into(),
        })
    }

    /// Measures what Garage can do of `work`, with the sources that Fathom stored; `None` for what has no counterpart. Gets follow
    /// their puts, as they do in the order of works; one without its put is left out.
    pub(super) fn measure(&self, work: Work, bed: &Bed<'_>) -> Result<Option<Sample>, BenchError> {
        let pids: Vec<u32> = self.nodes.iter().map(Child::id).collect();
        rustix::fs::sync();
        let sample = match work {
            Work::Idle => vec![("rss_mib", pids.iter().filter_map(|pid| rss_mib(*pid)).fold(0.0, f64::max))],
            Work::PutLarge | Work::GetLarge => {
                let (source, target) = (bed.large()?, bed.fetched("garage-large"));
                let bytes = bed.size();
                let mut client = Client::new(&self.bucket);
                let meter = Meter::start(&pids);
                if work == Work::PutLarge {
                    client.put("large", &source).map_err(|error| failed("put", &error))?;
                    bulk(meter.stop(), bytes)
                } else {
                    client.get("large", &target).map_err(|error| failed("get", &error))?;
                    let cost = meter.stop();
                    bed.check("garage-large", &source)?;
                    bulk(cost, bytes)
                }
            }
            Work::PutSmall | Work::GetSmall => {
                self.each(work == Work::PutSmall, &bed.small(), IN_FLIGHT, &pids, bed)?
            }
            Work::LatencyPut | Work::LatencyGet => {
                latency(self.each(work == Work::LatencyPut, &bed.latency_files(), 1, &pids, bed)?)
            }
            _ => return Ok(None),
        };
        Ok(Some(sample))
    }

    /// Each of `files` as a request of its own, `jobs` connections at a time.
    fn each(&self, put: bool, files: &Files, jobs: usize, pids: &[u32], bed: &Bed<'_>) -> Result<Sample, BenchError> {
        let (from, to) = (bed.sources(files)?, bed.fetched("garage-files"));
        create_dir(&to)?;
        let names: Vec<String> = files.each().collect();
        let one = |client: &mut Client<'_>, name: &String| {
            self.cancel.check()?;
            let (object, watch) = (format!("{}/{name}", files.name), Stopwatch::start());
            let done = if put { client.put(&object, &from.join(name)) } else { client.get(&object, &to.join(name)) };
            done.map_err(|error| failed(if put { "put" } else { "get" }, &error))?;
            Ok(watch.elapsed().as_secs_f64() * 1e3)
        };
        let meter = Meter::start(pids);
        let work = |job: usize| {
            let mut client = Client::new(&self.bucket);
            names
                .iter()
                .skip(job)
                .step_by(jobs)
                .map(|name| one(&mut client, name))
                .collect::<Result<Vec<f64>, BenchError>>()
        };
        let times = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..jobs).map(|job| scope.spawn(move || work(job))).collect();
            let panicked = || BenchError::Beside("a client of the benchmark ended early".to_owned());
            let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| panicked())?);
            joined.collect::<Result<Vec<_>, BenchError>>()
        })?;
        let cost = meter.stop();
        let times = times.concat();
        if !put {
            for name in &names {
                data::compare(&from.join(name), &to.join(name), self.cancel)?;
            }
        }
        crate::files::remove_dir(&to)?;
        let mut sample = bulk(cost, files.total());
        sample.push(("ops_per_s", names.len() as f64 / cost.time.as_secs_f64()));
        sample.extend([("p50_ms", percentile(&times, 50)), ("p99_ms", percentile(&times, 99))]);
        Ok(sample)
    }
}

impl Drop for Garage<'_> {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // One that has ended already is just collected.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

fn failed(what: &'static str, error: &std::io::Error) -> BenchError {
    BenchError::Operation { what, message: format!("garage: {error}") }
}

/// Ports that nobody has at this moment, all held until the last is known, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>, BenchError> {
    let failed = |error: std::io::Error| BenchError::Beside(format!("no free port: {error}"));
    let bound: Result<Vec<TcpListener>, _> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    let bound = bound.map_err(failed)?;
    bound.iter().map(|listener| listener.local_addr().map(|address| address.port()).map_err(failed)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::{ProcessId, ProcessState};

    #[test]
    fn a_cluster_is_laid_out_and_ends_with_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/garage.sh");
        let cancel = Cancel::default();
        let garage = Garage::start(&program, dir.path().to_owned(), &cancel).unwrap();
        assert_eq!((garage.bucket.key.as_str(), garage.bucket.secret.as_str()), ("GK42", "abcdef"));
        let config = fs::read_to_string(garage.config(2)).unwrap();
        assert!(config.contains("replication_factor = 3") && config.contains("s3_region = \"garage\""), "{config}");
        assert!(fs::read_to_string(garage.config(0)).unwrap().contains(&garage.bucket.address.to_string()));
        let told = fs::read_to_string(dir.path().join("commands")).unwrap();
        for line in ["0 node connect aa2@127.0.0.1:1", "0 layout assign -z dc1 -c 60G aa1"] {
            assert!(told.contains(line), "{line}: {told}");
        }
        let nodes: Vec<ProcessId> = garage.nodes.iter().map(|node| ProcessId::of(node.id()).unwrap()).collect();
        assert_eq!(nodes.len(), NODES);
        drop(garage);
        assert!(nodes.iter().all(|node| node.state() == ProcessState::Dead));
    }
}
