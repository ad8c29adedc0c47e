//! Faults and bad input, between real processes: what is killed, stopped, damaged, filled up, or crafted by hand.
//!
//! Each test carries the number of its case. After every one of them no node's log holds a panic, no vendor has leased out
//! more than its capacity, and no node ever took 512 MiB ([`world::check`]).
//!
//! | case | here | also, closer to the code |
//! |---|---|---|
//! | 1, 2, 3, 4, 5 | `kills` | store: every cut of a local FAT write; mirror: the acknowledged record on disk |
//! | 8 | `devices`: never served, named, replaced by another source | store and vendor: `fault_08_*` |
//! | 12 | `devices`: a full vendor refuses by kind and leaves nothing; a full device is passed over | store: `fault_12_*`, a device that fills up in the middle of a part |
//! | 16 | `migration` | vendor: `fault_16_*`, every step of a move cut off |
//! | 22 | `leases` | vendor: `fault_22_*`; protocol: the ledger's expiry |
//! | 23 | `leases` | |
//! | 26 | `repair` | mirror: `fault_26_*`; protocol: the proof itself |
//! | 31 to 37, 48 | `headers` | vendor: `fault_31_*` to `fault_37_*` |
//! | 45 | `orders` | vendor: `fault_45_*` |
//! | 46 | `mirrors` | vendor: a lost local FAT is rebuilt from its devices |
//! | 47 | `forks` | store, vendor, mirror and user: `fault_47_*`; protocol: the dead-tag rule and the merge
//!
//! Erasure coding (`erasure`) is no case of its own: vendors are killed, stopped and damaged there under files that are stored in shards.
//!
//! Case 8's repair within one scrub is not here: nothing scrubs yet. Case 48 is here as far as one version exists:
//! a record or header of another version is refused by kind.
//!
//! `FATHOM_FAULT_SEED` sets the first seed of the rounds that draw their moments, `FATHOM_FAULT_ROUNDS` their number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "fault/crafted.rs"]
mod crafted;
#[path = "fault/devices.rs"]
mod devices;
#[path = "fault/erasure.rs"]
mod erasure;
#[path = "fault/forks.rs"]
mod forks;
#[path = "fault/headers.rs"]
mod headers;
#[path = "fault/kills.rs"]
mod kills;
#[path = "fault/leases.rs"]
mod leases;
#[path = "fault/migration.rs"]
mod migration;
#[path = "fault/mirrors.rs"]
mod mirrors;
#[path = "fault/orders.rs"]
mod orders;
#[path = "fault/repair.rs"]
mod repair;
#[path = "fault/stage.rs"]
mod stage;
#[path = "fault/uplink.rs"]
mod uplink;
#[path = "fault/world.rs"]
mod world;
