//! `fathom demo`: the whole cycle of the design, told step by step over a network of real processes.
//!
//! The steps follow the design's figures. Each waits for what it claims to show, with a deadline,
//! and the play ends with an error if a single byte, device or mirror is not as it should be.
//!
//! It needs from the network only what [`crate::Net`] offers; the story is in `script` (to the
//! final FAT and the migration) and `ending` (fetch, release, erase), the storing itself in `put`.

mod ending;
mod events;
mod put;
mod script;
mod source;
mod tables;
mod tree;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::files::{create_dir, remove_dir};
use crate::stage::Stage;
use crate::{Cancel, Stopwatch, TestnetError};
use script::Play;
use source::Source;

/// What `fathom demo` is told.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The `fathom` program whose nodes are to be shown.
    pub binary: PathBuf,
    /// What to store; `None` is the sources of the checkout that this runs in, and a generated file
    /// of 256 MiB.
    pub path: Option<PathBuf>,
    /// The directory in which the demonstration makes a directory of its own; `None` is the
    /// system's directory for temporary files.
    pub dir: Option<PathBuf>,
    /// Leave that directory behind.
    pub keep: bool,
    /// Print one JSON object at the end; the story then goes to standard error.
    pub json: bool,
    /// Set by the caller, on Ctrl-C say, to end early: the nodes are killed and the files removed.
    pub cancel: Cancel,
}

/// Why the demonstration did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
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
    /// What came back is not what was stored.
    #[error("what came back differs from what was stored:\n  {}", .0.join("\n  "))]
    Differs(Vec<String>),
    /// Something that was to be shown did not happen.
    #[error("{0}")]
    NotShown(String),
}

impl DemoError {
    fn file(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { what, path: path.to_owned(), source }
    }

    /// The exit code of `fathom demo`: 7 when bytes differ, otherwise that of the network's error,
    /// or 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Testnet(error) => error.exit_code(),
            Self::Differs(_) => 7,
            Self::File { .. } | Self::NotShown(_) => 1,
        }
    }

    /// A word for scripts, stable across versions.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Testnet(error) => error.kind(),
            Self::File { .. } => "file",
            Self::Differs(_) => "differs",
            Self::NotShown(_) => "not_shown",
        }
    }
}

/// What the demonstration found, printed with `--json`. Times are in seconds, rates in 10^6 bytes
/// per second.
#[derive(Debug, Default, Serialize)]
struct Report {
    files: u64,
    bytes: u64,
    chunks: u64,
    seconds: f64,
    put_seconds: f64,
    put_mb_per_s: f64,
    get_seconds: f64,
    get_mb_per_s: f64,
    replaced_copies: u64,
    moved_chunks: u64,
    killed: String,
    overloaded: String,
    every_byte_identical: bool,
    devices_empty: bool,
    fat_digests_equal: bool,
}

/// Plays the demonstration to its end. All processes have ended and, unless `keep` is set, all
/// files are removed when it returns.
///
/// # Errors
/// [`DemoError`] when anything that is claimed does not hold, or not in time.
pub fn run(options: DemoOptions) -> Result<(), DemoError> {
    let watch = Stopwatch::start();
    let stage = Stage::new(options.json);
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let random = getrandom::u32().unwrap_or_else(|_| std::process::id());
    let work = base.join(format!("fathom-demo-{random:08x}"));
    create_dir(&work)?;
    let played = play(&options, &stage, &work, watch);
    // The play's network is gone by now: nothing writes below `work` any more.
    if options.keep {
        stage.print(&format!("\nEverything that was written is kept in {}", work.display()));
    } else {
        remove_dir(&work)?;
    }
    let report = played?;
    if options.json {
        use std::io::Write as _;
        let text = serde_json::to_string(&report).unwrap_or_default();
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
    Ok(())
}

fn play(options: &DemoOptions, stage: &Stage, work: &Path, watch: Stopwatch) -> Result<Report, DemoError> {
    script::prologue(stage);
    let source = Source::prepare(options.path.as_deref(), work)?;
    options.cancel.check()?;
    let mut play = Play::open(options, stage, work, source)?;
    play.figures_1_to_4()?;
    play.figures_5_to_14()?;
    play.figure_15()?;
    play.figures_15b_to_e()?;
    play.figures_16_to_19()?;
    play.figures_20_to_22()?;
    play.close(watch)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_demonstration_that_cannot_start_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let options = DemoOptions {
            binary: "/no/such/binary".into(),
            path: Some(dir.path().join("none")),
            dir: Some(dir.path().to_owned()),
            keep: false,
            json: true,
            cancel: Cancel::default(),
        };
        assert!(matches!(run(options.clone()), Err(DemoError::File { .. })));
        let small = dir.path().join("small");
        std::fs::write(&small, "x").unwrap();
        let error = run(DemoOptions { path: Some(small), ..options }).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), ("spawn", 1));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
