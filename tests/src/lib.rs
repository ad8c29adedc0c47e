//! End-to-end tests, golden bytes and properties of Fathom, and what they share.
//! Helpers panic with a message where a test would: this crate is never part of a node.
//!
//! - [`binary`] is the program under test, [`Scratch`] a directory that goes with a passed test and
//!   stays with a failed one.
//! - [`Network`] is a network of real processes of a test's own, [`shared`] one that all quiet tests
//!   of a test binary share. [`User`] speaks to one user's node in either, [`Job`] is a command that
//!   is watched, and interrupted, while it runs.
//! - Tests wait for conditions ([`wait_until`], [`wait_for`]), never for time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod binary;
mod files;
mod job;
mod network;
pub mod routes;
pub mod samples;
mod scratch;
pub mod sim;
pub mod sync_bytes;
mod user;
mod wait;

pub use binary::binary;
pub use files::{Tree, assert_same_bytes, part_count, part_files, random_bytes, random_file, temporary_files, tree};
pub use job::Job;
pub use network::{Network, Shared, set, shared, small};
pub use scratch::Scratch;
pub use user::{User, list, number, text};
pub use wait::{LONG, wait_for, wait_until};
