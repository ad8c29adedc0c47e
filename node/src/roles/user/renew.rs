//! Keeping what is stored: the user's node prolongs its leases long before they expire, and makes copies again that were lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::ids::NodeId;
use fathom_protocol::time::UnixMs;
use tokio_util::sync::CancellationToken;

use super::store::lock;
use super::survey::Claims;
use super::{User, UserError};
use crate::clock;
use crate::control::EventSink;

/// Time between two rounds in which all leases are renewed. They run for a month by default, so several rounds may fail.
const EVERY: Duration = Duration::from_secs(7 * 86_400);

/// What a node remembers between two looks at what is stored.
#[derive(Debug, Default)]
struct Watch {
    /// Vendors in use, and the epoch of the newest head that was seen of each: a new one says that it lost its memory.
    epochs: BTreeMap<NodeId, Option<u64>>,
    /// Those that began a new epoch, until their leases were looked at.
    suspects: BTreeSet<NodeId>,
    /// Leases that are still to be renewed, and those whose files are still to be repaired.
    open: Claims,
    /// When all leases were looked at last.
    all: Option<UnixMs>,
    /// The same, until the last of them was renewed and that was noted.
    unnoted: Option<UnixMs>,
}

impl User {
    /// Renews all leases of this user when it starts and weekly, looks every `check` for vendors that lost something, and repairs
    /// what they lost, until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut watch = Watch::default();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.settings.check) => {}
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                looked = self.look(&mut watch) => if let Err(error) = looked {
                    tracing::warn!(%error, "what is stored was not looked after; the next attempt is in a while");
                }
            }
        }
    }

    /// Renews what is due, and repairs what is gone.
    async fn look(self: &Arc<Self>, watch: &mut Watch) -> Result<(), UserError> {
        let now = clock::now();
        let due = watch.all.is_none_or(|all| now.since_ms(all) >= EVERY.as_millis() as u64 || now < all);
        self.suspect(watch).await?;
        let mut gone = self.proven(&watch.epochs.keys().copied().collect()).await;
        if due || !watch.suspects.is_empty() || !gone.is_empty() {
            let claims = self.claims().await?;
            let used: BTreeSet<NodeId> = claims.keys().map(|place| place.vendor).collect();
            watch.epochs.retain(|vendor, _| used.contains(vendor));
            for vendor in &used {
                watch.epochs.entry(*vendor).or_default();
            }
            if due {
                gone.extend(self.proven(&used).await);
                watch.epochs.extend(self.heads(used).await?.iter().map(|(vendor, head)| (*vendor, Some(head.epoch))));
            }
            watch.open.retain(|place, _| claims.contains_key(place));
            let suspects = std::mem::take(&mut watch.suspects);
            watch.open.extend(claims.into_iter().filter(|(place, _)| due || suspects.contains(&place.vendor)));
        }
        let asked = std::mem::take(&mut watch.open);
        let survey = self.survey(asked.clone()).await;
        watch.open = survey.open;
        if due {
            (watch.all, watch.unnoted) = (Some(now), Some(now));
        }
        if !watch.open.is_empty() {
            tracing::warn!(leases = watch.open.len(), "some leases were not renewed; they are tried again soon");
        } else if let Some(all) = watch.unnoted.take() {
            self.note_renewed(all);
        }
        gone.extend(survey.gone);
        if !gone.is_empty() {
            // Until all of it is made again, it is found again with each look.
            let again: Claims = asked.into_iter().filter(|(place, _)| gone.concerns(*place)).collect();
            watch.open.extend(again.clone());
            // Nobody reads them: the log and `fathom fat` tell.
            let (events, _) = EventSink::channel();
            let result = self.mend_all(None, &gone, &events).await?;
            let (files, copies) = (result.repaired, result.made_copies);
            tracing::info!(files, copies, "copies that were lost were made again");
            if result.failed.is_empty() {
                watch.open.retain(|place, _| !again.contains_key(place));
            }
        }
        Ok(())
    }

    /// Notes vendors in use that began a new epoch since they were last looked at.
    async fn suspect(&self, watch: &mut Watch) -> Result<(), UserError> {
        // What commands of this node have used since.
        for (vendor, epoch) in std::mem::take(&mut *lock(&self.used)) {
            watch.epochs.entry(vendor).or_default().get_or_insert(epoch);
        }
        for (vendor, head) in self.heads(watch.epochs.keys().copied().collect()).await? {
            let seen = watch.epochs.entry(vendor).or_default();
            if seen.replace(head.epoch).is_some_and(|before| before < head.epoch) {
                watch.suspects.insert(vendor);
            }
        }
        Ok(())
    }

    /// Renews now if a week has passed since the last time: for those who run a node only for the length of a command.
    ///
    /// # Errors
    /// [`UserError`] if the catalogue cannot be read; leases whose vendor did not answer are tried again with the next command.
    pub async fn renew_if_due(self: &Arc<Self>) -> Result<(), UserError> {
        if self.until_due().is_zero() {
            let (claims, now) = (self.claims().await?, clock::now());
            self.heads(claims.keys().map(|place| place.vendor).collect()).await?;
            let survey = self.survey(claims).await;
            if !survey.gone.is_empty() {
                tracing::warn!("vendors have lost copies of this user's files: `fathom repair` makes them again");
            }
            if survey.open.is_empty() {
                self.note_renewed(now);
            }
        }
        Ok(())
    }

    fn until_due(&self) -> Duration {
        let text = std::fs::read_to_string(&self.renewed_file).unwrap_or_default();
        let last = UnixMs(text.trim().parse().unwrap_or(0));
        EVERY.saturating_sub(Duration::from_millis(clock::now().since_ms(last)))
    }

    fn note_renewed(&self, at: UnixMs) {
        if let Err(error) = std::fs::write(&self.renewed_file, at.0.to_string()) {
            tracing::warn!(%error, "the time of the renewal was not noted; it will be repeated");
        }
    }
}
