//! Finding out which records two mirrors do not share, in a few small messages.
//!
//! The mirror that wants to know draws a [`SessionKey`] and asks; the other answers each question from its
//! [index](crate::table::index) and remembers nothing. What either says of a part of its table is a fingerprint: the part's
//! digest under the session's key, cut to a few bytes. Nobody can prepare two tables whose fingerprints are equal, since nobody knows
//! the key beforehand.
//!
//! ```text
//!  asks                                   answers
//!  root, my fingerprint of it    ──►      the same (and that is all), or what is below the root:
//!                                ◄──      sixteen fingerprints, or a list of (position, fingerprint)
//!  the parts that differ         ──►
//!                                ◄──      of each part the same, until only lists are left
//!  positions that differ, each   ──►
//!  with how new the own record is
//!                                ◄──      the records that are not older
//! ```
//! A session only takes. That the other side may lack something is noted, and that side then asks for itself.
//!
//! [`answer`] and [`wanted_keys`] are the answering side, [`Session`] is the asking side: call [`Session::next`] for what to
//! do, and feed what comes back to [`Session::told`] or [`Session::fetched`]. Both sides do a bounded amount of work for each
//! message, and a session ends after a bounded number of questions whatever the other side says.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::codec::{Blob, Bounded};
use crate::ids::{Fingerprint, SessionKey};
use crate::limits::{COMPARE_ASKS_MAX, COMPARE_ENTRIES_MAX, COMPARE_PAGE_MAX, COMPARE_WANTED_MAX, SYNC_RECORDS_MAX};
use crate::table::index::{DEPTH_MAX, Entry, Index, Prefix, View};
use crate::table::{Key, Table};
use crate::tags;

/// Questions of one session before anything came of it.
const QUESTIONS_MAX: usize = 16_384;
/// Further questions for each record that a session brought.
const QUESTIONS_PER_RECORD: usize = 64;
/// Questions that wait; what finds no room is found by the next session.
const WAITING_MAX: usize = 65_536;
const FINGERPRINT: usize = Fingerprint::LEN;
/// Bytes of one entry in a list: position u64 big-endian, fingerprint.
const LISTED: usize = 8 + FINGERPRINT;

/// A question about one part of a table.
///
/// On the wire a byte string: `depth u8, digits packed two a byte`, and `skip u32 be` if it is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which part.
    pub prefix: Prefix,
    /// Entries to be left out at the front of a list, since they were told before.
    pub skip: u32,
}

impl Ask {
    fn of(prefix: Prefix) -> Self {
        Self { prefix, skip: 0 }
    }
}

impl Serialize for Ask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = usize::from(self.prefix.depth()).div_ceil(2);
        let mut bytes = vec![self.prefix.depth()];
        bytes.extend_from_slice(&self.prefix.bits().to_be_bytes()[..digits]);
        if self.skip > 0 {
            bytes.extend_from_slice(&self.skip.to_be_bytes());
        }
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Ask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Blob::<13>::deserialize(deserializer)?;
        let wrong = || de::Error::custom("not a part of a table");
        let (depth, rest) = bytes.split_first().filter(|(depth, _)| **depth <= DEPTH_MAX).ok_or_else(wrong)?;
        let (digits, skip) = rest.split_at_checked(usize::from(*depth).div_ceil(2)).ok_or_else(wrong)?;
        let bits = digits.iter().enumerate().fold(0u64, |bits, (at, byte)| bits | u64::from(*byte) << (56 - 8 * at));
        let prefix = Prefix::new(*depth, bits);
        let skip = match skip {
            [] => 0,
            skip => skip.try_into().map(u32::from_be_bytes).ok().filter(|skip| *skip > 0).ok_or_else(wrong)?,
        };
        if prefix.bits() != bits { Err(wrong()) } else { Ok(Self { prefix, skip }) }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// This is the asker's fingerprint of everything; is yours the same?
    Root(Fingerprint),
    /// What is below these parts?
    Parts(Bounded<Ask, COMPARE_ASKS_MAX>),
}

