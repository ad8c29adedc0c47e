//! A node's directory, and the program on it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A node's directory.
pub(crate) struct Dir {
    pub(crate) temp: tempfile::TempDir,
}

impl Dir {
    pub(crate) fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn node(&self) -> PathBuf {
        self.temp.path().join("node")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
        command.arg("--dir").arg(self.node()).args(args).stdin(Stdio::null());
        for name in ["FATHOM_DIR", "FATHOM_LOG", "FATHOM_PARENT_PID"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn fathom(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// A node that founded a network and listens where the system lets it.
    pub(crate) fn founded(role: &str) -> Self {
        let dir = Self::new();
        let listen = "/ip4/127.0.0.1/udp/0/quic-v1";
        success(&dir.fathom(&["init", "--role", role, "--new-network", "test", "--listen", listen]));
        dir
    }
}

/// The command must have succeeded.
pub(crate) fn success(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}
