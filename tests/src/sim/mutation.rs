//! Deliberately broken builds: for each invariant one line that keeps it is taken away, and the simulator must see it.
//!
//! Those of the protocol's cores are switches of the feature `mutations` of `fathom-protocol`, which no node has. Those
//! of what the binary's roles add to the cores are switches of this crate's own nodes, which do as the roles do.

use std::fmt;
use std::str::FromStr;

/// One broken line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// 0: a vendor says that a request was withdrawn and keeps its room locked.
    CancelForgotten,
    /// 1: a record's signature is not verified.
    AnySignature,
    /// 2: a mirror takes a lower head.
    LowerHead,
    /// 2: a vendor that starts signs without asking mirrors whether it signed more than its disk knows.
    SignsUnasked,
    /// 3: a vendor offers what it has not.
    MoreThanCapacity,
    /// 4: a mirror answers before the record is on disk.
    MirrorAnswersEarly,
    /// 4: a vendor answers an offer before its lease is on disk.
    VendorAnswersEarly,
    /// 5: bytes are taken under any lease, whoever holds it and however old it is.
    AnyLease,
    /// 6: a lease is reclaimed by the local clock alone.
    LocalClockAlone,
    /// 7: the newer of two heads is the one that was signed later.
    TimeOrders,
    /// 8: one mirror's acknowledgement is enough.
    OneAcknowledgement,
    /// 8: a version gives way to any with a higher counter, whether that one's author knew it or not.
    UnseenOvertaken,
    /// 9: chunks that a final FAT names are swept like those that none names.
    SweepCommitted,
    /// 9: chunks of a version that was not chosen are erased at once.
    LostAtOnce,
    /// 9: a vendor erases what it moved although no mirror has the move.
    ErasedWithoutMirror,
    /// 9: a vendor erases what it moved at once.
    NoHoldTime,
    /// 10: a vendor's second signature for one number is overlooked.
    TwinsOverlooked,
    /// 10: a lease that a vendor dropped is overlooked.
    DropsOverlooked,
    /// 11: a stranger's frame may be as long as anybody's.
    StrangersUnbounded,
    /// 12: a chunk's salt does not depend on its plaintext.
    OneSalt,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::CancelForgotten,
        Self::AnySignature,
        Self::LowerHead,
        Self::SignsUnasked,
        Self::MoreThanCapacity,
        Self::MirrorAnswersEarly,
        Self::VendorAnswersEarly,
        Self::AnyLease,
        Self::LocalClockAlone,
        Self::TimeOrders,
        Self::OneAcknowledgement,
        Self::UnseenOvertaken,
        Self::SweepCommitted,
        Self::LostAtOnce,
        Self::ErasedWithoutMirror,
        Self::NoHoldTime,
        Self::TwinsOverlooked,
        Self::DropsOverlooked,
        Self::StrangersUnbounded,
        Self::OneSalt,
    ];

    /// The invariant whose line is taken away.
    #[must_use]
    pub fn invariant(self) -> u8 {
        match self {
            Self::CancelForgotten => 0,
            Self::AnySignature => 1,
            Self::LowerHead | Self::SignsUnasked => 2,
            Self::MoreThanCapacity => 3,
            Self::MirrorAnswersEarly | Self::VendorAnswersEarly => 4,
            Self::AnyLease => 5,
            Self::LocalClockAlone => 6,
            Self::TimeOrders => 7,
            Self::OneAcknowledgement | Self::UnseenOvertaken => 8,
            Self::SweepCommitted | Self::LostAtOnce | Self::ErasedWithoutMirror | Self::NoHoldTime => 9,
            Self::TwinsOverlooked | Self::DropsOverlooked => 10,
            Self::StrangersUnbounded => 11,
            Self::OneSalt => 12,
        }
    }

    /// Whether the line is in the protocol's cores, so that the feature `mutations` is needed.
    #[must_use]
    pub fn in_core(self) -> bool {
        !matches!(
            self,
            Self::CancelForgotten
                | Self::MirrorAnswersEarly
                | Self::VendorAnswersEarly
                | Self::OneAcknowledgement
                | Self::SweepCommitted
                | Self::DropsOverlooked
                | Self::SignsUnasked
                | Self::LostAtOnce
                | Self::StrangersUnbounded
        )
    }

    /// Whether this build can break it.
    #[must_use]
    pub fn is_built(self) -> bool {
        cfg!(feature = "mutations") || !self.in_core()
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|mutation| mutation.to_string() == text);
        known.ok_or_else(|| format!("no such mutation; there are {:?}", Self::ALL))
    }
}

/// Switches a core's line off for this thread while it lives.
pub(super) struct Broken;

impl Broken {
    pub(super) fn new(mutation: Option<Mutation>) -> Self {
        set(mutation);
        Self
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        set(None);
    }
}

#[cfg(feature = "mutations")]
fn set(mutation: Option<Mutation>) {
    use fathom_protocol::mutations::{self, Line};
    mutations::take_away(mutation.and_then(|mutation| {
        Some(match mutation {
            Mutation::AnySignature => Line::Signature,
            Mutation::LowerHead => Line::HigherHead,
            Mutation::MoreThanCapacity => Line::Capacity,
            Mutation::AnyLease => Line::LiveLease,
            Mutation::LocalClockAlone => Line::AgreedClock,
            Mutation::TimeOrders => Line::NoTime,
            Mutation::TwinsOverlooked => Line::Twins,
            Mutation::UnseenOvertaken => Line::Follows,
            Mutation::OneSalt => Line::Salt,
            Mutation::ErasedWithoutMirror => Line::MirrorHasMove,
            Mutation::NoHoldTime => Line::HoldTime,
            _ => return None,
        })
    }));
}

#[cfg(not(feature = "mutations"))]
fn set(_: Option<Mutation>) {}
