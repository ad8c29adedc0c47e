//! Keeping what is stored: the user's node prolongs its leases long before they expire.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::fat::Place;
use fathom_protocol::ids::FileId;
use fathom_protocol::sign::Signed;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Renew, Request, Response};
use tokio_util::sync::CancellationToken;

use super::catalogue::FILES_AT_ONCE;
use super::{StoredFile, User, UserError};
use crate::clock;

/// Time between two rounds. Leases run for a month by default, so several rounds may fail.
const EVERY: Duration = Duration::from_secs(7 * 86_400);
/// Time to the first round of a node that was just started, and between rounds while some vendor did not answer.
const SOON: Duration = Duration::from_secs(600);
const ANSWER: Duration = Duration::from_secs(3);
const REQUEST_SECONDS: u64 = 300;

impl User {
    /// Renews all leases of this user weekly, until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut wait = self.until_due().max(SOON);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = match self.renew_all().await {
                Ok(0) => {
                    self.note_renewed();
                    EVERY
                }
                Ok(failed) => {
                    tracing::warn!(failed, "some leases were not renewed; the next attempt is in ten minutes");
                    SOON
                }
                Err(error) => {
                    tracing::warn!(%error, "leases were not renewed; the next attempt is in ten minutes");
                    SOON
                }
            };
        }
    }

    /// Renews now if a week has passed since the last time: for those who run a node only for the length of a command.
    ///
    /// # Errors
    /// [`UserError`] if the catalogue cannot be read; leases whose vendor did not answer are tried again with the next command.
    pub async fn renew_if_due(self: &Arc<Self>) -> Result<(), UserError> {
        if self.until_due().is_zero() && self.renew_all().await? == 0 {
            self.note_renewed();
        }
        Ok(())
    }

    fn until_due(&self) -> Duration {
        let text = std::fs::read_to_string(&self.renewed_file).unwrap_or_default();
        let last = UnixMs(text.trim().parse().unwrap_or(0));
        EVERY.saturating_sub(Duration::from_millis(clock::now().since_ms(last)))
    }

    fn note_renewed(&self) {
        if let Err(error) = std::fs::write(&self.renewed_file, clock::now().0.to_string()) {
            tracing::warn!(%error, "the time of the renewal was not noted; it will be repeated");
        }
    }

    /// Renews every lease that a file uses. Returns how many failed.
    async fn renew_all(self: &Arc<Self>) -> Result<usize, UserError> {
        let files: Vec<FileId> = self.list().await?.files.into_iter().map(|line| line.file).collect();
        // Not all places of the manifests: a vendor from which everything was moved away has no lease to renew.
        let mut places: BTreeSet<Place> = BTreeSet::new();
        for some in files.chunks(FILES_AT_ONCE) {
            places.extend(self.load(some.to_vec()).await?.values().flat_map(StoredFile::places));
        }
        self.heads(places.iter().map(|place| place.vendor).collect()).await?;
        let mut failed = 0;
        for place in places {
            let renew = Renew {
                version: fathom_protocol::tags::VERSION,
                owner: self.owner(),
                vendor: place.vendor,
                lease: place.lease,
                expires: clock::now().plus_seconds(REQUEST_SECONDS),
            };
            let renew = Signed::sign(renew, self.signing())?;
            let answer = self.net.call(place.vendor, &Request::Renew(renew.into_carried()), ANSWER).await;
            failed += usize::from(!matches!(answer, Ok(Response::Offered { .. })));
        }
        Ok(failed)
    }
}
