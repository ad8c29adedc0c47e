//! The user's files as mirrors hold them: final FATs with the moves laid over them (figure 16).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fathom_protocol::fat::{FinalFat, Manifest, Place};
use fathom_protocol::ids::{FileId, NodeId};
use fathom_protocol::moves::Move;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{OwnerQuery, Request, Response, SyncRecord};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::mirrors::unexpected;
use super::{User, UserError};
use crate::clock;

/// Mirrors asked for a listing: with final FATs at a majority of three, a majority of these has the newest.
const ASKED: usize = 3;
/// Longest wait for one page.
const PAGE: Duration = Duration::from_secs(6);
const QUERY_SECONDS: u64 = 60;

/// One file of this user.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Its identifier.
    pub file: FileId,
    /// The authoritative final FAT.
    pub fat: Signed<FinalFat>,
    /// Moves since, in no order.
    pub moves: Vec<Move>,
    /// Name, keys and places, moves included; none if the file was released.
    pub manifest: Option<Manifest>,
}

impl StoredFile {
    /// Where a copy of one of its chunks is.
    #[must_use]
    pub fn places(&self) -> BTreeSet<Place> {
        let Some(manifest) = &self.manifest else { return BTreeSet::new() };
        let used: BTreeSet<u16> = manifest.chunks().flat_map(|chunk| chunk.copies).collect();
        used.into_iter().filter_map(|place| manifest.places.get(usize::from(place)).copied()).collect()
    }

    /// Vendors from which it can be fetched.
    #[must_use]
    pub fn sources(&self) -> Vec<NodeId> {
        self.places().into_iter().map(|place| place.vendor).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Vendors that may hold chunks of it, those included that were to give it up: who must hear of a release.
    #[must_use]
    pub fn holders(&self) -> Vec<NodeId> {
        let places = self.manifest.iter().flat_map(|manifest| manifest.places.iter().map(|place| place.vendor));
        let mut holders: Vec<NodeId> = places
            .chain(self.fat.vendors())
            .chain(self.moves.iter().flat_map(|moved| [moved.from, moved.to]))
            .collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }
}

/// All files that were asked for, by identifier, released ones included.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// The files.
    pub files: BTreeMap<FileId, StoredFile>,
}

impl Catalogue {
    /// Files that hold data, by name.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, &StoredFile> {
        let named = |file| StoredFile::manifest_of(file).map(|manifest| (manifest.name.to_string(), file));
        self.files.values().filter_map(named).collect()
    }

    /// The file named `name`, or all files below `name/`.
    ///
    /// # Errors
    /// [`UserError::NotFound`].
    pub fn select(&self, name: &str) -> Result<Vec<&StoredFile>, UserError> {
        let name = name.trim_end_matches('/');
        let all = self.by_name();
        if let Some(file) = all.get(name) {
            return Ok(vec![*file]);
        }
        let below: Vec<&StoredFile> = match name {
            "" => all.into_values().collect(),
            _ => all
                .into_iter()
                .filter(|(known, _)| known.starts_with(&format!("{name}/")))
                .map(|(_, file)| file)
                .collect(),
        };
        if below.is_empty() { Err(UserError::NotFound(name.to_owned())) } else { Ok(below) }
    }
}

impl StoredFile {
    fn manifest_of(file: &Self) -> Option<&Manifest> {
        file.manifest.as_ref()
    }
}

type Records = BTreeMap<FileId, (Signed<FinalFat>, Vec<Move>)>;

impl User {
    /// The authoritative FAT: the newest that a majority of up to three mirrors has; of one file, or of all.
    ///
    /// # Errors
    /// [`UserError::NoMirror`], or [`UserError::Integrity`] if records do not verify.
    pub async fn catalogue(&self, only: Option<FileId>) -> Result<Catalogue, UserError> {
        let mirrors = self.mirrors().await?;
        let known = mirrors.len();
        let wanted = known.min(ASKED);
        let mut rest = mirrors.into_iter();
        let ask = |mirror: NodeId| self.records_at(mirror, only);
        let mut asked: FuturesUnordered<_> = rest.by_ref().take(wanted).map(ask).collect();
        let mut answers = Vec::new();
        let mut failure = UserError::NoMirror(known);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(records) => answers.push(records),
                Err(error @ UserError::Integrity(_)) => failure = error,
                Err(_) => asked.extend(rest.next().map(ask)),
            }
            if answers.len() > wanted / 2 {
                break;
            }
        }
        if answers.is_empty() {
            return Err(failure);
        }
        self.merge(answers)
    }

    async fn records_at(&self, mirror: NodeId, only: Option<FileId>) -> Result<Records, UserError> {
        let mut records = Records::new();
        let mut after = None;
        loop {
            let query = OwnerQuery {
                version: fathom_protocol::tags::VERSION,
                owner: self.owner(),
                mirror,
                file: only,
                after,
                expires: clock::now().plus_seconds(QUERY_SECONDS),
            };
            let query = Signed::sign(query, self.signing())?;
            let page = match self.net.call(mirror, &Request::FatsOf(query.into_carried()), PAGE).await? {
                Response::Page(page) => page,
                other => return Err(unexpected(&other)),
            };
            let before = after;
            for record in page.records {
                match record {
                    SyncRecord::Fat(fat) => {
                        let fat = fat.verify()?;
                        if fat.owner != self.owner() {
                            return Err(UserError::Integrity("a mirror answered with somebody else's file".to_owned()));
                        }
                        after = after.max(Some(fat.file));
                        records.insert(fat.file, (fat, Vec::new()));
                    }
                    SyncRecord::Move(moved) => {
                        let moved = moved.verify()?;
                        if let Some((_, moves)) = records.get_mut(&moved.file).filter(|_| moved.owner == self.owner()) {
                            moves.push(moved);
                        }
                    }
                    SyncRecord::Vendor(_) | SyncRecord::Peer(_) | SyncRecord::Proof(_) => {}
                }
            }
            // A mirror that promises more without giving any would keep us here.
            if !page.more || only.is_some() || after == before {
                return Ok(records);
            }
        }
    }

    fn merge(&self, answers: Vec<Records>) -> Result<Catalogue, UserError> {
        let mut newest = Records::new();
        for (file, (fat, moves)) in answers.into_iter().flatten() {
            let rank = |fat: &Signed<FinalFat>| (fat.seq, std::cmp::Reverse(fat.hash()));
            match newest.get_mut(&file) {
                Some((known, known_moves)) => {
                    if rank(&fat) > rank(known) {
                        *known = fat;
                    }
                    let unknown: Vec<Move> = moves.into_iter().filter(|moved| !known_moves.contains(moved)).collect();
                    known_moves.extend(unknown);
                }
                None => {
                    newest.insert(file, (fat, moves));
                }
            }
        }
        let mut files = BTreeMap::new();
        for (file, (fat, moves)) in newest {
            let manifest = if fat.is_release() {
                None
            } else {
                let sealed = self.keys.open_manifest(&fat.body, file, fat.seq);
                let manifest = sealed.map_err(|error| UserError::Integrity(error.to_string()))?;
                Some(manifest.with_moves(&moves)?)
            };
            files.insert(file, StoredFile { file, fat, moves, manifest });
        }
        Ok(Catalogue { files })
    }
}
