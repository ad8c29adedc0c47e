//! What the command line accepts, and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use fathom_protocol::erasure::Code;

use super::fat::{FatOptions, VERSIONS_MAX};
use crate::config::{DeviceConfig, Role};

const EXAMPLES: &str = "\
Offer storage of a disk at home:
  fathom init --role vendor,mirror --zone my-town --device /mnt/disk1/fathom:500GiB
  fathom join fathom:...           (the invite that somebody in the network gave you)
  fathom run

Store and fetch files:
  fathom init --role user --network fathom:...
  fathom put ~/Photos              (needs no running node; with one it starts faster)
  fathom ls
  fathom get Photos -o ~/Restored

Try it on this machine alone:
  fathom demo

Exit codes:
  0  done
  1  failed for another reason than those below
  2  the command was not given as it must be
  3  there is no such file, name, node or directory
  4  not enough space, or not enough vendors to place the data
  5  no mirror or peer can be reached, or this node is in no network
  6  interrupted; the same command goes on where this one ended
  7  data or a record did not verify
  8  a key is missing, wrong, or readable by others, or this node may not do that

Environment:
  FATHOM_DIR         the node's directory, if --dir is not given
  FATHOM_LOG         what is logged to stderr, for example debug or fathom=trace,warn
  FATHOM_PARENT_PID  `fathom run` ends when this process is gone";

const GLOBAL: &str = "Options of every command";

/// Fathom stores your files on other people's disks, encrypted, in several copies, and gets them back even after
/// those disks have moved or died; and it offers your own disks to others.
#[derive(Debug, Parser)]
#[command(name = "fathom", version, about, long_about, after_long_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Cli {
    /// The node's directory [env: FATHOM_DIR] [default: ~/.fathom; of a testnet: ~/.fathom-testnet]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// Print exactly one JSON object instead of text
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) json: bool,
    /// With --json: print events as JSON lines before the result
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) progress: bool,
    /// Log more to stderr; twice for all
    #[arg(short, long, global = true, help_heading = GLOBAL, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a node: its directory, keys and configuration
    Init(InitOptions),
    /// Run the node until it is told to end (Ctrl-C or SIGTERM)
    Run(RunOptions),
    /// Enter a network
    #[command(after_long_help = "Examples:\n  fathom join fathom:ae3d...\n  fathom join network.toml")]
    Join {
        /// An invite (fathom:...) or a network descriptor file
        #[arg(value_name = "INVITE|FILE")]
        network: String,
    },
    /// Print an invite by which others enter the network through this node
    Invite(InviteOptions),
    /// Store a file, or every file of a directory
    Put(PutOptions),
    /// Fetch a file, or every file below a name
    Get(GetOptions),
    /// List your files
    Ls {
        /// Only this file, or the files below this name
        name: Option<String>,
    },
    /// Give up files and free their storage, without fetching them
    #[command(after_long_help = "Examples:\n  fathom rm old-backup.tar\n  fathom rm Photos/2019 Photos/2020")]
    Rm {
        /// Names of files, or of trees
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make copies again that vendors lost, from the copies that are left
    ///
    /// A node that runs does so by itself when a vendor says, or is proven, to have lost a copy. A vendor that is merely silent is
    /// not given up: name it with --without if it will not come back.
    Repair {
        /// Files or trees; all if left out
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Give this vendor up: what it has is copied to others (the first digits of its id, as in `fathom fat`)
        #[arg(long, value_name = "VENDOR")]
        without: Vec<String>,
    },
    /// Describe the running node
    Status,
    /// Show the table of all storage (the FAT): who offers how much, and what is locked
    Fat(FatOptions),
    /// Explain which vendors are best for storing, or for fetching a file
    #[command(
        long_about = "Explain which vendors are best for storing, or for fetching a file.\n\nEach is probed now. Shown are the \
                      round trip and its variation, losses, what its link carries up and down (as measured by this node, \
                      or else as the vendor says), what came from it of late, its load, how often it answered, and the \
                      expected time of a chunk. Numbers are places in the chain that would be used for storing: the \
                      slowest uplink goes last, since the last one sends nothing on."
    )]
    Path {
        /// For fetching this file; for storing if left out
        name: Option<String>,
    },
    /// Bring a user back from the 24 words, which are read from stdin
    #[command(
        long_about = "Bring a user back from the recovery phrase of 24 words.\n\nThe words are read from stdin, so that \
                      they stay out of the shell's history. Files are not fetched by this; `fathom ls` then shows \
                      them and `fathom get` brings them.",
        after_long_help = "Examples:\n  fathom init --role user --no-phrase --network fathom:...\n  fathom recover      \
                           (then type the words and press Enter)"
    )]
    Recover,
    /// Look at the vendor's devices
    Device {
        #[command(subcommand)]
        command: DeviceCommand,
    },
    /// Run many commands, which are read from stdin, several at a time
    #[command(
        long_about = "Run many commands, which are read from stdin, several at a time.\n\nA line is one JSON object: a put, \
                      get, ls or rm. One process and one node serve them all, so that a script with many small files \
                      does not pay for a start each time. A line that fails ends nothing; the exit code is that of the \
                      first that failed. With --json --progress each line is answered by an event with its result and \
                      the seconds that it took.",
        after_long_help = "Example:\n  fathom batch --jobs 8 << END\n  {\"command\": \"put\", \"path\": \"a.txt\", \"name\": \
                           \"docs/a.txt\"}\n  {\"command\": \"get\", \"name\": \"docs/b.txt\", \"output\": \"b.txt\"}\n  \
                           {\"command\": \"rm\", \"names\": [\"old\"]}\n  END"
    )]
    Batch {
        /// Commands at a time; with more than one they end in any order
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=JOBS_MAX))]
        jobs: u8,
    },
    /// Show the whole cycle on a network of its own on this machine
    Demo(DemoOptions),
    /// Measure storing and fetching on a network of its own on this machine, beside what bare libp2p and the disk do
    Bench(BenchOptions),
    /// One hop of bare libp2p, for `bench`
    #[command(hide = true)]
    Floor {
        /// Where bytes are passed on to
        #[arg(long, value_name = "ADDRESS")]
        next: Option<String>,
    },
    /// Run a network of real processes on this machine, for trying and testing
    #[command(subcommand)]
    Testnet(TestnetCommand),
    /// Print a completion script for a shell
    #[command(
        after_long_help = "Example:\n  fathom completions bash > ~/.local/share/bash-completion/completions/fathom"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// List the devices, how full they are and whether they work
    List,
}

