//! Which versions of a file a final FAT follows, and what becomes of the chunks of each.
//!
//! Chunks are stored under a [`Tag`], which is the sequence number of the final FAT that they are for. A final FAT says with `seq`
//! and `base` which tags it keeps, and with [`Follows`] which versions its author knew. A version gives way to one that follows it
//! and to no other: what a device stored while another one wrote stays beside it as a twin, whatever their numbers are, until a
//! final FAT that follows both says which one stays.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::Bounded;
use crate::limits::FOLLOWS_MAX;

/// Sequence number of a final FAT, and the tag of the chunks that are stored for it: `counter << 16 | writer`.
///
/// The counter is greater by one than that of every version that its author knew. The writer is drawn at random for each put, so
/// that two devices that write at once neither take each other's chunks for their own nor free them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// What becomes of a chunk under a final FAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Of a version that was replaced: it is erased.
    Past,
    /// Of a version that was not chosen when a fork was resolved: it is let go as if it had just been stored and never named, so
    /// that another device that chose it at the same moment still finds it.
    Lost,
    /// Named: it is committed.
    Live,
    /// Nothing is said of it: of a version that the author did not know, of a put that was given up, or of one that still runs.
    Other,
}

impl Fate {
    /// Its name in what is shown to people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Past => "past",
            Self::Lost => "lost",
            Self::Live => "live",
            Self::Other => "other",
        }
    }
}

impl Tag {
    /// Bits of the writer.
    const WRITER_BITS: u32 = 16;
    /// The greatest counter.
    pub const COUNTER_MAX: u64 = u64::MAX >> Self::WRITER_BITS;

    /// The tag of `writer` under `counter`, which is cut to [`Self::COUNTER_MAX`].
    #[must_use]
    pub const fn new(counter: u64, writer: u16) -> Self {
        let counter = if counter > Self::COUNTER_MAX { Self::COUNTER_MAX } else { counter };
        Self(counter << Self::WRITER_BITS | writer as u64)
    }

    /// How many final FATs of the file there were, this one included.
    #[must_use]
    pub const fn counter(self) -> u64 {
        self.0 >> Self::WRITER_BITS
    }
}

/// A version that is followed: its tag, and what becomes of its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Followed(u64, Says);

/// [`Fate`], but for what nothing is said of. The greater outlasts the smaller: what was replaced once is never taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
enum Says {
    Live,
    Lost,
    Past,
}

impl Says {
    const fn fate(self) -> Fate {
        match self {
            Self::Live => Fate::Live,
            Self::Lost => Fate::Lost,
            Self::Past => Fate::Past,
        }
    }
}

impl From<Says> for u8 {
    fn from(says: Says) -> Self {
        says as Self
    }
}

impl TryFrom<u8> for Says {
    type Error = &'static str;
    fn try_from(byte: u8) -> Result<Self, Self::Error> {
        [Self::Live, Self::Lost, Self::Past].get(usize::from(byte)).copied().ok_or("no fate has this number")
    }
}

/// The versions that a final FAT follows, the newest first: those that its author knew, and all that these follow. Of more than
/// [`FOLLOWS_MAX`] the newest are named, and every tag below the last of so many counts as followed, so that a mirror that was away
/// for a year brings nothing back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows(Bounded<Followed, FOLLOWS_MAX>);

impl Follows {
    /// What follows all of `versions`. Of several, the one tagged `kept` goes on and the others are given up for it; without it,
    /// all of them are replaced.
    #[must_use]
    pub fn all_of<'a>(versions: impl IntoIterator<Item = Lineage<'a>>, kept: Option<Tag>) -> Self {
        let (goes_on, others): (Vec<_>, Vec<_>) = versions.into_iter().partition(|version| Some(version.seq) == kept);
        let mut tags: BTreeMap<u64, Says> = BTreeMap::new();
        let at_least = if kept.is_some() { Says::Lost } else { Says::Past };
        for version in others {
            for Followed(tag, says) in version.follows.0.iter().copied().chain([Followed(version.seq.0, at_least)]) {
                // What another device may choose at this moment is not erased at once, nor by what comes next.
                let says = if says == Says::Live { at_least } else { says };
                let known = tags.entry(tag).or_insert(says);
                *known = says.max(*known);
            }
        }
        for version in goes_on {
            for Followed(tag, says) in version.follows.0.iter().copied().chain([Followed(version.seq.0, Says::Live)]) {
                let known = tags.entry(tag).or_insert(says);
                *known = if says == Says::Live { says } else { says.max(*known) };
            }
        }
        Self(Bounded::first(tags.into_iter().rev().map(|(tag, says)| Followed(tag, says))))
    }

    /// Whether the version tagged `tag` is followed.
    #[must_use]
    pub fn has(&self, tag: Tag) -> bool {
        self.named(tag).is_some() || self.is_before(tag)
    }

    /// The versions that are named, the newest first, and what becomes of the chunks of each.
    pub fn fates(&self) -> impl Iterator<Item = (Tag, Fate)> {
        self.0.iter().map(|Followed(tag, says)| (Tag(*tag), says.fate()))
    }

    fn named(&self, tag: Tag) -> Option<Says> {
        self.0.iter().find(|Followed(known, _)| *known == tag.0).map(|Followed(_, says)| *says)
    }

    /// Whether a tag is below all that are named, and there would be no room for it.
    fn is_before(&self, tag: Tag) -> bool {
        self.0.len() == FOLLOWS_MAX && self.0.last().is_some_and(|Followed(last, _)| tag.0 < *last)
    }

    /// Whether each is named once, the newest first, and all come before the version `seq`.
    pub(crate) fn precede(&self, seq: Tag) -> bool {
        self.0.first().is_none_or(|Followed(newest, _)| Tag(*newest).counter() < seq.counter())
            && self.0.is_sorted_by(|Followed(newer, _), Followed(older, _)| newer > older)
    }
}

/// What a final FAT says of the versions of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage<'a> {
    /// The oldest tag that lives.
    pub base: Tag,
    /// Its own tag.
    pub seq: Tag,
    /// The versions before it.
    pub follows: &'a Follows,
}

impl Lineage<'_> {
    /// What becomes of chunks tagged `tag`. The one place where that is decided.
    #[must_use]
    pub fn fate(&self, tag: Tag) -> Fate {
        match self.follows.named(tag) {
            _ if tag == self.seq || tag == self.base => Fate::Live,
            Some(says) => says.fate(),
            // Repairs made its copies under many tags, and this may be one of them.
            None if self.follows.is_before(tag) && tag > self.base => Fate::Live,
            None if self.follows.is_before(tag) => Fate::Past,
            None => Fate::Other,
        }
    }
}
