//! Lines that keep an invariant, to be taken away one at a time: the simulator must see each of them missing.
//!
//! Only with the feature `mutations`, which nothing but the simulator's mutation check turns on, can a line be taken away;
//! without it `without` is `false` when this is compiled, and the lines are as if this module were not there.

/// A line that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A record's signature is verified.
    Signature,
    /// A lower head never replaces a higher one.
    HigherHead,
    /// No more is offered than is free.
    Capacity,
    /// Bytes are taken only under a live lease of their owner.
    LiveLease,
    /// A lease is reclaimed only when the mirrors' clocks agree.
    AgreedClock,
    /// When a head was signed is not looked at.
    NoTime,
    /// Two heads with one number are made a proof against their signer.
    Twins,
    /// A version gives way to one that follows it, and to no other.
    Follows,
    /// A chunk's salt follows its plaintext.
    Salt,
    /// A source lets a chunk go only when a mirror has its move.
    MirrorHasMove,
    /// A source keeps a chunk that was moved for its hold time.
    HoldTime,
}

#[cfg(feature = "mutations")]
thread_local! {
    static AWAY: std::cell::Cell<Option<Line>> = const { std::cell::Cell::new(None) };
}

/// Takes one line away, or none, for everything that this thread does from now on.
#[cfg(feature = "mutations")]
pub fn take_away(line: Option<Line>) {
    AWAY.set(line);
}

/// Whether `line` is taken away.
#[cfg(feature = "mutations")]
pub(crate) fn without(line: Line) -> bool {
    AWAY.get() == Some(line)
}

/// Whether `line` is taken away: never.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn without(_: Line) -> bool {
    false
}
