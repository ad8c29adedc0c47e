//! A user's files as mirrors have them: final FATs with the moves laid over them, read from a majority of up to three mirrors
//! before each operation, by the rules of the user's node.

use std::collections::{BTreeMap, BTreeSet};

use fathom_protocol::catalogue::{Records, StoredFile};
use fathom_protocol::codec::Bounded;
use fathom_protocol::fat::Tag;
use fathom_protocol::ids::{FileId, Hash};
use fathom_protocol::keys::UserKeys;
use fathom_protocol::sign::Signed;
use fathom_protocol::table::verify;
use fathom_protocol::tags;
use fathom_protocol::wire::{OwnerQuery, Request, Response, SyncRecord};

use super::REQUEST_SECONDS;
use crate::sim::node::Cx;

/// Mirrors asked.
const ASKED: usize = 3;

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
    records: Records,
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
            let files = std::mem::take(&mut self.records).into_files(keys);
            return Looked::Files(files.expect("what its owner signed opens"));
        }
        if self.asked.is_empty() { Looked::Failed } else { Looked::Waiting }
    }

    /// Takes a record by the same rules as a mirror.
    fn take(&mut self, keys: &UserKeys, record: SyncRecord) {
        let Ok(record) = verify(record) else { return };
        if record.key().file().is_none_or(|(owner, _)| owner != keys.owner()) {
            return;
        }
        self.records.take(record);
    }
}

/// The versions that whoever goes on from a file has seen.
pub(super) fn seen(stored: &StoredFile) -> Vec<(Tag, Hash)> {
    stored.fats().map(|fat| (fat.tag(), fat.hash())).collect()
}
