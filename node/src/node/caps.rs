//! The caps of the node's traffic as its configuration says for the time of the week.

use std::time::Duration;

use fathom_overlay::{Overlay, RateCaps};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::NodeConfig;
use crate::control::results::{TrafficStatus, WayStatus};

/// Longest time between two looks at the clock, which may be set or sleep with the machine.
const LOOK: Duration = Duration::from_secs(20);
const MINUTE_MS: u64 = 60_000;

/// Sets what is in force now.
pub(super) fn apply(overlay: &Overlay, config: &NodeConfig) {
    let caps = config.caps_at(clock::local_minute());
    overlay.limit(RateCaps {
        upload: caps.upload,
        download: caps.download,
        local: config.cap_local,
        background_percent: config.background_percent,
    });
}

/// Follows the schedule until the node ends.
pub(super) async fn follow(overlay: Overlay, config: NodeConfig, cancel: CancellationToken) {
    if config.schedule.is_empty() {
        return;
    }
    let mut known = config.caps_at(clock::local_minute());
    loop {
        let caps = config.caps_at(clock::local_minute());
        if caps != known {
            tracing::info!(upload = ?caps.upload, download = ?caps.download, "other caps are in force, bytes per second");
            known = caps;
            apply(&overlay, &config);
        }
        let minute_ends = Duration::from_millis(MINUTE_MS - clock::now().0 % MINUTE_MS);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK.min(minute_ends)) => {}
        }
    }
}

/// What is in force, until when, and what goes.
pub(super) fn status(overlay: &Overlay, config: &NodeConfig) -> TrafficStatus {
    let minute = clock::local_minute();
    let (caps, rates) = (config.caps_at(minute), overlay.rates());
    TrafficStatus {
        upload: WayStatus { cap: caps.upload, rate: rates.upload, bytes: rates.uploaded },
        download: WayStatus { cap: caps.download, rate: rates.download, bytes: rates.downloaded },
        until: config.next_change(minute).and_then(clock::after_local_minutes).map(|until| until.0),
        local: config.cap_local,
        streams: overlay.opened(),
    }
}