/// One message of the asking side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key of all fingerprints of this session.
    pub session: SessionKey,
    /// The question.
    pub probe: Probe,
}

/// What lies below one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Below {
    /// `u16 be`: which of the sixteen parts hold something, the first in the highest bit; then the fingerprint of each that does.
    #[serde(rename = "p")]
    Parts(Blob<{ 2 + 16 * FINGERPRINT }>),
    /// Entries in order: position u64 be and fingerprint each. And whether there are more.
    #[serde(rename = "e")]
    Entries(Blob<{ COMPARE_PAGE_MAX * LISTED }>, bool),
}

impl Below {
    fn entries(&self) -> usize {
        match self {
            Self::Parts(_) => 0,
            Self::Entries(bytes, _) => bytes.len() / LISTED,
        }
    }
}

/// The answer to a [`Compare`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compared {
    /// Both hold the same.
    Same,
    /// To the root: what is below it. To parts: what is below each, in order; at least the first of them.
    Below(Bounded<Below, COMPARE_ASKS_MAX>),
}

/// A record that is wanted: the `at`-th of those at `position` (nearly always there is one), unless it is lower than `than`, which is
/// [`Table::height`] of the asker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted(pub u64, pub u32, pub Option<(u64, u64)>);

/// Records that are wanted.
pub type WantedList = Bounded<Wanted, COMPARE_WANTED_MAX>;

/// The fingerprint of a digest.
#[must_use]
pub fn fingerprint(session: SessionKey, digest: &[u8]) -> Fingerprint {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&session.0);
    key[16..].copy_from_slice(tags::index::SESSION);
    let hash = blake3::keyed_hash(&key, digest);
    Fingerprint(std::array::from_fn(|at| hash.as_bytes()[at]))
}

/// Answers a question. Work is bounded by the limits of the message, [`COMPARE_ENTRIES_MAX`] and
/// [`COMPARE_PAGE_MAX`].
#[must_use]
pub fn answer(index: &Index, compare: &Compare) -> Compared {
    let session = compare.session;
    match &compare.probe {
        Probe::Root(theirs) if *theirs == fingerprint(session, &index.digest()) => Compared::Same,
        Probe::Root(_) => Compared::Below(Bounded::first([below(index, session, Ask::of(Prefix::ROOT)).0])),
        Probe::Parts(asks) => {
            let mut listed = 0;
            let told = asks.iter().map_while(|ask| {
                if listed >= COMPARE_ENTRIES_MAX {
                    return None;
                }
                let (below, entries) = below(index, session, *ask);
                listed += entries;
                Some(below)
            });
            Compared::Below(Bounded::first(told))
        }
    }
}

/// What lies below a part, and how many entries that lists.
fn below(index: &Index, session: SessionKey, ask: Ask) -> (Below, usize) {
    match index.view(ask.prefix) {
        View::Parts(digests) => {
            let mut bytes = vec![0, 0];
            for (at, digest) in digests.iter().enumerate().filter(|(_, digest)| **digest != [0; 32]) {
                bytes[at / 8] |= 0x80 >> (at % 8);
                bytes.extend_from_slice(&fingerprint(session, digest).0);
            }
            (Below::Parts(Blob::new(bytes).unwrap_or_default()), 0)
        }
        View::Entries(entries) => {
            let skip = usize::try_from(ask.skip).unwrap_or(usize::MAX).min(entries.len());
            let left = &entries[skip..];
            let page = &left[..left.len().min(COMPARE_PAGE_MAX)];
            let mut bytes = Vec::with_capacity(page.len() * LISTED);
            for entry in page {
                bytes.extend_from_slice(&entry.position().to_be_bytes());
                bytes.extend_from_slice(&fingerprint(session, entry.digest()).0);
            }
            (Below::Entries(Blob::new(bytes).unwrap_or_default(), left.len() > page.len()), page.len())
        }
    }
}

