//! Waiting with a deadline. The only file of this crate that reads a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::TestnetError;

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(50);

/// A flag by which the caller asks a running [`crate::Net`] or demonstration to stop: every wait
/// ends with [`TestnetError::Cancelled`] soon after it is set. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks everything that holds a clone of this flag to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether [`Cancel::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// # Errors
    /// [`TestnetError::Cancelled`] once the flag is set.
    pub fn check(&self) -> Result<(), TestnetError> {
        if self.is_cancelled() { Err(TestnetError::Cancelled) } else { Ok(()) }
    }
}

/// Measures elapsed time.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// What is left of `limit`, or `None` once it has passed.
    pub(crate) fn remaining(&self, limit: Duration) -> Option<Duration> {
        limit.checked_sub(self.elapsed()).filter(|left| !left.is_zero())
    }
}

/// Seconds since the Unix epoch; 0 if the machine's clock is before it.
#[allow(clippy::disallowed_methods)]
pub(crate) fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Waits until `condition` holds, looking at it about twenty times a second.
///
/// # Errors
/// [`TestnetError::Deadline`] naming `what` (worded to follow "waited until") when `deadline` has
/// passed. The condition is looked at once more at the deadline, and at least once.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), TestnetError> {
    wait_for(deadline, what, &Cancel::default(), || Ok(condition().then_some(())))
}

/// Waits until `attempt` gives a value; an error of `attempt` ends the wait.
pub(crate) fn wait_for<T>(
    deadline: Duration,
    what: &str,
    cancel: &Cancel,
    mut attempt: impl FnMut() -> Result<Option<T>, TestnetError>,
) -> Result<T, TestnetError> {
    let watch = Stopwatch::start();
    loop {
        cancel.check()?;
        let left = watch.remaining(deadline);
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        match left {
            Some(left) => std::thread::sleep(POLL.min(left)),
            None => {
                return Err(TestnetError::Deadline { what: what.to_owned(), seconds: deadline.as_secs() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_wait_ends_at_its_deadline_and_names_what_was_waited_for() {
        let error = wait_until(Duration::from_millis(1), "pigs fly", || false).unwrap_err();
        assert!(error.to_string().contains("pigs fly"), "{error}");
    }

    #[test]
    fn a_condition_that_holds_is_seen_even_without_any_time() {
        wait_until(Duration::ZERO, "now", || true).unwrap();
    }

    #[test]
    fn a_cancelled_wait_ends_at_once() {
        let cancel = Cancel::default();
        cancel.clone().cancel();
        let result: Result<(), _> = wait_for(Duration::from_secs(60), "never", &cancel, || Ok(None));
        assert!(matches!(result, Err(TestnetError::Cancelled)));
    }
}
