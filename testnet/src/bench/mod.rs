//! `fathom bench`: what storing and fetching cost on this machine, beside what libp2p and the disk cost without Fathom.
//!
//! Everything is measured between real processes, several times. Within a run the works follow each other in one order, each beside
//! its floor (`work`), so that a ratio is one of figures of the same minute. Each run has a network of its own (`bed`), and
//! what is fetched is compared byte by byte outside of the measured time. The figures go to people (`markdown`), to programs
//! and to a history (`report`), against which a later run is compared.
//!
//! MB is 10^6 bytes, GB 10^9, MiB 2^20.

mod bed;
mod compare;
mod data;
mod floor;
mod garage;
mod machine;
mod markdown;
mod meter;
mod plot;
mod report;
mod s3;
mod stats;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files::{create_dir, remove_dir};
use crate::stage::Stage;
use crate::{Cancel, TestnetError};
use bed::Bed;
use garage::Garage;
use report::{Parameters, Report};
use work::Work;

/// Bytes that nodes, their logs and databases may need beside what is stored.
const ROOM_BESIDE: u64 = 1 << 30;
/// Bytes of a small file.
const SMALL_FILE: u64 = 64 << 10;

/// What `fathom bench` is told.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The `fathom` program whose nodes are measured.
    pub binary: PathBuf,
    /// The directory in which the benchmark makes a directory of its own; `None` is the system's for temporary files.
    pub dir: Option<PathBuf>,
    /// Names of what to measure; empty is everything.
    pub work: Vec<String>,
    /// How often.
    pub runs: u32,
    /// Bytes of the large file.
    pub size: u64,
    /// Number of small files.
    pub files: u32,
    /// Number of puts and gets for the latencies.
    pub operations: u32,
    /// Number of vendors.
    pub vendors: usize,
    /// Devices of each vendor.
    pub devices: usize,
    /// Print the report as JSON: to `json_file`, or else to standard output, and what people read to standard error.
    pub json: bool,
    /// Where the JSON goes instead of standard output.
    pub json_file: Option<PathBuf>,
    /// Where a report with plots goes.
    pub out: Option<PathBuf>,
    /// A former run: a file with a report or a history, or `last`.
    pub compare: Option<PathBuf>,
    /// The file to which a line is added for each benchmark; `None` is `fathom/bench.jsonl` in the user's data directory.
    pub history: Option<PathBuf>,
    /// Measure Garage beside, if its program is in `PATH`.
    pub beside_garage: bool,
    /// Leave the directory with the nodes behind.
    pub keep: bool,
    /// Set by the caller, on Ctrl-C say, to end early: processes are killed and files removed.
    pub cancel: Cancel,
}

/// Why a benchmark did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The network or one of its commands failed.
    #[error(transparent)]
    Testnet(#[from] TestnetError),
    /// A file could not be used.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The disk is too small for what is to be measured.
    #[error(
        "{} has {} free and the benchmark needs up to {}; choose a smaller --size or another --dir",
        dir.display(), crate::units::bytes(*free), crate::units::bytes(*needed)
    )]
    NoRoom {
        /// Where the nodes were to be.
        dir: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// What came back is not what was stored.
    #[error("{} differs from what was stored, within 1 MiB from byte {piece}", path.display())]
    Differs {
        /// What was fetched.
        path: PathBuf,
        /// Where the piece begins that differs.
        piece: u64,
    },
    /// A command among many failed.
    #[error("a {what} failed: {message}")]
    Operation {
        /// What was to be done.
        what: &'static str,
        /// What it said.
        message: String,
    },
    /// The floor's processes failed.
    #[error("the floor failed: {0}")]
    Floor(String),
    /// The system that is measured beside Fathom failed.
    #[error("{0}")]
    Beside(String),
    /// The request cannot be fulfilled as it stands.
    #[error("{0}")]
    Usage(String),
}

impl BenchError {
    fn file(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { what, path: path.to_owned(), source }
    }

    /// The exit code of `fathom bench`: 2 usage, 4 no room, 7 bytes differ, otherwise that of the network's error, or 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Testnet(error) => error.exit_code(),
            Self::Usage(_) => 2,
            Self::NoRoom { .. } => 4,
            Self::Differs { .. } => 7,
            Self::File { .. } | Self::Operation { .. } | Self::Floor(_) | Self::Beside(_) => 1,
        }
    }
}

