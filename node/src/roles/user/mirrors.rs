//! What the user asks of mirrors: each question goes to the best one first and to the next when that one is silent.

use std::time::Duration;

use fathom_protocol::codec::Bounded;
use fathom_protocol::fat::FinalFat;
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::FATS_PER_SUBMIT_MAX;
use fathom_protocol::sign::Signed;
use fathom_protocol::wire::{AllocateRequest, ProvisionalFat, Refusal, RefusalKind, Request, Response};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::send::is_gone;
use super::{User, UserError};

/// Copies of a final FAT at mirrors, where there are so many (invariant 8).
const FAT_COPIES: usize = 3;
/// Longest wait for one mirror's answer, its own waits for vendors included.
const ANSWER: Duration = Duration::from_secs(6);
/// Longest wait for a second mirror once the first has answered: the slower of two shall not set the pace.
const SECOND: Duration = Duration::from_millis(250);
/// How long to wait for a first mirror to become known.
const DISCOVERY: Duration = Duration::from_secs(5);
/// Bytes of final FATs sent in one submission.
const SUBMIT_BYTES: usize = 4 * 1024 * 1024;

/// Whether another mirror may answer where this one did not: it may also know of vendors that this one has not heard of yet.
fn elsewhere(kind: RefusalKind) -> bool {
    matches!(
        kind,
        RefusalKind::Silent
            | RefusalKind::Unreachable
            | RefusalKind::WrongRole
            | RefusalKind::Internal
            | RefusalKind::Busy
            | RefusalKind::NoSpace
            | RefusalKind::TooFewVendors
    )
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
        let request = Signed::sign(request, self.signing())?;
        match self.ask_mirrors(&Request::Allocate(request.into_carried())).await? {
            Response::Provisional(fat) => Ok(fat),
            other => Err(unexpected(&other)),
        }
    }

    /// Hands final FATs in at min(3, mirrors) mirrors (figure 15). Returns the fewest acknowledgements that any of them got.
    ///
    /// A mirror that does not answer is replaced by another if there is one; without one, a majority of those wanted is
    /// enough, and the silent mirror gets the record from the others when it is back.
    pub(super) async fn submit(&self, fats: Vec<Signed<FinalFat>>) -> Result<usize, UserError> {
        let mut fewest = usize::MAX;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for fat in fats {
            let size = fat.carried().body_len();
            if batch.len() == FATS_PER_SUBMIT_MAX || (bytes + size > SUBMIT_BYTES && !batch.is_empty()) {
                fewest = fewest.min(self.submit_batch(std::mem::take(&mut batch)).await?);
                bytes = 0;
            }
            bytes += size;
            batch.push(fat.into_carried());
        }
        if !batch.is_empty() {
            fewest = fewest.min(self.submit_batch(batch).await?);
        }
        Ok(if fewest == usize::MAX { 0 } else { fewest })
    }

    async fn submit_batch(&self, batch: Vec<fathom_protocol::sign::Carried<FinalFat>>) -> Result<usize, UserError> {
        let mut mirrors = self.mirrors().await?;
        let target = mirrors.len().min(FAT_COPIES);
        let needed = target / 2 + 1;
        // A mirror that was silent a moment ago would cost its silence again.
        let working = mirrors.iter().filter(|mirror| !self.net.book().behaviour(**mirror).suspected).count();
        mirrors.truncate(if working >= needed { working } else { mirrors.len() });
        let request = Request::SubmitFats(Bounded::first(batch));
        let mut rest = mirrors.into_iter();
        let ask = |mirror: NodeId| {
            let request = &request;
            async move { self.net.call(mirror, request, ANSWER).await }
        };
        let mut asked: FuturesUnordered<_> = rest.by_ref().take(target).map(ask).collect();
        let (mut acked, mut reason) = (0, String::new());
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Response::Submitted(results)) => match results.into_iter().flatten().next() {
                    None => acked += 1,
                    Some(refusal) => return Err(refusal.into()),
                },
                Ok(other) => reason = unexpected(&other).to_string(),
                Err(refusal) => {
                    reason = refusal.to_string();
                    asked.extend(rest.next().map(ask));
                }
            }
            if acked == target {
                break;
            }
        }
        if acked >= needed { Ok(acked) } else { Err(UserError::NotStored { acked, wanted: needed, reason }) }
    }
}

/// The error for an answer of the wrong kind.
pub(super) fn unexpected(response: &Response) -> UserError {
    let text = format!("{response:?}");
    let name = text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
    UserError::Refused(Refusal::new(RefusalKind::BadRequest, format!("a node answered {name} to something else")))
}
