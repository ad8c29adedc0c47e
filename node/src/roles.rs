//! What a node can be: each role is a module that uses the network through [`crate::net`] and knows nothing of the
//! others.

mod claim;
pub mod mirror;
pub mod user;
pub mod vendor;
