//! Storage that fails on demand, for the tests of this and other crates.

mod backend;
mod faulty;
mod hook;

pub use backend::{BackendFault, FailingStorage, WriteRecord, crash_images};
pub use faulty::{Fault, FaultyDevice, Operation};
pub use hook::{FailOnce, IoHook, IoStep};
