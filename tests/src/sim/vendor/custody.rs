//! Custody that passes on: a move is handed in at mirrors, the source erases after its hold time, the destination signs.

use fathom_protocol::codec;
use fathom_protocol::fat::{Fate, Tag};
use fathom_protocol::limits::MIRRORS_TOLD_MAX;
use fathom_protocol::moves::{CarriedMove, Move};
use fathom_protocol::rehome::{
    CONFIRM_AFTER_MS, Confirmed, Open, Proposed, Submitted, confirmed, is_held_long_enough, is_of, may_cosign,
    proposed, submitted,
};
use fathom_protocol::wire::{Refusal, RefusalKind, Request, Response};
use fathom_store::{ChunkEntry, ChunkKey, ChunkState, FatError};

use super::moves::{Asked, MIRROR_MS, Of, Submission, custody, held, key_of, read_move, silent, what_of};
use super::{Vendor, internal, refusal};
use crate::sim::node::Cx;

impl Vendor {
    pub(super) fn submit(&mut self, cx: &mut Cx<'_>, key: ChunkKey, moved: CarriedMove, of: Of) {
        let Some(run) = &mut self.running else { return };
        let mut mirrors = cx.known.mirrors.clone();
        cx.random.shuffle(&mut mirrors);
        mirrors.truncate(MIRRORS_TOLD_MAX);
        for mirror in &mirrors {
            let call = cx.ask_within(*mirror, &Request::SubmitMove(moved.clone()), MIRROR_MS);
            run.moving.asked.insert(call, Asked::Submit(key));
        }
        let waiting = mirrors.len();
        run.moving.submissions.insert(key, Submission { moved, waiting, answers: Vec::new(), of });
    }

    fn mirror_heard_move(&mut self, cx: &mut Cx<'_>, key: ChunkKey, answer: Result<(), Refusal>) {
        let Some(run) = &mut self.running else { return };
        let Some(submission) = run.moving.submissions.get_mut(&key) else { return };
        submission.answers.push(answer);
        submission.waiting -= 1;
        if submission.waiting > 0 {
            return;
        }
        let Some(Submission { moved, answers, of, .. }) = run.moving.submissions.remove(&key) else { return };
        let outcome = submitted(answers);
        if of == Of::Arrival {
            return self.confirmed(cx, key, &outcome);
        }
        let taken = matches!(outcome, Submitted::Taken) && self.mark_leaving(cx, key, &moved).is_ok();
        let through = match outcome {
            Submitted::Taken => taken,
            Submitted::Void(_) => self.durable(|tx, _| tx.remove_move(&key)).is_ok(),
            Submitted::Waits(_) => false,
        };
        if let Some(run) = self.running.as_mut().filter(|_| !through) {
            run.moving.open = true;
            run.moving.held_up |= of == Of::Open;
        }
        if of == Of::Round {
            self.moved_or_not(cx, taken);
        }
    }

    /// The destination's answer to a proposal.
    fn cosigned(&mut self, cx: &mut Cx<'_>, (key, body, of): (ChunkKey, Move, Of), answer: Result<Response, Refusal>) {
        match proposed(&body, answer) {
            Proposed::Signed(moved) => {
                let record = codec::encode(&moved);
                if self.durable(|tx, _| tx.put_move(&key, &record)).is_ok() {
                    return self.submit(cx, key, moved, of);
                }
            }
            Proposed::Refused(_) => drop(self.durable(|tx, _| tx.remove_move(&key))),
            Proposed::Waits(_) => {
                if let Some(run) = &mut self.running {
                    run.moving.open = true;
                }
            }
        }
        if of == Of::Round {
            self.moved_or_not(cx, false);
        }
    }

