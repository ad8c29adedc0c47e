//! Bringing the catalogue up to date: what mirrors took of this user's since they were last read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::catalogue::Records;
use fathom_protocol::codec::Bounded;
use fathom_protocol::ids::{FileId, LeaseId, NodeId};
use fathom_protocol::sign::Signed;
use fathom_protocol::table::{Verified, verify, verify_knowing};
use fathom_protocol::wire::{FilesPage, LogCursor, OwnerQuery, Request, Response, SyncRecord};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::local::Read;
use super::{Listed, StoredFile, is_own};
use crate::clock;
use crate::roles::user::mirrors::unexpected;
use crate::roles::user::{User, UserError, blocking};

/// Mirrors asked: with final FATs at a majority of three, a majority of these has the newest.
const ASKED: usize = 3;
/// Longest wait for one page.
const PAGE: Duration = Duration::from_secs(6);
const QUERY_SECONDS: u64 = 60;
/// Files that are loaded at a time where all are looked at.
pub(in crate::roles::user) const FILES_AT_ONCE: usize = 256;
/// Records that are verified where they arrive.
const FEW: usize = 16;
/// How often a mirror may begin a new log while it is read.
const RESTARTS_MAX: usize = 3;

/// What a listing is, and how old.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The files, by name.
    pub files: Vec<Listed>,
    /// How long ago mirrors were last read; none if that was now.
    pub age: Option<Duration>,
}

impl User {
    /// The user's files, by name, as a majority of mirrors knows them; as they were last known if no mirror answers.
    ///
    /// # Errors
    /// [`UserError::NoMirror`] if none answers and none ever did, or [`UserError::Integrity`] if records do not verify.
    pub async fn list(self: &Arc<Self>) -> Result<Listing, UserError> {
        match self.current().await {
            Ok(()) => {}
            Err(error @ UserError::NoMirror(_)) => {
                let user = Arc::clone(self);
                let read = blocking(move || user.local.read_at()).await?.ok_or(error)?;
                let age = Duration::from_millis(clock::now().since_ms(read));
                return Ok(Listing { files: self.lines().await?, age: Some(age) });
            }
            Err(error) => return Err(error),
        }
        let files = match self.lines().await {
            Err(error @ (UserError::Integrity(_) | UserError::Catalogue(_))) => {
                self.begin_anew(&error).await?;
                self.lines().await?
            }
            other => other?,
        };
        Ok(Listing { files, age: None })
    }

    /// The file on disk was damaged since it was written: the mirrors have everything.
    async fn begin_anew(self: &Arc<Self>, error: &UserError) -> Result<(), UserError> {
        tracing::warn!(%error, "the catalogue is damaged; it is read from the mirrors again");
        let user = Arc::clone(self);
        blocking(move || user.local.clear()).await?;
        self.refresh().await
    }

    async fn lines(self: &Arc<Self>) -> Result<Vec<Listed>, UserError> {
        let user = Arc::clone(self);
        blocking(move || user.local.list(&user.keys)).await
    }

    /// Files from the catalogue on disk, as [`Self::list`] left it; those that are not known are left out.
    pub(in crate::roles::user) async fn load(
        self: &Arc<Self>,
        files: Vec<FileId>,
    ) -> Result<BTreeMap<FileId, StoredFile>, UserError> {
        let user = Arc::clone(self);
        blocking(move || user.local.load(&user.keys, &files)).await
    }

    /// Files of which something is, or was, under a lease whose identifier begins with `prefix`.
    ///
    /// # Errors
    /// As for [`Self::list`].
    pub async fn files_under(self: &Arc<Self>, prefix: &str) -> Result<Vec<StoredFile>, UserError> {
        let begins = |lease: LeaseId| lease.to_string().starts_with(prefix);
        let files: Vec<FileId> = self.list().await?.files.into_iter().map(|line| line.file).collect();
        let mut found = Vec::new();
        for some in files.chunks(FILES_AT_ONCE) {
            let loaded = self.load(some.to_vec()).await?;
            found.extend(loaded.into_values().filter(|file| {
                file.versions.iter().any(|version| version.fat.uses.iter().any(|used| begins(used.lease)))
                    || file.moves.iter().any(|moved| begins(moved.from_lease) || begins(moved.to_lease))
            }));
        }
        Ok(found)
    }

