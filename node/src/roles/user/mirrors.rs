//! What the user asks of mirrors: each question goes to the best one first and to the next when that one is silent.

use std::sync::Arc;
use std::time::Duration;

use fathom_protocol::allocation::elsewhere;
use fathom_protocol::codec::Bounded;
use fathom_protocol::fat::FinalFat;
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::FATS_PER_SUBMIT_MAX;
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::wire::{AllocateRequest, ProvisionalFat, Refusal, RefusalKind, Request, Response};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::super::claim::Claim;
use super::send::is_gone;
use super::{User, UserError};

/// Copies of a final FAT at mirrors, where there are so many (invariant 8).
const FAT_COPIES: usize = 3;
/// Longest wait for one mirror's answer, its own waits for vendors included.
pub(super) const ANSWER: Duration = Duration::from_secs(6);
/// Longest wait for a second mirror once the first has answered: the slower of two shall not set the pace.
const SECOND: Duration = Duration::from_millis(250);
/// How long to wait for a first mirror to become known.
const DISCOVERY: Duration = Duration::from_secs(5);
/// How long, and how often, a mirror is asked again that has not heard of the leases yet.
const HEADS_WAIT: Duration = Duration::from_secs(8);
const HEADS_EVERY: Duration = Duration::from_millis(200);
/// Longest final FAT that is handed in together with those of other commands, bytes.
const SMALL_BYTES: usize = 16 * 1024;
/// Bytes of final FATs sent in one submission.
const SUBMIT_BYTES: usize = 4 * 1024 * 1024;

/// What became of final FATs that were handed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HandedIn {
    /// Mirrors that stored them: the fewest over all batches.
    pub(super) mirrors: usize,
    /// How many of them another device of this user wrote at the same time.
    pub(super) forked: usize,
}

impl HandedIn {
    fn with(self, other: Self) -> Self {
        Self { mirrors: self.mirrors.min(other.mirrors), forked: self.forked + other.forked }
    }
}

