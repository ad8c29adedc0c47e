//! Local Fathom networks made of real processes.
//!
//! This crate starts, disturbs and ends networks of `fathom` processes on one machine, and plays
//! the demonstration on top of them. It knows a node **only as a process**: its command line, its
//! `--json` answers, its `ready.json`, its exit codes and the files of its devices. It knows
//! nothing of the wire formats, of libp2p or of the crates that the node is built from, so what it
//! shows is what any script of a user could see.
//!
//! - [`Spec`] says which nodes a network has; [`Net::up`] makes and starts them, [`Net::attach`]
//!   finds them again from another process through `testnet.json`.
//! - A process is remembered by its id *and* its start time ([`ProcessId`]), so a recycled process
//!   id is never signalled. This uses `/proc` and pidfds: local testnets need Linux.
//! - [`commands`] is `fathom testnet ...`, [`demo`] is `fathom demo`, [`mod@bench`] is `fathom bench`.
//! - [`link`] emulates links between nodes: rate, queue, delay, losses.
//!
//! Everything is synchronous, every wait has a deadline, and a dropped [`Net`] that was not told
//! to [`Net::leave_running`] leaves no process behind.

pub mod bench;
mod cli;
pub mod commands;
pub mod demo;
mod error;
mod files;
pub mod link;
mod net;
mod process;
mod spec;
mod stage;
mod table;
mod units;
mod wait;

pub use cli::{CliOutput, run_cli};
pub use error::TestnetError;
pub use net::{Net, NodeHandle, NodeStatus};
pub use process::{ProcessId, ProcessState};
pub use spec::{Spec, VendorOverride, VendorSpec};
pub use wait::{Cancel, Stopwatch, wait_until};