/// Create a node.
///
/// Writes the configuration, with every setting explained, and the keys. Nothing is sent anywhere: this works without
/// a network connection. A user's recovery phrase is shown once, here.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
    fathom init --role vendor,mirror --zone cellar --device /mnt/disk1/fathom:500GiB:20GiB\n  \
    fathom init --role user --network fathom:ae3d...\n  \
    fathom init --role user --no-phrase        (then `fathom recover`)\n  \
    fathom init --role bootstrap,mirror --new-network friends")]
pub(super) struct InitOptions {
    /// What the node does, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "user", value_name = "ROLE,...")]
    pub(super) role: Vec<Role>,
    /// The network to enter: an invite (fathom:...) or a descriptor file
    #[arg(long, value_name = "INVITE|FILE", conflicts_with = "new_network")]
    pub(super) network: Option<String>,
    /// Found a new network of this name; others enter by this node's `fathom invite`
    #[arg(long, value_name = "NAME")]
    pub(super) new_network: Option<String>,
    /// Where to listen, for example /ip4/0.0.0.0/udp/4600/quic-v1; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub(super) listen: Vec<String>,
    /// Vendor: where the storage stands; copies go to different zones
    #[arg(long, value_name = "ZONE")]
    pub(super) zone: Option<String>,
    /// Vendor: who runs it; copies go to different operators
    #[arg(long, value_name = "NAME")]
    pub(super) operator: Option<String>,
    /// Vendor: a directory to fill, how far, and what to leave free on that disk (1 GiB); may be given several times
    #[arg(long, value_name = "PATH:QUOTA[:RESERVE]")]
    pub(super) device: Vec<DeviceConfig>,
    /// Any setting of the configuration, for example vendor.hold_seconds=60; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// User: make no key; `fathom recover` will bring one back
    #[arg(long)]
    pub(super) no_phrase: bool,
}

/// Run the node in the foreground.
///
/// It is ready when `ready.json` is in its directory. Ctrl-C or SIGTERM end it; a second one ends it at once.
#[derive(Debug, Args)]
pub(super) struct RunOptions {
    /// Run these roles instead of the configured ones
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROLE,...")]
    pub(super) role: Vec<Role>,
}

/// Print an invite.
///
/// It names this node's own addresses and those by which it entered itself. An invite is not secret: whoever
/// has it can enter the network, and read nothing of anybody's files.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  fathom invite\n  fathom invite --descriptor > network.toml")]
pub(super) struct InviteOptions {
    /// Print the descriptor, a TOML file, instead of the invite
    #[arg(long)]
    pub(super) descriptor: bool,
}