/// What one run gave for one work: values by the name of their unit.
pub(super) type Sample = Vec<(&'static str, f64)>;
/// All that was measured: by work, by unit, one value for each run.
pub(super) type Samples = BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>;

/// Measures, prints, and writes what was asked for. All processes have ended and, unless `keep` is set, all files of the nodes are
/// removed when it returns.
///
/// # Errors
/// [`BenchError`]. What was measured until then is lost: half a run is no run.
pub fn run(options: &BenchOptions) -> Result<(), BenchError> {
    let works = Work::select(&options.work)?;
    check(options)?;
    let stage = Stage::new(options.json && options.json_file.is_none());
    let history = report::history_path(options.history.as_deref())?;
    let former = options.compare.as_deref().map(|path| compare::Former::load(path, &history)).transpose()?;
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    data::check_room(&base, room_needed(options))?;
    let beside = if options.beside_garage { Some(garage::program()?) } else { None };
    let parameters = Parameters::of(options);
    let began = report::Began::now();
    let work = base.join(format!("fathom-bench-{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id())));
    create_dir(&work)?;
    stage.print(&format!("{}\n{}", began.line(), parameters.line()));
    let measured = measure(options, &works, beside.as_deref(), &stage, &work);
    if options.keep {
        stage.print(&format!("\nThe nodes' directories are kept in {}", work.display()));
    } else {
        remove_dir(&work)?;
    }
    let report = Report::new(began, parameters, &measured?);
    stage.print(&format!("\n{}", markdown::text(&report)));
    if let Some(former) = &former {
        stage.print(&format!("\n{}", former.against(&report)));
    }
    report.append_to(&history)?;
    stage.print(&format!("\nAdded to the history in {}", history.display()));
    if let Some(dir) = &options.out {
        markdown::write(&report, former.as_ref(), dir)?;
        stage.print(&format!("The report with its plots is in {}", dir.join(markdown::FILE).display()));
    }
    if options.json {
        report.write_json(options.json_file.as_deref())?;
    }
    Ok(())
}

fn check(options: &BenchOptions) -> Result<(), BenchError> {
    let usage = |text: &str| Err(BenchError::Usage(text.to_owned()));
    if options.vendors < bed::COPIES {
        return usage("three copies need at least three vendors");
    }
    if options.devices == 0 || options.size == 0 || options.runs == 0 || options.files == 0 || options.operations == 0 {
        return usage("devices, size, runs, files and operations must be at least 1");
    }
    Ok(())
}

/// Bytes on disk at most at a time: the large file, once more as fetched and as the disk's floor, and three copies of it from the
/// put and from the one that is interrupted, its shards, and two files with three copies where a vendor hangs; the small ones likewise, singly and as a tree. Another system stores them
/// as well.
fn room_needed(options: &BenchOptions) -> u64 {
    let small = u64::from(options.files) * SMALL_FILE;
    let copies = if options.beside_garage { 21 } else { 17 };
    options.size.saturating_add(small).saturating_mul(copies).saturating_add(ROOM_BESIDE)
}

/// Runs everything `options.runs` times, each work at once followed by the same on the system beside.
fn measure(
    options: &BenchOptions,
    works: &[Work],
    beside: Option<&Path>,
    stage: &Stage,
    dir: &Path,
) -> Result<Samples, BenchError> {
    let mut samples = Samples::new();
    for number in 1..=options.runs {
        stage.print(&format!("\nRun {number} of {}", options.runs));
        let dir = dir.join(format!("run-{number}"));
        create_dir(&dir)?;
        let mut bed = Bed::new(options, dir.clone(), number);
        let starting = stage.spinner("starting the nodes");
        if works.iter().any(|work| work.needs_nodes()) {
            bed.start_nodes()?;
        }
        let garage = beside.map(|program| Garage::start(program, dir.join("garage"), &options.cancel)).transpose()?;
        starting.finish_and_clear();
        for work in works {
            options.cancel.check()?;
            let running = stage.spinner(work.name());
            let ours = bed.measure(*work)?;
            running.finish_and_clear();
            note(stage, &mut samples, work.name().to_owned(), ours);
            if let Some(garage) = &garage
                && let Some(theirs) = garage.measure(*work, &bed)?
            {
                note(stage, &mut samples, format!("garage_{}", work.name()), theirs);
            }
        }
        drop((garage, bed));
        if !options.keep {
            remove_dir(&dir)?;
        }
    }
    Ok(samples)
}

fn note(stage: &Stage, samples: &mut Samples, name: String, sample: Sample) {
    stage.print(&report::line(&name, &sample));
    let units = samples.entry(name).or_default();
    for (unit, value) in sample {
        units.entry(unit).or_default().push(value);
    }
}
