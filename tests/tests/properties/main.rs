//! Properties of the wire types, of keys and seals, and of the cores against models.
//!
//! A failing case writes its seed to `tests/properties.seeds`, which is read first in the next run: commit it with the fix.
//! `PROPTEST_CASES` sets how many cases each property tries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agree;
mod allocate;
mod claims;
mod codec;
mod compact;
mod draw;
mod erasure;
mod fork;
mod header;
mod ledger;
mod ledger_cases;
mod manifest;
mod messages;
mod race;
mod reconcile;
mod reporter;
mod room;
mod root;
mod route;
mod seal;
mod signed;
mod table;

use proptest::test_runner::{Config, FileFailurePersistence};

/// `cases` unless the environment says otherwise, with failures kept in one file.
fn config(cases: u32) -> Config {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { cases };
    let seeds = FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/properties.seeds"));
    Config { cases, failure_persistence: Some(Box::new(seeds)), ..Config::default() }
}