/// Store a file, or every file of a directory.
///
/// The data is encrypted here, split into chunks and stored in several copies at different vendors, or in shards of which
/// some are enough (--erasure). When this is interrupted, the same command goes on where it was.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  fathom put letter.odt\n  fathom put ~/Photos --as family/Photos --copies 4\n  \
    fathom put big.iso --erasure 4+2 --explain\n  fathom put db.dump --zone home --zone office --media ssd"
)]
pub(super) struct PutOptions {
    /// The file or directory
    pub(super) path: PathBuf,
    /// Name on the network [default: the last part of PATH]
    #[arg(long = "as", value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Copies of each chunk [default: user.copies of the configuration]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=COPIES_MAX))]
    pub(super) copies: Option<u8>,
    /// Erasure coding instead of copies: with 4+2, any 4 of 6 vendors give the file back, at 1.5 times its size
    /// [default: user.erasure of the configuration]
    #[arg(long, value_name = "K+M", conflicts_with = "copies")]
    pub(super) erasure: Option<Code>,
    /// Store in this zone only; may be given several times
    #[arg(long = "zone", value_name = "ZONE")]
    pub(super) zones: Vec<String>,
    /// Store on this medium only, such as ssd or hdd
    #[arg(long)]
    pub(super) media: Option<String>,
    /// Store only where devices write so many MB/s, as measured by their vendor
    #[arg(long, value_name = "MB", default_value_t = 0, hide_default_value = true)]
    pub(super) min_bandwidth: u64,
    /// Store only where a durable write takes at most so many milliseconds, as measured by the vendor
    #[arg(long, value_name = "MS", default_value_t = 0, hide_default_value = true)]
    pub(super) max_latency: u32,
    /// For measurements: send through these vendors in this order (first digits of their ids), whatever their links carry
    #[arg(long, value_name = "VENDOR", value_delimiter = ',', hide = true)]
    pub(super) via: Vec<String>,
    /// Show which storage was locked, and which path was chosen and why
    #[arg(long)]
    pub(super) explain: bool,
}

/// As many as a node serves over its control socket at a time, less a few for others.
const JOBS_MAX: i64 = 48;
const COPIES_MAX: i64 = fathom_protocol::limits::COPIES_MAX as i64;

/// Fetch a file, or every file below a name.
///
/// Chunks come from several vendors at once and are checked one by one. When this is interrupted, the same command
/// goes on where it was.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  fathom get letter.odt\n  fathom get family/Photos -o ~/Restored\n  \
    fathom get big.iso --release\n  fathom get big.iso --range 0-65535 -o - | file -")]
pub(super) struct GetOptions {
    /// Name on the network
    pub(super) name: String,
    /// Where to put it [default: the last part of NAME, in the current directory]; with --range, - is stdout
    #[arg(short, long, value_name = "PATH")]
    pub(super) output: Option<PathBuf>,
    /// Of one file these bytes only, the first and the last, counted from 0; A- goes to the end
    ///
    /// No more is fetched and checked than the 64 KiB segments that hold them.
    #[arg(long, value_name = "A-B", value_parser = byte_range, conflicts_with = "release")]
    pub(super) range: Option<(u64, Option<u64>)>,
    /// Show which vendors have it, and what is known of the ways to them
    #[arg(long)]
    pub(super) explain: bool,
    /// Give up the stored copies once everything is here and checked
    #[arg(long, conflicts_with = "version")]
    pub(super) release: bool,
    /// Of a file that two devices stored at the same time this version, as `fathom fat resolve NAME` numbers them
    /// [default: the newest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=VERSIONS_MAX))]
    pub(super) version: Option<u8>,
}

/// Show the whole cycle on a network of its own on this machine.
///
/// Stores a directory tree on a network of real processes, kills a vendor in the middle, overloads another, fetches
/// everything with nothing but the recovery phrase, compares every byte, and frees the storage again.
#[derive(Debug, Args)]
pub(super) struct DemoOptions {
    /// The directory tree to store [default: the sources here and a generated file]
    pub(super) path: Option<PathBuf>,
    /// Leave the demonstration's directory behind
    #[arg(long)]
    pub(super) keep: bool,
}

