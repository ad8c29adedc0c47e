//! What `fathom fat` accepts, and its help.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::select::Selection;
use crate::offline::Part;

/// Show the table of all storage (the FAT).
///
/// A mirror shows its own table; any other node asks a mirror. Latencies are this node's own measurements, made anew when they
/// are older than a minute, and an age is the time since the vendor signed what is shown.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "Examples:\n  \
        fathom fat --zone cellar --min-free 10GiB --sort latency\n  \
        fathom fat --health old --health suspect\n  \
        fathom fat --lease 7f4d7612\n  \
        fathom fat --watch\n  \
        fathom fat --json | jq '.vendors[] | .free'\n  \
        fathom fat check                 (the node must not run)\n  \
        fathom fat export -o fat.jsonl   (the same)"
)]
pub(in crate::cli) struct FatOptions {
    #[command(subcommand)]
    pub(super) command: Option<FatCommand>,
    /// Only the digest: equal at two mirrors if and only if their tables are
    #[arg(long)]
    pub(super) digest: bool,
    /// Ask this mirror (64 hexadecimal digits, as `fathom status` shows)
    #[arg(long, value_name = "NODE")]
    pub(super) mirror: Option<String>,
    #[command(flatten)]
    pub(super) selection: Selection,
    /// List the leases, too
    #[arg(long)]
    pub(super) leases: bool,
    /// Tell the story of this lease, with its proof; the first digits of its id are enough
    ///
    /// Of a lease that is gone, give its whole id and --vendor with the vendor's: that it is not there any more is then proven.
    #[arg(long, value_name = "ID", conflicts_with_all = ["digest", "watch", "leases"])]
    pub(super) lease: Option<String>,
    /// Follow changes until Ctrl-C; with --json one line for each change
    #[arg(long, conflicts_with = "digest")]
    pub(super) watch: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum FatCommand {
    /// Verify this node's databases while it does not run
    #[command(
        long_about = "Verify this node's databases while it does not run: every record's signature and root, indexes \
                      against rows, counts, and the sum of leases against the capacity.\n\nNothing is changed. If \
                      something is wrong, it is listed with what to do about it, and the exit code is 7.",
        after_long_help = "Examples:\n  fathom fat check\n  fathom fat check --what vendor --json"
    )]
    Check {
        /// Only this database; may be given several times
        #[arg(long, value_enum, value_name = "DATABASE")]
        what: Vec<What>,
    },
    /// Write this node's databases as JSON lines while it does not run
    Export(ExportOptions),
    /// Show the versions of a file that two devices stored at the same time, and keep one
    ///
    /// Nothing of either version is freed until one is chosen; `put` and `rm` refuse the file so long. `fathom get NAME
    /// --version N` fetches a version without choosing. The other versions are freed about a day after the choice.
    #[command(after_long_help = "Examples:\n  fathom fat resolve letter.odt\n  fathom fat resolve letter.odt --keep 2")]
    Resolve {
        /// Name on the network
        name: String,
        /// Keep this version, from 1, and free the others
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=VERSIONS_MAX))]
        keep: Option<u8>,
    },
}

pub(in crate::cli) const VERSIONS_MAX: i64 = fathom_protocol::limits::VERSIONS_MAX as i64;

/// Write this node's databases as JSON lines while it does not run.
///
/// Each line is one record, an object with `part` (mirror, vendor or user) and `type`: `vendor`, `head`, `lease`, `final_fat`,
/// `move`, `proof`, `cursor`, `order` of a mirror; `chunk`, `lease`, `final_fat`, `move`, `head`, `value`, `device`,
/// `pending_erase` of a vendor; `put`, `file`, `chunk` of a user. Identifiers are hexadecimal, sizes bytes, times Unix
/// milliseconds. Keys of files are never written.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  fathom fat export --what mirror | jq 'select(.type == \"lease\") | .bytes'\n  \
    fathom fat export -o fat.jsonl"
)]
pub(super) struct ExportOptions {
    /// Only this database; may be given several times
    #[arg(long, value_enum, value_name = "DATABASE")]
    pub(super) what: Vec<What>,
    /// Write to this file instead of stdout; it is replaced whole or not at all
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

/// One of a node's databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// What a mirror knows of the network
    Mirror,
    /// A vendor's local FAT
    Vendor,
    /// A user's journal of interrupted puts
    User,
}

/// The databases that are asked for; all if none is named.
pub(super) fn parts(what: &[What]) -> Vec<Part> {
    let part = |what: &What| match what {
        What::Mirror => Part::Mirror,
        What::Vendor => Part::Vendor,
        What::User => Part::User,
    };
    if what.is_empty() {
        Part::ALL.to_vec()
    } else {
        Part::ALL.into_iter().filter(|all| what.iter().any(|one| part(one) == *all)).collect()
    }
}
