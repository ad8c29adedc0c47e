//! What a run did, and what it found.

use std::collections::VecDeque;
use std::fmt;

use serde::Serialize;

/// Events kept for the report of a failure.
const LAST_EVENTS: usize = 40;

/// What was injected and what was done, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Injected {
    pub messages: u64,
    pub lost: u64,
    pub replayed: u64,
    pub blocked: u64,
    pub clogged: u64,
    pub partitions: u64,
    pub crashes: u64,
    pub crashes_in_write: u64,
    pub torn_writes: u64,
    pub lost_acknowledgements: u64,
    pub restores: u64,
    pub taken_back: u64,
    pub unread: u64,
    pub alone: u64,
    pub leases_dropped: u64,
    pub drops_proven: u64,
    pub clock_jumps: u64,
    pub byzantine_acts: u64,
    pub puts: u64,
    pub removes: u64,
    pub reads: u64,
    pub renewals: u64,
    pub whole_heads: u64,
    pub deltas: u64,
    pub bases_missing: u64,
    pub refused: u64,
    pub abandoned: u64,
    pub cancels: u64,
    pub withdrawn: u64,
    pub user_crashes: u64,
    pub resumes: u64,
    pub changed_sources: u64,
    pub forks: u64,
    pub resolutions: u64,
    pub moves: u64,
    pub moves_resumed: u64,
    pub moves_ended: u64,
    pub moves_void: u64,
    pub locked_ahead: u64,
    pub drawn: u64,
    pub returned_ahead: u64,
}

impl Injected {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.messages, other.messages),
            (&mut self.lost, other.lost),
            (&mut self.replayed, other.replayed),
            (&mut self.blocked, other.blocked),
            (&mut self.clogged, other.clogged),
            (&mut self.partitions, other.partitions),
            (&mut self.crashes, other.crashes),
            (&mut self.crashes_in_write, other.crashes_in_write),
            (&mut self.torn_writes, other.torn_writes),
            (&mut self.lost_acknowledgements, other.lost_acknowledgements),
            (&mut self.restores, other.restores),
            (&mut self.taken_back, other.taken_back),
            (&mut self.unread, other.unread),
            (&mut self.alone, other.alone),
            (&mut self.leases_dropped, other.leases_dropped),
            (&mut self.drops_proven, other.drops_proven),
            (&mut self.clock_jumps, other.clock_jumps),
            (&mut self.byzantine_acts, other.byzantine_acts),
            (&mut self.puts, other.puts),
            (&mut self.removes, other.removes),
            (&mut self.reads, other.reads),
            (&mut self.renewals, other.renewals),
            (&mut self.whole_heads, other.whole_heads),
            (&mut self.deltas, other.deltas),
            (&mut self.bases_missing, other.bases_missing),
            (&mut self.refused, other.refused),
            (&mut self.abandoned, other.abandoned),
            (&mut self.cancels, other.cancels),
            (&mut self.withdrawn, other.withdrawn),
            (&mut self.user_crashes, other.user_crashes),
            (&mut self.resumes, other.resumes),
            (&mut self.changed_sources, other.changed_sources),
            (&mut self.forks, other.forks),
            (&mut self.resolutions, other.resolutions),
            (&mut self.moves, other.moves),
            (&mut self.moves_resumed, other.moves_resumed),
            (&mut self.moves_ended, other.moves_ended),
            (&mut self.moves_void, other.moves_void),
            (&mut self.locked_ahead, other.locked_ahead),
            (&mut self.drawn, other.drawn),
            (&mut self.returned_ahead, other.returned_ahead),
        ];
        for (sum, value) in pairs {
            *sum += value;
        }
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Number of the invariant in design.md section 2; 0 for liveness.
    pub invariant: u8,
    /// What happened.
    pub what: String,
    /// Virtual milliseconds since the start.
    pub at_ms: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.invariant {
            0 => write!(f, "liveness broken at {} ms: {}", self.at_ms, self.what),
            number => write!(f, "invariant {number} broken at {} ms: {}", self.at_ms, self.what),
        }
    }
}

/// The result of one seed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Mirrors, vendors and users of the world.
    pub nodes: (usize, usize, usize),
    /// Virtual milliseconds that passed.
    pub virtual_ms: u64,
    /// Virtual milliseconds from the last fault until all mirrors were equal and every operation had ended.
    pub converged_after_ms: u64,
    /// Events handled.
    pub events: u64,
    /// BLAKE3 over all events, in hexadecimal: equal for two runs of one seed.
    pub trace: String,
    /// What was injected and done.
    pub injected: Injected,
    /// The first broken promise, if any.
    pub violation: Option<Violation>,
    /// The last events before it.
    pub last_events: Vec<String>,
}

impl Report {
    /// The command that runs this seed again.
    #[must_use]
    pub fn replay(&self) -> String {
        format!("cargo run --release -p fathom-tests --bin simulate -- --seeds 1 --seed {} --trace", self.seed)
    }

    /// What to print of a run that failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let violation = self.violation.as_ref()?;
        let events = self.last_events.join("\n  ");
        Some(format!("seed {}: {violation}\nreplay: {}\nlast events:\n  {events}", self.seed, self.replay()))
    }
}

/// Hashes every event and remembers the last ones.
#[derive(Debug)]
pub(super) struct Trace {
    hasher: blake3::Hasher,
    last: VecDeque<String>,
    print: bool,
    pub(super) events: u64,
}

impl Trace {
    pub(super) fn new(print: bool) -> Self {
        Self { hasher: blake3::Hasher::new(), last: VecDeque::new(), print, events: 0 }
    }

    /// Notes an event; `text` goes into the hash.
    pub(super) fn note(&mut self, at: u64, text: String) {
        self.events += 1;
        self.hasher.update(&at.to_le_bytes()).update(text.as_bytes());
        if self.print {
            println!("{at:>9} {text}");
        }
        if self.last.len() == LAST_EVENTS {
            self.last.pop_front();
        }
        self.last.push_back(format!("{at:>9} {text}"));
    }

    /// Adds bytes to the hash only.
    pub(super) fn mix(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    pub(super) fn finish(&self) -> (String, Vec<String>) {
        (self.hasher.finalize().to_hex().to_string(), self.last.iter().cloned().collect())
    }
}
