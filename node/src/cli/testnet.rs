//! `fathom testnet` and `fathom demo`.

use std::path::PathBuf;

use super::args::{DemoOptions, TestnetCommand};

pub(super) fn testnet(_c: TestnetCommand, _dir: Option<PathBuf>, _json: bool) -> u8 {
    1
}
pub(super) fn demo(_c: DemoOptions, _dir: Option<PathBuf>, _json: bool) -> u8 {
    1
}
