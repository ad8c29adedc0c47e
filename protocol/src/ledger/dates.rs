//! What time does to leases: room and stored bytes lapse, and what was promised by a clock in doubt is promised anew.

use super::{Lapse, Ledger};
use crate::ids::LeaseId;
use crate::lease::LeaseState;
use crate::mutations::{Line, without};
use crate::time::UnixMs;
use crate::wire::Refusal;

impl Ledger {
    /// Lets time pass. `now` is the local clock, `agreed` the median of the mirrors' clocks if any was heard: stored bytes
    /// are reclaimed only when both are past expiry and grace (invariant 6), and never while their dates are in doubt.
    ///
    /// # Errors
    /// A [`Refusal`] if a lease cannot be signed.
    pub fn tick(&mut self, now: UnixMs, agreed: Option<UnixMs>) -> Result<Vec<Lapse>, Refusal> {
        let mut lapses = Vec::new();
        let due: Vec<LeaseId> = self.leases.keys().copied().collect();
        for id in due {
            let Some(entry) = self.leases.get(&id) else { continue };
            let (lease, inflight, doubtful) = (&entry.lease, entry.inflight, entry.doubtful);
            if lease.room_expires < now && lease.room() > inflight && lease.state != LeaseState::Grace {
                self.change(id, |lease| {
                    lease.bytes = lease.used + inflight;
                    // What is in flight was admitted in time: the lease stays open until it has settled.
                    if inflight == 0 {
                        lease.state = LeaseState::Committed;
                    }
                })?;
                lapses.push(if self.drop_empty(id) { Lapse::Changed(id) } else { Lapse::Dropped(id) });
                continue;
            }
            let past = |clock: UnixMs, ms: u64| lease.expires.plus_ms(ms) < clock;
            if lease.used == 0 || !past(now, 0) || lease.room() > 0 {
                continue;
            }
            let agree = !doubtful && agreed.is_some_and(|clock| past(clock, self.terms.grace_ms));
            if past(now, self.terms.grace_ms) && (agree || without(Line::AgreedClock)) {
                lapses.push(Lapse::Reclaim(id));
            } else if lease.state != LeaseState::Grace {
                self.change(id, |lease| lease.state = LeaseState::Grace)?;
                lapses.push(Lapse::Changed(id));
            }
        }
        Ok(lapses)
    }

    /// Something was promised under this lease. Returns whether its dates came into doubt by it.
    pub(super) fn promised(&mut self, id: LeaseId, sure: bool) -> bool {
        if sure { false } else { self.doubt(id) }
    }

    /// What was promised under this lease may have been dated too early: it is not reclaimed before [`Self::redate`]. Returns
    /// whether that is new.
    pub fn doubt(&mut self, id: LeaseId) -> bool {
        self.leases.get_mut(&id).is_some_and(|entry| !std::mem::replace(&mut entry.doubtful, true))
    }

    /// Doubts the dates of all leases: those of a run that ended before it knew the time, or of an older state.
    pub fn doubt_all(&mut self) {
        self.leases.values_mut().for_each(|entry| entry.doubtful = true);
    }

    /// Whether any lease's dates are in doubt. The caller keeps this on disk beside the leases, so that a restart remembers it.
    #[must_use]
    pub fn doubts(&self) -> bool {
        self.leases.values().any(|entry| entry.doubtful)
    }

    /// The leases whose dates are in doubt.
    #[must_use]
    pub fn doubtful(&self) -> Vec<LeaseId> {
        self.leases.iter().filter(|(_, entry)| entry.doubtful).map(|(id, _)| *id).collect()
    }

    /// The time is known to be `now`: what a clock that may have been behind promised under this lease is promised anew. Chunks
    /// under it that no final FAT names are as good as stored now; their dates are the caller's.
    ///
    /// # Errors
    /// A [`Refusal`] if the lease cannot be signed.
    pub fn redate(&mut self, now: UnixMs, id: LeaseId) -> Result<(), Refusal> {
        let terms = self.terms;
        self.change(id, |lease| {
            match lease.state {
                LeaseState::Offered => lease.room_expires = lease.room_expires.max(now.plus_ms(terms.offer_ms)),
                LeaseState::Locked => lease.room_expires = lease.room_expires.max(now.plus_ms(terms.lock_ms)),
                LeaseState::Grace => lease.state = LeaseState::Committed,
                LeaseState::Committed => {}
            }
            if lease.used > 0 {
                // Whether it was a chunk, a commit or a renewal that was dated too early, nobody remembers.
                lease.expires = lease.expires.max(now.plus_ms(terms.commit_ms));
            }
        })?;
        if let Some(entry) = self.leases.get_mut(&id) {
            entry.doubtful = false;
        }
        Ok(())
    }
}