impl User {
    /// Known mirrors, the best first; waits a little for discovery when none is known yet.
    pub(super) async fn mirrors(&self) -> Result<Vec<NodeId>, UserError> {
        let search = async {
            loop {
                let mirrors = self.net.book().mirrors();
                if !mirrors.is_empty() {
                    return mirrors;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DISCOVERY, search).await.map_err(|_| UserError::NoMirror(0))
    }

    /// Asks mirrors in turn until one answers or refuses for good.
    pub(super) async fn ask_mirrors(&self, request: &Request) -> Result<Response, UserError> {
        let mirrors = self.mirrors().await?;
        let mut last = None;
        for mirror in &mirrors {
            match self.net.call(*mirror, request, ANSWER).await {
                // A mirror that says why tells more than one that says nothing.
                Err(refusal) if elsewhere(refusal.kind) => {
                    last = last.filter(|_| is_gone(refusal.kind)).or(Some(refusal));
                }
                other => return other.map_err(UserError::from),
            }
        }
        match last {
            Some(refusal) if !is_gone(refusal.kind) => Err(refusal.into()),
            _ => Err(UserError::NoMirror(mirrors.len())),
        }
    }

    /// Asks mirrors as [`Self::ask_mirrors`] does, and a second one besides, which is waited for a little only.
    pub(super) async fn ask_two(&self, request: &Request) -> Result<Vec<Response>, UserError> {
        let second = async {
            let mirrors = self.mirrors().await.ok()?;
            self.net.call(*mirrors.get(1)?, request, ANSWER).await.ok()
        };
        let first = self.ask_mirrors(request);
        tokio::pin!(first, second);
        tokio::select! {
            first = &mut first => {
                let second = tokio::time::timeout(SECOND, second).await.ok().flatten();
                Ok(std::iter::once(first?).chain(second).collect())
            }
            second = &mut second => Ok(second.into_iter().chain([first.await?]).collect()),
        }
    }

    /// Asks for locked storage (figures 5 and 6).
    pub(super) async fn allocate(&self, request: AllocateRequest) -> Result<ProvisionalFat, UserError> {
        let mirrors = self.mirrors().await?;
        let claim = Claim { net: &self.net, key: self.signing(), wait: ANSWER, elsewhere };
        claim.ask(request, &mirrors).await.map_err(|refusals| {
            let last = refusals.last().filter(|refusal| !elsewhere(refusal.kind));
            // A mirror that says why tells more than one that says nothing.
            let said = last.or_else(|| refusals.iter().rev().find(|refusal| !is_gone(refusal.kind)));
            said.map_or(UserError::NoMirror(mirrors.len()), |refusal| refusal.clone().into())
        })
    }

    /// Hands final FATs in at min(3, mirrors) mirrors (figure 15).
    ///
    /// A mirror that does not answer is replaced by another if there is one; without one, a majority of those wanted is
    /// enough, and the silent mirror gets the record from the others when it is back.
    pub(super) async fn submit(self: &Arc<Self>, fats: Vec<Signed<FinalFat>>) -> Result<HandedIn, UserError> {
        let mut all: Option<HandedIn> = None;
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut fats = fats.into_iter().peekable();
        while let Some(fat) = fats.next() {
            bytes += fat.carried().body_len();
            batch.push(fat.into_carried());
            let fits = |next: &Signed<FinalFat>| {
                batch.len() < FATS_PER_SUBMIT_MAX && bytes + next.carried().body_len() <= SUBMIT_BYTES
            };
            if !fats.peek().is_some_and(fits) {
                let done = self.submit_batch(std::mem::take(&mut batch)).await?;
                all = Some(all.map_or(done, |all| all.with(done)));
                bytes = 0;
            }
        }
        Ok(all.unwrap_or_default())
    }

    async fn submit_batch(self: &Arc<Self>, batch: Vec<Carried<FinalFat>>) -> Result<HandedIn, UserError> {
        let mut mirrors = self.mirrors().await?;
        let target = mirrors.len().min(FAT_COPIES);
        let needed = target / 2 + 1;
        // A mirror that was silent a moment ago would cost its silence again.
        let working = mirrors.iter().filter(|mirror| !self.net.book().behaviour(**mirror).suspected).count();
        mirrors.truncate(if working >= needed { working } else { mirrors.len() });
        let mut rest = mirrors.into_iter();
        let ask = |mirror: NodeId| self.submit_at(mirror, &batch);
        let mut asked: FuturesUnordered<_> = rest.by_ref().take(target).map(ask).collect();
        let (mut done, mut reason) = (HandedIn::default(), String::new());
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Response::Submitted(results)) => {
                    let (forked, refused): (Vec<_>, Vec<_>) =
                        results.into_iter().flatten().partition(|refusal| refusal.kind == RefusalKind::Forked);
                    if let Some(refusal) = refused.into_iter().next() {
                        return Err(refusal.into());
                    }
                    done = HandedIn { mirrors: done.mirrors + 1, forked: done.forked.max(forked.len()) };
                }
                Ok(other) => reason = unexpected(&other).to_string(),
                Err(refusal) => {
                    reason = refusal.to_string();
                    asked.extend(rest.next().map(ask));
                }
            }
            if done.mirrors == target {
                break;
            }
        }
        let acked = done.mirrors;
        if acked >= needed { Ok(done) } else { Err(UserError::NotStored { acked, wanted: needed, reason }) }
    }

    /// Hands final FATs in at one mirror. One that has not heard of the leases yet, or not of how far they grew, is asked again
    /// for a while: their vendors' heads are on the way.
    async fn submit_at(self: &Arc<Self>, mirror: NodeId, batch: &[Carried<FinalFat>]) -> Result<Response, Refusal> {
        let until = tokio::time::Instant::now() + HEADS_WAIT;
        loop {
            let answer = match batch {
                [fat] if fat.body_len() <= SMALL_BYTES => self.submit_with_others(mirror, fat.clone()).await,
                _ => {
                    let request = Request::SubmitFats(Bounded::first(batch.iter().cloned()));
                    self.net.call(mirror, &request, ANSWER).await
                }
            };
            let early = |refusal: &Refusal| matches!(refusal.kind, RefusalKind::Busy | RefusalKind::OverLease);
            let waits = match &answer {
                Ok(Response::Submitted(results)) => results.iter().flatten().any(early),
                _ => false,
            };
            if !waits || tokio::time::Instant::now() >= until {
                return answer;
            }
            tokio::time::sleep(HEADS_EVERY).await;
        }
    }

    /// Hands one final FAT in, together with those that other commands hand in at the same time.
    async fn submit_with_others(self: &Arc<Self>, mirror: NodeId, fat: Carried<FinalFat>) -> Result<Response, Refusal> {
        let user = Arc::clone(self);
        let answer = self.submissions.ask(mirror, fat, move |fats| {
            let user = Arc::clone(&user);
            async move { user.submit_all(mirror, fats).await }
        });
        answer.await.unwrap_or_else(|| Err(Refusal::new(RefusalKind::Internal, "the submission ended early")))
    }

    /// Hands final FATs in at one mirror. The answer to each, as if it had come alone.
    async fn submit_all(&self, mirror: NodeId, fats: Vec<Carried<FinalFat>>) -> Vec<Result<Response, Refusal>> {
        let count = fats.len();
        match self.net.call(mirror, &Request::SubmitFats(Bounded::first(fats)), ANSWER).await {
            Ok(Response::Submitted(results)) if results.len() == count => {
                results.into_iter().map(|result| Ok(Response::Submitted(Bounded::first([result])))).collect()
            }
            other => vec![other; count],
        }
    }
}

/// The error for an answer of the wrong kind.
pub(super) fn unexpected(response: &Response) -> UserError {
    let text = format!("{response:?}");
    let name = text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
    UserError::Refused(Refusal::new(RefusalKind::BadRequest, format!("a node answered {name} to something else")))
}
