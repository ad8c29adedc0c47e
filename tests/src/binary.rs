//! Finding the program under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `fathom` program: `FATHOM_BIN`, else the one beside the test in the target directory, as
/// `cargo test --workspace` builds it, else it is built once.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(find).clone()
}

fn find() -> PathBuf {
    if let Some(path) = std::env::var_os("FATHOM_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "FATHOM_BIN is {}, which is no file", path.display());
        return path;
    }
    // target/PROFILE/deps/fig-0123456789abcdef
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(Path::parent).expect("the target directory of this test");
    let path = profile.join("fathom");
    if !path.is_file() {
        build(profile);
    }
    assert!(path.is_file(), "there is no {} after building it", path.display());
    path
}

fn build(profile: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--locked", "--package", "fathom", "--bin", "fathom"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", profile.parent().expect("a target directory"));
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo starts");
    assert!(status.success(), "building fathom failed: {status}");
}