/// The keys of records that another mirror wants, as many from the front as one page may have records.
#[must_use]
pub fn wanted_keys(table: &Table, wanted: &[Wanted]) -> Vec<Option<Key>> {
    let key = |Wanted(position, at, than): &Wanted| {
        let entry = table.index().at(*position).get(usize::try_from(*at).ok()?)?;
        let key = table.key_of(entry)?;
        (than.is_none() || table.height(&key) >= *than).then_some(key)
    };
    wanted.iter().take(SYNC_RECORDS_MAX).map(key).collect()
}

/// The other side answered something that no honest mirror does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a mirror answered a comparison with what was not asked: {0}")]
pub struct Broken(&'static str);

/// What a session does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this, and give the answer to [`Session::told`].
    Ask(Compare),
    /// Ask for these records, and say to [`Session::fetched`] what came.
    Fetch(WantedList),
    /// Nothing: it is over.
    Done,
}

/// The asking side of one comparison.
#[derive(Clone, Debug)]
pub struct Session {
    key: SessionKey,
    begun: bool,
    /// Questions to be asked; the last ones first, so that few wait.
    waiting: Vec<Ask>,
    /// Questions that were asked; empty for the root.
    asked: Vec<Ask>,
    wanted: Vec<Wanted>,
    fetching: Vec<Wanted>,
    questions_left: usize,
    differs: bool,
}

impl Session {
    /// A session under `key`, which is drawn at random and never used again.
    #[must_use]
    pub fn new(key: SessionKey) -> Self {
        Self {
            key,
            begun: false,
            waiting: Vec::new(),
            asked: Vec::new(),
            wanted: Vec::new(),
            fetching: Vec::new(),
            questions_left: QUESTIONS_MAX,
            differs: false,
        }
    }

