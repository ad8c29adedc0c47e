//! The mirror over real overlays on the loopback interface, with records signed here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod allocation;
mod answers;
mod convergence;
mod disk;
mod durability;
mod golden;
mod guard;
mod support;
mod witness;