    /// One file, as a majority of up to three mirrors knows it.
    ///
    /// # Errors
    /// As for [`Self::list`].
    pub(in crate::roles::user) async fn newest(
        self: &Arc<Self>,
        file: FileId,
    ) -> Result<Option<StoredFile>, UserError> {
        let mut records = Records::default();
        for answer in self.majority(|mirror| self.records_at(mirror, file)).await? {
            answer.into_iter().for_each(|record| records.take(record));
        }
        Ok(records.into_files(&self.keys)?.remove(&file))
    }

    /// Brings the catalogue on disk up to what mirrors know, whatever state it is in.
    ///
    /// # Errors
    /// As for [`Self::list`], and [`UserError::NoMirror`] whenever none answers.
    pub(in crate::roles::user) async fn current(self: &Arc<Self>) -> Result<(), UserError> {
        match self.refresh().await {
            Err(error @ UserError::Catalogue(_)) => self.begin_anew(&error).await,
            other => other,
        }
    }

    /// Brings the catalogue on disk up to what a majority of up to three mirrors knows.
    async fn refresh(self: &Arc<Self>) -> Result<(), UserError> {
        self.majority(|mirror| self.read_mirror(mirror)).await.map(drop)
    }

    /// Asks up to three mirrors, others instead of those that fail, until a majority has answered. Fewer are enough if there are
    /// no more.
    async fn majority<T, F: Future<Output = Result<T, UserError>>>(
        &self,
        ask: impl Fn(NodeId) -> F,
    ) -> Result<Vec<T>, UserError> {
        let mirrors = self.mirrors().await?;
        let known = mirrors.len();
        let wanted = known.min(ASKED);
        let mut rest = mirrors.into_iter();
        let mut asked: FuturesUnordered<_> = rest.by_ref().take(wanted).map(&ask).collect();
        let mut answers = Vec::new();
        let mut failure = UserError::NoMirror(known);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error @ (UserError::Integrity(_) | UserError::Catalogue(_))) => failure = error,
                Err(_) => asked.extend(rest.next().map(&ask)),
            }
            if answers.len() > wanted / 2 {
                break;
            }
        }
        if answers.is_empty() { Err(failure) } else { Ok(answers) }
    }

    async fn page(&self, mirror: NodeId, query: OwnerQuery) -> Result<(FilesPage, Vec<Verified>), UserError> {
        let query = Signed::sign(query, self.signing())?;
        let mut page = match self.net.call(mirror, &Request::FatsOf(query.into_carried()), PAGE).await? {
            Response::Files(page) => page,
            other => return Err(unexpected(&other)),
        };
        let records = std::mem::take(&mut page.records).into_vec();
        let owner = self.owner();
        // Verifying a few takes less than handing them over.
        let records = match records.len() {
            // Each of several mirrors shows the same.
            0..=FEW => {
                let verified = records.into_iter().map(|record| verify_knowing(record, &self.familiar));
                verified.collect::<Result<Vec<_>, _>>()?
            }
            _ => blocking(move || verified(records)).await?,
        };
        if records.iter().any(|record| !is_own(record, owner)) {
            return Err(UserError::Integrity("a mirror answered with somebody else's file".to_owned()));
        }
        Ok((page, records))
    }

    fn query(&self, mirror: NodeId) -> OwnerQuery {
        OwnerQuery {
            version: fathom_protocol::tags::VERSION,
            owner: self.owner(),
            mirror,
            files: Bounded::default(),
            since: None,
            after: None,
            expires: clock::now().plus_seconds(QUERY_SECONDS),
        }
    }

    /// What a mirror has of one file. Files that are asked for at the same time are asked for together.
    async fn records_at(self: &Arc<Self>, mirror: NodeId, file: FileId) -> Result<Vec<Verified>, UserError> {
        let user = Arc::clone(self);
        let together = self.queries.ask(mirror, file, move |files| {
            let user = Arc::clone(&user);
            async move { user.records_of(mirror, files).await }
        });
        match together.await.flatten() {
            Some(records) => Ok(records),
            None => self.all_records_at(mirror, file).await,
        }
    }

    /// What a mirror has of each of `files`; none of any where that does not fit an answer, or does not come.
    async fn records_of(&self, mirror: NodeId, files: Vec<FileId>) -> Vec<Option<Vec<Verified>>> {
        let query = OwnerQuery { files: Bounded::first(files.iter().copied()), ..self.query(mirror) };
        let Ok((page, records)) = self.page(mirror, query).await else { return files.iter().map(|_| None).collect() };
        let mut by_file: BTreeMap<FileId, Vec<Verified>> = BTreeMap::new();
        for record in records {
            if let Some((_, file)) = record.key().file() {
                by_file.entry(file).or_default().push(record);
            }
        }
        // The same file may be asked for twice.
        files.iter().map(|file| (!page.more).then(|| by_file.get(file).cloned().unwrap_or_default())).collect()
    }

    async fn all_records_at(&self, mirror: NodeId, file: FileId) -> Result<Vec<Verified>, UserError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let query = OwnerQuery { files: Bounded::first([file]), after: after.clone(), ..self.query(mirror) };
            let (page, records) = self.page(mirror, query).await?;
            all.extend(records);
            // A mirror that promises more without giving any would keep us here.
            if !page.more || page.after == after {
                return Ok(all);
            }
            after = page.after;
        }
    }

    /// Reads what a mirror took since it was last read; everything if that was never, or if it has another log by now.
    async fn read_mirror(self: &Arc<Self>, mirror: NodeId) -> Result<(), UserError> {
        let user = Arc::clone(self);
        let mut since = blocking(move || user.local.cursor(mirror)).await?;
        let mut after = None;
        // Of a full read: what came after it began is in the log from there.
        let mut began: Option<LogCursor> = None;
        let mut restarts = 0;
        loop {
            let query = OwnerQuery { since: since.filter(|_| began.is_none()), after, ..self.query(mirror) };
            after = query.after.clone();
            let (page, records) = self.page(mirror, query).await?;
            let same = began.is_none_or(|began| began.log == page.cursor.log);
            if page.whole && !same {
                restarts += 1;
                if restarts > RESTARTS_MAX {
                    return Err(UserError::Integrity("a mirror begins a new log with each answer".to_owned()));
                }
                (began, after) = (None, None);
                continue;
            }
            let stuck = if page.whole { page.after == after } else { since == Some(page.cursor) };
            let reached = match page.whole {
                true => {
                    let start = *began.get_or_insert(page.cursor);
                    (!page.more).then_some(start)
                }
                false => Some(page.cursor),
            };
            let user = Arc::clone(self);
            let read = reached.map(|cursor| Read { mirror, cursor, at: clock::now() });
            if !records.is_empty() || !stuck || !page.more {
                blocking(move || user.local.take(records, read.as_ref())).await?;
            }
            if !page.more || stuck {
                return Ok(());
            }
            match page.whole {
                true => after = page.after,
                false => since = Some(page.cursor),
            }
        }
    }
}

/// Verifies a page on all cores.
fn verified(records: Vec<SyncRecord>) -> Result<Vec<Verified>, UserError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = records.len().div_ceil(threads).max(1);
    let mut records = records.into_iter();
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        loop {
            let part: Vec<SyncRecord> = records.by_ref().take(share).collect();
            if part.is_empty() {
                break;
            }
            workers.push(scope.spawn(move || part.into_iter().map(verify).collect::<Result<Vec<_>, _>>()));
        }
        let mut all = Vec::new();
        for worker in workers {
            let part = worker.join().map_err(|_| UserError::Internal("a worker ended early".to_owned()))?;
            all.extend(part?);
        }
        Ok(all)
    })
}
