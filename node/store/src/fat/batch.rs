//! Inserts that wait at the same time share one durable transaction: a sync costs the same for one as for many.
//!
//! Whoever finds nobody writing writes for all who wait, while the next ones gather. Each insert still has its own outcome.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{ChunkEntry, FatError, HEAD_KEY, Inserted, LocalFat};

/// Inserts in one transaction, at most.
const BATCH_MAX: usize = 64;

/// How long inserts are gathered after some were written together. A commit takes longer, and costs the same for one as for many.
const GATHER: Duration = Duration::from_millis(2);

type Outcome = Result<Inserted, FatError>;

struct Insert {
    ticket: u64,
    entry: ChunkEntry,
    lease_signed: Option<Vec<u8>>,
    head: Option<Vec<u8>>,
}

/// The inserts that wait; never more than the threads that call bring.
#[derive(Default)]
pub(crate) struct Batcher {
    state: Mutex<Gathering>,
    written: Condvar,
}

#[derive(Default)]
struct Gathering {
    waiting: Vec<Insert>,
    outcomes: HashMap<u64, Outcome>,
    writing: bool,
    /// The batch before had inserts of more than one caller in it, so that others are on their way.
    many: bool,
    next_ticket: u64,
}

impl std::fmt::Debug for Batcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

impl Batcher {
    fn lock(&self) -> MutexGuard<'_, Gathering> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn to write. However it ends, each ticket gets an outcome and the next one its turn.
struct Turn<'a> {
    batcher: &'a Batcher,
    tickets: Vec<u64>,
    outcomes: Vec<Outcome>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.batcher.lock();
        let mut outcomes = std::mem::take(&mut self.outcomes).into_iter();
        for ticket in &self.tickets {
            let outcome = outcomes.next().unwrap_or_else(|| Err(ended()));
            state.outcomes.insert(*ticket, outcome);
        }
        state.writing = false;
        drop(state);
        self.batcher.written.notify_all();
    }
}

impl LocalFat {
    pub(crate) fn insert_batched(
        &self,
        entry: &ChunkEntry,
        lease_signed: Option<&[u8]>,
        head: Option<&[u8]>,
    ) -> Outcome {
        let lease_signed = lease_signed.map(<[u8]>::to_vec);
        let insert = (entry.clone(), lease_signed, head.map(<[u8]>::to_vec));
        // There is one for each insert.
        self.insert_all([insert]).pop().unwrap_or_else(|| Err(ended()))
    }

    /// Inserts together with whatever else waits; the outcome of each, in their order.
    pub(crate) fn insert_all(
        &self,
        inserts: impl IntoIterator<Item = (ChunkEntry, Option<Vec<u8>>, Option<Vec<u8>>)>,
    ) -> Vec<Outcome> {
        let mut state = self.batcher.lock();
        let mut tickets = Vec::new();
        for (entry, lease_signed, head) in inserts {
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiting.push(Insert { ticket, entry, lease_signed, head });
            tickets.push(ticket);
        }
        let mut mine = BTreeMap::new();
        loop {
            for ticket in &tickets {
                mine.extend(state.outcomes.remove(ticket).map(|outcome| (*ticket, outcome)));
            }
            if mine.len() == tickets.len() {
                return mine.into_values().collect();
            }
            if state.writing {
                state = self.batcher.written.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.writing = true;
            if state.many {
                drop(state);
                std::thread::sleep(GATHER);
                state = self.batcher.lock();
            }
            let size = state.waiting.len().min(BATCH_MAX);
            let batch: Vec<Insert> = state.waiting.drain(..size).collect();
            state.many = batch.len() > tickets.len();
            drop(state);
            let tickets = batch.iter().map(|insert| insert.ticket).collect();
            let mut turn = Turn { batcher: &self.batcher, tickets, outcomes: Vec::new() };
            turn.outcomes = self.write_batch(&batch);
            drop(turn);
            state = self.batcher.lock();
        }
    }

    fn write_batch(&self, batch: &[Insert]) -> Vec<Outcome> {
        let written = self.write(|tx| {
            let mut outcomes = Vec::with_capacity(batch.len());
            for insert in batch {
                let outcome = tx.insert_chunk(&insert.entry);
                match &outcome {
                    Ok(Inserted::New) => {
                        if let Some(signed) = &insert.lease_signed {
                            tx.sign_lease(insert.entry.lease, signed)?;
                        }
                        if let Some(head) = &insert.head {
                            tx.put_kv(HEAD_KEY, head)?;
                        }
                    }
                    // These are found before anything is written, so the others are not affected.
                    Ok(Inserted::AlreadyThere(_)) | Err(FatError::OverLease { .. } | FatError::NoLease { .. }) => {}
                    Err(_) => {
                        outcome?;
                        continue;
                    }
                }
                outcomes.push(outcome);
            }
            Ok(outcomes)
        });
        match written {
            Ok(outcomes) => outcomes,
            Err(error) => batch.iter().map(|_| Err(again(&error))).collect(),
        }
    }
}

fn ended() -> FatError {
    FatError::Refused("finish the transaction: the thread that wrote it has ended".to_owned())
}

/// The same error for another insert of the same transaction.
fn again(error: &FatError) -> FatError {
    match error {
        FatError::NoSpace { path } => FatError::NoSpace { path: path.clone() },
        FatError::Failed { path, reason } => FatError::Failed { path: path.clone(), reason: reason.clone() },
        FatError::Corrupt { path, detail } => FatError::Corrupt { path: path.clone(), detail: detail.clone() },
        FatError::Database { path, detail } => FatError::Database { path: path.clone(), detail: detail.clone() },
        other => FatError::Refused(other.to_string()),
    }
}
