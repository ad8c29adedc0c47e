//! Waiting for conditions.

use std::time::Duration;

use fathom_testnet::Stopwatch;

/// A deadline for what takes a second or two on an idle machine: a slow one that runs other tests
/// beside this one may take long.
pub const LONG: Duration = Duration::from_secs(90);

const POLL: Duration = Duration::from_millis(50);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`LONG`]; `what` follows "waited in vain until".
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || if condition() { Ok(()) } else { Err(String::new()) });
}

/// Waits until `attempt` gives a value, and returns it. What it says instead, the last time, is
/// shown when it never does.
///
/// # Panics
/// When it does not within [`LONG`]; `what` follows "waited in vain until".
#[track_caller]
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let watch = Stopwatch::start();
    loop {
        let late = watch.elapsed() > LONG;
        match attempt() {
            Ok(value) => return value,
            Err(last) if late => {
                panic!("waited {} s in vain until {what}; at last: {last}", LONG.as_secs())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
