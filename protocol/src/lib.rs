//! What goes over Fathom's wire and onto its disks, and the state machines behind it.
//!
//! This crate performs no I/O: it opens no socket or file, reads no clock, spawns no task, and knows
//! nothing of tokio or libp2p. Time ([`time::UnixMs`]), randomness and bytes are arguments; decisions are return values.
//!
//! Order of reading: [`limits`] and [`tags`] (every number and label), [`ids`], [`codec`] and [`sign`] (how bytes
//! become trusted values), then the records ([`lease`], [`root`], [`head`], [`fat`], [`moves`], [`receipt`], [`header`]),
//! the keys, seals and parity ([`keys`], [`seal`], [`erasure`]), the messages ([`wire`], [`rebuild`]) and the cores ([`ledger`], [`table`], [`market`], [`allocate`],
//! [`allocation`], [`rehome`], [`reconcile`], [`sync`], [`route`]).

pub mod allocate;
pub mod allocation;
pub mod catalogue;
pub mod caught_up;
pub mod clocks;
pub mod codec;
pub mod delta;
pub mod erasure;
pub mod familiar;
pub mod fat;
pub mod fork;
pub mod head;
pub mod header;
pub mod ids;
pub mod keys;
pub mod lease;
pub mod ledger;
pub mod limits;
pub mod lineage;
pub mod market;
pub mod moves;
pub mod mutations;
pub mod rebuild;
pub mod receipt;
pub mod reconcile;
pub mod rehome;
pub mod reporter;
pub mod root;
pub mod route;
pub mod seal;
pub mod sign;
pub mod sync;
pub mod table;
pub mod tags;
pub mod time;
pub mod wire;
