//! A user's files as mirrors have them: final FATs with the moves laid over them, read from a majority of up to three mirrors
//! before each operation, by the rules of the user's node.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::codec::Bounded;
use fathom_protocol::fat::{Fate, FinalFat, Follows, Manifest, Place, Tag};
use fathom_protocol::ids::{FileId, Hash, NodeId};
use fathom_protocol::keys::UserKeys;
use fathom_protocol::moves::Move;
use fathom_protocol::sign::Signed;
use fathom_protocol::table::{Key, Merged, Table, Verified, verify};
use fathom_protocol::tags;
use fathom_protocol::wire::{OwnerQuery, Request, Response, SyncRecord};

use super::REQUEST_SECONDS;
use crate::sim::node::Cx;

/// Mirrors asked.
const ASKED: usize = 3;

/// One version of a file.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) fat: Signed<FinalFat>,
    /// Moves included; none if this version released the file.
    pub(super) manifest: Option<Manifest>,
}

/// One file.
#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) file: FileId,
    /// The one that was stored first in front; one at least.
    pub(super) versions: Vec<Version>,
    /// Of what another version has replaced meanwhile.
    outdated: Vec<Signed<FinalFat>>,
    pub(super) moves: Vec<Move>,
}

impl StoredFile {
    fn open(keys: &UserKeys, mut fats: Vec<Signed<FinalFat>>, moves: Vec<Move>) -> Option<Self> {
        fats.sort_by_key(|fat| (fat.issued, fat.hash()));
        let file = fats.first()?.file;
        let open = |fat: Signed<FinalFat>| {
            let manifest = (!fat.is_release())
                .then(|| keys.open_manifest(&fat.body, fat.file, fat.seq).ok()?.with_moves(&moves).ok())
                .flatten();
            Version { fat, manifest }
        };
        let replaced = |fat: &Signed<FinalFat>, by: &[Signed<FinalFat>]| {
            by.iter().any(|other| other.lineage().fate(Tag(fat.base)) == Fate::Past)
        };
        let (outdated, fats): (Vec<_>, Vec<_>) = fats.clone().into_iter().partition(|fat| replaced(fat, &fats));
        let versions = fats.into_iter().map(open).collect();
        Some(Self { file, versions, outdated, moves })
    }

    /// How many final FATs the file had.
    pub(super) fn counter(&self) -> u64 {
        self.fats().map(|fat| fat.tag().counter()).max().unwrap_or(0)
    }

    fn fats(&self) -> impl Iterator<Item = &Signed<FinalFat>> {
        self.versions.iter().map(|version| &version.fat).chain(&self.outdated)
    }

    /// What a final FAT follows that comes after all of these; the version tagged `kept` goes on in it.
    pub(super) fn follows(&self, kept: Option<Tag>) -> Follows {
        Follows::all_of(self.fats().map(|fat| fat.lineage()), kept)
    }

    /// Whether one of several contents has to be chosen.
    pub(super) fn is_forked(&self) -> bool {
        let same = |a: &Version, b: &Version| match (&a.manifest, &b.manifest) {
            (Some(a), Some(b)) => a.same_content(b),
            (None, None) => true,
            _ => false,
        };
        self.versions.windows(2).any(|pair| !same(&pair[0], &pair[1]))
    }

    /// What is fetched: the newest version that holds data.
    pub(super) fn newest(&self) -> Option<(&Version, &Manifest)> {
        self.versions.iter().rev().find_map(|version| Some((version, version.manifest.as_ref()?)))
    }

    /// Where copies are.
    pub(super) fn places(&self) -> BTreeSet<Place> {
        self.versions.iter().filter_map(|version| version.manifest.as_ref()).flat_map(Manifest::used_places).collect()
    }

    /// Vendors that may hold chunks of it: who must hear of a release.
    pub(super) fn holders(&self) -> BTreeSet<NodeId> {
        let manifests = self.versions.iter().filter_map(|version| version.manifest.as_ref());
        manifests
            .flat_map(|manifest| manifest.places.iter().map(|place| place.vendor))
            .chain(self.fats().flat_map(|fat| fat.vendors()))
            .chain(self.moves.iter().flat_map(|moved| [moved.from, moved.to]))
            .collect()
    }

