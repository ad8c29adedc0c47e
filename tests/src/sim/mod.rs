//! A deterministic simulator: one seed is one history of a whole network.
//!
//! The nodes run the real cores over the real encodings, signatures and local FAT: ledger, reporter, table, sync,
//! allocation, final-FAT checks.
//! What the binary's roles add to these cores (which request is answered how, what is written before what) is written out in
//! `mirror`, `vendor` and `user`. Time, the network (`network`), the disks (`disk`), clocks, crashes and those who lie
//! (`byzantine`) are the simulator's. A user is one or two devices, each with a journal on such a disk and sources that may change.
//!
//! A run has two phases. In the first, faults are injected and after every step the invariants are checked from outside
//! (`invariants`). Then the faults stop, and within bounded virtual time every honest mirror must hold the same table,
//! every operation must have ended, and everything that was acknowledged must be there.
//!
//! ```text
//! cargo run --release -p fathom-tests --bin simulate -- --seeds 1000          many histories, on all cores
//! cargo run --release -p fathom-tests --bin simulate -- --seed 7 --trace      one of them, step by step
//! ```

mod byzantine;
mod disk;
mod faults;
mod invariants;
mod mirror;
mod mutation;
mod network;
mod node;
mod random;
mod report;
mod scenario;
mod user;
mod vendor;
mod world;

pub use mutation::Mutation;
pub use report::{Injected, Report, Violation};
pub use scenario::Scenario;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// What the world is put through.
    pub scenario: Scenario,
    /// A line that is taken away.
    pub mutation: Option<Mutation>,
    /// Print every event.
    pub trace: bool,
}

impl Options {
    /// A seed's storm.
    #[must_use]
    pub fn seed(seed: u64) -> Self {
        Self { seed, scenario: Scenario::Storm, mutation: None, trace: false }
    }
}

/// Runs one history.
#[must_use]
pub fn run(options: &Options) -> Report {
    let _broken = mutation::Broken::new(options.mutation);
    let mut world = world::World::new(options);
    options.scenario.play(&mut world);
    world.report()
}
