//! Golden bytes of what a node keeps on disk, for its tests.
//!
//! A file in `golden` is hexadecimal text, 64 digits a line. An existing file is never rewritten: another layout is another
//! version of its format. A new one is written with `FATHOM_WRITE_GOLDEN=1 cargo test -p fathom --lib`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

fn from_hex(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path);
    let digits: String =
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).split_whitespace().collect();
    HEXLOWER.decode(digits.as_bytes()).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Compares `bytes` with those on file under `name`, and returns the latter, to be read back.
#[track_caller]
pub(crate) fn same(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = folder().join(format!("{name}.hex"));
    let write = std::env::var_os("FATHOM_WRITE_GOLDEN").is_some_and(|value| value == "1");
    if write && !path.exists() {
        let lines: String = bytes.chunks(32).map(|line| HEXLOWER.encode(line) + "\n").collect();
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(&path, lines).unwrap();
    }
    let golden = from_hex(&path);
    assert_eq!(HEXLOWER.encode(bytes), HEXLOWER.encode(&golden), "{name} is written in another way than ever");
    golden
}

/// The bytes on file under `name`.
pub(crate) fn on_file(name: &str) -> Vec<u8> {
    from_hex(&folder().join(format!("{name}.hex")))
}

/// The golden bytes of a message of the protocol.
pub(crate) fn message(name: &str) -> Vec<u8> {
    from_hex(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(format!("{name}.hex")))
}

/// Path of the database on file under `name`; `write` makes it if it is not there and a new one is asked for.
pub(crate) fn file(name: &str, write: impl FnOnce(&Path)) -> PathBuf {
    let path = folder().join(name);
    if !path.exists() && std::env::var_os("FATHOM_WRITE_GOLDEN").is_some_and(|value| value == "1") {
        write(&path);
    }
    path
}
