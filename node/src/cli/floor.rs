//! `fathom floor`: one hop of bare libp2p, for `fathom bench`. Hidden, since it is of no use by itself.
//!
//! It prints one JSON line with its address. Then each line of stdin, a number of bytes, sends so many bytes to the next hop and
//! is answered by one JSON line. It ends with its stdin, so that it never outlives who started it.

use std::io::BufRead;

use fathom_overlay::Floor;
use serde_json::json;
use tokio::sync::mpsc;

use super::output::{Answer, Output, line};
use super::session::runtime;
use crate::control::{CommandError, ErrorKind};

/// Sends that wait for the one before.
const SENDS_QUEUED: usize = 4;

pub(super) fn floor(next: Option<String>, output: Output) -> u8 {
    let outcome = run(next);
    output.finish(outcome.map(|()| Answer::nothing()))
}

fn run(next: Option<String>) -> Result<(), CommandError> {
    let failed = |error: &dyn std::fmt::Display| CommandError::new(ErrorKind::Other, error.to_string());
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| failed(&error))?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let floor = Floor::start(seed).await.map_err(|error| failed(&error))?;
        line(&json!({ "address": floor.address() }).to_string());
        let mut sends = sends();
        let Some(next) = next else {
            let served = floor.serve(None, tell);
            tokio::select! {
                () = served => {}
                // Nothing is sent from the end of a chain: this waits for the end of stdin.
                () = async { while sends.recv().await.is_some() {} } => {}
            }
            return Ok(());
        };
        let sender = floor.sender();
        let served = floor.serve(Some(&next), tell);
        let sending = async {
            while let Some(bytes) = sends.recv().await {
                match sender.send(&next, bytes).await {
                    Ok(time) => line(&json!({ "bytes": bytes, "seconds": time.as_secs_f64() }).to_string()),
                    Err(error) => line(&json!({ "error": error.to_string() }).to_string()),
                }
            }
        };
        tokio::select! {
            () = served => {}
            () = sending => {}
        }
        Ok(())
    });
    runtime.shutdown_background();
    outcome
}

fn tell(error: fathom_overlay::FloorError) {
    tracing::warn!(%error, "a transfer failed");
}

/// The numbers on stdin, until it ends or something else is on it.
fn sends() -> mpsc::Receiver<u64> {
    let (sender, receiver) = mpsc::channel(SENDS_QUEUED);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(Ok(bytes)) = line.map(|line| line.trim().parse()) else { return };
            if sender.blocking_send(bytes).is_err() {
                return;
            }
        }
    });
    receiver
}
