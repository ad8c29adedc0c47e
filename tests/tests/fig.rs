//! The mission, figure by figure: one test for each row of the figures' table of the design, between
//! real processes over QUIC, and the command line around them. A row's test is named after it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "fig/bandwidth.rs"]
mod bandwidth;
#[path = "fig/chunks.rs"]
mod chunks;
#[path = "fig/command_line.rs"]
mod command_line;
#[path = "fig/fat.rs"]
mod fat;
#[path = "fig/fetch.rs"]
mod fetch;
#[path = "fig/files.rs"]
mod files;
#[path = "fig/finish.rs"]
mod finish;
#[path = "fig/migrate.rs"]
mod migrate;
#[path = "fig/nodes.rs"]
mod nodes;
#[path = "fig/replace.rs"]
mod replace;
#[path = "fig/reports.rs"]
mod reports;
#[path = "fig/routes.rs"]
mod routes;
#[path = "fig/storage.rs"]
mod storage;
#[path = "fig/testnets.rs"]
mod testnets;

use fathom_testnet::Net;
use serde_json::Value;

/// The names of all mirrors of a small network of three.
const MIRRORS: [&str; 3] = ["mirror-1", "mirror-2", "mirror-3"];
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The events of this kind.
fn events<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|event| event["event"] == kind).collect()
}

/// The node id of the node called `name`.
#[track_caller]
fn id(net: &Net, name: &str) -> String {
    net.node(name).unwrap().node.clone()
}

/// The entry of the vendor with this node id in a FAT or a path.
fn vendor<'a>(answer: &'a Value, id: &str) -> Option<&'a Value> {
    fathom_tests::list(answer, "/vendors").iter().find(|vendor| vendor["vendor"] == id)
}
