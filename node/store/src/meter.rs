//! Measured figures of a device, and the only place of this crate that reads a clock.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Weight of the newest sample.
const ALPHA: f64 = 0.2;

/// The monotonic clock: for deadlines and speeds only.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Exponentially weighted means of durable writes.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    means: Mutex<Option<Means>>,
}

#[derive(Debug, Clone, Copy)]
struct Means {
    bytes_per_s: f64,
    latency_ms: f64,
}

impl Meter {
    /// One durable write of `bytes` bytes took `elapsed`.
    pub(crate) fn wrote(&self, bytes: usize, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64().max(1e-6);
        let sample = Means { bytes_per_s: bytes as f64 / seconds, latency_ms: seconds * 1e3 };
        let mut means = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        *means = Some(match *means {
            None => sample,
            Some(old) => Means {
                bytes_per_s: old.bytes_per_s + ALPHA * (sample.bytes_per_s - old.bytes_per_s),
                latency_ms: old.latency_ms + ALPHA * (sample.latency_ms - old.latency_ms),
            },
        });
    }

    /// Bytes per second and milliseconds; zeros before the first write.
    pub(crate) fn means(&self) -> (u64, f64) {
        match *self.means.lock().unwrap_or_else(PoisonError::into_inner) {
            None => (0, 0.0),
            Some(means) => (means.bytes_per_s as u64, means.latency_ms),
        }
    }
}
