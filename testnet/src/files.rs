//! The files of a network: `testnet.json`, and of each node `ready.json` and `log`.
//!
//! `testnet.json` is one JSON object: `version` (1; another one is refused), `binary`, `invite` (or null), `exit_with_parent`, and
//! `nodes`, each with the fields of [`NodeHandle`] and `process` (or null), which is `pid` and `start_ticks`.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{NodeHandle, ProcessId, TestnetError};

/// Version of `testnet.json`.
const STATE_VERSION: u32 = 1;
/// Bytes at the end of a log that are looked at for an error message.
const TAIL_BYTES: u64 = 16 << 10;
/// Lines of them that are shown.
const TAIL_LINES: usize = 20;
/// UDP ports that nodes are given. They lie below the range from which the kernel takes ports for
/// outgoing traffic, so that a node that is down finds its port still free when it comes back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How many ports are tried before a machine counts as full.
const PORTS_TRIED: usize = 256;

/// The content of `testnet.json`: what another process needs to find the network again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) version: u32,
    pub(crate) binary: PathBuf,
    /// The founding node's invite; `None` until it is known.
    pub(crate) invite: Option<String>,
    pub(crate) exit_with_parent: bool,
    pub(crate) nodes: Vec<NodeState>,
}

/// One node in `testnet.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NodeState {
    #[serde(flatten)]
    pub(crate) node: NodeHandle,
    pub(crate) process: Option<ProcessId>,
}

impl State {
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("testnet.json")
    }

    pub(crate) fn new(binary: PathBuf, invite: Option<String>, exit_with_parent: bool, nodes: Vec<NodeState>) -> Self {
        Self { version: STATE_VERSION, binary, invite, exit_with_parent, nodes }
    }

    /// Reads the state of the network in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self, TestnetError> {
        let path = Self::path(dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TestnetError::NoTestnet { dir: dir.to_owned() });
            }
            Err(source) => {
                return Err(TestnetError::File { what: "read", path, source });
            }
        };
        let state: Self = serde_json::from_slice(&text).map_err(|error| TestnetError::File {
            what: "understand",
            path: path.clone(),
            source: error.into(),
        })?;
        if state.version != STATE_VERSION {
            let source = io::Error::other(format!("it has version {}", state.version));
            return Err(TestnetError::File { what: "understand", path, source });
        }
        Ok(state)
    }

    /// Replaces the state in `dir` at once: a reader sees the old or the new one.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), TestnetError> {
        let path = Self::path(dir);
        let failed = |source| TestnetError::File { what: "write", path: path.clone(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let temporary = dir.join("testnet.json.new");
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary);
        file.and_then(|mut file| file.write_all(&text)).map_err(failed)?;
        fs::rename(&temporary, &path).map_err(failed)
    }
}

/// What a node says in its `ready.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) pid: u32,
    pub(crate) node: String,
    pub(crate) peer_id: String,
    pub(crate) addresses: Vec<String>,
}

impl Ready {
    /// The node's `ready.json`, `None` while there is none. The node writes it atomically, so a
    /// file that cannot be understood is an error and not an early look.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, TestnetError> {
        let path = dir.join("ready.json");
        let failed = |source| TestnetError::File { what: "understand", path: path.clone(), source };
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| failed(e.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Creates `dir` and what is missing above it, closed to other users.
pub(crate) fn create_dir(dir: &Path) -> Result<(), TestnetError> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|source| TestnetError::File { what: "create", path: dir.to_owned(), source })
}

/// Removes `dir` and everything in it; one that is not there is fine.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), TestnetError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TestnetError::File { what: "remove", path: dir.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.is_empty() => "(the log is empty)".to_owned(),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("(the log cannot be read: {error})"),
    }
}

/// A UDP port that nobody has at this moment.
pub(crate) fn free_port() -> Result<u16, TestnetError> {
    for _ in 0..PORTS_TRIED {
        let random = getrandom::u32().unwrap_or_else(|_| std::process::id());
        let span = u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random % span).unwrap_or_default();
        if port_is_free(port) {
            return Ok(port);
        }
    }
    Err(TestnetError::Usage(format!("no free UDP port among {PORTS_TRIED} tried in {PORTS:?}")))
}