    /// Hands in moves to here of which it is not known that a mirror has them, some time after they were signed.
    pub(super) fn confirm(&mut self, cx: &mut Cx<'_>) {
        let me = self.id();
        let Some(run) = &mut self.running else { return };
        let due = run.moving.unconfirmed.iter().filter(|(_, since)| cx.at - **since >= CONFIRM_AFTER_MS);
        let due: Vec<ChunkKey> = due.map(|(key, _)| *key).collect();
        for key in due {
            let Some(run) = &mut self.running else { return };
            run.moving.unconfirmed.insert(key, cx.at);
            let entry = run.fat.chunk(key.owner, key.chunk).ok().flatten();
            let moved = run.fat.move_of(&key).ok().flatten().and_then(|bytes| read_move(&bytes));
            match moved.filter(|moved| what_of(me, entry.as_ref(), Some(moved)) == Open::Confirm) {
                Some(moved) => self.submit(cx, key, moved, Of::Arrival),
                None => drop(run.moving.unconfirmed.remove(&key)),
            }
        }
    }

    /// Whether it is not known yet if a mirror has the move that brought a chunk here.
    pub(super) fn is_unconfirmed(&mut self, at: u64, key: &ChunkKey) -> bool {
        let me = self.id();
        let Some(run) = &mut self.running else { return true };
        let entry = run.fat.chunk(key.owner, key.chunk).ok().flatten();
        let moved = run.fat.move_of(key).ok().flatten().and_then(|bytes| read_move(&bytes));
        let unconfirmed = what_of(me, entry.as_ref(), moved.as_ref()) == Open::Confirm;
        if unconfirmed {
            run.moving.unconfirmed.entry(*key).or_insert(at);
        }
        unconfirmed
    }

    /// What mirrors said of a move that brought a chunk here.
    fn confirmed(&mut self, cx: &mut Cx<'_>, key: ChunkKey, outcome: &Submitted) {
        if matches!(outcome, Submitted::Waits(_)) || !self.is_unconfirmed(cx.at, &key) {
            return;
        }
        let now = self.dating_clock(cx).at;
        let mut what = Confirmed::Waits;
        let run = self.running.as_ref().map(|run| &run.fat);
        let entry = run.and_then(|fat| fat.chunk(key.owner, key.chunk).ok().flatten());
        let versions = run.zip(entry.as_ref()).and_then(|(fat, entry)| fat.versions_of(entry.owner, entry.file).ok());
        let tag = entry.as_ref().map_or(0, |entry| entry.seq);
        let fates: Vec<Fate> = versions.into_iter().flatten().map(|known| known.lineage().fate(Tag(tag))).collect();
        let done = self.durable(|tx, _| {
            if tx.chunk(&key)?.is_none_or(|entry| !entry.state.lapses()) {
                return Ok(());
            }
            what = confirmed(outcome, &fates);
            match what {
                Confirmed::Keep => return tx.set_state(&key, ChunkState::Committed),
                Confirmed::Lapse => tx.set_stored_at(&key, now)?,
                Confirmed::Lapses => {
                    tx.set_state(&key, ChunkState::Stored)?;
                    tx.set_stored_at(&key, now)?;
                }
                Confirmed::Waits => {}
            }
            tx.remove_move(&key).map(drop)
        });
        if let (Ok(()), Some(run)) = (done, &mut self.running) {
            run.moving.unconfirmed.remove(&key);
            cx.injected.moves_void += u64::from(what == Confirmed::Lapse);
        }
    }

    /// A mirror has the move: the chunk leaves.
    fn mark_leaving(&mut self, cx: &mut Cx<'_>, key: ChunkKey, moved: &CarriedMove) -> Result<(), Refusal> {
        let (state, body, me) = (ChunkState::Leaving { moved: codec::encode(moved) }, moved.proposal()?, self.id());
        let length = self.durable(|tx, _| {
            let leaves = |entry: &ChunkEntry| entry.state == ChunkState::Committed && is_of(me, &body, entry.lease);
            let Some(entry) = tx.chunk(&key)?.filter(leaves) else { return Ok(None) };
            tx.set_state(&key, state)?;
            Ok(Some(entry.length))
        })?;
        if let (Some(length), Some(run)) = (length, &mut self.running) {
            run.moving.leaving.insert(key, (cx.at, length));
            cx.injected.moves += 1;
            cx.oracle.leaves(cx.me, key, cx.at);
        }
        Ok(())
    }

