//! End-to-end tests, golden bytes and properties of Fathom, and what they share.
//! Helpers panic with a message where a test would: this crate is never part of a node.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod samples;