    /// Whether the tables differed.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.differs
    }

    /// What to do next. Called again before the answer came, it gives up what was under way.
    pub fn next(&mut self, index: &Index) -> Step {
        if !self.begun {
            self.begun = true;
            let probe = Probe::Root(fingerprint(self.key, &index.digest()));
            self.asked = vec![Ask::of(Prefix::ROOT)];
            return Step::Ask(Compare { session: self.key, probe });
        }
        let asks = self.waiting.len().min(COMPARE_ASKS_MAX).min(self.questions_left);
        if self.wanted.len() >= COMPARE_WANTED_MAX || (asks == 0 && !self.wanted.is_empty()) {
            self.fetching = self.wanted.drain(..self.wanted.len().min(COMPARE_WANTED_MAX)).collect();
            return Step::Fetch(Bounded::first(self.fetching.iter().copied()));
        }
        if asks == 0 {
            return Step::Done;
        }
        self.questions_left -= asks;
        self.asked = self.waiting.split_off(self.waiting.len() - asks);
        let asks = Bounded::first(self.asked.iter().copied());
        Step::Ask(Compare { session: self.key, probe: Probe::Parts(asks) })
    }

    /// Takes the answer to [`Step::Ask`].
    ///
    /// # Errors
    /// [`Broken`]; the session is then over.
    pub fn told(&mut self, table: &Table, answer: &Compared) -> Result<(), Broken> {
        let asked = std::mem::take(&mut self.asked);
        let told = match answer {
            Compared::Same if asked == [Ask::of(Prefix::ROOT)] && self.waiting.is_empty() => return Ok(()),
            Compared::Same => return Err(Broken("a part is the same, but only the root was asked for that")),
            Compared::Below(told) => told,
        };
        if told.len() > asked.len() || told.is_empty() {
            return Err(Broken("not as many parts as were asked for"));
        }
        let entries: usize = told.iter().map(Below::entries).sum();
        if entries > COMPARE_ENTRIES_MAX + COMPARE_PAGE_MAX {
            return Err(Broken("more entries than an answer may list"));
        }
        self.differs = true;
        for (ask, below) in asked.iter().zip(told) {
            match below {
                Below::Parts(bytes) => self.told_parts(table.index(), *ask, bytes)?,
                Below::Entries(bytes, more) => self.told_entries(table, *ask, bytes, *more)?,
            }
        }
        self.waiting.extend_from_slice(&asked[told.len()..]);
        Ok(())
    }

    fn told_parts(&mut self, index: &Index, ask: Ask, bytes: &[u8]) -> Result<(), Broken> {
        let Some((set, fingerprints)) = bytes.split_first_chunk().map(|(set, rest)| (u16::from_be_bytes(*set), rest))
        else {
            return Err(Broken("no parts"));
        };
        if fingerprints.len() != set.count_ones() as usize * FINGERPRINT || ask.prefix.depth() == DEPTH_MAX {
            return Err(Broken("fingerprints of no parts"));
        }
        let present = (0..16u8).filter(|digit| set & (0x8000 >> digit) != 0);
        let mut differing = Vec::new();
        for (digit, theirs) in present.zip(fingerprints.chunks_exact(FINGERPRINT)) {
            let Some(part) = ask.prefix.part(digit) else { continue };
            if fingerprint(self.key, &index.digest_of(part)).0 != theirs {
                differing.push((digit, part));
            }
        }
        // Each session in an order of its own: one that runs out of questions looks elsewhere next time.
        differing.sort_by_key(|(digit, _)| digit ^ (self.key.0[0] & 15));
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        self.waiting.extend(differing.into_iter().take(room).map(|(_, part)| Ask::of(part)));
        Ok(())
    }

    fn told_entries(&mut self, table: &Table, ask: Ask, bytes: &[u8], more: bool) -> Result<(), Broken> {
        let single = ask.prefix.depth() == DEPTH_MAX;
        if !bytes.len().is_multiple_of(LISTED) || (more && (!single || bytes.is_empty())) {
            return Err(Broken("a list of no entries"));
        }
        let (mut before, mut at) = (None, ask.skip);
        let (mut own, mut known): (&[Entry], BTreeSet<[u8; FINGERPRINT]>) = (&[], BTreeSet::new());
        for listed in bytes.chunks_exact(LISTED) {
            let (position, theirs) = listed.split_at(8);
            let position = position.iter().fold(0u64, |position, byte| (position << 8) | u64::from(*byte));
            if !ask.prefix.holds(position) || before.is_some_and(|before| before > position) {
                return Err(Broken("entries in no order"));
            }
            at = match before {
                Some(before) if before == position => at.saturating_add(1),
                Some(_) => 0,
                None if single => ask.skip,
                None => 0,
            };
            if before != Some(position) {
                own = table.index().at(position);
                known = own.iter().map(|entry| fingerprint(self.key, entry.digest()).0).collect();
            }
            before = Some(position);
            if !known.contains(theirs) {
                self.wanted.push(Wanted(position, at, height(table, own)));
            }
        }
        if more && let Some(skip) = at.checked_add(1) {
            self.waiting.push(Ask { prefix: ask.prefix, skip });
        }
        Ok(())
    }

    /// Takes what came of [`Step::Fetch`]: the first `looked_at` of those wanted were looked at, and `new` records were new here.
    ///
    /// # Errors
    /// [`Broken`] if none was looked at; the session is then over.
    pub fn fetched(&mut self, looked_at: u64, new: usize) -> Result<(), Broken> {
        let fetching = std::mem::take(&mut self.fetching);
        let looked_at = usize::try_from(looked_at).unwrap_or(usize::MAX).min(fetching.len());
        if looked_at == 0 && !fetching.is_empty() {
            return Err(Broken("none of the wanted records were looked at"));
        }
        self.wanted.extend_from_slice(&fetching[looked_at..]);
        let more = new.min(looked_at).saturating_mul(QUESTIONS_PER_RECORD);
        self.questions_left = self.questions_left.saturating_add(more);
        Ok(())
    }
}

/// How new the own record at a position is, if it is clear which one is meant.
fn height(table: &Table, own: &[Entry]) -> Option<(u64, u64)> {
    match own {
        [entry] => table.height(&table.key_of(entry)?),
        _ => None,
    }
}
