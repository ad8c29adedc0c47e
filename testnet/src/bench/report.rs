//! The report of a benchmark as JSON, and the history, which has one such object a line.
//!
//! ```text
//! {"run":    {"version","commit","at","machine":{..},"load_before","load_after","parameters":{..}},
//!  "put_large": {"mb_per_s":{"median","min","max","n"}, "cpu_s_per_gb":{..}, "rss_peak_mib":{..}},
//!  ... one object for each work that was measured ...,
//!  "ratios": {"put_large/floor_chain": {"mb_per_s":{..}, "cpu_s_per_gb":{..}}, ..}}
//! ```
//!
//! A ratio is that of two figures of the same run; its summary is over the runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::machine::{Machine, commit, load};
use super::stats::Summary;
use super::{BenchError, BenchOptions, Sample, Samples};
use crate::files::create_dir;
use crate::wait::unix_seconds;

/// Figures by work, and for each by unit.
pub(super) type Figures = BTreeMap<String, BTreeMap<String, Summary>>;

/// Which figures stand beside which others.
const BESIDE: [(&str, &str); 10] = [
    ("put_large", "floor_chain"),
    ("get_large", "floor_single"),
    ("put_large", "floor_disk"),
    ("floor_chain", "floor_single"),
    ("put_erasure", "put_large"),
    ("get_erasure", "get_large"),
    ("put_large", "garage_put_large"),
    ("get_large", "garage_get_large"),
    ("put_small", "garage_put_small"),
    ("get_small", "garage_get_small"),
];
const RATIO_UNITS: [&str; 2] = ["mb_per_s", "cpu_s_per_gb"];

/// All that a benchmark found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) run: Run,
    pub(super) ratios: Figures,
    /// Of former builds: what they could not measure, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) not_available: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(super) works: Figures,
}

/// What was measured, when and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) version: String,
    /// The checkout's commit, with `+` if it was changed; absent outside of one.
    #[serde(default)]
    pub(super) commit: Option<String>,
    /// When it began, seconds since the Unix epoch.
    pub(super) at: u64,
    pub(super) machine: Machine,
    /// Processes that wanted to run in the minute before; more than 1 means that others were at work.
    pub(super) load_before: f64,
    pub(super) load_after: f64,
    pub(super) parameters: Parameters,
}

/// How much was measured. Figures of different parameters say little about each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Parameters {
    pub(super) runs: u32,
    /// Bytes of the large file.
    pub(super) size: u64,
    pub(super) files: u32,
    pub(super) operations: u32,
    pub(super) vendors: usize,
    pub(super) devices: usize,
}

impl Parameters {
    pub(super) fn of(options: &BenchOptions) -> Self {
        let BenchOptions { runs, size, files, operations, vendors, devices, .. } = *options;
        Self { runs, size, files, operations, vendors, devices }
    }

    /// As a sentence.
    pub(super) fn line(&self) -> String {
        let Self { runs, size, files, operations, vendors, devices } = self;
        format!(
            "{runs} runs; a file of {}, {files} files of 64 KiB, {operations} of 16 KiB; {} with {} each",
            crate::units::bytes(*size),
            crate::units::count(*vendors as u64, "vendor", "vendors"),
            crate::units::count(*devices as u64, "device", "devices"),
        )
    }

    /// Whether figures of both are of the same work.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        Self { runs: other.runs, ..self.clone() } == *other
    }
}

/// What is known before anything is measured.
pub(super) struct Began {
    commit: Option<String>,
    at: u64,
    machine: Machine,
    load: f64,
}

impl Began {
    pub(super) fn now() -> Self {
        let commit = std::env::current_dir().ok().and_then(|dir| commit(&dir));
        Self { commit, at: unix_seconds(), machine: Machine::here(), load: load() }
    }

    /// As a sentence.
    pub(super) fn line(&self) -> String {
        let commit = self.commit.as_ref().map(|commit| format!(" ({commit})")).unwrap_or_default();
        let Machine { cores, cpu, .. } = &self.machine;
        format!("fathom {}{commit} on {cores} cores, {cpu}; load {:.1}", env!("CARGO_PKG_VERSION"), self.load)
    }
}

impl Report {
    pub(super) fn new(began: Began, parameters: Parameters, samples: &Samples) -> Self {
        let summaries = |values: &BTreeMap<&'static str, Vec<f64>>| {
            values.iter().filter_map(|(unit, values)| Some(((*unit).to_owned(), Summary::of(values)?))).collect()
        };
        let Began { commit, at, machine, load: load_before } = began;
        Self {
            run: Run {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                commit,
                at,
                machine,
                load_before,
                load_after: load(),
                parameters,
            },
            ratios: ratios(samples),
            not_available: BTreeMap::new(),
            works: samples.iter().map(|(work, values)| (work.clone(), summaries(values))).collect(),
        }
    }

    /// Adds itself as a line to the history.
    pub(super) fn append_to(&self, path: &Path) -> Result<(), BenchError> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            create_dir(dir)?;
        }
        let failed = |source| BenchError::file("write", path, source);
        let mut line = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(&line)).map_err(failed)
    }

    /// Writes itself to `path`, or to standard output.
    pub(super) fn write_json(&self, path: Option<&Path>) -> Result<(), BenchError> {
        let shown = path.unwrap_or(Path::new("standard output"));
        let failed = |source| BenchError::file("write", shown, source);
        let Some(path) = path else {
            // One line, and a reader that has left is no failure, as with every other command.
            let text = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
            let _ = writeln!(std::io::stdout().lock(), "{text}");
            return Ok(());
        };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        std::fs::write(path, text).map_err(failed)
    }
}

