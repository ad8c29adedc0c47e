//! A Fathom node: configuration, keys, roles, control socket and command line.
//!
//! Order of reading: [`config`], [`home`], [`identity`] and [`network`] (what a node is on disk), [`control`] (how it
//! is spoken to), [`node`] (how it runs), [`net`] (how it reaches others), [`cli`] and [`progress`] (what a person
//! sees).

pub mod bao;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
#[cfg(test)]
mod golden;
pub mod home;
pub mod identity;
pub mod net;
pub mod network;
pub mod node;
pub mod offline;
pub mod progress;
pub mod roles;
