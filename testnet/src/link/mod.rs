//! Links between nodes of one machine, emulated in user space: no rights and no kernel modules are needed.
//!
//! A [`Link`] has two directions, each with a rate, a queue that drops what does not fit, a delay that may vary, and losses
//! by chance. [`Link::front`] opens a UDP port that stands for a node behind the link: what is sent there takes the link
//! forth to the node, and the node's answers take it back. All fronts of a link share its two queues, so that flows
//! compete in them as at a home's router.
//!
//! A [`Mesh`] gives each node of a network such a link.
//!
//! Losses are drawn from the link's seed, in the order of the datagrams. How exact the times are depends on the machine:
//! about 0.1 ms on an idle one.

mod front;
mod mesh;
mod pipe;
mod shape;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use front::Front;
pub use mesh::Mesh;
pub use shape::{Counts, Direction};

use self::pipe::Pipe;

/// What a link is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpec {
    /// From the peers to the node behind the link.
    pub forth: Direction,
    /// From the node behind the link to its peers.
    pub back: Direction,
    /// What losses and variations are drawn from.
    pub seed: u64,
}

impl LinkSpec {
    /// The same in both directions.
    #[must_use]
    pub fn both(direction: Direction, seed: u64) -> Self {
        Self { forth: direction, back: direction, seed }
    }
}

impl Default for LinkSpec {
    /// A link that neither delays nor loses anything.
    fn default() -> Self {
        Self::both(Direction::default(), 0)
    }
}

/// An emulated link. It and its fronts end when they are dropped.
#[derive(Debug)]
pub struct Link {
    forth: Arc<Pipe>,
    back: Arc<Pipe>,
    ended: Arc<AtomicBool>,
}

impl Link {
    /// Starts the link's two directions.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(spec: LinkSpec) -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        // One seed, two sequences.
        let forth = Pipe::start(spec.forth, spec.seed, &ended)?;
        let back = Pipe::start(spec.back, spec.seed ^ u64::MAX, &ended)?;
        Ok(Self { forth, back, ended })
    }

    /// A port of 127.0.0.1 that leads over this link to a node, once [`Front::aim`] has told which.
    ///
    /// # Errors
    /// There is no port, or no thread can be started.
    pub fn front(&self) -> io::Result<Front> {
        Front::open(&self.forth, &self.back)
    }

    /// The link is like this from now on; what is on its way is not changed.
    pub fn change(&self, forth: Direction, back: Direction) {
        self.forth.change(forth);
        self.back.change(back);
    }

    /// What became of the datagrams so far, forth and back.
    #[must_use]
    pub fn counts(&self) -> (Counts, Counts) {
        (self.forth.counts(), self.back.counts())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.forth.wake();
        self.back.wake();
    }
}
