//! A put whose own connection goes away waits until it is back, and goes on.
//!
//! What tells an outage here from failures elsewhere: nobody answers, neither a vendor of this put nor any mirror. As long as
//! somebody does, vendors that are silent are replaced, and what cannot be replaced is an error.
//!
//! What an hour of silence does: offers that no chunk filled lapse and are asked for anew; storage that holds chunks stays locked
//! for `lock_seconds`, and copies older than half of that are sent again (`renew_old`); connections are dialled anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fathom_protocol::fat::FinalFat;
use fathom_protocol::ids::NodeId;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{RefusalKind, Request};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::super::mirrors::HandedIn;
use super::super::send::is_gone;
use super::super::store::{Putting, lock};
use super::super::{User, UserError};

/// Longest wait for a sign of anybody.
const PROBE: Duration = Duration::from_secs(2);
/// Pause between two looks whether anybody is back, at first and later.
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Once somebody is back, the others have so long.
const SETTLES: Duration = Duration::from_secs(1);
/// How long a put waits. Whoever repeats it later goes on all the same.
const OUTAGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Attempts in a row that bring nothing although vendors that failed answer again: an outage was over before it was looked for.
const FRUITLESS_MAX: usize = 2;
/// Nodes that are asked for a sign of life at a time.
const ASKED_MAX: usize = 32;

/// Whether an outage may be the reason.
fn may_be_outage(error: &UserError) -> bool {
    match error {
        UserError::NoMirror(known) => *known > 0,
        UserError::Refused(refusal) => is_gone(refusal.kind),
        UserError::NoPlace { .. } | UserError::NotStored { .. } => true,
        _ => false,
    }
}

impl User {
    /// Stores all chunks at vendors that are there in the end.
    pub(super) async fn store_lastingly(self: &Arc<Self>, put: &Arc<Putting>) -> Result<(), UserError> {
        let mut fruitless = 0;
        loop {
            let (sent, replaced) = (put.sent.load(Ordering::Relaxed), lock(&put.replaced).len());
            let error = match self.store_once(put).await {
                Err(error) if may_be_outage(&error) => error,
                other => return other,
            };
            fruitless = if put.sent.load(Ordering::Relaxed) > sent { 0 } else { fruitless + 1 };
            let failed = lock(&put.placement).failed().clone();
            let answering = self.answering(self.concerned(put)).await;
            if answering.is_empty() {
                self.wait_for_anybody(put, &error).await?;
                fruitless = 0;
            } else {
                // Those that were given up meanwhile are there: it was the connection, for a moment.
                let back =
                    matches!(error, UserError::NoMirror(_)) || failed.iter().any(|vendor| answering.contains(vendor));
                if !back || fruitless >= FRUITLESS_MAX {
                    return Err(error);
                }
            }
            // Nothing of that was theirs.
            lock(&put.replaced).truncate(replaced);
            // What was on its way was given up with its room: that is counted anew, from what the journal knows.
            let record = lock(&put.record).clone();
            *lock(&put.placement) = self.known_placement(&record, &put.files);
        }
    }

    async fn store_once(self: &Arc<Self>, put: &Arc<Putting>) -> Result<(), UserError> {
        self.store_all(put).await?;
        self.renew_old(put).await?;
        self.replace_dead(put).await
    }

    /// Hands final FATs in, the same ones however often it takes: a mirror may have them and its answer be lost.
    pub(super) async fn submit_lastingly(
        self: &Arc<Self>,
        put: &Putting,
        fats: Vec<Signed<FinalFat>>,
    ) -> Result<HandedIn, UserError> {
        loop {
            let error = match self.submit(fats.clone()).await {
                Err(error) if may_be_outage(&error) => error,
                other => return other,
            };
            if !self.answering(self.concerned(put)).await.is_empty() {
                return Err(error);
            }
            self.wait_for_anybody(put, &error).await?;
            if self.drop_old(put) {
                // The next attempt sends its copies again, and builds another final FAT.
                return Err(error);
            }
        }
    }

    /// The nodes of which some would answer if this one's connection worked.
    fn concerned(&self, put: &Putting) -> BTreeSet<NodeId> {
        let vendors: Vec<NodeId> = lock(&put.placement).slots().iter().map(|slot| slot.place.vendor).collect();
        let others = self.net.book().mirrors().into_iter().chain(vendors);
        others.filter(|node| *node != self.net.me()).collect()
    }

    /// Those of `nodes` that give a sign of life now.
    async fn answering(&self, nodes: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let asked = futures::stream::iter(nodes).map(|node| async move {
            match self.net.call(node, &Request::Ping, PROBE).await {
                // A refusal is an answer.
                Err(refusal) if matches!(refusal.kind, RefusalKind::Silent | RefusalKind::Unreachable) => None,
                _ => Some(node),
            }
        });
        asked.buffer_unordered(ASKED_MAX).filter_map(std::future::ready).collect().await
    }

    /// Waits until anybody answers, and says so.
    async fn wait_for_anybody(&self, put: &Putting, error: &UserError) -> Result<(), UserError> {
        let began = Instant::now();
        put.events
            .note(format!("nobody answers any more ({error}); waiting for the connection, then this goes on"))
            .await;
        let (mut pause, mut told) = (LOOK_MIN, Duration::from_secs(60));
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
            if self.anybody(self.concerned(put)).await {
                break;
            }
            let waited = began.elapsed();
            if waited > OUTAGE_MAX {
                return Err(UserError::NoMirror(self.net.book().mirrors().len()));
            }
            if waited > told {
                put.events
                    .note(format!("still waiting for the connection, for {} min now", waited.as_secs() / 60))
                    .await;
                told = waited * 2;
            }
        }
        tokio::time::sleep(SETTLES).await;
        put.events.note(format!("the connection is back after {} s; going on", began.elapsed().as_secs())).await;
        Ok(())
    }

    /// Whether any of `nodes` gives a sign of life.
    async fn anybody(&self, nodes: BTreeSet<NodeId>) -> bool {
        let mut asked: FuturesUnordered<_> =
            nodes.into_iter().take(ASKED_MAX).map(|node| self.net.call(node, &Request::Ping, PROBE)).collect();
        while let Some(answer) = asked.next().await {
            if answer.is_ok() {
                return true;
            }
        }
        false
    }
}