    /// The versions that whoever goes on from here has seen.
    pub(super) fn seen(&self) -> Vec<(Tag, Hash)> {
        self.fats().map(|fat| (fat.tag(), fat.hash())).collect()
    }
}

/// How far a look at what is stored has come.
pub(super) enum Looked {
    Waiting,
    Failed,
    Files(BTreeMap<FileId, StoredFile>),
}

/// A look at one file, or at all of them.
#[derive(Debug, Default)]
pub(super) struct Look {
    file: Option<FileId>,
    asked: BTreeSet<u64>,
    rest: Vec<usize>,
    answers: usize,
    table: Table,
    kept: BTreeMap<Key, Verified>,
}

impl Look {
    /// Asks as many mirrors as are wanted.
    pub(super) fn begin(cx: &mut Cx<'_>, keys: &UserKeys, file: Option<FileId>) -> Self {
        let mut rest = cx.known.mirrors.clone();
        cx.random.shuffle(&mut rest);
        let mut look = Self { file, rest, ..Self::default() };
        for _ in 0..look.rest.len().min(ASKED) {
            look.ask_next(cx, keys);
        }
        look
    }

    fn ask_next(&mut self, cx: &mut Cx<'_>, keys: &UserKeys) {
        let Some(mirror) = self.rest.pop() else { return };
        let query = OwnerQuery {
            version: tags::VERSION,
            owner: keys.owner(),
            mirror: cx.id(mirror),
            files: Bounded::first(self.file),
            since: None,
            after: None,
            expires: cx.now.plus_seconds(REQUEST_SECONDS),
        };
        let query = Signed::sign(query, keys.signing()).expect("a query signs");
        self.asked.insert(cx.ask(mirror, &Request::FatsOf(query.into_carried())));
    }

    pub(super) fn awaits(&self, call: u64) -> bool {
        self.asked.contains(&call)
    }

    /// A mirror's answer, or its silence. A majority of those wanted is enough; fewer are if no other mirror is left.
    pub(super) fn answered(
        &mut self,
        cx: &mut Cx<'_>,
        keys: &UserKeys,
        call: u64,
        response: Option<Response>,
    ) -> Looked {
        self.asked.remove(&call);
        match response {
            Some(Response::Files(page)) => {
                self.answers += 1;
                page.records.into_vec().into_iter().for_each(|record| self.take(keys, record));
            }
            _ => self.ask_next(cx, keys),
        }
        let wanted = cx.known.mirrors.len().min(ASKED);
        if self.answers > wanted / 2 || self.asked.is_empty() && self.answers > 0 {
            return Looked::Files(std::mem::take(self).into_files(keys));
        }
        if self.asked.is_empty() { Looked::Failed } else { Looked::Waiting }
    }

    /// Takes a record by the same rules as a mirror.
    fn take(&mut self, keys: &UserKeys, record: SyncRecord) {
        let Ok(record) = verify(record) else { return };
        if record.key().file().is_none_or(|(owner, _)| owner != keys.owner()) {
            return;
        }
        match self.table.merge(&record) {
            Ok(Merged::New { drops, .. }) => {
                drops.iter().for_each(|key| drop(self.kept.remove(key)));
                self.kept.insert(record.key(), record);
            }
            Ok(Merged::Twin { key, demoted, drops, .. }) => {
                drops.iter().for_each(|key| drop(self.kept.remove(key)));
                if let Some(to) = demoted
                    && let Some(known) = self.kept.remove(&key)
                {
                    self.kept.insert(to, known);
                }
                self.kept.insert(key, record);
            }
            _ => {}
        }
    }

    fn into_files(self, keys: &UserKeys) -> BTreeMap<FileId, StoredFile> {
        let mut parts: BTreeMap<FileId, (Vec<Signed<FinalFat>>, Vec<Move>)> = BTreeMap::new();
        for (key, record) in self.kept {
            let Some((_, file)) = key.file() else { continue };
            let (fats, moves) = parts.entry(file).or_default();
            match record {
                Verified::Fat(fat) => fats.push(fat),
                Verified::Move(moved, _) => moves.push(moved),
                _ => {}
            }
        }
        parts
            .into_iter()
            .filter_map(|(file, (fats, moves))| Some((file, StoredFile::open(keys, fats, moves)?)))
            .collect()
    }
}
