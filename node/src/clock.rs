//! The only place that reads the wall clock. Everything else gets the time as a value.

use std::time::{SystemTime, UNIX_EPOCH};

use fathom_protocol::time::UnixMs;

/// Now, in milliseconds since the Unix epoch. 0 if the machine's clock is before it.
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