/// Whether no socket of this machine has UDP `port`. The kernel's tables are read: binding the port
/// to find out would take it, and a child forked at that moment would hold it a little longer.
pub(crate) fn port_is_free(port: u16) -> bool {
    ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .all(|table| local_ports(&table).all(|taken| taken != port))
}

/// The local ports in a table like `/proc/net/udp`: `sl local_address rem_address ...`, an address
/// being `HEX:PORT`.
fn local_ports(table: &str) -> impl Iterator<Item = u16> {
    table.lines().filter_map(|line| {
        let (_, port) = line.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket};

    #[test]
    fn the_tail_of_a_long_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert!(log_tail(&log).contains("cannot be read"));
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        fs::write(&log, text).unwrap();
        let tail = log_tail(&log);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 4999"), "{tail}");
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let port = free_port().unwrap();
        let _socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(PORTS.contains(&port));
        assert!(!port_is_free(port));
    }

    #[test]
    fn ports_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st\n  671: 0100007F:4E21 00000000:0000 07\n\
                     12: 00000000000000000000000000000000:0035 00:0000 07\n";
        assert_eq!(local_ports(table).collect::<Vec<_>>(), [0x4e21, 53]);
    }

    /// Golden text of version 1; it is never edited.
    #[test]
    fn the_state_keeps_its_text_and_is_read_as_ever() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeHandle {
            name: "vendor-1".to_owned(),
            roles: vec!["vendor".to_owned()],
            zone: Some("zone-1".to_owned()),
            dir: "/n/vendor-1".into(),
            node: "0a".to_owned(),
            peer_id: "12D3".to_owned(),
            addresses: vec!["/ip4/127.0.0.1/udp/1/quic-v1".to_owned()],
            devices: vec!["/n/vendor-1/devices/disk-1".into()],
        };
        let process = Some(ProcessId { pid: 7, start_ticks: 8 });
        let nodes = vec![NodeState { node: node.clone(), process }];
        let golden = include_str!("../golden/testnet-v1.json");
        State::new("/bin/fathom".into(), Some("fathom:abc".to_owned()), true, nodes).save(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(State::path(dir.path())).unwrap(), golden);

        fs::write(State::path(dir.path()), golden).unwrap();
        let state = State::load(dir.path()).unwrap();
        assert_eq!((state.invite.as_deref(), state.exit_with_parent), (Some("fathom:abc"), true));
        assert_eq!(format!("{:?} {:?}", state.nodes[0].node, state.nodes[0].process), format!("{node:?} {process:?}"));
    }

    #[test]
    fn no_state_a_foreign_version_and_nonsense_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(State::load(dir.path()), Err(TestnetError::NoTestnet { .. })));
        fs::write(State::path(dir.path()), "{").unwrap();
        assert!(matches!(State::load(dir.path()), Err(TestnetError::File { .. })));
        let mut state = State::new("/bin/true".into(), None, false, Vec::new());
        state.save(dir.path()).unwrap();
        assert!(State::load(dir.path()).unwrap().nodes.is_empty());
        state.version += 1;
        state.save(dir.path()).unwrap();
        assert!(State::load(dir.path()).unwrap_err().to_string().contains("version 2"));
    }

    #[test]
    fn a_ready_file_that_is_missing_is_no_error_but_a_broken_one_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Ready::read(dir.path()).unwrap().is_none());
        let path = dir.path().join("ready.json");
        fs::write(&path, r#"{"pid":7,"node":"ab","peer_id":"12D3","addresses":["/ip4"],"roles":[]}"#).unwrap();
        assert_eq!(Ready::read(dir.path()).unwrap().unwrap().pid, 7);
        fs::write(&path, "{}").unwrap();
        assert!(Ready::read(dir.path()).is_err());
    }
}
