//! Fathom's node: the roles of mirror, vendor, user and bootstrap in one process.

pub mod clock;
pub mod net;
pub mod roles;