/// The ratios of figures to their floors, run by run.
fn ratios(samples: &Samples) -> Figures {
    let mut ratios = Figures::new();
    for (work, floor) in BESIDE {
        let (Some(ours), Some(theirs)) = (samples.get(work), samples.get(floor)) else { continue };
        for unit in RATIO_UNITS {
            let (Some(ours), Some(theirs)) = (ours.get(unit), theirs.get(unit)) else { continue };
            let pairs: Vec<f64> = ours.iter().zip(theirs).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect();
            if let Some(summary) = Summary::of(&pairs) {
                ratios.entry(format!("{work}/{floor}")).or_default().insert(unit.to_owned(), summary);
            }
        }
    }
    ratios
}

/// The history's file: the one that was named, or that in the user's data directory.
pub(super) fn history_path(named: Option<&Path>) -> Result<PathBuf, BenchError> {
    let data = || std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || Some(std::env::home_dir()?.join(".local/share"));
    let default = || Some(data().or_else(home)?.join("fathom/bench.jsonl"));
    named.map(Path::to_owned).or_else(default).ok_or_else(|| {
        BenchError::Usage("there is no home directory for the history: say where with --history FILE".to_owned())
    })
}

/// The figures of one work in one run, for people.
pub(super) fn line(work: &str, sample: &Sample) -> String {
    let figures: Vec<String> =
        sample.iter().map(|(unit, value)| format!("{} {}", round(*value), words(unit))).collect();
    format!("  {work:18} {}", figures.join(", "))
}

/// A unit as it is read.
pub(super) fn words(unit: &str) -> &str {
    match unit {
        "mb_per_s" => "MB/s",
        "ops_per_s" => "per s",
        "p50_ms" => "ms p50",
        "p99_ms" => "ms p99",
        "cpu_s_per_gb" => "CPU s/GB",
        "rss_peak_mib" => "MiB peak",
        "rss_mib" => "MiB resident",
        "rss_user_mib" => "MiB user",
        "rss_vendor_mib" => "MiB vendor",
        "rss_mirror_mib" => "MiB mirror",
        "cpu_percent" => "% CPU a node",
        "extra_s" => "s longer",
        "freed_s" => "s until freed",
        "sent_again_mb" => "MB sent again",
        other => other,
    }
}

/// Three digits, or all before the point.
pub(super) fn round(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// A report of two runs of a put and its floor.
    pub(in super::super) fn sample(put: [f64; 2]) -> Report {
        let samples = Samples::from([
            ("put_large".to_owned(), BTreeMap::from([("mb_per_s", put.to_vec()), ("cpu_s_per_gb", vec![30.0, 32.0])])),
            (
                "floor_chain".to_owned(),
                BTreeMap::from([("mb_per_s", vec![100.0, 200.0]), ("cpu_s_per_gb", vec![20.0, 16.0])]),
            ),
            ("latency_put".to_owned(), BTreeMap::from([("p50_ms", vec![40.0, 50.0]), ("p99_ms", vec![90.0, 95.0])])),
        ]);
        let began = Began { commit: Some("0123456789ab".to_owned()), at: 7, machine: Machine::default(), load: 0.5 };
        let parameters = Parameters { runs: 2, size: 1 << 30, files: 1000, operations: 100, vendors: 3, devices: 1 };
        Report {
            run: Run { load_after: 0.0, ..Report::new(began, parameters.clone(), &samples).run },
            ..Report::new(Began { commit: None, at: 7, machine: Machine::default(), load: 0.5 }, parameters, &samples)
        }
    }

    #[test]
    fn works_are_keys_of_the_object_and_come_back() {
        let report = sample([50.0, 60.0]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json["put_large"]["mb_per_s"],
            serde_json::json!({"median": 55.0, "min": 50.0, "max": 60.0, "n": 2})
        );
        assert_eq!(json["run"]["parameters"]["size"], 1 << 30);
        // A line of the history of a build that could not measure everything is still read.
        let mut former = json.clone();
        former["not_available"] = serde_json::json!({ "put_erasure": "not built yet" });
        assert!(serde_json::from_value::<Report>(former).unwrap().works.contains_key("put_large"));
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }

    #[test]
    fn ratios_are_of_figures_of_one_run() {
        let ratio = sample([50.0, 160.0]).ratios["put_large/floor_chain"].clone();
        assert_eq!((ratio["mb_per_s"].min, ratio["mb_per_s"].max), (0.5, 0.8));
        assert_eq!((ratio["cpu_s_per_gb"].min, ratio["cpu_s_per_gb"].max), (1.5, 2.0));
    }

    #[test]
    fn a_history_grows_by_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/bench.jsonl");
        for _ in 0..2 {
            sample([1.0, 2.0]).append_to(&path).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| serde_json::from_str::<Report>(line).is_ok()));
        assert_eq!(history_path(Some(&path)).unwrap(), path);
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([0.123, 1.0, 12.34, 123.4, 12345.6].map(round), ["0.12", "1.00", "12.3", "123", "12346"]);
    }
}
