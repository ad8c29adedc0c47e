//! What a node does for others: each role answers requests and has work of its own to run.

pub mod mirror;