/// Measure storing and fetching on a network of its own on this machine.
///
/// Real processes: three mirrors, vendors and a user. Every figure is measured several times, interleaved with the floors: bare
/// libp2p over the same hops, and the disk. What is fetched is compared byte by byte. Close other programs: the figures are those of
/// this machine as it is.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  fathom bench\n  fathom bench --work floor_chain,put_large --size 256MiB --runs 5\n  \
    fathom bench --json bench.json --out bench-report\n  fathom bench --compare last\n\nWorks:\n  \
    floor_chain    bytes over three hops of bare libp2p, nothing stored\n  \
    put_large      one file of --size, 3 copies on the disks of 3 vendors\n  \
    floor_single   bytes over one hop of bare libp2p\n  \
    get_large      the same file back\n  \
    floor_disk     one file of --size written in sequence, and one fsync\n  \
    put_small      --files files of 64 KiB, each a put of its own, 8 at a time\n  \
    get_small      the same files back, each a get of its own, 8 at a time\n  \
    put_tree       as many files of 64 KiB as one put of a directory\n  \
    get_tree       the same directory back\n  \
    latency_put    puts of 16 KiB one after another\n  \
    latency_get    the same files back, one after another\n  \
    resume         kill -9 of the user's node in the middle of a put; what the restart costs\n  \
    put_erasure    the large file in stripes of 4+2 on the disks of 6 vendors\n  \
    get_erasure    the same file back\n  \
    put_stopped    three copies of it while one of those vendors hangs; what that costs\n  \
    get_stopped    the same file back while one of them hangs\n  \
    remove         how soon the devices have its room back\n  \
    idle           memory and CPU of nodes that have nothing to do"
)]
pub(super) struct BenchOptions {
    /// With --json: write the JSON to this file instead of stdout
    #[arg(value_name = "FILE", requires = "json")]
    pub(super) json_file: Option<PathBuf>,
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) runs: u32,
    /// What to measure [default: everything]
    #[arg(long, value_delimiter = ',', value_name = "WORK,...")]
    pub(super) work: Vec<String>,
    /// Size of the large file
    #[arg(long, default_value = "1GiB", value_name = "SIZE", value_parser = crate::config::parse_size)]
    pub(super) size: u64,
    /// How many small files
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) files: u32,
    /// How many puts and gets for the latencies
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) operations: u32,
    /// Vendors
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(super) vendors: usize,
    /// Devices of each vendor
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) devices: usize,
    /// Write a report with plots (report.md, *.svg, report.json) to this directory
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Compare with a former run: a file that --json wrote, or `last` of the history
    #[arg(long, value_name = "FILE|last")]
    pub(super) compare: Option<PathBuf>,
    /// Where the history of all runs is kept [default: bench.jsonl in the user's data directory]
    #[arg(long, value_name = "FILE")]
    pub(super) history: Option<PathBuf>,
    /// Measure another system with the same work, in turn with Fathom; its program must be in PATH
    #[arg(long, value_name = "SYSTEM", value_parser = ["garage"])]
    pub(super) beside: Option<String>,
    /// Leave the directory with the nodes behind
    #[arg(long)]
    pub(super) keep: bool,
}

/// Run a network of real processes on this machine. `--dir` names its directory.
#[derive(Debug, Subcommand)]
pub(super) enum TestnetCommand {
    /// Create and start a network, or start one that is down, and leave it running
    #[command(after_long_help = "Example:\n  fathom testnet up --mirrors 3 --vendors 6 --devices 3 --dir /tmp/net")]
    Up(TestnetUpOptions),
    /// Show the nodes and whether they run
    Status,
    /// End a node the hard way (SIGKILL)
    Kill(TestnetNode),
    /// Freeze a node (SIGSTOP): it is there and says nothing
    Stop(TestnetNode),
    /// Let a frozen node go on (SIGCONT)
    Cont(TestnetNode),
    /// Start a node that ended
    Start(TestnetNode),
    /// End all nodes
    Down {
        /// Remove the network's directory too
        #[arg(long)]
        remove: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct TestnetUpOptions {
    /// Mirrors
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(super) mirrors: usize,
    /// Vendors
    #[arg(long, default_value_t = 6, value_name = "N")]
    pub(super) vendors: usize,
    /// Devices of each vendor
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(super) devices: usize,
    /// Zones over which the vendors are spread
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(super) zones: usize,
    /// Users
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) users: usize,
    /// Quota of each device
    #[arg(long, default_value = "1GiB", value_name = "SIZE", value_parser = crate::config::parse_size)]
    pub(super) quota: u64,
}

#[derive(Debug, Args)]
pub(super) struct TestnetNode {
    /// The node's name, as `fathom testnet status` shows it
    #[arg(value_name = "NODE")]
    pub(super) name: String,
}

/// The first and the last byte of `A-B`, or of `A-` the first.
fn byte_range(text: &str) -> Result<(u64, Option<u64>), String> {
    let wrong = || "write A-B or A-, such as 0-65535: the first and the last byte, counted from 0".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    match last {
        "" => Ok((first, None)),
        last => last.parse().ok().filter(|last| *last >= first).map(|last| (first, Some(last))).ok_or_else(wrong),
    }
}
