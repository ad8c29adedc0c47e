//! The mirror over real overlays on the loopback interface, with records signed here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod allocation;
mod answers;
mod convergence;
mod durability;
mod golden;
mod support;
mod witness;