    /// Erases chunks whose hold time is over.
    pub(super) fn erase_left(&mut self, cx: &mut Cx<'_>) -> Result<(), Refusal> {
        let hold_ms = cx.known.hold_ms;
        let Some(run) = &self.running else { return Ok(()) };
        let over = |since: u64| is_held_long_enough(cx.at - since, hold_ms);
        let due = run.moving.leaving.iter().filter(|(_, (since, _))| over(*since));
        let due: Vec<ChunkKey> = due.map(|(key, _)| *key).collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut went = Vec::new();
        let erased = self.durable(|tx, _| {
            let mut erased = Vec::new();
            for key in &due {
                let entry = tx.chunk(key)?.filter(|entry| matches!(entry.state, ChunkState::Leaving { .. }));
                if let Some(entry) = entry {
                    went.push(held(&entry));
                    erased.extend(tx.erase_chunk(key)?);
                    tx.remove_move(key)?;
                }
            }
            Ok(erased)
        });
        let erased = match erased {
            Ok(erased) => erased,
            Err(refusal) => {
                // The power may have failed after that was on disk.
                went.iter().for_each(|chunk| cx.oracle.may_have_let_go(cx.me, key_of(chunk)));
                return Err(refusal);
            }
        };
        cx.injected.moves_ended += went.len() as u64;
        let me = self.id();
        went.iter().for_each(|chunk| cx.oracle.lets_go((cx.me, me), chunk, cx.at, cx.known));
        self.erased(cx, &erased)?;
        if let Some(run) = &mut self.running {
            run.moving.leaving.retain(|key, _| !due.contains(key));
        }
        Ok(())
    }

    /// Whether an answer, or its absence, is to something that was asked for a move; it is dealt with then.
    pub(super) fn move_answered(&mut self, cx: &mut Cx<'_>, call: u64, response: Option<Response>) -> bool {
        let Some(asked) = self.running.as_mut().and_then(|run| run.moving.asked.remove(&call)) else { return false };
        let response = response.unwrap_or_else(|| Response::Refused(silent()));
        match asked {
            Asked::Room => self.room_answered(cx, response),
            Asked::Chunk(chunk, at) => self.not_moved(cx, &chunk, at, silent()),
            Asked::Cosign(key, body, of) => self.cosigned(cx, (key, *body, of), Ok(response)),
            Asked::Submit(key) => {
                let answer = match response {
                    Response::Done => Ok(()),
                    Response::Refused(refusal) => Err(refusal),
                    _ => Err(refusal(RefusalKind::BadRequest, "a mirror answered a move strangely")),
                };
                self.mirror_heard_move(cx, key, answer);
            }
        }
        true
    }

    /// Signs that a moved chunk is here. It stays as it is until a mirror has the move.
    pub(super) fn cosign(&mut self, cx: &mut Cx<'_>, moved: &CarriedMove) -> Result<Response, Refusal> {
        let body = moved.proposal()?;
        let me = self.id();
        let run = self.running.as_ref().ok_or_else(|| refusal(RefusalKind::Internal, "not running"))?;
        let entry = run.fat.chunk(body.owner, body.chunk).map_err(|error| internal(&error))?;
        let authority = run.ledger.lease(body.to_lease).map(|lease| lease.authority);
        if run.out_of_step {
            return Err(refusal(RefusalKind::Busy, "this vendor asks mirrors whether its records are the newest"));
        }
        may_cosign(me, &body, entry.map(|entry| (held(&entry), custody(&entry))), authority)?;
        let dated = self.dating_clock(cx);
        let cosigned = moved.clone().cosign(&self.key);
        let key = ChunkKey { owner: body.owner, chunk: body.chunk };
        self.durable(|tx, ledger| {
            tx.set_stored_at(&key, dated.at)?;
            tx.put_move(&key, &codec::encode(&cosigned))?;
            ledger.commit(dated, body.to_lease, 0).map_err(|refusal| FatError::Refused(refusal.to_string()))?;
            Ok(())
        })?;
        cx.oracle.renewed(cx.me, body.to_lease, cx.at);
        if let Some(run) = &mut self.running {
            run.moving.unconfirmed.insert(key, cx.at);
        }
        self.touch(cx);
        Ok(Response::Cosigned(cosigned))
    }
}
